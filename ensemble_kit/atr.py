"""Wilder's average true range, the unit in which the toolkit measures distances."""

from __future__ import annotations

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import row_keys

__all__ = ["average_true_range", "start_wilder", "wilder"]

FloatArray = NDArray[np.float64]


def average_true_range(bars: pd.DataFrame, period: int = 14) -> FloatArray:
    """Wilder's average true range of each bar, instruments apart.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars with `high`, `low` and `close`.
    period : int, default=14
        Bars of the first, plain mean and of the smoothing after it.

    Returns
    -------
    ndarray of float64, shape (n,)
        In units of price. NaN for the first `period` bars of an instrument and for bars
        without prices; such bars leave the recursion as it was. Row t sees rows <= t.

    References
    ----------
    J. Welles Wilder, New Concepts in Technical Trading Systems (1978).

    Examples
    --------
    >>> from ensemble_kit.atr import average_true_range
    >>> from ensemble_kit.datasets import make_bars
    >>> bool((average_true_range(make_bars(100, random_state=0))[14:] > 0).all())
    True
    """
    high, low, close = (bars[column].to_numpy(np.float64) for column in ("high", "low", "close"))
    instrument = row_keys(bars, name="bars").instrument
    state = start_wilder(int(instrument.max(initial=-1)) + 1)
    return wilder(high, low, close, instrument, period, state)


def start_wilder(n_instruments: int) -> FloatArray:
    """Return the state before an instrument's first bar, one row an instrument.

    Parameters
    ----------
    n_instruments : int
        Rows.

    Returns
    -------
    ndarray of float64, shape (n_instruments, 3)
        The previous close, the mean so far, and how many ranges it holds.
    """
    return np.tile([np.nan, 0.0, 0.0], (n_instruments, 1))


@numba.njit(cache=True)
def wilder(
    high: FloatArray,
    low: FloatArray,
    close: FloatArray,
    instrument: NDArray[np.int64],
    period: int,
    state: FloatArray,
) -> FloatArray:
    """Move the average true range on over these bars.

    Parameters
    ----------
    high, low, close : ndarray of float64, shape (n,)
        The next bars.
    instrument : ndarray of int64, shape (n,)
        Which row of the state each belongs to.
    period : int
        As in `average_true_range`.
    state : ndarray of float64, shape (n_instruments, 3)
        What `start_wilder` returned, or an earlier call left. Changed in place.

    Returns
    -------
    ndarray of float64, shape (n,)
        As `average_true_range` of all bars seen so far.
    """
    out = np.full(len(high), np.nan)
    for t in range(len(high)):
        j = instrument[t]
        if np.isnan(high[t]) or np.isnan(low[t]) or np.isnan(close[t]):
            continue
        previous = state[j, 0]
        if not np.isnan(previous):
            reach = max(high[t], previous) - min(low[t], previous)
            state[j, 2] += 1
            if state[j, 2] <= period:
                state[j, 1] += reach / period
            else:
                state[j, 1] += (reach - state[j, 1]) / period
            if state[j, 2] >= period:
                out[t] = state[j, 1]
        state[j, 0] = close[t]
    return out
