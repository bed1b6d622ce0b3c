"""Which bars are taken: each one that comes is new, history, known already, or refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ensemble_kit.bars import PRICES, check_bars
from ensemble_kit.exceptions import BarsError
from ensemble_kit.sessions import SessionTimes, session_times
from ensemble_kit.tracking.intake import MAX_ROWS, read_table, session_of

__all__ = ["Verdict", "closes_at", "judge_bars", "read_bars_sent"]

_DAY = pd.Timedelta(days=1)
#: How far the clocks of a feed and of this machine may lie apart.
SKEW = pd.Timedelta(seconds=2)
#: A price above so many times the close before it, or below as small a part of it, is a bad print, or a split that
#: nobody adjusted for: no market that is traded by bars does so from one to the next.
JUMP = 2.0


@dataclass(frozen=True)
class Verdict:
    """What is to be done with one bar.

    Attributes
    ----------
    row : int
        Its row in the frame that was judged.
    time : Timestamp
        Its open, in UTC.
    status : str
        ``"take"``: decide on it. ``"place"``: it is history. ``"duplicate"``: it is there with the
        same values. ``"refuse"``: not to be used.
    reason : str or None
        Why it is refused, or is history.
    missing : int
        Of one to decide on: how many bars of its session, and of the one before, lack before it.
    """

    row: int
    time: pd.Timestamp
    status: str
    reason: str | None = None
    missing: int = 0


def read_bars_sent(sent: pd.DataFrame, card: Mapping[str, Any], *, symbol: str) -> pd.DataFrame:
    """Turn what was sent into a frame of the model's columns, sorted by time.

    Parameters
    ----------
    sent : DataFrame of shape (n, n_columns)
        A table with `timestamp` as `tracking.intake.admit` takes it, or a frame on a
        ``DatetimeIndex``. Rows in any order, times may repeat.
    card : mapping
        The model's card.
    symbol : str
        What is traded: a column `instrument`, where there is one, must say so.

    Returns
    -------
    DataFrame of shape (n, n_columns)
        In the time zone of training, with the columns that were known there.

    Raises
    ------
    BarsError
        If the table as a whole cannot be read: columns, times, another instrument, too many rows.
    """
    if isinstance(sent, pd.DataFrame) and "timestamp" not in sent and isinstance(sent.index, pd.DatetimeIndex):
        # What the model was never given in training it is not given now.
        sent = sent[[name for name in sent.columns if name in card["columns"]]]
        sent = sent.assign(timestamp=sent.index).reset_index(drop=True)
    _check_sent(sent, card)
    try:
        bars = read_table(sent, card)[card["columns"]]
    except BarsError:
        _check_times(sent)
        raise
    if isinstance(bars.index, pd.MultiIndex):
        others = sorted({str(name) for name in bars.index.get_level_values(1)} - {symbol})
        if others:
            raise BarsError(f"`instrument` must be {symbol} on every row; got {', '.join(others[:5])}. Send its bars.")
        bars = bars.droplevel(1)
    if bars.index.hasnans:
        raise BarsError(
            f"`bars` must have a time on every row; row {int(np.argmax(bars.index.isna()))} has none. Drop it."
        )
    return bars.sort_index(kind="stable")


def judge_bars(
    bars: pd.DataFrame,
    *,
    known: pd.DataFrame,
    newest: pd.Timestamp | None,
    n_known: int,
    decided: bool,
    card: Mapping[str, Any],
    now: pd.Timestamp,
    trade_from: pd.Timestamp | None = None,
    before: pd.DataFrame | None = None,
) -> list[Verdict]:
    """Judge bars that were sent, one by one.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        From `read_bars_sent`.
    known : DataFrame of shape (m, n_columns)
        The journal's bars from the first of these times on, in UTC.
    newest : Timestamp or None
        The journal's newest bar.
    n_known : int
        How many the journal has; looked at until the first decision.
    decided : bool
        Whether anything was decided yet. Until then earlier bars are placed, afterwards they are
        late: what was decided without them would not come out again.
    card : mapping
        The model's card: the bar's length, the session, and the history it needs.
    now : Timestamp
        The clock.
    trade_from : Timestamp, default=None
        The first bar that may be traded; earlier ones are history. None for any.
    before : DataFrame of shape (0 or 1, n_columns), default=None
        The journal's last bar before these times, in UTC.

    Returns
    -------
    list of Verdict
        One a row, in order of time. A row is refused if a price is missing or impossible, or more
        than `JUMP` times, or less than that part of, the close before it ("jump"); if it
        was there already with other values ("conflict"); if it is older than the newest and was
        not there ("late"); if it does not lie on the bars' grid, counted from the session's open
        or from midnight; if it opens outside the session; or if it has not closed yet. Bars
        of a day and more are not held against a session's hours.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn.linear_model import LogisticRegression
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.live.gate import judge_bars
    >>> from ensemble_kit.tracking.intake import intake_terms
    >>> bars = make_bars(100, random_state=0)
    >>> card = intake_terms(LogisticRegression(), bars, session="XNYS")
    >>> now = pd.Timestamp("2022-01-04 14:42", tz="UTC")
    >>> verdicts = judge_bars(bars[77:81], known=bars[77:78], newest=bars.index[77], n_known=78,
    ...                       decided=True, card=card, now=now)
    >>> [verdict.status for verdict in verdicts], verdicts[-1].reason
    (['duplicate', 'take', 'take', 'refuse'], 'too early: it closes at 2022-01-04 14:45:00+00:00')
    """
    index = pd.DatetimeIndex(bars.index)
    times, closes = _utc(index), closes_at(index, card)
    faults, off = _price_faults(bars), _place_faults(index, card)
    seen = dict(zip(known.index, known.reindex(columns=bars.columns).to_numpy(np.float64), strict=True))
    values = bars.to_numpy(np.float64)
    needed = max(int(card["min_history"]) - 1, 1)
    begin = None if trade_from is None else _utc(pd.DatetimeIndex([trade_from]))[0]
    prices = bars[list(PRICES)].to_numpy(np.float64)
    path = _Path(known if before is None else pd.concat([before, known]), index, card)
    verdicts = []
    for row, time in enumerate(times):
        path.move(time)
        status, reason = "take", None
        if time in seen:
            same = np.array_equal(seen[time], values[row], equal_nan=True)
            status, reason = (
                ("duplicate", None) if same else ("refuse", _conflict(bars.columns, seen[time], values[row]))
            )
        elif (fault := faults.get(row) or off.get(row) or path.jump(prices[row])) is not None:
            status, reason = "refuse", fault
        elif closes[row] > now + SKEW:
            status, reason = "refuse", f"too early: it closes at {closes[row]}"
        elif newest is not None and time < newest and decided:
            status, reason = "refuse", f"late: bars up to {newest} were decided on without it"
        elif begin is not None and time < begin:
            status, reason = "place", f"history: trading begins at {begin}"
        elif not decided and newest is not None and time < newest:
            status, reason = "place", "history: later bars are there already"
        elif not decided and n_known < needed:
            status, reason = "place", f"history: the model needs {needed} earlier bars, {n_known} are there"
        missing = path.missing(time) if status == "take" else 0
        if status in {"take", "place"}:
            path.accept(time, float(prices[row, -1]))
            seen[time], n_known = values[row], n_known + 1
            newest, decided = time if newest is None else max(newest, time), decided or status == "take"
        verdicts.append(Verdict(row, time, status, reason, missing))
    return verdicts


class _Path:
    """The bar before each row: the newest that is known, or was accepted, by its time."""

    def __init__(self, known: pd.DataFrame, index: pd.DatetimeIndex, card: Mapping[str, Any]) -> None:
        self._known = [*zip(known.index, known["close"].to_numpy(np.float64), strict=True)][::-1]
        self._index, self._card = index, card
        self._time: pd.Timestamp | None = None
        self._close = np.nan

    def move(self, time: pd.Timestamp) -> None:
        """Go on to a row's time."""
        while self._known and self._known[-1][0] < time:
            self.accept(*self._known.pop())

    def accept(self, time: pd.Timestamp, close: float) -> None:
        """Take a bar for the one before the next, unless a later one is."""
        if self._time is None or time > self._time:
            self._time, self._close = time, close

    def jump(self, prices: Any) -> str | None:
        """Say what is wrong with prices that do not go on from the close before."""
        for name, price in zip(PRICES, prices, strict=True):
            if price > JUMP * self._close or price < self._close / JUMP:
                return (
                    f"jump: {name} {price:g} after a close of {self._close:g}: a bad print, or a split that the bars "
                    "before it are not adjusted for"
                )
        return None

    def missing(self, time: pd.Timestamp) -> int:
        """Return how many bars lack between the bar before and a row, nights and whole sessions not counted."""
        bar = pd.Timedelta(self._card["bar"])
        if self._time is None or bar >= _DAY or time - self._time <= bar:
            return 0
        pair = pd.DatetimeIndex([self._time, time])
        pair = pair.tz_localize(None) if self._index.tz is None else pair.tz_convert(self._index.tz)
        times, step = session_times(pair, session_of(self._card)), bar / pd.Timedelta(minutes=1)
        first, last = (float(minute) / step for minute in times.minute)
        if times.day[0] == times.day[1]:
            return max(round(last - first) - 1, 0)
        if not self._card["fills_session"]:
            return 0
        after = np.ceil(float(times.length[0]) / step - first) - 1
        return int(max(after, 0)) + int(max(np.floor(last), 0))


def closes_at(index: pd.DatetimeIndex, card: Mapping[str, Any]) -> pd.DatetimeIndex:
    """Return when bars close: after their length, but not after their session does.

    Parameters
    ----------
    index : DatetimeIndex of shape (n,)
        Their opens, in order.
    card : mapping
        The model's card: the bar's length and the session.

    Returns
    -------
    DatetimeIndex of shape (n,)
        In UTC.
    """
    bar = pd.Timedelta(card["bar"])
    if bar >= _DAY or len(index) == 0:
        return _utc(index) + bar
    times = session_times(index, session_of(card))
    left = times.length - times.minute
    inside = (times.minute >= 0) & (left > 0)
    lasts = np.where(inside, np.minimum(left, bar / pd.Timedelta(minutes=1)), bar / pd.Timedelta(minutes=1))
    return _utc(index) + pd.to_timedelta(lasts, unit="min")


def _check_sent(sent: pd.DataFrame, card: Mapping[str, Any]) -> None:
    if not isinstance(sent, pd.DataFrame):
        return
    if not 0 < len(sent) <= MAX_ROWS:
        cure = "Send at least one bar" if len(sent) == 0 else "Send them in several requests, the oldest first"
        raise BarsError(f"`bars` must have 1 to {MAX_ROWS} rows; got {len(sent)}. {cure}.")
    # True would be read as 1.0.
    truths = [str(name) for name in card["columns"] if name in sent and pd.api.types.is_bool_dtype(sent[name])]
    if truths:
        raise BarsError(f"`bars` must have numeric prices and volumes; got {', '.join(truths)} of bool. Send numbers.")


def _check_times(sent: pd.DataFrame) -> None:
    """Name a time that cannot be read, in the words of whoever sent it."""
    texts = [value for value in sent.get("timestamp", []) if isinstance(value, str)]
    for text in texts:
        try:
            pd.to_datetime(text, format="ISO8601")
        except ValueError:
            raise BarsError(
                f"`timestamp` must be ISO 8601 text, such as '2024-01-02T14:30:00Z'; got {text[:40]!r}. "
                "Nothing of the request was taken: mend it and send it again."
            ) from None


def _utc(index: pd.DatetimeIndex) -> pd.DatetimeIndex:
    index = index.as_unit("ns")
    return index.tz_localize("UTC") if index.tz is None else index.tz_convert("UTC")


def _price_faults(bars: pd.DataFrame) -> dict[int, str]:
    """Return what is wrong with the prices of each row that has a fault."""
    unknown = bars[list(PRICES)].isna().to_numpy()
    faults = {
        int(row): f"no price: {', '.join(np.array(PRICES)[unknown[row]])} is NaN"
        for row in np.flatnonzero(unknown.any(axis=1))
    }
    try:
        if len(bars):
            check_bars(bars.set_axis(pd.to_datetime(np.arange(len(bars)))))  # the same time may stand twice
    except BarsError:
        for row in range(len(bars)):
            try:
                check_bars(bars.iloc[[row]], name="bar")
            except BarsError as error:
                faults.setdefault(row, str(error).partition(f" at {bars.index[row]}")[0])  # the cure is a file's
    return faults


def _place_faults(index: pd.DatetimeIndex, card: Mapping[str, Any]) -> dict[int, str]:
    """Return what is wrong with the times of each row that has a fault."""
    bar = pd.Timedelta(card["bar"])
    if bar >= _DAY or len(index) == 0:
        return {}
    times = session_times(index, session_of(card))
    step = bar / pd.Timedelta(minutes=1)
    faults = {}
    for row in range(len(index)):
        if not _on_grid(times, row, step):
            faults[row] = f"off the grid: bars of {str(bar).removeprefix('0 days ')} do not open at {index[row]}"
        elif times.holiday[row] or not 0 <= times.minute[row] < times.length[row]:
            faults[row] = f"outside the session {card['session']}"
    return faults


def _on_grid(times: SessionTimes, row: int, step: float) -> bool:
    # Hours are counted from the open by some providers, from midnight by others.
    return any(abs(at - np.round(at / step) * step) < 1e-6 for at in (times.minute[row], times.clock[row]))


def _conflict(columns: pd.Index[Any], there: Any, sent: Any) -> str:
    differ = [
        f"{name} {old:g} against {new:g}"
        for name, old, new in zip(columns, there, sent, strict=True)
        if not (old == new or (np.isnan(old) and np.isnan(new)))
    ]
    return f"conflict: it is there with other values ({', '.join(differ)})"
