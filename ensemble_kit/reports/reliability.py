"""What came true against what was predicted, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import reliability_curve
from ensemble_kit.reports._canvas import GREY, INK, event_colors, new_axes, open_frame, percent, split_below
from ensemble_kit.reports._texts import fit_head, is_narrow, label_y, points

__all__ = ["plot_reliability"]

FloatArray = NDArray[np.float64]

#: How the two states of a model are drawn: as it is, and before its calibration.
_AFTER: dict[str, Any] = {"linewidth": 1.2, "marker": "o", "markersize": 4, "clip_on": False}
_BEFORE: dict[str, Any] = _AFTER | {"linewidth": 0.9, "linestyle": ":", "markerfacecolor": "white", "alpha": 0.8}

#: A bin of rare events says something from so many on, and a curve from so many bins on.
_EVENTS_A_BIN, _FEWEST_BINS = 4, 3
#: What a tick's label takes in points, with the gap to the next: width and height.
_LABEL = (36.0, 18.0)


def plot_reliability(
    proba: Any,
    y: Any,
    *,
    classes: Sequence[Any],
    events: Sequence[Any] | None = None,
    before: Any = None,
    sample_weight: Any = None,
    n_bins: int = 10,
    times: Any = None,
    block: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how often each class came against how often it was said to.

    Parameters
    ----------
    proba : array-like of shape (n, K)
        Probabilities of one horizon, columns in the order of `classes`.
    y : array-like of shape (n,)
        What came, in time order.
    classes : sequence of length K
        The classes of the columns.
    events : sequence, default=None
        Classes to draw, one line each. None draws all but the one that came most often, which
        is drawn alone where no other came.
    before : array-like of shape (n, K), default=None
        Probabilities of the same rows before calibration, drawn pale and without intervals.
    sample_weight : array-like of shape (n,), default=None
        Row weights; rows of weight 0 are left out.
    n_bins : int, default=10
        Bins at most; equal predictions stay in one bin. Of rare events, fewer where a bin
        would promise less than four.
    times : array-like of shape (n,), default=None
        The time of each row. None for the times of `y`'s index; without one, each row has
        its own.
    block : int, default=None
        Distinct times over which rows may depend on each other, no less than the labels'
        window. None for the cube root of their number times 2.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        Axes from 0 to the data's end, the same for both, in percent; below, ``ax.figure.axes[-1]``,
        how many rows were given which probability. If most predictions are small
        beside the largest (rare events), both scales are square roots, which keep 0 and
        the diagonal, and bins promise equally many events each. Bars are the 95 % intervals
        of `reliability_curve`, which know that labels overlap.

    Raises
    ------
    EnsembleKitError
        If shapes do not fit, a row that counts holds no probabilities, or an event is no class.

    See Also
    --------
    ensemble_kit.metrics.reliability_curve : The numbers drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.reports import plot_reliability
    >>> p = np.linspace(0.05, 0.45, 200)
    >>> y = np.where(np.arange(200) % 4 == 0, "Peak", "Slope")
    >>> ax = plot_reliability(np.column_stack([p, 1 - p]), y, classes=["Peak", "Slope"])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['Peak: 50 of 200 rows']
    """
    states = [np.asarray(p, np.float64) for p in (proba, before) if p is not None]
    came, counted = _check_one_horizon(states, y, list(classes), sample_weight)
    if events is None:
        weights = counted if sample_weight is None else np.asarray(sample_weight, np.float64)
        often = np.array([weights[came == c].sum() for c in classes])
        common = int(often.argmax())
        others = [c for k, c in enumerate(classes) if k != common]
        events = others if (often > 0).sum() > 1 or not counted.any() else [classes[common]]
    unknown = [event for event in events if event not in list(classes)]
    if unknown:
        raise EnsembleKitError(f"`events` must be among {list(classes)}; got {unknown}. Name classes of the columns.")
    said = [p[counted][:, [list(classes).index(event) for event in events]] for p in states]
    rare = said[0].size > 0 and float(np.median(said[0])) < float(said[0].max()) / 8
    known = {"classes": classes, "events": events, "sample_weight": sample_weight, "times": times, "block": block}
    bins: dict[str, Any] = {"n_bins": n_bins, "equal": "events" if rare else "rows"}
    if rare:
        fewest = min(int((came[counted] == event).sum()) for event in events)
        bins["n_bins"] = min(n_bins, max(fewest // _EVENTS_A_BIN, _FEWEST_BINS))
    curves = [reliability_curve(y, p, **known, **bins) for p in states if counted.any()]
    ax = new_axes(ax, (5.5, 7.4))
    colors = event_colors(events, list(classes))
    for curve, style in zip(curves, (_AFTER, _BEFORE), strict=False):
        for (event, rows), color in zip(curve.groupby("class", sort=False), colors, strict=True):
            _draw(ax, rows, f"{event}: {(came[counted] == event).sum():,} of {counted.sum():,} rows", color, style)
    ends = [curve[["probability", "frequency"]].to_numpy().max() for curve in curves]
    end = min(1.05 * max([*ends, *(curve["high"].max() for curve in curves[:1])], default=0.0), 1.0) or 1.0
    ax.plot([0, end], [0, end], color=GREY, linewidth=1, linestyle="--", zorder=0)
    handles = ax.get_legend_handles_labels()[0]
    if before is not None:
        handles.append(Line2D([], [], color=INK, label="before calibration", **_BEFORE))
    fit_head(ax, "Reliability: observed against predicted", handles=handles)
    below = split_below(ax)
    _scale(ax, end, rare=rare)
    _count(below, said, colors, end, rare=rare)
    ax.tick_params(labelbottom=False)
    label_y(ax, "Observed frequency, 95 % interval")
    return ax


def _check_one_horizon(
    states: list[FloatArray], y: Any, classes: list[Any], sample_weight: Any
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return what came, and which rows count."""
    came = np.asarray(y)
    weight = np.ones(len(came)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    for p in states:
        if p.shape != (len(came), len(classes)) or weight.shape != (len(came),) or came.ndim != 1:
            raise EnsembleKitError(
                f"`proba`, `y` and `sample_weight` must have shapes (n, {len(classes)}), (n,) and (n,); got {p.shape}, "
                f"{came.shape} and {weight.shape}. Draw one horizon at a time."
            )
    return came, weight > 0


def _draw(ax: Axes, rows: pd.DataFrame, name: str, color: str, style: dict[str, Any]) -> None:
    said, seen = rows["probability"].to_numpy(), rows["frequency"].to_numpy()
    if style is _BEFORE:
        ax.plot(said, seen, color=color, label="_", **style)
    else:
        bars = [seen - rows["low"].to_numpy(), rows["high"].to_numpy() - seen]
        ax.errorbar(said, seen, yerr=bars, color=color, label=name, elinewidth=0.9, capsize=2, **style)


def _count(below: Axes, states: list[FloatArray], colors: list[str], end: float, *, rare: bool) -> None:
    """Draw how many rows were given which probability, on the same scale."""
    open_frame(below)
    edges = np.linspace(0, 1, 41) ** (2 if rare else 1) * end
    for p, style in zip(states, (_AFTER, _BEFORE), strict=False):
        for column, color in zip(p.T, colors, strict=True):
            line = {"linestyle": style.get("linestyle", "-"), "linewidth": style["linewidth"]}
            below.stairs(np.histogram(np.minimum(column, end), edges)[0], edges, color=color, **line)
    below.set_yscale("symlog", linthresh=1)
    below.set_ylim(bottom=0)
    below.yaxis.set_major_locator(FixedLocator([0, 10, 1_000, 100_000, 10_000_000]))
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.yaxis.set_minor_locator(NullLocator())
    label_y(below, "Rows")
    below.set_xlabel("Predicted probability", fontsize=8 if is_narrow(below) else None)


def _scale(ax: Axes, end: float, *, rare: bool) -> None:
    """Give both axes the same scale from 0 to `end`."""
    for axis, limit, length, label in (
        (ax.xaxis, ax.set_xlim, points(ax)[0], _LABEL[0]),
        (ax.yaxis, ax.set_ylim, points(ax)[1], _LABEL[1]),
    ):
        if rare:
            getattr(ax, f"set_{axis.axis_name}scale")("function", functions=(_root, np.square))
            ticks, apart = [0.0], label / length
            for tick in (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0):
                if np.sqrt(min(tick, end)) - np.sqrt(ticks[-1]) > apart * np.sqrt(end) and tick <= end:
                    ticks.append(tick)
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_minor_locator(NullLocator())
        else:
            axis.set_major_locator(MaxNLocator(int(np.clip(0.7 * length / label, 1, 9))))
        limit(0, end)
        axis.set_major_formatter(percent)


def _root(values: FloatArray) -> FloatArray:
    return np.sign(values) * np.sqrt(np.abs(values))
