"""Rows laid instrument by instrument: what every label function reads forwards and writes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import row_keys
from ensemble_kit.sessions import Session, session_times

__all__ = ["Blocks"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Blocks:
    """Places of rows when instruments stand one after another, and the borders around each.

    Attributes
    ----------
    index : Index
        The bars'.
    order : ndarray of int64, shape (n,)
        The row of each place.
    first, last : ndarray of int64, shape (n,)
        First and last place of each place's instrument.
    start, stop : ndarray of int64, shape (n,)
        The same of its session, or of the instrument where no session is given.
    """

    index: pd.Index[Any]
    order: IntArray
    first: IntArray
    last: IntArray
    start: IntArray
    stop: IntArray

    @classmethod
    def of(cls, bars: pd.DataFrame, session: str | Session | None = None) -> Blocks:
        """Lay out checked bars."""
        instrument = row_keys(bars, name="bars").instrument
        order = np.argsort(instrument, kind="stable")
        first, last = _run_borders(instrument[order])
        start, stop = first, last
        if session is not None:
            start, stop = _run_borders(instrument[order], session_times(bars.index, session).day[order])
        return cls(bars.index, order, first, last, start, stop)

    def take(self, values: Any) -> NDArray[Any]:
        """Bring values from row order to places."""
        return np.asarray(values)[self.order]

    def floats(self, bars: pd.DataFrame, *columns: str) -> tuple[FloatArray, ...]:
        """Return columns of the bars by place."""
        return tuple(bars[column].to_numpy(np.float64)[self.order] for column in columns)

    def put(self, values: NDArray[Any]) -> NDArray[Any]:
        """Bring values from places to row order."""
        rows = np.empty_like(values)
        rows[self.order] = values
        return rows

    def series(self, values: NDArray[Any], name: str) -> pd.Series[Any]:
        """Return values by place as a series on the bars' index."""
        return pd.Series(self.put(values), index=self.index, name=name)

    def t1(self, looked_at: IntArray, known: NDArray[np.bool_]) -> pd.Series[Any]:
        """Return the time of the place that each place's label looked at, NaT where not known."""
        times = self.index.get_level_values(0)
        rows = self.put(self.order[np.clip(looked_at, 0, len(self.order) - 1)])
        return pd.Series(times[rows].where(self.put(known)), index=self.index, name="t1")


def _run_borders(*keys: IntArray) -> tuple[IntArray, IntArray]:
    """First and last place of the run of equal keys that each place belongs to."""
    n = len(keys[0])
    new = np.ones(n, dtype=bool)
    new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    run = np.cumsum(new) - 1
    starts = np.flatnonzero(new)
    stops = np.append(starts[1:], n) - 1
    return starts[run], stops[run]
