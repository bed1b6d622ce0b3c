"""An LSTM over the last bars, pooled by attention."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ensemble_kit.estimators._parameters import FLAG, WHOLE, WHOLE_OR_NONE, Domain, check_heads
from ensemble_kit.estimators.networks.lstm_attention import LSTMAttentionTrunk
from ensemble_kit.estimators.sequence_classifier import SequenceClassifier

__all__ = ["LSTMAttentionClassifier"]


class LSTMAttentionClassifier(SequenceClassifier):
    """Classify each bar by the states of an LSTM over its window, weighted by attention.

    Parameters
    ----------
    seq_len : int, default=48
        Rows a window, the row itself included.
    hidden_size : int, default=64
        Width of every layer, of each direction.
    n_layers : int, default=1
        How many layers.
    bidirectional : bool, default=False
        Whether a second LSTM reads the window backwards. It sees the same rows, none later.
    n_heads : int or None, default=None
        None weighs the states by additive attention. A number lets the newest bar's state
        attend to the others with so many heads; the width (twice `hidden_size` if
        bidirectional) must be a multiple of it.
    **shared : dict
        The other parameters of `SequenceClassifier` and `SequenceEstimator`.

    See Also
    --------
    ensemble_kit.estimators.sequence.SequenceEstimator : Parameters, attributes and rules of
        time that all sequence models share.

    References
    ----------
    .. [1] D. Bahdanau, K. Cho and Y. Bengio, "Neural machine translation by jointly learning
       to align and translate", ICLR 2015.
    .. [2] A. Vaswani et al., "Attention is all you need", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators import LSTMAttentionClassifier
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.where(X[:, 0] > 0, "up", "down")
    >>> model = LSTMAttentionClassifier(4, hidden_size=8, max_epochs=3, random_state=0).fit(X, y)
    >>> model.predict_proba(X).shape, model.lookback
    ((200, 2), 3)
    """

    _domains: ClassVar[dict[str, Domain]] = {
        "hidden_size": WHOLE,
        "n_layers": WHOLE,
        "bidirectional": FLAG,
        "n_heads": WHOLE_OR_NONE,
    }

    def __init__(
        self,
        seq_len: int = 48,
        *,
        hidden_size: int = 64,
        n_layers: int = 1,
        bidirectional: bool = False,
        n_heads: int | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(seq_len, **shared)
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.bidirectional = bidirectional
        self.n_heads = n_heads

    def _build_trunk(self, n_features: int) -> torch.nn.Module:
        width = self.hidden_size * (2 if self.bidirectional else 1)
        check_heads(width, self.n_heads or 1, name="hidden_size")
        return LSTMAttentionTrunk(
            n_features,
            hidden_size=self.hidden_size,
            n_layers=self.n_layers,
            bidirectional=self.bidirectional,
            n_heads=self.n_heads,
            dropout=self.dropout,
        )
