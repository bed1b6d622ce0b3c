"""What trades earned, as a histogram."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.stats import t as student_t

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports._canvas import (
    GREEN,
    GREY,
    INK,
    MINUS,
    VERMILION,
    new_axes,
    percent,
)
from ensemble_kit.reports._texts import fit_head, is_narrow, wrap
from ensemble_kit.sizing.backtest import BacktestResult

__all__ = ["plot_pnl"]

FloatArray = NDArray[np.float64]

#: How many interquartile ranges around the median are drawn; the rest is counted in the outermost bins.
_SPREAD = 6.0
_MOST_BINS = 60


def plot_pnl(result: BacktestResult | pd.DataFrame, *, of: str = "trades", ax: Axes | None = None) -> Axes:
    """Draw how often trades, or bars, earned how much.

    Parameters
    ----------
    result : BacktestResult or DataFrame
        What `ensemble_kit.sizing.backtest` returned, or its `trades`, or some of them.
    of : {"trades", "bars"}, default="trades"
        The return of each trade, net of its costs; or of equity from close to close, bars on
        which it did not move left out.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        A histogram with 0 between two bins, gains and losses coloured, mean and median as
        lines, or named as off the axis where a far outlier carries them there. Beside the mean
        stands half its 95 % interval (Student's t of independent returns: too narrow where trades
        overlap). The title has the share of gains and the profit factor (all gains over all
        losses, of `pnl` where trades have it). Of a few far outliers the end bins hold the
        count; the label of x says so.

    Raises
    ------
    EnsembleKitError
        If there is no trade, no moving bar, or no such return.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.reports.trades import plot_pnl
    >>> ax = plot_pnl(pd.DataFrame({"return": [0.02, -0.01, 0.03, 0.01]}))
    >>> ax.get_title(loc="left")
    '4 trades: win rate 75%, profit factor 6.00'
    """
    returns, earned = _returns(result, of)
    gains, losses = float(earned[earned > 0].sum()), float(-earned[earned < 0].sum())
    factor = f"{gains / losses:.2f}" if losses else "none (no loss)"
    ax = new_axes(ax, (8, 4))
    edges, beyond = _edges(returns)
    inside = np.clip(returns, (edges[0] + edges[1]) / 2, (edges[-2] + edges[-1]) / 2)
    for name, color, rows in (
        ("losses", VERMILION, returns < 0),
        ("gains", GREEN, returns > 0),
        ("neither", GREY, returns == 0),
    ):
        if rows.any():
            label = f"{rows.sum():,} {name if rows.sum() > 1 else name.removesuffix('s').replace('losse', 'loss')}"
            style: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.5, "bottom": 0.0}
            if name == "neither":  # they share the first bin of gains
                style["bottom"] = np.histogram(inside[returns > 0], edges)[0]
            counts = np.histogram(inside[rows], edges)[0]
            ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=color, label=label, **style)
    mean, half, middle = float(returns.mean()), _half_interval(returns), float(np.median(returns))
    digits = _digits(half, mean, middle)
    around = "" if np.isnan(half) else f" \N{PLUS-MINUS SIGN} {_percent(half, digits).removeprefix('+')}"
    for name, value, after, dash in (("mean", mean, around, "-"), ("median", middle, "", ":")):
        outside = "" if edges[0] <= value <= edges[-1] else " (off the axis)"
        label = f"{name} {_percent(value, digits)}{after}{outside}"
        ax.axvline(value, color=INK, linewidth=1.4, linestyle=dash, label=label)
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.set_xlim(edges[0], edges[-1])
    ax.xaxis.set_major_locator(MaxNLocator(4 if is_narrow(ax) else 8, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(percent)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    one = "trade" if of == "trades" else "bar"
    outermost = f" ({beyond:,} farther out, in the end bins)" if beyond else ""
    ax.set_xlabel(wrap(ax, f"Return of a {one}, after costs{outermost}"))
    ax.set_ylabel(of.capitalize())
    share = percent(round((earned > 0).mean(), 3))
    fit_head(ax, f"{len(returns):,} {one if len(returns) == 1 else of}: win rate {share}, profit factor {factor}")
    return ax


def _returns(result: Any, of: str) -> tuple[FloatArray, FloatArray]:
    """Return what is drawn, and what gains and losses are summed of."""
    if of not in ("trades", "bars"):
        raise EnsembleKitError(f"`of` must be 'trades' or 'bars'; got {of!r}. Trades are what one decided on.")
    cure = "Pass what `backtest` returned, or its `trades`."
    frame = result if isinstance(result, pd.DataFrame) else getattr(result, "trades", None)
    bars = None if isinstance(result, pd.DataFrame) else getattr(result, "returns", None)
    if of == "bars":
        if bars is None:
            raise EnsembleKitError(
                f"`result` must be a BacktestResult to draw bars; got {type(result).__name__}. {cure}"
            )
        returns = earned = np.asarray(bars, np.float64)
        moved = returns != 0
        returns = earned = returns[moved]
    else:
        if not isinstance(frame, pd.DataFrame) or "return" not in frame:
            raise EnsembleKitError(
                f"`result` must be a BacktestResult, or a frame of trades with the column return; got "
                f"{type(result).__name__}. {cure}"
            )
        returns = frame["return"].to_numpy(np.float64)
        earned = frame["pnl"].to_numpy(np.float64) if "pnl" in frame else returns
    if not len(returns):
        raise EnsembleKitError(
            f"`result` must have at least one {'trade' if of == 'trades' else 'bar on which equity moved'}; got none. "
            "Look at its positions: nothing was traded."
        )
    if not np.isfinite(returns).all() or not np.isfinite(earned).all():
        raise EnsembleKitError(f"`result` must hold finite returns; got others. {cure}")
    return returns, earned


def _edges(returns: FloatArray) -> tuple[FloatArray, int]:
    """Return edges of round width with 0 among them, and how many returns lie beyond them."""
    low, middle, high = np.quantile(returns, [0.25, 0.5, 0.75])
    reach = _SPREAD * (high - low) or np.inf
    near = returns[np.abs(returns - middle) <= reach]
    # Freedman and Diaconis' width, which heavy tails do not stretch.
    width = 2 * (high - low) * len(returns) ** (-1 / 3)
    span = max(float(near.max()), 0.0) - min(float(near.min()), 0.0)
    span = span or 1e-4
    width = max(width, span / _MOST_BINS) if width > 0 else span / 5
    width = min(width, span / 5)
    scale = 10.0 ** np.floor(np.log10(width))
    width = scale * next(step for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * scale >= width * 0.999)
    first = min(int(np.floor(near.min() / width)), -1)
    last = max(int(np.floor(near.max() / width)) + 1, 1)
    edges = width * np.arange(first, last + 1)
    return edges, int(((returns < edges[0]) | (returns > edges[-1])).sum())


def _half_interval(returns: FloatArray) -> float:
    """Return half of the 95 % interval of the mean, as if returns were independent; NaN for one."""
    if len(returns) < 2:
        return float("nan")
    return float(student_t.ppf(0.975, len(returns) - 1) * returns.std(ddof=1) / np.sqrt(len(returns)))


def _digits(*values: float) -> int:
    """Return the decimals, in percent, that give the first value that is not 0 (nor NaN) two digits."""
    known = [abs(100 * value) for value in values if np.isfinite(value) and value]
    return int(np.clip(1 - np.floor(np.log10(known[0])), 0, 12)) if known else 0


def _percent(value: float, digits: int) -> str:
    text = f"{100 * value:+.{digits}f}%"
    return text.replace("-", MINUS) if text.strip("+-0.%") else "0%"
