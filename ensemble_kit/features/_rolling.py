"""Rolling sums, deviations, correlations and regressions, bit for bit as pandas 3.1 and Qlib round them.

Bars stand instrument after instrument, each behind `PAD` rows of NaN: a window then never
reaches into the neighbour, and the first bars need no branch of their own. Bar ``r`` of
instrument ``g`` is row ``r + PAD * (g + 1)`` of the padded arrays.

A rolling result is defined by its recurrence: the same additions and removals in the same
order from the instrument's first bar. Hence no `fastmath`, no contraction to fused
multiply-adds, and nothing is ever split along time. Speed comes from lanes instead: `LANES`
series (or windows) lie side by side and share each instruction. The compiler sees that only
in loops without branches, of unknown length and with their bounds in plain variables: hence
``x if known else y`` on every line.

A state is an array of quantities, `LANES` numbers each; functions move it over ``m`` rows
from padded row ``first`` and write what they are named after, (n_windows, lanes, m).
"""

# ruff: noqa: FURB136 (numba's min and max follow Python in NaN, which no vector instruction does)
from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

PAD = 60
"""Rows of NaN before each instrument: the longest window."""

LANES = 8
"""Series that share an instruction: float64 numbers in the widest vector register."""

BLOCK = 504
"""Rows between two rounds of final divisions: their sums (0.5 MB) stay in the second-level cache."""

# pandas calls a sum of squares unreliable once it has lost all but three decimal digits.
LOST = float(np.finfo(np.float64).eps * 1e3)

KERNEL = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": False}

# Where quantities stand in the states of sums, deviations and correlations.
STATE = 12 * LANES
_COUNT, _ADDED, _REMOVED = 0, LANES, 2 * LANES
_TOTAL, _LAST, _RUN, _SUM = (k * LANES for k in range(3, 7))
_MEAN, _SQUARES, _SUSPECT, _STD = (k * LANES for k in range(3, 7))
_X0, _Y0, _MX, _MY, _XY, _XX, _YY, _PX, _PY, _LOST, _CORR = (k * LANES for k in range(1, 12))


@njit(**KERNEL)
def _kahan(value: float, total: float, c: float) -> tuple[float, float]:
    """Add a value to a total; return the total and the new compensation."""
    y = value - c
    t = total + y
    return t, t - total - y


@njit(**KERNEL)
def sum_rows(x: Singles, first: int, m: int, windows: Ints, s: Floats, sums: Floats, counts: Floats) -> None:
    """Write the rolling sums and counts of the first lanes of ``x``; as many as the outputs hold.

    Additions and removals carry one Kahan compensation each. Where the last values are all
    the same, the sum is that value times the count, which is exact for float32 values.
    """
    for i in range(m):
        p = first + i
        for w in range(len(windows)):
            leaving = p - windows[w]
            for k in range(x.shape[1]):
                old, new = np.float64(x[leaving, k]), np.float64(x[p, k])
                gone, come = not np.isnan(old), not np.isnan(new)
                n, total, last, run = s[w, _COUNT + k], s[w, _TOTAL + k], s[w, _LAST + k], s[w, _RUN + k]
                t, c = _kahan(-old, total, s[w, _REMOVED + k])
                s[w, _REMOVED + k] = c if gone else s[w, _REMOVED + k]
                total = t if gone else total
                n = n - 1.0 if gone else n
                t, c = _kahan(new, total, s[w, _ADDED + k])
                s[w, _ADDED + k] = c if come else s[w, _ADDED + k]
                total = t if come else total
                n = n + 1.0 if come else n
                again = run + 1.0 if new == last else 1.0
                run = again if come else run
                last = new if come else last
                s[w, _COUNT + k], s[w, _TOTAL + k], s[w, _LAST + k], s[w, _RUN + k] = n, total, last, run
                value = last * n if run >= n else total
                s[w, _SUM + k] = value if n > 0.0 else np.nan
            for k in range(sums.shape[1]):
                sums[w, k, i] = s[w, _SUM + k]
            for k in range(counts.shape[1]):
                counts[w, k, i] = s[w, _COUNT + k]


@njit(**KERNEL)
def _welford(value: float, n: float, sign: float, mean: float, squares: float, c: float) -> tuple[float, float, float]:
    """Return mean, sum of squares and compensation once a value has come (1) or gone (-1), leaving ``n``."""
    y = value - c
    delta = y - mean
    moved = mean + sign * (delta / n)
    return moved, squares + sign * ((value - (mean - c)) * (value - moved)), delta + mean - y


@njit(**KERNEL)
def std_rows(x: Singles, first: int, m: int, windows: Ints, s: Floats, stds: Floats) -> None:
    """Write the rolling standard deviations (ddof=1) of the first lanes of ``x``.

    Welford's update with compensated means. One observation gives NaN, a negative variance 0.
    A sum of squares that has lost nearly all its digits is computed anew.
    """
    for i in range(m):
        p = first + i
        for w in range(len(windows)):
            leaving = p - windows[w]
            suspects = 0
            for k in range(x.shape[1]):
                old, new = np.float64(x[leaving, k]), np.float64(x[p, k])
                gone, come = not np.isnan(old), not np.isnan(new)
                n, mean, squares, c0 = s[w, _COUNT + k], s[w, _MEAN + k], s[w, _SQUARES + k], s[w, _REMOVED + k]
                left = n - 1.0
                moved, less, c = _welford(old, left, -1.0, mean, squares, c0)
                loss = squares * LOST - less
                # Where nothing is left, all starts anew, but for the compensation.
                c = c if left != 0.0 else c0
                moved, less, loss = (moved, less, loss) if left != 0.0 else (0.0, 0.0, 0.0)
                s[w, _REMOVED + k] = c if gone else c0
                n, mean, squares, loss = (left, moved, less, loss) if gone else (n, mean, squares, 0.0)
                c0 = s[w, _ADDED + k]
                moved, more, c = _welford(new, n + 1.0, 1.0, mean, squares, c0)
                loss2 = squares * LOST - more if come else 0.0
                s[w, _ADDED + k] = c if come else c0
                n, mean, squares = (n + 1.0, moved, more) if come else (n, mean, squares)
                s[w, _COUNT + k], s[w, _MEAN + k], s[w, _SQUARES + k] = n, mean, squares
                loss = loss if loss > loss2 else loss2
                s[w, _SUSPECT + k] = loss
                suspects += 1 if loss > 0.0 else 0
                variance = squares / (n - 1.0)
                std = np.sqrt(0.0 if variance < 0.0 else variance)
                s[w, _STD + k] = std if n > 1.0 else np.nan
            if suspects > 0:
                _restart_std(x, p, windows[w], s[w])
            for k in range(stds.shape[1]):
                stds[w, k, i] = s[w, _STD + k]


@njit(**KERNEL)
def _restart_std(x: Singles, p: int, window: int, s: Floats) -> None:
    """Compute the suspect lanes anew from their window alone."""
    for k in range(x.shape[1]):
        if s[_SUSPECT + k] > 0.0:
            n, mean, squares, c = 0.0, 0.0, 0.0, 0.0
            for q in range(p - window + 1, p + 1):
                value = np.float64(x[q, k])
                if not np.isnan(value):
                    n += 1.0
                    mean, squares, c = _welford(value, n, 1.0, mean, squares, c)
            s[_COUNT + k], s[_MEAN + k], s[_SQUARES + k], s[_ADDED + k], s[_REMOVED + k] = n, mean, squares, c, 0.0
            s[_STD + k] = np.sqrt(max(squares / (n - 1.0), 0.0)) if n > 1.0 else np.nan


@njit(**KERNEL)
def _comoments(
    a: float, b: float, n: float, sign: float, s: tuple[float, ...]
) -> tuple[float, float, float, float, float, float, float]:
    """Return the co-moments once the pair (a, b) has come (1) or gone (-1), leaving ``n`` pairs.

    They are both means, the three sums of products, and the largest deviations ever seen.
    """
    mx, my, xy, xx, yy, px, py = s
    dx, dy = a - mx, b - my
    mx, my = mx + sign * (dx / n), my + sign * (dy / n)
    ex, ey = a - mx, b - my
    px, py = (abs(ex) if abs(ex) > px else px), (abs(ey) if abs(ey) > py else py)
    return mx, my, xy + sign * (ex * dy), xx + sign * (ex * dx), yy + sign * (ey * dy), px, py


@njit(**KERNEL)
def _lost(s: tuple[float, ...]) -> float:
    """Return 1.0 where a sum of products shrank so far below the deviations seen that it is round-off."""
    _, _, xy, xx, yy, px, py = s
    lost = 1.0 if px * py * LOST > abs(xy) else 0.0
    lost = 1.0 if px * px * LOST > xx else lost
    return 1.0 if py * py * LOST > yy else lost


@njit(**KERNEL)
def _pick(which: bool, s: tuple[float, ...], t: tuple[float, ...]) -> tuple[float, ...]:
    """Return co-moments ``s`` or ``t`` without a branch."""
    return (
        s[0] if which else t[0],
        s[1] if which else t[1],
        s[2] if which else t[2],
        s[3] if which else t[3],
        s[4] if which else t[4],
        s[5] if which else t[5],
        s[6] if which else t[6],
    )


@njit(**KERNEL)
def corr_rows(x: Singles, y: Singles, first: int, m: int, windows: Ints, s: Floats, gone: Floats, corr: Floats) -> None:
    """Write the rolling correlation of ``x`` and ``y``, NaN on the same rows; windows are the lanes.

    Deviations are taken from the window's first pair, so that a large common level cancels
    exactly. What has become round-off is computed anew. ``corr`` is (n_windows, m); ``gone``
    (2, m, lanes) is working space: what leaves each window.
    """
    for i in range(m):
        for k in range(gone.shape[2]):
            p = first + i - windows[min(k, len(windows) - 1)]
            gone[0, i, k], gone[1, i, k] = x[p], y[p]
    for i in range(m):
        suspects = 0
        new_x, new_y = np.float64(x[first + i]), np.float64(y[first + i])
        come = not np.isnan(new_x)
        for k in range(gone.shape[2]):
            old_x, old_y = gone[0, i, k], gone[1, i, k]
            leaves = not np.isnan(old_x)
            n, x0, y0 = s[_COUNT + k], s[_X0 + k], s[_Y0 + k]
            t = s[_MX + k], s[_MY + k], s[_XY + k], s[_XX + k], s[_YY + k], s[_PX + k], s[_PY + k]
            left = _comoments(old_x - x0, old_y - y0, n - 1.0, -1.0, t)
            left = _pick(n != 1.0, left, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
            t = _pick(leaves, left, t)
            n = n - 1.0 if leaves else n
            lost = _lost(t)
            x0, y0 = (new_x, new_y) if come & (n == 0.0) else (x0, y0)
            t = _pick(come, _comoments(new_x - x0, new_y - y0, n + 1.0, 1.0, t), t)
            n = n + 1.0 if come else n
            lost = 1.0 if _lost(t) > 0.0 else lost
            suspects += 1 if lost > 0.0 else 0
            s[_COUNT + k], s[_X0 + k], s[_Y0 + k], s[_LOST + k] = n, x0, y0, lost
            s[_MX + k], s[_MY + k], s[_XY + k], s[_XX + k], s[_YY + k], s[_PX + k], s[_PY + k] = t
            s[_CORR + k] = _correlation(t)
        if suspects > 0:
            _restart_corr(x, y, first + i, windows, gone.shape[2], s)
        for w in range(len(windows)):
            corr[w, i] = s[_CORR + w]


@njit(**KERNEL)
def _correlation(s: tuple[float, ...]) -> float:
    """Return the correlation that co-moments give, NaN where a side has none."""
    r = s[2] / np.sqrt(s[3] * s[4])
    r = 1.0 if r > 1.0 else r
    r = -1.0 if r < -1.0 else r
    r = np.nan if s[3] == 0.0 else r
    return np.nan if s[4] == 0.0 else r


@njit(**KERNEL)
def _restart_corr(x: Singles, y: Singles, p: int, windows: Ints, lanes: int, s: Floats) -> None:
    """Compute the suspect lanes anew from their window alone."""
    for k in range(lanes):
        if s[_LOST + k] > 0.0:
            n, x0, y0 = 0.0, 0.0, 0.0
            t = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
            for q in range(p - windows[min(k, len(windows) - 1)] + 1, p + 1):
                a, b = np.float64(x[q]), np.float64(y[q])
                if not np.isnan(a):
                    x0, y0 = (a, b) if n == 0.0 else (x0, y0)
                    n += 1.0
                    t = _comoments(a - x0, b - y0, n, 1.0, t)
            s[_COUNT + k], s[_X0 + k], s[_Y0 + k] = n, x0, y0
            s[_MX + k], s[_MY + k], s[_XY + k], s[_XX + k], s[_YY + k], s[_PX + k], s[_PY + k] = t
            s[_CORR + k] = _correlation(t)


@njit(**KERNEL)
def trend_rows(y: Singles, first: int, m: int, windows: Ints, s: Floats, sums: Floats) -> None:
    """Write the six sums of the regression of ``y`` on 1..window, newest at ``window``.

    They are of 1, x, x^2, y, y^2 and xy. A NaN keeps its place. They run from the instrument's
    first bar, as Qlib's do, so that what round-off leaves in them is the same.
    """
    for w in range(len(windows)):
        window = windows[w]
        ones, x1, x2, y1, y2, xy = s[w, 0], s[w, 1], s[w, 2], s[w, 3], s[w, 4], s[w, 5]
        for i in range(m):
            old, new = np.float64(y[first + i - window]), np.float64(y[first + i])
            xy -= y1
            x2 = x2 + ones - 2.0 * x1
            x1 -= ones
            if not np.isnan(old):
                ones -= 1.0
                y1 -= old
                y2 -= old * old
            if not np.isnan(new):
                ones += 1.0
                x1 += window
                x2 += window * window
                y1 += new
                y2 += new * new
                xy += window * new
            sums[w, 0, i], sums[w, 1, i], sums[w, 2, i] = ones, x1, x2
            sums[w, 3, i], sums[w, 4, i], sums[w, 5, i] = y1, y2, xy
        s[w, 0], s[w, 1], s[w, 2], s[w, 3], s[w, 4], s[w, 5] = ones, x1, x2, y1, y2, xy
