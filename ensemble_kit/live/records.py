"""What a journal holds: decisions, orders and what became of them, refused bars, events."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ensemble_kit.live.orders import Order

__all__ = ["OPEN_STATES", "ORDER_STATES", "Decision", "Event", "JournalOrder", "Refusal"]

#: Decided but not known to be at the broker; at the broker; and the four ways an order ends.
ORDER_STATES = ("new", "sent", "filled", "cancelled", "rejected", "expired")
#: Those that may still be filled.
OPEN_STATES = ("new", "sent")


@dataclass(frozen=True)
class Decision:
    """What was decided at a bar's close, and from what.

    Attributes
    ----------
    time : Timestamp
        The bar's open, in UTC.
    version : str
        The model's version.
    proba : dict of str to float, or None
        Probability of each class as the model said it; None where it failed.
    wanted : float or None
        The position the model asked for, a fraction of equity; None where it failed.
    allowed : float or None
        What limits, a halt and the bar's age left of it; None where no position was decided: the
        model failed, the broker was out of reach, or the bar was too old to trade on.
    reason : str or None
        Why `allowed` is not `wanted`, or why nothing was ordered.
    close : float
        The bar's close.
    equity : float or None
        The account's, at that close; None where the broker was out of reach.
    units : float or None
        What was held at that close.
    client_id : str or None
        The order that was decided, if any.
    """

    time: pd.Timestamp
    version: str
    proba: dict[str, float] | None
    wanted: float | None
    allowed: float | None
    reason: str | None
    close: float
    equity: float | None
    units: float | None
    client_id: str | None


@dataclass(frozen=True)
class JournalOrder:
    """An order, and what became of it.

    Attributes
    ----------
    order : Order
        What was decided.
    state : str
        One of `ORDER_STATES`.
    """

    order: Order
    state: str


@dataclass(frozen=True)
class Refusal:
    """A bar that was not taken.

    Attributes
    ----------
    time : Timestamp
        Its open, in UTC.
    reason : str
        Why it was refused.
    count : int
        How often it was sent.
    last_at : Timestamp
        When it was sent last, in UTC.
    bar : dict of str to float or None
        Its values.
    """

    time: pd.Timestamp
    reason: str
    count: int
    last_at: pd.Timestamp
    bar: dict[str, float | None]


@dataclass(frozen=True)
class Event:
    """Something that a person may want to know of.

    Attributes
    ----------
    number : int
        Counts upwards.
    at : Timestamp
        When, in UTC, by the trader's clock.
    kind : str
        ``"halt"``, ``"release"``, ``"model"``, ``"broker"``, ``"error"``, or ``"gap"``: bars are
        missing inside a session.
    text : str
        What.
    """

    number: int
    at: pd.Timestamp
    kind: str
    text: str
