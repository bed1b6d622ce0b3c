"""Zones: order blocks and fair value gaps, from birth to the bar that ends them.

A zone of side k lies below the price if k is up (a bullish zone), above it if k is down. Its edges are
kept outward: NEAR is the one the price meets first, the top of a bullish zone, and larger than FAR on
both sides. Lists are oldest first; a full one forgets its oldest.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ensemble_kit.features._ict_state import DAY, DOWN, KERNEL, SIGN, UP, Floats, Ints, Singles

BLOCK_COLUMNS = (
    *("ob_bull_dist", "ob_bear_dist", "ob_bull_age", "ob_bear_age", "ob_bull_str", "ob_bear_str"),
    *("ob_bull_n", "ob_bear_n", "ob_touch", "ob_break"),
)
GAP_COLUMNS = (
    *("fvg_event", "fvg_size", "fvg_bull_dist", "fvg_bear_dist", "fvg_bull_age", "fvg_bear_age"),
    *("fvg_bull_fill", "fvg_bear_fill", "fvg_bull_n", "fvg_bear_n", "fvg_invert"),
)

# Fields of a zone: edges, the number of the bar that made it known, a block's displacement or a
# gap's largest share filled, and whether a block was touched.
NEAR, FAR, BORN, VALUE, TOUCHED = range(5)


@njit(**KERNEL)
def _add(zones: Floats, counts: Ints, k: int, near: float, far: float, born: float, value: float) -> None:
    n = counts[k]
    if n == zones.shape[1]:
        for i in range(1, n):
            _move(zones, k, i, i - 1)
        n -= 1
    zones[k, n, TOUCHED] = 0.0
    zones[k, n, NEAR], zones[k, n, FAR], zones[k, n, BORN], zones[k, n, VALUE] = near, far, born, value
    counts[k] = n + 1


@njit(**KERNEL)
def _move(zones: Floats, k: int, i: int, to: int) -> None:
    # Number by number: a view of each zone costs more than all else.
    if to != i:
        for field in range(zones.shape[2]):
            zones[k, to, field] = zones[k, i, field]


@njit(**KERNEL)
def age_blocks(
    bars: Floats, t: int, close: float, now: float, max_age: float, blocks: Floats, counts: Ints
) -> tuple[float, float]:
    """Age, touch and break the order blocks; return the signed first touch and the signed break of this bar."""
    touch, broken = 0.0, 0.0
    for k in range(2):
        sign, inner, kept = SIGN[k], -bars[1 - k, t], 0
        touched = False
        for i in range(counts[k]):
            if now - blocks[k, i, BORN] > max_age:
                continue
            if inner <= blocks[k, i, NEAR] and blocks[k, i, TOUCHED] == 0.0:
                blocks[k, i, TOUCHED] = 1.0
                touched = True
            if sign * close < blocks[k, i, FAR]:
                broken = -sign
                continue
            _move(blocks, k, i, kept)
            kept += 1
        counts[k] = kept
        touch += sign if touched else 0.0
    return touch, broken


@njit(**KERNEL)
def age_gaps(bars: Floats, t: int, close: float, now: float, max_age: float, gaps: Floats, counts: Ints) -> float:
    """Age and fill the fair value gaps; return the signed close through one."""
    inverted = 0.0
    for k in range(2):
        sign, inner, kept = SIGN[k], -bars[1 - k, t], 0
        for i in range(counts[k]):
            near, far = gaps[k, i, NEAR], gaps[k, i, FAR]
            if now - gaps[k, i, BORN] > max_age:
                continue
            if inner <= far:  # nothing of it is left open
                inverted = -sign if sign * close < far else inverted
                continue
            if inner < near:
                gaps[k, i, VALUE] = max(gaps[k, i, VALUE], (near - inner) / (near - far))
            _move(gaps, k, i, kept)
            kept += 1
        counts[k] = kept
    return inverted


@njit(**KERNEL)
def add_block(
    near: float, far: float, close: float, atr: float, now: float, minimum: float, k: int, blocks: Floats, counts: Ints
) -> None:
    """Add the order block behind a break of side k if the close has left it far enough (NaN: there is none)."""
    displacement = SIGN[k] * close - near
    if displacement >= minimum * atr:
        _add(blocks, counts, k, near, far, now, displacement / atr)


@njit(**KERNEL)
def find_gap(bars: Floats, t: int, atr: float, now: float, minimum: float, gaps: Floats, counts: Ints) -> float:
    """Add the fair value gap whose third bar is t; return its signed size, 0 for none, NaN without a unit."""
    if np.isnan(atr):
        return np.nan
    if not bars[DAY, t] == bars[DAY, t - 1] == bars[DAY, t - 2]:
        return 0.0
    for k in range(2):
        near, far = -bars[1 - k, t], bars[k, t - 2]
        if near > far and near - far >= minimum * atr:
            _add(gaps, counts, k, near, far, now, 0.0)
            return SIGN[k] * (near - far) / atr
    return 0.0


@njit(**KERNEL)
def _nearest(zones: Floats, k: int, n: int) -> int:
    """Return the zone that the price meets first, the youngest of equals; -1 for none."""
    best = -1
    for i in range(n):
        if best < 0 or zones[k, i, NEAR] >= zones[k, best, NEAR]:
            best = i
    return best


@njit(**KERNEL)
def write_blocks(
    close: float,
    atr: float,
    now: float,
    touch: float,
    broken: float,
    blocks: Floats,
    counts: Ints,
    out: Singles,
    r: int,
) -> None:
    """Fill the `BLOCK_COLUMNS` of one bar."""
    _write_sides(close, atr, now, blocks, counts, out, r)
    out[8, r], out[9, r] = touch, broken


@njit(**KERNEL)
def write_gaps(
    close: float, atr: float, now: float, size: float, inverted: float, gaps: Floats, counts: Ints, out: Singles, r: int
) -> None:
    """Fill the `GAP_COLUMNS` of one bar."""
    out[0, r], out[1, r] = np.sign(size), size
    _write_sides(close, atr, now, gaps, counts, out[2:], r)
    out[10, r] = inverted


@njit(**KERNEL)
def _write_sides(close: float, atr: float, now: float, zones: Floats, counts: Ints, out: Singles, r: int) -> None:
    """Fill distance, age, value and count, each of the bullish and the bearish side."""
    for k in (UP, DOWN):
        i = _nearest(zones, k, counts[k])
        if i < 0:
            out[k, r], out[2 + k, r], out[4 + k, r] = np.nan, np.nan, np.nan
        else:
            out[k, r] = (SIGN[k] * close - zones[k, i, NEAR]) / atr
            out[2 + k, r], out[4 + k, r] = now - zones[k, i, BORN], zones[k, i, VALUE]
        out[6 + k, r] = counts[k]
