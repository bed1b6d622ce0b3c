"""The next wave's slopes from the last waves."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ensemble_kit.estimators._parameters import WHOLE, Domain, check_heads
from ensemble_kit.estimators.networks.wave import WaveTrunk
from ensemble_kit.estimators.sequence_regressor import SequenceRegressor

__all__ = ["WaveTransformerRegressor"]


class WaveTransformerRegressor(SequenceRegressor):
    """Predict the next wave's slopes from the features of the last waves.

    Blocks of multi-head attention with layer norm and five dilated convolutions (kernel 3,
    dilations 1, 2, 2, 2, 4) with skip connections; global average pooling, an MLP, a linear
    output. With 39 features and 24 waves it has about 700,000 parameters.

    Parameters
    ----------
    seq_len : int, default=24
        Waves a window, the wave itself included.
    d_model : int, default=96
        Width, a multiple of `n_heads`.
    n_heads : int, default=8
        Attention heads.
    n_layers : int, default=4
        Blocks.
    **shared : dict
        The other parameters of `SequenceRegressor` and `SequenceEstimator`.

    See Also
    --------
    ensemble_kit.waves.wave_features : The columns.
    ensemble_kit.waves.wave_targets : The slopes, and when they were known.
    ensemble_kit.estimators.sequence.SequenceEstimator : Parameters, attributes and rules of
        time that all sequence models share.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators import WaveTransformerRegressor
    >>> X = np.random.default_rng(0).normal(size=(100, 39))
    >>> model = WaveTransformerRegressor(d_model=8, n_heads=2, n_layers=1, max_epochs=1, random_state=0)
    >>> model.fit(X, X[:, :2]).predict(X).shape, model.lookback
    ((100, 2), 23)
    """

    _domains: ClassVar[dict[str, Domain]] = {"d_model": WHOLE, "n_heads": WHOLE, "n_layers": WHOLE}

    def __init__(
        self, seq_len: int = 24, *, d_model: int = 96, n_heads: int = 8, n_layers: int = 4, **shared: Any
    ) -> None:
        super().__init__(seq_len, **shared)
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_layers = n_layers

    def _build_trunk(self, n_features: int) -> torch.nn.Module:
        check_heads(self.d_model, self.n_heads)
        return WaveTrunk(
            n_features, d_model=self.d_model, n_heads=self.n_heads, n_layers=self.n_layers, dropout=self.dropout
        )
