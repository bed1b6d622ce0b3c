"""What the Plotly figures share: panels over one x of bar numbers whose ticks are times, and lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from ensemble_kit.reports._canvas import GREY, INK

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["add_line", "as_segments", "faint", "new_figure", "write_times"]

FloatArray = NDArray[np.float64]


def new_figure(
    title: str,
    times: pd.DatetimeIndex,
    *,
    panels: Mapping[str, tuple[float, float, str | None]],
    subtitle: str = "",
    first: int = 0,
    end: float = 0.0,
) -> Figure:
    """Return a figure of panels over one x of bar numbers, whose ticks say when that was at any zoom."""
    import plotly.graph_objects as go

    n = len(times)
    # Plotly puts ticks at round numbers: each that it may come to has an alias, of many bars every tenth, say.
    step = 10 ** max(int(np.ceil(np.log10(n / 10_000))), 0)
    rows = np.arange(-(-first // step) * step, first + n, step)
    aliases = dict(zip(map(str, rows.tolist()), write_times(times[rows - first], "<br>"), strict=True))
    aliases[str(first + n)] = " "  # where the newest belief stands there is no bar yet
    reach = [first - 0.5, first + n - 0.5 + end]
    spike = {"showspikes": True, "spikemode": "across", "spikethickness": 1, "spikecolor": GREY, "spikedash": "solid"}
    layout: dict[str, Any] = {
        "xaxis": {
            "anchor": list(panels)[-1],
            "range": reach,
            "minallowed": reach[0],
            "maxallowed": reach[1],
            "tickformat": "~f",
            "labelalias": aliases,
            "rangeslider": {"visible": False},
            "showgrid": False,
            **spike,
        },
        **{
            f"yaxis{panel[1:]}": {"domain": [low, high], "title": {"text": name}, "zeroline": False}
            for panel, (low, high, name) in panels.items()
        },
        "title": {
            "text": title,
            "subtitle": {"text": subtitle},
            "x": 0.01,
            "y": 0.97,
            "yanchor": "top",
            "font": {"size": 17},
        },
        # Below, where a phone's many lines of it cover nothing.
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.16, "yanchor": "top"},
        "template": "simple_white",
        "font": {"color": INK},
        "hovermode": "x",
        "hoverlabel": {"bgcolor": "white", "bordercolor": GREY, "font": {"color": INK}},
        "hoversubplots": "axis",
        "height": 640,
        "margin": {"l": 70, "r": 30, "t": 90, "b": 60},
    }
    return go.Figure(layout=layout)


def write_times(times: pd.DatetimeIndex, between: str = ", ") -> list[str]:
    """Write times as text; of days without their midnights."""
    daily = bool((times == times.normalize()).all())
    return times.strftime("%d %b %Y" if daily else f"%d %b %Y{between}%H:%M").tolist()


def add_line(figure: Figure, x: Any, y: Any, panel: str, *, color: str, width: float = 1.3, **style: Any) -> None:
    known: dict[str, Any] = {"mode": "lines", "hoverinfo": "skip", "line": {"color": color, "width": width}} | style
    figure.add_scatter(x=x, y=y, xaxis="x", yaxis=panel, **known)


def as_segments(x: NDArray[Any], low: Any, high: Any) -> tuple[FloatArray, FloatArray]:
    """Return vertical segments as one broken line."""
    y = np.column_stack(np.broadcast_arrays(low, high, np.nan * x))
    return np.repeat(x.astype(np.float64), 3), y.ravel()


def faint(color: str) -> str:
    red, green, blue = (round(255 * part) for part in to_rgb(color))
    return f"rgba({red},{green},{blue},0.25)"
