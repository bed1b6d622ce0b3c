"""Liquidity: pools of resting stops beyond the swings, and the extremes of the session before.

A pool of side k lies beyond swing highs if k is up. While it stands, no bar has gone beyond it, so a
later swing lies at its level or within: pools are a stack, the outermost and oldest first, and the
innermost is the nearest to the price and the only one that a swing can join. A full stack forgets the
outermost.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ensemble_kit.features._ict_state import DAY, DOWN, KERNEL, SIGN, UP, Floats, Ints, Singles

LIQUIDITY_COLUMNS = (
    *("liq_up_dist", "liq_dn_dist", "liq_up_n", "liq_dn_n", "liq_sweep", "liq_sweep_age", "liq_sweep_depth"),
    *("pd_high_dist", "pd_low_dist", "pd_swept"),
)

# Fields of a pool.
LEVEL, TOUCHES = range(2)
# Fields of the last sweep.
SWEPT_BAR, DEPTH = range(2)
# Fields of a side's session: its extreme so far, the extreme of the session before, 1 once beyond it.
CURRENT, PREVIOUS, TAKEN = range(3)


@njit(**KERNEL)
def take_pools(
    bars: Floats, t: int, close: float, atr: float, now: float, pools: Floats, counts: Ints, sweeps: Floats
) -> float:
    """Remove the pools that bar t trades beyond; return the signed sweep, 0 for none."""
    sweep, depth, swept = 0.0, 0.0, False
    for k in range(2):
        sign, outer = SIGN[k], bars[k, t]
        deepest = 0.0
        while counts[k] > 0 and outer > pools[k, counts[k] - 1, LEVEL]:
            level = pools[k, counts[k] - 1, LEVEL]
            if sign * close <= level:
                deepest = max(deepest, outer - level)
            counts[k] -= 1
        if deepest > 0.0:
            swept = True
            sweep -= sign
            depth -= sign * deepest
    if swept:
        sweeps[SWEPT_BAR], sweeps[DEPTH] = now, depth / atr
    return sweep


@njit(**KERNEL)
def join_pool(level: float, tolerance: float, k: int, pools: Floats, counts: Ints) -> None:
    """Let a swing join the innermost pool if it is within the tolerance (NaN: it is not), or begin one."""
    n = counts[k]
    if n > 0 and pools[k, n - 1, LEVEL] - level <= tolerance:
        pools[k, n - 1, TOUCHES] += 1.0
        return
    if n == pools.shape[1]:
        for i in range(1, n):
            pools[k, i - 1, LEVEL], pools[k, i - 1, TOUCHES] = pools[k, i, LEVEL], pools[k, i, TOUCHES]
        n -= 1
    pools[k, n, LEVEL], pools[k, n, TOUCHES] = level, 1.0
    counts[k] = n + 1


@njit(**KERNEL)
def follow_session(bars: Floats, t: int, sessions: Floats) -> None:
    """Extend the session's extremes to bar t, or begin a new one."""
    for k in range(2):
        if bars[DAY, t] != bars[DAY, t - 1]:
            sessions[k, PREVIOUS], sessions[k, CURRENT], sessions[k, TAKEN] = sessions[k, CURRENT], bars[k, t], 0.0
        elif bars[k, t] > sessions[k, CURRENT]:
            sessions[k, CURRENT] = bars[k, t]
        if bars[k, t] > sessions[k, PREVIOUS]:
            sessions[k, TAKEN] = 1.0


@njit(**KERNEL)
def write_liquidity(
    close: float,
    atr: float,
    now: float,
    sweep: float,
    pools: Floats,
    counts: Ints,
    sweeps: Floats,
    sessions: Floats,
    out: Singles,
    r: int,
) -> None:
    """Fill the `LIQUIDITY_COLUMNS` of one bar."""
    for k in (UP, DOWN):
        best = counts[k] - 1
        out[k, r] = np.nan if best < 0 else (pools[k, best, LEVEL] - SIGN[k] * close) / atr
        out[2 + k, r] = np.nan if best < 0 else pools[k, best, TOUCHES]
        out[7 + k, r] = (close - SIGN[k] * sessions[k, PREVIOUS]) / atr
    out[4, r], out[5, r], out[6, r] = sweep, now - sweeps[SWEPT_BAR], sweeps[DEPTH]
    up, down = sessions[UP, TAKEN] == 1.0, sessions[DOWN, TAKEN] == 1.0
    known = not np.isnan(sessions[UP, PREVIOUS])
    out[9, r] = (2.0 if up and down else 1.0 * up - 1.0 * down) if known else np.nan
