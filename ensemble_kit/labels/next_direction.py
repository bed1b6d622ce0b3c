"""Whether the next price is higher: the label of ticks, and the shortest of bars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels._blocks import Blocks
from ensemble_kit.labels.events import one_column
from ensemble_kit.labels.result import Labels, plain_parameters

__all__ = ["next_direction"]


def next_direction(bars: pd.DataFrame | pd.Series[Any], *, column: str = "close") -> Labels:
    """Label each row by the next price: 1 if it is higher, else 0.

    Parameters
    ----------
    bars : DataFrame or Series of shape (n, ...)
        Bars, ticks, or prices themselves: whatever is indexed by sorted, unique times, or by
        (datetime, instrument).
    column : str, default="close"
        The price of a frame. Of trades their price; quotes have a mid price, which
        ``quotes.assign(mid=(quotes["bid"] + quotes["ask"]) / 2)`` adds.

    Returns
    -------
    Labels
        `t1` is the row of the next known price: the next row, unless prices there are
        NaN. Unknown are the rows from an instrument's last known price on. `sample_weight`
        is 0 for these and for rows whose own price is NaN.

    Raises
    ------
    BarsError
        If there is no such column of prices, or the index is not one of sorted, unique times.
    EnsembleKitError
        If no instrument has two known prices.

    Notes
    -----
    An unchanged price is not higher: 0. Where most ticks repeat the price before them (trades
    do), the share of 1 is far below a half, and scores mean something beside it only.

    Ticks with the same time need times of their own, such as the next nanoseconds, in their order:
    ``ticks.index += pd.to_timedelta(ticks.groupby(level=0).cumcount().to_numpy(), unit="ns")``. Or
    keep the last of each time.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.labels import next_direction
    >>> times = pd.date_range("2022-01-03 09:30", periods=5, freq="s")
    >>> quotes = pd.DataFrame({"bid": [10, 11, 11, 10, 12.0], "ask": [12, 13, 13, 12, 13.0]}, index=times)
    >>> quotes = quotes.assign(mid=(quotes["bid"] + quotes["ask"]) / 2)
    >>> next_direction(quotes, column="mid").labels.tolist()
    [1.0, 0.0, 0.0, 1.0, nan]
    """
    prices = one_column(bars, column)
    blocks = Blocks.of(prices.to_frame())
    price = blocks.take(prices)
    n = len(price)
    at = np.arange(n)
    # The nearest known price at or after each place, read backwards; n where there is none.
    nearest = np.minimum.accumulate(np.where(np.isnan(price), n, at)[::-1])[::-1]
    following = np.append(nearest[1:], n)
    known = following <= blocks.last
    if not known.any():
        raise EnsembleKitError(
            f"`bars` must have at least two known prices of an instrument; got {int((~np.isnan(price)).sum())} of "
            f"{n} rows. Give more rows."
        )
    following = np.where(known, following, at)
    return Labels(
        blocks.series(np.where(known, price[following] > price, np.nan), "H0"),
        blocks.t1(following, known),
        blocks.series((known & ~np.isnan(price)).astype(np.float64), "sample_weight"),
        plain_parameters("next_direction", column=column),
    )
