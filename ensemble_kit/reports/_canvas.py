"""What the pictures share: colours, frames, heads, date ticks and files; no global state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.sizing._directions import find_directions

__all__ = ["save_figure"]

FloatArray = NDArray[np.float64]


# Okabe and Ito's palette, told apart by colour-blind eyes (Color Universal Design, 2008).
BLUE, GREEN, VERMILION, PURPLE, ORANGE = "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00"
INK, GREY, PALE = "#333333", "#999999", "#DDDDDD"
MINUS = "\N{MINUS SIGN}"
_FORMATS = ("png", "pdf", "svg")


def save_figure(drawn: Any, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Write a picture as a file: PNG, or vector PDF or SVG by its ending.

    Parameters
    ----------
    drawn : Axes, Figure or sequence of Axes
        What was drawn; of Axes, the whole figure is written.
    path : path-like
        Where to, ending in .png, .pdf or .svg. Its folder is made if it is not there.
    dpi : int, default=150
        Dots an inch, of PNG.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    EnsembleKitError
        If the ending is another one.
    """
    one = np.array(drawn, dtype=object).flat[0]
    file = Path(path)
    kind = file.suffix.lower().removeprefix(".")
    if kind not in _FORMATS:
        raise EnsembleKitError(
            f"`path` must end in {', '.join(_FORMATS)}; got {file.name!r}. Name it 'chart.png', say."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    one.figure.figure.savefig(file, format=kind, dpi=dpi)  # twice: a SubFigure leads to its root
    return file


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the given axes, or those of a new figure that pyplot knows nothing of."""
    if ax is None:
        ax = Figure(figsize=size, layout="constrained").subplots()
    else:
        _make_room(ax)
    open_frame(ax)
    return ax


def _make_room(ax: Axes) -> None:
    """Give a grid without a layout the tight one: heads and date ticks need more than its gaps."""
    figure = ax.figure
    # Tight, which leaves later calls of `tight_layout` and `subplots_adjust` without a warning.
    if not isinstance(figure, Figure) or figure.get_layout_engine() is not None or figure.subfigs:
        return
    if all(one.get_subplotspec() is not None for one in figure.axes):
        figure.set_layout_engine("tight")


def open_frame(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def split_below(ax: Axes) -> Axes:
    """Give the lower quarter of the axes' cell to new axes that share x."""
    cell = ax.get_subplotspec()
    if cell is None:  # placed by hand: there is no cell to part
        return ax.inset_axes((0, -0.42, 1, 0.36), sharex=ax)
    parts = cell.subgridspec(2, 1, height_ratios=(3, 1), hspace=0.05)
    ax.set_subplotspec(parts[0])
    return ax.figure.add_subplot(parts[1], sharex=ax)


def line_colors(n: int) -> list[str]:
    """Return colours of lines that stand for no class."""
    palette = [VERMILION, BLUE, GREEN, PURPLE, ORANGE]
    return [palette[k % len(palette)] for k in range(n)]


def event_colors(events: Sequence[Any], classes: Sequence[Any]) -> list[str]:
    """Return green for the class that means a rise, vermilion for a fall, and other colours for others."""
    try:
        long, short = (classes[column] for column in find_directions(classes, None, None))
    except EnsembleKitError:  # no class has a direction
        return [(BLUE, ORANGE, PURPLE, GREY, INK)[k % 5] for k in range(len(events))]
    known, others = {long: GREEN, short: VERMILION}, cycle((BLUE, PURPLE, ORANGE))
    return [known[event] if event in known else next(others) for event in events]


def one_a_row(values: Any, index: pd.Index[Any], name: str) -> NDArray[Any]:
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


def count_bars(n: int) -> str:
    return f"{n:,} bar{'' if n == 1 else 's'}"


def span_of(index: pd.Index[Any]) -> str:
    return f"{index[0]:%Y-%m-%d} to {index[-1]:%Y-%m-%d}" if len(index) else "none"


def percent(value: float, _: Any = None) -> str:
    return f"{100 * value:.6g}%".replace("-", MINUS)


def date_ticks(ax: Axes, index: pd.Index[Any], first: int) -> None:
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
