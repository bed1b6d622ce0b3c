"""Pictures to zoom into, with numbers under the pointer: the belief chart and the equity, as Plotly figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import PRICES
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports._canvas import BLUE, GREEN, GREY, INK, MINUS, PURPLE, VERMILION
from ensemble_kit.reports._plotly import add_line, as_segments, faint, new_figure, write_times
from ensemble_kit.reports._ranges import Beliefs, mix_shades, read_beliefs
from ensemble_kit.sizing.backtest import BacktestResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["interactive_beliefs", "interactive_equity"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: More bars than this are drawn as ranges and a line of closes: a browser moves thousands of candles slowly.
_CANDLES = 2000
#: Equity is thinned to at most this many stretches, each with its extremes: more than a screen has columns.
_STRETCHES = 700
#: Shades are told apart to this part of a belief, so that few colours are written.
_STEPS = 50


def interactive_beliefs(
    bars: pd.DataFrame,
    proba: Any,
    *,
    classes: Sequence[Any],
    threshold: float | Mapping[Any, float] | None = None,
    labels: Any = None,
    last: int | None = 2000,
    long: Any = None,
    short: Any = None,
) -> Figure:
    """Draw the belief chart as a Plotly figure: `plot_beliefs`, to zoom into and to point at.

    Shades, belief lines and crossings start at the close that they are known at, half a bar
    right of the candle's middle. Pointing at a bar shows its time, prices and beliefs.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        A bar frame of one instrument. Bars without prices leave holes.
    proba : DataFrame or ndarray (n, K), list of H ndarrays (n, K), or ndarray (n, H, K)
        Probabilities at each bar's close; the first of several horizons is drawn. Rows with
        NaN (warm-up) are left blank. A frame must be on the bars' index.
    classes : sequence of shape (K,)
        The labels of the columns.
    threshold : float or mapping of label to float, default=None
        In (0, 1], drawn dashed; a mapping gives each class its own, or none. Each bar where the
        long or the short belief reaches its threshold, having been below on the bar before, has
        a line; none is left out.
    labels : Labels, Series, DataFrame or array-like of shape (n,) or (n, H), default=None
        Hindsight classes of the same bars, marked as in `plot_beliefs`.
    last : int, default=2000
        How many of the newest bars are drawn, at least 1. None draws all. More than 2,000 are
        drawn as ranges and closes instead of candles.
    long, short : label, default=None
        The classes that mean a rise and a fall. None for bottom/peak, buy/sell, up/down, or,
        of numbers, the largest and the smallest.

    Returns
    -------
    plotly.graph_objects.Figure
        With bar numbers on x (nights and weekends leave no holes) and their times on its
        ticks. ``write_html(path, include_plotlyjs=True)`` makes a file that needs nothing else.

    Raises
    ------
    EnsembleKitError
        As `plot_beliefs` does.

    See Also
    --------
    ensemble_kit.reports.beliefs.plot_beliefs : The same on paper.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.reports.interactive import interactive_beliefs
    >>> bars = make_bars(200, random_state=0)
    >>> up = 0.5 + 0.4 * np.sin(np.arange(200) / 15)
    >>> figure = interactive_beliefs(bars, np.column_stack([1 - up, up]), classes=["down", "up"])
    >>> figure.layout.title.text
    'Beliefs at the close, 200 bars'
    """
    shown = read_beliefs(
        bars, proba, classes=classes, threshold=threshold, labels=labels, last=last, long=long, short=short
    )
    panels = {"y": (0.3, 1.0, None), "y2": (0.0, 0.26, "Belief")}
    title, _, span = shown.title.rpartition(", ")  # on two lines, for phones
    figure = new_figure(title, shown.times, subtitle=span, first=shown.first, end=1.0, panels=panels)
    # The shade has an axis of its own under that of the prices, so that it fills the panel at any zoom.
    figure.update_layout(
        yaxis={"range": [0, 1], "fixedrange": True, "visible": False},
        yaxis2={"range": [-0.03, 1.03], "fixedrange": True, "tickvals": [0, 0.5, 1]},
        yaxis3={"overlaying": "y", "tickmode": "auto", "title": "Price", "tickformat": ",.7~g"},
    )
    _add_shade(figure, shown)
    _add_beliefs(figure, shown)
    _add_bars(figure, shown)
    _add_turns(figure, shown)
    return figure


def interactive_equity(result: BacktestResult) -> Figure:
    """Draw equity against buy and hold, drawdown and exposure below, as a Plotly figure.

    Parameters
    ----------
    result : BacktestResult
        What `ensemble_kit.sizing.backtest` returned.

    Returns
    -------
    plotly.graph_objects.Figure
        Three panels that share x, bar numbers with their times on the ticks.

    Raises
    ------
    EnsembleKitError
        If `result` is something else.

    Notes
    -----
    Of a long backtest a few thousand bars are drawn: time is parted into 700 equal stretches, and
    of each the first and the last bar are kept and those where equity, buy and hold, a drawdown
    or an exposure is lowest or highest. Every extreme is thus drawn as it was, at its own bar,
    and drawdowns are those of all the bars.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.reports.interactive import interactive_equity
    >>> from ensemble_kit.sizing import backtest
    >>> result = backtest(make_bars(300, random_state=0), np.ones(300))
    >>> interactive_equity(result).layout.title.text
    'Equity after costs, 1 trade'
    """
    if not isinstance(result, BacktestResult):
        raise EnsembleKitError(
            f"`result` must be a BacktestResult; got {type(result).__name__}. Pass what `backtest` returned."
        )
    equity, hold, gross, net = (
        values.to_numpy(np.float64)
        for values in (result.equity, result.buy_and_hold, result.exposure["gross"], result.exposure["net"])
    )
    # What is 0 from the first time on has fallen by nothing.
    top = np.maximum.accumulate(hold)
    fall = np.divide(hold, top, out=np.ones_like(hold), where=top > 0) - 1.0
    series = np.column_stack([hold, equity, fall, result.drawdown.to_numpy(np.float64), gross, net])
    kept = _keep_extremes(series)
    times, m = pd.DatetimeIndex(result.equity.index), result.metrics
    panels = {"y": (0.46, 1.0, "Equity"), "y2": (0.23, 0.42, "Drawdown"), "y3": (0.0, 0.19, "Exposure")}
    title = f"Equity after costs, {m['trades']:,.0f} trade{'' if m['trades'] == 1 else 's'}"
    figure = new_figure(title, times, panels=panels)
    figure.update_layout(yaxis={"tickformat": ",.7~g"}, yaxis2_tickformat=".4~%", yaxis3_tickformat=".4~%")
    numbers = zip(write_times(times[kept]), *series[kept].T.tolist(), strict=True)
    texts = [
        f"{time}<br>Position {own:,.2f}, drawdown {own_fall:.2%}<br>Buy and hold {other:,.2f}, drawdown "
        f"{other_fall:.2%}<br>Exposure {net:.1%} net, {gross:.1%} gross".replace("-", MINUS)
        for time, other, own, other_fall, own_fall, gross, net in numbers
    ]
    lines = [
        (_name("Buy and hold", m["buy_and_hold"], m["buy_and_hold_sharpe"]), GREY, "y"),
        (_name("Position", m["total_return"], m["sharpe"]), BLUE, "y"),
        ("Drawdown of buy and hold", GREY, "y2"),
        ("Drawdown", BLUE, "y2"),
        ("Gross exposure", GREY, "y3"),
        ("Net exposure", PURPLE, "y3"),
    ]
    for values, (name, color, panel) in zip(series[kept].T, lines, strict=True):
        fill = {"fill": "tozeroy", "fillcolor": faint(color)} if name in {"Drawdown", "Gross exposure"} else {}
        add_line(
            figure,
            kept,
            values,
            panel,
            name=name,
            color=color,
            showlegend=panel != "y2",
            width=0.8 if panel == "y3" else 1.3,
            **fill,
        )
    figure.data[1].update(hoverinfo="text", text=texts)
    return figure


def _name(name: str, gain: float, sharpe: float) -> str:
    return f"{name}: {gain:+.1%}{'' if np.isnan(sharpe) else f', Sharpe {sharpe:.2f}'}".replace("-", MINUS)


def _keep_extremes(series: FloatArray) -> IntArray:
    """Return the rows to draw: of each stretch its ends and where a column is lowest or highest."""
    n = len(series)
    size = -(-n // _STRETCHES)
    if size <= series.shape[1]:  # nothing to gain
        return np.arange(n)
    start = np.arange(0, n, size)
    end = np.minimum(start + size, n)
    padded = np.vstack([series, np.repeat(series[-1:], len(start) * size - n, axis=0)])
    blocks = np.nan_to_num(padded).reshape(len(start), size, -1)  # (stretches, size, columns)
    found = [start[:, None] + blocks.argmin(axis=1), start[:, None] + blocks.argmax(axis=1)]
    rows = np.concatenate([start, end - 1, *(at.ravel() for at in found)])
    return np.unique(np.minimum(rows, n - 1))


def _add_shade(figure: Figure, shown: Beliefs) -> None:
    """Lay one row of columns under the bars, each from one close to the next."""
    known = ~np.isnan(shown.belief[:, 0])
    coarse = np.rint(shown.belief[known] * _STEPS) / _STEPS
    # Of rounded beliefs there are few, and each has a stop of its own on the colour scale.
    beliefs, code = np.unique(coarse[:, :2], axis=0, return_inverse=True)
    z = np.full(len(known), np.nan)
    z[known] = code.ravel()
    rgb = np.rint(255 * mix_shades(np.column_stack([beliefs, 1.0 - beliefs.sum(axis=1)]))).astype(int)
    colors = [f"rgb({r},{g},{b})" for r, g, b in rgb.clip(0, 255).tolist()] or ["white"]
    colors = colors * 2 if len(colors) == 1 else colors
    stops = np.linspace(0, 1, len(colors)).tolist()
    figure.add_heatmap(
        z=z[None],
        x0=shown.first + 1,  # the middle between the first close and the next
        dx=1,
        y0=0.5,
        dy=1,
        zmin=0,
        zmax=len(colors) - 1,
        colorscale=list(zip(stops, colors, strict=True)),
        showscale=False,
        hoverinfo="skip",
        name="Belief",
    )


def _add_beliefs(figure: Figure, shown: Beliefs) -> None:
    """Draw each belief as steps from its close to the next, thresholds, and where they are reached."""
    x = shown.first + 0.5 + np.arange(len(shown.belief) + 1)
    for side, color in ((2, GREY), (1, VERMILION), (0, GREEN))[not shown.other :]:
        name = "Neither" if side == 2 else shown.legend_of(side)
        y = np.append(shown.belief[:, side], shown.belief[-1, side])
        steps: dict[str, Any] = {"line": {"color": color, "width": 1.3, "shape": "hv"}, "legendrank": 900 + side}
        add_line(figure, x, y, "y2", color=color, name=name, legendgroup=name, **steps)
        if side == 2 or np.isnan(shown.thresholds[side]):
            continue
        for panel in ("y", "y2"):
            at = as_segments(shown.crossings[side] + 0.5, 0.0, 1.0)
            add_line(figure, *at, panel, color=color, width=0.8, legendgroup=name, showlegend=False, opacity=0.6)
        level = shown.thresholds[side]
        dash = {"color": INK if shown.thresholds[0] == shown.thresholds[1] else color, "width": 1, "dash": "dash"}
        figure.add_shape(type="line", xref="paper", yref="y2", x0=0, x1=1, y0=level, y1=level, line=dash, opacity=1)


def _add_bars(figure: Figure, shown: Beliefs) -> None:
    """Draw candles, or of many bars their ranges and closes; the closes say what the pointer points at."""
    x = np.arange(shown.first, len(shown.bars))
    o, h, l, c = (shown.bars[name].to_numpy(np.float64)[shown.first :] for name in PRICES)
    candles = len(x) <= _CANDLES
    if candles:
        ink = {"color": INK, "width": 1}
        body = {"increasing": {"line": ink, "fillcolor": "white"}, "decreasing": {"line": ink, "fillcolor": INK}}
        style: dict[str, Any] = {"name": "Bars", "showlegend": False, "hoverinfo": "skip"}
        figure.add_candlestick(x=x, open=o, high=h, low=l, close=c, yaxis="y3", **body, **style)
    else:
        add_line(figure, *as_segments(x, l, h), "y3", color=GREY, width=0.7, name="Range", showlegend=False)
    names = [*shown.names, "neither"][: 2 + shown.other]
    rows = zip(
        write_times(shown.times), o.tolist(), h.tolist(), l.tolist(), c.tolist(), shown.belief.tolist(), strict=True
    )
    texts = [
        f"{time}<br>O {a:.7g} H {b:.7g} L {d:.7g} C {e:.7g}<br>"
        + ("belief not known" if np.isnan(belief[0]) else "<br>".join(map("{}: {:.3f}".format, names, belief)))
        for time, a, b, d, e, belief in rows
    ]
    line = {"name": "Close", "showlegend": False, "opacity": 0.0 if candles else 1.0}
    add_line(figure, x, c, "y3", color=INK, width=1, **line, hoverinfo="text", text=texts)


def _add_turns(figure: Figure, shown: Beliefs) -> None:
    for side, edge, angle in ((0, "low", 0), (1, "high", 180)):
        if shown.marks[side]:
            at, name = shown.turns[side], shown.marks[side]
            y = shown.bars[edge].to_numpy(np.float64)[at]
            marker: dict[str, Any] = {"symbol": "triangle-up", "angle": angle, "size": 9, "color": "white"}
            marker["line"] = {"color": BLUE, "width": 1.3}
            style: dict[str, Any] = {"mode": "markers", "name": name, "legendgroup": name, "hoverinfo": "skip"}
            # They stand off against the way they point: below lows, above highs, at any scale; not in the legend.
            off = marker | {"standoff": 10}
            figure.add_scatter(x=at, y=y, yaxis="y3", marker=off, showlegend=False, **style)
            figure.add_scatter(x=[None], y=[None], yaxis="y3", marker=marker, **style)
