"""Which columns a model on windows looks at, and how far back."""

from __future__ import annotations

import re
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports._canvas import BLUE, GREY, new_axes, open_frame, percent
from ensemble_kit.reports._texts import fit_rows, is_narrow, title_size, wrap

__all__ = ["plot_lag_importance"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LAGS = re.compile(r"(\d+)(?:-(\d+))?")
# Labels that fit side by side.
_MOST_TICKS = 12


def plot_lag_importance(importance: pd.DataFrame, *, top: int = 20, ax: Axes | None = None) -> Axes:
    """Draw which columns a model on windows looks at, and how far back.

    Parameters
    ----------
    importance : DataFrame of shape (F, n_blocks)
        One row a column of X, one column a block of lags, named by age in bars (``"0"``,
        ``"5-6"``), as `LGBMWindowClassifier.lag_importance` returns it. Only proportions matter.
    top : int, default=20
        How many columns to draw, the most important; all, where there are fewer.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        A cell each column and block, its colour the share of all importance; columns from
        the most important down, ages from the newest to the right. Cells are equally wide:
        under the axis stand ages, and in grey how many bars a block averages. Beside it are the
        sums of the columns drawn, above it those of the blocks over all columns.

    Raises
    ------
    EnsembleKitError
        If `importance` is no such frame, or `top` is not at least 1.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.reports import plot_lag_importance
    >>> importance = pd.DataFrame({"0": [1.0, 6.0], "1-2": [1.0, 2.0]}, index=["RSV5", "ROC5"])
    >>> ax = plot_lag_importance(importance)
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['ROC5', 'RSV5']
    """
    first, last = _check(importance, top)
    order = np.argsort(first, kind="stable")
    first, last = first[order], last[order]
    values = importance.to_numpy(np.float64)[:, order]
    share = values / (values.sum() or 1.0)
    # Of equally important columns the first comes first.
    rows = np.argsort(-share.sum(axis=1), kind="stable")[:top]
    shown, n_blocks = share[rows], len(first)

    ax = new_axes(ax, (10, 2.2 + 0.24 * len(rows)))
    # A few cells have most of it: the root leaves the others some colour.
    norm = PowerNorm(0.5, vmin=0, vmax=shown.max() or 1.0)
    cells = ax.pcolormesh(np.arange(n_blocks + 1) - 0.5, np.arange(len(rows) + 1) - 0.5, shown, cmap="Blues", norm=norm)
    fit_rows(ax, list(importance.index[rows]))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    _age_axis(ax, first, last)

    # Insets: they hold wherever the axes lie, and go where those go.
    small = 6.5 if is_narrow(ax) else "small"
    beside, above = ax.inset_axes((1.03, 0, 0.15, 1), sharey=ax), ax.inset_axes((0, 1.03, 1, 0.16), sharex=ax)
    for margin in (beside, above):
        open_frame(margin)
        margin.tick_params(which="both", length=2, labelsize=small)
    beside.barh(range(len(rows)), shown.sum(axis=1), height=0.7, color=BLUE)
    beside.xaxis.set_major_locator(MaxNLocator(1 if is_narrow(ax) else 2, steps=[1, 2, 5, 10]))
    beside.xaxis.set_major_formatter(FuncFormatter(percent))
    beside.tick_params(axis="y", which="both", left=False, labelleft=False)
    beside.xaxis.tick_top()  # below, its 0 would meet the oldest age
    beside.spines.top.set_visible(True)
    beside.spines.bottom.set_visible(False)
    above.bar(range(n_blocks), share.sum(axis=0), width=0.8, color=BLUE)
    above.yaxis.set_major_locator(MaxNLocator(2))
    above.yaxis.set_major_formatter(FuncFormatter(percent))
    above.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    title = _title(shown.sum(), len(rows), len(importance), bool(values.any()))
    size = title_size(ax)
    above.set_title(wrap(ax, title, size=size), loc="left", fontsize=size)

    bar = ax.figure.colorbar(cells, cax=ax.inset_axes((1.205, 0, 0.015, 1)), format=FuncFormatter(percent))
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    if not is_narrow(ax):  # where it would meet the margin's ticks
        bar.ax.set_title("a cell", fontsize=small, loc="left")
    bar.ax.tick_params(labelsize=small)
    return ax


def _check(importance: Any, top: Any) -> tuple[IntArray, IntArray]:
    """Return the newest and the oldest lag of each block."""
    if not isinstance(top, Integral) or isinstance(top, bool) or top < 1:
        raise EnsembleKitError(f"`top` must be an integer of at least 1; got {top!r}. 20 columns are readable.")
    cure = "Take it from `lag_importance()` of a fitted model."
    if not isinstance(importance, pd.DataFrame) or importance.empty:
        raise EnsembleKitError(
            "`importance` must be a frame of at least one column of X and one block of lags; got "
            f"{type(importance).__name__} of shape {np.shape(importance)}. {cure}"
        )
    found = [_LAGS.fullmatch(str(name)) for name in importance.columns]
    if strange := [name for name, match in zip(importance.columns, found, strict=True) if match is None]:
        raise EnsembleKitError(f"`importance` must have blocks of lags such as '0' and '5-6'; got {strange}. {cure}")
    values = importance.to_numpy()
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or (values < 0).any():
        raise EnsembleKitError(f"`importance` must hold finite numbers of at least 0; got others. {cure}")
    lags = [(int(match[1]), int(match[2] or match[1])) for match in found if match]
    first, last = np.array(lags, dtype=np.int64).T
    return first, last


def _title(share: float, shown: int, n_columns: int, any_split: bool) -> str:
    if not any_split:
        return "Importance by column and age: none, no tree has split"
    drawn = f"all {n_columns} columns"
    if shown < n_columns:
        drawn = f"the first {shown} of {n_columns} columns, {percent(round(share, 2))}"
    return f"Importance by column and age: {drawn}"


def _age_axis(ax: Axes, first: IntArray, last: IntArray) -> None:
    n_blocks, length = len(first), last - first + 1
    ax.set_xlim(-0.5, n_blocks - 0.5)
    ax.set_xlabel("Age in bars")
    if (length == 1).all():
        at = np.unique(np.linspace(0, n_blocks - 1, min(n_blocks, _MOST_TICKS)).astype(np.int64))
        if n_blocks > _MOST_TICKS and first[-1] - first[0] == n_blocks - 1:  # every lag: round ages
            at = np.flatnonzero(np.isin(first, MaxNLocator(_MOST_TICKS, integer=True).tick_values(*first[[0, -1]])))
        ax.set_xticks(at, [str(lag) for lag in first[at]])
        return
    # The window's end may cut the last block: it belongs to those before.
    grows = np.flatnonzero(length[1:] > length[:-1]) + 1
    edges = np.concatenate([[0], grows, [n_blocks]])
    for edge in grows:
        ax.axvline(edge - 0.5, color=GREY, linewidth=0.6)
    ax.set_xticks(edges - 0.5, [str(age) for age in np.append(first, last[-1] + 1)[edges]])
    ax.set_xticks((edges[1:] + edges[:-1] - 1) / 2, [str(bars) for bars in length[edges[:-1]]], minor=True)
    ax.tick_params(axis="x", which="minor", length=0, pad=7, labelcolor=GREY, labelsize="small")
    ax.set_xlabel("Age in bars (grey: bars a block)")
