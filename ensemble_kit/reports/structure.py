"""Candles with their market structure: breaks, order blocks, gaps and sweeps, and since when each was known."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features import ICTFeatures
from ensemble_kit.features.structure import STRUCTURE_KINDS, market_structure
from ensemble_kit.reports._candles import draw_candles
from ensemble_kit.reports._canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PURPLE,
    VERMILION,
    count_bars,
    date_ticks,
    new_axes,
    span_of,
)
from ensemble_kit.reports._texts import fit_head

__all__ = ["plot_structure"]

#: Cold colours are bullish, warm ones bearish.
_LINES = {1: GREEN, -1: VERMILION}
_FILLS = {"order_block": _LINES, "gap": {1: BLUE, -1: PURPLE}}
_NAMES = {"order_block": "Order block", "gap": "Fair value gap"}
_BREAKS = {"bos": ("BOS", 1.0), "choch": ("CHoCH", 1.8)}  # label and width
#: A line shorter than this share of its label has none: thousands of bars would be all labels.
_LEAST_SHARE = 0.3
_TIMES = ("start", "known", "end")


def plot_structure(
    bars: pd.DataFrame,
    structure: pd.DataFrame | ICTFeatures | None = None,
    *,
    last: int | None = 200,
    kinds: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw candles with their swings, breaks, order blocks, fair value gaps and sweeps.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        A bar frame of one instrument.
    structure : DataFrame or ICTFeatures, default=None
        Of `market_structure`, made of these bars; or whose parameters to make it by. None
        takes the default ones.
    last : int, default=200
        How many of the newest bars are drawn. None draws all.
    kinds : sequence of str, default=None
        Which kinds of `market_structure` to draw. None draws all but pools.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        The axes, with bar numbers on x (nights and weekends leave no holes) and dates on
        its ticks.

    Raises
    ------
    BarsError
        If the bars cannot be used, or are a panel.
    EnsembleKitError
        If the table is not one of these bars, or `last` or `kinds` are outside their domain.

    Notes
    -----
    What is bullish has cold colours, what is bearish warm ones. Order blocks and gaps are
    filled from the bar at whose close they were known to the one that ended them; before,
    where they lay already but none could know, they are an empty dashed frame. The line of a
    break goes from the broken swing to the close that broke it. A swing is a dot at its pivot,
    known at the end of its thin line. The line of a sweep is the level taken, for some bars back.
    Lines too short for their labels have none, those of a CHoCH are thicker.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.reports.structure import plot_structure
    >>> plot_structure(make_bars(500, random_state=0)).get_title(loc="left")
    'Market structure, 200 bars, 2022-01-06 to 2022-01-11'
    """
    check_bars(bars)
    if isinstance(bars.index, pd.MultiIndex):
        raise BarsError("`bars` must be of one instrument; got a panel. Draw `bars.xs(instrument, level=1)`.")
    if last is not None and (not isinstance(last, Integral) or last < 1):
        raise EnsembleKitError(f"`last` must be None or an integer of at least 1; got {last!r}. Count it in bars.")
    first = 0 if last is None else max(len(bars) - last, 0)
    found = _find(bars, structure, _check_kinds(kinds), first)
    ax = new_axes(ax, (10, 5))
    draw_candles(ax, bars, first=first)
    _draw_zones(ax, found, len(bars))
    _draw_breaks(ax, found, first, len(bars))
    _draw_swings(ax, found, len(bars) - first)
    _draw_sweeps(ax, found, bars, first)
    _draw_pools(ax, found, len(bars))
    date_ticks(ax, bars.index, first)
    ax.set_ylabel("Price")
    shown = bars.index[first:]
    _write_head(ax, f"Market structure, {count_bars(len(shown))}, {span_of(shown)}", set(found["kind"]))
    return ax


def _check_kinds(kinds: Sequence[str] | None) -> list[str]:
    if kinds is None:
        return [kind for kind in STRUCTURE_KINDS if kind != "pool"]
    unknown = [str(kind) for kind in kinds if kind not in STRUCTURE_KINDS] if not isinstance(kinds, str) else [kinds]
    if unknown:
        raise EnsembleKitError(
            f"`kinds` must be a list of {', '.join(STRUCTURE_KINDS)}; got {', '.join(unknown)}. Leave it out for all "
            "but pools."
        )
    return list(kinds)


def _find(bars: pd.DataFrame, structure: Any, kinds: list[str], first: int) -> pd.DataFrame:
    """Return what is to be seen, with bar numbers for times; the end of what stands is the number of bars."""
    if structure is None or isinstance(structure, ICTFeatures):
        structure = market_structure(bars, structure)
    columns: Any = structure.columns if isinstance(structure, pd.DataFrame) else []
    missing = [name for name in ("kind", "direction", *_TIMES, "low", "high") if name not in columns]
    if missing:
        raise EnsembleKitError(
            f"`structure` must be the frame that `market_structure` returns, or an ICTFeatures; got "
            f"{type(structure).__name__} without {', '.join(missing)}. Pass it as it is."
        )
    wanted = structure[structure["kind"].isin(kinds)]
    found = wanted.copy()
    stands = found["end"].isna()
    for name in _TIMES:
        found[name] = bars.index.get_indexer(pd.DatetimeIndex(found[name]))
    found.loc[stands, "end"] = len(bars)
    # Whatever it is, it begins at the high or the low of the bar where it lies: other bars have other prices.
    edges, ends = (table[["low", "high"]].to_numpy(np.float64) for table in (found, bars.iloc[found["start"]]))
    ours = (found[list(_TIMES)] >= 0).all(axis=1).to_numpy() & (edges[:, :, None] == ends[:, None]).any(axis=(1, 2))
    if not ours.all():
        row = wanted.iloc[int(np.argmin(ours))]
        raise EnsembleKitError(
            f"`structure` must be made of `bars`; {row['kind']} of {row['start']} is none of theirs "
            f"({int((~ours).sum())} such). Pass the very bars that it was made of, and choose with `last`."
        )
    return found[found["end"] >= first]


def _each(found: pd.DataFrame, *kinds: str) -> list[Any]:
    return list(found[found["kind"].isin(kinds)].itertuples())


def _draw_zones(ax: Axes, found: pd.DataFrame, n: int) -> None:
    for row in _each(found, *_FILLS):
        color = _FILLS[row.kind][row.direction]
        left, known, right = row.start - 0.5, row.known + 0.5, min(row.end, n - 1) + 0.5
        height = row.high - row.low
        before = Rectangle((left, row.low), known - left, height, fill=False, ec=color, lw=0.6, ls=(0, (2, 2)))
        after = Rectangle((known, row.low), right - known, height, fc=(color, 0.15), ec=(color, 0.4), lw=0.4)
        for patch, zorder in ((before, 2.5), (after, 1.0)):
            patch.set_zorder(zorder)
            ax.add_patch(patch)


def _draw_breaks(ax: Axes, found: pd.DataFrame, first: int, n: int) -> None:
    halo = [withStroke(linewidth=1.5, foreground="white")]
    room = 14 / _points(ax, n - first)  # half a label, 14 points, in bars
    for row in _each(found, *_BREAKS):
        name, width = _BREAKS[row.kind]
        ax.plot([row.start, row.known], [row.low] * 2, color=_LINES[row.direction], lw=width, zorder=3)
        if row.known - row.start < _LEAST_SHARE * 2 * room:
            continue
        up = row.direction > 0
        ax.annotate(
            name,
            (max(min((max(row.start, first) + row.known) / 2, n - room), first + room), row.low),
            xytext=(0, 2 if up else -2),
            textcoords="offset points",
            ha="center",
            va="bottom" if up else "top",
            fontsize=6.5,
            color=_LINES[row.direction],
            path_effects=halo,
            zorder=5,
            clip_on=True,
        )


def _points(ax: Axes, n: int) -> float:
    """Return how many points wide a bar is."""
    return float(ax.bbox.width / ax.figure.dpi * 72 / n)


def _draw_swings(ax: Axes, found: pd.DataFrame, n: int) -> None:
    size = min(1.0 + 1.6 * _points(ax, n), 2.6)
    swings = _each(found, "swing_high", "swing_low")
    ax.plot([row.start for row in swings], [row.low for row in swings], "o", ms=size, color=INK, zorder=4)
    until = [[(row.start, row.low), (row.known, row.low)] for row in swings]
    ax.add_collection(LineCollection(until, colors=GREY, linewidths=0.6, zorder=1.5))


def _draw_sweeps(ax: Axes, found: pd.DataFrame, bars: pd.DataFrame, first: int) -> None:
    back, size = 0.06 * (len(bars) - first), min(2.0 + 2.5 * _points(ax, len(bars) - first), 4.5)
    for direction, name, marker in ((1, "low", "^"), (-1, "high", "v")):
        sweeps = [row for row in _each(found, "sweep") if row.direction == direction]
        at = sorted({row.known for row in sweeps})
        offset = ScaledTranslation(0, -6 * direction / 72, ax.figure.dpi_scale_trans)
        wick = bars[name].to_numpy(np.float64)[at]
        ax.plot(at, wick, marker, ms=size, color=_LINES[direction], transform=ax.transData + offset, zorder=6)
        lines = [[(max(row.start, row.known - back), row.low), (row.known, row.low)] for row in sweeps]
        style: dict[str, Any] = {"colors": _LINES[direction], "linewidths": 0.9, "linestyles": ":", "zorder": 3}
        ax.add_collection(LineCollection(lines, **style))


def _draw_pools(ax: Axes, found: pd.DataFrame, n: int) -> None:
    until = [[(row.start, row.low), (min(row.end, n - 0.5), row.low)] for row in _each(found, "pool")]
    ax.add_collection(LineCollection(until, colors=GREY, linewidths=0.7, linestyles="--", zorder=1.5))


def _write_head(ax: Axes, title: str, kinds: set[str]) -> None:
    """Write the title, and a legend of pairs: the bullish colour, the bearish one."""
    entries: dict[str, Any] = {}
    for kind, name in _NAMES.items():
        if kind in kinds:
            entries[name] = tuple(Patch(fc=color, alpha=0.35, lw=0) for color in _FILLS[kind].values())
    if kinds & set(_NAMES):
        entries["not known yet"] = Patch(fill=False, ec=INK, lw=0.6, ls=(0, (2, 2)))
    if kinds & set(_BREAKS):
        entries["Break"] = tuple(Line2D([], [], color=color, lw=1.4) for color in _LINES.values())
    if "sweep" in kinds:
        entries["Sweep"] = tuple(
            Line2D([], [], color=_LINES[sign], ls="", marker=marker, ms=4.5) for sign, marker in ((1, "^"), (-1, "v"))
        )
    if kinds & {"swing_high", "swing_low"}:
        entries["Swing"] = Line2D([], [], color=GREY, lw=0.6, marker="o", ms=2.6, mfc=INK, mec=INK)
    if "pool" in kinds:
        entries["Pool"] = Line2D([], [], color=GREY, lw=0.7, ls="--")
    handlers = {tuple: HandlerTuple(ndivide=None)}
    fit_head(ax, title, handles=list(entries.values()), labels=list(entries), handler_map=handlers)
