"""What each column adds to a model: the drop of its score with an interval, or its gain."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports._canvas import BLUE, GREY, PALE, VERMILION, new_axes
from ensemble_kit.reports._texts import fit_head, fit_rows, is_narrow, points, wrap

__all__ = ["plot_importance"]


def plot_importance(importance: pd.DataFrame | pd.Series[Any], *, top: int = 20, ax: Axes | None = None) -> Axes:
    """Draw what each column, or group of columns, adds to a model.

    Parameters
    ----------
    importance : DataFrame of shape (F, 5 + n_folds), or Series of shape (F,)
        What `ensemble_kit.metrics.permutation_importance` returned; or one number a column, such
        as the gain of its splits, drawn as bars: it has no interval and no null.
    top : int, default=20
        How many rows to draw, the largest; all, where there are fewer.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        One row a column, the largest on top. Of permutations: the mean drop of the score with
        its interval, small ticks for the folds, and 0 dashed, which is what a column has that
        tells nothing. Of all F intervals, title and legend count those above, around and below
        0, beside how many luck alone puts above it (2.5 % of F).

    Raises
    ------
    EnsembleKitError
        If `importance` is neither, holds nothing or no finite numbers, or `top` is not at
        least 1.

    See Also
    --------
    plot_lag_importance : The same by age in bars.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.reports.importance import plot_importance
    >>> ax = plot_importance(pd.Series({"RSV5": 1.0, "ROC5": 3.0}))
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['ROC5', 'RSV5']
    """
    if not isinstance(top, Integral) or isinstance(top, bool) or top < 1:
        raise EnsembleKitError(f"`top` must be an integer of at least 1; got {top!r}. 20 columns are readable.")
    table = _checked(importance)
    table = table.sort_values("mean", ascending=False, kind="stable")
    shown, rows = table.iloc[:top], np.arange(min(len(table), int(top)))
    ax = new_axes(ax, (8, 1.6 + 0.24 * len(rows)))
    fit_rows(ax, list(shown.index))  # first: what is written later makes room for them
    if isinstance(importance, pd.Series):
        ax.barh(rows, shown["mean"], height=0.7, color=BLUE)
        ax.set_xlabel(str(importance.name or "Importance"))
        ax.margins(y=0)
    else:
        _draw_intervals(ax, shown, table)
        ax.set_xlabel(wrap(ax, f"Drop of the score from {table['score'].iloc[0]:.3g} when permuted, 95 % interval"))
    ax.axvline(0, color=GREY, linewidth=1, linestyle="--", zorder=0)
    if _row_points(ax, len(rows)) > 5:
        ax.hlines(rows, 0, 1, transform=ax.get_yaxis_transform(), color=PALE, linewidth=0.6, zorder=0)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(4 if is_narrow(ax) else 7, steps=[1, 2, 5, 10]))
    which = f"the first {len(rows)} of {len(table):,}" if len(rows) < len(table) else f"all {len(table):,}"
    if isinstance(importance, pd.Series):
        fit_head(ax, f"Importance: {which}")
    else:
        n, above = len(table), int((table["low"] > 0).sum())
        fit_head(ax, f"Permutation importance: {which}; {above} of {n:,} above 0 (luck alone: {0.025 * n:.1f})")
    return ax


def _draw_intervals(ax: Axes, shown: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw the rows shown, coloured by whether their interval is above, around or below 0; count all."""
    folds = [name for name in table.columns if str(name).startswith("fold_")]
    sides, counts = _sides(shown), np.bincount(_sides(table) + 1, minlength=3)
    size = float(np.clip(0.5 * _row_points(ax, len(shown)), 1, 4.5))
    for side, name, color in ((1, "above 0", BLUE), (0, "0 within", GREY), (-1, "below 0", VERMILION)):
        at = np.flatnonzero(sides == side)
        rows = shown.iloc[at]
        around = np.stack([rows["mean"] - rows["low"], rows["high"] - rows["mean"]])
        style: dict[str, Any] = {"fmt": "o", "color": color, "markersize": size, "elinewidth": size / 3}
        if counts[side + 1]:
            ax.errorbar(rows["mean"], at, xerr=around, label=f"{name}: {counts[side + 1]:,}", **style)
        drops = rows[folds].to_numpy(np.float64)
        ax.plot(drops.T.ravel(), np.tile(at, len(folds)), "|", color=color, markersize=1.5 * size, alpha=0.6, zorder=1)
    if folds:
        ax.plot([], [], "|", color=GREY, markersize=6, label="each fold")


def _sides(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return +1 where the interval is above 0, -1 below, and 0 where it holds it."""
    return (table["low"] > 0).to_numpy(np.int64) - (table["high"] < 0).to_numpy(np.int64)


def _row_points(ax: Axes, n: int) -> float:
    return points(ax)[1] / max(n, 1)


def _checked(importance: Any) -> pd.DataFrame:
    """Return a table with at least a column `mean`."""
    cure = "Take what `permutation_importance` returned, or a Series of one number a column."
    table = importance.to_frame("mean") if isinstance(importance, pd.Series) else importance
    needed = ["mean"] if isinstance(importance, pd.Series) else ["mean", "low", "high", "score"]
    if not isinstance(table, pd.DataFrame) or table.empty or not set(needed) <= set(table.columns):
        missing = [name for name in needed if name not in getattr(table, "columns", ())]
        without = f" without {', '.join(missing)}" if missing else ""
        what = f"{type(importance).__name__} of shape {np.shape(importance)}{without}"
        raise EnsembleKitError(
            "`importance` must be a Series, or a frame with the columns mean, low, high and score, of at least one "
            f"row; got {what}. {cure}"
        )
    values = table[needed].to_numpy()
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise EnsembleKitError(f"`importance` must hold finite numbers; got others. {cure}")
    return table
