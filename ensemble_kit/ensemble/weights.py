"""Voting weights: from out-of-fold scores, or as they are given."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["member_weights", "voting_weights"]

FloatArray = NDArray[np.float64]


def voting_weights(scores: FloatArray, *, power: float = 2.0) -> FloatArray:
    """Weigh members by a power of their score, horizon by horizon.

    Parameters
    ----------
    scores : ndarray of shape (M, H)
        Out-of-fold score of each member at each horizon; below 0 counts as 0.
    power : float, default=2.0
        2 gives squared-AUC-PR voting; 0 a uniform vote.

    Returns
    -------
    ndarray of shape (M, H)
        w(i, h) = s(i, h)^p / sum_j s(j, h)^p, each column summing to 1; uniform, with a
        warning, at a horizon where no member scored.

    Raises
    ------
    EnsembleKitError
        If the power is no finite number of at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.ensemble import voting_weights
    >>> voting_weights(np.array([[0.3], [0.1]])).round(2)
    array([[0.9],
           [0.1]])
    """
    if not isinstance(power, Real) or isinstance(power, bool) or not 0 <= power < np.inf:
        raise EnsembleKitError(
            f"`power` must be a finite number of at least 0; got {power!r}. Take 2, or 0 for a uniform vote."
        )
    raised = np.maximum(np.asarray(scores, np.float64), 0.0) ** power
    total = raised.sum(axis=0)
    if (total == 0).any():
        warnings.warn(
            f"no member scored above 0 at horizon(s) {np.flatnonzero(total == 0).tolist()}: a uniform vote there.",
            UserWarning,
            stacklevel=2,
        )
    return np.where(total > 0, raised / np.where(total > 0, total, 1.0), 1.0 / len(raised))


def member_weights(weighting: Any, scores: FloatArray, names: Sequence[str], *, power: float) -> FloatArray:
    """Return the weights that a `weighting` means.

    Parameters
    ----------
    weighting : {"squared_auc_pr", "uniform"}, dict, Series or array-like
        By score, all alike, or given: by member name, shape (M,), or (M, H).
    scores : ndarray of shape (M, H)
        What members scored out of fold.
    names : sequence of str
        The members.
    power : float
        Of the score.

    Returns
    -------
    ndarray of shape (M, H)
        Each column sums to 1.

    Raises
    ------
    EnsembleKitError
        If the weighting is unknown, or given weights do not fit the members.
    """
    if isinstance(weighting, str):
        if weighting == "squared_auc_pr":
            return voting_weights(scores, power=power)
        if weighting == "uniform":
            return np.full(scores.shape, 1.0 / len(scores))
    elif isinstance(weighting, Mapping | pd.Series):
        if set(weighting.keys()) == set(names):
            return _given([weighting[name] for name in names], scores, weighting)
    elif isinstance(weighting, list | tuple) or np.ndim(weighting) in (1, 2):
        return _given(weighting, scores, weighting)
    raise EnsembleKitError(
        f"`weighting` must be 'squared_auc_pr', 'uniform', or a weight for each of the members {list(names)}; "
        f"got {weighting!r}. Give a dict by name, or an array of shape ({len(names)},)."
    )


def _given(values: Any, scores: FloatArray, weighting: Any) -> FloatArray:
    try:
        given: FloatArray = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        given = np.empty(0)
    given = given[:, None] if given.ndim == 1 else given
    fits = given.ndim == 2 and len(given) == len(scores) and given.shape[1] in (1, scores.shape[1])
    if not fits or not np.isfinite(given).all() or (given < 0).any() or not given.any(axis=0).all():
        raise EnsembleKitError(
            f"`weighting` must hold {len(scores)} finite weights of at least 0, one a member (and, if it has columns, "
            f"{scores.shape[1]} of them, one a horizon), some above 0; got {weighting!r}. Give 0 to leave a member out."
        )
    return np.broadcast_to(given / given.sum(axis=0), scores.shape).copy()
