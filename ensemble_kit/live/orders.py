"""What passes between the trader and a broker: orders with names of their own, fills, and the account."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

import pandas as pd

__all__ = ["AccountState", "Broker", "Fill", "Order", "client_order_id"]


def client_order_id(account: str, symbol: str, decided_at: pd.Timestamp) -> str:
    """Name an order by what it is, so that the same decision is the same order however often it is sent.

    Parameters
    ----------
    account : str
        The trading account's name in the journal: two services that trade one symbol differ in it.
    symbol : str
        What is traded.
    decided_at : Timestamp
        Open time of the bar at whose close the order was decided.

    Returns
    -------
    str
        At most 48 characters, the limit of Alpaca.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.live.orders import client_order_id
    >>> client_order_id("SPY", "SPY", pd.Timestamp("2023-03-16 13:30", tz="UTC"))
    'ek-20230316T133000Z-SPY-42e3ab6b'
    """
    at = decided_at.tz_localize("UTC") if decided_at.tzinfo is None else decided_at.tz_convert("UTC")
    stamp = f"{at:%Y%m%dT%H%M%SZ}"
    digest = hashlib.sha256(f"{account}\n{symbol}\n{at.isoformat()}".encode()).hexdigest()[:8]
    short = "".join(letter for letter in symbol if letter.isalnum())[:12]
    return f"ek-{stamp}-{short}-{digest}"


@dataclass(frozen=True)
class Order:
    """A market order, decided at a bar's close, to be filled at the next open.

    Attributes
    ----------
    client_id : str
        From `client_order_id`.
    symbol : str
        What is traded.
    decided_at : Timestamp
        Open time of the bar at whose close it was decided.
    units : float
        Shares or contracts, negative to sell.
    reference : float
        The close it was decided at.
    """

    client_id: str
    symbol: str
    decided_at: pd.Timestamp
    units: float
    reference: float


@dataclass(frozen=True)
class Fill:
    """A part of an order that was traded.

    Attributes
    ----------
    fill_id : str
        Unique at the broker.
    client_id : str
        Of its order; of a position that the broker closed by itself, "".
    symbol : str
        What was traded.
    at : Timestamp
        When (the bar's open in a replay).
    units : float
        Signed.
    price : float
        Paid for a unit.
    commission : float
        In the account's currency.
    """

    fill_id: str
    client_id: str
    symbol: str
    at: pd.Timestamp
    units: float
    price: float
    commission: float


@dataclass(frozen=True)
class AccountState:
    """What the broker says of the account.

    Attributes
    ----------
    equity : float
        Cash and the worth of what is held at the last known prices, in the account's currency.
    cash : float
        Cash alone.
    units : dict of str to float
        What is held, by symbol; symbols of which nothing is held may lack.
    """

    equity: float
    cash: float
    units: dict[str, float] = field(default_factory=dict)


class Broker(Protocol):
    """Where orders go. Every method may be called again after a crash with the same arguments.

    Attributes
    ----------
    name : str
        For the journal and the page.
    """

    name: str

    def begin_bar(self, symbol: str, bar: pd.DataFrame) -> None:
        """Let the market move: a paper broker fills what is open at the bar's open and marks its close.

        Parameters
        ----------
        symbol : str
            What the bar is of.
        bar : DataFrame of shape (1, n_columns)
            The bar that has just closed. One that was given before changes nothing.
        """

    def account(self) -> AccountState:
        """Return cash, equity and what is held, as they are now."""

    def submit(self, order: Order) -> None:
        """Send an order. One whose `client_id` is known already is the same order: nothing happens.

        Parameters
        ----------
        order : Order
            What to trade.

        Raises
        ------
        BrokerError
            If the broker refuses it for good (no buying power, an unknown symbol), or cannot be reached.
        """

    def status(self, client_id: str) -> str | None:
        """Return "open", "filled", "cancelled" or "rejected"; None where the broker knows no such order.

        Parameters
        ----------
        client_id : str
            The order's.
        """

    def open_orders(self) -> list[Order]:
        """Return the orders that wait to be filled, whoever sent them."""

    def cancel(self, client_id: str) -> None:
        """Take an order back, as far as it is not filled.

        Parameters
        ----------
        client_id : str
            The order's.
        """

    def fills(self, symbol: str, since: pd.Timestamp | None) -> list[Fill]:
        """Return the fills from a time on, the oldest first.

        Parameters
        ----------
        symbol : str
            What was traded.
        since : Timestamp or None
            None for all of them.
        """
