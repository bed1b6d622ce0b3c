"""Wilder's average true range, the unit in which the toolkit measures distances."""

from __future__ import annotations

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import row_keys

__all__ = ["average_true_range"]

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
    return _wilder(high, low, close, row_keys(bars, name="bars").instrument, period)


@numba.njit(cache=True)
def _wilder(
    high: FloatArray, low: FloatArray, close: FloatArray, instrument: NDArray[np.int64], period: int
) -> FloatArray:
    n_instruments = instrument.max() + 1 if len(instrument) else 0
    previous = np.full(n_instruments, np.nan)
    state = np.zeros(n_instruments)
    seen = np.zeros(n_instruments, dtype=np.int64)
    out = np.full(len(high), np.nan)
    for t in range(len(high)):
        j = instrument[t]
        if np.isnan(high[t]) or np.isnan(low[t]) or np.isnan(close[t]):
            continue
        if not np.isnan(previous[j]):
            reach = max(high[t], previous[j]) - min(low[t], previous[j])
            seen[j] += 1
            if seen[j] <= period:
                state[j] += reach / period
            else:
                state[j] += (reach - state[j]) / period
            if seen[j] >= period:
                out[t] = state[j]
        previous[j] = close[t]
    return out
