"""Voting weights from out-of-fold scores."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

__all__ = ["voting_weights"]

FloatArray = NDArray[np.float64]


def voting_weights(scores: FloatArray, *, power: float = 2.0) -> FloatArray:
    """Weigh members by a power of their score, horizon by horizon.

    Parameters
    ----------
    scores : ndarray of shape (M, H)
        Out-of-fold score of each member at each horizon, at least 0.
    power : float, default=2.0
        2 gives squared-AUC-PR voting; 0 a uniform vote.

    Returns
    -------
    ndarray of shape (M, H)
        w(i, h) = s(i, h)^p / sum_j s(j, h)^p, each column summing to 1; uniform, with a
        warning, at a horizon where no member scored.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.ensemble import voting_weights
    >>> voting_weights(np.array([[0.3], [0.1]])).round(2)
    array([[0.9],
           [0.1]])
    """
    raised = np.maximum(np.asarray(scores, np.float64), 0.0) ** power
    total = raised.sum(axis=0)
    if (total == 0).any():
        warnings.warn(
            f"no member scored above 0 at horizon(s) {np.flatnonzero(total == 0).tolist()}: a uniform vote there.",
            UserWarning,
            stacklevel=2,
        )
    return np.where(total > 0, raised / np.where(total > 0, total, 1.0), 1.0 / len(raised))
