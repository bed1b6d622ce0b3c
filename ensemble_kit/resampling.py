"""Bars of another size: by the clock, by trading time, by volume or dollars traded; and how to join them back.

A higher bar is known when its last row has closed, not when it opens. Every bar made here says
when that was (``known_at``), `as_known` joins by it, and a last bar that may still grow is left out.
"""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import PRICES, check_bars, instrument_codes, row_keys
from ensemble_kit.exceptions import BarsError
from ensemble_kit.sessions import Session, session_times

__all__ = ["as_known", "dollar_bars", "resample", "volume_bars"]

_DAY = 86_400_000_000_000  # nanoseconds
_MINUTE = 60_000_000_000
_NEVER = np.iinfo(np.int64).min  # what pandas reads as NaT

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def resample(
    bars: pd.DataFrame,
    rule: str | pd.Timedelta,
    *,
    session: str | Session = "day",
    clock: Literal["wall", "trading"] = "wall",
    bar_length: str | pd.Timedelta | None = None,
    drop_last: bool = True,
) -> pd.DataFrame:
    """Make bars of a longer time from bars, or of any time from ticks.

    Parameters
    ----------
    bars : DataFrame of shape (n_rows, n_columns)
        A bar frame, or ticks: a ``price`` (or ``bid`` and ``ask``, whose middle is the price)
        and perhaps a ``volume`` in place of open, high, low and close. Ticks may share a time.
    rule : str or Timedelta
        The time a bar takes: ``"18s"``, ``"15min"``, ``"1h"``, ``"1D"``, ``"64h"``.
    session : "day", exchange code or Session, default="day"
        As in `session_times`. Rows that open outside the session, or on an exchange's holiday, are left out.
    clock : {"wall", "trading"}, default="wall"
        ``"wall"``: each session is cut from its open on, and its last bar ends with it, so no bar
        holds two sessions and ``"1D"`` is one bar a session. ``"trading"``: minutes outside
        the sessions do not exist, and a bar runs on from one session into the next until it
        has `rule` of them: 64 hours of a session of 6.5 are 9.85 sessions.
    bar_length : str or Timedelta, default=None
        The time a row of `bars` takes. With it a bar is known as soon as the row that
        reaches its end has closed; without it, when a later bar's first row opens.
    drop_last : bool, default=True
        Whether to leave out each instrument's last bar while rows may still join it.
        If kept, its ``known_at`` is NaT.

    Returns
    -------
    DataFrame of shape (n_bars, n_columns + 1)
        A bar frame, each bar at the time of its first row: open of the first row, close of the last,
        the highest high and lowest low, the sum of the known volumes (NaN where none is), vwap
        weighted by volume, and of any other column (``bid``, ``ask_size``, ...) the last row's
        value. ``known_at`` is the moment from which the bar may be used. Intervals without
        a row give no bar; rows with a NaN price add nothing. Ticks with a volume get a ``vwap``.

    Raises
    ------
    BarsError
        If the bars are not a bar frame or ticks, the rule or the row's length is no positive time,
        a wall clock's rule is longer than a day, rows are closer than `bar_length` or take
        longer than `rule`, or the session is unknown or needs a zone.

    See Also
    --------
    as_known : Join the bars, or what is made of them, to the rows they came from.
    dollar_bars : Bars of equal turnover.

    Notes
    -----
    The bars of a prefix are the first bars of the whole: nothing is centred or inferred from
    later rows. Trading time is counted, instrument by instrument, from the open of its first session, over
    the sessions that have rows and by their own lengths (an exchange code knows half days, a `Session`
    does not; a break at noon counts). Rows that begin with another session therefore give other bars:
    live, too, begin where the training rows began.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.resampling import resample
    >>> from ensemble_kit.sessions import Session
    >>> bars = make_bars(78, random_state=0)  # a day of 5 minutes each
    >>> new_york = Session("09:30", "16:00", "America/New_York")
    >>> hours = resample(bars, "1h", session=new_york, bar_length="5min")
    >>> [f"{bar:%H:%M}-{known:%H:%M}" for bar, known in hours["known_at"].tail(3).items()]  # in UTC
    ['18:30-19:30', '19:30-20:30', '20:30-21:00']
    >>> bars = make_bars(780, random_state=0)  # ten days: a bar of 64 trading hours is known on the tenth
    >>> higher = resample(bars, "64h", session=new_york, clock="trading")
    >>> [f"{bar:%d %H:%M}, {known:%d %H:%M}" for bar, known in higher["known_at"].items()]
    ['03 14:30, 14 20:00']
    """
    step = _nanoseconds(rule, "rule")
    if clock not in {"wall", "trading"}:
        raise BarsError(f"`clock` must be 'wall' or 'trading'; got {clock!r}. Trading time leaves closed hours out.")
    if clock == "wall" and step > _DAY:
        raise BarsError(
            f"`rule` must be at most a day on the wall clock, where no bar holds two sessions; got {rule!r}. "
            f"Count trading time with `clock='trading'`."
        )
    rows = _Rows.of(bars, bar_length)
    if rows.length > step:
        raise BarsError(
            f"`rule` must be at least `bar_length`, a row's own time; got {rule!r} of rows of {bar_length!r}. "
            "Bars cannot be cut: read finer ones, or ticks."
        )
    day, into, length = _time_in_session(rows, session)
    inside = (into >= 0) & (into < length)
    rows, day, into, length = rows.take(inside), day[inside], into[inside], length[inside]
    new = rows.new_instrument()
    new_day = new | _changes(day)
    if clock == "trading":
        into = into + _time_before(new, new_day, length)
        ends = (into // step + 1) * step
        new_bar = new | _changes(ends)
    else:
        # A day is the whole session, also where it has 25 hours.
        ends = length if step == _DAY else np.minimum((into // step + 1) * step, length)
        new_bar = new_day | _changes(ends)
    return _build(rows, new_bar, into + rows.length >= ends, drop_last)


def volume_bars(
    bars: pd.DataFrame, threshold: float, *, bar_length: str | pd.Timedelta | None = None, drop_last: bool = True
) -> pd.DataFrame:
    """Make bars of equal volume: each takes rows until their volume reaches the threshold.

    Parameters
    ----------
    bars : DataFrame of shape (n_rows, n_columns)
        Bars or ticks with a ``volume``, as in `resample`.
    threshold : float
        Volume of a bar, in the volume's own unit. A row is never cut: what it holds beyond
        the threshold stays in its bar, and the next begins at 0.
    bar_length : str or Timedelta, default=None
        As in `resample`.
    drop_last : bool, default=True
        As in `resample`.

    Returns
    -------
    DataFrame of shape (n_bars, n_columns + 1)
        As in `resample`. Ticks of one time stay together. An unknown volume counts as none.

    Raises
    ------
    BarsError
        If the bars are not a bar frame or ticks with a volume, or the threshold is not above 0.

    References
    ----------
    M. Lopez de Prado, Advances in Financial Machine Learning (2018), chapter 2.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.resampling import volume_bars
    >>> bool((volume_bars(make_bars(500, random_state=0), 1e6)["volume"] >= 1e6).all())
    True
    """
    rows = _Rows.of(bars, bar_length, volume=True)
    return _fill_bars(rows, rows.known_volume(), threshold, drop_last)


def dollar_bars(
    bars: pd.DataFrame, threshold: float, *, bar_length: str | pd.Timedelta | None = None, drop_last: bool = True
) -> pd.DataFrame:
    """Make bars of equal turnover: each takes rows until price times volume reaches the threshold.

    Parameters
    ----------
    bars : DataFrame of shape (n_rows, n_columns)
        Bars or ticks with a ``volume``, as in `resample`. A row's price is its vwap where
        known, else its close.
    threshold : float
        Turnover of a bar, in price times volume. A row is never cut: what it holds beyond
        the threshold stays in its bar, and the next begins at 0.
    bar_length : str or Timedelta, default=None
        As in `resample`.
    drop_last : bool, default=True
        As in `resample`.

    Returns
    -------
    DataFrame of shape (n_bars, n_columns + 1)
        As in `resample`. Ticks of one time stay together. An unknown volume counts as none.

    Raises
    ------
    BarsError
        If the bars are not a bar frame or ticks with a volume, or the threshold is not above 0.

    References
    ----------
    M. Lopez de Prado, Advances in Financial Machine Learning (2018), chapter 2.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.resampling import dollar_bars
    >>> bars = dollar_bars(make_bars(500, random_state=0), 1e8)
    >>> list(bars)
    ['open', 'high', 'low', 'close', 'volume', 'known_at']
    """
    rows = _Rows.of(bars, bar_length, volume=True)
    price = rows.column("close")
    if "vwap" in rows.frame:
        vwap = rows.column("vwap")
        price = np.where(np.isnan(vwap), price, vwap)
    return _fill_bars(rows, rows.known_volume() * price, threshold, drop_last)


def as_known(
    values: pd.DataFrame,
    *,
    index: pd.Index[Any],
    known_at: pd.Series[Any] | None = None,
    bar_length: str | pd.Timedelta | None = None,
) -> pd.DataFrame:
    """Return, for each lower bar, the last higher bar that was known by then.

    Parameters
    ----------
    values : DataFrame of shape (n_bars, n_columns)
        Higher bars, or columns made of them, row by row.
    index : DatetimeIndex or MultiIndex (datetime, instrument) of length n_rows
        The lower bars' index, sorted by time.
    known_at : Series of shape (n_bars,), default=None
        The higher bars' ``known_at``; None takes that column of `values`.
    bar_length : str or Timedelta, default=None
        The time a lower bar takes: its row may then use what is known at its close. Without
        it, only what is known at its open. Give what `resample` was given.

    Returns
    -------
    DataFrame of shape (n_rows, n_columns)
        On `index`; NaN where no higher bar was known yet. Instruments never mix.

    Raises
    ------
    BarsError
        If there is no ``known_at``, or it is not on the values' index; or if the two
        indexes are not both of one instrument or both of several, or of different zones.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.resampling import as_known, resample
    >>> bars = make_bars(100, random_state=0)
    >>> hours = resample(bars, "1h", bar_length="5min")
    >>> joined = as_known(hours, index=bars.index, bar_length="5min")
    >>> joined.isna().all(axis=1).sum().item()  # the first hour of the day has 6 bars, the last closes it
    5
    >>> change = hours[["close"]].pct_change()
    >>> as_known(change, known_at=hours["known_at"], index=bars.index, bar_length="5min").shape
    (100, 1)
    """
    if known_at is None and "known_at" in values:
        known_at = values["known_at"]
    if known_at is None or not known_at.index.equals(values.index):
        raise BarsError(
            f"`known_at` must be given, on the index of `values`; got {'none' if known_at is None else 'another index'}"
            ". Pass the column `known_at` of the higher bars."
        )
    kinds = [(type(one).__name__, str(_times_of(one).tz)) for one in (index, values.index)]
    if kinds[0] != kinds[1] or not _times_of(index).is_monotonic_increasing:
        raise BarsError(
            f"`index` must be sorted by time, and of the kind and zone of the index of `values`; got "
            f"{' in '.join(kinds[0])} and {' in '.join(kinds[1])}. Pass the index of the bars that were resampled."
        )
    panel = isinstance(index, pd.MultiIndex)
    length = 0 if bar_length is None else _nanoseconds(bar_length, "bar_length")
    known = _utc(pd.DatetimeIndex(known_at))
    names = values.index.get_level_values(-1).unique() if panel else pd.Index([0])
    of = names.get_indexer(values.index.get_level_values(-1)) if panel else np.zeros(len(values), np.int64)
    who = names.get_indexer(index.get_level_values(-1)) if panel else np.zeros(len(index), np.int64)
    higher = pd.DataFrame({"at": known, "who": of, "row": np.arange(len(values))})
    higher = higher[known != _NEVER].sort_values("at", kind="stable")
    lower = pd.DataFrame({"at": _utc(_times_of(index)) + length, "who": who})
    row = pd.merge_asof(lower, higher, on="at", by="who")["row"].fillna(-1).to_numpy(np.int64)
    return values.set_axis(pd.RangeIndex(len(values))).reindex(row).set_axis(index)


# ------------------------------------------------------------------------- rows, in and out


@dataclass(frozen=True)
class _Rows:
    """The rows of a bar frame, one instrument after another, each in time."""

    frame: pd.DataFrame
    time: IntArray  # nanoseconds, UTC
    instrument: IntArray
    length: int  # nanoseconds a row takes; 0 where not known

    @classmethod
    def of(cls, bars: pd.DataFrame, bar_length: str | pd.Timedelta | None, *, volume: bool = False) -> _Rows:
        ticks = _are_ticks(bars)
        if ticks and bar_length is not None:
            raise BarsError(
                f"`bar_length` must be None for ticks, which take no time; got {bar_length!r}. Leave it out."
            )
        bars = check_bars(_one_row_a_time(bars) if ticks else bars, require=["volume"] if volume else [])
        keys = row_keys(bars, name="bars")
        length = 0 if bar_length is None else _nanoseconds(bar_length, "bar_length")
        rows = cls(bars, keys.time, keys.instrument, length)
        if keys.panel:
            rows = rows.take(np.argsort(keys.instrument, kind="stable"))
        near = np.diff(rows.time) < length
        near &= np.diff(rows.instrument) == 0
        if near.any():
            at = int(np.argmax(near))
            raise BarsError(
                f"`bar_length` must be at most the time between rows; got {bar_length!r} where rows are "
                f"{pd.Timedelta(int(rows.time[at + 1] - rows.time[at]))} apart, at {rows.frame.index[at]}. "
                "It is the time one row of `bars` takes."
            )
        return rows

    def take(self, rows: IntArray | BoolArray) -> _Rows:
        return _Rows(self.frame.iloc[rows], self.time[rows], self.instrument[rows], self.length)

    def column(self, name: str) -> FloatArray:
        return self.frame[name].to_numpy(np.float64)

    def known_volume(self) -> FloatArray:
        return np.nan_to_num(self.column("volume"))

    def priced(self) -> BoolArray:
        return ~np.isnan(self.frame[list(PRICES)].to_numpy(np.float64)).any(axis=1)

    def new_instrument(self) -> BoolArray:
        return _changes(self.instrument)


def _build(rows: _Rows, new_bar: BoolArray, complete: BoolArray, drop_last: bool) -> pd.DataFrame:
    """Aggregate the runs of rows that `new_bar` begins, and say when each was known.

    A run whose last row is `complete` is known at that row's close. Any other could have grown
    until a row beyond it was seen; that is, with rows of a known length, at that row's close.
    """
    n = len(new_bar)
    run = np.cumsum(new_bar) - 1
    last = np.append(np.flatnonzero(new_bar)[1:], n) - 1 if n else np.empty(0, np.int64)
    beyond = np.minimum(last + 1, n - 1)
    followed = (last + 1 < n) & (rows.instrument[beyond] == rows.instrument[last])
    known = np.where(followed, rows.time[beyond] + rows.length, _NEVER)
    known = np.where(complete[last], rows.time[last] + rows.length, known)
    used = rows.priced()
    if drop_last:
        used &= (known != _NEVER)[run]
    rows, run = rows.take(used), run[used]
    out = _aggregate(rows, run)
    out["known_at"] = _to_times(known[run[_changes(run)]], rows.frame.index)
    return _by_time(out)


def _by_time(bars: pd.DataFrame) -> pd.DataFrame:
    """Put the rows of several instruments, one instrument after another, in order of time."""
    if not isinstance(bars.index, pd.MultiIndex):
        return bars
    return bars.iloc[np.argsort(_utc(_times_of(bars.index)), kind="stable")]


def _aggregate(rows: _Rows, run: IntArray) -> pd.DataFrame:
    """Make one row of each run of rows."""
    frame, first = rows.frame, np.flatnonzero(_changes(run))
    last = np.append(first[1:], len(frame)) - 1 if len(first) else first
    out = frame.iloc[last].set_axis(frame.index[first])
    o, h, l = (frame[column].to_numpy(np.float64) for column in PRICES[:3])
    out["open"], out["high"], out["low"] = o[first], np.maximum.reduceat(h, first), np.minimum.reduceat(l, first)
    if "volume" in frame:
        volume = frame["volume"].to_numpy(np.float64)
        seen = np.add.reduceat((~np.isnan(volume)).astype(np.int64), first)
        out["volume"] = np.where(seen > 0, np.add.reduceat(np.nan_to_num(volume), first), np.nan)
    if "vwap" in frame:
        vwap = frame["vwap"].to_numpy(np.float64)
        volume = frame["volume"].to_numpy(np.float64) if "volume" in frame else np.full(len(vwap), np.nan)
        weight = np.where(np.isnan(vwap), 0.0, np.nan_to_num(volume))
        total = np.add.reduceat(weight, first)
        with np.errstate(invalid="ignore"):  # no known volume, no known vwap
            out["vwap"] = np.add.reduceat(weight * np.nan_to_num(vwap), first) / total
    return out


def _to_times(nanoseconds: IntArray, index: pd.Index[Any]) -> pd.DatetimeIndex:
    like = _times_of(index)
    times = pd.DatetimeIndex(nanoseconds.view("M8[ns]"))
    if like.tz is not None:
        times = times.tz_localize("UTC").tz_convert(like.tz)
    return times.as_unit(like.unit)


# ------------------------------------------------------------------------------------ ticks


def _are_ticks(bars: object) -> bool:
    if not isinstance(bars, pd.DataFrame) or bars.empty or bars.columns.has_duplicates:
        return False
    columns = set(bars.columns)
    return columns.isdisjoint(PRICES) and ("price" in columns or {"bid", "ask"} <= columns)


def _one_row_a_time(ticks: pd.DataFrame) -> pd.DataFrame:
    """Make a bar of the ticks of each time: they are known together, and times must be unique."""
    times = ticks.index.get_level_values(0)
    if isinstance(times, pd.DatetimeIndex) and not times.is_monotonic_increasing:
        raise BarsError("`bars` must be sorted, with a time on every row; got ticks out of order. Sort them, stably.")
    used = [column for column in ("price", "bid", "ask", "volume") if column in ticks]
    text = [column for column in used if not pd.api.types.is_numeric_dtype(ticks[column])]
    if text:
        raise BarsError(f"`bars` must have numeric prices and volumes; got text in {', '.join(text)}. Convert it.")
    price = ticks["price"] if "price" in ticks else (ticks["bid"] + ticks["ask"]) / 2
    made = dict.fromkeys(PRICES, price.astype(np.float64))
    if "volume" in ticks:
        if (ticks["volume"] < 0).any():
            raise BarsError("`bars` must have volumes of at least 0; got ticks below. Keep a side in its own column.")
        made |= {"volume": ticks["volume"], "vwap": price}
    others = ticks.drop(columns=["price", *made], errors="ignore")
    frame = others.assign(**made)[[*made, *others]]
    if not isinstance(times, pd.DatetimeIndex):
        return frame  # `check_bars` says what is wrong with it
    codes, _ = instrument_codes(ticks.index)
    rows = _Rows(frame, times.as_unit("ns").asi8, codes, 0).take(np.argsort(codes, kind="stable"))
    new_time = rows.new_instrument() | _changes(rows.time)
    run, kept = np.cumsum(new_time) - 1, rows.priced()
    # A time without a price stays, as a row without one: it tells that the time before is over.
    kept |= ~np.logical_or.reduceat(kept, np.flatnonzero(new_time))[run]
    return _by_time(_aggregate(rows.take(kept), run[kept]))


# ------------------------------------------------------------------------- where a bar ends


def _time_in_session(rows: _Rows, session: str | Session) -> tuple[IntArray, IntArray, IntArray]:
    """Return each row's session, the time since its open, and its length, in nanoseconds."""
    moments, of = np.unique(rows.time, return_inverse=True)
    times = _to_times(moments, rows.frame.index)
    at = session_times(times, session)
    into, length = (np.rint(minutes * _MINUTE).astype(np.int64) for minutes in (at.minute, at.length))
    into[at.holiday] = -1  # a day without a session: outside
    wall_clock = isinstance(session, Session) or session == "day"
    if wall_clock and times.tz is not None:
        # On the day the clock is moved, wall-clock minutes repeat or are missing: take what has really passed.
        hours = session if isinstance(session, Session) else Session()
        zone = session.tz if isinstance(session, Session) else times.tz
        days, place = np.unique(at.day, return_inverse=True)
        wall = days * _DAY + int(hours.open_minute) * _MINUTE
        opens, closes = (_moments(ends, zone) for ends in (wall, wall + int(hours.minutes) * _MINUTE))
        into, length = moments - opens[place], (closes - opens)[place]
    return at.day[of], into[of], length[of]


def _moments(wall: IntArray, zone: Any) -> IntArray:
    first = np.ones(len(wall), np.bool_)  # of the two hours that bear one name
    times = pd.DatetimeIndex(wall.view("M8[ns]")).tz_localize(zone, ambiguous=first, nonexistent="shift_forward")
    return _utc(times)


def _time_before(new: BoolArray, new_day: BoolArray, length: IntArray) -> IntArray:
    """Return the trading time of each row's instrument in the sessions before the row's own."""
    lengths = length[new_day]
    # Over a very long panel the sum may wrap around; the difference of two wrapped sums is right.
    before = (np.cumsum(lengths) - lengths)[np.cumsum(new_day) - 1]
    return before - before[new][np.cumsum(new) - 1]


def _fill_bars(rows: _Rows, amount: FloatArray, threshold: float, drop_last: bool) -> pd.DataFrame:
    if not isinstance(threshold, int | float | np.number) or not 0 < threshold < np.inf:
        raise BarsError(
            f"`threshold` must be a finite number above 0; got {threshold!r}. The median day's total over 50, say."
        )
    amount = np.where(rows.priced(), amount, 0.0)
    new_bar, full = _fill(amount, rows.new_instrument(), float(threshold))
    return _build(rows, new_bar, full & (rows.length > 0), drop_last)


@numba.njit(cache=True)
def _fill(amount: FloatArray, new_instrument: BoolArray, threshold: float) -> tuple[BoolArray, BoolArray]:
    new_bar = np.zeros(len(amount), dtype=np.bool_)
    full = np.zeros(len(amount), dtype=np.bool_)
    total = 0.0
    for i in range(len(amount)):
        if new_instrument[i] or total >= threshold:
            new_bar[i] = True
            total = 0.0
        total += amount[i]
        full[i] = total >= threshold
    return new_bar, full


def _changes(values: IntArray) -> BoolArray:
    out = np.ones(len(values), dtype=np.bool_)
    out[1:] = values[1:] != values[:-1]
    return out


def _times_of(index: pd.Index[Any]) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(index.get_level_values(0))


def _utc(times: pd.DatetimeIndex) -> IntArray:
    return times.as_unit("ns").asi8


def _nanoseconds(value: object, name: str) -> int:
    span: Any = pd.NaT
    if isinstance(value, dt.timedelta | np.timedelta64) or (isinstance(value, str) and not value[-1:].isdigit()):
        with suppress(ValueError):
            span = pd.Timedelta(value)
    if span is pd.NaT or span <= pd.Timedelta(0):
        raise BarsError(f"`{name}` must be a time above 0 with its unit; got {value!r}. Write '15min' or '64h', say.")
    return int(span.as_unit("ns").value)
