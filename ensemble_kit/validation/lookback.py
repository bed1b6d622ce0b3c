"""How many earlier rows an output row can depend on, and how to put them in front."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

from ensemble_kit.bars import RowKeys

__all__ = ["lookback", "rows_with_history"]

IntArray = NDArray[np.int64]


def lookback(estimator: Any) -> int | None:
    """Return how many earlier rows of an instrument an output row can depend on.

    Parameters
    ----------
    estimator : estimator
        A `Pipeline` (the sum of its steps), a union (the maximum of its parts), anything
        that states `lookback` (all parts of the toolkit do), a meta-estimator around one
        or several of these (the maximum), or any other estimator, whose rows stand alone: 0.

    Returns
    -------
    int or None
        Rows; None for every earlier row (recursive state).

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from ensemble_kit.features import Alpha158
    >>> from ensemble_kit.validation import lookback
    >>> lookback(make_pipeline(Alpha158(), LogisticRegression()))
    60
    """
    if estimator is None or isinstance(estimator, str):  # "passthrough", "drop"
        return 0
    if isinstance(estimator, Pipeline):
        parts = [lookback(step) for _, step in estimator.steps]
        return None if None in parts else sum(part for part in parts if part is not None)
    if isinstance(estimator, FeatureUnion):
        return _longest([lookback(part) for _, part in estimator.transformer_list])
    if isinstance(estimator, ColumnTransformer):
        return _longest([lookback(part) for _, part, _ in estimator.transformers] + [lookback(estimator.remainder)])
    if hasattr(estimator, "lookback"):
        stated: int | None = estimator.lookback
        return stated
    inner = getattr(estimator, "best_estimator_", getattr(estimator, "estimator", None))
    several = getattr(estimator, "estimators", None) or []  # of voting and stacking: (name, estimator)
    return _longest([lookback(inner)] + [lookback(part) for _, part in several])


def _longest(parts: list[int | None]) -> int | None:
    return None if None in parts else max((part for part in parts if part is not None), default=0)


def rows_with_history(keys: RowKeys, rows: IntArray, reach: int | None) -> IntArray:
    """Return `rows`, whatever lies between them, and `reach` earlier rows of each instrument.

    Parameters
    ----------
    keys : RowKeys
        Time and instrument of all rows.
    rows : ndarray of int64
        Positions wanted.
    reach : int or None
        How many earlier rows; None for all.

    Returns
    -------
    ndarray of int64
        Sorted positions; each instrument's are without a gap.
    """
    order = np.argsort(keys.instrument, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    # The first place of each row's instrument, and the places wanted of each.
    sorted_instruments = keys.instrument[order]
    wanted = place[rows]
    chosen = np.zeros(len(order) + 1, dtype=np.int64)
    for instrument in np.unique(keys.instrument[rows]):
        first = int(np.searchsorted(sorted_instruments, instrument))
        mine = wanted[keys.instrument[rows] == instrument]
        start = first if reach is None else max(first, int(mine.min()) - reach)
        chosen[start] += 1
        chosen[int(mine.max()) + 1] -= 1
    return np.sort(order[np.cumsum(chosen[:-1]) > 0])
