"""Where bars have holes, jump as in a split, or stand still: of one instrument, in order, each time once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import PRICES
from ensemble_kit.sessions import Session, session_times

__all__ = ["Split", "Stretch", "find_gaps", "find_halts", "find_splits", "sessions_of"]

_DAY = pd.Timedelta(days=1)
_HOUR = 3_600_000_000_000  # nanoseconds
#: Usual splits, n new for m old; smaller ratios cannot be told from a night's news.
_RATIOS = ((3, 2), (2, 1), (5, 2), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1), (10, 1), (15, 1), (20, 1), (25, 1))
#: How far, in logs, a jump may lie from the ratio: a night's own return.
_NIGHT = 0.05
#: So many bars in a row at one price with no volume are a halt that the provider filled in.
_STILL = 3

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Stretch:
    """Bars in a row.

    Attributes
    ----------
    instrument : str or None
        Whose.
    start, end : Timestamp
        The first and the last bar.
    bars : int
        How many.
    """

    instrument: str | None
    start: pd.Timestamp
    end: pd.Timestamp
    bars: int


@dataclass(frozen=True)
class Split:
    """A jump between two days that looks like a split of unadjusted prices.

    Attributes
    ----------
    instrument : str or None
        Whose.
    time : Timestamp
        The first bar at the new price.
    ratio : str
        New shares for old ones: "4:1", or "1:10" for a reverse split.
    jump : float
        The close before, divided by this open.
    """

    instrument: str | None
    time: pd.Timestamp
    ratio: str
    jump: float


def sessions_of(times: pd.DatetimeIndex, bar: pd.Timedelta, session: str | Session) -> tuple[NDArray[Any], BoolArray]:
    """Return the day's number of each bar, and whether the bar holds any time of a session."""
    if bar < _DAY:
        at = session_times(times, session)
        minutes = bar / pd.Timedelta(minutes=1)
        # A bar by the clock, 09:00 to 10:00 say, holds the session's open.
        return at.day, (at.minute > -minutes) & (at.minute < at.length) & ~at.holiday
    day = times.to_numpy().astype("M8[D]").astype(np.int64)
    if session == "day":
        return day, np.ones(len(times), dtype=np.bool_)
    if isinstance(session, Session):
        return day, np.asarray(times.weekday < 5)
    # Noon in UTC is on the same date for almost every exchange.
    noon = pd.DatetimeIndex(times.tz_localize(None).normalize() + pd.Timedelta(hours=12)).tz_localize("UTC")
    at = session_times(noon, session)
    return day, (at.day == day) & ~at.holiday


def find_gaps(name: str | None, times: pd.DatetimeIndex, bar: pd.Timedelta, session: str | Session) -> list[Stretch]:
    """Return runs of missing bars among those that a session should have between the first and the last."""
    grid = _grid(times, bar, session)
    day, inside = sessions_of(grid, bar, session)
    if isinstance(session, Session):
        inside &= (day + 3) % 7 < 5
    there = np.isin(grid.as_unit("ns").asi8, times.as_unit("ns").asi8)
    if session == "day":
        # Between the first and the last bar of each day.
        seen = pd.Series(there).groupby(day)
        inside &= (seen.cumsum() > 0).to_numpy() & (seen.transform("sum") - seen.cumsum() + there > 0).to_numpy()
    expected, missing = grid[inside], ~there[inside]
    if not missing.any():
        return []
    runs = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(np.int8)))
    return [Stretch(name, expected[a], expected[b - 1], int(b - a)) for a, b in zip(runs[::2], runs[1::2], strict=True)]


def _grid(times: pd.DatetimeIndex, bar: pd.Timedelta, session: str | Session) -> pd.DatetimeIndex:
    """Return when bars may open from the first to the last: as most of them do, so that a stray one moves nothing."""
    if bar == _DAY:
        return pd.date_range(times[0], times[-1], freq="D")
    step = min(math.gcd(bar.value, _HOUR), bar.value)
    phase = pd.Series(times.as_unit("ns").asi8 % step).mode().iloc[0]
    late = (times[0].as_unit("ns").value - phase) % step
    grid = pd.date_range(times[0] - pd.Timedelta(late, unit="ns"), times[-1], freq=pd.Timedelta(step, unit="ns"))
    if step == bar.value:
        return grid
    # Bars of some hours open by the wall clock, at another hour in UTC after a change of clocks.
    minutes = bar / pd.Timedelta(minutes=1)
    usual = pd.Series(session_times(times, session).clock % minutes).mode().iloc[0]
    return grid[session_times(grid, session).clock % minutes == usual]


def find_splits(name: str | None, bars: pd.DataFrame, day: NDArray[Any]) -> list[Split]:
    prices = bars[["open", "close"]].where(bars[["open", "close"]] > 0)
    jump = prices["close"].shift().to_numpy(np.float64) / prices["open"].to_numpy(np.float64)
    first = np.concatenate([[False], day[1:] != day[:-1]])
    found = []
    for row in np.flatnonzero(first & (np.abs(np.log(jump)) > np.log(1.5) - _NIGHT)).tolist():
        over = abs(np.log(jump[row]))
        n, m = min(_RATIOS, key=lambda pair: abs(over - np.log(pair[0] / pair[1])))
        if abs(over - np.log(n / m)) < _NIGHT:
            ratio = f"{n}:{m}" if jump[row] > 1 else f"{m}:{n}"
            found.append(Split(name, bars.index[row], ratio, float(jump[row])))
    return found


def find_halts(name: str | None, bars: pd.DataFrame, day: NDArray[Any]) -> list[Stretch]:
    if "volume" not in bars:
        return []
    price = bars[list(PRICES)].to_numpy(np.float64)
    still = (bars["volume"].to_numpy() == 0) & (price.max(axis=1) == price.min(axis=1))
    # A run goes on while the price stands, within a day.
    new = ~still | np.concatenate([[True], (day[1:] != day[:-1]) | (price[1:, 0] != price[:-1, 3]) | ~still[:-1]])
    first = np.flatnonzero(new)
    length = np.diff(first, append=len(bars))
    long = still[first] & (length >= _STILL)
    return [
        Stretch(name, bars.index[a], bars.index[a + n - 1], int(n))
        for a, n in zip(first[long].tolist(), length[long].tolist(), strict=True)
    ]
