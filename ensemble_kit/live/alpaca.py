"""Alpaca as a broker: paper unless told otherwise, every order under a name of ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from ensemble_kit.exceptions import BrokerError, BrokerUnreachableError, EnsembleKitError
from ensemble_kit.live.orders import AccountState, Fill, Order

if TYPE_CHECKING:
    from alpaca.trading.client import TradingClient

__all__ = ["AlpacaBroker"]

_KEY, _SECRET = "APCA_API_KEY_ID", "APCA_API_SECRET_KEY"
_DONE = {
    "filled": "filled",
    "canceled": "cancelled",
    "expired": "cancelled",
    "replaced": "cancelled",
    "done_for_day": "cancelled",
    "rejected": "rejected",
    "suspended": "rejected",
}
_PAGE = 100
_TIMEOUT = 10.0  # seconds
_NOT_FOUND, _TOO_MANY, _SERVER_FAULT = 404, 429, 500
_REFUSED_KEYS = {401, 403}


class AlpacaBroker:
    """Market orders at Alpaca, for the day; sent while the market is closed, for its next open.

    Parameters
    ----------
    live : bool, default=False
        Whether orders are for real money. Paper trading has keys of its own.
    base_url : str, default=None
        Another address than Alpaca's, without the version.

    Raises
    ------
    BrokerError
        If the keys are not in the environment (``APCA_API_KEY_ID``, ``APCA_API_SECRET_KEY``), or
        Alpaca does not take them.
    BrokerUnreachableError
        If it does not answer.

    See Also
    --------
    ensemble_kit.live.paper.PaperBroker : Fills as the backtest does, without an account anywhere.

    Notes
    -----
    An order has our `client_id` as Alpaca's ``client_order_id``, which Alpaca takes once: one that
    is sent again is found to be there. Alpaca refuses an order that turns a long position into a
    short one; such an order closes the position here, and the next bar opens the other. It takes
    fractions of a share to buy and to sell what is held, and whole shares only to sell short.
    Commissions are 0; the fees of regulators are booked by Alpaca in its own time and show in the
    account's cash.

    Examples
    --------
    >>> import os
    >>> from ensemble_kit.live.alpaca import AlpacaBroker
    >>> _ = os.environ.pop("APCA_API_KEY_ID", None)
    >>> AlpacaBroker()
    Traceback (most recent call last):
        ...
    ensemble_kit.exceptions.BrokerError: `APCA_API_KEY_ID` and `APCA_API_SECRET_KEY` must be ...
    """

    def __init__(self, *, live: bool = False, base_url: str | None = None) -> None:
        key, secret = os.environ.get(_KEY), os.environ.get(_SECRET)
        if not key or not secret:
            raise BrokerError(
                f"`{_KEY}` and `{_SECRET}` must be in the environment; got "
                f"{'neither' if not key and not secret else 'one of them only'}. "
                f"Make {'live' if live else 'paper'} keys on Alpaca's page, and export both."
            )
        self.name = "alpaca" if live else "alpaca-paper"
        self.live = live
        self._client = _trading_client()(key, secret, paper=not live, raw_data=True, url_override=base_url)
        # The client waits for ever, and says itself when to ask again; a bar cannot wait longer than this.
        self._client._session.request = partial(self._client._session.request, timeout=_TIMEOUT)  # noqa: SLF001
        self._client._retry = 0  # noqa: SLF001
        self._names: dict[str, str] = {}
        self._admitted = False
        self.account()
        self._admitted = True

    def begin_bar(self, symbol: str, bar: pd.DataFrame) -> None:
        """Do nothing: Alpaca's market moves by itself.

        Parameters
        ----------
        symbol : str
            What the bar is of.
        bar : DataFrame of shape (1, n_columns)
            The bar that has just closed.
        """

    def account(self) -> AccountState:
        """Return cash, equity and what is held.

        Returns
        -------
        AccountState
            As Alpaca has them now; a position sold short counts below 0.
        """
        account = self._ask(self._client.get_account)
        if account.get("trading_blocked") or account.get("account_blocked"):
            raise BrokerError("`account` must be allowed to trade; Alpaca has blocked it. Its page says why.")
        held = self._ask(self._client.get_all_positions)
        return AccountState(
            equity=float(account["equity"]),
            cash=float(account["cash"]),
            units={one["symbol"]: _signed(one["qty"], short=one["side"] == "short") for one in held},
        )

    def submit(self, order: Order) -> None:
        """Send an order; one that Alpaca has already is left alone.

        Parameters
        ----------
        order : Order
            What to trade.

        Raises
        ------
        BrokerError
            If Alpaca refuses it.
        BrokerUnreachableError
            If there is no answer: whether it arrived, `status` tells later.
        """
        from alpaca.trading.enums import OrderSide, TimeInForce
        from alpaca.trading.requests import MarketOrderRequest

        held = self.account().units.get(order.symbol, 0.0)
        size = abs(order.units)
        if held * order.units < 0.0:
            size = min(size, abs(held))
        request = MarketOrderRequest(
            symbol=order.symbol,
            qty=round(size, 9),
            side=OrderSide.BUY if order.units > 0 else OrderSide.SELL,
            time_in_force=TimeInForce.DAY,
            client_order_id=order.client_id,
        )
        try:
            self._ask(lambda: self._client.submit_order(request))
        except BrokerUnreachableError:
            raise
        except BrokerError:
            # Refused because it came before, or for good: Alpaca knows which.
            if self.status(order.client_id) is None:
                raise

    def status(self, client_id: str) -> str | None:
        """Return what has become of an order.

        Parameters
        ----------
        client_id : str
            The order's.

        Returns
        -------
        str or None
            "open", "filled", "cancelled" or "rejected"; None where Alpaca knows no such order.
        """
        order = self._find(client_id)
        return None if order is None else _DONE.get(order["status"], "open")

    def open_orders(self) -> list[Order]:
        """Return the orders that wait, whoever sent them.

        Returns
        -------
        list of Order
            `decided_at` is when Alpaca took them, and `reference` NaN.
        """
        from alpaca.trading.enums import QueryOrderStatus
        from alpaca.trading.requests import GetOrdersRequest

        waiting = self._ask(lambda: self._client.get_orders(GetOrdersRequest(status=QueryOrderStatus.OPEN, limit=500)))
        return [
            Order(
                client_id=one["client_order_id"],
                symbol=one["symbol"],
                decided_at=pd.Timestamp(one["submitted_at"] or one["created_at"]),
                units=_signed(one["qty"] or "nan", short=one["side"] == "sell"),
                reference=float("nan"),
            )
            for one in waiting
        ]

    def cancel(self, client_id: str) -> None:
        """Take an order back, as far as it is not filled.

        Parameters
        ----------
        client_id : str
            The order's. One that is done already, or unknown, is left as it is.
        """
        order = self._find(client_id)
        if order is None or order["status"] in _DONE:
            return
        try:
            self._ask(lambda: self._client.cancel_order_by_id(order["id"]) or "gone")
        except BrokerUnreachableError:
            raise
        except BrokerError:
            # It was filled in between: then there is nothing left to take back.
            if self.status(client_id) == "open":
                raise

    def fills(self, symbol: str, since: pd.Timestamp | None) -> list[Fill]:
        """Return the fills from a time on.

        Parameters
        ----------
        symbol : str
            What was traded.
        since : Timestamp or None
            None for all of them.

        Returns
        -------
        list of Fill
            The oldest first, one a part of an order that was traded.
        """
        query: dict[str, Any] = {"direction": "asc", "page_size": _PAGE}
        if since is not None:
            # Alpaca's `after` leaves its own instant out.
            query["after"] = (since - pd.Timedelta(seconds=1)).isoformat()
        found: list[Fill] = []
        while True:
            page = self._ask(lambda: self._client.get("/account/activities/FILL", query))
            found += [self._fill(one) for one in page if one["symbol"] == symbol]
            if len(page) < _PAGE:
                return found
            query["page_token"] = page[-1]["id"]

    def _find(self, client_id: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._ask(lambda: self._client.get_order_by_client_id(client_id))
        except _UnknownError:
            return None
        return found

    def _fill(self, activity: dict[str, Any]) -> Fill:
        order = activity["order_id"]
        if order not in self._names:
            self._names[order] = self._ask(lambda: self._client.get_order_by_id(order))["client_order_id"]
        return Fill(
            fill_id=activity["id"],
            client_id=self._names[order],
            symbol=activity["symbol"],
            at=pd.Timestamp(activity["transaction_time"]),
            units=_signed(activity["qty"], short=activity["side"] != "buy"),
            price=float(activity["price"]),
            commission=0.0,
        )

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Ask Alpaca, and say in one line what went wrong; what was sent, keys included, is never repeated."""
        from alpaca.common.exceptions import APIError
        from requests.exceptions import RequestException

        try:
            if (answer := question()) is not None:
                return answer
            code, why = None, "an empty answer"
        except APIError as error:
            code, why = error.status_code, _reason(error)
        except (RequestException, ValueError, TypeError) as error:  # cut connections, and answers that are no JSON
            code, why = None, type(error).__name__
        if code is None or code == _TOO_MANY or code >= _SERVER_FAULT:
            said = why if code is None else f"{code} {why}"
            raise BrokerUnreachableError(f"`broker` must answer; Alpaca did not ({said}). Try again later.")
        if code == _NOT_FOUND:
            raise _UnknownError(f"`broker` must know what is asked for; Alpaca does not ({why}). Check the symbol.")
        if code in _REFUSED_KEYS and not self._admitted:
            raise BrokerError(
                f"`{_KEY}` and `{_SECRET}` must be of Alpaca's {'live' if self.live else 'paper'} trading; it refused "
                f"them ({code} {why}). Export the right pair."
            )
        raise BrokerError(f"`order` must be one that Alpaca takes; it refused ({code} {why}). Mend or drop it.")


class _UnknownError(BrokerError):
    """Alpaca knows no such thing."""


def _reason(error: Any) -> str:
    try:
        return str(error.message)[:200]
    except (ValueError, KeyError, TypeError):  # no JSON, or one without a message
        return "no reason given"


def _signed(quantity: Any, *, short: bool) -> float:
    return -abs(float(quantity)) if short else abs(float(quantity))


def _trading_client() -> type[TradingClient]:
    try:
        from alpaca.trading.client import TradingClient
    except ImportError:
        raise EnsembleKitError(
            "`broker` 'alpaca' must have Alpaca's client; alpaca-py is not installed. "
            "Run `pip install 'ensemble-kit[alpaca]'`."
        ) from None
    return TradingClient
