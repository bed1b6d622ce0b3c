"""The trader's dealings with a broker: what it sent, what was filled, and whether both sides agree."""

from __future__ import annotations

import pandas as pd

from ensemble_kit.exceptions import BrokerError, BrokerUnreachableError
from ensemble_kit.live.journal import Journal
from ensemble_kit.live.orders import Broker, Order
from ensemble_kit.live.records import OPEN_STATES

__all__ = ["agree", "close_under_way", "send", "settle", "take_back", "units_held"]

#: Our orders' names begin so (`client_order_id`).
_OURS = "ek-"
_ADOPTED = "adopted_units"
#: Of what is held: what the sums of fills and the broker's own may differ by in rounding.
_ROUNDING = 1e-6
#: Fills that are asked for again: one may be reported after a later one.
_OVERLAP = 20


def units_held(broker: Broker, symbol: str) -> float:
    """Return what the broker says is held."""
    return float(broker.account().units.get(symbol, 0.0))


def send(journal: Journal, broker: Broker, order: Order, now: pd.Timestamp) -> None:
    """Send an order that is written down as "new"; a refusal is written down, too, and raises nothing.

    Where the broker could not be reached, the order may have arrived or not: it stays "new" until
    the broker says which.
    """
    try:
        broker.submit(order)
    except BrokerError as error:
        journal.add_event("broker", f"order {order.client_id} of {order.units:g}: {error}", at=now)
        if isinstance(error, BrokerUnreachableError):  # it may still be on its way: no answer of now would be the last
            return
        try:
            known = broker.status(order.client_id) not in {None, "rejected"}
        except BrokerError:
            return
        journal.settle([], {order.client_id: "sent" if known else "rejected"})
        return
    journal.settle([], {order.client_id: "sent"})


def settle(
    journal: Journal, broker: Broker, symbol: str, now: pd.Timestamp, *, cancel: bool, keep: str | None = None
) -> None:
    """Write down what became of the orders under way, and the fills.

    States are asked for before fills, so that an order that is "filled" has all of its fills.

    Parameters
    ----------
    journal, broker, symbol, now
        As the trader has them.
    cancel : bool
        Take back what is still open.
    keep : str, default=None
        The order that is not taken back.

    Raises
    ------
    BrokerError
        If the broker is out of reach, or an order to be taken back stays open.
    """
    states = {}
    for entry in journal.orders(states=OPEN_STATES):
        client_id = entry.order.client_id
        status = broker.status(client_id)
        if status == "open" and cancel and client_id != keep:
            broker.cancel(client_id)
            status = broker.status(client_id)
            if status == "open":
                raise BrokerError(f"order {client_id} is still open after it was taken back. The next bar asks again.")
        if status is not None:
            states[client_id] = "sent" if status == "open" else status
        elif entry.state == "sent" or cancel:  # a "new" one may yet be sent, unless its bar is over
            states[client_id] = "expired"
        if states.get(client_id) == entry.state:
            del states[client_id]
    known = journal.fills(newest=_OVERLAP)
    fills = [fill for fill in broker.fills(symbol, known[0].at if known else None) if fill not in known]
    for client_id, state in states.items():
        if state in {"expired", "rejected"}:
            journal.add_event("broker", f"order {client_id} is {state}: it was never filled", at=now)
    if fills or states:
        journal.settle(fills, states)


def close_under_way(journal: Journal, broker: Broker, symbol: str, now: pd.Timestamp) -> str | None:
    """Return the order that waits at the broker and closes just what is held; None where there is none.

    While trading is halted it must not be taken back: no other would take its place.
    """
    settle(journal, broker, symbol, now, cancel=False)
    held = units_held(broker, symbol)
    for entry in journal.orders(states=["sent"]):
        order = entry.order
        filled = sum(fill.units for fill in journal.fills(since=order.decided_at) if fill.client_id == order.client_id)
        if held != 0 and abs(order.units - filled + held) <= _ROUNDING * max(abs(held), 1.0):
            return order.client_id
    return None


def take_back(broker: Broker, symbol: str, *, keep: str | None) -> float:
    """Take our orders back but one, without a journal to say which they are; return the units that are held."""
    for order in broker.open_orders():
        if order.symbol == symbol and order.client_id.startswith(_OURS) and order.client_id != keep:
            broker.cancel(order.client_id)
    return units_held(broker, symbol)


def agree(journal: Journal, broker: Broker, symbol: str, now: pd.Timestamp, *, adopt: bool) -> None:
    """Check that the broker holds what the journal can explain; with `adopt`, take over what it holds.

    Raises
    ------
    BrokerError
        If it holds other units, or an order of ours waits there that the journal knows nothing of.
    """
    ours = {entry.order.client_id for entry in journal.orders()}
    strange = [
        order.client_id
        for order in broker.open_orders()
        if order.symbol == symbol and order.client_id.startswith(_OURS) and order.client_id not in ours
    ]
    if adopt:
        for client_id in strange:
            broker.cancel(client_id)
            journal.add_event("broker", f"order {client_id}, unknown here, was taken back", at=now)
    held, filled = units_held(broker, symbol), journal.units_filled()
    expected = filled + float(journal.setting(_ADOPTED) or 0.0)
    same = abs(held - expected) <= _ROUNDING * max(abs(held), abs(expected), 1.0)
    if not same and adopt:
        journal.set_setting(_ADOPTED, held - filled)
        journal.add_event("broker", f"{held:g} units of {symbol} were taken over, {expected:g} were expected", at=now)
    elif not same or (strange and not adopt):
        found = [] if same else [f"{held:g} units of {symbol} where the journal's fills make {expected:g}"]
        found += [f"order {client_id}, which the journal does not know" for client_id in strange]
        text = f"broker {broker.name} holds {' and '.join(found)}"
        journal.add_event("broker", text, at=now)
        raise BrokerError(
            f"`broker` must hold what the journal can explain; {text}. Find out who traded (another service, a "
            "person, a split), then take over what is there with `resume(adopt=True)`, or --adopt."
        )
