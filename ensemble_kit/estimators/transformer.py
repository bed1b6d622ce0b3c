"""A transformer encoder over the last bars."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ensemble_kit.estimators._parameters import FLAG, WHOLE, Domain, check_heads
from ensemble_kit.estimators.networks.transformer import TransformerTrunk
from ensemble_kit.estimators.sequence_classifier import SequenceClassifier

__all__ = ["TransformerClassifier"]


class TransformerClassifier(SequenceClassifier):
    """Classify each bar by attention over its window.

    Input projection, sinusoidal positions (counted back from the newest bar), blocks of
    multi-head attention, and one linear head on the newest bar's state.

    Parameters
    ----------
    seq_len : int, default=48
        Rows a window, the row itself included.
    d_model : int, default=64
        Width, a multiple of `n_heads`.
    n_heads : int, default=4
        Attention heads.
    n_layers : int, default=2
        Blocks.
    causal : bool, default=False
        Whether each bar of a window sees only itself and those before it. Training then
        learns from every bar of the window, labelled from what precedes it in there: up to
        `seq_len` labels a window instead of one, those of rows that are not fitted left out.
    **shared : dict
        The other parameters of `SequenceClassifier` and `SequenceEstimator`.

    See Also
    --------
    ensemble_kit.estimators.sequence.SequenceEstimator : Parameters, attributes and rules of
        time that all sequence models share.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention is all you need", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators import TransformerClassifier
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.where(X[:, 0] > 0, "up", "down")
    >>> model = TransformerClassifier(4, d_model=8, n_heads=2, max_epochs=3, random_state=0).fit(X, y)
    >>> model.predict_proba(X).shape, model.lookback
    ((200, 2), 3)
    """

    _domains: ClassVar[dict[str, Domain]] = {"d_model": WHOLE, "n_heads": WHOLE, "n_layers": WHOLE, "causal": FLAG}

    def __init__(
        self,
        seq_len: int = 48,
        *,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        causal: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(seq_len, **shared)
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_layers = n_layers
        self.causal = causal

    @property
    def _every_bar(self) -> bool:  # type: ignore[override]
        return self.causal

    def _build_trunk(self, n_features: int) -> torch.nn.Module:
        check_heads(self.d_model, self.n_heads)
        return TransformerTrunk(
            n_features,
            d_model=self.d_model,
            n_heads=self.n_heads,
            n_layers=self.n_layers,
            dropout=self.dropout,
            causal=self.causal,
        )
