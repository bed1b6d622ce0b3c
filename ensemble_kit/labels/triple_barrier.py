"""Triple barrier: what comes first after a bar, a profit, a stop or the end of time."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import PRICES, check_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels._blocks import Blocks
from ensemble_kit.labels.events import cusum_events, ewm_volatility, uniqueness
from ensemble_kit.labels.result import Labels, plain_parameters

__all__ = ["triple_barrier"]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BARRIERS = pd.Index(["stop", "time", "profit"])


def triple_barrier(
    bars: pd.DataFrame,
    *,
    horizon: int = 36,
    profit: float = 1.0,
    stop: float = 1.0,
    min_return: float = 0.0,
    cusum: float | None = None,
    side: pd.Series[Any] | None = None,
    span: int = 100,
) -> Labels:
    """Label each bar by the barrier that its price reaches first: profit, stop or time.

    A bet enters at the bar's close. Its profit and its stop lie so many volatilities away; bars
    t + 1 to t + horizon are searched for the first whose high or low reaches one of them,
    and at the close of bar t + horizon the time is up.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel.
    horizon : int, default=36
        Bars until the time is up.
    profit, stop : float, default=1.0
        How far the barriers lie from the entry, in units of the target: `ewm_volatility` at
        the bar, of simple returns from close to close. 0 for none. Prices spread with the root
        of time: multiples of about ``0.8 * sqrt(horizon)`` give three classes of like size.
    min_return : float, default=0.0
        Bars whose target does not exceed it (a simple return) are no events.
    cusum : float, default=None
        If given, only bars at which prices have drifted by so many targets are events: those
        of ``cusum_events(bars, cusum * ewm_volatility(bars, span=span))``.
    side : Series of -1, 0 and 1, default=None
        A primary model's bet at each bar's close, on the bars' index; labels then tell whether
        the bet pays. 0 is no bet, and no event.
    span : int, default=100
        Bars of the volatility.

    Returns
    -------
    Labels
        Without `side`: 1 where the profit, above, came first, -1 where the stop, below, did, 0
        where time was up. With `side`, meta-labels: 1 where the bet gained, be it by the
        clock, 0 where it did not. Unknown are the last `horizon` rows of each instrument.

        `t1` is the bar that reached the barrier. `sample_weight` is the average uniqueness of
        the label among events (see `average_uniqueness`), 0 for bars that are no events (no
        target yet, no price to enter at, `cusum`, `min_return`, `side` 0), for those followed by
        no price at all, and for unknown ones. `details` holds `return` (simple, at the exit, of
        the bet), `target`, `barrier` (`profit`, `stop`, `time`) and `event`.

    Raises
    ------
    BarsError
        If the bars are not a bar frame.
    EnsembleKitError
        If a parameter is out of its domain, `side` is on another index or holds other values,
        or every instrument is too short.

    Notes
    -----
    What it sees: target and event at row t see rows <= t; label and weight see bars up to `t1`. Events
    that are still open share the bars so far like any other, so that a weight, once known, stays.

    Inside one bar the open comes first: an open beyond a barrier is an exit at the open, better
    or worse than the barrier. Where a bar then reaches both, the stop is taken to come first. Without
    `side` that is the lower barrier: the bet is long. -1 is hence not a gain of the opposite
    bet, which would have been stopped in such a bar, too; for it, label with a `side` of -1. With
    multiples of 1 that rule settles 2 to 5 % of all labels, with 2 or more at most 1 %.

    A label counts as known once its time is up, though many barriers are reached before.
    Known at the touch, the newest rows would be those that moved quickly, and no fair
    sample. `t1`, the touch, makes a purge exact but leaves such a sample at the end of a training
    block, of at most `horizon` rows; where all instruments share their times, ``purge=horizon``
    leaves none.

    Of a bar whose high or low is NaN the other prices count. When time is up, the last known
    close is the exit.

    With `side`, `definition` holds ``"side": "given"``: bets cannot be written down with it
    and must be given anew for other bars.

    References
    ----------
    M. Lopez de Prado, Advances in Financial Machine Learning (2018), chapters 3 and 4. Without a
    side its code labels the end of time by the sign of the return (``details["return"]`` has it)
    and its exercise 3.3 by 0, as here; meta-labels go by the gain, as in its code.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.labels import triple_barrier
    >>> bars = make_bars(2000, random_state=0)
    >>> labels = triple_barrier(bars, horizon=24, profit=4, stop=4, cusum=2)
    >>> X, y = labels.align(bars)
    >>> len(bars) - len(X), sorted(y.unique().tolist())
    (24, [-1, 0, 1])
    >>> trend = np.sign(bars["close"].diff(10)).fillna(0)
    >>> meta = triple_barrier(bars, horizon=24, profit=4, stop=4, side=trend)
    >>> meta.details.groupby("barrier", observed=True)["return"].mean().gt(0).to_dict()
    {'stop': False, 'time': False, 'profit': True}
    """
    check_bars(bars)
    _check_parameters(horizon, profit, stop, min_return, cusum)
    blocks = Blocks.of(bars)
    bet = _bets(bars, side, blocks)
    volatility = ewm_volatility(bars, span=span)
    target = blocks.take(volatility)
    event = (target > min_return) & (bet != 0)  # no target where there is no price to enter at
    if cusum is not None:
        event &= blocks.take(cusum_events(bars, (cusum * volatility).where(volatility > 0)))
    at = np.arange(len(target))
    known = at + horizon <= blocks.last
    if not known.any():
        longest = int((blocks.last - blocks.first).max()) + 1
        raise EnsembleKitError(
            f"`bars` must have more than {horizon} bars of an instrument for horizon={horizon}; got {longest}. "
            "Give more bars, or lower `horizon`."
        )
    exits = _Exits.find(bars, blocks, bet, target, horizon, profit, stop)
    label = exits.outcome if side is None else exits.gain > 0
    # Undecided events share the bars up to now like any other, so that a weight once known stays.
    weight = uniqueness(exits.at, event & (exits.at > at), blocks.first)
    weight[~known | np.isnan(exits.gain)] = 0.0
    details = pd.DataFrame(
        {
            "return": blocks.put(np.where(known, exits.gain, np.nan)),
            "target": blocks.put(target),
            "barrier": pd.Categorical.from_codes(blocks.put(np.where(known, exits.outcome + 1, -1)), _BARRIERS),
            "event": blocks.put(event),
        },
        index=bars.index,
    )
    given = {} if side is None else {"side": "given"}
    return Labels(
        blocks.series(np.where(known, label, np.nan), "H0"),
        blocks.t1(exits.at, known),
        blocks.series(weight, "sample_weight"),
        plain_parameters(
            "triple_barrier",
            horizon=horizon,
            profit=float(profit),
            stop=float(stop),
            min_return=float(min_return),
            cusum=None if cusum is None else float(cusum),
            span=span,
            **given,
        ),
        details,
    )


def _check_parameters(horizon: int, profit: float, stop: float, min_return: float, cusum: float | None) -> None:
    if not isinstance(horizon, int | np.integer) or horizon < 1:
        raise EnsembleKitError(f"`horizon` must be an integer of at least 1; got {horizon!r}. Count it in bars.")
    for name, value, unit in (
        ("profit", profit, "Measure it in targets; 0 is no barrier"),
        ("stop", stop, "Measure it in targets; 0 is no barrier"),
        ("min_return", min_return, "It is a simple return: 0.001 is 0.1 %"),
    ):
        if not isinstance(value, Real) or not 0 <= value < np.inf:
            raise EnsembleKitError(f"`{name}` must be a finite number of at least 0; got {value!r}. {unit}.")
    if cusum is not None and (not isinstance(cusum, Real) or not 0 < cusum < np.inf):
        raise EnsembleKitError(
            f"`cusum` must be None or a finite number above 0; got {cusum!r}. Measure it in targets; None is every bar."
        )


def _bets(bars: pd.DataFrame, side: pd.Series[Any] | None, blocks: Blocks) -> FloatArray:
    """Return the bet of each place: long where no side is given."""
    if side is None:
        return np.ones(len(bars))
    if not isinstance(side, pd.Series) or not side.index.equals(bars.index):
        got = f"a Series on another index of {len(side)}" if isinstance(side, pd.Series) else repr(side)
        raise EnsembleKitError(
            f"`side` must be a Series of -1, 0 and 1 on the bars' index ({len(bars)} rows); got {got}. "
            "Give the bets of these very bars."
        )
    wrong = side[~side.isin([-1, 0, 1])]
    if len(wrong):
        raise EnsembleKitError(
            f"`side` must hold only -1, 0 and 1; got {wrong.iloc[0]} at {wrong.index[0]} ({len(wrong)} such row(s)). "
            "Take the sign of the bet, and 0 where there is none."
        )
    return blocks.take(side.to_numpy(np.float64))


@dataclass(frozen=True)
class _Exits:
    """Where each place's bet ends, on the bars there are.

    Attributes
    ----------
    at : ndarray of int64, shape (n,)
        The place; an instrument's last one for bets that are still open.
    outcome : ndarray of int64, shape (n,)
        1 for the profit, -1 for the stop, 0 for neither.
    gain : ndarray of float64, shape (n,)
        Simple return of the bet at its exit, NaN without prices.
    """

    at: IntArray
    outcome: IntArray
    gain: FloatArray

    @classmethod
    def find(
        cls,
        bars: pd.DataFrame,
        blocks: Blocks,
        bet: FloatArray,
        target: FloatArray,
        horizon: int,
        profit: float,
        stop: float,
    ) -> _Exits:
        """Follow the bets of all places."""
        opened, high, low, entry = blocks.floats(bars, *PRICES)
        # Nothing reaches NaN: no bet, no barriers, nor where prices stood still.
        unit = np.where((target > 0) & (bet != 0), target, np.nan)
        gain_at, loss_at = (profit or np.inf) * unit, (stop or np.inf) * unit
        top = entry * (1 + np.where(bet > 0, gain_at, loss_at))
        floor = entry * (1 - np.where(bet > 0, loss_at, gain_at))
        highest, lowest = np.fmax.reduce([opened, high, entry]), np.fmin.reduce([opened, low, entry])
        rise, fall = _first_reach(highest, top), _first_reach(-lowest, -floor)
        now = np.arange(len(entry))
        at = np.minimum(np.minimum(rise, fall), np.minimum(now + horizon, blocks.last))
        up, down, opened, long = rise == at, fall == at, opened[at], bet > 0
        # In a bar that reaches both, the stop comes first, unless the open lay beyond the profit already.
        down &= ~up | np.where(long, ~(opened >= top), opened <= floor)
        up &= ~down
        last = np.maximum.accumulate(np.where(np.isnan(entry), -1, now))[at]
        close = np.where(last > now, entry[last], np.nan)
        price = np.select([up, down], [np.fmax(top, opened), np.fmin(floor, opened)], close)
        return cls(at, (up.astype(np.int64) - down) * np.where(long, 1, -1), bet * (price / entry - 1))


@numba.njit(cache=True)
def _first_reach(values: FloatArray, level: FloatArray) -> IntArray:
    """First later place, of whatever instrument, whose value reaches each place's level; n if none.

    Read backwards, only values above all nearer ones can be the first to reach a level: a
    stack whose values fall towards its top, in which the nearest that reaches is found by halving.
    """
    n = len(values)
    out = np.full(n, n, dtype=np.int64)
    stack = np.empty(n, dtype=np.int64)
    size = 0
    for t in range(n - 1, -1, -1):
        reach, miss = 0, size  # stack[:reach] do, stack[miss:] do not
        while reach < miss:
            middle = (reach + miss) // 2
            if values[stack[middle]] >= level[t]:
                reach = middle + 1
            else:
                miss = middle
        if reach > 0:
            out[t] = stack[reach - 1]
        if not np.isnan(values[t]):
            while size > 0 and values[stack[size - 1]] <= values[t]:
                size -= 1
            stack[size] = t
            size += 1
    return out
