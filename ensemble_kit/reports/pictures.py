"""Pictures of signals, calibration, votes and equity: data in, `Axes` out, no global state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray
from scipy.special import ndtri

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.sizing.backtest import BacktestResult

__all__ = ["plot_equity", "plot_reliability", "plot_signals", "plot_weights", "save_figure"]

FloatArray = NDArray[np.float64]

# Okabe and Ito's palette, told apart by colour-blind eyes (Color Universal Design, 2008).
_BLUE, _GREEN, _VERMILION, _PURPLE, _ORANGE = "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00"
_INK, _GREY, _PALE = "#333333", "#999999", "#DDDDDD"
_MINUS = "\N{MINUS SIGN}"


def plot_signals(
    bars: pd.DataFrame, position: Any, *, labels: Any = None, last: int | None = 500, ax: Axes | None = None
) -> Axes:
    """Draw the close, what the position was, and where it turned.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        A bar frame of one instrument.
    position : Series or array-like of shape (n,)
        Fraction of equity decided at each bar's close; NaN is drawn as flat. The shade
        starts half a bar later, at the open that fills it, and is deeper for larger sizes.
    labels : Series, DataFrame or array-like of shape (n,) or (n, H), default=None
        Hindsight classes; `peak` and `bottom` (in any case) of the first column are marked
        with small hollow triangles, farther off.
    last : int, default=500
        How many of the newest bars are drawn. None draws all.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        The axes, with bar numbers on x (nights and weekends leave no holes) and dates on
        its ticks.

    Raises
    ------
    EnsembleKitError
        If positions or labels do not fit the bars, or the bars are a panel.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.reports.pictures import plot_signals
    >>> index = pd.date_range("2024-01-01", periods=4, freq="D")
    >>> price = pd.Series([10.0, 11, 12, 11], index=index)
    >>> bars = pd.DataFrame({"open": price, "high": price, "low": price, "close": price})
    >>> plot_signals(bars, [0, 1, 1, -0.5]).get_title(loc="left")
    'Close and position, 4 bars, 2024-01-01 to 2024-01-04'
    """
    check_bars(bars)
    if isinstance(bars.index, pd.MultiIndex):
        raise BarsError("`bars` must be of one instrument; got a panel. Draw `bars.xs(instrument, level=1)`.")
    n, first = len(bars), 0 if last is None else max(len(bars) - last, 0)
    held = np.nan_to_num(_one_a_row(position, bars.index, "position").astype(np.float64))
    close, x = bars["close"].to_numpy(np.float64), np.arange(n)
    ax = _axes(ax, (10, 4.5))
    _shade(ax, held, first)
    ax.plot(x[first:], close[first:], color=_INK, linewidth=1.0)
    before = np.sign(np.r_[0.0, held[:-1]])
    for sign, marker, color, name in ((1, "^", _GREEN, "Turns long"), (-1, "v", _VERMILION, "Turns short")):
        turns = x[(np.sign(held) == sign) & (before != sign) & (x >= first)]
        _markers(ax, turns, close[turns], -10 * sign, marker, color=color, markersize=7, label=name)
    if labels is not None:
        classes = np.char.lower(_one_a_row(labels, bars.index, "labels").astype(str))
        for sign, marker, name in ((1, "v", "Peak"), (-1, "^", "Bottom")):
            turns = x[(classes == name.lower()) & (x >= first)]
            style = {"markerfacecolor": "none", "markersize": 5, "label": f"{name} in hindsight"}
            _markers(ax, turns, close[turns], 19 * sign, marker, color=_BLUE, **style)
    ax.set_xlim(first - 0.5, n - 0.5)
    ax.margins(y=0.14)
    _date_ticks(ax, bars.index, first)
    ax.set_ylabel("Close")
    shown = bars.index[first:]
    _head(ax, f"Close and position, {len(shown):,} bars, {_span(shown)}")
    return ax


def _markers(ax: Axes, x: NDArray[np.int64], y: FloatArray, points: float, marker: str, **style: Any) -> None:
    """Set markers some points above (or below) the data, whatever the scale."""
    offset = ScaledTranslation(0, points / 72, ax.figure.dpi_scale_trans)
    ax.plot(x, y, marker, linestyle="", transform=ax.transData + offset, **style)


def _shade(ax: Axes, held: FloatArray, first: int) -> None:
    """Shade each stretch of one position from the open that filled it."""
    start = np.flatnonzero(np.diff(held[first:], prepend=np.nan)) + first
    end = np.append(start[1:], len(held))
    drawn = held[start] != 0
    start, end, size = start[drawn], end[drawn], held[start][drawn]
    depth = 0.06 + 0.24 * np.minimum(np.abs(size), 1.0)
    colors = [(_GREEN if s > 0 else _VERMILION, float(a)) for s, a in zip(size, depth, strict=True)]
    spans = list(zip((start + 0.5).tolist(), (end - start).tolist(), strict=True))
    ax.broken_barh(spans, (0, 1), transform=ax.get_xaxis_transform(), facecolors=colors, linewidth=0, zorder=0)


def plot_reliability(
    proba: Any,
    y: Any,
    *,
    classes: Sequence[Any],
    events: Sequence[Any] | None = None,
    sample_weight: Any = None,
    n_bins: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Draw how often each class came against how often it was said to.

    Parameters
    ----------
    proba : array-like of shape (n, K)
        Probabilities of one horizon, columns in the order of `classes`.
    y : array-like of shape (n,)
        What came.
    classes : sequence of length K
        The classes of the columns.
    events : sequence, default=None
        Classes to draw, one line each. None draws all but the one that came most often.
    sample_weight : array-like of shape (n,), default=None
        Row weights; rows of weight 0 are left out.
    n_bins : int, default=10
        Bins of equal weight; equal predictions stay in one bin.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        Square axes from 0 to the data's end, in percent. If most predictions are small
        beside the largest (rare events), both scales are square roots, which keep 0 and
        the diagonal. Bars are Wilson's 95 % intervals, of the effective number of rows
        ``sum(w)^2 / sum(w^2)`` where weights differ.

    Raises
    ------
    EnsembleKitError
        If shapes do not fit, or an event is no class.

    References
    ----------
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927).

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.reports.pictures import plot_reliability
    >>> p = np.linspace(0.05, 0.45, 200)
    >>> y = np.where(np.arange(200) % 4 == 0, "Peak", "Slope")
    >>> ax = plot_reliability(np.column_stack([p, 1 - p]), y, classes=["Peak", "Slope"])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['Peak: 50 of 200 rows']
    """
    p, came, weight, names = _check_reliability(proba, y, list(classes), sample_weight)
    n = len(p)
    if events is None:
        counts = [weight[came == c].sum() for c in classes]
        events = [c for k, c in enumerate(classes) if k != int(np.argmax(counts))]
    unknown = [e for e in events if e not in names]
    if unknown:
        raise EnsembleKitError(f"`events` must be among {list(classes)}; got {unknown}. Name classes of the columns.")
    ax = _axes(ax, (5.5, 5.5))
    means: list[float] = []
    ends = [0.0]
    for event, color in zip(events, _cycle(len(events)), strict=True):
        hit = came == event
        said, seen, low, high = _reliability(p[:, names.index(event)], hit, weight, n_bins)
        bars = np.maximum([seen - low, high - seen], 0.0)  # rounding may leave -1e-17
        name = f"{event}: {hit.sum():,} of {n:,} rows"
        style: dict[str, Any] = {"linewidth": 1.2, "elinewidth": 0.9, "capsize": 2, "markersize": 4, "clip_on": False}
        ax.errorbar(said, seen, yerr=bars, marker="o", color=color, label=name, **style)
        means += [*said]
        ends += [*said, *high]
    end = min(1.05 * max(ends), 1.0) or 1.0
    _square(ax, end, rare=bool(means) and float(np.median(means)) < end / 8)
    ax.plot([0, end], [0, end], color=_GREY, linewidth=1, linestyle="--", zorder=0)
    ax.set_xlabel(f"Predicted probability, bins of about {n / n_bins:,.0f} rows")
    ax.set_ylabel("Observed frequency, 95 % interval")
    ax.set_title("Reliability: observed against predicted", loc="left")
    ax.legend(loc="upper left", frameon=False)
    return ax


def _check_reliability(
    proba: Any, y: Any, classes: list[Any], sample_weight: Any
) -> tuple[FloatArray, NDArray[Any], FloatArray, list[Any]]:
    p, came = np.asarray(proba, np.float64), np.asarray(y)
    weight = np.ones(len(came)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if p.shape != (len(came), len(classes)) or weight.shape != (len(came),) or came.ndim != 1:
        raise EnsembleKitError(
            f"`proba`, `y` and `sample_weight` must have shapes (n, {len(classes)}), (n,) and (n,); got {p.shape}, "
            f"{came.shape} and {weight.shape}. Draw one horizon at a time."
        )
    if not np.isfinite(p).all():
        row = int(np.argmax(~np.isfinite(p).all(axis=1)))
        raise EnsembleKitError(f"`proba` must be finite; got {p[row]} at row {row}. Drop rows without a prediction.")
    counted = weight > 0
    return p[counted], came[counted], weight[counted], classes


def _reliability(
    p: FloatArray, hit: NDArray[np.bool_], weight: FloatArray, n_bins: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return mean prediction, frequency and its Wilson interval in bins of equal weight."""
    if not len(p):
        return (np.empty(0),) * 4
    order = np.argsort(p, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    at = np.searchsorted(share, np.arange(1, n_bins) / n_bins)
    # Values, not ranks, part the bins, so that ties stay together.
    edge = np.unique(p[order][np.minimum(at, len(p) - 1)])
    code = np.searchsorted(edge, p, side="left")
    total = np.bincount(code, weight)
    kept = total > 0
    total = total[kept]
    said = np.bincount(code, weight * p)[kept] / total
    seen = np.bincount(code, weight * hit)[kept] / total
    rows = total**2 / np.bincount(code, weight**2)[kept]
    z2 = float(ndtri(0.975)) ** 2
    middle = (seen + z2 / (2 * rows)) / (1 + z2 / rows)
    half = np.sqrt(z2 * (seen * (1 - seen) / rows + z2 / (4 * rows**2))) / (1 + z2 / rows)
    return said, seen, middle - half, middle + half


def _square(ax: Axes, end: float, *, rare: bool) -> None:
    """Give both axes the same scale from 0 to `end`."""
    for axis, limit in ((ax.xaxis, ax.set_xlim), (ax.yaxis, ax.set_ylim)):
        if rare:
            getattr(ax, f"set_{axis.axis_name}scale")("function", functions=(_root, np.square))
            ticks = [0, 0.001, *([0.005] if end < 0.05 else []), 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1]
            axis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= end]))
            axis.set_minor_locator(NullLocator())
        limit(0, end)
        axis.set_major_formatter(_percent)
    ax.set_aspect("equal", adjustable="box")


def _root(values: FloatArray) -> FloatArray:
    return np.sign(values) * np.sqrt(np.abs(values))


def plot_weights(
    weights: pd.DataFrame, temperatures: pd.DataFrame, *, axes: Sequence[Axes] | None = None
) -> tuple[Axes, Axes]:
    """Draw what each member's vote weighs, and the temperature that calibrated it.

    Parameters
    ----------
    weights : DataFrame of shape (M, H)
        Indexed by member, one column a horizon.
    temperatures : DataFrame of shape (M, H)
        The same of temperatures: above 1, the member was too sure of itself.
    axes : sequence of two Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    tuple of two Axes
        Weights as bars, and temperatures as dots on a log scale with 1 marked.

    Raises
    ------
    EnsembleKitError
        If the two frames have different members or horizons.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.reports.pictures import plot_weights
    >>> weights = pd.DataFrame({"H0": [0.7, 0.3]}, index=["lstm", "lightgbm"])
    >>> left, right = plot_weights(weights, weights + 1)
    >>> [text.get_text() for text in left.get_yticklabels()]
    ['lstm', 'lightgbm']
    """
    if not (weights.index.equals(temperatures.index) and weights.columns.equals(temperatures.columns)):
        raise EnsembleKitError(
            "`weights` and `temperatures` must have the same members and horizons; got "
            f"{list(weights.index)} x {list(weights.columns)} and "
            f"{list(temperatures.index)} x {list(temperatures.columns)}. Take both from one ensemble."
        )
    members, horizons = weights.shape
    if axes is None:
        figure = Figure(figsize=(10, 1.5 + members * max(0.15 * horizons, 0.4)), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
    left, right = axes
    height, rows = 0.8 / max(horizons, 1), np.arange(members)
    # Horizons are ordered, and so are their shades.
    shades = colormaps["viridis"](np.linspace(0.2, 0.85, horizons))
    for h, (name, color) in enumerate(zip(weights.columns, shades, strict=True)):
        y = rows + (h - (horizons - 1) / 2) * height
        left.barh(y, weights[name], height=0.9 * height, color=color, label=str(name))
        right.plot(temperatures[name], y, "o", color=color, markersize=6, label=str(name))
    if members:
        left.axvline(1 / members, color=_GREY, linewidth=1, linestyle="--", zorder=0)
    left.set_title("Weight in the vote (dashed: all equal)", loc="left")
    left.xaxis.set_major_formatter(_percent)
    _temperature_axis(right, temperatures.to_numpy(np.float64))
    for ax in (left, right):
        ax.set_yticks(rows, [str(member) for member in weights.index])
        ax.set_ylim(members - 0.5, -0.5)  # the first member on top
        ax.tick_params(axis="y", length=0)
        ax.hlines(rows[1:] - 0.5, 0, 1, transform=ax.get_yaxis_transform(), color=_PALE, linewidth=0.8, zorder=0)
        _open_frame(ax)
    if horizons > 1:
        right.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, title="Horizon")
    return left, right


def _temperature_axis(ax: Axes, temperatures: FloatArray) -> None:
    known = temperatures[np.isfinite(temperatures) & (temperatures > 0)]
    low, high = min(known.min(initial=1.0) / 1.15, 0.8), max(known.max(initial=1.0) * 1.15, 1.25)
    wide = [0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 8]
    ticks = wide if high / low > 2.5 else [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.6, 1.8, 2]
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.axvline(1, color=_GREY, linewidth=1, linestyle="--", zorder=0)
    ax.set_title("Temperature, log scale (above 1: was too sure)", loc="left")


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

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.reports.pictures import plot_equity
    >>> from ensemble_kit.sizing.backtest import backtest
    >>> index = pd.date_range("2024-01-01", periods=4, freq="D")
    >>> price = pd.Series([10.0, 10, 12, 11], index=index)
    >>> bars = pd.DataFrame({"open": price, "high": price, "low": price, "close": price})
    >>> plot_equity(backtest(bars, [1, 1, 0, 0], cost_bps=0)).get_ylabel()
    'Gain since the first bar'
    """
    ax = _axes(ax, (10, 5.5))
    equity, hold, m = result.equity.to_numpy(), result.buy_and_hold.to_numpy(), result.metrics
    x = np.arange(len(equity))
    for values, color, name, gain, sharpe in (
        (hold, _GREY, "Buy and hold", m["buy_and_hold"], m["buy_and_hold_sharpe"]),
        (equity, _BLUE, "Position", m["total_return"], m["sharpe"]),
    ):
        ratio = "" if np.isnan(sharpe) else f", Sharpe {sharpe:.2f}"
        ax.plot(x, values - 1, color=color, linewidth=1.3, label=f"{name}: {gain:+.1%}{ratio}".replace("-", _MINUS))
    ax.axhline(0, color=_GREY, linewidth=0.6, zorder=0)
    ax.set_ylabel("Gain since the first bar")
    _head(ax, f"Equity after costs, {m['trades']:,.0f} trade{'' if m['trades'] == 1 else 's'}")
    below = _below(ax)
    top = np.maximum.accumulate(hold)
    below.plot(x, hold / top - 1, color=_GREY, linewidth=1)
    below.fill_between(x, result.drawdown, 0, color=_BLUE, alpha=0.4, linewidth=0)
    below.set_ylabel("Drawdown")
    below.set_xlim(0, max(len(x) - 1, 1))
    _date_ticks(below, result.equity.index, 0)
    ax.tick_params(labelbottom=False)
    for part in (ax, below):
        part.yaxis.set_major_formatter(_percent)
        _open_frame(part)
    return ax


def save_figure(drawn: Any, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Write a picture as a PNG file.

    Parameters
    ----------
    drawn : Axes, Figure or sequence of Axes
        What was drawn; of Axes, the whole figure is written.
    path : path-like
        Where to. Its folder is made if it is not there.
    dpi : int, default=150
        Dots an inch.

    Returns
    -------
    Path
        The file.
    """
    one = np.array(drawn, dtype=object).flat[0]
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    one.figure.figure.savefig(file, format="png", dpi=dpi)  # twice: a SubFigure leads to its root
    return file


# --------------------------------------------------------------------------- shared


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the given axes, or those of a new figure that pyplot knows nothing of."""
    ax = Figure(figsize=size, layout="constrained").subplots() if ax is None else ax
    _open_frame(ax)
    return ax


def _open_frame(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def _head(ax: Axes, title: str) -> None:
    """Write the title, and under it the legend in one row, clear of the data."""
    ax.set_title(title, loc="left", pad=24)
    style: dict[str, Any] = {"frameon": False, "borderaxespad": 0.3, "handletextpad": 0.4, "columnspacing": 1.2}
    # Out of the layout: a row that is wider than small axes must not squeeze them.
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=4, **style).set_in_layout(False)


def _below(ax: Axes) -> Axes:
    """Give the lower quarter of the axes' cell to new axes that share x."""
    cell = ax.get_subplotspec()
    if cell is None:  # placed by hand: there is no cell to part
        return ax.inset_axes((0, -0.42, 1, 0.36), sharex=ax)
    parts = cell.subgridspec(2, 1, height_ratios=(3, 1), hspace=0.05)
    ax.set_subplotspec(parts[0])
    return ax.figure.add_subplot(parts[1], sharex=ax)


def _cycle(n: int) -> list[str]:
    palette = [_VERMILION, _BLUE, _GREEN, _PURPLE, _ORANGE]
    return [palette[k % len(palette)] for k in range(n)]


def _one_a_row(values: Any, index: pd.Index[Any], name: str) -> NDArray[Any]:
    """Return one value a bar, of several columns the first."""
    array = np.asarray(values)
    array = array[:, 0] if array.ndim == 2 else array
    other = isinstance(values, pd.Series | pd.DataFrame) and not values.index.equals(index)
    if other or array.shape != (len(index),):
        raise EnsembleKitError(
            f"`{name}` must have one value a bar, on the index of `bars` ({len(index)} rows); got "
            f"{'another index' if other else 'shape'} of {len(array) if other else array.shape}. Align it first."
        )
    return array


def _span(index: pd.Index[Any]) -> str:
    return f"{index[0]:%Y-%m-%d} to {index[-1]:%Y-%m-%d}" if len(index) else "none"


def _percent(value: float, _: Any = None) -> str:
    return f"{100 * value:.6g}%".replace("-", _MINUS)


def _date_ticks(ax: Axes, index: pd.Index[Any], first: int) -> None:
    """Put ticks where a year, month, day or hour begins, whichever first gives three of them."""
    times = pd.DatetimeIndex(index[first:]).tz_localize(None)
    n, most = len(times), max(int(ax.bbox.width / ax.figure.dpi / 0.85), 2)  # a label's width in inches
    at, fine, coarse = np.unique(np.linspace(0, n - 1, min(most, n)).astype(np.int64)), "%H:%M", "%d %b %Y"
    levels = (("Y", "%Y", ""), ("M", "%b", "%Y"), ("D", "%d %b", "%Y"), ("h", "%H:%M", "%d %b %Y"))
    for unit, *style in levels:
        stamp = times.to_numpy().astype(f"M8[{unit}]")
        begins = 1 + np.flatnonzero(stamp[1:] != stamp[:-1])
        if len(begins) >= 3:
            begins = begins[:: -(-len(begins) // most)]
            # A session's first hour may be short: its tick gives way to the next.
            at = begins[np.append(np.diff(begins) > n / (2 * most), True)]
            fine, coarse = style
            break
    # The second line (the day, the year) is written where it changes.
    below = times[at].strftime(coarse)
    fresh = np.append(True, below[1:] != below[:-1])
    lines = zip(times[at].strftime(fine), below, fresh, strict=False)  # `fresh` of no ticks still has one
    names = [f"{one}\n{two}".strip() if new else one for one, two, new in lines]
    shown = dict(zip((at + first).tolist(), names, strict=True))
    ax.xaxis.set_major_locator(FixedLocator(list(shown)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown.get(round(value), "")))
