"""Turns: bars that tower above, or lie below, the windows on both sides."""

from __future__ import annotations

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.atr import average_true_range
from ensemble_kit.labels._blocks import Blocks

__all__ = ["extremes_before", "find_turns"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def find_turns(bars: pd.DataFrame, blocks: Blocks, w: int, k: float) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Return +1 (peak), -1 (bottom) or 0 by place, and whether the place's class can be computed."""
    high, low = blocks.floats(bars, "high", "low")
    atr = blocks.take(average_true_range(bars))
    top, floor = extremes_before(high, low, blocks.start, w)
    top_after, floor_after = _extremes_after(high, low, blocks.stop, w)
    least = k * atr
    # Comparisons with NaN (no window, no ATR, no price) are False: no turn.
    peak = (high > top) & (high >= top_after) & (high - np.maximum(floor, floor_after) >= least)
    bottom = (low < floor) & (low <= floor_after) & (np.minimum(top, top_after) - low >= least)
    at = np.arange(len(high))
    # The start of the data, unlike a session's, cuts windows off: what lay before it is not known.
    whole = (at - blocks.first >= w) | (blocks.start > blocks.first)
    whole &= ~np.isnan(high + low + atr)
    # A window may be empty at its border, not for want of prices.
    whole &= ~np.isnan(top + floor) | (at == blocks.start)
    whole &= ~np.isnan(top_after + floor_after) | (at == blocks.stop)
    return ((peak.astype(np.int8) - bottom) * whole).astype(np.int8), whole


def extremes_before(high: FloatArray, low: FloatArray, start: IntArray, w: int) -> tuple[FloatArray, FloatArray]:
    """Highest high and lowest low of the w places before each, no farther back than `start`."""
    return _trailing_max(high, start, w), -_trailing_max(-low, start, w)


def _extremes_after(high: FloatArray, low: FloatArray, stop: IntArray, w: int) -> tuple[FloatArray, FloatArray]:
    """Highest high and lowest low of the w places after each: the same, read backwards."""
    start = len(stop) - 1 - stop[::-1]
    top, floor = extremes_before(high[::-1], low[::-1], start, w)
    return top[::-1], floor[::-1]


@numba.njit(cache=True)
def _trailing_max(values: FloatArray, start: IntArray, w: int) -> FloatArray:
    """Maximum of the w values before each place, no farther back than `start`; NaN skipped, NaN if none."""
    n = len(values)
    out = np.full(n, np.nan)
    queue = np.empty(n, dtype=np.int64)
    head = tail = 0
    for t in range(n):
        oldest = max(t - w, start[t])
        while head < tail and queue[head] < oldest:
            head += 1
        if head < tail:
            out[t] = values[queue[head]]
        if not np.isnan(values[t]):
            while head < tail and values[queue[tail - 1]] <= values[t]:
                tail -= 1
            queue[tail] = t
            tail += 1
    return out
