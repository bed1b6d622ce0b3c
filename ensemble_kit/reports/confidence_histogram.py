"""How sure a model was when it was right, and when it was wrong, as a histogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports._canvas import (
    BLUE,
    GREY,
    VERMILION,
    new_axes,
    open_frame,
    percent,
    split_below,
)
from ensemble_kit.reports._texts import fit_head, label_y, points, wrap

__all__ = ["plot_confidence"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Bins of fewer rows are drawn hollow: their accuracy is hearsay.
_FEW = 30
#: Axes lower than this have room for two ticks.
_LOW = 40.0  # points


def plot_confidence(
    proba: Any,
    y: Any,
    *,
    classes: Sequence[Any],
    event: Any = None,
    sample_weight: Any = None,
    n_bins: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Draw how sure a model was when it was right and when it was wrong, with its accuracy below.

    Parameters
    ----------
    proba : array-like of shape (n, K)
        Probabilities of one horizon, columns in the order of `classes`; out of fold, or of a
        holdout.
    y : array-like of shape (n,)
        What came.
    classes : sequence of length K
        The classes of the columns.
    event : label, default=None
        The class whose probability is drawn; right is where it came. None draws the largest
        probability of each row; right is where that class came.
    sample_weight : array-like of shape (n,), default=None
        Rows of weight 0 are left out.
    n_bins : int, default=20
        Bins, equally wide, at least 2.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        Rows by probability, right below wrong in each bar; counts on a root scale where one bin
        dwarfs the others. Below, ``ax.figure.axes[-1]``, the share of each bin that was right,
        hollow where it has fewer than 30 rows, beside two nulls: what the probability promises
        (dotted) and what one gets without looking (dashed), which is the share of the most
        frequent class, or of the event.

    Raises
    ------
    EnsembleKitError
        If shapes do not fit, probabilities are none, or nothing is left to draw.

    See Also
    --------
    plot_reliability : By class, with intervals that know that labels overlap.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.reports.confidence_histogram import plot_confidence
    >>> p = np.linspace(0.1, 0.9, 100)
    >>> ax = plot_confidence(np.column_stack([1 - p, p]), p > 0.5, classes=[False, True])
    >>> ax.get_title(loc="left")
    'Confidence of 100 rows: 100.0% right, 50.0% without looking'
    """
    said, right, base = _judged(proba, y, list(classes), event, sample_weight)
    if not isinstance(n_bins, int | np.integer) or isinstance(n_bins, bool) or n_bins < 2:
        raise EnsembleKitError(f"`n_bins` must be an integer of at least 2; got {n_bins!r}. 20 are readable.")
    floor = 0.0 if event is not None else 1.0 / len(classes)
    top = 1.0 if event is None else min(1.0, 1.02 * float(said.max()) or 1.0)
    edges = np.linspace(floor, top, n_bins + 1)
    place = np.clip(np.searchsorted(edges, said, side="right") - 1, 0, n_bins - 1)
    n, hits = np.bincount(place, minlength=n_bins), np.bincount(place[right], minlength=n_bins)
    ax = new_axes(ax, (8, 5))
    names = ("right", "wrong") if event is None else (f"{event} came", "it did not")
    style: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.5}
    ax.bar(edges[:-1], hits, np.diff(edges), color=BLUE, label=f"{names[0]}: {hits.sum():,}", **style)
    ax.bar(
        edges[:-1],
        n - hits,
        np.diff(edges),
        bottom=hits,
        color=VERMILION,
        alpha=0.7,
        label=f"{names[1]}: {(n - hits).sum():,}",
        **style,
    )
    scale = ""
    if n.max() > 20 * np.median(n[n > 0]):
        ax.set_yscale("function", functions=(_root, np.square))
        ax.set_ylim(0, 1.05 * n.max())
        scale = ", root scale"
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set_ylabel(f"Rows{scale}")
    for line, name in (("--", "without looking"), (":", "as promised")):
        ax.plot([], [], color=GREY, linewidth=1, linestyle=line, label=name)
    rows = f"{len(said):,} row{'' if len(said) == 1 else 's'}"
    if event is None:
        title = f"Confidence of {rows}: {right.mean():.1%} right, {base:.1%} without looking"
    else:
        title = f"Probability of {event}: came in {base:.2%} of {rows}"
    fit_head(ax, title)
    _accuracy_below(ax, edges, n, hits, base, "Right" if event is None else "Came")
    return ax


def _accuracy_below(
    ax: Axes, edges: FloatArray, n: NDArray[np.int64], hits: NDArray[np.int64], base: float, name: str
) -> None:
    below = split_below(ax)
    open_frame(below)
    ends = [edges[0], edges[-1]]
    below.plot(ends, ends, color=GREY, linewidth=1, linestyle=":", zorder=0)
    below.axhline(base, color=GREY, linewidth=1, linestyle="--", zorder=0)
    middle, some = (edges[1:] + edges[:-1]) / 2, n > 0
    share = hits[some] / n[some]
    for rows, face, line in ((n[some] >= _FEW, BLUE, "-"), (n[some] < _FEW, "white", "")):
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "markerfacecolor": face, "linestyle": line}
        below.plot(middle[some][rows], share[rows], color=BLUE, linewidth=1, clip_on=False, **style)
    high = max(float(share.max()), base, float(edges[-1]))
    below.set_ylim(0, min(1.0, 1.1 * high))
    below.set_xlim(*ends)
    below.yaxis.set_major_locator(MaxNLocator(3 if points(below)[1] > _LOW else 1))
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_formatter(percent)
    label_y(below, name)
    hollow = f" (hollow: fewer than {_FEW} rows)" if (n[some] < _FEW).any() else ""
    below.set_xlabel(wrap(ax, f"{'Largest' if name == 'Right' else 'Predicted'} probability{hollow}"))
    ax.tick_params(labelbottom=False)


def _judged(
    proba: Any, y: Any, classes: list[Any], event: Any, sample_weight: Any
) -> tuple[FloatArray, BoolArray, float]:
    """Return the probability drawn, whether it was right, and how often one is without looking."""
    p, came = np.asarray(proba, np.float64), np.asarray(y)
    weight = np.ones(len(came)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if came.ndim != 1 or p.shape != (len(came), len(classes)) or weight.shape != (len(came),):
        raise EnsembleKitError(
            f"`proba`, `y` and `sample_weight` must have shapes (n, {len(classes)}), (n,) and (n,); got {p.shape}, "
            f"{came.shape} and {weight.shape}. Draw one horizon at a time."
        )
    if event is not None and event not in classes:
        raise EnsembleKitError(f"`event` must be one of {', '.join(map(str, classes))}; got {event!r}.")
    counted = weight > 0
    p, came = p[counted], came[counted]
    if not len(p):
        raise EnsembleKitError("`proba` must have at least one row of weight above 0; got none. Give rows that count.")
    if not (np.isfinite(p).all() and (p >= 0).all() and (np.abs(p.sum(axis=1) - 1) < 1e-3).all()):
        raise EnsembleKitError(
            "`proba` must hold probabilities that sum to 1 on rows that count; got others. "
            "Give rows without `sample_weight` 0 or drop them."
        )
    if event is not None:
        right = came == event
        return p[:, classes.index(event)], right, float(right.mean())
    right = np.asarray(classes)[p.argmax(axis=1)] == came
    frequent = max(float((came == label).mean()) for label in classes)
    return p.max(axis=1), right, frequent


def _root(values: FloatArray) -> FloatArray:
    return np.sign(values) * np.sqrt(np.abs(values))
