"""What is wrong or odd in bars, whoever gave them: repeated rows, holes, splits, halts. It looks; it mends nothing."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ensemble_kit.bars import PRICES
from ensemble_kit.datasets.providers._findings import (
    Split,
    Stretch,
    find_gaps,
    find_halts,
    find_splits,
    sessions_of,
)
from ensemble_kit.exceptions import BarsError
from ensemble_kit.sessions import Session

__all__ = ["BarsReport", "Split", "Stretch", "bar_length", "drop_repeated", "report_bars"]

_DAY = pd.Timedelta(days=1)
#: So many of a kind are spelled out.
_SHOWN = 3


@dataclass(frozen=True)
class BarsReport:
    """What `report_bars` found; `str` of it is a few readable lines.

    Attributes
    ----------
    bar : Timedelta
        The bars' length.
    rows, instruments : int
        How many there are.
    start, end : Timestamp
        The first and the last bar's open.
    adjustment : str
        What prices are adjusted for, if the frame's ``attrs`` say so; "not stated" otherwise.
    copies : int
        Rows that are exact copies of another one.
    conflicts : int
        Rows with the time of another one and other values.
    unsorted : bool
        Whether rows were out of order.
    unknown : int
        Rows that lack a price.
    no_volume : int
        Rows with a volume of 0.
    outside : int
        Rows outside the session; 0 where the session is "day".
    gaps : tuple of Stretch
        Bars missing inside sessions.
    splits : tuple of Split
        Jumps that look like splits.
    halts : tuple of Stretch
        Stretches that look like halts.
    """

    bar: pd.Timedelta
    rows: int
    instruments: int
    start: pd.Timestamp
    end: pd.Timestamp
    adjustment: str
    copies: int
    conflicts: int
    unsorted: bool
    unknown: int
    no_volume: int
    outside: int
    gaps: tuple[Stretch, ...]
    splits: tuple[Split, ...]
    halts: tuple[Stretch, ...]

    @property
    def missing(self) -> int:
        """How many bars are missing in all gaps together."""
        return sum(gap.bars for gap in self.gaps)

    def __str__(self) -> str:
        many = f", {self.instruments} instruments" if self.instruments > 1 else ""
        order = ", not in order" if self.unsorted else ""
        lines = [
            f"{self.rows} bars of {_span(self.bar)}{many}, {self.start} to {self.end}{order}",
            f"adjusted for      {self.adjustment}",
            f"repeated rows     {self.copies} copies, {self.conflicts} with other values",
            f"missing bars      {self.missing}{_listed([_run(gap) for gap in self.gaps], 'gaps')}",
            f"suspected splits  {len(self.splits)}{_listed([_jump(split) for split in self.splits])}",
            f"halted stretches  {len(self.halts)}{_listed([_run(halt) for halt in self.halts])}",
            f"volume of 0       {self.no_volume}",
            f"prices unknown    {self.unknown}",
            f"outside sessions  {self.outside}",
        ]
        return "\n".join(lines)


def report_bars(bars: pd.DataFrame, bar: str | pd.Timedelta, *, session: str | Session = "day") -> BarsReport:
    """Look for repeated rows, gaps, splits and halts in any bars, also in ones that `check_bars` would refuse.

    It looks at all bars at once, later ones included: for judging data, not for making features.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Columns ``open high low close`` (and ``volume``), indexed by time or by (datetime,
        instrument); rows may be unsorted and repeated.
    bar : str or Timedelta
        The bars' length: ``"5min"``, ``"1d"``.
    session : str or Session, default="day"
        When the instruments trade, as in `session_times`. An exchange's code knows half days and holidays, so
        that a missing day is a gap, too. With a Session every weekday has one. With "day", nobody can
        know when trading begins and ends: only holes between a day's first and last bar are gaps,
        and daily bars have none.

    Returns
    -------
    BarsReport
        Counts, and where. Stretchs are looked for between an instrument's first and last bar. Bars that no
        trade fell into are not made by many providers, so a gap may be a halt, or mere quiet.

    Raises
    ------
    BarsError
        If `bar` is no time of a second to a day, there is no row, a price is missing, the index is not of
        times, or the session is unknown or needs a zone.

    Notes
    -----
    A split is suspected where a day's first open lies within 5 % of 2/3, 1/2, 2/5, 1/3, ... of the close before, or of
    the inverse. In adjusted prices there should be none; bad news of the night looks the same.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.datasets.providers.report import report_bars
    >>> bars = make_bars(200, random_state=0)
    >>> report = report_bars(bars.drop(bars.index[30:33]), "5min")
    >>> report.missing, len(report.gaps), report.gaps[0].start == bars.index[30]
    (3, 1, True)
    """
    length = bar_length(bar)
    _check(bars)
    frame, copies, conflicts = drop_repeated(bars)
    parts: list[tuple[str | None, pd.DataFrame]]
    if isinstance(frame.index, pd.MultiIndex):
        names = frame.index.get_level_values(1)
        parts = [(str(name), frame[names == name].droplevel(1)) for name in names.unique()]
    else:
        parts = [(None, frame)]
    gaps: list[Stretch] = []
    splits: list[Split] = []
    halts: list[Stretch] = []
    outside = 0
    for name, part in parts:
        times = pd.DatetimeIndex(part.index)
        times = times.tz_localize(None).normalize() if length == _DAY else times
        days, inside = sessions_of(times, length, session)
        outside += int((~inside).sum())
        gaps += find_gaps(name, times, length, session)
        splits += find_splits(name, part, days)
        halts += find_halts(name, part, days)
    times = pd.DatetimeIndex(frame.index.get_level_values(0))
    return BarsReport(
        bar=length,
        rows=len(bars),
        instruments=len(parts),
        start=times.min(),
        end=times.max(),
        adjustment=str(bars.attrs.get("adjustment", "not stated")),
        copies=copies,
        conflicts=conflicts,
        unsorted=not bars.index.is_monotonic_increasing,
        unknown=int(frame[list(PRICES)].isna().any(axis=1).sum()),
        no_volume=int((frame["volume"] == 0).sum()) if "volume" in frame else 0,
        outside=outside,
        gaps=tuple(gaps),
        splits=tuple(splits),
        halts=tuple(halts),
    )


def bar_length(bar: str | pd.Timedelta) -> pd.Timedelta:
    """Return the length of a bar.

    Parameters
    ----------
    bar : str or Timedelta
        ``"5min"``, ``"1h"``, ``"1d"``.

    Returns
    -------
    Timedelta
        The length.

    Raises
    ------
    BarsError
        If it is no time with a unit (pandas takes "5" for nanoseconds), shorter than a second or longer than a day.
    """
    length = None
    with contextlib.suppress(ValueError), warnings.catch_warnings():
        # Everybody writes 1d; pandas would rather have 1D, and says so.
        warnings.simplefilter("ignore", DeprecationWarning)
        length = pd.Timedelta(re.sub(r"(?<=\d)d$", "D", bar) if isinstance(bar, str) else bar)
    without_unit = not isinstance(bar, str | dt.timedelta | np.timedelta64)
    if length is None or without_unit or not pd.Timedelta(seconds=1) <= length <= _DAY:
        raise BarsError(
            f"`bar` must be a time of one second to one day, with its unit; got {bar!r}. Write '5min', '1h' or '1d'."
        )
    return length


def drop_repeated(bars: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """Sort bars by time and keep one of each: the one that came last.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Indexed by time or by (datetime, instrument), in any order.

    Returns
    -------
    bars : DataFrame of shape (m, n_columns)
        Sorted, each time once.
    copies : int
        Rows left out that have the same values as another one of their time.
    conflicts : int
        Rows left out, or rather replaced, that had other values.
    """
    if bars.index.is_unique and bars.index.is_monotonic_increasing:
        return bars, 0, 0
    keyed = bars.reset_index()
    copied = keyed.duplicated(keep="last").to_numpy()
    rest = bars[~copied]
    kept = rest[~rest.index.duplicated(keep="last")]
    return kept.sort_index(kind="stable"), int(copied.sum()), len(rest) - len(kept)


def _check(bars: pd.DataFrame) -> None:
    missing = [column for column in PRICES if column not in bars.columns]
    if missing or bars.empty:
        lacking = f", without {', '.join(missing)}" if missing else ""
        raise BarsError(
            f"`bars` must have rows and the columns {', '.join(PRICES)}; got {len(bars)} rows{lacking}. "
            "Read a file with `read_bars`."
        )
    if not isinstance(bars.index.get_level_values(0), pd.DatetimeIndex):
        raise BarsError(
            f"`bars` must be indexed by time or by (datetime, instrument); got {type(bars.index).__name__}. "
            "Set it with `.set_index(...)`."
        )


def _span(bar: pd.Timedelta) -> str:
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if bar.total_seconds() % seconds == 0:
            return f"{bar.total_seconds() / seconds:g} {unit}"
    return f"{bar.total_seconds():g} s"


def _run(run: Stretch) -> str:
    return f"{_whose(run.instrument)}{run.start} ({run.bars})"


def _jump(split: Split) -> str:
    return f"{_whose(split.instrument)}{split.time} {split.ratio}"


def _whose(instrument: str | None) -> str:
    return f"{instrument} " if instrument is not None else ""


def _listed(items: list[str], counted: str = "") -> str:
    if not items:
        return ""
    more = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{f' in {len(items)} {counted}' if counted else ''}: {', '.join(items[:_SHOWN])}{more}"
