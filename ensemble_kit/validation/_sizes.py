"""Where blocks lie on the axis of distinct times: sizes in times, as a share, or in calendar time."""

from __future__ import annotations

import warnings
from datetime import timedelta
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["place_blocks"]

IntArray = NDArray[np.int64]

_CURE = "Give more bars, fewer folds or smaller sizes"


def place_blocks(axis: pd.Index[Any], n_splits: int, *, train_size: Any, test_size: Any) -> IntArray:
    """Return where, on the sorted distinct times, each fold's window and test block begin, and where the latter ends.

    Test blocks end at the last time. In calendar time, block k from the end holds the times
    in (last - (k + 1) * test_size, last - k * test_size], and a window those in
    [first test time - train_size, first test time).

    Shape (n_splits, 3); without `train_size` every window begins at 0.
    """
    train = None if train_size is None else _resolve(train_size, "train_size", axis)
    test = _default(axis, n_splits, train) if test_size is None else _resolve(test_size, "test_size", axis)
    edges = _test_edges(axis, n_splits, test)
    n = len(axis)
    if edges[0] <= 0 or test == 0:
        behind = "" if train is None else f" behind a window of {train}"
        raise EnsembleKitError(
            f"`X` must have more times than {n_splits} test blocks of {test or 1}{behind}; got {n}. "
            f"{_CURE} (n_samples={n} is too few)."
        )
    empty = np.flatnonzero(np.diff(edges) == 0)
    if len(empty):
        fold, before = int(empty[0]), axis[edges[empty[0]] - 1]
        raise EnsembleKitError(
            f"`test_size` must give every test block a bar; got {test}, and fold {fold} has none (the last bar before "
            f"it is at {before}). Take longer blocks, or count them in bars."
        )
    starts = edges[:-1]
    windows = np.zeros_like(starts) if train is None else _window_starts(axis, starts, train)
    return np.column_stack([windows, starts, edges[1:]])


def _as_timedelta(size: Any) -> pd.Timedelta | None:
    """Return a size in calendar time as a Timedelta above 0; None for anything else."""
    if not isinstance(size, str | timedelta | np.timedelta64):
        return None
    try:
        # A warning refuses, too: "3MS" would be three milliseconds to pandas, and months to whoever wrote it.
        with warnings.catch_warnings(action="error"):
            span = pd.Timedelta(size).as_unit("ns")
    except (ValueError, TypeError, AttributeError, Warning):
        return None
    return span if span > pd.Timedelta(0) else None


def _resolve(size: Any, name: str, axis: pd.Index[Any]) -> int | pd.Timedelta:
    """Return a number of distinct times, which a small share may make 0, or a Timedelta."""
    span = _as_timedelta(size)
    if span is not None and not isinstance(axis, pd.DatetimeIndex):
        raise EnsembleKitError(
            f"`{name}` must be a number of rows or a share where X has no times; got {size!r}. "
            "Pass X as a frame with its DatetimeIndex, or count in rows."
        )
    if span is not None:
        return span
    if isinstance(size, Integral) and not isinstance(size, np.timedelta64) and int(size) >= 1:
        return int(size)
    if isinstance(size, Real) and not isinstance(size, Integral) and 0 < float(size) < 1:
        return int(len(axis) * float(size))
    raise EnsembleKitError(
        f"`{name}` must be a number of distinct times of at least 1, a share between 0 and 1, or a length of time "
        f"such as '90D' or '6h'; got {size!r}. A month or a year has no fixed length: give days."
    )


def _default(axis: pd.Index[Any], n_splits: int, train: int | pd.Timedelta | None) -> int:
    """Return the block size that uses all times: equal parts, behind the first window if there is one."""
    if train is None:
        return len(axis) // (n_splits + 1)
    if isinstance(train, pd.Timedelta):
        times = _nanoseconds(axis)
        train = int(np.searchsorted(times, _shift(times[:1], train.value)).sum())
    return max(len(axis) - train, 0) // n_splits


def _test_edges(axis: pd.Index[Any], n_splits: int, size: int | pd.Timedelta) -> IntArray:
    """Return where the test blocks begin and the last one ends; 0 or less where they reach beyond the axis."""
    back = np.arange(n_splits, -1, -1)
    if isinstance(size, int):
        return len(axis) - size * back
    times = _nanoseconds(axis)
    borders = [_shift(times[-1:], -k * size.value) for k in back.tolist()]
    return np.searchsorted(times, np.concatenate(borders), side="right") if len(times) else 0 * back


def _window_starts(axis: pd.Index[Any], starts: IntArray, size: int | pd.Timedelta) -> IntArray:
    """Return where windows begin that end right before `starts`; the first must lie within the axis."""
    if isinstance(size, int):
        windows, filled = starts - size, 0 < size <= starts[0]
    else:
        times = _nanoseconds(axis)
        begins = _shift(times[starts], -size.value)
        windows, filled = np.searchsorted(times, begins, side="left"), bool(begins[0] >= times[0])
    if not filled:
        raise EnsembleKitError(
            f"`train_size` must be at least one time and fit before the first test block; got {size}, and fold 0 has "
            f"{starts[0]} times before its first, {axis[starts[0]]}, the oldest {axis[0]}. {_CURE}."
        )
    return windows


def _nanoseconds(axis: pd.Index[Any]) -> IntArray:
    return pd.DatetimeIndex(axis).as_unit("ns").asi8


def _shift(times: IntArray, nanoseconds: int) -> IntArray:
    """Move times, and stop at the ends of what 64 bits hold: three blocks of 200 years reach beyond."""
    bounds = np.iinfo(np.int64)
    return np.array([min(max(t + nanoseconds, bounds.min), bounds.max) for t in times.tolist()], dtype=np.int64)
