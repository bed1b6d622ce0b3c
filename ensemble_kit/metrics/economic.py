"""What a decision earns: the return that positions are judged by."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ensemble_kit.bars import check_bars

__all__ = ["next_open_return"]


def next_open_return(bars: pd.DataFrame) -> pd.Series[float]:
    """Return what a long position decided at each close earns from the next open to the one after.

    The economic null of a position: its mean product with this return, before costs, is 0
    where nothing is predictable.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        A bar frame, of one instrument or a panel.

    Returns
    -------
    Series of shape (n,)
        ``open[t + 2] / open[t + 1] - 1``: simple return, NaN on each instrument's last two
        rows and beside unknown opens. It lies in the future of its row: score with it, never
        learn from it.

    Raises
    ------
    BarsError
        If the bars are not usable as they are.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.metrics import next_open_return
    >>> index = pd.date_range("2024-01-01", periods=4, freq="D")
    >>> price = pd.Series([10.0, 10, 11, 22], index=index)
    >>> next_open_return(pd.DataFrame({"open": price, "high": price, "low": price, "close": price})).round(3).tolist()
    [0.1, 1.0, nan, nan]
    """
    opens = check_bars(bars)["open"].astype(np.float64)
    rows = opens.groupby(level=1, observed=True) if isinstance(bars.index, pd.MultiIndex) else opens
    return (rows.shift(-2) / rows.shift(-1) - 1.0).rename("next_open_return")
