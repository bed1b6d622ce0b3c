"""Peaks and bottoms in hindsight: Peak / Slope / Bottom labels over several horizons."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.atr import average_true_range
from ensemble_kit.bars import check_bars, row_keys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels.result import Labels
from ensemble_kit.sessions import Session, session_times

__all__ = ["TurnLegs", "left_legs", "peak_slope_bottom"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_CLASSES = np.array(["bottom", "slope", "peak"], dtype=object)


def peak_slope_bottom(
    bars: pd.DataFrame,
    *,
    horizons: int = 1,
    w: int = 36,
    k: float = 2.0,
    clip_session: str | Session | None = None,
) -> Labels:
    """Label each bar `peak`, `slope` or `bottom`, and the bars after it by horizon.

    A Peak is a bar whose high is strictly above the `w` earlier highs, not below the `w`
    later ones, and at least `k` ATR(14) above the lowest low of both windows. A Bottom
    mirrors it. Where both hold, and everywhere else, the bar is a Slope.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel.
    horizons : int, default=1
        Column Hh at row t is the class of bar t + h exactly, h = 0 .. horizons - 1.
    w : int, default=36
        Bars of the window on either side.
    k : float, default=2.0
        The smaller leg, in ATR(14) at the bar.
    clip_session : str or Session, default=None
        If given (as for `sessions.session_times`), windows end at the session's borders;
        its first and last bar, with nothing on one side, are Slopes.

    Returns
    -------
    Labels
        The last `horizons - 1 + w` rows of each instrument are unknown. `t1` is `w` bars
        (or the session's end) after the farthest bar labelled. `sample_weight` is 0 where
        the class of a bar labelled cannot be computed: in the first `w` bars, whose left
        window the start of the data cuts off, before the first ATR, without prices, where
        a window holds none, and where it is not known yet.

    Raises
    ------
    BarsError
        If the bars are not a bar frame.
    EnsembleKitError
        If a parameter is out of its domain, or every instrument is too short.

    Notes
    -----
    What it sees: row t looks at bars up to t1, so fold borders must be purged by it. Half
    of the label (a new extreme after a leg) is known at its bar; further horizons add
    cells, not information. Scores need the nulls in `ensemble_kit.metrics`.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.labels import peak_slope_bottom
    >>> bars = make_bars(1000, random_state=0)
    >>> labels = peak_slope_bottom(bars, horizons=2, w=12)
    >>> X, y = labels.align(bars)
    >>> len(bars) - len(X), sorted(y["H0"].unique())
    (13, ['bottom', 'peak', 'slope'])
    """
    check_bars(bars)
    _check_parameters(horizons, w, k)
    blocks = _Blocks.of(bars, clip_session)
    turn, whole = _turns(blocks, w, k)
    at = np.arange(len(turn))
    # The farthest bar labelled, and the last bar that its right window holds.
    farthest = at + horizons - 1
    inside = farthest <= blocks.last
    looked_at = farthest + w
    if clip_session is not None:
        # Only a later session's bar proves that a session has ended: the last one may still go on.
        stop = blocks.stop[np.minimum(farthest, len(at) - 1)]
        looked_at = np.where(stop < blocks.last, np.minimum(looked_at, stop), looked_at)
    known = inside & (looked_at <= blocks.last)
    if not known.any():
        longest = int((blocks.last - blocks.first).max()) + 1
        raise EnsembleKitError(
            f"`bars` must have at least {horizons + w} bars of an instrument for w={w} and horizons={horizons}; "
            f"got {longest}. Give more bars, or lower `w` or `horizons`."
        )
    ahead = np.minimum(at[:, None] + np.arange(horizons), len(at) - 1)
    definition = {
        "label": "peak_slope_bottom",
        "horizons": int(horizons),
        "w": int(w),
        "k": float(k),
        "clip_session": asdict(clip_session) if isinstance(clip_session, Session) else clip_session,
    }
    return _as_labels(
        bars.index, blocks.order, turn[ahead], looked_at, known, known & whole[ahead].all(axis=1), definition
    )


def _check_parameters(horizons: int, w: int, k: float) -> None:
    for name, value in (("horizons", horizons), ("w", w)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise EnsembleKitError(f"`{name}` must be an integer of at least 1; got {value!r}. Count it in bars.")
    if not isinstance(k, Real) or not k >= 0:
        raise EnsembleKitError(f"`k` must be a number of at least 0; got {k!r}. Measure it in ATR(14).")


def _as_labels(
    index: pd.Index[Any],
    order: IntArray,
    turn: NDArray[np.int8],
    looked_at: IntArray,
    known: NDArray[np.bool_],
    whole: NDArray[np.bool_],
    definition: dict[str, Any],
) -> Labels:
    """Bring block order back to row order, and class numbers to names."""
    classes = np.empty(turn.shape, dtype=object)
    classes[order] = np.where(known[:, None], _CLASSES[turn + 1], np.nan)
    names = [f"H{h}" for h in range(turn.shape[1])]
    labels: pd.Series[Any] | pd.DataFrame = (
        pd.Series(classes[:, 0], index=index, name="H0", dtype="str")
        if len(names) == 1
        else pd.DataFrame(classes, index=index, columns=names, dtype="str")
    )
    by_row = np.empty_like(order)
    by_row[order] = np.arange(len(order))
    times = index.get_level_values(0)
    ends = times[order[np.minimum(looked_at, len(order) - 1)]].where(known)
    t1 = pd.Series(ends[by_row], index=index, name="t1")
    weight = pd.Series(whole[by_row].astype(np.float64), index=index, name="sample_weight")
    return Labels(labels, t1, weight, definition)


def _turns(blocks: _Blocks, w: int, k: float) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Return +1 (peak), -1 (bottom) or 0, and whether the row's class can be computed."""
    high, low = blocks.high, blocks.low
    top, floor = blocks.extremes_before(w)
    top_after, floor_after = blocks.extremes_after(w)
    least = k * blocks.atr
    # Comparisons with NaN (no window, no ATR, no price) are False: no turn.
    peak = (high > top) & (high >= top_after) & (high - np.maximum(floor, floor_after) >= least)
    bottom = (low < floor) & (low <= floor_after) & (np.minimum(top, top_after) - low >= least)
    at = np.arange(len(high))
    # The start of the data, unlike a session's, cuts windows off: what lay before it is not known.
    whole = (at - blocks.first >= w) | (blocks.start > blocks.first)
    whole &= ~np.isnan(high + low + blocks.atr)
    # A window may be empty at its border, not for want of prices.
    whole &= ~np.isnan(top + floor) | (at == blocks.start)
    whole &= ~np.isnan(top_after + floor_after) | (at == blocks.stop)
    return ((peak.astype(np.int8) - bottom) * whole).astype(np.int8), whole


@dataclass(frozen=True)
class TurnLegs:
    """How far, in ATR(14), a new extreme lies from the other end of the window before it.

    Attributes
    ----------
    peak, bottom : ndarray of float64, shape (n,)
        The left leg where the bar's high (low) is a strict new extreme of the last `w`
        bars, 0 elsewhere. Row t sees rows <= t.
    """

    peak: FloatArray
    bottom: FloatArray


def left_legs(bars: pd.DataFrame, *, w: int = 36) -> TurnLegs:
    """Measure the half of a turn that is known at its bar: new extreme and left leg.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel.
    w : int, default=36
        Bars of the left window.

    Returns
    -------
    TurnLegs
        In the order of the bars' rows.
    """
    blocks = _Blocks.of(bars, None)
    top, floor = blocks.extremes_before(w)
    legs = np.zeros((2, len(top)))
    # Where prices stood still the ATR is 0, and there is no new extreme either.
    unit = np.where(blocks.atr > 0, blocks.atr, np.nan)
    legs[0, blocks.order] = np.where(blocks.high > top, (blocks.high - floor) / unit, 0.0)
    legs[1, blocks.order] = np.where(blocks.low < floor, (top - blocks.low) / unit, 0.0)
    peak, bottom = np.nan_to_num(legs)
    return TurnLegs(peak, bottom)


@dataclass(frozen=True)
class _Blocks:
    """Prices laid instrument by instrument, with the borders that windows may not cross."""

    order: IntArray  # row number of each place
    high: FloatArray
    low: FloatArray
    atr: FloatArray
    first: IntArray  # each place's instrument
    last: IntArray
    start: IntArray  # each place's window borders: the instrument's, or the session's
    stop: IntArray

    @classmethod
    def of(cls, bars: pd.DataFrame, session: str | Session | None) -> _Blocks:
        instrument = row_keys(bars, name="bars").instrument
        order = np.argsort(instrument, kind="stable")
        first, last = _borders(instrument[order])
        start, stop = first, last
        if session is not None:
            day = session_times(bars.index, session).day[order]
            start, stop = _borders(instrument[order], day)
        high, low = (bars[column].to_numpy(np.float64)[order] for column in ("high", "low"))
        atr = average_true_range(bars)[order]
        return cls(order, high, low, atr, first, last, start, stop)

    def extremes_before(self, w: int) -> tuple[FloatArray, FloatArray]:
        """Highest high and lowest low of the w bars before each."""
        return _trailing_max(self.high, self.start, w), -_trailing_max(-self.low, self.start, w)

    def extremes_after(self, w: int) -> tuple[FloatArray, FloatArray]:
        """Highest high and lowest low of the w bars after each: the same, read backwards."""
        start = len(self.stop) - 1 - self.stop[::-1]
        high, low = self.high[::-1], self.low[::-1]
        return _trailing_max(high, start, w)[::-1], -_trailing_max(-low, start, w)[::-1]


def _borders(*keys: IntArray) -> tuple[IntArray, IntArray]:
    """First and last place of the run of equal keys that each place belongs to."""
    n = len(keys[0])
    new = np.ones(n, dtype=bool)
    new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    run = np.cumsum(new) - 1
    starts = np.flatnonzero(new)
    stops = np.append(starts[1:], n) - 1
    return starts[run], stops[run]


@numba.njit(cache=True)
def _trailing_max(values: FloatArray, start: IntArray, w: int) -> FloatArray:
    """Maximum of the w values before each place, no farther back than `start`; NaN skipped, NaN if none."""
    n = len(values)
    out = np.full(n, np.nan)
    queue = np.empty(n, dtype=np.int64)
    head = tail = 0
    for t in range(n):
        oldest = max(t - w, start[t])
        while head < tail and queue[head] < oldest:
            head += 1
        if head < tail:
            out[t] = values[queue[head]]
        if not np.isnan(values[t]):
            while head < tail and values[queue[tail - 1]] <= values[t]:
                tail -= 1
            queue[tail] = t
            tail += 1
    return out
