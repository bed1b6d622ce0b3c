"""Steps whose rows stand alone, without the checks that cost a thousand times their arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_selection import SelectorMixin
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import RobustScaler, StandardScaler

from ensemble_kit.streams.rows import SPARE, Rows

__all__ = ["Shortcut", "shortcut"]

Shortcut = Callable[[NDArray[Any]], NDArray[Any]]


def shortcut(step: Any, rows: Rows) -> Shortcut | None:
    """Return a function of plain arrays that gives what a fitted step's `transform` gives, bit by bit.

    Parameters
    ----------
    step : transformer
        Fitted.
    rows : Rows
        Some rows of its input.

    Returns
    -------
    callable or None
        From (m, F) to (m, n_out). None where the step is not one whose arithmetic is known (a column
        selector, `SimpleImputer`, `RobustScaler`, `StandardScaler`), or where the function does not
        give the bits of `transform` on the newest rows, with and without unknown values among them.

    Notes
    -----
    scikit-learn checks a row of 80 numbers for half a millisecond before it looks at them.
    """
    made = _made(step)
    if made is None or rows.layout.dtypes is not None or rows.values.dtype.kind != "f":
        return None
    known = rows.tail(SPARE)
    holes = np.array(known.values)
    holes[::3, ::2] = np.nan
    with np.errstate(all="ignore"):
        try:
            same = all(
                _same(made(some.values), np.asarray(step.transform(some.table())))
                for some in (known, known.become(holes, known.layout))
            )
        except ValueError:  # it refuses unknown values: it must be there to refuse them
            return None
    return made if same else None


def _same(ours: NDArray[Any], theirs: NDArray[Any]) -> bool:
    return ours.dtype == theirs.dtype and np.array_equal(ours, theirs, equal_nan=True)


def _made(step: Any) -> Shortcut | None:
    # Exactly these classes: a subclass may do anything.
    if isinstance(step, SelectorMixin) and type(step).transform is SelectorMixin.transform:
        return _select(step)
    if type(step) is SimpleImputer:
        return _impute(step)
    if type(step) is RobustScaler:
        return _scale(step.center_, step.scale_)
    return _standardize(step) if type(step) is StandardScaler else None


def _select(step: Any) -> Shortcut:
    kept = step.get_support(indices=True)
    return lambda values: np.take(values, kept, axis=1)


def _impute(step: SimpleImputer) -> Shortcut:
    def impute(values: NDArray[Any]) -> NDArray[Any]:
        return np.where(np.isnan(values), step.statistics_.astype(values.dtype), values)

    return impute


def _scale(centre: NDArray[Any] | None, scale: NDArray[Any] | None) -> Shortcut:
    def scaled(values: NDArray[Any]) -> NDArray[Any]:
        values = values.copy()
        if centre is not None:
            values -= centre
        if scale is not None:
            values /= scale
        return values

    return scaled


def _standardize(step: StandardScaler) -> Shortcut:
    # Unlike `RobustScaler`, it first rounds what it learned to the type of what it is given.
    parts = step.mean_ if step.with_mean else None, step.scale_
    return lambda values: _scale(*(None if part is None else part.astype(values.dtype) for part in parts))(values)
