"""The next bars of one instrument, read and timed in microseconds: what the room's streams share.

`check_bars` and `session_times` look at whole frames, and cost more on one row than a stream
has for all of its work. Here the common case (a frame of floats, a day seen before) is taken by
a short way that can only accept what they accept, and give what they give; whatever it is not
sure of goes to them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray

from ensemble_kit.bars import PRICES, check_bars
from ensemble_kit.exceptions import BarsError
from ensemble_kit.sessions import Session, SessionTimes, session_times

FIELDS = (*PRICES, "volume", "vwap")

_MINUTE = 60_000_000_000  # nanoseconds
_NEVER = np.iinfo(np.int64).min

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class NextBars:
    """Reads the bars of one instrument, each after the last.

    Parameters
    ----------
    fields : tuple of str, default=FIELDS
        What is read: the prices, and after them what the bars may lack.
    """

    def __init__(self, fields: tuple[str, ...] = FIELDS) -> None:
        self._fields = fields
        self.last = _NEVER

    def read(self, bars: pd.DataFrame) -> tuple[Floats, Ints]:
        """Return the fields, (n_fields, m), NaN for what is not known, and the times in nanoseconds.

        `last` is left for the caller to move, once the bars are taken.
        """
        return self._plain(bars) or self._checked(bars)

    def _plain(self, bars: pd.DataFrame) -> tuple[Floats, Ints] | None:
        """Read floats that are sound beyond doubt; None for whatever else there is."""
        if not isinstance(bars, pd.DataFrame) or type(bars.index) is not pd.DatetimeIndex or not len(bars):
            return None
        block = bars.to_numpy()
        layout = _layout(tuple(bars.columns), self._fields)
        if block.dtype.kind != "f" or layout is None:
            return None
        times = bars.index.as_unit("ns").asi8
        values = np.full((len(self._fields), len(block)), np.nan)
        for field, column in layout:
            values[field] = block[:, column]
        # A time that is missing is the least of all numbers, hence never after the last.
        return (values, times) if _sound(values, times, self.last) else None

    def _checked(self, bars: pd.DataFrame) -> tuple[Floats, Ints]:
        known = [name for name in self._fields if isinstance(bars, pd.DataFrame) and name in bars]
        check_bars(bars, require=[name for name in known if name == "vwap"])
        if isinstance(bars.index, pd.MultiIndex):
            raise BarsError(
                "`bars` must be of one instrument; got a panel. "
                "Keep one stream an instrument and pass `bars.xs(name, level=1)`."
            )
        times = pd.DatetimeIndex(bars.index).as_unit("ns").asi8
        if times[0] <= self.last:
            raise BarsError(
                f"`bars` must follow those before; got {bars.index[0]} after {pd.Timestamp(self.last)} (UTC). "
                "Drop the bars already taken."
            )
        values = np.full((len(self._fields), len(bars)), np.nan)
        for name in known:
            values[self._fields.index(name)] = bars[name].to_numpy(np.float64)
        return values, times


@lru_cache(maxsize=32)
def _layout(columns: tuple[Any, ...], fields: tuple[str, ...]) -> tuple[tuple[int, int], ...] | None:
    """Return where each field stands among the columns; None where `check_bars` has to speak."""
    if len(set(columns)) < len(columns) or not set(PRICES) <= set(columns):
        return None
    return tuple((place, columns.index(name)) for place, name in enumerate(fields) if name in columns)


@njit(cache=True, nogil=True)
def _sound(values: Floats, times: Ints, last: int) -> bool:
    """Say whether the bars follow one another and `check_bars` has nothing against their numbers."""
    for t in range(len(times)):
        if times[t] <= last:
            return False
        last = times[t]
        o, high, low, close, volume = values[0, t], values[1, t], values[2, t], values[3, t], values[4, t]
        for price in (o, high, low, close):
            if price <= 0 or price == np.inf:
                return False
        if high < low or high < o or high < close or low > o or low > close:
            return False
        if volume < 0 or volume == np.inf:
            return False
    return True


class SessionClock:
    """`session_times` of bars that come one after the other.

    Between two midnights of the session's zone a session seldom changes. So `session_times` is
    asked at a bar and at the end of its day (of its hour, where the day changes in between);
    where nothing but the time has moved, so it has for all bars between: sessions follow one
    another in order.

    Parameters
    ----------
    session : "day", exchange code or Session
        As in `session_times`.
    """

    def __init__(self, session: str | Session) -> None:
        self._session = session
        self._span = (0, -1)  # first and last nanosecond of what is known
        self._zone: Any = None
        self._at: SessionTimes | None = None
        self._origins = (0, 0)
        self._shift = 0.0

    def times(self, index: pd.Index[Any], now: Ints) -> SessionTimes:
        """Return the session of each bar; `now` is the index in nanoseconds."""
        first, last = self._span
        if self._at is not None and first <= now[0] and now[-1] <= last and self._zone == _zone(index):
            return self._same_day(now, self._at)
        times = session_times(index, self._session)
        newest = SessionTimes(**{name: values[-1:] for name, values in vars(times).items()})
        self._look_ahead(index, int(now[-1]), newest)
        return times

    def _same_day(self, now: Ints, at: SessionTimes) -> SessionTimes:
        """Move the clock of the day that is known; the divisions are `session_times`' own."""
        opened, midnight = self._origins
        m = len(now)
        clock = (now - midnight) / _MINUTE
        minute = clock - self._shift if at.holiday[0] else (now - opened) / _MINUTE
        day, length = np.repeat(at.day, m), np.repeat(at.length, m)
        holiday, half = np.repeat(at.holiday, m), np.repeat(at.half_day, m)
        return SessionTimes(day, minute, length, clock, holiday, half)

    def _look_ahead(self, index: pd.Index[Any], now: int, at: SessionTimes) -> None:
        """Find how long nothing but the time will move."""
        self._zone, self._at, self._span = _zone(index), at, (now, now)
        self._origins = _origins(now, at)
        # Exchanges open at whole minutes: on a holiday this is the open that its minutes count from.
        self._shift = round(float(at.clock[0] - at.minute[0]))
        for span in (1440.0, 60.0):
            end = now + round((span - at.clock[0] % span) * _MINUTE) - 1
            if self._lasts_until(end, at):
                self._span = (now, end)
                return

    def _lasts_until(self, end: int, at: SessionTimes) -> bool:
        index = pd.DatetimeIndex(np.array([end], "M8[ns]"))
        if self._zone is not None:
            index = index.tz_localize("UTC").tz_convert(self._zone)
        try:
            then = session_times(index, self._session)
        except BarsError:  # the exchange's calendar ends before
            return False
        same = all(getattr(at, name)[0] == getattr(then, name)[0] for name in ("day", "length", "holiday", "half_day"))
        exact = not at.holiday[0] or all(x.clock[0] - self._shift == x.minute[0] for x in (at, then))
        return bool(same and exact and _origins(end, then) == self._origins)


def _origins(now: int, at: SessionTimes) -> tuple[int, int]:
    """Return when the session's minutes and its wall clock stood at 0, in nanoseconds."""
    return now - round(float(at.minute[0]) * _MINUTE), now - round(float(at.clock[0]) * _MINUTE)


def _zone(index: pd.Index[Any]) -> Any:
    return getattr(index, "tz", None)
