"""TA-Lib's recursions a bar at a time, with the state that TA-Lib keeps to itself.

Each moves its state on over the next bars of one instrument and returns what TA-Lib returns for
them in the whole, bit for bit: the same operations in the same order, from the same seeds. TA-Lib
0.8 divides by whatever is not exactly 0.
States are small float64 arrays, changed in place; all begin as zeros.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_KERNEL = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": False}

_FAST, _SLOW, _SIGNAL = 12, 26, 9  # of the MACD
_PERIOD = 14  # of the directional indicators

CMO, EMA, MACD, DIRECTIONAL = 4, 2, 4, 8
"""Numbers in each state."""


@njit(**_KERNEL)
def cmo(close: Floats, period: int, state: Floats) -> Floats:
    """Return Chande's momentum oscillator. State: bars seen, last close, gain, loss."""
    out = np.full(len(close), np.nan)
    seen, previous, gain, loss = state[0], state[1], state[2], state[3]
    for t in range(len(close)):
        move = close[t] - previous
        previous = close[t]
        if seen > period:
            gain *= period - 1
            loss *= period - 1
        if seen > 0:
            if move < 0:
                loss -= move
            else:
                gain += move
        if seen >= period:
            gain /= period
            loss /= period
            moves = gain + loss
            out[t] = 0.0 if moves == 0.0 else 100.0 * ((gain - loss) / moves)
        seen += 1
    state[0], state[1], state[2], state[3] = seen, previous, gain, loss
    return out


@njit(**_KERNEL)
def ema(x: Floats, period: int, state: Floats) -> Floats:
    """Return the exponential average, begun by the plain one. State: values seen, average."""
    out = np.full(len(x), np.nan)
    for t in range(len(x)):
        state[1] = _average(x[t], state[0], period, state[1])
        state[0] += 1
        if state[0] >= period:
            out[t] = state[1]
    return out


@njit(**_KERNEL)
def macd_histogram(close: Floats, state: Floats) -> Floats:
    """Return MACD(12, 26, 9)'s histogram. State: bars seen, fast, slow and signal average.

    The fast average is begun as late as the slow one: by the last 12 of the first 26 closes.
    """
    out = np.full(len(close), np.nan)
    for t in range(len(close)):
        seen = state[0]
        late = seen - (_SLOW - _FAST)
        if late >= 0:
            state[1] = _average(close[t], late, _FAST, state[1])
        state[2] = _average(close[t], seen, _SLOW, state[2])
        known = seen - (_SLOW - 1)
        if known >= 0:
            macd = state[1] - state[2]
            state[3] = _average(macd, known, _SIGNAL, state[3])
            if known >= _SIGNAL - 1:
                out[t] = macd - state[3]
        state[0] = seen + 1
    return out


@njit(**_KERNEL)
def directional(high: Floats, low: Floats, close: Floats, state: Floats) -> tuple[Floats, Floats, Floats]:
    """Return ADX, +DI and -DI over 14 bars.

    State: bars seen, last high, low and close, smoothed range, rise and fall, ADX.
    """
    n = len(close)
    adx, plus, minus = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    for t in range(n):
        seen = state[0]
        if seen > 0:
            _smooth(high[t], low[t], seen, state)
        if seen >= _PERIOD:
            still = state[4] == 0.0
            plus[t] = 0.0 if still else 100.0 * (state[5] / state[4])
            minus[t] = 0.0 if still else 100.0 * (state[6] / state[4])
            total = minus[t] + plus[t]
            apart = np.nan if total == 0.0 else 100.0 * (abs(minus[t] - plus[t]) / total)
            if seen < 2 * _PERIOD - 1:
                state[7] += 0.0 if np.isnan(apart) else apart
            elif seen == 2 * _PERIOD - 1:
                state[7] = (state[7] + (0.0 if np.isnan(apart) else apart)) / _PERIOD
            elif not np.isnan(apart):
                state[7] = (state[7] * (_PERIOD - 1) + apart) / _PERIOD
            if seen >= 2 * _PERIOD - 1:
                adx[t] = state[7]
        state[0], state[1], state[2], state[3] = seen + 1, high[t], low[t], close[t]
    return adx, plus, minus


@njit(**_KERNEL)
def _smooth(high: float, low: float, seen: float, state: Floats) -> None:
    """Take a bar into range, rise and fall: sums of the first 13, Wilder's smoothing after."""
    reach = high - low
    reach = max(reach, abs(high - state[3]))
    reach = max(reach, abs(low - state[3]))
    rise, fall = high - state[1], state[2] - low
    if seen >= _PERIOD:
        for k in range(4, 7):
            state[k] -= state[k] / _PERIOD
    state[4] += reach
    if rise > 0 and rise > fall:
        state[5] += rise
    elif fall > 0 and fall > rise:
        state[6] += fall


@njit(**_KERNEL)
def _average(value: float, seen: float, period: int, average: float) -> float:
    """Move an exponential average on; it is a sum until `period` values are there."""
    if seen < period:
        total = average + value
        return total / period if seen == period - 1 else total
    return (value - average) * (2.0 / (period + 1)) + average
