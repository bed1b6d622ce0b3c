"""Bars with what became of them: turns marked, buy and sell stretches shaded."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels import Labels
from ensemble_kit.reports._canvas import GREEN, GREY, INK, VERMILION, count_bars, date_ticks, new_axes, span_of
from ensemble_kit.reports._texts import fit_head, label_y

__all__ = ["plot_labels"]

_TURNS = {"peak": 1.0, "slope": 0.0, "bottom": -1.0}
_TRENDS = {"buy": 1.0, "hold": 0.0, "sell": -1.0}


def plot_labels(bars: pd.DataFrame, labels: Labels, *, last: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw bars, mark their turns with triangles, and shade where to buy and where to sell.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        The bars labelled, or some of them: a week, or one instrument of a panel.
    labels : Labels
        Of `peak_slope_bottom`, whose first horizon is drawn, or `buy_sell_hold`.
    last : int, default=None
        How many of the newest bars are drawn, at least 1. None draws all.
    ax : Axes, default=None
        Where to draw. None makes a figure, which pyplot does not know: ``pyplot.savefig`` and
        ``pyplot.show`` pass it by. Save it with ``reports.save_figure(ax.figure, path)``, or
        pass axes of pyplot's.

    Returns
    -------
    Axes
        The axes, with the close as a line, each bar's range behind it, bar numbers on x (nights
        and weekends leave no holes) and dates on its ticks. Bars whose label is not known yet
        are hatched.

    Raises
    ------
    EnsembleKitError
        If the bars are not among those labelled, are of several instruments, the labels are
        neither turns nor trends, or `last` is no number of bars.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.labels import peak_slope_bottom
    >>> from ensemble_kit.reports.labels import plot_labels
    >>> bars = make_bars(1000, random_state=0)
    >>> plot_labels(bars, peak_slope_bottom(bars), last=390).get_title(loc="left")
    'Peak slope bottom, in hindsight: 390 bars, 2022-01-12 to 2022-01-19 (hatched: not known yet)'
    """
    check_bars(bars)
    if last is not None and (not isinstance(last, Integral) or last < 1):
        raise EnsembleKitError(f"`last` must be None or an integer of at least 1; got {last!r}. Count it in bars.")
    turn, trend, unknown = _find_marks(bars.index, labels)
    shown = slice(0 if last is None else max(len(bars) - last, 0), None)
    times, turn, unknown = bars.index.get_level_values(0)[shown], turn[shown], unknown[shown]
    high, low, close = (bars[column].to_numpy(np.float64)[shown] for column in ("high", "low", "close"))
    ax, x = new_axes(ax, (10, 4.5)), np.arange(len(times))
    points = ax.bbox.width / ax.figure.dpi * 72
    ax.vlines(x, low, high, color=GREY, linewidth=min(max(0.5 * points / len(x), 0.3), 2.0), zorder=1)
    ax.plot(x, close, color=INK, linewidth=1.0)
    size = min(max(0.5 * points / max((np.abs(turn) == 1).sum(), 1), 2.0), 7.0)
    for sign, edge, marker, color, name in ((1, high, "v", VERMILION, "Peak"), (-1, low, "^", GREEN, "Bottom")):
        at = x[turn == sign]
        # Some points off the bar, whatever the scale.
        offset = ScaledTranslation(0, 8 * sign / 72, ax.figure.dpi_scale_trans)
        style: dict[str, Any] = {"linestyle": "", "markersize": size, "color": color, "label": name}
        ax.plot(at, edge[at], marker, transform=ax.transData + offset, **style)
    if trend is not None:
        _shade(ax, trend[shown] == 1, facecolor=GREEN, alpha=0.15, label="Buy")
        _shade(ax, trend[shown] == -1, facecolor=VERMILION, alpha=0.15, label="Sell")
    _shade(ax, unknown, facecolor="none", edgecolor=GREY, alpha=0.5, hatch="//")
    ax.set_xlim(-0.5, len(x) - 0.5)
    ax.margins(y=0.12)
    date_ticks(ax, times, 0)
    label_y(ax, "Close, and range of each bar")
    name = labels.definition.get("label", "labels").replace("_", " ").capitalize()
    late = " (hatched: not known yet)" if unknown.any() else ""
    fit_head(ax, f"{name}, in hindsight: {count_bars(len(x))}, {span_of(times)}{late}")
    return ax


def _find_marks(index: pd.Index[Any], labels: Labels) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any]]:
    """Return turn and trend (+1, -1, 0) of each row, and whether its label is not known."""
    if isinstance(index, pd.MultiIndex) and len(index.get_level_values(1).unique()) > 1:
        raise BarsError(
            "`bars` must be of one instrument; got several. Draw `bars.xs(instrument, level=1, drop_level=False)`."
        )
    if not isinstance(labels, Labels):
        raise EnsembleKitError(
            f"`labels` must be a Labels object; got {type(labels).__name__}. Pass what `buy_sell_hold` returned."
        )
    at = labels.labels.index.get_indexer(index)
    if (at < 0).any():
        raise EnsembleKitError(
            f"`bars` must be among the {len(labels.labels)} bars that `labels` are of; {int((at < 0).sum())} of "
            f"{len(index)} are not, first {index[int(np.argmax(at < 0))]}. Label the very bars to draw."
        )
    classes = labels.horizon().iloc[at]
    found = set(classes.dropna())
    unknown = classes.isna().to_numpy()
    if found <= set(_TURNS):
        return classes.map(_TURNS).to_numpy(np.float64), None, unknown
    if found <= set(_TRENDS) and "turn" in labels.details:
        turn = labels.details["turn"].iloc[at].to_numpy(np.float64)
        return turn, classes.map(_TRENDS).to_numpy(np.float64), unknown
    raise EnsembleKitError(
        f"`labels` must be of classes {', '.join(_TURNS)}, or {', '.join(_TRENDS)}; got "
        f"{', '.join(map(str, sorted(found)))}. Draw those of `peak_slope_bottom` or `buy_sell_hold`."
    )


def _shade(ax: Axes, rows: NDArray[np.bool_], **style: Any) -> None:
    """Shade each stretch of rows, from half a bar before its first to half a bar behind its last."""
    step = np.diff(rows.astype(np.int8), prepend=0, append=0)
    start, end = np.flatnonzero(step == 1), np.flatnonzero(step == -1)
    spans = list(zip((start - 0.5).tolist(), (end - start).tolist(), strict=True))
    ax.broken_barh(spans, (0, 1), transform=ax.get_xaxis_transform(), linewidth=0, zorder=0, **style)
