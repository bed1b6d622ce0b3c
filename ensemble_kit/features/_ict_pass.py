"""One pass over one instrument's bars: the six steps of each bar in their order, then its columns."""

from __future__ import annotations

import numpy as np
from numba import njit

from ensemble_kit.atr import wilder
from ensemble_kit.features._ict_liquidity import (
    LIQUIDITY_COLUMNS,
    follow_session,
    join_pool,
    take_pools,
    write_liquidity,
)
from ensemble_kit.features._ict_state import (
    ATR,
    CLOSE,
    DOWN,
    FVG_MIN,
    KERNEL,
    LEFT,
    LIQ_TOL,
    MAX_AGE,
    N_BLOCKS,
    N_GAPS,
    N_POOLS,
    OB_DISP,
    RIGHT,
    UP,
    Floats,
    Ints,
    Singles,
    State,
)
from ensemble_kit.features._ict_swings import (
    FAR,
    NEAR,
    STRUCTURE_COLUMNS,
    SWING_COLUMNS,
    break_levels,
    find_pivots,
    write_structure,
    write_swings,
)
from ensemble_kit.features._ict_zones import (
    BLOCK_COLUMNS,
    GAP_COLUMNS,
    add_block,
    age_blocks,
    age_gaps,
    find_gap,
    write_blocks,
    write_gaps,
)

COLUMNS = (*SWING_COLUMNS, *STRUCTURE_COLUMNS, *BLOCK_COLUMNS, *GAP_COLUMNS, *LIQUIDITY_COLUMNS)
_STRUCTURE = len(SWING_COLUMNS)
_BLOCKS = _STRUCTURE + len(STRUCTURE_COLUMNS)
_GAPS = _BLOCKS + len(BLOCK_COLUMNS)
_LIQUIDITY = _GAPS + len(GAP_COLUMNS)

PERIOD = 14
"""Bars of the average true range."""

# A range this small beside the price is what rounding leaves of a price that stands still: no unit.
_NO_RANGE = 1e-9


def advance(state: State, prices: Floats, day: Ints, rows: Ints, out: Singles) -> State:
    """Move the state on over bars, write their columns, and return the state after them.

    Prices are open, high, low and close, (4, m); bar i goes to column ``rows[i]`` of ``out``, (48, n).
    A bar without high, low or close leaves the state as it was, and its place in ``out`` too.
    """
    there = ~np.isnan(prices[1:]).any(axis=0)
    o, high, low, close = prices.compress(there, axis=1)
    atr = wilder(high, low, close, np.zeros(len(close), np.int64), PERIOD, state.wilder)
    bars = np.concatenate([state.history, np.stack([high, -low, o, close, day[there].astype(np.float64), atr])], axis=1)
    _pass(bars, rows[there], state, out)
    return state._replace(history=bars[:, bars.shape[1] - state.history.shape[1] :].copy())


@njit(**KERNEL)
def _pass(bars: Floats, rows: Ints, state: State, out: Singles) -> None:
    """Take the bars behind the first left + right ones, which are history."""
    setting = state.settings
    n_blocks, n_gaps, n_pools = state.counts[N_BLOCKS], state.counts[N_GAPS], state.counts[N_POOLS]
    swings, structure = state.swings, state.structure
    left, right = int(setting[LEFT]), int(setting[RIGHT])
    on_swings, on_structure, on_blocks = out[:_STRUCTURE], out[_STRUCTURE:_BLOCKS], out[_BLOCKS:_GAPS]
    on_gaps, on_liquidity = out[_GAPS:_LIQUIDITY], out[_LIQUIDITY:]
    for i in range(len(rows)):
        t = i + left + right
        now = state.clock[0]
        close, atr = bars[CLOSE, t], bars[ATR, t]
        atr = atr if atr > _NO_RANGE * close else np.nan
        # 1. Pivots.
        up, down = find_pivots(bars, t, left, right, now, swings, structure)
        # 2. Zones born before.
        touch, broken = age_blocks(bars, t, close, now, setting[MAX_AGE], state.blocks, n_blocks)
        inverted = age_gaps(bars, t, close, now, setting[MAX_AGE], state.gaps, n_gaps)
        # 3. Break, and 4. the order block behind it.
        side, turned = break_levels(close, atr, now, swings, structure)
        if side >= 0:
            near, far = swings[side, NEAR], swings[side, FAR]
            add_block(near, far, close, atr, now, setting[OB_DISP], side, state.blocks, n_blocks)
        # 5. Fair value gap.
        gap = find_gap(bars, t, atr, now, setting[FVG_MIN], state.gaps, n_gaps)
        # 6. Liquidity.
        sweep = take_pools(bars, t, close, atr, now, state.pools, n_pools, state.sweeps)
        if up:
            join_pool(bars[UP, t - right], setting[LIQ_TOL] * atr, UP, state.pools, n_pools)
        if down:
            join_pool(bars[DOWN, t - right], setting[LIQ_TOL] * atr, DOWN, state.pools, n_pools)
        follow_session(bars, t, state.sessions)

        # The columns of what is known now.
        r = rows[i]
        write_swings(close, atr, now, swings, structure, on_swings, r)
        write_structure(close, atr, now, side, turned, swings, structure, on_structure, r)
        write_blocks(close, atr, now, touch, broken, state.blocks, n_blocks, on_blocks, r)
        write_gaps(close, atr, now, gap, inverted, state.gaps, n_gaps, on_gaps, r)
        write_liquidity(close, atr, now, sweep, state.pools, n_pools, state.sweeps, state.sessions, on_liquidity, r)
        state.clock[0] = now + 1.0
