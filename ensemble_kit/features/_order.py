"""The Alpha158 columns that come from order and counting: extremes, quantiles, ranks, shares.

Bars are laid out as `_rolling` says. ``columns`` (n_windows, k) holds the numbers of the columns
to fill in ``out`` (158, n).
"""

# ruff: noqa: FURB136 (numba's min and max follow Python in NaN, which no vector instruction does)
from __future__ import annotations

import numpy as np
from numba import njit

from ensemble_kit.features._rolling import BLOCK, KERNEL, PAD, Ints, Singles

EXTREMES = ("MAX", "MIN", "RSV", "IMAX", "IMIN", "IMXD")
ORDERS = ("QTLD", "QTLU", "RANK")
COUNTS = ("CNTP", "CNTN", "CNTD")


@njit(**KERNEL)
def fill_extremes(
    high: Singles, low: Singles, close: Singles, starts: Ints, windows: Ints, columns: Ints, out: Singles
) -> None:
    """Fill the `EXTREMES` columns: highest high, lowest low, and where they stand."""
    n_windows = len(windows)
    tops, bottoms = np.empty(len(high), np.int64), np.empty(len(high), np.int64)
    heads = np.empty((2, n_windows), np.int64)
    place = np.empty((2, n_windows, BLOCK), np.int64)
    for g in range(len(starts) - 1):
        first = starts[g] + PAD * (g + 1)
        n_tops, n_bottoms = 0, 0
        heads[:] = 0
        for begin in range(starts[g], starts[g + 1], BLOCK):
            p = begin + PAD * (g + 1)
            m = min(BLOCK, starts[g + 1] - begin)
            n_tops = _scan_extremes(high, 1.0, p, m, windows, tops, n_tops, heads[0], place[0])
            n_bottoms = _scan_extremes(low, -1.0, p, m, windows, bottoms, n_bottoms, heads[1], place[1])
            for w in range(n_windows):
                prices = out[columns[w, 0]], out[columns[w, 1]], out[columns[w, 2]]
                _finish_prices(high, low, close, p, m, place[0, w], place[1, w], begin, prices)
                _mark_nan(high, first, p, m, windows[w], place[0, w])
                _mark_nan(low, first, p, m, windows[w], place[1, w])
                places = out[columns[w, 3]], out[columns[w, 4]], out[columns[w, 5]]
                _finish_places(first, p, m, windows[w], place[0, w], place[1, w], begin, places)


@njit(**KERNEL)
def _scan_extremes(
    x: Singles, sign: float, p: int, m: int, windows: Ints, stack: Ints, top: int, head: Ints, place: Ints
) -> int:
    """Write where each window's maximum of ``sign * x`` stands, the earliest of equals, -1 for none.

    One stack of falling values serves all windows, each with its own pointer into it. Returns
    the new height of the stack.
    """
    for i in range(m):
        new = sign * x[p + i]
        if not np.isnan(new):
            while top > 0 and sign * x[stack[top - 1]] < new:
                top -= 1
            stack[top] = p + i
            top += 1
        for w in range(len(windows)):
            h = min(head[w], max(top - 1, 0))
            while h < top and stack[h] <= p + i - windows[w]:
                h += 1
            head[w] = h
            place[w, i] = stack[h] if h < top else -1
    return top


@njit(**KERNEL)
def _finish_prices(
    high: Singles,
    low: Singles,
    close: Singles,
    p: int,
    m: int,
    top: Ints,
    bottom: Ints,
    begin: int,
    out: tuple[Singles, Singles, Singles],
) -> None:
    """Divide the extremes by the newest price, and place it between them."""
    for i in range(m):
        # Place -1 is a padding row: NaN.
        price, h, l = close[p + i], high[max(top[i], 0)], low[max(bottom[i], 0)]
        # float32 quotients of float32 numbers: float64's, rounded once more, are the same.
        out[0][begin + i] = h / price
        out[1][begin + i] = l / price
        out[2][begin + i] = (np.float64(price) - np.float64(l)) / (np.float64(h) - np.float64(l) + 1e-12)


@njit(**KERNEL)
def _mark_nan(x: Singles, first: int, p: int, m: int, window: int, place: Ints) -> None:
    """Put a window's first NaN in the place of its extreme."""
    q = max(p - window + 1, first)
    holes = 0
    for k in range(q, p + m):
        holes += 1 if np.isnan(x[k]) else 0
    if holes == 0:
        return
    for i in range(m):
        q = max(q, p + i - window + 1)
        while q <= p + i and not np.isnan(x[q]):
            q += 1
        if q <= p + i and place[i] >= 0:
            place[i] = q


@njit(**KERNEL)
def _finish_places(
    first: int, p: int, m: int, window: int, top: Ints, bottom: Ints, begin: int, out: tuple[Singles, Singles, Singles]
) -> None:
    """Count places from 1 at the window's start; a window without an extreme has NaN."""
    for i in range(m):
        before = max(p + i - window, first - 1)
        a = np.float64(top[i] - before) if top[i] >= 0 else np.nan
        b = np.float64(bottom[i] - before) if bottom[i] >= 0 else np.nan
        out[0][begin + i] = a / window
        out[1][begin + i] = b / window
        out[2][begin + i] = (a - b) / window


@njit(**KERNEL)
def fill_orders(x: Singles, starts: Ints, windows: Ints, columns: Ints, out: Singles) -> None:
    """Fill the `ORDERS` columns: 20 % and 80 % quantiles over the newest price, and its rank.

    Each window is kept sorted, NaN as +inf behind the values. Replacing one value is a
    branch-free pass over all of it, which the compiler turns into a few vector
    instructions, faster than any tree at 60 values. Ties share their mean rank.
    """
    inf = np.float32(np.inf)
    counts = np.empty(len(windows), np.int64)
    a = np.empty((len(windows), PAD + 20), np.float32)
    b = np.empty((len(windows), PAD + 20), np.float32)
    for g in range(len(starts) - 1):
        counts[:] = 0
        a[:] = inf
        a[:, 0] = -inf
        b[:] = a
        for r in range(starts[g], starts[g + 1]):
            p = r + PAD * (g + 1)
            price = np.float64(x[p])
            for w in range(len(windows)):
                old, new = x[p - windows[w]], x[p]
                counts[w] += int(not np.isnan(new)) - int(not np.isnan(old))
                old, new = (inf if np.isnan(old) else old), (inf if np.isnan(new) else new)
                less, reached = 0, 0
                for k in range(16 * ((windows[w] + 15) // 16)):
                    # What stands before and at place k once `old` is gone; `new` goes between.
                    before = a[w, k] if a[w, k] < old else a[w, k + 1]
                    at = a[w, k + 1] if a[w, k + 1] < old else a[w, k + 2]
                    at = at if at < new else new
                    at = before if before > at else at
                    b[w, k + 1] = at
                    less += 1 if at < new else 0
                    reached += 1 if at <= new else 0
                n = counts[w]
                out[columns[w, 0], r] = _quantile(b, w, n, 0.2) / price
                out[columns[w, 1], r] = _quantile(b, w, n, 0.8) / price
                out[columns[w, 2], r] = np.nan if np.isnan(price) else (less + reached + 1) * 0.5 / n
            a, b = b, a


@njit(**KERNEL)
def _quantile(ordered: Singles, w: int, count: int, q: float) -> float:
    """Return the linear quantile of the first ``count`` values behind the sentinel."""
    if count == 0:
        return np.nan
    place = q * (count - 1)
    whole = int(place)
    below = np.float64(ordered[w, whole + 1])
    if place == whole:
        return below
    return below + (np.float64(ordered[w, whole + 2]) - below) * (place - whole)


@njit(**KERNEL)
def fill_counts(x: Singles, starts: Ints, windows: Ints, columns: Ints, out: Singles) -> None:
    """Fill the `COUNTS` columns: shares of the window's bars that rose and fell; NaN does neither."""
    for w in range(len(windows)):
        for g in range(len(starts) - 1):
            ups, downs, bars = 0, 0, 0
            for r in range(starts[g], starts[g + 1]):
                p = r + PAD * (g + 1)
                ups += 1 if x[p] > x[p - 1] else 0
                downs += 1 if x[p] < x[p - 1] else 0
                if bars < windows[w]:
                    bars += 1
                else:
                    ups -= 1 if x[p - windows[w]] > x[p - windows[w] - 1] else 0
                    downs -= 1 if x[p - windows[w]] < x[p - windows[w] - 1] else 0
                up, down = ups / bars, downs / bars
                out[columns[w, 0], r] = up
                out[columns[w, 1], r] = down
                out[columns[w, 2], r] = up - down


@njit(**KERNEL)
def take_rows(block: Singles, source: Ints, out: Singles) -> None:
    """Write row ``source[r]`` of each column of ``block`` to row ``r`` of ``out``, which may be ``block``."""
    column = np.empty(block.shape[1], block.dtype)
    for k in range(block.shape[0]):
        column[:] = block[k]
        for r in range(len(source)):
            out[k, r] = column[source[r]]
