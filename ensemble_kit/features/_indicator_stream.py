"""The indicators of one instrument, bar after bar: the formulas of the whole over carried state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.atr import start_wilder, wilder
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.features import _indicator_recursions as recursions
from ensemble_kit.features._indicator_kernels import SPAN, session_average, slot_average, start_session, start_slots
from ensemble_kit.features._indicators import (
    AVERAGES,
    OF_SESSIONS,
    PERIODS,
    VOLUMES,
    Columns,
    Floats,
    Group,
    InstrumentBars,
    Ints,
    fill,
)
from ensemble_kit.features._newest import NextBars, SessionClock
from ensemble_kit.sessions import Session

State = dict[str, NDArray[Any]]

_ATR = 14


class IndicatorStream:
    """One instrument's indicators, bar after bar, with the bits of the whole.

    `IndicatorFeatures.stream` makes one. What windows look back on is kept, what recurs is
    carried; nothing before is read again, and the state does not grow, but for the time slots of
    a day once each has been seen.

    Parameters
    ----------
    groups : mapping of str to Group
        The groups of `IndicatorFeatures`.
    session : "day", exchange code or Session
        As in `IndicatorFeatures`.
    state : mapping of str to ndarray, default=None
        Where to go on.

    Attributes
    ----------
    state : dict of str to ndarray
        All that the past means for the rows to come.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features.indicators import IndicatorFeatures
    >>> bars = make_bars(300, random_state=0)
    >>> features = IndicatorFeatures()
    >>> stream = features.stream()
    >>> stream.update(bars.iloc[:299]).shape
    (299, 14)
    >>> resumed = features.stream(stream.state)  # after a restart
    >>> resumed.update(bars.iloc[299:]).tobytes() == stream.update(bars.iloc[299:]).tobytes()
    True
    """

    def __init__(
        self,
        groups: Mapping[str, Group],
        session: str | Session,
        state: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self._groups = groups
        self._n_out = sum(len(group.columns) for group in groups.values())
        self._next, self._clock = NextBars(), SessionClock(session)
        self._timed = not groups.keys().isdisjoint(OF_SESSIONS)
        self._state = _start(groups, session)
        if state is not None:
            self._resume(state)

    @property
    def state(self) -> State:
        """All that the past means for the rows to come: plain arrays, copies."""
        return {name: value.copy() for name, value in self._state.items()} | {"last": np.array(self._next.last)}

    def update(self, bars: pd.DataFrame) -> NDArray[np.float32]:
        """Take the next bars and return their rows.

        Parameters
        ----------
        bars : DataFrame of shape (m, n_columns)
            One bar or more of the instrument, after all that came before; ``volume`` and
            ``vwap`` are optional.

        Returns
        -------
        ndarray of float32, shape (m, n_out)
            Their columns.

        Raises
        ------
        BarsError
            If they cannot be used, or do not follow.
        """
        values, times = self._next.read(bars)
        day, minute = np.zeros(len(times), np.int64), np.zeros(len(times))
        if self._timed:
            session = self._clock.times(bars.index, times)
            day, minute = session.day, session.minute
        out = np.full((len(times), self._n_out), np.nan, np.float32)
        _, high, low, close, volume, vwap = values
        rows = np.flatnonzero(~np.isnan(high + low + close))
        if len(rows):
            price = np.where(np.isfinite(vwap), vwap, (high + low + close) / 3)
            new = np.stack([rows + self._state["rows"], high[rows], low[rows], close[rows], volume[rows], price[rows]])
            self._take(out, rows, new, day[rows], minute[rows])
        self._state["rows"] += len(times)
        self._next.last = int(times[-1])
        return out

    def _take(self, out: NDArray[np.float32], rows: Ints, new: Floats, day: Ints, minute: Floats) -> None:
        """Move the state on over bars that have prices, and write their columns."""
        state = self._state
        kept, volumes = _known(state["bars"]), _known(state["volumes"])
        place, high, low, close = np.concatenate([kept, new[:4]], axis=1)
        volume, price = new[4:]
        before = np.full(len(close) - len(rows), np.nan)
        atr = wilder(*new[1:4], np.zeros(len(rows), np.int64), _ATR, state["wilder"])
        bars = _StreamBars(
            high=high,
            low=low,
            close=close,
            volume=np.concatenate([before, volume]),
            price=price,
            atr=np.concatenate([before, atr]),
            day=day,
            slot=day,  # which number a slot has, the state knows
            volumes_before=volumes[0],
            before=before,
            minute=minute,
            state=state,
        )
        fill(out, rows, place, bars, self._groups)
        _keep(state["bars"], new[:4])
        _keep(state["volumes"], volume[None, ~np.isnan(volume)])

    def _resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        begin = self._state
        same = (
            state.keys() == {*begin, "last"}
            and np.array_equal(state["settings"], begin["settings"])
            and all(
                np.shape(state[name]) == value.shape or (name == "slots" and len(state[name]) == len(value))
                for name, value in begin.items()
            )
        )
        if not same:
            raise EnsembleKitError(
                "`state` must be one left by the same parameters; got another. "
                "Build `IndicatorFeatures` as it was when the state was stored."
            )
        self._state = {name: np.array(state[name], dtype=value.dtype, order="C") for name, value in begin.items()}
        self._next.last = int(state["last"])


@dataclass(frozen=True)
class _StreamBars(InstrumentBars):
    """The bars kept for windows and the new ones behind them, over which recursions are carried on.

    Of the bars kept, only prices are known: `price`, `day`, `slot` and `minute` are of the new ones.
    """

    before: Floats = field(kw_only=True)
    """NaN, one a bar kept."""
    minute: Floats = field(kw_only=True)
    state: State = field(kw_only=True)
    averages: dict[int, Floats] = field(default_factory=dict, kw_only=True)

    def _new(self, x: Floats) -> Floats:
        return x[len(self.before) :]

    def _behind(self, x: Floats) -> Floats:
        return np.concatenate([self.before, x])

    def cmo(self, period: int) -> Floats:
        return self._behind(recursions.cmo(self._new(self.close), period, self.state[f"cmo_{period}"]))

    def ema(self, period: int) -> Floats:
        # Two groups may ask for one average, which moves on once a bar.
        if period not in self.averages:
            self.averages[period] = recursions.ema(self._new(self.close), period, self.state[f"ema_{period}"])
        return self._behind(self.averages[period])

    def macd_histogram(self) -> Floats:
        return self._behind(recursions.macd_histogram(self._new(self.close), self.state["macd"]))

    def directional(self) -> Columns:
        new = (self._new(x) for x in (self.high, self.low, self.close))
        return [self._behind(x) for x in recursions.directional(*new, self.state["directional"])]

    def session_average(self) -> tuple[Floats, Floats]:
        mean, std = session_average(self.price, self._new(self.volume), self.day, self.state["session"])
        return self._behind(mean), self._behind(std)

    def usual_volume(self) -> Floats:
        slots = self.state["slots"]
        if len(unseen := np.setdiff1d(self.minute, slots[0])):
            opened = np.concatenate([unseen[None], start_slots(len(unseen))])
            slots = np.concatenate([slots, opened], axis=1)
            slots = np.ascontiguousarray(slots[:, np.argsort(slots[0])])
            self.state["slots"] = slots
        slot = np.searchsorted(slots[0], self.minute)
        return self._behind(slot_average(self._new(self.volume), self.day, slot, SPAN, slots[1:]))


def _start(groups: Mapping[str, Group], session: str | Session) -> State:
    """Return the state before an instrument's first bar."""
    needs = [need for group in groups.values() for need in group.columns.values() if need is not None]
    return {
        "settings": np.array([repr(session), *groups]),
        "rows": np.zeros(1, np.int64),
        "bars": np.full((4, max(needs, default=0)), np.nan),
        "volumes": np.full((1, VOLUMES - 1), np.nan),
        "wilder": start_wilder(1),
        "session": start_session(),
        "slots": np.concatenate([np.empty((1, 0)), start_slots(0)]),
        "macd": np.zeros(recursions.MACD),
        "directional": np.zeros(recursions.DIRECTIONAL),
        **{f"cmo_{k}": np.zeros(recursions.CMO) for k in PERIODS},
        **{f"ema_{k}": np.zeros(recursions.EMA) for k in AVERAGES},
    }


def _known(ring: Floats) -> Floats:
    """Return what has been kept so far: a ring fills from behind."""
    return ring[:, np.count_nonzero(np.isnan(ring[-1])) :]


def _keep(ring: Floats, new: Floats) -> None:
    """Push the new values in from behind, and forget the oldest."""
    size, m = ring.shape[1], min(new.shape[1], ring.shape[1])
    ring[:, : size - m] = ring[:, m:].copy()
    ring[:, size - m :] = new[:, new.shape[1] - m :]
