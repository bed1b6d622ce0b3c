"""The Alpha158 columns that come from sums, deviations, regressions and correlations.

After a change in `_rolling`, remove the compiled copies (``__pycache__/*.nbi``): numba looks at
the date of this file only, not of those that it takes functions from.
"""

# ruff: noqa: FURB136 (numba's min and max follow Python in NaN, which no vector instruction does)
from __future__ import annotations

import numpy as np
from numba import njit

from ensemble_kit.features._rolling import (
    BLOCK,
    KERNEL,
    PAD,
    Floats,
    Ints,
    Singles,
    corr_rows,
    std_rows,
    sum_rows,
    trend_rows,
)

MOMENTS = (
    *("MA", "STD", "BETA", "RSQR", "RESI", "CORR", "CORD", "SUMP", "SUMN", "SUMD"),
    *("VMA", "VSTD", "WVMA", "VSUMP", "VSUMN", "VSUMD"),
)
"""What `fill_moments` writes, in the order in which it takes the columns' numbers."""

FLAT_STD = 2e-5
"""Qlib's absolute threshold under which a window counts as constant (R-squared, correlations)."""

# Rows of the block of intermediate results: lanes of sums of changes, means and deviations of
# levels, two correlations, six sums of the regression.
_TOTAL, _MEANS, _DEV, _CORR, _TREND, _COUNTS = 0, 6, 9, 15, 17, 23


@njit(**KERNEL)
def lay_out(
    c: Singles, v: Singles, log_volume: Singles, log_growth: Singles, levels: Singles, changes: Singles, pairs: Singles
) -> None:
    """Lay the series of `fill_moments` side by side, each in float32 and rounded where Qlib rounds it.

    Infinities become NaN, as in pandas' rolling functions.
    """
    zero, one = np.float32(0), np.float32(1)
    for p in range(len(c)):
        # Row -1 is the last bar; row 0 is padding, whatever is taken from it is NaN.
        move, flow, growth = c[p] - c[p - 1], v[p] - v[p - 1], c[p] / c[p - 1]
        levels[p, 0], levels[p, 1], levels[p, 2] = _known(c[p]), _known(v[p]), _known(abs(growth - one) * v[p])
        levels[p, 3], levels[p, 4], levels[p, 5] = _known(log_volume[p]), _known(growth), _known(log_growth[p])
        levels[p, 6], levels[p, 7] = np.nan, np.nan
        changes[p, 0], changes[p, 1], changes[p, 2] = _above_zero(move), _above_zero(-move), _known(abs(move))
        changes[p, 3], changes[p, 4], changes[p, 5] = _above_zero(flow), _above_zero(-flow), _known(abs(flow))
        changes[p, 6], changes[p, 7] = np.nan, np.nan
        # pandas masks each side of a correlation with the other's NaN and infinities.
        pairs[0, p], pairs[1, p] = _known(c[p] + zero * log_volume[p]), _known(log_volume[p] + zero * c[p])
        pairs[2, p], pairs[3, p] = _known(growth + zero * log_growth[p]), _known(log_growth[p] + zero * growth)


@njit(**KERNEL)
def _known(x: np.float32) -> np.float32:
    """Return ``x``, NaN for an infinity."""
    return x if abs(x) < np.inf else np.float32(np.nan)


@njit(**KERNEL)
def _above_zero(x: np.float32) -> np.float32:
    """Return ``x`` where it is positive, 0 where not, NaN where unknown."""
    known = _known(x)
    return np.float32(0) if known <= 0 else known


@njit(**KERNEL)
def fill_moments(
    levels: Singles,
    changes: Singles,
    close: Singles,
    pairs: Singles,
    traded: Singles,
    starts: Ints,
    windows: Ints,
    columns: Ints,
    state: Floats,
    out: Singles,
) -> None:
    """Fill the `MOMENTS` columns of each window.

    Parameters
    ----------
    levels, changes : ndarray of float32, shape (n_padded, LANES)
        Close, volume, swing times volume, log volume, growth, log growth of volume; the rises,
        falls and moves of close and of volume.
    close : ndarray of float32, shape (n_padded,)
        The close.
    pairs : ndarray of float32, shape (4, n_padded)
        Close and log volume, growth and log growth of volume, masked by each other.
    traded : ndarray of float32, shape (n_padded,)
        Volume plus 1e-12: the divisor of the volume columns.
    starts : ndarray of int64, shape (n_instruments + 1,)
        Where each instrument's rows begin.
    windows : ndarray of int64, shape (n_windows,)
        Bars in each window, at most `PAD`; at most `LANES` windows.
    columns : ndarray of int64, shape (n_windows, 16)
        Numbers of the columns in ``out``.
    state : ndarray of float64, shape (4 * n_windows + 2, STATE)
        What the recurrences of the first instrument begin with (zeros, or what the bars before
        have left; these then stand in place of the rows of NaN). Those after it begin with zeros.
        Holds the last one's in the end.
    out : ndarray of float32, shape (158, n)
        Columns to fill.
    """
    n_windows, lanes = len(windows), levels.shape[1]
    block = np.empty((n_windows, 26, BLOCK))
    s_level, s_change = state[:n_windows], state[n_windows : 2 * n_windows]
    s_std, s_trend = state[2 * n_windows : 3 * n_windows], state[3 * n_windows : 4 * n_windows]
    s_pairs = state[4 * n_windows :]
    gone = np.empty((2, BLOCK, lanes))
    for g in range(len(starts) - 1):
        if g > 0:
            state[:] = 0.0
        for first in range(starts[g], starts[g + 1], BLOCK):
            p, m = first + PAD * (g + 1), min(BLOCK, starts[g + 1] - first)
            sum_rows(levels, p, m, windows, s_level, block[:, _MEANS:_DEV], block[:, _COUNTS:])
            sum_rows(changes, p, m, windows, s_change, block[:, :_MEANS], block[:, _COUNTS + 3 :])
            std_rows(levels, p, m, windows, s_std, block[:, _DEV:_CORR])
            trend_rows(close, p, m, windows, s_trend, block[:, _TREND:_COUNTS])
            for side in range(2):
                x, y = pairs[2 * side], pairs[2 * side + 1]
                corr_rows(x, y, p, m, windows, s_pairs[side], gone, block[:, _CORR + side])
            price = close[p : p + m]
            for w in range(n_windows):
                _finish_levels(block[w], price, traded[p : p + m], first, columns[w], out)
                _finish_changes(block[w], first, m, columns[w], out)
                trend = out[columns[w, 2]], out[columns[w, 3]], out[columns[w, 4]]
                _finish_trend(block[w, _TREND:], block[w, _DEV], price, windows[w], first, *trend)


@njit(**KERNEL)
def _divide(over: Floats, under: Floats | Singles, more: float, first: int, out: Singles) -> None:
    """Write ``over / (under + more)``, rounded once to float32."""
    for i in range(len(under)):
        out[first + i] = over[i] / (np.float64(under[i]) + more)


@njit(**KERNEL)
def _mask_flat(corr: Floats, std_x: Floats, std_y: Floats, m: int, first: int, out: Singles) -> None:
    """Write correlations, NaN where either side is flat."""
    for i in range(m):
        flat = (std_x[i] <= FLAT_STD) | (std_y[i] <= FLAT_STD)
        out[first + i] = np.nan if flat else corr[i]


@njit(**KERNEL)
def _finish_levels(block: Floats, price: Singles, traded: Singles, first: int, columns: Ints, out: Singles) -> None:
    """Divide means and deviations by the newest price or volume, and mask flat correlations."""
    m = len(price)
    for k in range(3):
        for i in range(m):
            # Means of values that are never negative: a negative one is round-off.
            mean = block[_MEANS + k, i] / block[_COUNTS + k, i]
            block[_MEANS + k, i] = 0.0 if mean < 0.0 else mean
    _divide(block[_MEANS], price, 0.0, first, out[columns[0]])
    _divide(block[_DEV], price, 0.0, first, out[columns[1]])
    _divide(block[_MEANS + 1], traded, 0.0, first, out[columns[10]])
    _divide(block[_DEV + 1], traded, 0.0, first, out[columns[11]])
    _divide(block[_DEV + 2], block[_MEANS + 2, :m], 1e-12, first, out[columns[12]])
    _mask_flat(block[_CORR], block[_DEV], block[_DEV + 3], m, first, out[columns[5]])
    _mask_flat(block[_CORR + 1], block[_DEV + 4], block[_DEV + 5], m, first, out[columns[6]])


@njit(**KERNEL)
def _finish_changes(block: Floats, first: int, m: int, columns: Ints, out: Singles) -> None:
    """Divide rises, falls and their difference by all moves."""
    for side in range(2):
        rise, fall, move = block[_TOTAL + 3 * side], block[_TOTAL + 3 * side + 1], block[_TOTAL + 3 * side + 2, :m]
        at = 7 + 6 * side
        _divide(rise, move, 1e-12, first, out[columns[at]])
        _divide(fall, move, 1e-12, first, out[columns[at + 1]])
        for i in range(m):
            rise[i] -= fall[i]
        _divide(rise, move, 1e-12, first, out[columns[at + 2]])


@njit(**KERNEL)
def _finish_trend(
    sums: Floats, std: Floats, price: Singles, window: int, first: int, slope: Singles, rsquare: Singles, resi: Singles
) -> None:
    """Turn the sums of the regression into slope, R-squared and residual."""
    for i in range(len(price)):
        n, x1, x2, y1, y2, xy = sums[0, i], sums[1, i], sums[2, i], sums[3, i], sums[4, i], sums[5, i]
        p = np.float64(price[i])
        cross, spread = n * xy - x1 * y1, n * x2 - x1 * x1
        b = cross / spread
        correlation = cross / np.sqrt(spread * (n * y2 - y1 * y1))
        slope[first + i] = b / p
        rsquare[first + i] = np.nan if std[i] <= FLAT_STD else correlation * correlation
        resi[first + i] = (p - (b * window + (y1 / n - b * (x1 / n)))) / p
