"""The belief chart: bars on what the model believed of them, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from ensemble_kit.reports._candles import draw_candles
from ensemble_kit.reports._canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALE,
    VERMILION,
    date_ticks,
    new_axes,
    open_frame,
    split_below,
)
from ensemble_kit.reports._ranges import Beliefs, mix_shades, read_beliefs
from ensemble_kit.reports._texts import fit_head, points

__all__ = ["plot_beliefs"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Crossings of one class that lie closer than this are drawn as one line.
_APART = 8.0  # points
#: Room for triangles above and below the candles.
_ROOM = 11.0  # points


def plot_beliefs(
    bars: pd.DataFrame,
    proba: Any,
    *,
    classes: Sequence[Any],
    threshold: float | Mapping[Any, float] | None = None,
    labels: Any = None,
    last: int | None = 500,
    long: Any = None,
    short: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw candles on the mix of what was believed, the beliefs below, and hindsight's turns.

    A bar's belief is known at its close, so its shade, its step of the belief lines and its
    crossing start there, half a bar right of the candle's middle, and last until the next close.

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
        In (0, 1], drawn dashed; a mapping gives each class its own, or none. Where the long or
        the short belief reaches its threshold, having been below on the bar before, a line
        crosses both panels. Lines of one class less than 8 points apart are drawn as the first
        of them; the legend counts them all.
    labels : Labels, Series, DataFrame or array-like of shape (n,) or (n, H), default=None
        Hindsight classes of the same bars, of the first horizon: hollow triangles mark each
        `peak` and `bottom`, or where stretches of any other long and short class begin.
    last : int, default=500
        How many of the newest bars are drawn, at least 1. None draws all.
    long, short : label, default=None
        The classes that mean a rise and a fall. None for bottom/peak, buy/sell, up/down, or,
        of numbers, the largest and the smallest.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        The axes of the candles, with bar numbers on x (nights and weekends leave no holes);
        those of the belief lines are the figure's newest, ``ax.figure.axes[-1]``.

    Raises
    ------
    EnsembleKitError
        If the bars are a panel, probabilities or labels do not fit them or are none, the
        directions are not clear from the classes, or a number is out of its range.

    See Also
    --------
    ensemble_kit.reports.interactive.interactive_beliefs : The same to zoom into.
    ensemble_kit.reports.plot_signals : What the position made of beliefs was.

    Notes
    -----
    A shade is ``p_long GREEN + p_short VERMILION + p_other PALE``, the two colours taken half
    way to white. White is where no belief is known. Where bars lie closer than pixels, shades
    are averaged over them.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.reports.beliefs import plot_beliefs
    >>> bars = make_bars(200, random_state=0)
    >>> up = 0.5 + 0.4 * np.sin(np.arange(200) / 15)
    >>> proba = np.column_stack([1 - up, up])
    >>> plot_beliefs(bars, proba, classes=["down", "up"], threshold=0.8, last=100).get_title(loc="left")
    'Beliefs at the close, 100 bars, 2022-01-04 to 2022-01-05'
    """
    shown = read_beliefs(
        bars, proba, classes=classes, threshold=threshold, labels=labels, last=last, long=long, short=short
    )
    ax = new_axes(ax, (10, 6))
    draw_candles(ax, bars, first=shown.first)
    low, high = ax.get_ylim()
    # Of small axes the candles' own room is too little. Head and belief lines will take a good part of the height.
    room = (high - low) * _ROOM / max(0.7 * points(ax)[1] - 45, 3 * _ROOM)
    ax.set_ylim(low - room, high + room)
    _shade(ax, shown)
    below = split_below(ax)
    for side, color in ((0, GREEN), (1, VERMILION)):
        ax.plot([], [], "s", color=color, markersize=8, label=shown.legend_of(side))
        _draw_crossings((ax, below), shown.crossings[side], color, len(shown.belief))
        _mark_turns(ax, shown, side)
    if shown.other:
        ax.plot([], [], "s", color=PALE, markersize=8, label="Neither")
    _draw_beliefs(below, shown)
    ax.set_xlim(shown.first - 0.5, len(bars) + 0.5)  # the newest belief stands behind the newest bar
    date_ticks(below, bars.index, shown.first)
    ax.tick_params(labelbottom=False)
    ax.set_ylabel("Price")
    fit_head(ax, shown.title)
    return ax


def _shade(ax: Axes, shown: Beliefs) -> None:
    """Lay a picture of one row behind the candles, each column from one close to the next."""
    known = ~np.isnan(shown.belief[:, 0])
    rgba = np.column_stack([np.where(known[:, None], mix_shades(shown.belief), 1.0), known])[None]  # (1, n_shown, 4)
    reach = (shown.first + 0.5, len(shown.bars) + 0.5, 0, 1)
    limits = ax.get_xlim(), ax.get_ylim()
    ax.imshow(rgba, extent=reach, transform=ax.get_xaxis_transform(), aspect="auto", zorder=0)
    ax.set(xlim=limits[0], ylim=limits[1])


def _draw_crossings(parts: Sequence[Axes], rows: IntArray, color: str, n_shown: int) -> None:
    width = points(parts[0])[0]
    rows = _thin_out(rows, _APART * n_shown / width)
    # Ten points of room a line or more: thin. Less: thinner and fainter, or they hide what they point at.
    room = min(width / (10 * max(len(rows), 1)), 1.0)
    style: dict[str, Any] = {"colors": color, "linewidths": 0.4 + 0.4 * room, "alpha": 0.35 + 0.35 * room}
    x = np.repeat(rows + 0.5, 2).reshape(-1, 2, 1)
    segments = np.concatenate([x, np.broadcast_to([[0.0], [1.0]], x.shape)], axis=2)  # (n, 2, 2)
    for ax in parts:
        lines = LineCollection(list(segments), transform=ax.get_xaxis_transform(), zorder=1, **style)
        ax.add_collection(lines, autolim=False)


def _thin_out(rows: IntArray, apart: float) -> IntArray:
    """Leave out rows that lie closer than `apart` behind one that is kept."""
    kept: list[int] = []
    for row in rows.tolist():
        if not kept or row - kept[-1] >= apart:
            kept.append(row)
    return np.array(kept, dtype=np.int64)


def _draw_beliefs(ax: Axes, shown: Beliefs) -> None:
    """Draw each belief as steps from its close to the next."""
    open_frame(ax)
    n = len(shown.belief)
    x = shown.first + 0.5 + np.arange(n + 1)
    width = min(max(1.5 * points(ax)[0] / n, 0.6), 1.4)
    for side, color, order in ((2, GREY, 2.0), (1, VERMILION, 2.1), (0, GREEN, 2.2))[not shown.other :]:
        y = np.append(shown.belief[:, side], shown.belief[-1, side])
        ax.step(x, y, where="post", color=color, linewidth=width, zorder=order)
    same = shown.thresholds[0] == shown.thresholds[1]
    for level, color in zip(shown.thresholds[same:], (INK,) if same else (GREEN, VERMILION), strict=True):
        if not np.isnan(level):
            ax.axhline(level, color=color, linewidth=0.8, linestyle="--", zorder=3)
            style: dict[str, Any] = {"xytext": (3, 0), "textcoords": "offset points", "va": "center", "color": color}
            ax.annotate(f"{level:.3g}", (1, level), xycoords=ax.get_yaxis_transform(), fontsize="small", **style)
    ax.set_ylim(-0.03, 1.03)
    ax.set_yticks([0, 0.5, 1] if points(ax)[1] > 40 else [0, 1])
    ax.set_ylabel("Belief")


def _mark_turns(ax: Axes, shown: Beliefs, side: int) -> None:
    """Set triangles some points off the bars' ranges, whatever the scale."""
    if not shown.marks[side]:
        return
    size = min(max(0.5 * points(ax)[0] / max(sum(map(len, shown.turns)), 1), 3.0), 6.0)
    edge, marker, sign = (("low", "^", -1), ("high", "v", 1))[side]
    at = shown.turns[side]
    y = shown.bars[edge].to_numpy(np.float64)[at]
    offset = ScaledTranslation(0, sign * (4 + size / 2) / 72, ax.figure.dpi_scale_trans)
    style: dict[str, Any] = {"markersize": size, "markeredgecolor": BLUE, "markerfacecolor": "white", "zorder": 4}
    ax.plot(at, y, marker, transform=ax.transData + offset, label=shown.marks[side], **style)
