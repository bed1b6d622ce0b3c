"""When the label of each row was known, in the units of `RowKeys.time`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import RowKeys
from ensemble_kit.exceptions import LeakageError

__all__ = ["known_after_bars", "known_at_t1"]

IntArray = NDArray[np.int64]

#: Later than every time: a label that was never known.
NEVER = np.iinfo(np.int64).max

_VERY_BARS = "Pass the `t1` of the labels made from these very bars"


def known_after_bars(keys: RowKeys, n_bars: int) -> IntArray:
    """Return the time of the bar `n_bars` after each row, counted within its instrument, shape (n,)."""
    order = np.argsort(keys.instrument, kind="stable")
    instrument, time = keys.instrument[order], keys.time[order]
    reached = max(len(order) - n_bars, 0)
    same = instrument[:reached] == instrument[n_bars:]
    known = np.full(len(order), NEVER)
    known[order[:reached][same]] = time[n_bars:][same]
    return known


def known_at_t1(t1: pd.Series[Any], X: Any, keys: RowKeys) -> IntArray:
    """Return the `t1` of each row of X, looked up on its index (by position where X has no times), shape (n,)."""
    if t1.dtype.kind not in ("iuf" if keys.index is None else "M"):
        raise LeakageError(
            "`t1` must hold times where X has an index of times, positions where it has none; "
            f"got {t1.dtype}. Pass X as a frame with the index of the labelled bars; behind a transformer, "
            "call `set_output(transform='pandas')` on it."
        )
    if keys.index is None:
        _check_positions(t1, X, len(keys.time))
        at, known = np.arange(len(t1)), _as_positions(t1)
    else:
        at, known = _look_up(t1, keys.index), pd.DatetimeIndex(t1).as_unit("ns").asi8.copy()
    known[t1.isna().to_numpy()] = NEVER
    known = known[at]
    early = np.flatnonzero(known < keys.time)
    if len(early):
        row = int(early[0])
        raise LeakageError(
            f"`t1` must not lie before its own row; row {row} has {t1.iloc[at[row]]} at {keys.axis()[row]}, "
            f"{len(early)} such row(s) in all. It is the time of the last bar that the label looked at, "
            "the row's own at the earliest."
        )
    return known


def _look_up(t1: pd.Series[Any], index: pd.Index[Any]) -> IntArray:
    """Return where in `t1` each row of X stands; equal instants are equal, in whatever zone."""
    times = index.get_level_values(0)
    given = [t1.index.get_level_values(0), pd.DatetimeIndex(t1)]
    wrong = [found for found in given if _aware(found) != _aware(times)]
    if wrong or t1.index.nlevels != index.nlevels:
        raise LeakageError(
            f"`t1` must be on the index of X, {index.nlevels} level(s) of {times.dtype}, its times naive or in any "
            f"zone as X's are; got {(wrong or given)[0].dtype} on {t1.index.nlevels} level(s). {_VERY_BARS}."
        )
    if t1.index.has_duplicates:
        twice = t1.index[t1.index.duplicated()]
        raise LeakageError(
            f"`t1` must have each row of its index once; got repeated rows, {len(twice)} in all, the first at "
            f"{twice[0]}. Drop them with `t1[~t1.index.duplicated()]`, or index a panel by (datetime, instrument)."
        )
    at = t1.index.get_indexer(index)
    lost = np.flatnonzero(at < 0)
    if len(lost):
        row = int(lost[0])
        raise LeakageError(
            f"`t1` must be on the index of X; {index[row]} (row {row}) is not in it, "
            f"{len(lost)} row(s) in all. {_VERY_BARS}."
        )
    return at.astype(np.int64)


def _aware(times: pd.Index[Any]) -> bool | None:
    """Return whether times name their zone; None of what are no times."""
    return times.tz is not None if isinstance(times, pd.DatetimeIndex) else None


def _check_positions(t1: pd.Series[Any], X: Any, n: int) -> None:
    """Refuse rows that are not counted from 0 on both sides: there is no telling which is which."""
    if len(t1) != n:
        raise LeakageError(
            f"`t1` must have a value for each of the {n} rows of an array; got {len(t1)}. "
            "Pass X as a frame with its index, so that rows can be looked up."
        )
    for index in (t1.index, getattr(X, "index", None)):
        if isinstance(index, pd.Index) and not index.equals(pd.RangeIndex(n)):
            raise LeakageError(
                "`t1` must be on positions counted from 0, and X too, where X has no times; got an index of "
                f"{index.dtype} from {index[0]!r}. Pass both with their times, or reset both and count `t1` anew."
            )


def _as_positions(t1: pd.Series[Any]) -> IntArray:
    numbers = t1.to_numpy(dtype=np.float64, na_value=np.nan)
    if (part := np.flatnonzero(~np.isnan(numbers) & (numbers != np.floor(numbers)) | np.isinf(numbers))).size:
        raise LeakageError(
            f"`t1` must hold whole positions, NaN where a label was never known; row {part[0]} has "
            f"{numbers[part[0]]:g}. Count rows from 0."
        )
    return np.nan_to_num(numbers).astype(np.int64)
