"""Which rows each fold trains on, leaves out and tests on, over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from numpy.typing import NDArray

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports._canvas import BLUE, GREEN, VERMILION, date_ticks, new_axes, span_of
from ensemble_kit.reports._texts import fit_head, label_y, points

__all__ = ["plot_folds"]

FloatArray = NDArray[np.float64]

_HEIGHT = 0.7
_USES = (("Train", BLUE, 0.0), ("Purged", VERMILION, 0.8), ("Test", GREEN, 0.0))


def plot_folds(cv: Any, X: Any, *, ax: Axes | None = None) -> Axes:
    """Draw which rows each fold trains on, leaves out and tests on, over time.

    Parameters
    ----------
    cv : splitter
        Usually `ensemble_kit.validation.WalkForwardSplit`; any that splits without `y`.
    X : DataFrame, Series or array of shape (n, ...)
        What to split, in time order; a panel carries its (datetime, instrument) index.
    ax : Axes, default=None
        Where to draw. None makes a figure, which pyplot does not know: ``pyplot.savefig`` and
        ``pyplot.show`` pass it by. Save it with ``reports.save_figure(ax.figure, path)``, or
        pass axes of pyplot's.

    Returns
    -------
    Axes
        One lane a fold, the first on top, with times numbered on x (nights and weekends
        leave no holes) and dates on its ticks. Where rows of one time are used differently,
        as in a panel, the lane's height is parted by their shares. Purged are the rows
        between the first training row and the first test row that the fold does not train on.

    Raises
    ------
    EnsembleKitError
        If `cv` is no splitter.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.reports import plot_folds
    >>> from ensemble_kit.validation import WalkForwardSplit
    >>> plot_folds(WalkForwardSplit(2, purge=1), np.zeros((9, 1))).get_title(loc="left")
    'Folds of 9 rows'
    """
    if not hasattr(cv, "split"):
        raise EnsembleKitError(f"`cv` must be a splitter; got {cv!r:.60}. Pass a `WalkForwardSplit`.")
    keys = row_keys(X)
    first, time = np.unique(keys.time, return_index=True, return_inverse=True)[1:]
    axis, every = keys.axis()[first], np.bincount(time)
    folds = [*cv.split(X)]
    ax = new_axes(ax, (10, 1.5 + 0.55 * len(folds)))
    names = []
    for fold, (train, test) in enumerate(folds):
        purged = np.setdiff1d(np.arange(train.min(), test.min()), train, assume_unique=True)
        below = np.zeros(len(axis))
        for rows, (name, color, line) in zip((train, purged, test), _USES, strict=True):
            share = np.bincount(time[rows], minlength=len(axis)) / every
            # A purge of hours is thinner than a dot in a picture of years: an outline keeps it visible, on top.
            style: dict[str, Any] = {"linewidths": line, "zorder": 1 + line, "antialiased": False}
            blocks: Any = _stack(fold, below, share)
            label = name if fold == 0 else None
            ax.add_collection(PolyCollection(blocks, label=label, facecolors=color, edgecolors=color, **style))
            below += share
        names.append(f"Fold {fold}\n{len(train):,} | {len(purged):,} | {len(test):,}")
    ax.set_yticks(range(len(folds)), names, fontsize=min(10.0, max(0.17 * points(ax)[1] / max(len(folds), 1), 4.5)))
    label_y(ax, "Rows: train | purged | test")
    ax.set_ylim(len(folds) - 0.5, -0.5)
    ax.set_xlim(-0.5, len(axis) - 0.5)
    ax.tick_params(axis="y", length=0)
    span = ""
    if isinstance(axis, pd.DatetimeIndex):
        date_ticks(ax, axis, 0)
        span = f", {span_of(axis)}"
    fit_head(ax, f"Folds of {len(time):,} rows{span}")
    return ax


def _stack(fold: int, below: FloatArray, share: FloatArray) -> FloatArray:
    """Return the corners of one block a run of times that are alike, on what lies below, shape (k, 4, 2)."""
    change = np.flatnonzero((np.diff(share) != 0) | (np.diff(below) != 0)) + 1
    start, end = np.append(0, change), np.append(change, len(share))
    drawn = share[start] > 0
    start, end = start[drawn], end[drawn]
    low = fold + _HEIGHT / 2 - _HEIGHT * below[start]
    high = low - _HEIGHT * share[start]
    left, right = start - 0.5, end - 0.5
    x, y = np.stack([left, right, right, left], axis=1), np.stack([low, low, high, high], axis=1)
    return np.stack([x, y], axis=2)
