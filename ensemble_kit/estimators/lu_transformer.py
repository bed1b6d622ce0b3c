"""Attention and recurrence over segments of the last bars."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ensemble_kit.estimators._parameters import WHOLE, Domain, check_heads
from ensemble_kit.estimators.networks.lu_transformer import LuTransformerTrunk
from ensemble_kit.estimators.sequence_classifier import SequenceClassifier

__all__ = ["LuTransformerClassifier"]


class LuTransformerClassifier(SequenceClassifier):
    """Classify each bar by two towers over segments of its window.

    The window is cut into segments, counted back from the newest bar. One tower makes tokens of
    them by a linear embedding and lets these attend to each other, merging neighbours from block
    to block; the other makes tokens by a GRU over each segment's bars and pools them two by two.
    One linear head stands on both. Windows cost little: attention sees segments, not bars, and
    recurrence takes `segment_length` steps, not `seq_len`.

    Parameters
    ----------
    seq_len : int, default=48
        Rows a window, the row itself included. Padded in front with zeros to whole segments.
    d_model : int, default=64
        Width of each tower, a multiple of `n_heads`.
    n_heads : int, default=4
        Attention heads.
    n_layers : int, default=2
        Blocks of attention; between them neighbouring tokens are merged.
    segment_length : int, default=16
        Bars a segment.
    num_tokens : int, default=32
        Tokens at most: a window of more segments takes the mean over as many neighbours as are
        needed, and none of its bars is left out.
    **shared : dict
        The other parameters of `SequenceClassifier` and `SequenceEstimator`.

    See Also
    --------
    ensemble_kit.estimators.sequence.SequenceEstimator : Parameters, attributes and rules of
        time that all sequence models share.

    Notes
    -----
    Hidformer's second tower sees the window's frequencies. Here a recurrent one stands in its
    place.

    References
    ----------
    .. [1] Z. Liu, Y. Cao et al., "Hidformer: hierarchical dual-tower transformer using multi-scale
       mergence for long-term time series forecasting", Expert Systems with Applications, 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators.lu_transformer import LuTransformerClassifier
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.where(X[:, 0] > 0, "up", "down")
    >>> model = LuTransformerClassifier(
    ...     24, d_model=8, n_heads=2, segment_length=4, max_epochs=3, random_state=0
    ... ).fit(X, y)
    >>> model.predict_proba(X).shape, model.lookback
    ((200, 2), 23)
    """

    _domains: ClassVar[dict[str, Domain]] = dict.fromkeys(
        ("d_model", "n_heads", "n_layers", "segment_length", "num_tokens"), WHOLE
    )

    def __init__(
        self,
        seq_len: int = 48,
        *,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        segment_length: int = 16,
        num_tokens: int = 32,
        **shared: Any,
    ) -> None:
        super().__init__(seq_len, **shared)
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_layers = n_layers
        self.segment_length = segment_length
        self.num_tokens = num_tokens

    def _build_trunk(self, n_features: int) -> torch.nn.Module:
        check_heads(self.d_model, self.n_heads)
        return LuTransformerTrunk(
            n_features,
            seq_len=self.seq_len,
            d_model=self.d_model,
            n_heads=self.n_heads,
            n_layers=self.n_layers,
            segment_length=self.segment_length,
            num_tokens=self.num_tokens,
            dropout=self.dropout,
        )
