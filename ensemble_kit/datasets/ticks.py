"""Seeded synthetic ticks: a level-1 book whose next move may follow its imbalance, or nothing at all."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
import pandas as pd

from ensemble_kit.exceptions import BarsError

__all__ = ["make_ticks"]

# Of a calm and a wild regime: chance to leave it at a tick, chance of a move at a tick, mean half-spread above one
# tick, mean seconds between ticks, mean volume.
_LEAVE = (0.002, 0.005)
_MOVE = (0.15, 0.45)
_WIDER = (0.1, 0.9)
_SECONDS = (0.4, 0.1)
_VOLUME = (3.0, 9.0)
_PERSISTENCE = 0.9  # of the book's lean from tick to tick
_LEAN = 0.35  # what a lean of one side alone adds to the chance of a move to that side, for signal 1
_DEPTH = 50.0  # units at the best price, the median


def make_ticks(
    n_ticks: int = 10_000,
    *,
    signal: float = 0.0,
    tick_size: float = 0.01,
    price: float = 100.0,
    start: str | pd.Timestamp = "2024-01-02 14:30",
    random_state: int | None = None,
) -> pd.DataFrame:
    """Make seeded level-1 quotes, unpredictable unless a signal is asked for.

    Two regimes of volatility, in the wild one of which spreads widen, ticks come faster and more
    is traded; a book that leans to one side for some ten ticks; prices on a grid. With
    ``signal=0`` the mid price is a martingale: whatever is known at a tick, its next change has
    mean 0 exactly.

    Parameters
    ----------
    n_ticks : int, default=10_000
        Rows.
    signal : float, default=0.0
        How much the next move follows the book's lean, from 0 to 1. At 1, a move after a book
        with one side alone goes to that side with probability 0.85.
    tick_size : float, default=0.01
        The grid of prices.
    price : float, default=100.0
        The first mid price; it stays above half of itself (the walk is turned back there).
    start : str or Timestamp, default="2024-01-02 14:30"
        Time before the first tick, in UTC where it has no zone.
    random_state : int, default=None
        Seed. None draws a new one.

    Returns
    -------
    DataFrame of shape (n_ticks, 5)
        `bid`, `ask`, `bid_size`, `ask_size` and `volume` (traded since the tick before), indexed by
        unique times in UTC. The spread is an even number of ticks, two or more.

    Raises
    ------
    BarsError
        If a parameter is out of its domain.

    See Also
    --------
    ensemble_kit.features.MicrostructureFeatures : Columns of such ticks.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_ticks
    >>> ticks = make_ticks(1000, random_state=0)
    >>> ticks.shape, bool((ticks["ask"] > ticks["bid"]).all())
    ((1000, 5), True)
    """
    _check(n_ticks, signal, tick_size, price, random_state)
    rng = np.random.default_rng(random_state)
    wild = _regimes(rng.random(n_ticks))
    lean = np.empty(n_ticks)
    level = rng.standard_normal()
    for t, shock in enumerate(np.sqrt(1 - _PERSISTENCE**2) * rng.standard_normal(n_ticks)):
        lean[t] = level = _PERSISTENCE * level + shock
    depth = _DEPTH * np.exp(0.3 * rng.standard_normal((2, n_ticks)) + np.outer([0.5, -0.5], lean))
    bid_size, ask_size = np.maximum(np.round(depth), 1.0)
    imbalance = (bid_size - ask_size) / (bid_size + ask_size)

    # The move into a tick follows the book of the tick before it.
    before = np.concatenate([[0.0], imbalance[:-1]])
    up = 0.5 + _LEAN * signal * before
    side = np.where(rng.random(n_ticks) < up, 1.0, -1.0)
    moves = side * (rng.random(n_ticks) < np.where(wild, _MOVE[1], _MOVE[0]))
    middle = _reflected(np.round(price / tick_size) + np.cumsum(moves), np.round(price / tick_size) / 2)
    half = 1 + rng.poisson(np.where(wild, _WIDER[1], _WIDER[0]))

    seconds = rng.exponential(np.where(wild, _SECONDS[1], _SECONDS[0]))
    first = pd.Timestamp(start)
    first = first.tz_localize("UTC") if first.tzinfo is None else first.tz_convert("UTC")
    times = first + pd.to_timedelta(np.cumsum(np.maximum((seconds * 1e9).astype(np.int64), 1)), unit="ns")
    return pd.DataFrame(
        {
            "bid": np.round((middle - half) * tick_size, 10),
            "ask": np.round((middle + half) * tick_size, 10),
            "bid_size": bid_size,
            "ask_size": ask_size,
            "volume": rng.poisson(np.where(wild, _VOLUME[1], _VOLUME[0])).astype(np.float64),
        },
        index=pd.DatetimeIndex(times, name="datetime"),
    )


def _regimes(chance: np.ndarray) -> np.ndarray:
    """Return whether each tick is in the wild regime; the first is not."""
    wild, now = np.empty(len(chance), dtype=bool), False
    for t, draw in enumerate(chance):
        now ^= bool(draw < _LEAVE[int(now)])
        wild[t] = now
    return wild


def _reflected(walk: np.ndarray, floor: float) -> np.ndarray:
    """Turn a walk back at the floor: a martingale above it, and no price of 0."""
    return floor + np.abs(walk - floor)


def _check(n_ticks: int, signal: float, tick_size: float, price: float, random_state: int | None) -> None:
    if not isinstance(n_ticks, Integral) or n_ticks < 1:
        raise BarsError(f"`n_ticks` must be an integer of at least 1; got {n_ticks!r}. 10_000 is about an hour.")
    if not isinstance(signal, Real) or not 0 <= signal <= 1:
        raise BarsError(f"`signal` must be a number from 0 to 1; got {signal!r}. Use 0 for none, 1 for a clear one.")
    if not isinstance(tick_size, Real) or not 0 < tick_size < np.inf:
        raise BarsError(f"`tick_size` must be a finite number above 0; got {tick_size!r}. Use 0.01 for cents.")
    if not isinstance(price, Real) or not 100 * tick_size <= price < np.inf:
        raise BarsError(
            f"`price` must be at least 100 ticks of {tick_size:g}; got {price!r}. Raise it, or lower the tick."
        )
    if random_state is not None and (not isinstance(random_state, Integral) or random_state < 0):
        raise BarsError(f"`random_state` must be an integer of at least 0 or None; got {random_state!r}. Pass a seed.")
