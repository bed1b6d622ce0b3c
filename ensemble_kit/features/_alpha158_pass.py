"""One pass over bars for all of Alpha158: from float32 prices to 158 columns, in the whole or carried on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ensemble_kit.features._moments import MOMENTS, fill_moments, lay_out
from ensemble_kit.features._order import COUNTS, EXTREMES, ORDERS, fill_counts, fill_extremes, fill_orders
from ensemble_kit.features._rolling import LANES, PAD, STATE

WINDOWS = (5, 10, 20, 30, 60)
_KBAR = ("KMID", "KLEN", "KMID2", "KUP", "KUP2", "KLOW", "KLOW2", "KSFT", "KSFT2", "OPEN0", "HIGH0", "LOW0", "VWAP0")
_ROLLING = (
    *("ROC", "MA", "STD", "BETA", "RSQR", "RESI", "MAX", "MIN", "QTLU", "QTLD", "RANK", "RSV", "IMAX", "IMIN", "IMXD"),
    *("CORR", "CORD", "CNTP", "CNTN", "CNTD", "SUMP", "SUMN", "SUMD", "VMA", "VSTD", "WVMA", "VSUMP", "VSUMN", "VSUMD"),
)
NAMES = (*_KBAR, *(f"{name}{window}" for name in _ROLLING for window in WINDOWS))
_PLACE = {name: place for place, name in enumerate(NAMES)}

_TINY = np.float32(1e-12)

Float32 = NDArray[np.float32]
Floats = NDArray[np.float64]

# Numbers of the columns of each family, one row a window.
_WINDOWS = np.asarray(WINDOWS)
_COLUMNS = {
    family: np.array([[_PLACE[f"{name}{window}"] for name in family] for window in WINDOWS])
    for family in (MOMENTS, ORDERS, EXTREMES, COUNTS)
}
_WINDOWED = np.setdiff1d(np.arange(len(NAMES)), _COLUMNS[MOMENTS])

KEPT = PAD + 1
"""Bars that the next one looks back on: the longest window, and the one that its first change is from."""


class Padded:
    """What the kernels read, made of float32 bars, instrument after instrument, each behind `PAD` rows of NaN."""

    def __init__(self, prices: Float32, starts: NDArray[np.int64]) -> None:
        self.starts = starts
        self.open, self.high, self.low, self.close, self.volume, self.vwap = prices
        close, volume, one = self.close, self.volume, np.float32(1)
        with np.errstate(all="ignore"):
            # numpy's float32 logarithm of whole arrays is the one Qlib has: numba's may differ in the last bit.
            log_volume, log_growth = np.log(volume + one), np.log(volume / np.roll(volume, 1) + one)
        self.levels, self.changes = np.empty((2, len(close), LANES), np.float32)
        self.pairs = np.empty((4, len(close)), np.float32)
        lay_out(close, volume, log_volume, log_growth, self.levels, self.changes, self.pairs)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Where the bars stand among the padded ones."""
        return padded_rows(self.starts)


def padded_rows(starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each bar stands behind its instrument's padding, and those before it."""
    n_instruments = len(starts) - 1
    return np.arange(int(starts[-1])) + PAD * np.repeat(np.arange(1, n_instruments + 1), np.diff(starts))


def start() -> Floats:
    """Return the state of the recurrences before an instrument's first bar."""
    return np.zeros((4 * len(WINDOWS) + 2, STATE))


def compute(bars: Padded, out: Float32, n_threads: int) -> None:
    """Fill ``out`` (158, n), rows in the order of the padded bars."""
    tasks = _windowed(bars, out)
    # Threads share columns, never time: any number of them gives the same bits.
    parts = np.array_split(np.arange(len(WINDOWS)), min(n_threads, len(WINDOWS)))
    tasks += [partial(_moments, bars, part, out) for part in parts]
    if n_threads == 1:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for done in [pool.submit(task) for task in reversed(tasks)]:
            done.result()


def advance(kept: Float32, new: Float32, state: Floats) -> Float32:
    """Move the recurrences of one instrument on over bars, and return their columns, (158, m).

    `new` are the next bars' open, high, low, close, volume and vwap, (6, m); `kept` the last
    `KEPT` before them, or all there were.
    """
    before, m = kept.shape[1], new.shape[1]
    bars = Padded(
        np.concatenate([np.full((len(new), PAD), np.nan, np.float32), kept, new], axis=1), np.array([0, before + m])
    )
    # What only looks at a window is computed over the bars kept, too, and these are left out;
    # what recurs goes on at the new ones, with the bars kept in place of its padding.
    block, out = np.empty((len(NAMES), before + m), np.float32), np.empty((len(NAMES), m), np.float32)
    for task in _windowed(bars, block):
        task()
    out[_WINDOWED] = block[_WINDOWED, before:]
    series = bars.levels[before:], bars.changes[before:], bars.close[before:], bars.pairs[:, before:].copy()
    traded = bars.volume[before:] + _TINY
    fill_moments(*series, traded, np.array([0, m]), _WINDOWS, _COLUMNS[MOMENTS], state, out)
    return out


def _windowed(bars: Padded, out: Float32) -> list[Callable[[], None]]:
    """Return what fills the columns that know nothing but their window."""
    prices = bars.close, bars.starts, _WINDOWS
    return [
        lambda: _shapes(bars, out),
        lambda: fill_orders(*prices, _COLUMNS[ORDERS], out),
        lambda: fill_extremes(bars.high, bars.low, *prices, _COLUMNS[EXTREMES], out),
        lambda: fill_counts(*prices, _COLUMNS[COUNTS], out),
    ]


def _moments(bars: Padded, part: NDArray[np.int64], out: Float32) -> None:
    """Fill the columns of sums, deviations, regressions and correlations of some windows."""
    series = bars.levels, bars.changes, bars.close, bars.pairs, bars.volume + _TINY
    state = np.zeros((4 * len(part) + 2, STATE))
    fill_moments(*series, bars.starts, _WINDOWS[part], _COLUMNS[MOMENTS][part], state, out)


def _shapes(bars: Padded, out: Float32) -> None:
    """Fill the columns of single bars and the rates of change, all in float32 as Qlib has them."""
    column, rows = dict(zip(NAMES, out, strict=True)), bars.rows
    o, h, l, c, w = (x[rows] for x in (bars.open, bars.high, bars.low, bars.close, bars.vwap))
    with np.errstate(all="ignore"):
        spread, top, bottom = h - l + _TINY, h - np.maximum(o, c), np.minimum(o, c) - l
        shift = np.float32(2) * c - h - l
        column["KMID"][:], column["KLEN"][:], column["KMID2"][:] = (c - o) / o, (h - l) / o, (c - o) / spread
        column["KUP"][:], column["KUP2"][:] = top / o, top / spread
        column["KLOW"][:], column["KLOW2"][:] = bottom / o, bottom / spread
        column["KSFT"][:], column["KSFT2"][:] = shift / o, shift / spread
        for name, x in (("OPEN0", o), ("HIGH0", h), ("LOW0", l), ("VWAP0", w)):
            np.divide(x, c, out=column[name])
        for window in WINDOWS:
            np.divide(bars.close[rows - window], c, out=column[f"ROC{window}"])
