"""From a bar to an order, each step written down before the next: a kill anywhere loses nothing and doubles nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from ensemble_kit.exceptions import BrokerError, EnsembleKitError, JournalError
from ensemble_kit.live._forecasts import Forecast, Forecaster, in_zone
from ensemble_kit.live._kill_switch import KillSwitch
from ensemble_kit.live._settling import agree, close_under_way, send, settle
from ensemble_kit.live.gate import Verdict, closes_at, judge_bars, read_bars_sent
from ensemble_kit.live.journal import Journal
from ensemble_kit.live.limits import Limits
from ensemble_kit.live.orders import AccountState, Broker, Order, client_order_id
from ensemble_kit.live.records import Decision
from ensemble_kit.sessions import session_times
from ensemble_kit.sizing._account import order_units
from ensemble_kit.tracking.intake import MAX_ROWS, session_of

__all__ = ["Decision", "Outcome", "Trader", "utcnow"]

_DAY = pd.Timedelta(days=1)
#: What a model that takes over must share with the one before it: the journal's bars are its history.
_SAME = ("bar", "columns", "panel", "session", "tz")


def utcnow() -> pd.Timestamp:
    """Return the time, in UTC."""
    return pd.Timestamp.now("UTC")


@dataclass(frozen=True)
class Outcome:
    """What became of a bar.

    Attributes
    ----------
    time : Timestamp
        The bar's open, in UTC.
    status : str
        ``"taken"``: decided on. ``"placed"``: it is history, nothing was decided. ``"duplicate"``:
        it was there already, nothing happened. ``"refused"``: it was not used.
    reason : str or None
        Why it was refused, or is history; of one that was taken, its decision's.
    decision : Decision or None
        Of a bar that was taken, or of a duplicate that was decided on before.
    missing : int
        Of a bar that was taken: how many bars of its session, and of the one before it, never came.
        The journal has an event "gap" of them.
    """

    time: pd.Timestamp
    status: str
    reason: str | None = None
    decision: Decision | None = None
    missing: int = 0


class Trader:
    """A model that trades one instrument: bars in, orders out, a journal in between.

    Parameters
    ----------
    model : SizedClassifier
        Fitted; it must have ``stream``.
    card : mapping
        The model's card: the bars that it takes, and their session.
    version : str
        The model's version, for the record.
    journal : Journal
        The only memory: a trader on the journal of an earlier one goes on where that one stood.
    broker : Broker
        Where orders go.
    symbol : str
        What is traded, as the broker spells it.
    limits : Limits, default=None
        What may be held, and when; None for ``Limits()``.
    lot_size : float, default=0.0
        Units come in multiples of it, as in `sizing.backtest`.
    min_trade : float, default=0.0
        An order worth less than this is not placed unless it closes the position.
    trade_from : Timestamp, default=None
        The first bar that may be decided on; earlier ones are history. None for any.
    clock : callable, default=utcnow
        Returns the time, in UTC.

    Raises
    ------
    EnsembleKitError
        If the card is of a panel, or does not say what bars the model takes.

    Notes
    -----
    A bar's way, each step a commit of its own: (1) the bar is written down; (2) the broker is told
    (a paper broker fills at the bar's open and marks its close); (3) orders of earlier bars that
    are still open are taken back, fills and states are written down; (4) decision, new order and
    equity are written down in one transaction; (5) the order is sent; (6) that it was sent is
    written down. `resume` finishes what was cut off between any two: a bar without a decision goes
    on from (2), a new order that the broker does not know is sent if its bar is still the newest
    and not too old, and expires otherwise. An order's name is made of account, symbol and bar, so
    that sending it twice is sending it once.

    Where the broker cannot be reached or the model fails, the bar's decision says so and orders
    nothing; a refused order is "rejected". Either way the next bar decides anew, from what the
    broker then holds.

    While trading is halted, each bar's position is 0 and no limit is asked: a closing order that
    waits for the market stays, and one that is not there, or not of the right size, is sent.

    One thread at a time may use it, and one process an account.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features import SessionFeatures
    >>> from ensemble_kit.labels import next_direction
    >>> from ensemble_kit.live.journal import Journal
    >>> from ensemble_kit.live.paper import PaperBroker
    >>> from ensemble_kit.live.replay import replay
    >>> from ensemble_kit.live.store import open_store
    >>> from ensemble_kit.live.trader import Trader
    >>> from ensemble_kit.sizing import SizedClassifier
    >>> from ensemble_kit.tracking.intake import intake_terms
    >>> from ensemble_kit.validation import WalkForwardSplit
    >>> bars = make_bars(1000, random_state=0)
    >>> labels = next_direction(bars)
    >>> X, y = labels.align(bars)
    >>> model = make_pipeline(SessionFeatures(), LogisticRegression())
    >>> model = SizedClassifier(model, cv=WalkForwardSplit(3, t1=labels.t1)).fit(X[:900], y[:900])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     engine = open_store(Path(folder) / "live.db")
    ...     trader = Trader(model, card=intake_terms(model, X[:900]), version="1", symbol="SPY",
    ...                     journal=Journal(engine, account="SPY"),
    ...                     broker=PaperBroker(engine, account="SPY", symbol="SPY"))
    ...     with trader:
    ...         _ = trader.seed(bars[:900])
    ...         result = replay(trader, bars[900:])
    ...     engine.dispose()
    >>> len(result.equity)
    100
    """

    def __init__(
        self,
        model: Any,
        *,
        card: Mapping[str, Any],
        version: str,
        journal: Journal,
        broker: Broker,
        symbol: str,
        limits: Limits | None = None,
        lot_size: float = 0.0,
        min_trade: float = 0.0,
        trade_from: pd.Timestamp | None = None,
        clock: Callable[[], pd.Timestamp] = utcnow,
    ) -> None:
        self._forecaster = Forecaster(model, card, version)
        self.journal = journal
        self.broker = broker
        self.symbol = symbol
        self.limits = Limits() if limits is None else limits
        self.lot_size = lot_size
        self.min_trade = min_trade
        self.trade_from = trade_from
        self.clock = clock
        self._resumed = self._cut_off = False
        self._switch = KillSwitch(journal, broker, symbol)
        self._newest: tuple[pd.Timestamp, float] | None = None  # bar's time and close

    # ------------------------------------------------------------------ what it is and knows

    @property
    def model(self) -> Any:
        """The model that decides."""
        return self._forecaster.model

    @property
    def card(self) -> Mapping[str, Any]:
        """Its card."""
        return self._forecaster.card

    @property
    def version(self) -> str:
        """Its version."""
        return self._forecaster.version

    @property
    def latest(self) -> Decision | None:
        """The newest decision, None before the first."""
        return self.journal.latest_decision()

    @property
    def halted(self) -> str | None:
        """Why trading is halted, None where it is not."""
        return self._switch.reason

    # ------------------------------------------------------------------ begin and end

    def resume(self, *, adopt: bool = False) -> None:
        """Take the account, settle what a restart left open, and finish a bar that was cut off.

        Must be called before bars are taken; called again, it checks again.

        Parameters
        ----------
        adopt : bool, default=False
            Take over what the broker holds, where the journal cannot explain it, and take back
            orders that bear our names and are not in the journal.

        Raises
        ------
        EnsembleKitError
            If another process trades this account.
        BrokerError
            If the broker cannot be reached, or holds what the journal cannot explain.
        """
        self.journal.acquire()
        self._switch.record(self.clock())
        newest, latest, halted, now = self.journal.newest_bar(), self.latest, self.halted, self.clock()
        keep = close_under_way(self.journal, self.broker, self.symbol, now) if halted is not None else None
        settle(self.journal, self.broker, self.symbol, now, cancel=halted is not None, keep=keep)
        agree(self.journal, self.broker, self.symbol, now, adopt=adopt)
        if latest is not None and latest.version != self.version:
            self.journal.add_event("model", f"{latest.version} is followed by {self.version}", at=now)
        cut_off = self.journal.undecided()
        if newest is not None:
            self._newest = newest, float(self.journal.bars(newest=1)["close"].iloc[0])
        for entry in self.journal.orders(states=["new"]):
            if cut_off is None and entry.order.decided_at == newest and not self._too_old(newest, now):
                send(self.journal, self.broker, entry.order, now)
            else:
                self.journal.settle([], {entry.order.client_id: "expired"})
                self.journal.add_event("broker", f"order {entry.order.client_id} is expired: never sent", at=now)
        self._forecaster.forget()
        if cut_off is not None:
            self._trade(self.journal.bars(since=cut_off).iloc[[0]])
        if halted is not None:
            self._switch.flatten(now)
        self._resumed, self._cut_off = True, False

    def close(self) -> None:
        """Give the account back. Orders and position stay as they are."""
        self._resumed = False
        self.journal.release()

    def __enter__(self) -> Self:
        self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ bars

    def seed(self, history: pd.DataFrame) -> list[Outcome]:
        """Place bars as history, on which nothing is decided.

        Parameters
        ----------
        history : DataFrame of shape (n, n_columns)
            As `take` takes them, of any length.

        Returns
        -------
        list of Outcome
            One a row, in order of time within each 50,000.

        Raises
        ------
        EnsembleKitError
            If something was decided already: it would not come out again.
        BarsError
            As `take` raises it.
        """
        if self.latest is not None:
            raise EnsembleKitError(
                f"`history` must come before the first decision; {self.latest.time} was decided on. "
                "Take later bars with `take`, or another account."
            )
        pieces = [history.iloc[start : start + MAX_ROWS] for start in range(0, len(history), MAX_ROWS)]
        return [outcome for piece in pieces for outcome in self._take(piece, pd.Timestamp.max.tz_localize("UTC"))]

    def take(self, bars: pd.DataFrame) -> list[Outcome]:
        """Take bars in: judge each, and decide on those that are new.

        Parameters
        ----------
        bars : DataFrame of shape (n, n_columns)
            A bar frame, or a table with `timestamp` as `tracking.intake.admit` takes it; of any
            order.

        Returns
        -------
        list of Outcome
            One a row, in order of time. What is refused is in the journal with its reason
            (`gate.judge_bars` lists them).

        Raises
        ------
        BarsError
            If the table as a whole cannot be read (columns, times, more than 50,000 rows); nothing
            of it was taken then.
        EnsembleKitError
            If the trader was not resumed.
        """
        return self._take(bars, self.trade_from)

    def _take(self, sent: pd.DataFrame, trade_from: pd.Timestamp | None) -> list[Outcome]:
        if not self._resumed:
            raise EnsembleKitError(
                "`resume` must be called before bars are taken; it was not, or was refused. "
                "Call it, or use `with trader:`."
            )
        if self._cut_off:  # by an error; one that is still there comes again
            self.resume()
        try:
            self.journal.check_held()
        except JournalError:  # its connection was cut: whoever had the account since, the journal knows what was done
            self._cut_off = True
            self.resume()
        self._switch.record(self.clock())
        bars = read_bars_sent(sent, self.card, symbol=self.symbol)
        if bars.empty:
            return []
        decided, now = self.latest is not None, self.clock()
        verdicts = judge_bars(
            bars,
            known=self.journal.bars(since=bars.index[0]),
            newest=self.journal.newest_bar(),
            n_known=0 if decided else self.journal.n_bars(),
            decided=decided,
            card=self.card,
            now=now,
            trade_from=trade_from,
            before=self.journal.bars(until=bars.index[0] - pd.Timedelta(1, "ns"), newest=1),
        )
        history = [verdict.row for verdict in verdicts if verdict.status == "place"]
        if history:
            self.journal.add_bars(bars.iloc[history], traded=False)
            self._forecaster.forget()
        return [self._outcome(verdict, bars.iloc[[verdict.row]], now) for verdict in verdicts]

    def _outcome(self, verdict: Verdict, bar: pd.DataFrame, now: pd.Timestamp) -> Outcome:
        """Do with a bar what was judged."""
        time, reason = verdict.time, verdict.reason
        if verdict.status == "refuse":
            values = {str(name): float(value) for name, value in bar.iloc[0].items() if np.isfinite(value)}
            self.journal.add_refusal(time, str(reason), at=now, bar=values)
            return Outcome(time, "refused", reason)
        if verdict.status == "place":
            return Outcome(time, "placed", reason)
        if verdict.status == "duplicate":
            return Outcome(time, "duplicate", None, next(iter(self.journal.decisions(since=time, until=time)), None))
        self._cut_off = True
        if verdict.missing:
            before = f"{verdict.missing} bar(s) of the session are missing before {time}; it was taken without them"
            self.journal.add_event("gap", before, at=now)
        self.journal.add_bars(bar, traded=True)
        decision = self._trade(bar.set_axis(pd.DatetimeIndex([time], name="datetime")))
        self._cut_off = False
        return Outcome(time, "taken", decision.reason, decision, verdict.missing)

    def _trade(self, bar: pd.DataFrame) -> Decision:
        """Decide on a bar that is written down, and send what was decided."""
        now, account, trouble, keep = self.clock(), None, None, None
        halted, self._newest = self.halted, (bar.index[0], float(bar["close"].iloc[0]))
        try:
            self.broker.begin_bar(self.symbol, bar)
            if halted is not None:
                keep = close_under_way(self.journal, self.broker, self.symbol, now)
            settle(self.journal, self.broker, self.symbol, now, cancel=True, keep=keep)
            account = self.broker.account()
        except BrokerError as error:
            trouble = f"the broker does not answer: {error}"
        decision, order = self._decide(bar, account, trouble, now, halted=halted, closes=keep is not None)
        self.journal.add_decision(decision, order)
        if order is not None:
            send(self.journal, self.broker, order, now)
        return decision

    def _decide(
        self,
        bar: pd.DataFrame,
        account: AccountState | None,
        trouble: str | None,
        now: pd.Timestamp,
        *,
        halted: str | None,
        closes: bool,
    ) -> tuple[Decision, Order | None]:
        """Return what to hold after a bar, and the order that leads there, unless one that `closes` is on its way."""
        time, close = bar.index[0], float(bar["close"].iloc[0])
        said = self._forecaster.forecast(bar, self.journal)
        if said.failure is not None:
            self.journal.add_event("error", f"bar {time}: {said.failure}", at=now)
        if trouble is not None:
            self.journal.add_event("broker", f"bar {time}: {trouble}", at=now)
        allowed, reason = self._allow(said, bar, account, trouble, now)
        if halted is not None and account is not None:  # no limit keeps a position open
            allowed, reason = 0.0, f"halted: {halted}"
        units, order = None, None
        if account is not None:
            units = account.units.get(self.symbol, 0.0)
            if halted is not None:
                order = self._order(time, -units, close) if units != 0 and not closes else None
            # As much as is held is no order, whatever rounding makes of it.
            elif allowed is not None and account.equity > 0 and allowed != units * close / account.equity:
                size = order_units(allowed, account.equity, close, units, self.lot_size, self.min_trade)
                order = self._order(time, size, close) if size != 0 else None
        decision = Decision(
            time=time,
            version=self.version,
            proba=said.proba,
            wanted=said.wanted,
            allowed=allowed,
            reason=reason,
            close=close,
            equity=None if account is None else account.equity,
            units=units,
            client_id=None if order is None else order.client_id,
        )
        return decision, order

    def _allow(
        self, said: Forecast, bar: pd.DataFrame, account: AccountState | None, trouble: str | None, now: pd.Timestamp
    ) -> tuple[float | None, str | None]:
        """Return the position that may be held, None where none is decided, and why it is not the wanted one."""
        time, close = bar.index[0], float(bar["close"].iloc[0])
        if account is None:
            return None, trouble
        if said.wanted is None:
            return None, said.failure
        worth = account.units.get(self.symbol, 0.0) * close
        opening, lowest = self._equity_of_session(time, account.equity)
        return self.limits.allow(
            said.wanted,
            equity=account.equity,
            opening_equity=opening,
            lowest_equity=lowest,
            close=close,
            held_weight=worth / account.equity if account.equity > 0 else 0.0,
            bar_close=self._closes(time),
            now=now,
            # A day's bar closes when its day does, whatever the market's hours.
            session="day" if pd.Timedelta(self.card["bar"]) >= _DAY else session_of(self.card),
        )

    def _order(self, time: pd.Timestamp, units: float, close: float) -> Order:
        return Order(client_order_id(self.journal.account, self.symbol, time), self.symbol, time, units, close)

    def _too_old(self, time: pd.Timestamp, now: pd.Timestamp) -> bool:
        return self.limits.max_age is not None and now - self._closes(time) > self.limits.max_age

    def _closes(self, time: pd.Timestamp) -> pd.Timestamp:
        return closes_at(in_zone(pd.DatetimeIndex([time]), self.card), self.card)[0]

    def _equity_of_session(self, time: pd.Timestamp, equity: float) -> tuple[float, float]:
        """Return the equity at the last close before the session of a bar, and the lowest at its closes so far."""
        if self.limits.max_daily_loss is None:
            return equity, equity
        near = pd.DatetimeIndex(self.journal.bars(since=time - _DAY, until=time).index)
        day = session_times(in_zone(near, self.card), session_of(self.card)).day
        first = near[int(np.argmax(day == day[-1]))]
        closes = [*self.journal.equity(since=first), equity]
        opening = self.journal.opening_equity(first)
        return closes[0] if opening is None else opening, min(closes)

    # ------------------------------------------------------------------ between bars

    def sync(self) -> None:
        """Fetch from the broker what became of orders since the last bar.

        Raises
        ------
        BrokerError
            If it cannot be reached.
        """
        settle(self.journal, self.broker, self.symbol, self.clock(), cancel=False)

    def swap(self, model: Any, *, card: Mapping[str, Any], version: str) -> None:
        """Let another model decide from the next bar on.

        Its stream is started first: where that fails, the old model stays.

        Parameters
        ----------
        model : SizedClassifier
            Fitted.
        card : mapping
            Its card.
        version : str
            Its version.

        Raises
        ------
        EnsembleKitError
            If it takes other bars than the model that trades, or cannot be started on those of the
            journal.
        """
        following = Forecaster(model, card, version)
        differ = [name for name in _SAME if card[name] != self.card[name]]
        if differ:
            raise EnsembleKitError(
                f"`model` must take bars like those of version {self.version}; version {version} has another "
                f"{', another '.join(differ)}. Begin a service of its own for it."
            )
        try:
            following.start(self.journal)
        except Exception as error:
            raise EnsembleKitError(
                f"`model` must start on the bars of the journal; version {version} failed: {error} "
                f"Version {self.version} stays."
            ) from error
        self.journal.add_event("model", f"{self.version} is followed by {version}", at=self.clock())
        self._forecaster = following

    def halt(self, reason: str) -> None:
        """Stop trading until `release`, through restarts: cancel what is open, close what is held.

        That trading is halted is known here before anything else, and written down next. Where the
        journal cannot be written, orders are taken back and the position is closed nevertheless,
        every later decision is 0, and what was done is written down at the next bar for which the
        journal answers; a restart before that knows nothing of the halt, and refuses to begin
        where a closing order is at the broker. What cannot be closed now is closed at the next
        bar, or when the service starts again.

        Parameters
        ----------
        reason : str
            For the record.

        Raises
        ------
        BrokerError
            If the broker cannot be reached; trading is halted nevertheless.
        JournalError
            If the journal cannot be written; trading is halted in memory.
        """
        self._switch.press(reason, self.clock(), newest=self._newest, resumed=self._resumed)

    def release(self) -> None:
        """Trade again, from the next bar on."""
        self._switch.release(self.clock())
