"""What each member's vote weighs, and the temperature that calibrated it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports._canvas import GREY, PALE, open_frame, percent
from ensemble_kit.reports._texts import fit_rows, fit_title, is_narrow, points

__all__ = ["plot_weights"]

FloatArray = NDArray[np.float64]


def plot_weights(
    weights: pd.DataFrame, temperatures: pd.DataFrame, *, axes: Sequence[Axes] | None = None
) -> tuple[Axes, Axes]:
    """Draw what each member's vote weighs, and the temperature that calibrated it.

    Parameters
    ----------
    weights : DataFrame of shape (M, H)
        Indexed by member, one column a horizon.
    temperatures : DataFrame of shape (M, H)
        The same of temperatures: above 1, the member was too sure of itself.
    axes : sequence of two Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    tuple of two Axes
        Weights as bars, and temperatures as dots on a log scale with 1 marked.

    Raises
    ------
    EnsembleKitError
        If the two frames have different members or horizons.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.reports import plot_weights
    >>> weights = pd.DataFrame({"H0": [0.7, 0.3]}, index=["lstm", "lightgbm"])
    >>> left, right = plot_weights(weights, weights + 1)
    >>> [text.get_text() for text in left.get_yticklabels()]
    ['lstm', 'lightgbm']
    """
    if not (weights.index.equals(temperatures.index) and weights.columns.equals(temperatures.columns)):
        raise EnsembleKitError(
            "`weights` and `temperatures` must have the same members and horizons; got "
            f"{list(weights.index)} x {list(weights.columns)} and "
            f"{list(temperatures.index)} x {list(temperatures.columns)}. Take both from one ensemble."
        )
    members, horizons = weights.shape
    if axes is None:
        figure = Figure(figsize=(10, 1.5 + members * max(0.15 * horizons, 0.4)), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
    left, right = axes
    size = 4 if is_narrow(right) else 6
    height, rows = 0.8 / max(horizons, 1), np.arange(members)
    # Horizons are ordered, and so are their shades.
    shades = colormaps["viridis"](np.linspace(0.2, 0.85, horizons))
    for h, (name, color) in enumerate(zip(weights.columns, shades, strict=True)):
        y = rows + (h - (horizons - 1) / 2) * height
        left.barh(y, weights[name], height=0.9 * height, color=color, label=str(name))
        right.plot(temperatures[name], y, "o", color=color, markersize=size, label=str(name))
    if members:
        left.axvline(1 / members, color=GREY, linewidth=1, linestyle="--", zorder=0)
    fit_title(left, "Weight in the vote (dashed: all equal)")
    left.xaxis.set_major_formatter(percent)
    _temperature_axis(right, temperatures.to_numpy(np.float64))
    for ax in (left, right):
        fit_rows(ax, list(weights.index))
        ax.set_ylim(members - 0.5, -0.5)  # the first member on top
        ax.hlines(rows[1:] - 0.5, 0, 1, transform=ax.get_yaxis_transform(), color=PALE, linewidth=0.8, zorder=0)
        open_frame(ax)
    if horizons > 1:
        style: dict[str, Any] = {"fontsize": 7, "title_fontsize": 8, "handlelength": 1} if is_narrow(right) else {}
        right.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, title="Horizon", **style)
    return left, right


def _temperature_axis(ax: Axes, temperatures: FloatArray) -> None:
    known = temperatures[np.isfinite(temperatures) & (temperatures > 0)]
    low, high = min(known.min(initial=1.0) / 1.15, 0.8), max(known.max(initial=1.0) * 1.15, 1.25)
    wide = [0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 8]
    ticks = wide if high / low > 2.5 else [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.6, 1.8, 2]
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    # 1 first, then outwards as far as labels have room.
    shown, apart = [1.0], 26 / points(ax)[0] * np.log(high / low)
    for tick in sorted((tick for tick in ticks if low <= tick <= high), key=lambda tick: abs(np.log(tick))):
        if min(abs(np.log(tick / other)) for other in shown) > apart:
            shown.append(tick)
    ax.xaxis.set_major_locator(FixedLocator(sorted(shown)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.axvline(1, color=GREY, linewidth=1, linestyle="--", zorder=0)
    fit_title(ax, "Temperature, log scale (above 1: was too sure)")
