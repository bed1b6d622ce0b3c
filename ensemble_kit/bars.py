"""The bar frame: what one is, whose bar each row is, and which session it belongs to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import BarsError

__all__ = [
    "PRICES",
    "RowKeys",
    "Session",
    "SessionTimes",
    "check_bars",
    "instrument_codes",
    "pack_index",
    "row_keys",
    "session_times",
    "unpack_index",
]

PRICES = ("open", "high", "low", "close")
_DAY_MINUTES = 1440.0

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def check_bars(bars: pd.DataFrame, *, require: Sequence[str] = (), name: str = "bars") -> pd.DataFrame:
    """Check a bar frame and say exactly what is wrong, where, and how to mend it.

    Parameters
    ----------
    bars : DataFrame of shape (n_rows, n_columns)
        Columns ``open high low close`` and whatever else (``volume``, ``vwap``, ...).
        The index is a sorted, unique ``DatetimeIndex`` (each bar's open) or, for a
        panel, a sorted, unique ``MultiIndex`` (datetime, instrument).
    require : sequence of str, default=()
        Further columns that must be there.
    name : str, default="bars"
        How messages call the frame.

    Returns
    -------
    DataFrame
        The same object, untouched.

    Raises
    ------
    BarsError
        If a column is missing or not numeric, if times are unsorted, repeated or
        missing, if a high lies under a low, or if a price is infinite or not positive.
        A row whose prices are all NaN is allowed: features of it are NaN.

    Examples
    --------
    >>> from ensemble_kit.bars import check_bars
    >>> from ensemble_kit.datasets import make_bars
    >>> check_bars(make_bars(100, random_state=0)).shape
    (100, 5)
    """
    if not isinstance(bars, pd.DataFrame):
        raise BarsError(
            f"`{name}` must be a pandas DataFrame with columns {' '.join(PRICES)}; "
            f"got {type(bars).__name__}. Read a file with `ensemble_kit.datasets.read_bars`."
        )
    _check_columns(bars, [*PRICES, *require], name)
    _check_index(bars.index, name)
    _check_prices(bars, name)
    return bars


def _check_columns(bars: pd.DataFrame, wanted: Sequence[str], name: str) -> None:
    missing = [column for column in wanted if column not in bars.columns]
    if missing:
        lower = {str(column).strip().lower(): column for column in bars.columns}
        near = {column: lower[column] for column in missing if column in lower}
        cure = (
            f"Rename {', '.join(f'{old!r} to {new!r}' for new, old in near.items())}"
            if near
            else "`ensemble_kit.datasets.read_bars` knows the common spellings"
        )
        raise BarsError(
            f"`{name}` must have the columns {', '.join(wanted)}; "
            f"missing {', '.join(missing)}, got {', '.join(map(str, bars.columns))}. {cure}."
        )
    text = [column for column in wanted if not pd.api.types.is_numeric_dtype(bars[column])]
    if text:
        raise BarsError(
            f"`{name}` must have numeric prices; got {', '.join(f'{c} of {bars[c].dtype}' for c in text)}. "
            "Convert with `pandas.to_numeric`."
        )


def _check_index(index: pd.Index[Any], name: str) -> None:
    panel = isinstance(index, pd.MultiIndex)
    times = index.get_level_values(0) if isinstance(index, pd.MultiIndex) else index
    if (panel and index.nlevels != 2) or not isinstance(times, pd.DatetimeIndex):
        raise BarsError(
            f"`{name}` must be indexed by time (DatetimeIndex) or by (datetime, instrument); got "
            f"{type(index).__name__} with {index.nlevels} level(s) of {times.dtype}. "
            f"Set it with `{name}.set_index(...)` after `pandas.to_datetime`."
        )
    if times.hasnans:
        raise BarsError(
            f"`{name}` must have a time on every row; row {int(np.argmax(times.isna()))} has none. Drop it."
        )
    if index.has_duplicates:
        where = int(np.argmax(index.duplicated()))
        raise BarsError(
            f"`{name}` must have unique times; {index[where]} stands {int((index == index[where]).sum())} times "
            f"({int(index.duplicated().sum())} repeated rows in all, first at row {where}). "
            f"Keep one with `{name}[~{name}.index.duplicated(keep='last')]`, or, if several instruments are "
            "mixed, index by (datetime, instrument)."
        )
    if not times.is_monotonic_increasing:
        step = np.flatnonzero(times[1:] < times[:-1])
        raise BarsError(
            f"`{name}` must be sorted by time; row {int(step[0]) + 1} ({times[step[0] + 1]}) comes after "
            f"{times[step[0]]}. Sort with `{name}.sort_index()`."
        )


def _check_prices(bars: pd.DataFrame, name: str) -> None:
    prices = bars[list(PRICES)].to_numpy(np.float64)
    o, h, l, c = prices.T
    faults: list[tuple[Any, str, str]] = [
        (np.isinf(prices).any(axis=1), "finite prices", "Set them to NaN or drop the rows"),
        ((prices <= 0).any(axis=1), "prices above 0", "Add a constant to a spread, or drop the rows"),
        (h < l, "high >= low", "Swap the two columns, or drop the rows"),
        (
            (h < np.fmax(o, c)) | (l > np.fmin(o, c)),
            "open and close between low and high",
            "Rebuild high and low as the maximum and minimum of the row, or drop the rows",
        ),
    ]
    if "volume" in bars:
        volume = bars["volume"].to_numpy(np.float64)
        faults.append(((volume < 0) | np.isinf(volume), "finite volume of at least 0", "Set it to NaN where unknown"))
    for flags, domain, cure in faults:
        wrong = np.asarray(flags)
        if wrong.any():
            row = int(np.argmax(wrong))
            shown = ", ".join(f"{column}={float(value):g}" for column, value in zip(PRICES, prices[row], strict=True))
            if "volume" in domain:
                shown = f"volume={float(bars['volume'].iloc[row]):g}"
            raise BarsError(
                f"`{name}` must have {domain}; got {shown} at {bars.index[row]} (row {row}; "
                f"{int(wrong.sum())} such row(s)). {cure}."
            )


# --------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class RowKeys:
    """Whose each row is, and when: what windows, folds and purges go by.

    Attributes
    ----------
    time : ndarray of int64, shape (n,)
        Nanoseconds for an index of times, positions otherwise. Never decreasing.
    instrument : ndarray of int64, shape (n,)
        The instrument's number, 0 throughout for a single one.
    index : Index or None
        The frame's index, None for an array.
    """

    time: IntArray
    instrument: IntArray
    index: pd.Index[Any] | None

    @property
    def panel(self) -> bool:
        """Whether rows carry an instrument."""
        return isinstance(self.index, pd.MultiIndex)

    def axis(self) -> pd.Index[Any]:
        """Return the time of each row as pandas knows it (positions where there is none)."""
        if self.index is None:
            return pd.RangeIndex(len(self.time))
        return self.index.get_level_values(0) if self.panel else self.index


def row_keys(X: Any, *, name: str = "X") -> RowKeys:
    """Return time and instrument of each row of a frame or an array.

    Parameters
    ----------
    X : DataFrame, Series or array-like of shape (n, ...)
        A frame indexed by time or by (datetime, instrument). Anything else is one
        instrument whose rows are in order.
    name : str, default="X"
        How messages call it.

    Returns
    -------
    RowKeys
        Time, instrument and index.

    Raises
    ------
    BarsError
        If an index of times is unsorted, repeated or has holes.
    """
    index = X.index if isinstance(X, pd.DataFrame | pd.Series) else None
    if not isinstance(index, pd.MultiIndex | pd.DatetimeIndex):
        n = len(X)
        return RowKeys(np.arange(n, dtype=np.int64), np.zeros(n, dtype=np.int64), None)
    _check_index(index, name)
    times = index.get_level_values(0)
    nanoseconds = pd.DatetimeIndex(times).as_unit("ns").asi8.copy()
    return RowKeys(nanoseconds, instrument_codes(index)[0], index)


def instrument_codes(index: pd.Index[Any]) -> tuple[IntArray, list[Hashable]]:
    """Return the instrument number of each row and the instruments' names.

    Parameters
    ----------
    index : Index
        A ``MultiIndex`` (datetime, instrument), or the index of a single instrument.

    Returns
    -------
    codes : ndarray of int64, shape (n,)
        Numbers in order of name; 0 throughout for a single instrument.
    names : list
        One name a number; ``[None]`` for a single instrument.
    """
    if not isinstance(index, pd.MultiIndex):
        return np.zeros(len(index), dtype=np.int64), [None]
    codes, names = pd.factorize(index.get_level_values(1), sort=True)
    return codes.astype(np.int64), list(names)


def pack_index(index: pd.Index[Any] | None) -> dict[str, Any]:
    """Turn an index of times into plain arrays and strings, which any safe format can store.

    Parameters
    ----------
    index : DatetimeIndex, MultiIndex (datetime, instrument) or None
        None stands for positions.

    Returns
    -------
    dict
        What `unpack_index` takes.
    """
    if not isinstance(index, pd.DatetimeIndex | pd.MultiIndex):
        return {}
    times = pd.DatetimeIndex(index.get_level_values(0))
    packed: dict[str, Any] = {
        "time": times.as_unit("ns").asi8.copy(),
        "tz": None if times.tz is None else str(times.tz),
        "names": [None if label is None else str(label) for label in index.names],
    }
    if isinstance(index, pd.MultiIndex):
        codes, instruments = instrument_codes(index)
        packed |= {"instrument": codes, "instruments": [str(label) for label in instruments]}
    return packed


def unpack_index(packed: Mapping[str, Any], n: int) -> pd.Index[Any]:
    """Rebuild the index that `pack_index` took apart (positions for an empty one).

    Parameters
    ----------
    packed : mapping
        What `pack_index` returned.
    n : int
        How many rows, for positions.

    Returns
    -------
    Index
        The index.
    """
    if not packed:
        return pd.RangeIndex(n)
    times = pd.DatetimeIndex(np.asarray(packed["time"]).view("M8[ns]"))
    if packed["tz"] is not None:
        times = times.tz_localize("UTC").tz_convert(packed["tz"])
    if "instrument" not in packed:
        return times.rename(packed["names"][0])
    labels = np.asarray(packed["instruments"], dtype=object)[packed["instrument"]]
    return pd.MultiIndex.from_arrays([times, labels], names=packed["names"])


# ----------------------------------------------------------------------- sessions


@dataclass(frozen=True)
class Session:
    """A daily session by its opening and closing wall-clock time.

    Attributes
    ----------
    open, close : str
        ``"HH:MM"``. A close at or before the open is on the next day (futures).
    tz : str
        The time zone of both, daylight saving included.

    Examples
    --------
    >>> from ensemble_kit.bars import Session
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
        at = dt.time.fromisoformat(clock)
    except ValueError:
        raise BarsError(f"`Session` times must be 'HH:MM'; got {clock!r}. Write '09:30', say.") from None
    return at.hour * 60.0 + at.minute


@dataclass(frozen=True)
class SessionTimes:
    """Where each bar lies in its session.

    Attributes
    ----------
    day : ndarray of int64, shape (n,)
        The session's number (days since 1970 of its opening date): equal within a session.
    minute : ndarray of float64, shape (n,)
        Minutes from the session's open to the bar's open; below 0 before it.
    length : ndarray of float64, shape (n,)
        Minutes of that session, half days included.
    """

    day: IntArray
    minute: FloatArray
    length: FloatArray

    @property
    def weekday(self) -> IntArray:
        """Day of the week, 0 for Monday."""
        # 1970-01-01 was a Thursday.
        return (self.day + 3) % 7


def session_times(index: pd.Index[Any], session: str | Session = "day") -> SessionTimes:
    """Return the session of each bar, how far into it the bar opens, and its length.

    Sessions are given, never inferred from the bars: a prefix gives what the whole gives.

    Parameters
    ----------
    index : DatetimeIndex or MultiIndex (datetime, instrument)
        The bars' index.
    session : "day", exchange code or Session, default="day"
        The index's own calendar day; an exchange such as ``"XNYS"``, half days and
        daylight saving included; or fixed wall-clock times.

    Returns
    -------
    SessionTimes
        Day, minute and length of each row.

    Raises
    ------
    BarsError
        If the exchange is unknown, or the times are naive where a zone is needed.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.bars import session_times
    >>> index = pd.DatetimeIndex(["2022-11-23 14:30", "2022-11-25 17:55"], tz="UTC")
    >>> times = session_times(index, "XNYS")
    >>> times.minute.tolist(), times.length.tolist()  # the 25th is a half day
    ([0.0, 205.0], [390.0, 210.0])
    """
    times = pd.DatetimeIndex(index.get_level_values(0))
    if isinstance(session, Session):
        return _wall_clock_times(times, session)
    if session == "day":
        local = times.tz_localize(None)
        day = local.normalize()
        minute = (local - day) / pd.Timedelta(minutes=1)
        return SessionTimes(_day_number(day), minute.to_numpy(np.float64), np.full(len(times), _DAY_MINUTES))
    return _exchange_times(times, session)


def _day_number(days: pd.DatetimeIndex) -> IntArray:
    return days.to_numpy().astype("M8[D]").astype(np.int64)


def _local(times: pd.DatetimeIndex, tz: str, session: object) -> pd.DatetimeIndex:
    if times.tz is None:
        raise BarsError(
            f"`bars` must have tz-aware times for session={session!r}; got naive ones. "
            "Localise with `bars.tz_localize('UTC')` (or the zone they are in)."
        )
    return times.tz_convert(tz).tz_localize(None)


def _wall_clock_times(times: pd.DatetimeIndex, session: Session) -> SessionTimes:
    shifted = _local(times, session.tz, session) - pd.Timedelta(minutes=session.open_minute)
    day = shifted.normalize()
    minute = ((shifted - day) / pd.Timedelta(minutes=1)).to_numpy(np.float64)
    return SessionTimes(_day_number(day), minute, np.full(len(times), session.minutes))


@lru_cache(maxsize=32)
def _exchange_schedule(code: str, first: str, last: str) -> tuple[str, pd.DataFrame]:
    """Return the zone and, by date, open (minutes from midnight) and length of each session."""
    # Imported here: building a calendar takes a second, and most users never name an exchange.
    import exchange_calendars as xcals

    try:
        calendar = xcals.get_calendar(code, start=first, end=last)
    except xcals.errors.InvalidCalendarName:
        raise BarsError(
            f"`session` must be 'day', an exchange code or a Session; got {code!r}. "
            "Exchange codes are ISO 10383 ones, such as 'XNYS' or 'XLON'; "
            "`exchange_calendars.get_calendar_names()` lists them."
        ) from None
    schedule = calendar.schedule
    opens = schedule["open"].dt.tz_convert(calendar.tz)
    minute = opens.dt.hour * 60.0 + opens.dt.minute
    length = (schedule["close"] - schedule["open"]) / pd.Timedelta(minutes=1)
    return str(calendar.tz), pd.DataFrame({"open": minute, "length": length})


def _exchange_times(times: pd.DatetimeIndex, code: str) -> SessionTimes:
    if len(times) == 0:
        return SessionTimes(np.empty(0, np.int64), np.empty(0), np.empty(0))
    # Whole years keep the cache small and the schedule the same for every prefix of a year.
    first, last = f"{times[0].year - 1}-12-01", f"{times[-1].year + 1}-01-31"
    tz, schedule = _exchange_schedule(code, first, last)
    local = _local(times, tz, code)
    day = local.normalize()
    known = schedule.reindex(day)
    # A bar on a holiday belongs to its own day and is measured by the exchange's usual hours.
    usual = schedule.mode().iloc[0]
    minute = ((local - day) / pd.Timedelta(minutes=1)).to_numpy(np.float64)
    opens = known["open"].fillna(usual["open"]).to_numpy(np.float64)
    length = known["length"].fillna(usual["length"]).to_numpy(np.float64)
    return SessionTimes(_day_number(day), minute - opens, length)
