"""What the trader has seen and done, in a database: the only memory that a restart has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Connection, Engine, Table, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.live._hold import Hold
from ensemble_kit.live._tables import (
    BARS,
    DECISIONS,
    EVENTS,
    FILLS,
    METADATA,
    ORDERS,
    REFUSALS,
    SETTINGS,
    nanoseconds,
    utc,
)
from ensemble_kit.live.orders import Fill, Order
from ensemble_kit.live.records import ORDER_STATES, Decision, Event, JournalOrder, Refusal
from ensemble_kit.live.store import make_tables, transaction

__all__ = ["Journal"]

_VALUES = ("open", "high", "low", "close", "volume")
_REASON = 500


class Journal:
    """Bars, decisions, orders, fills and events of one trading account.

    Parameters
    ----------
    engine : Engine
        From `open_store`. Tables are made where there are none.
    account : str
        The trading account's name, by which several share a database; 1 to 100 characters.

    Raises
    ------
    EnsembleKitError
        If the name is none.
    JournalError
        Here and by every method, if the database does not answer.

    Notes
    -----
    Each method is one transaction, and may be called again with the same arguments: a row that is
    there already stays as it is. One whose connection was lost is tried once more. Times are
    written in UTC, those without a zone are read as UTC, and all times come back in UTC.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.live.journal import Journal
    >>> from ensemble_kit.live.store import open_store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     engine = open_store(Path(folder) / "live.db")
    ...     journal = Journal(engine, account="SPY")
    ...     journal.add_bars(make_bars(3, random_state=0), traded=False)
    ...     print(journal.newest_bar(), journal.undecided())
    ...     engine.dispose()
    2022-01-03 14:40:00+00:00 None
    """

    def __init__(self, engine: Engine, *, account: str) -> None:
        if not isinstance(account, str) or not 0 < len(account) <= 100 or not account.isprintable():
            raise EnsembleKitError(
                f"`account` must be a name of 1 to 100 characters; got {account!r}. Take the model's name, say."
            )
        self.engine = engine
        self.account = account
        self._hold = Hold(engine, account)
        self._make_tables()

    @transaction
    def _make_tables(self) -> None:
        make_tables(self.engine, METADATA)

    # ------------------------------------------------------------------ whose it is

    def acquire(self, *, patience: float = 5.0) -> None:
        """Take the account for this process: a second one that asks is refused.

        Parameters
        ----------
        patience : float, default=5.0
            Seconds to wait for another that is about to end.

        Raises
        ------
        EnsembleKitError
            If another process has it. The lock is the operating system's or PostgreSQL's own, so
            that one that was killed never has.
        """
        self._hold.acquire(patience, self.setting("holder"))
        self.set_setting("holder", self._hold.holder)

    def release(self) -> None:
        """Give the account back; nothing happens where it was not taken."""
        self._hold.release()

    def check_held(self) -> None:
        """Check that the account is still this process's.

        Raises
        ------
        JournalError
            If the connection that held it is lost.
        """
        self._hold.check()

    # ------------------------------------------------------------------ bars

    @transaction
    def add_bars(self, bars: pd.DataFrame, *, traded: bool) -> None:
        """Write bars down. Those of a time that is there already stay as they were.

        Parameters
        ----------
        bars : DataFrame of shape (n, n_columns)
            A bar frame.
        traded : bool
            Whether something is to be decided on them; False for history.
        """
        others = [str(name) for name in bars.columns if name not in _VALUES]
        values = bars.reindex(columns=[*_VALUES, *others]).to_numpy(np.float64)
        rows = [
            {
                "account": self.account,
                "time": nanoseconds(time),
                "traded": int(traded),
                **dict(zip(_VALUES, known, strict=False)),
                "others": dict(zip(others, known[len(_VALUES) :], strict=True)) or None,
            }
            for time, row in zip(pd.DatetimeIndex(bars.index), values, strict=True)
            if (known := [None if np.isnan(value) else float(value) for value in row])
        ]
        with self.engine.begin() as connection:
            _add(connection, BARS, rows)

    def bars(
        self,
        *,
        since: pd.Timestamp | None = None,
        until: pd.Timestamp | None = None,
        newest: int | None = None,
    ) -> pd.DataFrame:
        """Return bars as they were written.

        Parameters
        ----------
        since, until : Timestamp, default=None
            The first and the last time wanted; None for all.
        newest : int, default=None
            How many at most, the newest; None for all.

        Returns
        -------
        DataFrame of shape (n, n_columns)
            A bar frame on an index in UTC named ``datetime``, history and traded bars alike.
        """
        rows = self._rows(BARS, since=since, until=until, newest=newest)
        index = pd.DatetimeIndex(np.array([row.time for row in rows], dtype="M8[ns]"), tz="UTC", name="datetime")
        frame = pd.DataFrame(
            {name: np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in _VALUES}, index=index
        )
        for name in sorted({name for row in rows for name in row.others or {}}):
            frame[name] = np.array([(row.others or {}).get(name) for row in rows], dtype=np.float64)
        return frame

    @transaction
    def newest_bar(self) -> pd.Timestamp | None:
        """Return the time of the newest bar, None where there is none."""
        with self.engine.connect() as connection:
            time = connection.scalar(select(func.max(BARS.c.time)).where(BARS.c.account == self.account))
        return None if time is None else utc(time)

    @transaction
    def n_bars(self) -> int:
        """Return how many bars there are."""
        with self.engine.connect() as connection:
            count = connection.scalar(select(func.count()).select_from(BARS).where(BARS.c.account == self.account))
        return int(count or 0)

    @transaction
    def undecided(self) -> pd.Timestamp | None:
        """Return the time of the first bar to be traded on which nothing was decided; None where there is none."""
        decided = select(DECISIONS.c.time).where(DECISIONS.c.account == self.account)
        wanted = select(func.min(BARS.c.time)).where(
            BARS.c.account == self.account, BARS.c.traded == 1, BARS.c.time.not_in(decided)
        )
        with self.engine.connect() as connection:
            time = connection.scalar(wanted)
        return None if time is None else utc(time)

    @transaction
    def add_refusal(
        self, time: pd.Timestamp, reason: str, *, at: pd.Timestamp, bar: Mapping[str, float | None]
    ) -> None:
        """Write down a bar that was not taken; of one that comes again, count how often.

        Parameters
        ----------
        time : Timestamp
            The bar's.
        reason : str
            Why.
        at : Timestamp
            The clock.
        bar : mapping of str to float or None
            Its values.
        """
        row = {
            "account": self.account,
            "time": nanoseconds(time),
            "reason": reason[:_REASON],
            "count": 1,
            "last_at": nanoseconds(at),
            "bar": dict(bar),
        }
        again = {"count": REFUSALS.c.count + 1, "last_at": row["last_at"], "bar": row["bar"]}
        with self.engine.begin() as connection:
            _add(connection, REFUSALS, [row], again)

    def refusals(self, *, newest: int = 100) -> list[Refusal]:
        """Return the bars that were not taken.

        Parameters
        ----------
        newest : int, default=100
            How many at most, by the bars' time.

        Returns
        -------
        list of Refusal
            The oldest first.
        """
        rows = self._rows(REFUSALS, newest=newest)
        return [Refusal(utc(row.time), row.reason, row.count, utc(row.last_at), row.bar) for row in rows]

    # ------------------------------------------------------------------ decisions

    @transaction
    def add_decision(self, decision: Decision, order: Order | None = None) -> None:
        """Write down a decision, its order (as "new") and the account's equity, all of it or nothing.

        Parameters
        ----------
        decision : Decision
            What was decided.
        order : Order, default=None
            What is to be sent; None where nothing is.
        """
        row = {name: getattr(decision, name) for name in Decision.__dataclass_fields__}
        row |= {"account": self.account, "time": nanoseconds(decision.time)}
        with self.engine.begin() as connection:
            if _add(connection, DECISIONS, [row]) and order is not None:
                _add(connection, ORDERS, [self._order_row(order)])

    def decisions(
        self,
        *,
        since: pd.Timestamp | None = None,
        until: pd.Timestamp | None = None,
        newest: int | None = None,
    ) -> list[Decision]:
        """Return decisions.

        Parameters
        ----------
        since, until : Timestamp, default=None
            The first and the last bar wanted; None for all.
        newest : int, default=None
            How many at most, the newest; None for all.

        Returns
        -------
        list of Decision
            The oldest first.
        """
        names = list(Decision.__dataclass_fields__)[1:]
        return [
            Decision(utc(row.time), *(getattr(row, name) for name in names))
            for row in self._rows(DECISIONS, since=since, until=until, newest=newest)
        ]

    def latest_decision(self) -> Decision | None:
        """Return the newest decision, None where there is none."""
        return next(iter(self.decisions(newest=1)), None)

    def equity(self, *, since: pd.Timestamp | None = None, newest: int | None = None) -> pd.Series[float]:
        """Return the account's equity at the closes of the bars that were decided on.

        Parameters
        ----------
        since : Timestamp, default=None
            The first bar wanted; None for all.
        newest : int, default=None
            How many bars at most, the newest; None for all.

        Returns
        -------
        Series of shape (n,)
            On the bars' times in UTC, without those at which the broker was out of reach.
        """
        known = [
            (row.time, row.equity)
            for row in self._rows(DECISIONS, since=since, newest=newest)
            if row.equity is not None
        ]
        times = pd.DatetimeIndex(np.array([time for time, _ in known], dtype="M8[ns]"), tz="UTC", name="datetime")
        return pd.Series(np.array([value for _, value in known], dtype=np.float64), times, name="equity")

    @transaction
    def opening_equity(self, start: pd.Timestamp) -> float | None:
        """Return the equity at the last close before a time; None where none is known.

        Parameters
        ----------
        start : Timestamp
            The time, of a day's first bar, say.

        Returns
        -------
        float or None
            In the account's currency.
        """
        before = (
            select(DECISIONS.c.equity)
            .where(
                DECISIONS.c.account == self.account,
                DECISIONS.c.time < nanoseconds(start),
                DECISIONS.c.equity.is_not(None),
            )
            .order_by(DECISIONS.c.time.desc())
            .limit(1)
        )
        with self.engine.connect() as connection:
            equity: float | None = connection.scalar(before)
        return equity

    # ------------------------------------------------------------------ orders and fills

    @transaction
    def add_order(self, order: Order) -> None:
        """Write down an order that no bar decided (a halt's), as "new".

        Parameters
        ----------
        order : Order
            What is to be sent.
        """
        with self.engine.begin() as connection:
            _add(connection, ORDERS, [self._order_row(order)])

    @transaction
    def orders(self, *, states: Collection[str] = ORDER_STATES, newest: int | None = None) -> list[JournalOrder]:
        """Return orders.

        Parameters
        ----------
        states : collection of str, default=ORDER_STATES
            Those in one of these states.
        newest : int, default=None
            How many at most, the newest; None for all.

        Returns
        -------
        list of JournalOrder
            The oldest first.
        """
        wanted = (
            select(ORDERS)
            .where(ORDERS.c.account == self.account, ORDERS.c.state.in_(states))
            .order_by(ORDERS.c.decided_at.desc(), ORDERS.c.client_id.desc())
            .limit(newest)
        )
        with self.engine.connect() as connection:
            rows = connection.execute(wanted).all()[::-1]
        return [
            JournalOrder(Order(row.client_id, row.symbol, utc(row.decided_at), row.units, row.reference), row.state)
            for row in rows
        ]

    @transaction
    def settle(self, fills: Sequence[Fill], states: Mapping[str, str]) -> None:
        """Write down fills and what became of orders, all of it or nothing.

        Parameters
        ----------
        fills : sequence of Fill
            As the broker gave them; one that is known already is the same fill.
        states : mapping of str to str
            By `client_id`, one of `ORDER_STATES`.
        """
        names = list(Fill.__dataclass_fields__)
        rows = [
            {"account": self.account} | {name: getattr(fill, name) for name in names} | {"at": nanoseconds(fill.at)}
            for fill in fills
        ]
        with self.engine.begin() as connection:
            _add(connection, FILLS, rows)
            for client_id, state in states.items():
                connection.execute(
                    update(ORDERS)
                    .where(ORDERS.c.account == self.account, ORDERS.c.client_id == client_id)
                    .values(state=state)
                )

    def fills(self, *, since: pd.Timestamp | None = None, newest: int | None = None) -> list[Fill]:
        """Return fills.

        Parameters
        ----------
        since : Timestamp, default=None
            The first time wanted; None for all.
        newest : int, default=None
            How many at most, the newest; None for all.

        Returns
        -------
        list of Fill
            The oldest first.
        """
        return [
            Fill(row.fill_id, row.client_id, row.symbol, utc(row.at), row.units, row.price, row.commission)
            for row in self._rows(FILLS, since=since, newest=newest)
        ]

    @transaction
    def units_filled(self) -> float:
        """Return the units that all fills add up to."""
        with self.engine.connect() as connection:
            total = connection.scalar(select(func.sum(FILLS.c.units)).where(FILLS.c.account == self.account))
        return float(total or 0.0)

    # ------------------------------------------------------------------ events and settings

    @transaction
    def add_event(self, kind: str, text: str, *, at: pd.Timestamp) -> None:
        """Write down something that a person may want to know of. Called again, it is there twice.

        Parameters
        ----------
        kind : str
            As in `Event`.
        text : str
            What.
        at : Timestamp
            The clock.
        """
        with self.engine.begin() as connection:
            connection.execute(
                insert(EVENTS), {"account": self.account, "at": nanoseconds(at), "kind": kind, "text": text}
            )

    @transaction
    def events(self, *, newest: int = 100) -> list[Event]:
        """Return events.

        Parameters
        ----------
        newest : int, default=100
            How many at most.

        Returns
        -------
        list of Event
            The oldest first.
        """
        wanted = select(EVENTS).where(EVENTS.c.account == self.account).order_by(EVENTS.c.number.desc()).limit(newest)
        with self.engine.connect() as connection:
            rows = connection.execute(wanted).all()[::-1]
        return [Event(row.number, utc(row.at), row.kind, row.text) for row in rows]

    @transaction
    def setting(self, name: str) -> Any:
        """Return what was set, None where nothing was.

        Parameters
        ----------
        name : str
            ``"halted"`` holds why trading is halted.

        Returns
        -------
        object
            Plain values.
        """
        wanted = select(SETTINGS.c.value).where(SETTINGS.c.account == self.account, SETTINGS.c.name == name)
        with self.engine.connect() as connection:
            return connection.scalar(wanted)

    @transaction
    def set_setting(self, name: str, value: Any) -> None:
        """Set a value that a restart finds again.

        Parameters
        ----------
        name : str
            Its name.
        value : object
            Plain values, as JSON has them.
        """
        with self.engine.begin() as connection:
            _add(
                connection,
                SETTINGS,
                [{"account": self.account, "name": name, "value": value}],
                {"value": value},
            )

    # ------------------------------------------------------------------ helpers

    def _order_row(self, order: Order) -> dict[str, Any]:
        return {
            "account": self.account,
            "client_id": order.client_id,
            "symbol": order.symbol,
            "decided_at": nanoseconds(order.decided_at),
            "units": order.units,
            "reference": order.reference,
            "state": "new",
        }

    @transaction
    def _rows(
        self,
        table: Table,
        *,
        since: pd.Timestamp | None = None,
        until: pd.Timestamp | None = None,
        newest: int | None = None,
    ) -> list[Any]:
        """Return the rows of a table, sorted by time and by what else tells them apart."""
        time = table.c.at if table is FILLS else table.c.time
        others = [column for column in table.primary_key if column.name not in {"account", "time"}]
        wanted = select(table).where(table.c.account == self.account)
        if since is not None:
            wanted = wanted.where(time >= nanoseconds(since))
        if until is not None:
            wanted = wanted.where(time <= nanoseconds(until))
        wanted = wanted.order_by(time.desc(), *(column.desc() for column in others)).limit(newest)
        with self.engine.connect() as connection:
            return list(connection.execute(wanted).all())[::-1]


def _add(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], again: Mapping[str, Any] | None = None
) -> int:
    """Add rows that are not there yet, and set `again` on those that are; return how many were touched."""
    if not rows:
        return 0
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement: Any = dialect.insert(table)
    if again is None:
        statement = statement.on_conflict_do_nothing()
    else:
        statement = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=dict(again))
    return int(connection.execute(statement, list(rows) if len(rows) > 1 else rows[0]).rowcount)
