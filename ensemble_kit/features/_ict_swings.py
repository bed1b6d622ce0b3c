"""Swings and market structure: pivots, and the closes that break them.

The leg that leads to a break of side k is followed from the swing's own bar: the furthest it went
to the other side, and the order block there, the last candle against the break.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ensemble_kit.features._ict_state import CLOSE, DOWN, KERNEL, OPEN, SIGN, UP, Floats, Singles

SWING_COLUMNS = (
    *("sw_high_dist", "sw_low_dist", "sw_high_age", "sw_low_age"),
    *("sw_leg", "sw_leg_atr", "sw_pos", "sw_seq"),
)
STRUCTURE_COLUMNS = (
    *("ms_trend", "ms_bos", "ms_choch", "ms_bos_age", "ms_choch_age"),
    *("ms_run", "ms_level_dist", "ms_strength", "ms_flip_dist"),
)

# Fields of a side's swing, prices outward: its level and the one before it, the pivot bar's number,
# 1 until a close breaks it; the leg's extreme and the block that waits there.
LEVEL, PREVIOUS, BORN, UNBROKEN, EXTREME, NEAR, FAR = range(7)

# Fields of the structure: the side of the last pivot (-1: none), and of breaks the direction, the
# count of BOS since the CHoCH, the bars of the last of either, the level and how far the close went.
LAST, TREND, RUN, BOS_BAR, CHOCH_BAR, BROKEN, STRENGTH = range(7)


@njit(**KERNEL)
def find_pivots(
    bars: Floats, t: int, left: int, right: int, now: float, swings: Floats, structure: Floats
) -> tuple[bool, bool]:
    """Follow the legs to bar t, take up the pivots it confirms, and say whether there are any, up and down."""
    for k in range(2):
        _follow_leg(bars, t, left, k, swings)
    s = t - right
    up, down = _is_pivot(bars, s, left, right, UP), _is_pivot(bars, s, left, right, DOWN)
    if not (up or down):
        return up, down
    last = structure[LAST]
    first = DOWN if last == UP else UP
    for k in (first, 1 - first):
        if (k == UP and up) or (k == DOWN and down):
            _take_up(bars, t, s, left, now - right, k, swings, structure)
    if up and down:
        # Both: the kind opposite to the last first, so the last kind is what it was, none if there was none.
        structure[LAST] = last
    return up, down


@njit(**KERNEL)
def _is_pivot(bars: Floats, s: int, left: int, right: int, k: int) -> bool:
    """Tell whether bar s is strictly beyond its left bars and at least level with its right ones."""
    for i in range(s + 1, s + right + 1):
        if not bars[k, s] >= bars[k, i]:
            return False
    for i in range(s - left, s):  # noqa: SIM110 - numba has no generators inside `all`
        if not bars[k, s] > bars[k, i]:  # nor is there one beside the NaN before the first bar
            return False
    return True


@njit(**KERNEL)
def _take_up(bars: Floats, t: int, s: int, left: int, born: float, k: int, swings: Floats, structure: Floats) -> None:
    """Make the pivot at bar s the swing of side k, if it is one."""
    if structure[LAST] != k:
        swings[k, PREVIOUS] = swings[k, LEVEL]
    elif not bars[k, s] > swings[k, LEVEL]:
        return
    swings[k, LEVEL], swings[k, BORN], swings[k, UNBROKEN] = bars[k, s], born, 1.0
    structure[LAST] = k
    swings[k, EXTREME] = -np.inf
    for e in range(s, t + 1):
        _follow_leg(bars, e, left, k, swings)


@njit(**KERNEL)
def _follow_leg(bars: Floats, e: int, left: int, k: int, swings: Floats) -> None:
    """If bar e is the leg's new extreme, find the last candle against side k within `left` bars."""
    sign = SIGN[k]
    if not bars[1 - k, e] >= swings[k, EXTREME]:
        return
    swings[k, EXTREME] = bars[1 - k, e]
    swings[k, NEAR], swings[k, FAR] = np.nan, np.nan
    for b in range(e, e - left - 1, -1):
        if sign * bars[CLOSE, b] < sign * bars[OPEN, b]:
            swings[k, NEAR], swings[k, FAR] = bars[k, b], -bars[1 - k, b]
            return


@njit(**KERNEL)
def break_levels(close: float, atr: float, now: float, swings: Floats, structure: Floats) -> tuple[int, bool]:
    """Let the close break the swing levels; return the side broken (-1: none), and whether it is a CHoCH."""
    for k in range(2):
        sign = SIGN[k]
        if not (swings[k, UNBROKEN] == 1.0 and sign * close > swings[k, LEVEL]):
            continue
        swings[k, UNBROKEN] = 0.0
        level = sign * swings[k, LEVEL]
        turned = structure[TREND] == -sign
        structure[TREND] = sign
        structure[RUN] = 0.0 if turned else structure[RUN] + sign
        if turned:
            structure[CHOCH_BAR] = now
        else:
            structure[BOS_BAR] = now
        structure[BROKEN], structure[STRENGTH] = level, (close - level) / atr
        # Not both: a level is unbroken as long as closes lie within it, so the other lies on their far side.
        return k, turned
    return -1, False


@njit(**KERNEL)
def write_swings(close: float, atr: float, now: float, swings: Floats, structure: Floats, out: Singles, r: int) -> None:
    """Fill the `SWING_COLUMNS` of one bar."""
    high, low = swings[UP, LEVEL], -swings[DOWN, LEVEL]
    out[0, r], out[1, r] = (close - high) / atr, (close - low) / atr
    out[2, r], out[3, r] = now - swings[UP, BORN], now - swings[DOWN, BORN]
    out[4, r] = np.nan if structure[LAST] < 0 else (1.0 if structure[LAST] == DOWN else -1.0)
    out[5, r] = (high - low) / atr
    place = (close - low) / (high - low)
    out[6, r] = np.nan if high == low else min(max(place, -1.0), 2.0)
    out[7, r] = np.sign(high - swings[UP, PREVIOUS]) + np.sign(low + swings[DOWN, PREVIOUS])


@njit(**KERNEL)
def write_structure(
    close: float,
    atr: float,
    now: float,
    side: int,
    turned: bool,
    swings: Floats,
    structure: Floats,
    out: Singles,
    r: int,
) -> None:
    """Fill the `STRUCTURE_COLUMNS` of one bar, on which ``side`` was broken."""
    event = 0.0 if side < 0 else SIGN[side]
    out[0, r] = structure[TREND]
    out[1, r], out[2, r] = (0.0, event) if turned else (event, 0.0)
    out[3, r], out[4, r] = now - structure[BOS_BAR], now - structure[CHOCH_BAR]
    out[5, r] = structure[RUN]
    out[6, r] = (close - structure[BROKEN]) / atr
    out[7, r] = structure[STRENGTH]
    flip = -swings[DOWN, LEVEL] if structure[TREND] > 0 else swings[UP, LEVEL]
    out[8, r] = np.nan if np.isnan(structure[TREND]) else (close - flip) / atr
