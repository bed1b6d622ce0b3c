"""GRU and LSTM layers over the last bars."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ensemble_kit.estimators._parameters import WHOLE, Domain
from ensemble_kit.estimators.networks.lstm_gru import LSTMGRUTrunk
from ensemble_kit.estimators.sequence_classifier import SequenceClassifier

__all__ = ["LSTMGRUClassifier"]


class LSTMGRUClassifier(SequenceClassifier):
    """Classify each bar by a stack of GRU and LSTM layers over its window.

    One trunk for all horizons: GRU, LSTM, GRU, ... with dropout between, and one linear head
    on the state at the window's last row.

    Parameters
    ----------
    seq_len : int, default=48
        Rows a window, the row itself included.
    hidden_size : int, default=64
        Width of every layer.
    n_layers : int, default=3
        How many layers; GRUs and LSTMs take turns, a GRU first.
    **shared : dict
        The other parameters of `SequenceClassifier` and `SequenceEstimator`.

    See Also
    --------
    ensemble_kit.estimators.sequence.SequenceEstimator : Parameters, attributes and rules of
        time that all sequence models share.

    References
    ----------
    .. [1] S. Hochreiter and J. Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997.
    .. [2] K. Cho et al., "Learning phrase representations using RNN encoder-decoder for
       statistical machine translation", EMNLP 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators.lstm_gru import LSTMGRUClassifier
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.where(X[:, 0] > 0, "up", "down")
    >>> model = LSTMGRUClassifier(4, hidden_size=8, max_epochs=3, random_state=0).fit(X, y)
    >>> model.predict_proba(X).shape, model.lookback
    ((200, 2), 3)
    """

    _domains: ClassVar[dict[str, Domain]] = {"hidden_size": WHOLE, "n_layers": WHOLE}

    def __init__(self, seq_len: int = 48, *, hidden_size: int = 64, n_layers: int = 3, **shared: Any) -> None:
        super().__init__(seq_len, **shared)
        self.hidden_size = hidden_size
        self.n_layers = n_layers

    def _build_trunk(self, n_features: int) -> torch.nn.Module:
        return LSTMGRUTrunk(n_features, hidden_size=self.hidden_size, n_layers=self.n_layers, dropout=self.dropout)
