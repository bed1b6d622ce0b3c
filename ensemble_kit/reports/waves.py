"""Candles with their waves: the two lines of each, and those foretold of the next."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from ensemble_kit.atr import average_true_range
from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.reports._candles import draw_candles
from ensemble_kit.reports._canvas import (
    BLUE,
    ORANGE,
    PALE,
    VERMILION,
    count_bars,
    date_ticks,
    new_axes,
    span_of,
)
from ensemble_kit.reports._texts import fit_head
from ensemble_kit.waves.extraction import check_waves

__all__ = ["plot_wave_forecasts", "plot_waves"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SIDES = {"high": BLUE, "low": ORANGE}
_STYLES: tuple[dict[str, Any], ...] = ({"color": BLUE, "linestyle": "--", "zorder": 3.5}, {"color": ORANGE})
_FORECAST = "Forecast (length: hindsight)"
_SLOPES = ["slope_high", "slope_low"]


def plot_waves(bars: pd.DataFrame, waves: pd.DataFrame, *, last: int | None = 300, ax: Axes | None = None) -> Axes:
    """Draw candles cut into waves, and the two lines of each wave.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        The bars of one instrument that the waves were made of.
    waves : DataFrame of shape (n_waves, n_columns)
        What `extract_waves` made of them, or a part of its rows.
    last : int, default=300
        How many of the newest bars are drawn. None draws all.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        The axes, with bar numbers on x (nights and weekends leave no holes) and dates on
        its ticks. Every other wave is shaded. A wave's lines are drawn over all of its bars, but
        are known from the close with the diamond on: that of the bar after its last.

    Raises
    ------
    BarsError
        If the bars cannot be used, or are a panel.
    EnsembleKitError
        If the waves are not of these bars, or `last` is no number of bars.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.reports.waves import plot_waves
    >>> from ensemble_kit.waves import extract_waves
    >>> bars = make_bars(1000, random_state=0)
    >>> plot_waves(bars, extract_waves(bars)).get_title(loc="left")
    'Waves: 14 in 300 bars, 2022-01-13 to 2022-01-19'
    """
    places = _Places.of(bars, waves, last)
    ax = _begin(ax, bars, places)
    shown = np.flatnonzero(places.end >= places.first)
    spans = [(places.start[i] - 0.5, places.end[i] - places.start[i] + 1) for i in shown if i % 2]
    ax.broken_barh(spans, (0, 1), transform=ax.get_xaxis_transform(), color=PALE, alpha=0.45, lw=0, zorder=0)
    for side, color in _SIDES.items():
        slope, intercept = (waves[f"{name}_{side}"].to_numpy(np.float64) for name in ("slope", "intercept"))
        lines = []
        for i in shown:
            x = places.rows(places.start[i], places.end[i])
            lines.append(np.column_stack([x, intercept[i] + slope[i] * np.arange(len(x))]))
        _draw_lines(ax, lines, color=color, label=f"Line through {side}s")
    _draw_ends(ax, bars, places.known[shown])
    return _finish(ax, bars, f"Waves: {len(shown):,}", places.first)


def plot_wave_forecasts(
    bars: pd.DataFrame,
    waves: pd.DataFrame,
    y_pred: Any,
    *,
    y_true: Any = None,
    last: int | None = 300,
    ax: Axes | None = None,
) -> Axes:
    """Draw the slopes foretold of each next wave, and those that came true.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        The bars of one instrument that the waves were made of.
    waves : DataFrame of shape (n_waves, n_columns)
        What `extract_waves` made of them, or a part of its rows.
    y_pred : DataFrame or array-like of shape (n_waves, 2)
        Predicted slopes of highs and lows of the wave after each, in the unit of
        `wave_targets`: ATR(14) at the bar when the wave is known, a bar. A frame may be of some
        of the waves, by its index. NaN is no forecast.
    y_true : DataFrame or array-like of shape (n_waves, 2), default=None
        The slopes that came true, likewise: ``wave_targets(waves).labels``. NaN is not known
        yet. None draws forecasts alone.
    last : int, default=300
        How many of the newest bars are drawn. None draws all.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        The axes, with bar numbers on x and dates on its ticks. From each bar at whose close a
        wave is known, two dashed lines start at its high and its low with the slopes foretold,
        two solid ones with those that came true.

    Raises
    ------
    BarsError
        If the bars cannot be used, or are a panel.
    EnsembleKitError
        If the waves are not of these bars, slopes do not fit them, or `last` is no number of
        bars.

    Notes
    -----
    A slope is all that is foretold. Where its lines begin is the picture's choice (the
    high and the low of the first bar, so that slopes compare by eye), and how far they go is
    hindsight: to the end of the next wave, of which forecast and truth are. Where that is
    not known yet, the forecast goes as far as the median wave of the table, past
    the newest bar if need be.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.reports.waves import plot_wave_forecasts
    >>> from ensemble_kit.waves import extract_waves, wave_features, wave_targets
    >>> bars = make_bars(1000, random_state=0)
    >>> waves = extract_waves(bars)
    >>> persistence = wave_features(bars, waves)[["slope_high", "slope_low"]]
    >>> ax = plot_wave_forecasts(bars, waves, persistence, y_true=wave_targets(waves).labels)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['Forecast (length: hindsight)', 'Came true (hindsight)', 'Wave known to have ended']
    """
    places = _Places.of(bars, waves, last)
    slopes = {_FORECAST: _slopes(y_pred, "y_pred", waves)}
    if y_true is not None:
        slopes["Came true (hindsight)"] = _slopes(y_true, "y_true", waves)
    ax = _begin(ax, bars, places)
    reach = places.reach()
    shown = np.flatnonzero((places.known + reach > places.first) & ~np.isnan(slopes[_FORECAST]).all(axis=1))
    edges = bars[["high", "low"]].to_numpy(np.float64)
    for (name, values), style in zip(slopes.items(), _STYLES, strict=False):
        lines = []
        for i in shown:
            t = places.known[i]
            x = places.rows_ahead(t, reach[i])
            y = edges[t] + values[i] * places.atr[t] * np.arange(len(x))[:, None]  # (bars, 2)
            lines += [np.column_stack([x, side]) for side in y.T]
        _draw_lines(ax, lines, label=name, **style)
    _draw_ends(ax, bars, places.known[shown])
    beyond = (places.known + reach)[shown].max(initial=len(bars))
    ax.set_xlim(places.first - 0.5, beyond - 0.5)
    return _finish(ax, bars, f"Next wave's slopes: {len(shown):,}", places.first)


@dataclass(frozen=True)
class _Places:
    """Where waves lie: numbers of bars."""

    first: int  # of the picture
    start: IntArray
    end: IntArray
    known: IntArray
    there: IntArray  # bars that have prices
    atr: FloatArray

    @classmethod
    def of(cls, bars: pd.DataFrame, waves: pd.DataFrame, last: int | None) -> _Places:
        check_bars(bars)
        if isinstance(bars.index, pd.MultiIndex):
            raise BarsError("`bars` must be of one instrument; got a panel. Draw `bars.xs(instrument, level=1)`.")
        check_waves(waves)
        if isinstance(waves.index, pd.MultiIndex) and len(waves.index.get_level_values(1).unique()) > 1:
            raise EnsembleKitError(
                "`waves` must be of one instrument; got a panel's. Draw `waves.xs(instrument, level=1)`."
            )
        if last is not None and (not isinstance(last, Integral) or last < 1):
            raise EnsembleKitError(f"`last` must be None or an integer of at least 1; got {last!r}. Count it in bars.")
        times = (waves["start"], waves["end"], waves.index.get_level_values(0))
        start, end, known = (bars.index.get_indexer(pd.DatetimeIndex(at)) for at in times)
        atr = average_true_range(bars)
        # Other bars of the same times have another ATR, and so has a part of the bars.
        ours = (np.minimum(np.minimum(start, end), known) >= 0) & (atr[start] == waves["atr"].to_numpy())
        if not ours.all():
            raise EnsembleKitError(
                f"`waves` must be made of `bars`; {waves.index[int(np.argmin(ours))]} is no wave of theirs. "
                "Pass the very bars that `extract_waves` was given, and choose with `last`."
            )
        first = 0 if last is None else max(len(bars) - last, 0)
        there = np.flatnonzero(bars[["high", "low", "close"]].notna().all(axis=1))
        return cls(first, start, end, known, there, atr)

    def rows(self, start: int, end: int) -> IntArray:
        """Return the bars with prices from one to another."""
        return self.there[slice(*np.searchsorted(self.there, [start, end + 1]))]

    def rows_ahead(self, start: int, n: int) -> IntArray:
        """Return n bars with prices from one on, past the newest bar if need be."""
        known = self.there[np.searchsorted(self.there, start) :][:n]
        return np.append(known, known[-1] + 1 + np.arange(n - len(known)))

    def reach(self) -> IntArray:
        """Return how many bars the next wave has, of the table's median wave where there is none."""
        n = np.searchsorted(self.there, self.end) - np.searchsorted(self.there, self.start) + 1
        usual = int(np.median(n)) if len(n) else 0
        follows = np.append(self.start[1:], -1) == self.known
        return np.where(follows, np.append(n[1:], 0), usual)


def _slopes(values: Any, name: str, waves: pd.DataFrame) -> FloatArray:
    """Return two slopes a wave, NaN where there are none."""
    if isinstance(values, pd.DataFrame):
        missing = [column for column in _SLOPES if column not in values]
        strange = values.index.difference(waves.index)
        if missing or len(strange) or values.index.has_duplicates:
            fault = f"no {', '.join(missing)}" if missing else f"other rows, such as {[*strange, 'one twice'][0]}"
            raise EnsembleKitError(
                f"`{name}` must have the columns {' and '.join(_SLOPES)} and rows of `waves`; got {fault}. "
                "Index it as `wave_targets(waves).labels` is."
            )
        values = values[_SLOPES].reindex(waves.index)
    slopes = np.asarray(values, dtype=np.float64)
    if slopes.shape != (len(waves), 2) or np.isinf(slopes).any():
        got = "infinite ones" if slopes.shape == (len(waves), 2) else f"shape {slopes.shape}"
        raise EnsembleKitError(
            f"`{name}` must have shape ({len(waves)}, 2), a row a wave, its slopes of highs and lows, NaN where "
            f"unknown; got {got}. Pass a frame, whose index says of which waves it is."
        )
    return slopes


def _begin(ax: Axes | None, bars: pd.DataFrame, places: _Places) -> Axes:
    ax = new_axes(ax, (10, 4.5))
    draw_candles(ax, bars, first=places.first)
    return ax


def _draw_lines(ax: Axes, lines: list[FloatArray], **style: Any) -> None:
    ax.add_collection(LineCollection(lines, **({"linewidths": 1.4, "zorder": 3} | style)))


def _draw_ends(ax: Axes, bars: pd.DataFrame, known: IntArray) -> None:
    close = bars["close"].to_numpy(np.float64)[known]
    size = min(max(0.08 * ax.bbox.width / ax.figure.dpi * 72 / max(len(known), 1), 1.8), 4.0)
    style: dict[str, Any] = {"linestyle": "", "markersize": size, "color": VERMILION, "zorder": 4}
    ax.plot(known, close, "D", label="Wave known to have ended", **style)


def _finish(ax: Axes, bars: pd.DataFrame, what: str, first: int) -> Axes:
    date_ticks(ax, bars.index, first)
    ax.set_ylabel("Price")
    shown = bars.index[first:]
    fit_head(ax, f"{what} in {count_bars(len(shown))}, {span_of(shown)}")
    return ax
