"""Convolutions over the last bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ensemble_kit.estimators._parameters import WHOLE, WHOLES, Domain
from ensemble_kit.estimators.networks.cnn import CNNTrunk
from ensemble_kit.estimators.sequence_classifier import SequenceClassifier

__all__ = ["CNNClassifier"]


class CNNClassifier(SequenceClassifier):
    """Classify each bar by the shapes in its window, wherever they stand.

    Parallel convolutions of several widths, each filter's maximum over the window, one linear
    head.

    Parameters
    ----------
    seq_len : int, default=48
        Rows a window, the row itself included.
    n_filters : int, default=32
        Filters of each width.
    kernel_sizes : sequence of int, default=(3, 5, 7)
        Widths, in bars.
    **shared : dict
        The other parameters of `SequenceClassifier` and `SequenceEstimator`.

    See Also
    --------
    ensemble_kit.estimators.sequence.SequenceEstimator : Parameters, attributes and rules of
        time that all sequence models share.

    References
    ----------
    .. [1] Y. Kim, "Convolutional neural networks for sentence classification", EMNLP 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators import CNNClassifier
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.where(X[:, 0] > 0, "up", "down")
    >>> model = CNNClassifier(4, n_filters=8, max_epochs=3, random_state=0).fit(X, y)
    >>> model.predict_proba(X).shape, model.lookback
    ((200, 2), 3)
    """

    _domains: ClassVar[dict[str, Domain]] = {"n_filters": WHOLE, "kernel_sizes": WHOLES}

    def __init__(
        self, seq_len: int = 48, *, n_filters: int = 32, kernel_sizes: Sequence[int] = (3, 5, 7), **shared: Any
    ) -> None:
        super().__init__(seq_len, **shared)
        self.n_filters = n_filters
        self.kernel_sizes = kernel_sizes

    def _build_trunk(self, n_features: int) -> torch.nn.Module:
        return CNNTrunk(n_features, n_filters=self.n_filters, kernel_sizes=self.kernel_sizes)
