"""What came true against what was predicted, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray
from scipy.special import ndtri

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports._canvas import GREY, event_colors, new_axes, percent

__all__ = ["plot_reliability"]

FloatArray = NDArray[np.float64]


def plot_reliability(
    proba: Any,
    y: Any,
    *,
    classes: Sequence[Any],
    events: Sequence[Any] | None = None,
    sample_weight: Any = None,
    n_bins: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Draw how often each class came against how often it was said to.

    Parameters
    ----------
    proba : array-like of shape (n, K)
        Probabilities of one horizon, columns in the order of `classes`.
    y : array-like of shape (n,)
        What came.
    classes : sequence of length K
        The classes of the columns.
    events : sequence, default=None
        Classes to draw, one line each. None draws all but the one that came most often.
    sample_weight : array-like of shape (n,), default=None
        Row weights; rows of weight 0 are left out.
    n_bins : int, default=10
        Bins of equal weight; equal predictions stay in one bin.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        Square axes from 0 to the data's end, in percent. If most predictions are small
        beside the largest (rare events), both scales are square roots, which keep 0 and
        the diagonal. Bars are Wilson's 95 % intervals, of the effective number of rows
        ``sum(w)^2 / sum(w^2)`` where weights differ.

    Raises
    ------
    EnsembleKitError
        If shapes do not fit, or an event is no class.

    References
    ----------
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927).

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
    p, came, weight, names = _check_reliability(proba, y, list(classes), sample_weight)
    n = len(p)
    if events is None:
        counts = [weight[came == c].sum() for c in classes]
        events = [c for k, c in enumerate(classes) if k != int(np.argmax(counts))]
    unknown = [e for e in events if e not in names]
    if unknown:
        raise EnsembleKitError(f"`events` must be among {list(classes)}; got {unknown}. Name classes of the columns.")
    ax = new_axes(ax, (5.5, 5.5))
    means: list[float] = []
    ends = [0.0]
    for event, color in zip(events, event_colors(len(events)), strict=True):
        hit = came == event
        said, seen, low, high = _reliability(p[:, names.index(event)], hit, weight, n_bins)
        bars = np.maximum([seen - low, high - seen], 0.0)  # rounding may leave -1e-17
        name = f"{event}: {hit.sum():,} of {n:,} rows"
        style: dict[str, Any] = {"linewidth": 1.2, "elinewidth": 0.9, "capsize": 2, "markersize": 4, "clip_on": False}
        ax.errorbar(said, seen, yerr=bars, marker="o", color=color, label=name, **style)
        means += [*said]
        ends += [*said, *high]
    end = min(1.05 * max(ends), 1.0) or 1.0
    _square(ax, end, rare=bool(means) and float(np.median(means)) < end / 8)
    ax.plot([0, end], [0, end], color=GREY, linewidth=1, linestyle="--", zorder=0)
    ax.set_xlabel(f"Predicted probability, bins of about {n / n_bins:,.0f} rows")
    ax.set_ylabel("Observed frequency, 95 % interval")
    ax.set_title("Reliability: observed against predicted", loc="left")
    ax.legend(loc="upper left", frameon=False)
    return ax


def _check_reliability(
    proba: Any, y: Any, classes: list[Any], sample_weight: Any
) -> tuple[FloatArray, NDArray[Any], FloatArray, list[Any]]:
    p, came = np.asarray(proba, np.float64), np.asarray(y)
    weight = np.ones(len(came)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if p.shape != (len(came), len(classes)) or weight.shape != (len(came),) or came.ndim != 1:
        raise EnsembleKitError(
            f"`proba`, `y` and `sample_weight` must have shapes (n, {len(classes)}), (n,) and (n,); got {p.shape}, "
            f"{came.shape} and {weight.shape}. Draw one horizon at a time."
        )
    if not np.isfinite(p).all():
        row = int(np.argmax(~np.isfinite(p).all(axis=1)))
        raise EnsembleKitError(f"`proba` must be finite; got {p[row]} at row {row}. Drop rows without a prediction.")
    counted = weight > 0
    return p[counted], came[counted], weight[counted], classes


def _reliability(
    p: FloatArray, hit: NDArray[np.bool_], weight: FloatArray, n_bins: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return mean prediction, frequency and its Wilson interval in bins of equal weight."""
    if not len(p):
        return (np.empty(0),) * 4
    order = np.argsort(p, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    at = np.searchsorted(share, np.arange(1, n_bins) / n_bins)
    # Values, not ranks, part the bins, so that ties stay together.
    edge = np.unique(p[order][np.minimum(at, len(p) - 1)])
    code = np.searchsorted(edge, p, side="left")
    total = np.bincount(code, weight)
    kept = total > 0
    total = total[kept]
    said = np.bincount(code, weight * p)[kept] / total
    seen = np.bincount(code, weight * hit)[kept] / total
    rows = total**2 / np.bincount(code, weight**2)[kept]
    z2 = float(ndtri(0.975)) ** 2
    middle = (seen + z2 / (2 * rows)) / (1 + z2 / rows)
    half = np.sqrt(z2 * (seen * (1 - seen) / rows + z2 / (4 * rows**2))) / (1 + z2 / rows)
    return said, seen, middle - half, middle + half


def _square(ax: Axes, end: float, *, rare: bool) -> None:
    """Give both axes the same scale from 0 to `end`."""
    for axis, limit in ((ax.xaxis, ax.set_xlim), (ax.yaxis, ax.set_ylim)):
        if rare:
            getattr(ax, f"set_{axis.axis_name}scale")("function", functions=(_root, np.square))
            ticks = [0, 0.001, *([0.005] if end < 0.05 else []), 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1]
            axis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= end]))
            axis.set_minor_locator(NullLocator())
        limit(0, end)
        axis.set_major_formatter(percent)
    ax.set_aspect("equal", adjustable="box")


def _root(values: FloatArray) -> FloatArray:
    return np.sign(values) * np.sqrt(np.abs(values))
