"""A broker on paper: the backtest's account in a database, one bar at a time."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from ensemble_kit.exceptions import BrokerError
from ensemble_kit.live.orders import AccountState, Fill, Order
from ensemble_kit.live.store import make_tables, transaction
from ensemble_kit.sizing._account import CASH, FILL, HELD, RecordArray, advance, new_account
from ensemble_kit.sizing.backtest import account_terms
from ensemble_kit.sizing.costs import Costs

__all__ = ["PaperBroker"]

_META = MetaData()
# Times are nanoseconds since 1970 in UTC, and floats 8 bytes or the digits that give them back: no bit is lost.
_ACCOUNTS = Table(
    "paper_accounts",
    _META,
    Column("account", String, primary_key=True),
    Column("symbol", String, nullable=False),
    Column("terms", Text, nullable=False),
    Column("newest", BigInteger),  # bar
    Column("cash", Text, nullable=False),
    Column("held", Text, nullable=False),
)
_ORDERS = Table(
    "paper_orders",
    _META,
    Column("account", String, primary_key=True),
    Column("client_id", String, primary_key=True),
    Column("decided_at", BigInteger, nullable=False),
    Column("units", Double, nullable=False),
    Column("reference", Double, nullable=False),
    Column("status", String, nullable=False),
)
_FILLS = Table(
    "paper_fills",
    _META,
    Column("account", String, primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("number", Integer, primary_key=True),  # of the bar
    Column("client_id", String, nullable=False),
    Column("units", Double, nullable=False),
    Column("price", Double, nullable=False),
    Column("commission", Double, nullable=False),
)


class _Book(NamedTuple):
    """An account as it is stored."""

    newest: int | None
    cash: RecordArray
    held: RecordArray


class PaperBroker:
    """Fill orders as `backtest` does, without a market, and keep the account in a database.

    An order that is sent after a bar is filled at the next bar's open, half the spread and the
    slippage worse, as far as leverage allows; interest and borrow are charged from bar to bar; an
    account that is ruined holds nothing and owes nothing from then on. It is the backtest's own
    code that does so, so that the same bars and orders give the same numbers to the last bit.

    Parameters
    ----------
    engine : Engine
        From `open_store`. The broker has tables of its own there, made where they lack, and
        transactions of its own, as an exchange would.
    account : str
        The account's name; one that is known goes on where it stood.
    symbol : str
        The one thing that it trades.
    costs : Costs, default=None
        None for no costs.
    cash : float, default=100_000
        What a new account starts with, in the currency of the prices.
    lot_size : float, default=0.0
        An order that leverage cuts is rounded down to a multiple of it; 0 for fractions of a unit.
    min_trade : float, default=0.0
        An order worth less than this at its reference is refused unless it closes the position.
    max_leverage : float, default=1.0
        The gross notional that an opening may reach, as a multiple of equity.

    Attributes
    ----------
    name : str
        "paper".

    Raises
    ------
    EnsembleKitError
        If a number is out of its range.
    BrokerError
        If the account is known, and trades something else or on other terms.
    JournalError
        Here and by every method, if the database does not answer.

    See Also
    --------
    ensemble_kit.sizing.backtest : The same of a whole history at once.

    Notes
    -----
    Each method is one transaction, which first takes the account for itself: a process that is
    killed leaves the account before or after a bar, never between, and two processes on one
    account fill an order once. A bar's fills are final, and the last bar's open is never
    looked at again. What waits is one order: send a second one, and it is refused until the first
    is filled or cancelled.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import pandas as pd
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.live.orders import Order
    >>> from ensemble_kit.live.paper import PaperBroker
    >>> from ensemble_kit.live.store import open_store
    >>> bars = make_bars(2, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     engine = open_store(Path(folder) / "live.db")
    ...     broker = PaperBroker(engine, account="demo", symbol="SPY")
    ...     broker.begin_bar("SPY", bars.iloc[:1])
    ...     broker.submit(Order("first", "SPY", bars.index[0], 100.0, bars["close"].iloc[0]))
    ...     broker.begin_bar("SPY", bars.iloc[1:])
    ...     print(broker.status("first"), broker.account().units)
    ...     engine.dispose()
    filled {'SPY': 100.0}
    """

    name = "paper"

    def __init__(
        self,
        engine: Engine,
        *,
        account: str,
        symbol: str,
        costs: Costs | None = None,
        cash: float = 100_000.0,
        lot_size: float = 0.0,
        min_trade: float = 0.0,
        max_leverage: float = 1.0,
    ) -> None:
        self._engine, self._account, self._symbol = engine, account, symbol
        self._terms = account_terms(Costs() if costs is None else costs, cash, lot_size, min_trade, max_leverage)
        self._open()

    @transaction
    def _open(self) -> None:
        """Find the account, or make it."""
        make_tables(self._engine, _META)
        cash, held = new_account(1, self._terms.cash)
        terms = json.dumps(self._terms._asdict())
        new = {
            "account": self._account,
            "symbol": self._symbol,
            "terms": terms,
            "cash": _text(cash),
            "held": _text(held),
        }
        with self._engine.connect() as connection:
            known = connection.execute(select(_ACCOUNTS).filter_by(account=self._account)).one_or_none()
        if known is None:
            try:
                with self._engine.begin() as connection:
                    connection.execute(insert(_ACCOUNTS), new)
            except IntegrityError:  # another process has made it in the meantime
                self._open()
            return
        if known.symbol != self._symbol:
            raise BrokerError(
                f"`symbol` must be what the account {self._account!r} trades, {known.symbol}; got {self._symbol}. "
                "Use another account."
            )
        asked = self._terms._asdict()
        if others := [
            f"{name} {was!r}, not {asked[name]!r}"
            for name, was in json.loads(known.terms).items()
            if asked[name] != was
        ]:
            raise BrokerError(
                f"`account` must be opened on its own terms; {self._account!r} has {', '.join(others)}. "
                "Use another account, or the terms it was made with."
            )

    # ------------------------------------------------------------------ the market

    @transaction
    def begin_bar(self, symbol: str, bar: pd.DataFrame) -> None:
        """Fill what is ordered at the bar's open, and mark its close.

        Parameters
        ----------
        symbol : str
            The account's.
        bar : DataFrame of shape (1, n_columns)
            The bar that has just closed. One at or before the newest changes nothing.

        Raises
        ------
        BrokerError
            If it is of another symbol, not one bar, or its open or close is not known.
        """
        time, opened, closed = self._read(symbol, bar)
        with self._engine.begin() as connection:
            book = self._take(connection)
            if book.newest is not None and time <= book.newest:
                return
            order = connection.execute(self._orders(status="open")).one_or_none()
            held = book.held
            held["order"], held["least"], held["base"] = 0.0 if order is None else order.units, self._terms.minimum, 0.0
            fills, n_own = self._advance(book, time, opened, closed)
            connection.execute(
                update(_ACCOUNTS).filter_by(account=self._account),
                {"newest": time, "cash": _text(book.cash), "held": _text(held)},
            )
            if order is not None:
                status = "filled" if n_own else "rejected"
                connection.execute(
                    update(_ORDERS).filter_by(account=self._account, client_id=order.client_id), {"status": status}
                )
            rows = [
                {
                    "account": self._account,
                    "at": time,
                    "number": number,
                    "client_id": order.client_id if order is not None and number < n_own else "",
                    **{name: float(fill[name]) for name in ("units", "price", "commission")},
                }
                for number, fill in enumerate(fills)
            ]
            if rows:
                connection.execute(insert(_FILLS), rows)

    def _read(self, symbol: str, bar: pd.DataFrame) -> tuple[int, float, float]:
        if symbol != self._symbol:
            raise BrokerError(
                f"`symbol` must be what the account {self._account!r} trades, {self._symbol}; got {symbol}. "
                "Make a broker with another account for it."
            )
        if len(bar) != 1:
            raise BrokerError(f"`bar` must be one bar; got {len(bar)}. Give them one by one, the oldest first.")
        opened, closed = float(bar["open"].iloc[0]), float(bar["close"].iloc[0])
        if not (0 < opened < np.inf and 0 < closed < np.inf):
            raise BrokerError(
                f"`bar` must have an open and a close above 0; got {opened:g} and {closed:g} at {bar.index[0]}. "
                "Leave it out: nothing was traded then."
            )
        return _nanoseconds(bar.index[0]), opened, closed

    def _advance(self, book: _Book, time: int, opened: float, closed: float) -> tuple[RecordArray, int]:
        """Take the book through a bar; return its fills, and how many of them are the order's."""
        fills = np.empty(3, FILL)  # what an order closes, what it opens, and ruin
        book.cash["fills"] = 0
        since = time if book.newest is None else book.newest
        row = np.arange(2), np.array([time]), np.zeros(1, np.int64), np.array([opened]), np.array([closed])
        advance(book.cash, book.held, fills, since, *row, np.array([np.nan]), self._terms)
        made = fills[: book.cash["fills"][0]]
        return made, int(np.isfinite(made["before"]).sum())

    # ------------------------------------------------------------------ the account

    @transaction
    def account(self) -> AccountState:
        """Return cash, equity at the newest close, and what is held.

        Returns
        -------
        AccountState
            As after the newest bar.
        """
        with self._engine.connect() as connection:
            row = connection.execute(select(_ACCOUNTS).filter_by(account=self._account)).one()
        book = _book(row)
        cash, units, mark = (float(part[0]) for part in (book.cash["amount"], book.held["units"], book.held["mark"]))
        return AccountState(cash + units * mark, cash, {self._symbol: units} if units != 0.0 else {})

    @transaction
    def fills(self, symbol: str, since: pd.Timestamp | None) -> list[Fill]:
        """Return the fills from a time on, the oldest first.

        Parameters
        ----------
        symbol : str
            What was traded.
        since : Timestamp or None
            None for all of them.

        Returns
        -------
        list of Fill
            Those of ruin have no order. Times are in UTC.
        """
        if symbol != self._symbol:
            return []
        wanted = select(_FILLS).filter_by(account=self._account).order_by(_FILLS.c.at, _FILLS.c.number)
        if since is not None:
            wanted = wanted.where(_FILLS.c.at >= _nanoseconds(since))
        with self._engine.connect() as connection:
            rows = connection.execute(wanted).all()
        return [
            Fill(
                f"paper-{self._account}-{row.at}-{row.number}",
                row.client_id,
                symbol,
                _time(row.at),
                row.units,
                row.price,
                row.commission,
            )
            for row in rows
        ]

    # ------------------------------------------------------------------ orders

    @transaction
    def submit(self, order: Order) -> None:
        """Let an order wait for the next bar. One whose `client_id` is known is the same: nothing happens.

        Parameters
        ----------
        order : Order
            What to trade.

        Raises
        ------
        BrokerError
            If it is of another symbol, of no units, too small, or another one waits.
        """
        self._check(order)
        with self._engine.begin() as connection:
            held = self._take(connection).held
            if connection.execute(self._orders(client_id=order.client_id)).one_or_none() is not None:
                return
            closes = order.units == -float(held["units"][0])
            if abs(order.units) * order.reference < self._terms.min_trade and not closes:
                raise BrokerError(
                    f"`order` must be worth at least {self._terms.min_trade:g}, or close the position; got "
                    f"{order.units:g} units at {order.reference:g}. Do not send it."
                )
            waits = connection.execute(self._orders(status="open")).one_or_none()
            if waits is not None:
                raise BrokerError(
                    f"`order` must be the only one that waits; got {order.client_id}, and {waits.client_id} is not "
                    "filled yet. Cancel that one first."
                )
            row = {
                "account": self._account,
                "client_id": order.client_id,
                "decided_at": _nanoseconds(order.decided_at),
                "units": float(order.units),
                "reference": float(order.reference),
                "status": "open",
            }
            connection.execute(insert(_ORDERS), row)

    def _check(self, order: Order) -> None:
        if order.symbol != self._symbol:
            raise BrokerError(
                f"`order` must be of {self._symbol}, which the account {self._account!r} trades; got {order.symbol}. "
                "Make a broker with another account for it."
            )
        if not np.isfinite(order.units) or order.units == 0 or not 0 < order.reference < np.inf:
            raise BrokerError(
                "`order` must be of units that are finite and not 0, at a reference above 0; got "
                f"{order.units:g} at {order.reference:g}. Send none where there is nothing to trade."
            )

    @transaction
    def status(self, client_id: str) -> str | None:
        """Return how an order stands.

        Parameters
        ----------
        client_id : str
            The order's.

        Returns
        -------
        str or None
            "open", "filled" (leverage may have cut it), "cancelled", "rejected" (nothing of it
            could be filled), or None where there is no such order.
        """
        with self._engine.connect() as connection:
            row = connection.execute(self._orders(client_id=client_id)).one_or_none()
        return None if row is None else str(row.status)

    @transaction
    def open_orders(self) -> list[Order]:
        """Return the order that waits for the next bar, if there is one.

        Returns
        -------
        list of Order
            At most one.
        """
        with self._engine.connect() as connection:
            rows = connection.execute(self._orders(status="open")).all()
        return [Order(row.client_id, self._symbol, _time(row.decided_at), row.units, row.reference) for row in rows]

    @transaction
    def cancel(self, client_id: str) -> None:
        """Take an order back that waits; of any other, nothing happens.

        Parameters
        ----------
        client_id : str
            The order's.
        """
        with self._engine.begin() as connection:
            self._take(connection)
            waiting = update(_ORDERS).filter_by(account=self._account, client_id=client_id, status="open")
            connection.execute(waiting, {"status": "cancelled"})

    # ------------------------------------------------------------------ the database

    def _take(self, connection: Connection) -> _Book:
        """Return the book, which nobody else may change until the transaction ends.

        To write first is what locks: a row on PostgreSQL, the file on SQLite, where a read that comes first would let
        two processes see the same book.
        """
        mine = update(_ACCOUNTS).filter_by(account=self._account).values(symbol=self._symbol)
        return _book(connection.execute(mine.returning(*_ACCOUNTS.c)).one())

    def _orders(self, **which: str) -> Any:
        return select(_ORDERS).filter_by(account=self._account, **which)


def _text(records: RecordArray) -> str:
    return json.dumps(records.tolist())


def _book(row: Row[Any]) -> _Book:
    return _Book(row.newest, *(_records(text, kind) for text, kind in ((row.cash, CASH), (row.held, HELD))))


def _records(text: str, kind: np.dtype[np.void]) -> RecordArray:
    return np.array([tuple(record) for record in json.loads(text)], dtype=kind)


def _nanoseconds(time: pd.Timestamp) -> int:
    """Return a time in UTC, as which a naive one is read."""
    utc = time.tz_localize("UTC") if time.tzinfo is None else time
    return int(utc.as_unit("ns").value)


def _time(nanoseconds: int) -> pd.Timestamp:
    return pd.Timestamp(nanoseconds, unit="ns", tz="UTC")
