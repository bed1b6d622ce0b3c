"""Bars without memory: the worlds in which a model can only have what its label gives away."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from ensemble_kit.bars import PRICES, check_bars, instrument_codes, row_keys
from ensemble_kit.exceptions import BarsError
from ensemble_kit.sessions import Session, session_times

__all__ = ["random_walk_bars", "surrogate_bars"]

FloatArray = NDArray[np.float64]
#: Columns that move with the price; the others (volume, sizes) are taken along as they are.
_PRICE_LIKE = (*PRICES, "vwap", "bid", "ask")
#: What a column is in a world turned upside down; the others stay what they are.
_UPSIDE_DOWN = {
    "high": "low",
    "low": "high",
    "bid": "ask",
    "ask": "bid",
    "bid_size": "ask_size",
    "ask_size": "bid_size",
}
#: With d days a share of about 1/d of the bars stays where it is; beyond this, it is worth a warning.
_FEW_DAYS = 0.2


def surrogate_bars(bars: pd.DataFrame, *, session: str | Session = "day", random_state: Any = None) -> pd.DataFrame:
    """Shuffle bars across days within their time of day: the same shapes, no memory.

    Each bar's shape (its prices relative to the previous close) and volume are permuted
    among the bars of the same time of day; prices are then chained again from the first
    close. Seasonality by time of day and the distribution of bars stay, and whatever
    the past told about the future goes.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel (instruments are shuffled apart; one without a
        row of known prices stays as it is).
    session : "day", exchange code or Session, default="day"
        Whose time of day, as for `sessions.session_times`.
    random_state : int, RandomState or None, default=None
        Seed of the permutation.

    Returns
    -------
    DataFrame
        Of the same shape, index and first row; labels and features are to be made anew. Rows
        with a NaN price stay in their place, at the new level of prices. Warns where days are
        so few that many bars change places with themselves.

    Notes
    -----
    Columns of numbers under other names than those of the bar frame (sizes, counts) go with
    their bar as they are, and columns of anything else stay in their place. Other prices among
    them (`adj_close`, say) give the true path away, level by level: leave them out.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.metrics import surrogate_bars
    >>> bars = make_bars(500, random_state=0)
    >>> shuffled = surrogate_bars(bars, random_state=0)
    >>> shuffled.index.equals(bars.index), shuffled["close"].equals(bars["close"])
    (True, False)
    """
    check_bars(bars)
    rng = check_random_state(random_state)
    minute = session_times(bars.index, session).minute
    codes, names = instrument_codes(bars.index)
    moving = [column for column in bars.columns if pd.api.types.is_numeric_dtype(bars[column])]
    values = bars[moving].to_numpy(np.float64, copy=True)
    priced = np.array([column in _PRICE_LIKE for column in moving])
    close = moving.index("close")
    whole = bars[list(PRICES)].notna().all(axis=1).to_numpy()
    stayed = np.zeros(len(bars), dtype=bool)
    # In order of the names themselves: a categorical level may number them in any other.
    for instrument in np.argsort(pd.factorize(pd.Index(names, dtype=object), sort=True)[0]):
        mine = np.flatnonzero(codes == instrument)
        rows = mine[whole[mine]]
        if len(rows) == 0:
            continue
        source = _exchange(minute[rows[1:]], rng)
        stayed[rows[1:]] = source == np.arange(len(source))
        before = values[rows, close]
        values[rows] = _chain(values[rows], source, priced, close)
        # Rows with a price unknown have no shape to move: they stay, at the level of the close before them.
        torn = mine[~whole[mine]]
        last = np.searchsorted(rows, torn) - 1
        level = np.where(last >= 0, values[rows[last], close] / before[last], 1.0)
        values[np.ix_(torn, priced)] *= level[:, None]
    if stayed.mean() > _FEW_DAYS:
        warnings.warn(
            f"{stayed.mean():.0%} of the surrogate bars are the bars themselves: too few days share a time of day, so "
            "the surrogate says little. Give more days, or the `session` whose clock the bars follow.",
            UserWarning,
            stacklevel=2,
        )
    surrogate = bars.copy()
    surrogate[moving] = values
    return surrogate


def _exchange(minute: FloatArray, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Return which bar takes each bar's place, of those at the same time of day."""
    source = np.arange(len(minute))
    for slot in np.unique(minute):
        mine = np.flatnonzero(minute == slot)
        source[mine] = rng.permutation(mine)
    return source


def _chain(values: FloatArray, source: NDArray[np.int64], priced: NDArray[np.bool_], close: int) -> FloatArray:
    """Chain the bars' shapes in another order from the first close on."""
    shapes = values[1:].copy()
    shapes[:, priced] /= values[:-1, [close]]
    shapes = shapes[source]
    chained = values[0, close] * np.concatenate([[1.0], np.cumprod(shapes[:, close])])
    shapes[:, priced] *= chained[:-1, None]
    return np.vstack([values[:1], shapes])


def random_walk_bars(bars: pd.DataFrame, *, random_state: Any = None) -> pd.DataFrame:
    """Turn each bar upside down, or not, by a coin: the same volume and ranges, no direction.

    Each bar's prices relative to the previous close are inverted (up by a tenth becomes down
    to ten elevenths, high becomes low, bid becomes ask) or kept, and chained again from the
    first close. Volume, ranges, clusters of volatility, gaps and time of day stay; whatever
    the past told about the direction of prices goes.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel. One coin a time: instruments that moved together
        still do.
    random_state : int, RandomState or None, default=None
        Seed of the coins.

    Returns
    -------
    DataFrame
        Of the same shape, index and first row (each instrument's rows up to its first known
        close are as they were); labels and features are to be made anew. Unknown prices
        stay unknown, an unknown high turning into an unknown low.

    Raises
    ------
    BarsError
        If the bars are not a bar frame, or one of a pair (`bid`, `ask`; `bid_size`,
        `ask_size`) is missing, which would have to become the other.

    Notes
    -----
    The close is a martingale: a bar that closed `x` times the previous close is kept with
    probability ``1 / (1 + x)``, so that ``x / (1 + x) + (1 / x) x / (1 + x) = 1``, exactly,
    whatever is known of the other bars. Of two equally long moves, the fall is therefore the
    likelier. The open is one to second order: with ``o`` and ``r`` the log-returns of open and
    close on the previous close, its expectation is ``cosh(o - r / 2) / cosh(r / 2)`` times
    the previous close, about ``1 + o (o - r) / 2``, which is 1 where there is no gap or
    nothing but the gap.

    Prices under other names than those of the bar frame (`adj_close`, say) are not turned,
    and give the true path away: leave them out.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.metrics import random_walk_bars
    >>> bars = make_bars(500, random_state=0)
    >>> walk = random_walk_bars(bars, random_state=0)
    >>> walk["volume"].equals(bars["volume"]), walk["close"].equals(bars["close"])
    (True, False)
    """
    check_bars(bars)
    if alone := [name for name, other in _UPSIDE_DOWN.items() if name in bars and other not in bars]:
        raise BarsError(
            f"`bars` must have {_UPSIDE_DOWN[alone[0]]} beside {alone[0]}, or neither: upside down, one becomes the "
            "other. Add it (NaN where unknown), or drop the column."
        )
    moment = np.unique(row_keys(bars).time, return_inverse=True)[1]
    coin = check_random_state(random_state).random_sample(moment[-1] + 1)[moment]
    codes, names = instrument_codes(bars.index)
    priced = [column for column in _PRICE_LIKE if column in bars]
    mirror = [priced.index(_UPSIDE_DOWN.get(column, column)) for column in priced]
    prices = bars[priced].to_numpy(np.float64, copy=True)
    turned = np.zeros(len(bars), dtype=bool)
    for instrument in range(len(names)):
        mine = np.flatnonzero(codes == instrument)
        prices[mine], turned[mine] = _turn(prices[mine], coin[mine], mirror)
    walk = bars.copy()
    walk[priced] = prices
    if "bid_size" in bars:
        walk.loc[turned, ["bid_size", "ask_size"]] = bars.loc[turned, ["ask_size", "bid_size"]].to_numpy()
    return walk


def _turn(prices: FloatArray, coin: FloatArray, mirror: list[int]) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Turn bars of one instrument over, open first and close fourth, and say which."""
    opened, closed = prices[:, 0], prices[:, 3]
    at = np.arange(len(prices))
    last = np.maximum.accumulate(np.where(np.isnan(closed), -1, at))
    before = np.concatenate([[-1], last[:-1]])
    begun = before >= 0
    shape = prices / np.where(begun, closed[before], 1.0)[:, None]
    # A bar without a close moves no other, but its open must not be foreseen either.
    move = np.where(np.isnan(closed), np.where(np.isnan(opened), 1.0, shape[:, 0]), shape[:, 3])
    turned = begun & (coin >= 1 / (1 + move))
    with np.errstate(divide="ignore"):  # no bids at all (0) become no offers at all (inf)
        shape = np.where(turned[:, None], 1 / shape[:, mirror], shape)
    growth = np.where(begun & ~np.isnan(closed), shape[:, 3], 1.0)
    level = closed[np.argmax(last >= 0)] * np.cumprod(growth)
    return np.where(begun[:, None], shape * level[before][:, None], prices), turned
