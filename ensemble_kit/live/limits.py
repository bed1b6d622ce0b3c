"""What a service may hold, and when it may trade, whatever its model wants."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.sessions import Session, session_times
from ensemble_kit.sizing._payoffs import is_number

__all__ = ["Limits"]

_MAX_AGE = pd.Timedelta(minutes=5)
#: What ages are told in, how many seconds it has, and below how many of it.
_UNITS = (("seconds", 1, 120), ("minutes", 60, 120), ("hours", 3600, 48), ("days", 86_400, math.inf))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on positions, losses and the time of orders.

    Attributes
    ----------
    max_position : float or None
        Largest size of the position as a share of equity, long or short; None for no limit.
    max_notional : float or None
        Largest worth of the position in the account's currency, at the close it is decided at;
        None for no limit.
    max_daily_loss : float or None
        Share of the session's opening equity: once so much is lost at a close, the position is
        closed, whenever the bar closed, and none is opened until the next session. None for no
        limit.
    market_hours : bool
        Send no order after a bar that closes outside the session. The session's last bar may: its
        order waits for the next open, as in the backtest.
    max_age : Timedelta or None
        Send no order after a bar that closed longer ago than this: its price is not the market's
        any more. None for any age.

    Raises
    ------
    EnsembleKitError
        If a limit is out of its range.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.live.limits import Limits
    >>> close = pd.Timestamp("2023-03-16 15:00", tz="UTC")
    >>> Limits(max_position=0.5).allow(-0.8, equity=1e5, opening_equity=1e5, close=400.0, held_weight=0.0,
    ...                                bar_close=close, now=close, session="XNYS")
    (-0.5, 'wanted -0.8 of equity; `max_position` allows -0.5 (-125 units at 400)')
    """

    max_position: float | None = None
    max_notional: float | None = None
    max_daily_loss: float | None = None
    market_hours: bool = True
    max_age: pd.Timedelta | None = _MAX_AGE

    def __post_init__(self) -> None:
        highest = {"max_position": np.inf, "max_notional": np.inf, "max_daily_loss": 1.0}
        wrong = [
            f"`{name}` must be None or a number above 0{' and below 1' if below == 1 else ''}; got {value!r}"
            for name, below in highest.items()
            if (value := getattr(self, name)) is not None and not (is_number(value) and 0 < value < below)
        ]
        if not isinstance(self.market_hours, bool):
            wrong.append(f"`market_hours` must be True or False; got {self.market_hours!r}")
        if self.max_age is not None and not (isinstance(self.max_age, pd.Timedelta) and self.max_age > pd.Timedelta(0)):
            wrong.append(f"`max_age` must be None or a Timedelta above 0; got {self.max_age!r}")
        if wrong:
            raise EnsembleKitError(". ".join(wrong) + ". To halt altogether is the kill switch's.")

    def allow(
        self,
        weight: float,
        *,
        equity: float,
        opening_equity: float,
        close: float,
        held_weight: float,
        bar_close: pd.Timestamp,
        now: pd.Timestamp,
        session: str | Session,
        lowest_equity: float | None = None,
    ) -> tuple[float, str | None]:
        """Return the weight that may be held, and in words why it is not the one that is wanted.

        Parameters
        ----------
        weight : float
            What the model wants, as a share of equity.
        equity : float
            At the bar's close.
        opening_equity : float
            At the last close before the session.
        close : float
            The bar's.
        held_weight : float
            What is held, at the close.
        bar_close : Timestamp
            When the bar closed; naive is read as UTC.
        now : Timestamp
            The clock, in the same way.
        session : "day", exchange code or Session
            Of the bars.
        lowest_equity : float, default=None
            The lowest at the session's closes so far. None is `equity`; then a loss that was made
            good before the position was closed is forgotten, and trading goes on.

        Returns
        -------
        weight : float
            `held_weight` where no order may be sent, which no limit on positions changes; else of
            the sign of what is wanted, and no larger.
        reason : str or None
            None where nothing was in the way.

        Raises
        ------
        EnsembleKitError
            If the weight is not finite.
        """
        if not np.isfinite(weight):
            raise EnsembleKitError(f"`weight` must be finite; got {weight}. Use 0 where nothing is known.")
        lowest = equity if lowest_equity is None else min(equity, lowest_equity)
        if equity <= 0:
            return 0.0, "the account is ruined"
        if self.max_daily_loss is not None and lowest <= opening_equity * (1 - self.max_daily_loss):
            lost = 1 - lowest / opening_equity
            return 0.0, f"lost {lost:.2%} in this session; `max_daily_loss` is {self.max_daily_loss:.2%}"
        no_order = self._no_order(_utc(bar_close), _utc(now), session)
        if no_order is not None:
            return held_weight, no_order
        return self._within(float(weight), equity, close)

    def _no_order(self, bar_close: pd.Timestamp, now: pd.Timestamp, session: str | Session) -> str | None:
        if self.max_age is not None and now - bar_close > self.max_age:
            age, oldest = _in_words(now - bar_close, up=True), _in_words(self.max_age)
            return f"no order: the bar closed {age} ago; `max_age` is {oldest}"
        if self.market_hours and not _within_session(bar_close, session):
            return f"no order: the bar closed at {bar_close}, outside the session"
        return None

    def _within(self, weight: float, equity: float, close: float) -> tuple[float, str | None]:
        """Cut a weight to the smaller of both limits on positions."""
        sizes = {"max_position": self.max_position}
        if self.max_notional is not None:
            sizes["max_notional"] = self.max_notional / equity
        name, size = min(
            ((n, s) for n, s in sizes.items() if s is not None), key=lambda limit: limit[1], default=("", np.inf)
        )
        if abs(weight) <= size:
            return weight, None
        allowed = float(np.copysign(size, weight))
        units = f"{allowed * equity / close:.6g} units at {close:g}"
        return allowed, f"wanted {weight:.6g} of equity; `{name}` allows {allowed:.6g} ({units})"


def _within_session(bar_close: pd.Timestamp, session: str | Session) -> bool:
    # The session's own close belongs to it, its open does not: a bar that closes then lies before it.
    times = session_times(pd.DatetimeIndex([bar_close - pd.Timedelta(1, "ns")]), session)
    return bool(0 <= times.minute[0] < times.length[0] and not times.holiday[0])


def _in_words(length: pd.Timedelta, *, up: bool = False) -> str:
    """Return a length of time in whole units, so that the same reason is the same text at the next bar."""
    unit, seconds = next((u, s) for u, s, below in _UNITS if length.total_seconds() < s * below)
    count = length.total_seconds() / seconds
    return f"{math.ceil(count) if up else math.floor(count)} {unit}"


def _utc(time: pd.Timestamp) -> pd.Timestamp:
    return time.tz_localize("UTC") if time.tzinfo is None else time
