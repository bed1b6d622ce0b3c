"""The price, what the position was, and where it turned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.reports._canvas import (
    BLUE,
    GREEN,
    INK,
    VERMILION,
    count_bars,
    date_ticks,
    new_axes,
    one_a_row,
    span_of,
)
from ensemble_kit.reports._texts import fit_head, points

__all__ = ["plot_signals"]

FloatArray = NDArray[np.float64]


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
        If positions or labels do not fit the bars, a position is infinite, or the bars are a panel.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.reports import plot_signals
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
    held = np.nan_to_num(one_a_row(position, bars.index, "position").astype(np.float64), posinf=np.inf, neginf=-np.inf)
    if np.isinf(held).any():
        row = int(np.argmax(np.isinf(held)))
        raise EnsembleKitError(
            f"`position` must be finite, or NaN where flat; got {held[row]} at row {row}. Cap it, as a sizer does."
        )
    close, x = bars["close"].to_numpy(np.float64), np.arange(n)
    ax = new_axes(ax, (10, 4.5))
    _shade(ax, held, first)
    ax.plot(x[first:], close[first:], color=INK, linewidth=1.0)
    before = np.sign(np.r_[0.0, held[:-1]])
    for sign, marker, color, name in ((1, "^", GREEN, "Turns long"), (-1, "v", VERMILION, "Turns short")):
        turns = x[(np.sign(held) == sign) & (before != sign) & (x >= first)]
        # Of many turns, smaller and fainter: their number is to be seen, not a wall.
        room = min(points(ax)[0] / (7 * max(len(turns), 1)), 1.0)
        style: dict[str, Any] = {"color": color, "markersize": 3 + 4 * room, "alpha": 0.4 + 0.6 * room}
        if room < 1:
            style["markeredgewidth"] = 0
        _markers(ax, turns, close[turns], -10 * sign, marker, label=name, **style)
    if labels is not None:
        classes = np.char.lower(one_a_row(labels, bars.index, "labels").astype(str))
        for sign, marker, name in ((1, "v", "Peak"), (-1, "^", "Bottom")):
            turns = x[(classes == name.lower()) & (x >= first)]
            room = min(points(ax)[0] / (7 * max(len(turns), 1)), 1.0)
            style = {"markerfacecolor": "none", "markersize": 2.5 + 2.5 * room, "label": f"{name} in hindsight"}
            style["markeredgewidth"] = 0.4 + 0.6 * room
            _markers(ax, turns, close[turns], 19 * sign, marker, color=BLUE, **style)
    ax.set_xlim(first - 0.5, n - 0.5)
    part = min(24 / (points(ax)[1] - 45), 0.3)  # of the height, for the markers' offset in points
    ax.margins(y=max(0.14, part / (1 - 2 * part)))
    date_ticks(ax, bars.index, first)
    ax.set_ylabel("Close")
    shown = bars.index[first:]
    fit_head(ax, f"Close and position, {count_bars(len(shown))}, {span_of(shown)}")
    return ax


def _markers(ax: Axes, x: NDArray[np.int64], y: FloatArray, above: float, marker: str, **style: Any) -> None:
    """Set markers some points above (or below) the data, whatever the scale."""
    offset = ScaledTranslation(0, above / 72, ax.figure.dpi_scale_trans)
    ax.plot(x, y, marker, linestyle="", transform=ax.transData + offset, **style)


def _shade(ax: Axes, held: FloatArray, first: int) -> None:
    """Shade each stretch of one position from the open that filled it."""
    start = np.flatnonzero(np.diff(held[first:], prepend=np.nan)) + first
    end = np.append(start[1:], len(held))
    drawn = held[start] != 0
    start, end, size = start[drawn], end[drawn], held[start][drawn]
    depth = 0.06 + 0.24 * np.minimum(np.abs(size), 1.0)
    colors = [(GREEN if s > 0 else VERMILION, float(a)) for s, a in zip(size, depth, strict=True)]
    spans = list(zip((start + 0.5).tolist(), (end - start).tolist(), strict=True))
    ax.broken_barh(spans, (0, 1), transform=ax.get_xaxis_transform(), facecolors=colors, linewidth=0, zorder=0)
