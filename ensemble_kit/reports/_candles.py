"""Candles on bar numbers: two collections, whatever the number of bars."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from numpy.typing import NDArray

from ensemble_kit.reports._canvas import GREY, INK

__all__ = ["draw_candles"]

FloatArray = NDArray[np.float64]

#: Of a candle's place on x, how much its body takes.
_BODY = 0.7
#: Below so many points a bar, bodies are thinner than lines and only ranges are drawn.
_LEAST_POINTS = 1.5


def draw_candles(ax: Axes, bars: pd.DataFrame, *, first: int = 0, zorder: float = 2.0) -> None:
    """Draw bars as candles at x = 0, 1, ...: hollow where they rose, filled where they fell.

    Bars without prices leave a hole. Where bars lie too close for bodies, their ranges alone
    are drawn, so that thousands stay readable.
    """
    o, h, l, c = (bars[name].to_numpy(np.float64)[first:] for name in ("open", "high", "low", "close"))
    x = np.arange(first, len(bars), dtype=np.float64)
    known = ~np.isnan(o + h + l + c)
    o, h, l, c, x = (values[known] for values in (o, h, l, c, x))
    points = ax.bbox.width / ax.figure.dpi * 72 / max(len(bars) - first, 1)
    width = min(max(0.15 * points, 0.25), 0.9)
    if points < _LEAST_POINTS:
        ax.add_collection(
            LineCollection(list(_lines(x, l, h)), colors=GREY, linewidths=max(0.7 * points, 0.25), zorder=zorder)
        )
        ax.plot(x, c, color=INK, linewidth=0.7, zorder=zorder)
    else:
        low, high = np.minimum(o, c), np.maximum(o, c)
        wicks = np.concatenate([_lines(x, l, low), _lines(x, high, h)])
        ax.add_collection(LineCollection(list(wicks), colors=INK, linewidths=width, zorder=zorder))
        left, right = x - _BODY / 2, x + _BODY / 2
        corners = np.stack(
            [
                np.column_stack([side, level])
                for side, level in ((left, low), (left, high), (right, high), (right, low))
            ],
            axis=1,
        )  # (n, 4, 2)
        filled = np.where(c < o, INK, "white")
        ax.add_collection(
            PolyCollection(list(corners), facecolors=filled, edgecolors=INK, linewidths=width, zorder=zorder + 0.1)
        )
    ax.set_xlim(first - 0.5, len(bars) - 0.5)
    if len(x):
        pad = 0.06 * (h.max() - l.min()) or 0.01 * abs(h.max()) or 1.0
        ax.set_ylim(l.min() - pad, h.max() + pad)


def _lines(x: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Return vertical segments, shape (n, 2, 2)."""
    return np.stack([np.column_stack([x, low]), np.column_stack([x, high])], axis=1)
