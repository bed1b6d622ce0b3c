"""Informer's encoder over the last bars."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ensemble_kit.estimators._parameters import WHOLE, Domain, check_heads
from ensemble_kit.estimators.networks.informer import InformerTrunk
from ensemble_kit.estimators.sequence_classifier import SequenceClassifier

__all__ = ["InformerClassifier"]


class InformerClassifier(SequenceClassifier):
    """Classify each bar by Informer's encoder over its window.

    A convolution of the columns, sinusoidal positions (counted back from the newest bar), blocks
    of ProbSparse attention between which the window is halved, and one linear head on the newest
    position.

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
    factor : int, default=5
        Of L positions, ``factor * ceil(ln L)`` attend, chosen by as many sampled keys; the others
        get the mean. Where there are no more than that, all attend.
    **shared : dict
        The other parameters of `SequenceClassifier` and `SequenceEstimator`.

    See Also
    --------
    ensemble_kit.estimators.sequence.SequenceEstimator : Parameters, attributes and rules of
        time that all sequence models share.

    Notes
    -----
    Samples are drawn anew for each training batch, from the model's own generator; prediction
    uses those drawn with the first weights. Which positions attend is a choice: where two are
    alike to the last bits of float32, one window in thousands, the answer to a window alone may
    differ from that in a batch by more than rounding does (5e-5 in a log-probability, once in
    6,000 windows of noise).

    References
    ----------
    .. [1] H. Zhou et al., "Informer: beyond efficient transformer for long sequence time-series
       forecasting", AAAI 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators.informer import InformerClassifier
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.where(X[:, 0] > 0, "up", "down")
    >>> model = InformerClassifier(24, d_model=8, n_heads=2, max_epochs=3, random_state=0).fit(X, y)
    >>> model.predict_proba(X).shape, model.lookback
    ((200, 2), 23)
    """

    _domains: ClassVar[dict[str, Domain]] = {"d_model": WHOLE, "n_heads": WHOLE, "n_layers": WHOLE, "factor": WHOLE}

    def __init__(
        self,
        seq_len: int = 48,
        *,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        factor: int = 5,
        **shared: Any,
    ) -> None:
        super().__init__(seq_len, **shared)
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_layers = n_layers
        self.factor = factor

    def _build_trunk(self, n_features: int) -> torch.nn.Module:
        check_heads(self.d_model, self.n_heads)
        return InformerTrunk(
            n_features,
            seq_len=self.seq_len,
            d_model=self.d_model,
            n_heads=self.n_heads,
            n_layers=self.n_layers,
            factor=self.factor,
            dropout=self.dropout,
        )
