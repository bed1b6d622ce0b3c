"""How often a model is right where it is sure, and how many rows that leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports._canvas import BLUE, GREY, ORANGE, PURPLE, new_axes, open_frame, percent, split_below
from ensemble_kit.reports._texts import fit_head, label_y, points

__all__ = ["plot_confidence_curve"]

_COLUMNS = ["coverage", "n", "accuracy", "low", "high", "base_rate", "mean_confidence"]
#: The title names the surest rows that are not fewer than this.
_FEW = 30
#: Axes lower than this have room for two ticks.
_LOW = 45.0  # points


def plot_confidence_curve(curve: pd.DataFrame, *, calls: str = "rows", ax: Axes | None = None) -> Axes:
    """Draw accuracy and coverage by confidence threshold, beside what the base rate gives.

    Parameters
    ----------
    curve : DataFrame
        What `ensemble_kit.metrics.confidence_curve` returned, of one horizon: thresholds as
        index, columns `coverage`, `n`, `accuracy`, `low`, `high`, `base_rate` and
        `mean_confidence`.
    calls : str, default="rows"
        What the title counts: "event calls", say, where the curve was made of `events`, of which
        each row calls its most probable, though most likely none comes.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        Accuracy with its interval, the confidence that was promised (dotted), the base rate
        and, where `curve` has it, the accuracy by chance (dashed) of the rows at or above each
        threshold; below, ``ax.figure.axes[-1]``, the
        share of rows that is left, on a log scale where few of all are. The title names the
        highest threshold that at least 30 rows reach. Thresholds that no row reaches are shaded.

    Raises
    ------
    EnsembleKitError
        If `curve` is no such frame, has no thresholds in rising order, or no row reaches any.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.reports.confidence import plot_confidence_curve
    >>> curve = pd.DataFrame({"coverage": [1.0, 0.2], "n": [200, 40], "accuracy": [0.5, 0.7],
    ...                       "low": [0.4, 0.5], "high": [0.6, 0.9], "base_rate": [0.45, 0.5],
    ...                       "mean_confidence": [0.5, 0.75]}, index=[0.3, 0.7])
    >>> plot_confidence_curve(curve).get_title(loc="left")
    'Accuracy 50.0% on 200 rows, 70.0% on the surest 40 (base rate 50.0%)'
    """
    table = _checked(curve)
    x = table.index.to_numpy(np.float64)
    reached = table["n"].to_numpy(np.float64) > 0
    ax = new_axes(ax, (8, 5))
    some = table[reached]
    at = x[reached]
    few = "o" if len(at) <= 40 else ""
    ax.fill_between(at, some["low"], some["high"], color=BLUE, alpha=0.18, linewidth=0, label="95 % interval")
    ax.plot(at, some["accuracy"], color=BLUE, linewidth=1.6, marker=few, markersize=3.5, label="accuracy")
    others = [("mean_confidence", "promised", PURPLE, ":"), ("base_rate", "base rate", GREY, "--")]
    others += [("chance", "chance", ORANGE, "--")] if "chance" in some else []
    for column, name, color, line in others:
        ax.plot(at, some[column], color=color, linewidth=1.2, linestyle=line, label=name)
        if len(at) == 1:  # one point makes no line
            ax.plot(at, some[column], "_", color=color, markersize=12)
    ax.yaxis.set_major_formatter(percent)
    if len(at) == 1:
        ax.vlines(at, some["low"], some["high"], color=BLUE, linewidth=1.2)
    pad = 0.02 * np.ptp(x) or 0.05
    if not reached.all():
        ax.axvspan(x[~reached][0], x[-1] + pad, color=GREY, alpha=0.15, linewidth=0, zorder=0, label="no rows")
    first, sure = some.iloc[0], some[some["n"] >= _FEW]
    last = (some if sure.empty else sure).iloc[-1]
    title = f"Accuracy {first['accuracy']:.1%} on {first['n']:,.0f} {calls}"
    if last["n"] < first["n"]:
        title += f", {last['accuracy']:.1%} on the surest {last['n']:,.0f} (base rate {last['base_rate']:.1%})"
    fit_head(ax, title)
    below = split_below(ax)
    open_frame(below)
    _scale_coverage(below, some["coverage"].to_numpy(np.float64))
    below.fill_between(x, table["coverage"], below.get_ylim()[0], color=BLUE, alpha=0.4, linewidth=0)
    below.plot(x, table["coverage"], color=BLUE, linewidth=1, marker=few, markersize=3)
    below.set_xlim(x[0] - pad, x[-1] + pad)
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_formatter(percent)
    label_y(ax, "Accuracy")
    label_y(below, "Rows")
    below.set_xlabel("Threshold of confidence")
    ax.tick_params(labelbottom=False)
    return ax


def _scale_coverage(ax: Axes, coverage: NDArray[np.float64]) -> None:
    """Set the scale of y: a log where the surest rows are too few to be seen beside all."""
    least, most = coverage.min(), coverage.max()
    if least < most / 20:
        ax.set_yscale("log")
        ax.set_ylim(least / 2, 2 * most)
        ax.yaxis.set_major_locator(LogLocator(numticks=4 if points(ax)[1] > _LOW else 2))
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.set_ylim(0, 1.05 * most)
        ax.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 5, 10]))


def _checked(curve: Any) -> pd.DataFrame:
    cure = "Take it from `confidence_curve` of one horizon."
    if not isinstance(curve, pd.DataFrame) or (missing := [name for name in _COLUMNS if name not in curve]):
        got = f"none of {', '.join(missing)}" if isinstance(curve, pd.DataFrame) else type(curve).__name__
        raise EnsembleKitError(f"`curve` must be a frame with the columns {', '.join(_COLUMNS)}; got {got}. {cure}")
    index = curve.index
    numbers = not isinstance(index, pd.MultiIndex) and index.dtype.kind in "iuf"
    if curve.empty or not numbers or not index.is_monotonic_increasing or index.hasnans:
        raise EnsembleKitError(f"`curve` must have rising thresholds as its index; got {_told(index)}. {cure}")
    if not (curve["n"] > 0).any():
        raise EnsembleKitError(
            f"`curve` must have a threshold that some row reaches; got {len(curve)} that none does. Lower them."
        )
    return curve


def _told(index: pd.Index[Any]) -> str:
    return f"{list(index[:4])}{' ...' if len(index) > 4 else ''}"
