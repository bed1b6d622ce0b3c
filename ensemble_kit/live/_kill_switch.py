"""The kill switch: it works without a database, too, and nothing but `release` turns it back."""

from __future__ import annotations

import itertools

import pandas as pd

from ensemble_kit.exceptions import EnsembleKitError, JournalError
from ensemble_kit.live._settling import close_under_way, send, settle, take_back, units_held
from ensemble_kit.live.journal import Journal
from ensemble_kit.live.orders import Broker, Order, client_order_id

__all__ = ["KillSwitch"]

_HALTED = "halted"


class KillSwitch:
    """Whether trading is halted, and what closes the position.

    Parameters
    ----------
    journal, broker, symbol
        As the trader has them.
    """

    def __init__(self, journal: Journal, broker: Broker, symbol: str) -> None:
        self.journal = journal
        self.broker = broker
        self.symbol = symbol
        # A halt that the journal could not be told, and what it has sent: known here until it can be.
        self._halted: str | None = None
        self._unrecorded: Order | None = None

    @property
    def reason(self) -> str | None:
        """Why trading is halted, None where it is not."""
        reason: str | None = self._halted or self.journal.setting(_HALTED)
        return reason

    def press(
        self, reason: str, now: pd.Timestamp, *, newest: tuple[pd.Timestamp, float] | None, resumed: bool
    ) -> None:
        """Halt, as `Trader.halt` says.

        Parameters
        ----------
        reason : str
            For the record.
        now : Timestamp
            The trader's time, here as in what follows: a replay has its own.
        newest : (Timestamp, float) or None
            Time and close of the newest bar, which a closing order is decided at. Without one,
            nothing was ever bought.
        resumed : bool
            Whether this process has the account: another's orders are not touched.
        """
        self._halted = str(reason) or "no reason given"
        try:
            self.record(now)
            closing = self._closing_order(now) if resumed else None
        except JournalError as error:
            done = self._flatten_unrecorded(now, newest) if resumed and newest is not None else "nothing was open"
            raise JournalError(
                f"halted in memory; the journal could not be written, {done}. It is written at the next bar, or halt "
                f"again when the database answers: {error.__cause__ or error}"
            ) from error
        if closing is not None:
            send(self.journal, self.broker, closing, now)

    def release(self, now: pd.Timestamp) -> None:
        """Let trading go on."""
        self.record(now)
        if self.reason is not None:
            self.journal.set_setting(_HALTED, None)
            self.journal.add_event("release", "trading goes on", at=now)

    def record(self, now: pd.Timestamp) -> None:
        """Write down a halt that is known here alone, and what it has sent."""
        if self._halted is not None:
            self.journal.set_setting(_HALTED, self._halted)
            self.journal.add_event("halt", self._halted, at=now)
            self._halted = None
        if self._unrecorded is not None:
            self.journal.add_order(self._unrecorded)
            self._unrecorded = None

    def flatten(self, now: pd.Timestamp) -> None:
        """Take back what is open, and order the opposite of what is held."""
        order = self._closing_order(now)
        if order is not None:
            send(self.journal, self.broker, order, now)

    def _closing_order(self, now: pd.Timestamp) -> Order | None:
        """Take back what is open; return the order that closes what is held, written down under a name of its own.

        None where nothing is held, or such an order waits already.
        """
        newest = self.journal.bars(newest=1)
        keep = close_under_way(self.journal, self.broker, self.symbol, now)
        settle(self.journal, self.broker, self.symbol, now, cancel=True, keep=keep)
        held = units_held(self.broker, self.symbol)
        if keep is not None or held == 0 or newest.empty:  # before its first bar it has bought nothing
            return None
        used = {entry.order.client_id for entry in self.journal.orders()}
        names = (client_order_id(f"{self._account}/{n}", self.symbol, newest.index[0]) for n in itertools.count(1))
        name = next(name for name in names if name not in used)
        order = Order(name, self.symbol, newest.index[0], -held, float(newest["close"].iloc[0]))
        self.journal.add_order(order)
        return order

    def _flatten_unrecorded(self, now: pd.Timestamp, newest: tuple[pd.Timestamp, float]) -> str:
        """Do at the broker what `flatten` does, without a journal, and say what came of it."""
        last = self._unrecorded
        try:
            # Pressed again, it is the same order: one that was not answered may be on its way.
            if last is not None and self.broker.status(last.client_id) not in {None, "open"}:
                last = None
            held = take_back(self.broker, self.symbol, keep=None if last is None else last.client_id)
            if held == 0:
                return "nothing is held any more"
            name = client_order_id(self._account, self.symbol, now)
            self._unrecorded = last or Order(name, self.symbol, newest[0], -held, newest[1])
            self.broker.submit(self._unrecorded)
        except EnsembleKitError as error:
            return f"and the position could not be closed ({error})"
        return "orders were taken back and the position is being closed"

    @property
    def _account(self) -> str:
        """Whose closing orders are named apart from the bars' own."""
        return f"{self.journal.account}/halt"
