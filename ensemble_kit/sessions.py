"""Sessions: which one each bar belongs to, and how far into it the bar opens."""

from __future__ import annotations

import datetime as dt
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import BarsError

__all__ = ["Session", "SessionTimes", "check_daily_times", "session_times"]

_DAY_MINUTES = 1440.0
_DAY = pd.Timedelta(days=1)
_MINUTE = 60_000_000_000  # nanoseconds

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Session:
    """A daily session by its opening and closing wall-clock time.

    Attributes
    ----------
    open, close : str
        ``"HH:MM"``. A close at or before the open is on the next day (futures). Bars before
        a day session's open belong to that day's session, bars after its close, too.
    tz : str
        The time zone of both, daylight saving included.

    Examples
    --------
    >>> from ensemble_kit.sessions import Session
    >>> Session("18:00", "17:00", "America/New_York").minutes
    1380.0
    """

    open: str = "00:00"
    close: str = "00:00"
    tz: str = "UTC"

    @property
    def open_minute(self) -> float:
        """Minutes from midnight to the open."""
        return _minute_of(self.open)

    @property
    def minutes(self) -> float:
        """Length of the session in minutes."""
        return (_minute_of(self.close) - _minute_of(self.open)) % _DAY_MINUTES or _DAY_MINUTES


def _minute_of(clock: str) -> float:
    try:
        at = dt.datetime.strptime(clock, "%H:%M").time()  # noqa: DTZ007 - a wall clock
    except ValueError:
        raise BarsError(f"`Session` times must be 'HH:MM'; got {clock!r}. Write '09:30', say.") from None
    return at.hour * 60.0 + at.minute


@dataclass(frozen=True)
class SessionTimes:
    """Where each bar lies in its session.

    Attributes
    ----------
    day : ndarray of int64, shape (n,)
        The session's number (days since 1970 of its date): equal within a session.
    minute : ndarray of float64, shape (n,)
        Minutes from the session's open to the bar's open; below 0 before it.
    length : ndarray of float64, shape (n,)
        Minutes of that session, half days included.
    clock : ndarray of float64, shape (n,)
        Minutes from midnight to the bar's open, on the wall clock of the session's zone.
    holiday : ndarray of bool, shape (n,)
        Whether the exchange has no session that day, weekends included, and the bar lies outside
        the sessions of its neighbours. False where no exchange is given.
    half_day : ndarray of bool, shape (n,)
        Whether the exchange's session is shorter than most of the 21 around it. False where no
        exchange is given, and on holidays.
    """

    day: IntArray
    minute: FloatArray
    length: FloatArray
    clock: FloatArray
    holiday: BoolArray
    half_day: BoolArray

    @property
    def weekday(self) -> IntArray:
        """Day of the week, 0 for Monday."""
        # 1970-01-01 was a Thursday.
        return (self.day + 3) % 7

    @property
    def month(self) -> IntArray:
        """Month of the session's date, 1 for January."""
        return self.day.astype("M8[D]").astype("M8[M]").astype(np.int64) % 12 + 1


def session_times(index: pd.Index[Any], session: str | Session = "day") -> SessionTimes:
    """Return the session of each bar, how far into it the bar opens, and its length.

    Sessions are given, never inferred from the bars: a prefix gives what the whole gives.

    Parameters
    ----------
    index : DatetimeIndex or MultiIndex (datetime, instrument)
        The bars' index: times with a zone, or dates (times without a zone, each a midnight).
    session : "day", exchange code or Session, default="day"
        The index's own calendar day; an exchange such as ``"XNYS"``, half days and
        daylight saving included; or fixed wall-clock times. With the latter two a date is that
        date's session, and its bar opens when the session does.

    Returns
    -------
    SessionTimes
        Day, minute, length and flags of each row.

    Raises
    ------
    BarsError
        If the exchange is unknown, or times that are no dates are naive where a zone is needed.

    Notes
    -----
    Naive times with an exchange or a Session are dates or an error: one time that is no midnight
    has all of them refused, so that no prefix is read otherwise than the whole.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.sessions import session_times
    >>> index = pd.DatetimeIndex(["2022-11-23 14:30", "2022-11-25 17:55"], tz="UTC")
    >>> times = session_times(index, "XNYS")
    >>> times.minute.tolist(), times.length.tolist()  # the 25th is a half day
    ([0.0, 205.0], [390.0, 210.0])
    >>> daily = session_times(pd.DatetimeIndex(["2022-11-24", "2022-11-25"]), "XNYS")
    >>> daily.minute.tolist(), daily.length.tolist(), daily.holiday.tolist()  # the 24th is Thanksgiving
    ([0.0, 0.0], [390.0, 210.0], [True, False])
    """
    times = pd.DatetimeIndex(index.get_level_values(0))
    if session != "day" and times.tz is None and len(times):
        return _times_of_dates(times, session)
    if isinstance(session, Session):
        return _wall_clock_times(times, session)
    if session == "day":
        local = times.tz_localize(None)
        day = local.normalize()
        clock = _clock(local)
        return _same_hours(_day_number(day), clock, _DAY_MINUTES, clock)
    return _exchange_times(times, session)


def check_daily_times(index: pd.Index[Any], session: str | Session) -> None:
    """Refuse daily bars that are stamped with a time outside of every session, such as midnight in UTC.

    Midnight in UTC is the evening before in New York: each bar would count for another session
    than its own. Dates without a zone say which session is meant.

    Parameters
    ----------
    index : DatetimeIndex or MultiIndex (datetime, instrument)
        The index of bars of any length, sorted.
    session : "day", exchange code or Session
        As in `session_times`.

    Raises
    ------
    BarsError
        If most bars lie a day or more apart and all have a zone and open outside the session, or
        as `session_times` raises.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.sessions import check_daily_times
    >>> check_daily_times(pd.bdate_range("2022-01-03", periods=5), "XNYS")  # dates
    """
    times = pd.DatetimeIndex(index.get_level_values(0).unique())
    at = session_times(times, session)
    if session == "day" or times.tz is None or len(times) < 2:
        return
    outside = at.holiday | (at.minute < 0) | (at.minute >= at.length)
    if outside.all() and np.median(np.diff(times.as_unit("ns").asi8)) >= _DAY.value:
        raise BarsError(
            f"`bars` of a day must be given as dates for session={session!r}; got {times[0]}, which like all others "
            "lies outside the session. Leave the zone out: `bars.tz_localize(None)`, and no `--tz`."
        )


def _same_hours(day: IntArray, minute: FloatArray, length: float, clock: FloatArray) -> SessionTimes:
    """Return the times of sessions that know neither holidays nor half days."""
    never = np.zeros(len(day), dtype=np.bool_)
    return SessionTimes(day, minute, np.full(len(day), length), clock, never, never)


def _day_number(days: pd.DatetimeIndex) -> IntArray:
    return days.to_numpy().astype("M8[D]").astype(np.int64)


def _clock(local: pd.DatetimeIndex) -> FloatArray:
    minutes: FloatArray = ((local - local.normalize()) / pd.Timedelta(minutes=1)).to_numpy(np.float64)
    return minutes


def _local(times: pd.DatetimeIndex, tz: str) -> pd.DatetimeIndex:
    try:
        return times.tz_convert(tz).tz_localize(None)
    except ZoneInfoNotFoundError:
        raise BarsError(f"`tz` must be a time zone's name; got {tz!r}. Write 'America/New_York', say.") from None


def _wall_clock_times(times: pd.DatetimeIndex, session: Session) -> SessionTimes:
    if len(times) == 0:
        return _no_times()
    local = _local(times, session.tz)
    opens = pd.Timedelta(minutes=session.open_minute)
    # An overnight session's day begins when it opens; a day session's with the calendar's.
    overnight = session.open_minute + session.minutes > _DAY_MINUTES
    day = (local - opens).normalize() if overnight else local.normalize()
    minute = ((local - day - opens) / pd.Timedelta(minutes=1)).to_numpy(np.float64)
    return _same_hours(_day_number(day), minute, session.minutes, _clock(local))


def _exchange_times(times: pd.DatetimeIndex, code: str) -> SessionTimes:
    if len(times) == 0:
        return _no_times()
    tz, days, opens, closes, short = _schedule_of(times, code)
    local = _local(times, tz)
    local_day = _day_number(local.normalize())
    now = times.as_unit("ns").asi8
    # The session opened last, unless it is over and the next one's own day has begun.
    at = np.maximum(np.searchsorted(opens, now, side="right") - 1, 0)
    following = np.minimum(at + 1, len(days) - 1)
    at = np.where((now >= closes[at]) & (days[following] == local_day), following, at)
    minute = (now - opens[at]) / _MINUTE
    # A bar on a holiday has its own day, and the hours of the session before it, on the wall clock.
    holiday = (now >= closes[at]) & ~np.isin(local_day, days)
    clock = _clock(local)
    return SessionTimes(
        np.where(holiday, local_day, days[at]),
        np.where(holiday, clock - _wall_clock(opens[at], tz), minute),
        (closes - opens)[at] / _MINUTE,
        clock,
        holiday,
        short[at] & ~holiday,
    )


def _times_of_dates(times: pd.DatetimeIndex, session: str | Session) -> SessionTimes:
    """Return the times of bars that are dates: each opens with that date's session."""
    if not (times == times.normalize()).all():
        first = times[times != times.normalize()][0]
        raise BarsError(
            f"`bars` must have tz-aware times for session={session!r}; got naive ones that are no dates, {first} say. "
            "Name the zone that they are in: `read_bars(file, tz=...)`, `--tz` or `bars.tz_localize(...)`."
        )
    day = _day_number(times)
    if isinstance(session, Session):
        _local(pd.DatetimeIndex([], tz="UTC"), session.tz)  # an unknown zone is an error here, too
        return _same_hours(day, np.zeros(len(day)), session.minutes, np.full(len(day), session.open_minute))
    tz, days, opens, closes, short = _schedule_of(times, session)
    at = np.maximum(np.searchsorted(days, day, side="right") - 1, 0)  # a holiday has the hours of the session before it
    holiday = days[at] != day
    clock = _wall_clock(opens[at], tz)
    return SessionTimes(day, np.zeros(len(day)), (closes - opens)[at] / _MINUTE, clock, holiday, short[at] & ~holiday)


def _no_times() -> SessionTimes:
    return _same_hours(np.empty(0, np.int64), np.empty(0), _DAY_MINUTES, np.empty(0))


def _wall_clock(moments: IntArray, tz: str) -> FloatArray:
    """Return minutes from midnight, of nanoseconds in UTC."""
    return _clock(pd.DatetimeIndex(moments.view("M8[ns]")).tz_localize("UTC").tz_convert(tz).tz_localize(None))


def _schedule_of(times: pd.DatetimeIndex, code: str) -> tuple[str, IntArray, IntArray, IntArray, BoolArray]:
    years = f"{times[0].year - 1}-12-01", f"{times[-1].year + 1}-01-31"
    week = pd.Timedelta(days=10)
    near = str((times[0] - week).date()), str((times[-1] + week).date())
    return _exchange_schedule(code, years, near)


@lru_cache(maxsize=32)
def _exchange_schedule(
    code: str, years: tuple[str, str], near: tuple[str, str]
) -> tuple[str, IntArray, IntArray, IntArray, BoolArray]:
    """Return the exchange's zone, and date, open, close (nanoseconds) and shortness of its sessions.

    Whole years let one calendar serve every prefix of the bars; where an exchange's calendar
    ends before the year does, the days around the bars must do.
    """
    # Imported here: building a calendar takes a second, and most users never name an exchange.
    import exchange_calendars as xcals

    with warnings.catch_warnings():
        # It calls what pandas 4 will drop; its answers are right.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            try:
                calendar = xcals.get_calendar(code, start=years[0], end=years[1])
            except ValueError:
                calendar = xcals.get_calendar(code, start=near[0], end=near[1])
            schedule = calendar.schedule
        except xcals.errors.InvalidCalendarName:
            raise BarsError(
                f"`session` must be 'day', an exchange code or a Session; got {code!r}. "
                "Exchange codes are ISO 10383 ones, such as 'XNYS' or 'XLON'; "
                "`exchange_calendars.get_calendar_names()` lists them."
            ) from None
        except (ValueError, NotImplementedError) as error:
            raise BarsError(
                f"`session`={code!r} must be an exchange whose calendar covers the bars; {error}. "
                "Use a Session instead."
            ) from None
    opens, closes = (pd.DatetimeIndex(schedule[column]).as_unit("ns").asi8 for column in ("open", "close"))
    # Of the sessions around, since usual hours change over the years; and not the calendar's own
    # `early_closes`, which lacks the late openings of some exchanges.
    length = pd.Series(closes - opens)
    short = (length < length.rolling(21, center=True, min_periods=1).median()).to_numpy()
    return str(calendar.tz), _day_number(pd.DatetimeIndex(schedule.index)), opens, closes, short
