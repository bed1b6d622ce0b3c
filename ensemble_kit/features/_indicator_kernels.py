"""Rolling and running numbers that TA-Lib has not, or only as sums with a memory."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK = 2048  # windows whose sums stay in the first-level cache
_KERNEL = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": False}


@njit(**_KERNEL)
def deviations(x: Floats, window: int) -> tuple[Floats, Floats]:
    """Return the mean of each window less its newest value, and the standard deviation (n - 1).

    Every window is summed anew, as differences from its newest value: equal values give 0
    exactly, whatever came before is forgotten, and since the newest value lies within
    sqrt(window) deviations of the mean, no digits cancel. The inner loop runs over windows, so
    it has no order to keep and fills the vector registers.
    """
    n = len(x)
    mean, std = np.full(n, np.nan), np.full(n, np.nan)
    total, squares = np.empty(_BLOCK), np.empty(_BLOCK)
    newest = window - 1
    for first in range(newest, n, _BLOCK):
        m = min(_BLOCK, n - first)
        total[:] = 0.0
        squares[:] = 0.0
        for j in range(1, window):
            for i in range(m):
                d = x[first + i - j] - x[first + i]
                total[i] += d
                squares[i] += d * d
        for i in range(m):
            mean[first + i] = total[i] / window
            std[first + i] = np.sqrt(max(squares[i] - total[i] * total[i] / window, 0.0) / newest)
    return mean, std


@njit(**_KERNEL)
def weighted_deviation(x: Floats, window: int) -> Floats:
    """Return the linearly weighted mean of each window (newest value most) less its newest value.

    As `deviations`: summed anew, exactly 0 for equal values.
    """
    n = len(x)
    out = np.full(n, np.nan)
    newest = window - 1
    for first in range(newest, n, _BLOCK):
        m = min(_BLOCK, n - first)
        out[first : first + m] = 0.0
        for j in range(1, window):
            weight = 2.0 * (window - j) / (window * (window + 1.0))
            for i in range(m):
                out[first + i] += weight * (x[first + i - j] - x[first + i])
    return out


def start_session() -> Floats:
    """Return the state of `session_average` before the first bar: day, weight, mean, squares."""
    return np.array([np.nan, 0.0, 0.0, 0.0])


@njit(**_KERNEL)
def session_average(price: Floats, volume: Floats, day: Ints, state: Floats) -> tuple[Floats, Floats]:
    """Return the session's volume-weighted mean and standard deviation so far (West's update).

    D. H. D. West, "Updating mean and variance estimates: an improved method", 1979. NaN until
    the session has traded, and where the bar's own volume is not known: it weighs nothing.
    """
    n = len(price)
    mean, std = np.full(n, np.nan), np.full(n, np.nan)
    today, weight, centre, squares = state[0], state[1], state[2], state[3]
    for t in range(n):
        if day[t] != today:
            today, weight, centre, squares = np.float64(day[t]), 0.0, 0.0, 0.0
        v = volume[t]
        if np.isnan(v):
            continue
        if v > 0:
            weight += v
            d = price[t] - centre
            centre += d * (v / weight)
            squares += v * d * (price[t] - centre)
        if weight > 0:
            mean[t] = centre
            std[t] = np.sqrt(max(squares, 0.0) / weight)
    state[0], state[1], state[2], state[3] = today, weight, centre, squares
    return mean, std


SPAN = 20
"""Days of the exponential mean of a slot's volume, as pandas counts a span."""


def start_slots(n_slots: int) -> Floats:
    """Return the state of `slot_average` before the first bar, a column a slot.

    The last day, total and weight with it, total and weight before it.
    """
    state = np.zeros((5, n_slots))
    state[0] = -np.inf
    return state


@njit(**_KERNEL)
def slot_average(volume: Floats, day: Ints, slot: Ints, span: int, state: Floats) -> Floats:
    """Return the exponential mean of the slot's volumes on days before the bar's own.

    Weights as pandas has them (``adjust=True``). A slot that comes twice in a day, as at the
    end of daylight saving, sees neither of its volumes that day. NaN where there is no earlier.
    """
    n = len(volume)
    decay = 1.0 - 2.0 / (span + 1.0)
    last_day, total, weight, known_total, known_weight = state[0], state[1], state[2], state[3], state[4]
    out = np.full(n, np.nan)
    for t in range(n):
        k = slot[t]
        if day[t] > last_day[k]:
            last_day[k] = day[t]
            known_total[k], known_weight[k] = total[k], weight[k]
        if known_weight[k] > 0:
            out[t] = known_total[k] / known_weight[k]
        if not np.isnan(volume[t]):
            total[k] = total[k] * decay + volume[t]
            weight[k] = weight[k] * decay + 1.0
    return out
