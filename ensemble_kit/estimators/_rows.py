"""Which rows of a matrix are learned from, which say when to stop, and how much each label weighs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import Targets

__all__ = ["class_weights", "newest_block"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: A loss over fewer times than this says nothing about when to stop.
MIN_STOP_TIMES = 10


def newest_block(
    time: IntArray, rows: IntArray, fraction: float, purge: int, *, at_least: int = MIN_STOP_TIMES
) -> tuple[IntArray, IntArray]:
    """Split rows into those to fit on and the newest ones, which say when to stop.

    Parameters
    ----------
    time : ndarray of int64, shape (n,)
        The time of every row of the matrix, also of those that are history only.
    rows : ndarray of int64, shape (m,)
        The rows that may be learned from.
    fraction : float
        The part of the distinct times of `rows` that the newest block takes.
    purge : int
        How many distinct times of the matrix before the block are left out.
    at_least : int, default=10
        A block of fewer distinct times is not worth having.

    Returns
    -------
    fit, stop : ndarray of int64
        Positions in the matrix. `stop` is empty, and `fit` all of `rows`, where the block
        would be too small.

    Raises
    ------
    EnsembleKitError
        If nothing is left to fit.

    Examples
    --------
    >>> import numpy as np
    >>> newest_block(np.arange(10), np.arange(10), 0.3, 2, at_least=1)
    (array([0, 1, 2, 3, 4]), array([7, 8, 9]))
    """
    times = np.unique(time[rows])
    n_stop = int(np.ceil(fraction * len(times)))
    if n_stop < max(at_least, 1):
        return rows, rows[:0]
    first_stop = times[-n_stop]
    bars = np.unique(time)
    end = max(int(np.searchsorted(bars, first_stop)) - purge, 0)
    fit = rows[time[rows] < bars[end]]
    if len(fit) == 0:
        raise EnsembleKitError(
            f"`validation_fraction` and `validation_purge` must leave rows to fit; got {fraction:g} and {purge} of "
            f"{len(times)} times. Lower them, or fit on more rows."
        )
    return fit, rows[time[rows] >= first_stop]


def class_weights(class_weight: Mapping[Any, float] | str | None, targets: Targets, weights: FloatArray) -> FloatArray:
    """Return how much each label weighs by its class.

    Parameters
    ----------
    class_weight : dict, "balanced" or None
        Weight of each label, 1 where the dict has none. "balanced" gives every class of a
        horizon the same total; a class that no row of weight above 0 has weighs 1.
    targets : Targets
        The labels, shape (m, H).
    weights : ndarray of float64, shape (m,)
        Row weights by which "balanced" counts; 0 on rows that are not fitted.

    Returns
    -------
    ndarray of float64, shape (m, H)
        The weights.

    Raises
    ------
    EnsembleKitError
        If the dict names no label there is.
    """
    if class_weight is None:
        return np.ones(targets.codes.shape)
    table = np.ones((targets.n_horizons, len(targets.classes)))
    if isinstance(class_weight, Mapping):
        labels = targets.classes.tolist()
        if not set(labels) & set(class_weight):
            raise EnsembleKitError(
                f"`class_weight` must name labels of `y`, {labels}; got {list(class_weight)}. "
                "Use the labels as `y` has them."
            )
        table[:] = [class_weight.get(label, 1.0) for label in labels]
    else:
        for horizon, codes in enumerate(targets.codes.T):
            count = np.bincount(codes, weights, minlength=len(targets.classes))
            there = count > 0
            table[horizon, there] = count.sum() / (there.sum() * count[there])
    return table[np.arange(targets.n_horizons), targets.codes]
