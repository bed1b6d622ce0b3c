"""Titles, legends and row names that fit the axes they stand on, however small these are."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

__all__: list[str] = []

#: A letter's mean width, in parts of the font size (DejaVu Sans): of long names, which need no measuring.
_LETTER = 0.51
#: What handle, gaps and column space of a legend's entry take, in font sizes.
_HANDLE = 3.6
_PROP = FontProperties()
_TEXT, _SMALLEST = 10.0, 5.5  # points
#: Axes narrower than this get smaller titles and legends.
_NARROW = 260.0
#: Of the left margin that axes have before the layout, what row names find.
_MARGIN = 18.0
#: How much wider a layout makes axes, at least.
_GROWN = 1.08
#: Of the height that axes have before the layout, what stays beside heads and ticks.
_STAYS = 0.75
#: A legend takes this share of the height, if letters that can be read allow.
_LEGEND = 0.3
#: What a head takes off the height that axes have before the layout.
_HEAD = 45.0


def points(ax: Axes) -> tuple[float, float]:
    """Return width and height of the axes in points, as far as they are known before the layout."""
    inches = 72 / ax.figure.dpi
    return ax.bbox.width * inches, ax.bbox.height * inches


def is_narrow(ax: Axes) -> bool:
    return points(ax)[0] < _NARROW


def title_size(ax: Axes) -> float:
    width = points(ax)[0]
    return 12.0 if width >= _NARROW else _TEXT if width >= _NARROW / 2 else 8.5


def _room(ax: Axes) -> float:
    """Return the width in points that axes will have beside their row names."""
    names = [len(tick.get_text()) * float(tick.get_fontsize()) for tick in ax.get_yticklabels()]
    grown = 1.0 if is_narrow(ax) or ax.figure.figure.get_layout_engine() is None else _GROWN
    return grown * points(ax)[0] - max(_LETTER * max(names, default=0) - _MARGIN, 0)


def wrap(ax: Axes, text: str, *, size: float = _TEXT) -> str:
    """Break a text into lines as wide as the axes will be."""
    room = _room(ax)
    letters = next((n for n in range(len(text), 12, -1) if _widest(textwrap.wrap(text, n), size) <= room), 12)
    return textwrap.fill(text, letters)


def label_y(ax: Axes, text: str) -> None:
    """Name y, smaller, or by the first word alone, where the axes are too low for all of it."""
    height = _STAYS * points(ax)[1]
    size = next((size for size in (_TEXT, 8.0) if _width(text, size) <= height), 8.0)
    ax.set_ylabel(text if _width(text, size) <= height else text.split(maxsplit=1)[0].rstrip(",:"), fontsize=size)


def _widest(lines: Sequence[str], size: float) -> float:
    return max((_width(line, size) for line in lines), default=0.0)


@lru_cache(maxsize=4096)
def _width(text: str, size: float) -> float:
    """Return the width of a line in points."""
    return (
        float(TextPath((0, 0), text, size=size, prop=_PROP, usetex=False).get_extents().width) if text.strip() else 0.0
    )


def fit_title(ax: Axes, title: str, **style: Any) -> None:
    """Write the title on as many lines as it needs, smaller on narrow axes."""
    size = title_size(ax)
    ax.set_title(wrap(ax, title, size=size), loc="left", fontsize=size, **style)


def fit_head(ax: Axes, title: str, *, handles: Sequence[Any] | None = None, **legend: Any) -> None:
    """Write the title, and under it the legend in as few rows as fit, clear of the data.

    `legend` goes to the legend as it is: `labels` where handles have none, or a map of handlers.
    """
    if handles is None:
        handles, labels = ax.get_legend_handles_labels()
    else:
        labels = legend.pop("labels", None) or [str(handle.get_label()) for handle in handles]
    if not labels:
        fit_title(ax, title)
        return
    room, height = _room(ax), points(ax)[1]
    for size in (8.0, 7.0, 6.0, _SMALLEST) if is_narrow(ax) else (_TEXT, 9.0, 8.0, 7.0):
        entries = [_width(label, size) + _HANDLE * size for label in labels]
        columns = next((n for n in range(min(len(labels), 6), 1, -1) if _row_width(entries, n) <= room), 1)
        rows = -(-len(labels) // columns)
        if 1.5 * rows * size <= _LEGEND * height and (columns > 1 or max(entries) <= room):
            break
    fit_title(ax, title, pad=6 + (1.75 + 1.5 * (rows - 1)) * size)
    style: dict[str, Any] = {"frameon": False, "borderaxespad": 0.3, "handletextpad": 0.4, "columnspacing": 1.2}
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1), "ncols": columns}
    # Out of the layout: the title's pad keeps its place, and a wide row must not squeeze the axes.
    ax.legend(handles, labels, fontsize=size, **where, **style, **legend).set_in_layout(False)


def _row_width(entries: Sequence[float], columns: int) -> float:
    return float(sum(part.max() for part in np.array_split(np.asarray(entries), columns)))


def fit_rows(ax: Axes, names: Sequence[Any]) -> None:
    """Name the rows 0, 1, ... of y: smaller where they are many, every k-th where they are too many."""
    width, height = points(ax)
    height = max(height - _HEAD, 0.5 * height)
    step = max(int(np.ceil(len(names) * 1.05 * _SMALLEST / height)), 1)
    size = float(np.clip(0.75 * height * step / max(len(names), 1), _SMALLEST, 8.0 if is_narrow(ax) else _TEXT))
    shown = _shorten([str(name) for name in names], most=max(int(0.35 * width / (_LETTER * size)), 12))
    ax.set_yticks(range(0, len(names), step), shown[::step], fontsize=size)
    ax.tick_params(axis="y", length=0)


def _shorten(names: list[str], most: int) -> list[str]:
    """Leave out the middle of long names; of names that this makes alike, what all begin with."""
    tail, dots = (most - 1) // 2, "\N{HORIZONTAL ELLIPSIS}"
    short = [
        name if len(name) <= most else f"{name[: most - 1 - tail]}{dots}{name[len(name) - tail :]}" for name in names
    ]
    if len(set(short)) == len(set(names)):
        return short
    alike = next((at for at, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1), 0)
    ends = [f"{dots}{name[alike:]}" for name in names]
    return [name if len(name) <= most else f"{name[: most - 1]}{dots}" for name in ends]
