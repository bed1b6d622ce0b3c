"""Bars cut into waves: two least-squares lines, through highs and lows, that grow until they fit no more."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Real

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import bisect

from ensemble_kit.atr import average_true_range
from ensemble_kit.bars import check_bars, row_keys
from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["check_waves", "extract_waves", "fit_cut", "wave_unit"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_COLUMNS = ("start", "end", "first", "last", "n")
_LINES = ("slope_high", "intercept_high", "slope_low", "intercept_low", "error", "atr")
_SHORTEST = 3  # a wave of more than 3 bars may end, at the earliest with the last of them
_MANY = 500  # bars of an instrument from which on one wave of more than half of them is a fault
_STILL = 1e-9  # of the price: an average range below it is none; the quietest real bars have 1e-5


def extract_waves(bars: pd.DataFrame, *, cut: float = 0.504, w_e: float = 1.0, w_n: float = 1.0) -> pd.DataFrame:
    """Cut bars into waves of any length: what two straight lines through highs and lows describe.

    Both lines are fitted by least squares and grow bar by bar. With n bars, this one
    included, the root mean square error of both is E, in ATR(14) at the wave's first bar,
    and the score is ``w_e * E - w_n / n``. Where n > 3 and the score exceeds `cut`, the wave
    ends with the bar before, and this bar opens the next one.

    Parameters
    ----------
    bars : DataFrame of shape (n_bars, n_columns)
        Bars of one instrument or a panel.
    cut : float, default=0.504
        The score that ends a wave: the higher, the longer the waves. `fit_cut` fits it.
    w_e, w_n : float, default=1.0
        Weights of error and length.

    Returns
    -------
    DataFrame of shape (n_waves, 11)
        Indexed by ``known_at``, the time of the bar that ended the wave, or by (known_at,
        instrument) for a panel; sorted. The columns:

        - ``start``, ``end``: times of the first and the last bar;
        - ``first``, ``last``: their row numbers in `bars`;
        - ``n``: how many bars, those without prices not counted;
        - ``slope_high``, ``intercept_high``, ``slope_low``, ``intercept_low``: the lines of
          the wave's own bars, in units of price a bar, from its first bar on;
        - ``error``: E of the same bars, NaN where the ATR is 0 and E is not;
        - ``atr``: ATR(14) at the first bar.

    Raises
    ------
    BarsError
        If the bars are not a bar frame.
    EnsembleKitError
        If a parameter is out of its domain.

    Warns
    -----
    UserWarning
        If one wave, the open one included, holds more than half of an instrument's bars, of
        500 or more.

    See Also
    --------
    wave_features : What a model sees of a wave.
    wave_targets : What it has to foretell.

    Notes
    -----
    What it sees: a wave depends on bars up to ``known_at`` only, so the waves of fewer bars
    are the first of the waves of more. The wave that is still open is left out. An
    instrument of too few bars has no wave.

    Waves begin at the first bar with an ATR, the 15th of an instrument. Bars without prices
    are skipped, as if they were not there. Lines go over bar numbers: waves cross nights,
    holidays and other gaps. Where the ATR is 0 (prices that never moved yet), constant prices
    have the error 0, and any other error ends the wave.

    The unit of E is fixed at a wave's first bar. One bad print before it, such as a bar of 40
    dollars in a market of 0.3, makes that unit so large that the wave takes in months, without
    an error: bars before the open and after the close often have such prints. A warning names
    waves like that. Clean the print, or drop the bars outside the session.

    References
    ----------
    W. Norasaed and T. Siriborvornratanakul, Market movement prediction using chart patterns
    and attention mechanism, Discover Analytics 2 (2024).

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.waves import extract_waves
    >>> waves = extract_waves(make_bars(1000, random_state=0))
    >>> len(waves), int(waves["n"].min()), int(waves["n"].max())
    (48, 4, 66)
    """
    check_bars(bars)
    _check_score(w_e, w_n)
    if not isinstance(cut, Real) or not np.isfinite(cut):
        raise EnsembleKitError(f"`cut` must be a finite number; got {cut!r}. Fit one with `fit_cut`.")
    places = _Places.of(bars)
    start, stop, lines = places.waves(cut, w_e, w_n)
    _warn_of_endless(bars, places, stop)
    known = places.row[stop]
    by_time = np.argsort(known)
    first, last = places.row[start][by_time], places.row[stop - 1][by_time]
    times = bars.index.get_level_values(0)
    table = {"start": times[first], "end": times[last], "first": first, "last": last, "n": (stop - start)[by_time]}
    table |= dict(zip(_LINES, lines[by_time].T, strict=True))
    index = bars.index[known[by_time]]
    names = ["known_at", *index.names[1:]]
    return pd.DataFrame(table, index=index.set_names(names))


def fit_cut(bars: pd.DataFrame, *, bars_per_wave: float = 14.46, w_e: float = 1.0, w_n: float = 1.0) -> float:
    """Find the `cut` that makes waves as long as wanted, on average over these bars.

    How often a cut ends waves depends on the market and the bar's length, so a cut is chosen
    by the compression wanted, not by its number. It is fitted: give training bars only.

    Parameters
    ----------
    bars : DataFrame of shape (n_bars, n_columns)
        Training bars of one instrument or a panel.
    bars_per_wave : float, default=14.46
        Bars (those with an ATR) over complete waves, above 3. The default is what the paper
        has: 292,367 bars in 20,226 waves.
    w_e, w_n : float, default=1.0
        As for `extract_waves`.

    Returns
    -------
    float
        A cut where the number of waves passes the one wanted, to a millionth of
        ``w_e + w_n``. The number falls as the cut rises, in steps and not without steps back
        (of a few in a hundred), since a wave that ends elsewhere moves those after it: of
        several cuts that would do, it is any.

    Raises
    ------
    BarsError
        If the bars are not a bar frame.
    EnsembleKitError
        If a parameter is out of its domain, or no cut makes waves of that length here.

    Warns
    -----
    UserWarning
        If the cut leaves one wave of more than half of an instrument's bars, as for
        `extract_waves`.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.waves import extract_waves, fit_cut
    >>> bars = make_bars(3000, random_state=0)
    >>> cut = fit_cut(bars[:1500], bars_per_wave=12)
    >>> waves = extract_waves(bars, cut=cut)
    >>> known = int((waves.index < bars.index[1500]).sum())
    >>> round(1500 / known, 1), round(1500 / (len(waves) - known), 1)
    (12.1, 12.0)
    """
    check_bars(bars)
    _check_score(w_e, w_n)
    if not isinstance(bars_per_wave, Real) or not _SHORTEST < bars_per_wave < np.inf:
        raise EnsembleKitError(
            f"`bars_per_wave` must be a number above {_SHORTEST}; got {bars_per_wave!r}. Take the default, 14.46."
        )
    places = _Places.of(bars)
    cut = _search(places, len(places.row) / bars_per_wave, w_e, w_n)
    if cut is None:
        raise EnsembleKitError(
            f"`bars_per_wave` must be what a cut can make of `bars`; got {bars_per_wave:g} for {len(places.row)} bars "
            "with an ATR. Give more bars, or take another length."
        )
    _warn_of_endless(bars, places, places.waves(cut, w_e, w_n)[1])
    return cut


def _search(places: _Places, wanted: float, w_e: float, w_n: float) -> float | None:
    """Return a cut where the number of waves passes the one wanted, None where none does."""

    def excess(cut: float) -> float:
        return len(places.waves(cut, w_e, w_n)[0]) - wanted

    # Under -w_n every wave ends as soon as it may. Upwards, the score has no bound to begin with.
    scale = w_e + w_n
    lowest, highest = -scale, scale
    while excess(highest) > 0 and highest < 1e6 * scale:
        highest *= 2
    if wanted < 1 or excess(lowest) < 0 or excess(highest) > 0:
        return None
    return float(bisect(excess, lowest, highest, xtol=1e-6 * scale))


def check_waves(waves: pd.DataFrame) -> None:
    """Refuse what `extract_waves` has not returned.

    Parameters
    ----------
    waves : DataFrame
        To be checked.

    Raises
    ------
    EnsembleKitError
        If it is no frame, or lacks a column.
    BarsError
        If its index is not one of sorted times.
    """
    columns = waves.columns if isinstance(waves, pd.DataFrame) else []
    missing = [name for name in (*_COLUMNS, *_LINES) if name not in columns]
    if missing:
        raise EnsembleKitError(
            f"`waves` must be the frame that `extract_waves` returns; got {type(waves).__name__} without "
            f"{', '.join(missing)}. Pass it as it is."
        )
    row_keys(waves, name="waves")


def wave_unit(waves: pd.DataFrame) -> FloatArray:
    """Return the unit of a wave's slopes and distances: ATR(14) at its first bar.

    Parameters
    ----------
    waves : DataFrame
        Of `extract_waves`.

    Returns
    -------
    ndarray of float64, shape (n_waves,)
        In units of price, NaN where prices stood still: 1e-9 of the price or less.
    """
    atr = waves["atr"].to_numpy(np.float64)
    return np.where(atr > _STILL * np.abs(waves["intercept_high"].to_numpy(np.float64)), atr, np.nan)


def _check_score(w_e: float, w_n: float) -> None:
    if not isinstance(w_e, Real) or not 0 < w_e < np.inf:
        raise EnsembleKitError(f"`w_e` must be a finite number above 0; got {w_e!r}. Take 1.")
    if not isinstance(w_n, Real) or not 0 <= w_n < np.inf:
        raise EnsembleKitError(f"`w_n` must be a finite number of at least 0; got {w_n!r}. Take 1.")


def _warn_of_endless(bars: pd.DataFrame, places: _Places, stop: IntArray) -> None:
    """Warn where one wave, finished or open, holds most bars of an instrument."""
    # Waves follow each other: each begins at an instrument's first place or where the one before stops.
    begin = np.union1d(np.flatnonzero(places.new), stop)
    length = np.diff(begin, append=len(places.row))
    instrument = np.cumsum(places.new) - 1
    total = np.bincount(instrument)[instrument[begin]]
    endless = np.flatnonzero((total >= _MANY) & (2 * length > total))
    if not len(endless):
        return
    one = endless[0]
    at, usual = begin[one], np.median(places.atr[instrument == instrument[begin[one]]])
    more = f" ({len(endless)} such instruments)" if len(endless) > 1 else ""
    warnings.warn(
        f"One wave holds {length[one]} of {total[one]} bars: it begins at {bars.index[places.row[at]]} (row "
        f"{places.row[at]}), where ATR(14), the unit of its error, is {places.atr[at]:.4g}; the median is {usual:.4g}"
        f"{more}. Where a bad print made the unit large, clean it or drop the bars outside the session; "
        "otherwise lower `cut`.",
        UserWarning,
        stacklevel=3,
    )


@dataclass(frozen=True)
class _Places:
    """Bars that waves can be made of, those with an ATR, instrument after instrument."""

    row: IntArray
    high: FloatArray
    low: FloatArray
    atr: FloatArray
    new: NDArray[np.bool_]  # an instrument's first

    @classmethod
    def of(cls, bars: pd.DataFrame) -> _Places:
        atr = average_true_range(bars)
        instrument = row_keys(bars, name="bars").instrument
        row = np.argsort(instrument, kind="stable")
        row = row[~np.isnan(atr[row])]
        new = np.diff(instrument[row], prepend=-1) != 0
        high, low = (bars[name].to_numpy(np.float64)[row] for name in ("high", "low"))
        return cls(row, high, low, atr[row], new)

    def waves(self, cut: float, w_e: float, w_n: float) -> tuple[IntArray, IntArray, FloatArray]:
        """Return places where waves start and where the bar after each lies, and the columns of `_LINES`."""
        return _grow(self.high, self.low, self.atr, self.new, float(cut), float(w_e), float(w_n))


@numba.njit(cache=True)
def _grow(
    high: FloatArray, low: FloatArray, atr: FloatArray, new: NDArray[np.bool_], cut: float, w_e: float, w_n: float
) -> tuple[IntArray, IntArray, FloatArray]:
    most = len(high) // _SHORTEST
    starts, stops, lines = np.empty(most, np.int64), np.empty(most, np.int64), np.empty((most, 6))
    count = start = 0
    highs = lows = (0.0, 0.0, 0.0)
    for t in range(len(high)):
        if new[t]:
            start, highs, lows = t, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
            continue
        n = t - start + 1
        taller = _with(highs, n - 1, high[t] - high[start])
        deeper = _with(lows, n - 1, low[t] - low[start])
        if n > _SHORTEST and w_e * _error(n, taller, deeper, atr[start]) - w_n / n > cut:
            starts[count], stops[count] = start, t
            lines[count, 0], lines[count, 1], _ = _line(n - 1, highs)
            lines[count, 2], lines[count, 3], _ = _line(n - 1, lows)
            lines[count, 1] += high[start]
            lines[count, 3] += low[start]
            error = _error(n - 1, highs, lows, atr[start])
            lines[count, 4] = error if error < np.inf else np.nan
            lines[count, 5] = atr[start]
            count += 1
            # Both lines are offset by the first bar, whose share in all sums is therefore 0.
            start, highs, lows = t, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
        else:
            highs, lows = taller, deeper
    return starts[:count], stops[:count], lines[:count]


@numba.njit(cache=True)
def _with(sums: tuple[float, float, float], x: int, y: float) -> tuple[float, float, float]:
    """Return the sums of y, x * y and y * y with one more point."""
    return sums[0] + y, sums[1] + x * y, sums[2] + y * y


@numba.njit(cache=True)
def _line(n: int, sums: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return slope, intercept and sum of squared errors of the line through x = 0 .. n - 1."""
    y, xy, yy = sums
    middle = (n - 1) / 2
    together = xy - middle * y
    slope = together / (n * (float(n) * n - 1) / 12)
    return slope, y / n - slope * middle, max(yy - y * y / n - slope * together, 0.0)


@numba.njit(cache=True)
def _error(n: int, highs: tuple[float, float, float], lows: tuple[float, float, float], atr: float) -> float:
    """Return the root mean square error of both lines in units of `atr`."""
    error = np.sqrt((_line(n, highs)[2] + _line(n, lows)[2]) / (2 * n))
    if atr > 0:
        return error / atr
    return np.inf if error > 0 else 0.0
