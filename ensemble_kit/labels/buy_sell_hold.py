"""Buy / Sell / Hold in hindsight: what every bar is on, between one turn of its session and the next."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.indexers import BaseIndexer

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels._blocks import Blocks
from ensemble_kit.labels._extremes import find_turns
from ensemble_kit.labels.result import Labels, plain_parameters
from ensemble_kit.sessions import Session

__all__ = ["buy_sell_hold"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
SignArray = NDArray[np.int8]
BoolArray = NDArray[np.bool_]

_CLASSES = np.array(["sell", "hold", "buy"], dtype=object)


def buy_sell_hold(
    bars: pd.DataFrame,
    *,
    w: int = 12,
    k: float = 2.0,
    session: str | Session | None = "day",
    min_price: float = 0.0,
    min_dollar_volume: float = 0.0,
    gate_window: int = 390,
) -> Labels:
    """Label each bar `buy` from a bottom of its session on, `sell` from a peak on, else `hold`.

    Turns are those of `peak_slope_bottom` with windows that end at the session's borders,
    alternated: of several peaks without a bottom between them the highest counts (of equal
    ones the first), of bottoms the lowest. Bars before their session's first turn are `hold`.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel.
    w : int, default=12
        Bars of the window on either side of a turn.
    k : float, default=2.0
        The smaller leg of a turn, in ATR(14) at its bar.
    session : "day", exchange code, Session or None, default="day"
        As for `sessions.session_times`. None takes an instrument for one long session:
        for daily bars, or a market that never closes. An exchange's session is the whole
        trading day: bars before its open and after its close belong to it. See the Notes to
        leave them out.
    min_price, min_dollar_volume : float, default=0.0
        Floors for the trailing median of the close, and of close times volume, both as
        the bars hold them (adjusted prices of long ago may lie far below what was paid).
        Bars under a floor are `hold`, with weight 0.
    gate_window : int, default=390
        How many of the instrument's bars those medians are taken over, the bar itself
        included, across sessions; fewer at the instrument's start, NaN left out. A
        session of 1-minute bars, a week of 5-minute ones.

    Returns
    -------
    Labels
        A row is settled by the next turn of its session that is of the other kind, or more
        extreme than those of its run (the run's turn moves there, and the trend before it goes
        on); its `t1` is the end of that turn's window, at most the session's last bar. Where
        none follows, it is the session's last bar, and a bar of a later session must show that
        it was. Before a session's first turn it is the end of the bar's own window.
        `sample_weight` is 0 under a floor, without prices, where not known yet, and for `hold`
        in an instrument's first session: a turn before the data began cannot be seen.
        `details` has a column `turn`: 1 at a peak kept, -1 at a bottom kept, else 0, and NaN
        where the label is not known yet.

    Raises
    ------
    BarsError
        If the bars are not a bar frame, or there is a floor for dollars and no volume.
    EnsembleKitError
        If a parameter is out of its domain, nothing is known yet, or sessions are so short
        that none can have a turn.

    See Also
    --------
    ensemble_kit.labels.peak_slope_bottom : The turns themselves as classes.

    Notes
    -----
    What it sees: row t looks at bars up to t1, so fold borders must be purged by it; the
    floors look at bars up to t. No later bar can change the label, its turn, or `t1` itself.

    For the regular hours alone, drop the other bars first::

        times = session_times(bars.index, "XNYS")
        bars = bars[(times.minute >= 0) & (times.minute < times.length) & ~times.holiday]

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.labels import buy_sell_hold
    >>> labels = buy_sell_hold(make_bars(1000, random_state=0), session="XNYS")
    >>> labels
    <Labels buy_sell_hold: 976 of 1000 rows known (49 of weight 0); H0: buy 43.15%, sell 39.48%, hold 17.37%>
    >>> labels.details["turn"].value_counts().to_dict()
    {0.0: 935, -1.0: 21, 1.0: 20}
    """
    check_bars(bars)
    _check_parameters(w, k, min_price, min_dollar_volume, gate_window)
    blocks = Blocks.of(bars, session)
    gated = _under_floor(bars, blocks, min_price, min_dollar_volume, gate_window)
    # Only a later session's bar proves that a session has ended: the last one may still go on.
    over = np.where(blocks.stop < blocks.last, blocks.stop, blocks.last + 1)
    window_end = np.minimum(np.arange(len(over)) + w, over)
    turn, _ = find_turns(bars, blocks, w, k)
    # A turn whose window is not over settles nothing: rows that wait for it stay unknown.
    high, low, close = blocks.floats(bars, "high", "low", "close")
    kept, trend, settled = _alternate(turn, np.where(turn > 0, high, -low), window_end, over, blocks.start)
    known = settled <= blocks.last
    _check_reach(blocks, known, w)
    # What turned before the data began is not known: nor whether a first session's hold is one.
    unsure = (blocks.start == blocks.first) & (trend == 0)
    weight = known & ~gated & ~unsure & ~np.isnan(high + low + close)
    names = np.where(known, _CLASSES[np.where(gated, 0, trend) + 1], np.nan)
    return Labels(
        blocks.series(names, "H0").astype("str"),
        blocks.t1(settled, known),
        blocks.series(weight.astype(np.float64), "sample_weight"),
        plain_parameters(
            "buy_sell_hold",
            w=w,
            k=float(k),
            session=session,
            min_price=float(min_price),
            min_dollar_volume=float(min_dollar_volume),
            gate_window=gate_window,
        ),
        blocks.series(np.where(known, kept, np.nan), "turn").to_frame(),
    )


@numba.njit(cache=True)
def _alternate(
    turn: SignArray, reach: FloatArray, window_end: IntArray, over: IntArray, start: IntArray
) -> tuple[SignArray, SignArray, IntArray]:
    """Keep the most extreme turn of each run, and say where each place stands, and when that is settled.

    Turns are +1, -1 or 0 by place, `reach` how extreme each is (larger is more). Returned are
    the turns kept, the trend that each place is on (+1 after a bottom, -1 after a peak, 0 before
    the first) and the last place that settling it took.
    """
    kept, trend = np.zeros_like(turn), np.zeros_like(turn)
    settled = window_end.copy()
    held = -1  # the most extreme turn of the run so far; none yet
    before = 0  # the trend that the run's first turn ended
    for t in range(len(turn)):
        if start[t] == t:
            held, before = -1, 0
        if turn[t] != 0 and (held < 0 or turn[t] != turn[held] or reach[t] > reach[held]):
            if held >= 0:
                settled[held:t] = window_end[t]
                if turn[t] != turn[held]:
                    before = -turn[held]
                else:  # the turn moves here, and the trend before it goes on
                    kept[held] = 0
                    trend[held:t] = before
            held = t
            kept[t] = turn[t]
        if held >= 0:
            trend[t] = -turn[held]
            settled[t] = over[t]
    return kept, trend, settled


def _under_floor(
    bars: pd.DataFrame, blocks: Blocks, min_price: float, min_dollar_volume: float, gate_window: int
) -> BoolArray:
    """Whether the median price or dollar volume of the bars up to each place is under its floor, or not known."""
    gated = np.zeros(len(bars), dtype=np.bool_)
    first = _TrailingBars(window_size=gate_window, first=blocks.first)
    price = blocks.floats(bars, "close")[0]
    if min_price > 0:
        gated |= ~(_trailing_median(price, first) >= min_price)
    if min_dollar_volume > 0:
        if "volume" not in bars or bars["volume"].isna().all():
            raise BarsError(
                f"`bars` must have volumes for min_dollar_volume={min_dollar_volume:g}; got "
                f"{'only NaN' if 'volume' in bars else 'no column `volume`'}. Add them, or set the floor to 0."
            )
        gated |= ~(_trailing_median(price * blocks.floats(bars, "volume")[0], first) >= min_dollar_volume)
    return gated


class _TrailingBars(BaseIndexer):
    """Windows that end with each place and begin no earlier than its instrument."""

    window_size: int
    first: IntArray

    def get_window_bounds(
        self,
        num_values: int = 0,
        min_periods: int | None = None,  # noqa: ARG002 - pandas' signature
        center: bool | None = None,  # noqa: ARG002
        closed: str | None = None,  # noqa: ARG002
        step: int | None = None,  # noqa: ARG002
    ) -> tuple[IntArray, IntArray]:
        end = np.arange(1, num_values + 1)
        return np.maximum(end - self.window_size, self.first), end


def _trailing_median(values: FloatArray, windows: BaseIndexer) -> FloatArray:
    return pd.Series(values).rolling(windows, min_periods=1).median().to_numpy()


def _check_reach(blocks: Blocks, known: BoolArray, w: int) -> None:
    """Refuse bars of which nothing is known, and sessions too short for a turn."""
    if not known.any():
        longest = int((blocks.last - blocks.first).max()) + 1
        raise EnsembleKitError(
            f"`bars` must have more than {w} bars of an instrument for w={w}, or a session and a bar of the next; "
            f"got {longest}. Give more bars, or lower `w`."
        )
    longest = int((blocks.stop - blocks.start).max()) + 1
    if longest < 3:
        raise EnsembleKitError(
            "`session` must hold at least 3 bars, one that turns and one on either side; "
            f"got sessions of at most {longest}. For daily bars give session=None."
        )


def _check_parameters(w: int, k: float, min_price: float, min_dollar_volume: float, gate_window: int) -> None:
    for name, count in (("w", w), ("gate_window", gate_window)):
        if not isinstance(count, Integral) or count < 1:
            raise EnsembleKitError(f"`{name}` must be an integer of at least 1; got {count!r}. Count it in bars.")
    cures = {
        "k": (k, "Measure it in ATR(14)"),
        "min_price": (min_price, "0 sets none"),
        "min_dollar_volume": (min_dollar_volume, "0 sets none"),
    }
    for name, (value, cure) in cures.items():
        if not isinstance(value, Real) or not 0 <= value < math.inf:
            raise EnsembleKitError(f"`{name}` must be a finite number of at least 0; got {value!r}. {cure}.")
