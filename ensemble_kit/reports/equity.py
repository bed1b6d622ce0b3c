"""Equity against buy and hold, with the drawdown below."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports._canvas import (
    BLUE,
    GREY,
    MINUS,
    date_ticks,
    new_axes,
    open_frame,
    percent,
    split_below,
)
from ensemble_kit.reports._texts import fit_head, label_y
from ensemble_kit.sizing.backtest import BacktestResult

__all__ = ["plot_equity"]

FloatArray = NDArray[np.float64]


def plot_equity(result: BacktestResult, *, ax: Axes | None = None) -> Axes:
    """Draw equity against buy and hold, with the drawdown below.

    Parameters
    ----------
    result : BacktestResult
        What `ensemble_kit.sizing.backtest` returned.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        The axes of equity; those of the drawdown are the figure's newest, ``ax.figure.axes[-1]``.

    Raises
    ------
    EnsembleKitError
        If `result` is something else.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.reports import plot_equity
    >>> from ensemble_kit.sizing.backtest import backtest
    >>> index = pd.date_range("2024-01-01", periods=4, freq="D")
    >>> price = pd.Series([10.0, 10, 12, 11], index=index)
    >>> bars = pd.DataFrame({"open": price, "high": price, "low": price, "close": price})
    >>> plot_equity(backtest(bars, [1, 1, 0, 0], costs=0)).get_ylabel()
    'Gain since the first bar'
    """
    if not isinstance(result, BacktestResult):
        raise EnsembleKitError(
            f"`result` must be a BacktestResult; got {type(result).__name__}. Pass what `backtest` returned."
        )
    ax = new_axes(ax, (10, 5.5))
    equity, hold = (curve.to_numpy() / curve.iloc[0] for curve in (result.equity, result.buy_and_hold))
    m = result.metrics
    x = np.arange(len(equity))
    for values, color, name, gain, sharpe in (
        (hold, GREY, "Buy and hold", m["buy_and_hold"], m["buy_and_hold_sharpe"]),
        (equity, BLUE, "Position", m["total_return"], m["sharpe"]),
    ):
        ratio = "" if np.isnan(sharpe) else f", Sharpe {sharpe:.2f}"
        ax.plot(x, values - 1, color=color, linewidth=1.3, label=f"{name}: {gain:+.1%}{ratio}".replace("-", MINUS))
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    fit_head(ax, f"Equity after costs, {m['trades']:,.0f} trade{'' if m['trades'] == 1 else 's'}")
    below = split_below(ax)
    label_y(ax, "Gain since the first bar")
    top = np.maximum.accumulate(hold)
    below.plot(x, hold / top - 1, color=GREY, linewidth=1)
    below.fill_between(x, result.drawdown, 0, color=BLUE, alpha=0.4, linewidth=0)
    label_y(below, "Drawdown")
    below.set_xlim(0, max(len(x) - 1, 1))
    date_ticks(below, result.equity.index, 0)
    ax.tick_params(labelbottom=False)
    for part in (ax, below):
        part.yaxis.set_major_formatter(percent)
        open_frame(part)
    return ax
