"""Which bars are events, how far prices move at them, and how much each label says of its own."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import RowKeys, row_keys
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels._blocks import Blocks

__all__ = ["average_uniqueness", "close_returns", "cusum_events", "ewm_volatility", "one_column", "uniqueness"]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def cusum_events(
    bars: pd.DataFrame | pd.Series[Any], threshold: float | pd.Series[Any], *, column: str = "close"
) -> pd.Series[Any]:
    """Mark the bars at which prices have drifted by a threshold since the last such bar.

    Two sums of returns run from each event on, one that never falls below 0 and one that
    never rises above it. The bar at which either reaches the threshold is an event, and
    starts both anew.

    Parameters
    ----------
    bars : DataFrame or Series of shape (n,)
        Bars, ticks or prices of one instrument or a panel.
    threshold : float or Series
        A simple return above 0: 0.01 is one percent. A Series on the bars' index gives
        each bar its own, such as a multiple of `ewm_volatility`; where it is NaN the bar
        is no event and the sums go on.
    column : str, default="close"
        The price of a frame.

    Returns
    -------
    Series of bool
        On the bars' index. Row t sees rows <= t. Rows without a price are no events; the
        next return spans them.

    Raises
    ------
    BarsError
        If there is no such column of prices above 0, no row, or the index is not one of
        sorted, unique times.
    EnsembleKitError
        If a threshold is no number above 0, or on another index.

    References
    ----------
    M. Lopez de Prado, Advances in Financial Machine Learning (2018), section 2.5.2.1. Its
    threshold is to be exceeded; here, as in its text, it is enough to reach it.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.labels import cusum_events, ewm_volatility
    >>> bars = make_bars(1000, random_state=0)
    >>> events = cusum_events(bars, 4 * ewm_volatility(bars))
    >>> bool(events.iloc[:100].any()), bool(0.02 < events.mean() < 0.2)
    (False, True)
    """
    prices = _positive(one_column(bars, column))
    if isinstance(threshold, pd.Series):
        _check_numeric(threshold)
        if not threshold.index.equals(prices.index):
            raise EnsembleKitError(
                f"`threshold` must be on the bars' index ({len(prices)} rows); got another one of {len(threshold)}. "
                "Compute it from these very bars."
            )
        limit = threshold.to_numpy(np.float64)
    elif not isinstance(threshold, Real):
        raise EnsembleKitError(
            f"`threshold` must be a number or a Series on the bars' index; got {type(threshold).__name__}. "
            "Give a simple return such as 0.01, or a multiple of `ewm_volatility`."
        )
    else:
        limit = np.full(len(prices), float(threshold))
    if not (limit > 0)[~np.isnan(limit)].all() or (np.ndim(threshold) == 0 and np.isnan(limit).any()):
        least = threshold if np.ndim(threshold) == 0 else np.nanmin(limit)
        raise EnsembleKitError(f"`threshold` must be above 0; got {least:g}. It is a simple return: 0.01 is 1 %.")
    blocks = Blocks.of(prices.to_frame())
    events = _cusum(close_returns(blocks.take(prices), blocks), blocks.first, blocks.take(limit))
    return blocks.series(events, "event")


def _check_numeric(threshold: pd.Series[Any]) -> None:
    if not pd.api.types.is_numeric_dtype(threshold.dtype):
        raise EnsembleKitError(
            f"`threshold` must hold numbers; got a Series of {threshold.dtype}. Convert with `pandas.to_numeric`."
        )


@numba.njit(cache=True)
def _cusum(returns: FloatArray, first: IntArray, threshold: FloatArray) -> BoolArray:
    event = np.zeros(len(returns), dtype=np.bool_)
    up = down = 0.0
    for t in range(len(returns)):
        if first[t] == t:
            up = down = 0.0
        if np.isnan(returns[t]):
            continue
        up = max(0.0, up + returns[t])
        down = min(0.0, down + returns[t])
        # A comparison with NaN is False.
        if up >= threshold[t] or -down >= threshold[t]:
            event[t] = True
            up = down = 0.0
    return event


def ewm_volatility(bars: pd.DataFrame | pd.Series[Any], *, span: int = 100, column: str = "close") -> pd.Series[Any]:
    """Exponentially weighted standard deviation of close-to-close returns.

    Parameters
    ----------
    bars : DataFrame or Series of shape (n,)
        Bars, ticks or prices of one instrument or a panel.
    span : int, default=100
        The weight of a return falls by ``1 - 2 / (span + 1)`` with each later one.
    column : str, default="close"
        The price of a frame.

    Returns
    -------
    Series of float64
        In simple returns of one bar (0.01 is one percent), on the bars' index. NaN before
        `span` returns are known and where the price is not; such rows leave the mean and the
        deviation as they were. Row t sees rows <= t.

    Raises
    ------
    BarsError
        If there is no such column of prices above 0, no row, or the index is not one of
        sorted, unique times.
    EnsembleKitError
        If `span` is not an integer of at least 2.

    References
    ----------
    M. Lopez de Prado, Advances in Financial Machine Learning (2018), section 3.3; there of
    daily returns, here of the bars' own.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.labels import ewm_volatility
    >>> ewm_volatility(make_bars(500, random_state=0), span=50).isna().sum()
    np.int64(50)
    """
    if not isinstance(span, int | np.integer) or span < 2:
        raise EnsembleKitError(f"`span` must be an integer of at least 2; got {span!r}. Count it in bars.")
    prices = _positive(one_column(bars, column))
    blocks = Blocks.of(prices.to_frame())
    returns = close_returns(blocks.take(prices), blocks)
    # Groups by their first place lie one after another already, so the order of places is kept.
    weighted = pd.Series(returns).groupby(blocks.first).ewm(span=span, min_periods=span, ignore_na=True)
    deviation = weighted.std().to_numpy(np.float64)
    return blocks.series(np.where(np.isnan(returns), np.nan, deviation), "volatility")


def average_uniqueness(t1: pd.Series[Any], *, events: pd.Series[Any] | None = None) -> pd.Series[Any]:
    """Weigh each label by how few others are made of the same bars.

    A label at t is made of the returns of bars t + 1 to t1. Each bar is shared evenly among
    the labels of the same instrument that are made of it, and a label's average uniqueness is the
    mean of its shares: 1 where it overlaps with no other, 1 / c among c of the same span.

    Parameters
    ----------
    t1 : Series of times, shape (n,)
        `Labels.t1`, on the bars' index: the last bar that each label looked at, NaT where
        it is not known. A label of its own bar alone counts that bar.
    events : Series of bool, default=None
        Which rows count; all of them, if None.

    Returns
    -------
    Series of float64
        Between 0 and 1; 0 for rows that are no events or not known.

    Raises
    ------
    EnsembleKitError
        If `t1` holds no times, some without a zone beside an index with one, or lies before
        its row, or `events` is no Series of bool on the same index.
    BarsError
        If the index is not one of sorted, unique times.

    Notes
    -----
    What it sees: row t sees bars up to its `t1`, and which other labels are made of them. That is
    no feature, but a weight.

    References
    ----------
    M. Lopez de Prado, Advances in Financial Machine Learning (2018), sections 4.3 and 4.4.
    By its text labels are concurrent where they share a return. Its code also counts the bar
    at whose close a label begins: labels that follow each other without a common return
    would then overlap.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.labels import average_uniqueness
    >>> times = pd.date_range("2022-01-03", periods=5)
    >>> t1 = pd.Series([times[2], times[2], times[4], times[4], pd.NaT], index=times)
    >>> average_uniqueness(t1).tolist()
    [0.75, 0.5, 0.75, 0.5, 0.0]
    """
    if not isinstance(t1, pd.Series):
        raise EnsembleKitError(f"`t1` must be a Series of times; got {type(t1).__name__}. Pass `labels.t1`.")
    keys = row_keys(t1, name="t1")
    if keys.index is None or not pd.api.types.is_datetime64_any_dtype(t1.dtype):
        raise EnsembleKitError(
            f"`t1` must hold times on an index of times; got {t1.dtype} on {type(t1.index).__name__}. Pass `labels.t1`."
        )
    index_times = pd.DatetimeIndex(keys.index.get_level_values(0))
    if (pd.DatetimeIndex(t1).tz is None) != (index_times.tz is None):
        raise EnsembleKitError(
            f"`t1` must have a time zone where its index has one, and none where it has none; got {t1.dtype} on "
            f"{index_times.dtype}. Pass `labels.t1`, of these very bars."
        )
    if events is not None and (not isinstance(events, pd.Series) or events.dtype != bool):
        got = f"a Series of {events.dtype}" if isinstance(events, pd.Series) else type(events).__name__
        raise EnsembleKitError(
            f"`events` must be a Series of bool on the index of `t1`; got {got}. "
            "Pass what `cusum_events` returned, or `weights > 0`."
        )
    if events is not None and not events.index.equals(t1.index):
        raise EnsembleKitError(
            f"`events` must be on the index of `t1` ({len(t1)} rows); got another one of {len(events)}. "
            "Take both from the same bars."
        )
    known = t1.notna().to_numpy()
    until = pd.DatetimeIndex(t1).as_unit("ns").asi8
    if (early := known & (until < keys.time)).any():
        row = int(np.argmax(early))
        raise EnsembleKitError(
            f"`t1` must not lie before its own row; row {row} has {t1.iloc[row]}. "
            "It is the time of the last bar that the label looked at."
        )
    counts = known if events is None else known & events.to_numpy(bool)
    blocks = Blocks.of(t1.to_frame())
    end = _last_places(keys, until, blocks)
    return blocks.series(uniqueness(end, blocks.take(counts), blocks.first), "uniqueness")


def _last_places(keys: RowKeys, until: IntArray, blocks: Blocks) -> IntArray:
    """Return the last place of the same instrument whose time is not after `until`."""
    time, until = blocks.take(keys.time), blocks.take(until)
    end = np.empty(len(time), dtype=np.int64)
    for start in np.unique(blocks.first):
        mine = slice(start, blocks.last[start] + 1)
        end[mine] = start + np.searchsorted(time[mine], until[mine], side="right") - 1
    return np.maximum(end, np.arange(len(time)))  # NaT lies before everything, and does not count


@numba.njit(cache=True)
def uniqueness(end: IntArray, counts: BoolArray, first: IntArray) -> FloatArray:
    """Average uniqueness by place, of labels made of the bars after theirs up to `end`.

    Parameters
    ----------
    end : ndarray of int64, shape (n,)
        The last place that each label looked at, of the same instrument, at or after its own.
    counts : ndarray of bool, shape (n,)
        Which labels count.
    first : ndarray of int64, shape (n,)
        First place of each place's instrument.

    Returns
    -------
    ndarray of float64, shape (n,)
        0 for labels that do not count.
    """
    n = len(end)
    change = np.zeros(n + 1, dtype=np.int64)
    for t in range(n):
        if counts[t]:
            change[min(t + 1, end[t])] += 1
            change[end[t] + 1] -= 1
    # Sums begin anew with each instrument: a panel gives it the very bits that it gets alone.
    share, total, active = np.zeros(n), np.zeros(n), 0
    for t in range(n):
        active += change[t]
        share[t] = 1.0 / active if active > 0 else 0.0
        total[t] = share[t] if t == first[t] else total[t - 1] + share[t]
    out = np.zeros(n)
    for t in range(n):
        if counts[t]:
            start = min(t + 1, end[t])
            mean = (total[end[t]] - total[start] + share[start]) / (end[t] - start + 1)
            out[t] = min(mean, 1.0)
    return out


def close_returns(prices: FloatArray, blocks: Blocks) -> FloatArray:
    """Simple return of each place from the last known price of its instrument.

    Parameters
    ----------
    prices : ndarray of float64, shape (n,)
        By place, NaN where not known.
    blocks : Blocks
        The places.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN where the price, or every earlier one, is not known.
    """
    at = np.arange(len(prices))
    known = np.maximum.accumulate(np.where(np.isnan(prices), -1, at))
    before = np.concatenate([[-1], known[:-1]]).astype(np.int64)
    return np.where(before >= blocks.first, prices / prices[before] - 1.0, np.nan)


def one_column(bars: pd.DataFrame | pd.Series[Any], column: str) -> pd.Series[Any]:
    """Return the price of bars, ticks or a series, checked.

    Parameters
    ----------
    bars : DataFrame or Series of shape (n, ...)
        Indexed by time or by (datetime, instrument).
    column : str
        The price of a frame.

    Returns
    -------
    Series of float64
        On the same index.

    Raises
    ------
    BarsError
        If there is no such column or more than one, if it is not numeric or infinite
        somewhere, or if the index is not one of sorted, unique times.
    """
    if isinstance(bars, pd.DataFrame) and column not in bars.columns:
        mid = {"bid", "ask"} <= set(bars.columns)
        cure = (
            "Quotes have a mid price: `bars.assign(mid=(bars['bid'] + bars['ask']) / 2)` and `column='mid'`."
            if mid
            else "Name the column that holds the price."
        )
        raise BarsError(f"`column` must be one of {', '.join(map(str, bars.columns))}; got {column!r}. {cure}")
    if not isinstance(bars, pd.DataFrame | pd.Series):
        raise BarsError(
            f"`bars` must be a pandas DataFrame or a Series of prices; got {type(bars).__name__}. "
            "Index prices by their times."
        )
    prices = bars[column] if isinstance(bars, pd.DataFrame) else bars
    if isinstance(prices, pd.DataFrame):
        raise BarsError(
            f"`bars` must have each column once; got {column} {prices.shape[1]} times. Drop or rename the others."
        )
    if not pd.api.types.is_numeric_dtype(prices.dtype):
        raise BarsError(f"`bars` must have numeric prices; got {prices.dtype}. Convert with `pandas.to_numeric`.")
    if row_keys(prices, name="bars").index is None:
        raise BarsError(
            f"`bars` must be indexed by time (DatetimeIndex) or by (datetime, instrument); got "
            f"{type(prices.index).__name__}. Set it with `.set_index(...)` after `pandas.to_datetime`."
        )
    values = prices.astype(np.float64)
    if (infinite := np.isinf(values.to_numpy())).any():
        row = int(np.argmax(infinite))
        raise BarsError(
            f"`bars` must have finite prices; got {values.iloc[row]:g} at {values.index[row]} (row {row}). "
            "Set them to NaN, or drop the rows."
        )
    return values


def _positive(prices: pd.Series[Any]) -> pd.Series[Any]:
    """Return prices that simple returns can be taken of; refuse others."""
    if prices.empty:
        raise BarsError("`bars` must have at least one row; got 0. Widen what was read.")
    wrong = prices.to_numpy() <= 0  # False for NaN
    if wrong.any():
        row = int(np.argmax(wrong))
        raise BarsError(
            f"`bars` must have prices above 0; got {prices.iloc[row]:g} at {prices.index[row]} (row {row}; "
            f"{int(wrong.sum())} such row(s)). Set them to NaN, or add a constant to a spread."
        )
    return prices
