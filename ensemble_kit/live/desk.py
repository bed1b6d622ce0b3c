"""One writer, many readers: a thread that alone moves the trader, and what it publishes after each move."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pandas as pd

from ensemble_kit.exceptions import EnsembleKitError, JournalError
from ensemble_kit.live._due import next_close
from ensemble_kit.live.journal import Journal
from ensemble_kit.live.metrics import Metrics, is_stale
from ensemble_kit.live.records import Decision
from ensemble_kit.live.trader import Outcome, Trader
from ensemble_kit.sizing._directions import find_directions

__all__ = ["Desk", "Reader", "read_rows", "write_decision"]

#: Bars between which a halt may come in while a long history is taken.
_PIECE = 64
#: Beside one whole bar: what a feed may be late by before it is called stale.
_GRACE = pd.Timedelta(seconds=60)
#: Messages that a reader of the stream may lag behind; a slower one is dropped.
_LAG = 256
#: Readers of the stream at once.
_READERS = 100
#: Requests with bars that may wait for the writer; more are told to come back.
_WAITING = 8
#: Of a card, what the page shows beside the version.
_SHOWN = ("preset", "bar", "session", "first_training_bar", "last_training_bar", "holdout_start", "lookback")


class Reader:
    """Somebody who reads the stream, with a line of messages of limited length."""

    def __init__(self) -> None:
        self.line: asyncio.Queue[str | None] = asyncio.Queue(_LAG)
        self.slow = False

    def put(self, message: str) -> bool:
        """Append a message; where the line is full, let the reader go.

        Parameters
        ----------
        message : str
            JSON.

        Returns
        -------
        bool
            False where the reader was too slow.
        """
        if not self.line.full():
            self.line.put_nowait(message)
            return True
        self.slow = True
        while not self.line.empty():  # what is too late is of no use
            self.line.get_nowait()
        self.line.put_nowait(None)
        return False


class Desk:
    """The trader behind a service.

    Every move of the trader (bars, halt, a new model) is made by one thread, one after the other.
    Who reads is given what was published after the last move, and never waits for the next.

    Parameters
    ----------
    trader : Trader
        Nobody else may move it from now on.

    Attributes
    ----------
    trader : Trader
        For its journal and its card.
    metrics : Metrics
        Of this service.
    state : dict
        What was published last: plain values, replaced as a whole.
    """

    def __init__(self, trader: Trader) -> None:
        self.trader = trader
        self.after_take: Callable[[list[Outcome]], object] = len  # a champion watch puts its check here
        self.metrics = Metrics(trader.journal, lambda: self.state)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="trader")
        self._readers: set[Reader] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._opened = False
        self._start_equity: float | None = None
        self._due: tuple[pd.Timestamp, str, pd.Timestamp] | None = None
        self.state: dict[str, Any] = {}

    # ------------------------------------------------------------------ the writer

    def open(self, *, adopt: bool = False, history: pd.DataFrame | None = None) -> None:
        """Let the trader take its account and settle what a restart left open.

        Parameters
        ----------
        adopt : bool, default=False
            As `Trader.resume` takes it.
        history : DataFrame of shape (n, n_columns), default=None
            Bars to begin with, where nothing has been decided yet.

        Raises
        ------
        EnsembleKitError
            As `Trader.resume` and `Trader.seed` raise it.
        """

        def _begin() -> None:
            self.trader.resume(adopt=adopt)
            if history is not None and self.trader.latest is None:
                self.trader.seed(history)
            equity = self.trader.journal.equity()
            self._start_equity = float(equity.iloc[0]) if len(equity) else None
            self._publish()

        if not self._opened:
            self._writer.submit(_begin).result()
            self._opened = True

    def listen_here(self) -> None:
        """Send what is published to the readers of the running event loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Finish what is being done, and give the account back."""
        self._loop = None
        self._writer.submit(self.trader.close).result()
        self._writer.shutdown()

    def between_bars(self, move: Callable[[], Any]) -> Future[Any]:
        """Make a move of the trader after those that wait, and publish what came of it.

        Parameters
        ----------
        move : callable
            Without arguments; of any thread.

        Returns
        -------
        Future
            Of what it returns.
        """

        def _go() -> Any:
            try:
                return move()
            finally:
                self._publish()

        return self._writer.submit(_go)

    async def take(self, table: pd.DataFrame) -> list[Outcome]:
        """Take bars in, as `Trader.take` does.

        Parameters
        ----------
        table : DataFrame of shape (n, n_columns)
            With the column `timestamp`.

        Returns
        -------
        list of Outcome
            One a row.

        Raises
        ------
        BarsError
            If the table as a whole cannot be read; nothing of it was taken then.
        """
        if self._waiting >= _WAITING:
            raise BusyError
        self._waiting += 1
        began = time.perf_counter()
        try:
            async with self._turn:
                outcomes = []
                for piece in _pieces(table):
                    outcomes += await asyncio.wrap_future(self._writer.submit(self._take, piece))
        finally:
            self._waiting -= 1
        self.metrics.take.observe(time.perf_counter() - began)
        return outcomes

    def _take(self, table: pd.DataFrame) -> list[Outcome]:
        trouble = ""
        try:
            outcomes = self.trader.take(table)
            self.after_take(outcomes)
        except EnsembleKitError:
            raise
        except Exception as error:
            trouble = f"The last bars could not be taken: {type(error).__name__}: {error}"
            raise
        finally:
            self._publish(trouble=trouble)
        for outcome in outcomes:
            self.metrics.bars.labels(outcome.status).inc()
        decided = [outcome.time for outcome in outcomes if outcome.status == "taken"]
        if decided:
            wanted = {_iso(time, self._zone) for time in decided}
            rows = read_rows(self.trader.journal, since=min(decided), zone=self._zone)
            for row in rows:
                if row["time"] in wanted:
                    self._send({"event": "decision", "row": row, "state": self.state})
        return outcomes

    # ------------------------------------------------------------------ what is published

    @property
    def _zone(self) -> str | None:
        zone: str | None = self.trader.card.get("tz")
        return zone

    def _publish(self, *, trouble: str = "") -> None:
        try:
            self.state = self._look(trouble)
        except JournalError as error:
            if not self.state:
                raise
            # A database that is down is shown, and does not hide what else went wrong.
            self.state = {**self.state, "trouble": trouble or str(error)}
        self._send({"event": "state", "state": self.state})

    def _look(self, trouble: str) -> dict[str, Any]:
        """Return what is published: plain values of the trader, its journal and the account."""
        trader = self.trader
        bar, latest, newest = pd.Timedelta(trader.card["bar"]), trader.latest, trader.journal.newest_bar()
        account: dict[str, float | None] = {"equity": None, "cash": None, "units": None}
        try:
            known = trader.broker.account()
            account = {"equity": known.equity, "cash": known.cash, "units": known.units.get(trader.symbol, 0.0)}
        except EnsembleKitError as error:
            trouble = trouble or f"The broker does not answer: {error}"
            if latest is not None:
                account |= {"equity": latest.equity, "units": latest.units}
        if self._start_equity is None:
            self._start_equity = account["equity"]
        halted = trader.halted
        long, short = _directions(trader.card.get("classes") or [])
        close = None if newest is None else newest + bar
        return {
            "symbol": trader.symbol,
            "version": trader.version,
            "broker": trader.broker.name,
            "ready": latest is not None,
            "halted": halted,
            "trouble": trouble,
            "classes": [str(label) for label in trader.card.get("classes") or []],
            "long": long,
            "short": short,
            "newest_bar": None if newest is None else _iso(newest, self._zone),
            "newest_close_seconds": None if close is None else close.timestamp(),
            "due_seconds": None if newest is None else self._next_close(newest).timestamp(),
            "stale_at_seconds": None if newest is None else (self._next_close(newest) + bar + _GRACE).timestamp(),
            "start_equity": self._start_equity,
            "account": account,
            "decision": None if latest is None else write_decision(latest, trader.card),
            "model": {
                name.replace("_", " "): _in_words(bar) if name == "bar" else str(trader.card[name])
                for name in _SHOWN
                if trader.card.get(name)
            },
        }

    def _next_close(self, newest: pd.Timestamp) -> pd.Timestamp:
        """Return when the bar after the newest should close, looked up once a bar."""
        if self._due is None or self._due[:2] != (newest, self.trader.version):
            self._due = newest, self.trader.version, next_close(newest, self.trader.card)
        return self._due[2]

    def health(self) -> dict[str, Any]:
        """Return in a few words how the service is.

        Returns
        -------
        dict
            `status` ("ready", "warming up", "halted" or "stale"), `symbol`, `version`,
            `newest_bar`, `age_seconds` since its close, and why it is `halted`. A market that is
            closed sends no bars: nights, weekends and holidays are not stale.
        """
        state, now = self.state, time.time()
        age = None if state["newest_close_seconds"] is None else now - state["newest_close_seconds"]
        late = is_stale(state, now)
        status = "halted" if state["halted"] else "warming up" if not state["ready"] else "stale" if late else "ready"
        return {
            "status": status,
            "symbol": state["symbol"],
            "version": state["version"],
            "newest_bar": state["newest_bar"],
            "age_seconds": None if age is None else round(age, 1),
            "halted": state["halted"],
        }

    # ------------------------------------------------------------------ the stream

    def join(self) -> Reader | None:
        """Return a new reader, whose first message is the state; None where there are too many.

        Returns
        -------
        Reader or None
            To be given to `leave`.
        """
        if len(self._readers) >= _READERS:
            return None
        reader = Reader()
        reader.put(_dump({"event": "state", "state": self.state}))
        self._readers.add(reader)
        self.metrics.readers.set(len(self._readers))
        return reader

    def leave(self, reader: Reader) -> None:
        """Send a reader nothing more.

        Parameters
        ----------
        reader : Reader
            From `join`.
        """
        self._readers.discard(reader)
        self.metrics.readers.set(len(self._readers))

    def _send(self, message: dict[str, Any]) -> None:
        if self._loop is not None and self._readers:
            self._loop.call_soon_threadsafe(self._hand_out, _dump(message))

    def _hand_out(self, message: str) -> None:
        for reader in [*self._readers]:
            if not reader.put(message):
                self.leave(reader)
                self.metrics.dropped.inc()


class BusyError(EnsembleKitError):
    """Too many requests wait for the writer."""

    def __init__(self) -> None:
        super().__init__(f"{_WAITING} requests wait to be taken already; send this one again in a moment.")


def write_decision(decision: Decision, card: Any) -> dict[str, Any]:
    """Return a decision as JSON holds it.

    Parameters
    ----------
    decision : Decision
        From the journal.
    card : mapping
        The model's card.

    Returns
    -------
    dict
        `time` (the bar's open), `known_at` (its close), `version`, `proba` by class, `wanted` (the
        model's position), `position` (what limits left of it), `reason`, and `in_training`,
        whether the model had seen the bar, so that it is no forecast.
    """
    zone = card.get("tz")
    seen = pd.Timestamp(card["seen_until"])
    return {
        "time": _iso(decision.time, zone),
        "known_at": _iso(decision.time + pd.Timedelta(card["bar"]), zone),
        "version": decision.version,
        "proba": decision.proba,
        "wanted": decision.wanted,
        "position": decision.allowed,
        "reason": decision.reason,
        "order": decision.client_id,
        "in_training": bool(decision.time <= (seen.tz_localize("UTC") if seen.tzinfo is None else seen)),
    }


def read_rows(
    journal: Journal, *, zone: str | None, newest: int | None = None, since: pd.Timestamp | None = None
) -> list[dict[str, Any]]:
    """Return bars with what was decided on them, as JSON holds them.

    Parameters
    ----------
    journal : Journal
        To read.
    zone : str or None
        In which times are written; None for UTC without an offset.
    newest : int, default=None
        How many at most.
    since : Timestamp, default=None
        The first wanted.

    Returns
    -------
    list of dict
        The oldest first: `time`, the bar's columns, `proba`, `wanted`, `position`, `equity`,
        `reason` and `version`, None where nothing was decided.
    """
    bars = journal.bars(since=since, newest=newest)
    if bars.empty:
        return []
    known = {decision.time: decision for decision in journal.decisions(since=bars.index[0])}
    rows = []
    for time_, values in zip(bars.index, bars.to_dict("records"), strict=True):
        decision = known.get(time_)
        rows.append(
            {"time": _iso(time_, zone)}
            | {str(name): None if math.isnan(value) else value for name, value in values.items()}
            | {name: getattr(decision, name, None) for name in ("proba", "wanted", "equity", "reason", "version")}
            | {"position": None if decision is None else decision.allowed}
        )
    return rows


def _pieces(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Put a long table in order and cut it, so that a halt may come in between."""
    if len(table) <= _PIECE or "timestamp" not in table:
        return [table]
    times = pd.to_datetime(table["timestamp"], utc=True, errors="coerce", format="ISO8601")
    if times.isna().any():  # refused as a whole, with the row
        return [table]
    table = table.iloc[times.argsort(kind="stable")]
    return [table.iloc[start : start + _PIECE] for start in range(0, len(table), _PIECE)]


def _in_words(bar: pd.Timedelta) -> str:
    """Return a length as people say it."""
    for unit, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
        n, rest = divmod(bar.total_seconds(), seconds)
        if n and not rest:
            return f"{n:g} {unit}{'s' if n > 1 else ''}"
    return str(bar).removeprefix("0 days ")


def _directions(classes: list[Any]) -> tuple[str | None, str | None]:
    try:
        long, short = find_directions(classes, None, None)
    except EnsembleKitError:  # the page then colours none of them
        return None, None
    return str(classes[long]), str(classes[short])


def _iso(time_: pd.Timestamp, zone: str | None) -> str:
    return str((time_.tz_convert(zone) if time_.tzinfo is not None else time_).isoformat())


def _dump(message: dict[str, Any]) -> str:
    return json.dumps({**message, "state": message["state"] | {"now": pd.Timestamp.now("UTC").isoformat()}})
