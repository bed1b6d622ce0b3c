"""What the ICT kernels know of the past: one instrument's state, explicit, in plain arrays.

Everything has two sides, 0 (up) and 1 (down). A price of side k is kept in *outward* coordinates,
``SIGN[k] * price``: a high as it is, a low negated. Further out is then larger on both sides, one
code serves both, and mirrored prices give mirrored columns to the last bit.

Bars are an array of six rows: outward high, outward low, open, close, number of the session, average
true range. A bar without high, low or close does not exist for the kernels: it is left out before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensemble_kit.atr import start_wilder

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

KERNEL = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": False}

UP, DOWN = 0, 1
SIGN = (1.0, -1.0)

#: Rows of the bars; the first two stand at the number of their side.
OPEN, CLOSE, DAY, ATR = 2, 3, 4, 5

#: Places in the settings.
LEFT, RIGHT, MAX_AGE, FVG_MIN, OB_DISP, LIQ_TOL = range(6)

#: Rows of the counts.
N_BLOCKS, N_GAPS, N_POOLS = range(3)


class State(NamedTuple):
    """One instrument after its latest bar; kernels change the arrays in place."""

    settings: Floats
    """Swing bars left and right, oldest age, and the thresholds in average true ranges."""
    clock: Floats
    """How many bars there were, (1,)."""
    wilder: Floats
    """Of the average true range, (1, 3)."""
    history: Floats
    """The last left + right bars, (6, left + right); NaN before the first."""
    swings: Floats
    """A row a side: its swing level and the leg that left it, see `_ict_swings`."""
    structure: Floats
    """Trend, run and last break, see `_ict_swings`."""
    blocks: Floats
    """Order blocks, oldest first, (2, max_zones, fields), see `_ict_zones`."""
    gaps: Floats
    """Fair value gaps, likewise."""
    pools: Floats
    """Liquidity pools, outermost first, (2, max_pools, fields), see `_ict_liquidity`."""
    counts: Ints
    """How many blocks, gaps and pools of each side are active, (3, 2)."""
    sweeps: Floats
    """The last sweep, see `_ict_liquidity`."""
    sessions: Floats
    """Extremes of this session and the one before, a row a side."""


def start(left: int, right: int, max_zones: int, max_pools: int, thresholds: tuple[float, ...]) -> State:
    """Return the state before an instrument's first bar."""
    structure = np.full(7, np.nan)
    structure[[0, 2]] = -1.0, 0.0  # no pivot, no run
    return State(
        settings=np.array([left, right, *thresholds], np.float64),
        clock=np.zeros(1),
        wilder=start_wilder(1),
        history=np.full((6, left + right), np.nan),
        swings=np.full((2, 7), np.nan),
        structure=structure,
        blocks=np.full((2, max_zones, 5), np.nan),
        gaps=np.full((2, max_zones, 5), np.nan),
        pools=np.full((2, max_pools, 2), np.nan),
        counts=np.zeros((3, 2), np.int64),
        sweeps=np.full(2, np.nan),
        sessions=np.full((2, 3), np.nan),
    )
