"""Market structure as a table: what `ICTFeatures` knows, when it knew it, and how long it stood."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from ensemble_kit.bars import PRICES, check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features import _ict_liquidity as liquidity
from ensemble_kit.features import _ict_swings as swing
from ensemble_kit.features import _ict_zones as zone
from ensemble_kit.features._ict_pass import COLUMNS, advance
from ensemble_kit.features._ict_state import DOWN, N_BLOCKS, N_GAPS, N_POOLS, RIGHT, SIGN, UP, State
from ensemble_kit.features.ict import ICTFeatures
from ensemble_kit.sessions import session_times

__all__ = ["STRUCTURE_KINDS", "market_structure"]

STRUCTURE_KINDS = ("swing_high", "swing_low", "bos", "choch", "order_block", "gap", "sweep", "pool")
_COLUMNS = ("kind", "direction", "start", "known", "end", "low", "high")
_CHOCH = COLUMNS.index("ms_choch")
_SIDES = (UP, DOWN)


def market_structure(bars: pd.DataFrame, ict: ICTFeatures | None = None) -> pd.DataFrame:
    """List the swings, breaks, order blocks, fair value gaps, sweeps and pools behind `ICTFeatures`.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        A bar frame of one instrument.
    ict : ICTFeatures, default=None
        Whose parameters count. None takes the defaults.

    Returns
    -------
    DataFrame of shape (n_found, 7)
        In the order in which things became known. The columns:

        - ``kind``: ``swing_high``, ``swing_low``, ``bos``, ``choch``, ``order_block``, ``gap``,
          ``sweep`` or ``pool``;
        - ``direction``: +1 bullish, -1 bearish. A swing low and a pool under the price are +1,
          for that is where the price turned up; a sweep of such a pool is +1 as well;
        - ``start``: time of the bar where it lies: the pivot, the broken swing's pivot, the
          block's candle, the gap's first bar, the first pivot of the pool (of a sweep, the
          pool taken);
        - ``known``: time of the bar at whose close it was known, never before `start`;
        - ``end``: time of the bar that ended it, NaT while it stands;
        - ``low``, ``high``: its edges in units of price, equal for what is a level.

    Raises
    ------
    BarsError
        If the bars cannot be used, or are a panel.
    EnsembleKitError
        If `ict` is no `ICTFeatures`, or has parameters outside their domain.

    See Also
    --------
    ICTFeatures : The rules, and the same knowledge as columns.

    Notes
    -----
    What it sees: row by row nothing later than its `known`, save `end`. The table of fewer bars
    is that of more, without what was known later and with NaT where `end` was still to come.

    No rule is applied here: the kernels of `ICTFeatures` are moved on bar by bar, and what
    appears in their memory or leaves it is written down. So at any bar, rows that are known
    and not ended are what the columns of that bar count and measure. What ends

    - a swing: a close beyond it, or the next swing of its kind;
    - an order block: a close beyond its far edge, or `max_age`;
    - a gap: its far edge reached, or `max_age`;
    - a pool: the bar that trades beyond it, a sweep or a run;
    - a break, a sweep: its own bar;
    - any zone or pool, too: a newer one where `max_zones` or `max_pools` are remembered.

    A bar that sweeps several pools has a row for each; ``liq_sweep_depth`` is that of the deepest.
    A hundred thousand bars take some seconds, far longer than their columns.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features.structure import market_structure
    >>> found = market_structure(make_bars(500, random_state=0))
    >>> found.loc[found["kind"] == "choch", ["direction", "start", "known"]].head(2)
        direction                     start                     known
    24          1 2022-01-03 19:50:00+00:00 2022-01-03 20:50:00+00:00
    87         -1 2022-01-06 14:55:00+00:00 2022-01-06 16:00:00+00:00
    """
    check_bars(bars)
    if isinstance(bars.index, pd.MultiIndex):
        raise BarsError("`bars` must be of one instrument; got a panel. Pass `bars.xs(instrument, level=1)`.")
    ict = ICTFeatures() if ict is None else ict
    if not isinstance(ict, ICTFeatures):
        raise EnsembleKitError(
            f"`ict` must be an ICTFeatures; got {type(ict).__name__}. Give it the parameters to read the bars by."
        )
    begin = clone(ict).stream().state
    state = State(**{name: begin[name] for name in State._fields})
    prices = np.stack([bars[name].to_numpy(np.float64) for name in PRICES])
    day = session_times(bars.index, ict.session).day
    ledger, first, out = _Ledger(prices), np.zeros(1, np.int64), np.empty((len(COLUMNS), 1), np.float32)
    for row in range(len(bars)):
        state = advance(state, prices[:, row : row + 1], day[row : row + 1], first, out)
        if state.clock[0] > len(ledger.row_of):  # a bar without prices leaves the clock where it was
            ledger.take(row, state, turned=bool(out[_CHOCH, 0] != 0))
    return ledger.table(bars.index)


class _Ledger:
    """What has been seen to appear in the state of one instrument, and to leave it."""

    def __init__(self, prices: NDArray[np.float64]) -> None:
        opened, self.high, self.low, self.close = prices
        self.against = self.close < opened, self.close > opened  # a bullish, a bearish break
        self.row_of: list[int] = []  # of the kernels' bar numbers, which leave out bars without prices
        self.found: list[list[Any]] = []  # as _COLUMNS, with row numbers for times, -1 for none
        self.swings: list[list[float]] = [[np.nan] * 7] * 2  # of the bar before
        self.swing_at = [-1, -1]
        self.zones: dict[tuple[str, int], dict[float, int]] = {
            (kind, side): {} for kind in ("order_block", "gap") for side in _SIDES
        }  # by the number of the bar that made it known: there is one a bar
        self.pools: tuple[list[int], list[int]] = ([], [])  # outermost first
        self.innermost: list[tuple[float, float]] = [(np.nan, np.nan)] * 2

    def take(self, row: int, state: State, *, turned: bool) -> None:
        """Compare the state after this bar with what stood before it."""
        now = float(len(self.row_of))
        self.row_of.append(row)
        swings, counts = state.swings.tolist(), state.counts.tolist()
        for side in _SIDES:
            self._swing(side, row, swings[side], turned=turned)
        for kind, zones, n in (
            ("order_block", state.blocks, counts[N_BLOCKS]),
            ("gap", state.gaps, counts[N_GAPS]),
        ):
            for side in _SIDES:
                self._zones(kind, side, row, now, zones[side, : n[side]], swings[side])
        for side in _SIDES:
            pivot = self.row_of[max(int(now - state.settings[RIGHT]), 0)]
            self._pools(side, row, pivot, state.pools[side, : counts[N_POOLS][side]])
        self.swings = swings

    def _add(self, kind: str, sign: float, start: int, known: int, end: int, *edges: float) -> int:
        self.found.append([kind, int(sign), start, known, end, min(edges), max(edges)])
        return len(self.found) - 1

    def _end(self, places: Iterable[int], row: int) -> None:
        for place in places:
            if self.found[place][4] < 0:
                self.found[place][4] = row

    def _swing(self, side: int, row: int, after: list[float], *, turned: bool) -> None:
        before = self.swings[side]
        level, start = SIGN[side] * after[swing.LEVEL], after[swing.BORN]
        if start != before[swing.BORN] and start == start:  # noqa: PLR0124 - NaN is no swing yet
            self._end([self.swing_at[side]] if self.swing_at[side] >= 0 else [], row)
            kind = ("swing_high", "swing_low")[side]
            self.swing_at[side] = self._add(kind, -SIGN[side], self.row_of[int(start)], row, -1, level)
        elif before[swing.UNBROKEN] == 1.0 and after[swing.UNBROKEN] == 0.0:
            self._end([self.swing_at[side]], row)
            self._add("choch" if turned else "bos", SIGN[side], self.row_of[int(start)], row, row, level)

    def _zones(self, kind: str, side: int, row: int, now: float, zones: NDArray[np.float64], leg: list[float]) -> None:
        standing, born = self.zones[kind, side], zones[:, zone.BORN].tolist()
        if born == list(standing):
            return
        self._end((standing.pop(key) for key in standing.keys() - set(born)), row)
        if born and born[-1] == now:
            edges = [SIGN[side] * zones[-1, field] for field in (zone.NEAR, zone.FAR)]
            start = self._candle(side, edges, leg) if kind == "order_block" else self.row_of[-3]
            standing[now] = self._add(kind, SIGN[side], start, row, -1, *edges)

    def _candle(self, side: int, edges: list[float], leg: list[float]) -> int:
        """Find the candle whose range the block is; the kernels remember its edges, not its place."""
        (low, high), extreme = sorted(edges), -SIGN[side] * leg[swing.EXTREME]
        inner = (self.low, self.high)[side]
        rows = reversed(self.row_of)
        # From the leg's extreme back, since a later candle may happen to have the same range.
        row = next(row for row in rows if inner[row] == extreme)
        while not (self.against[side][row] and self.low[row] == low and self.high[row] == high):
            row = next(rows)
        return row

    def _pools(self, side: int, row: int, pivot: int, pools: NDArray[np.float64]) -> None:
        standing, sign = self.pools[side], SIGN[side]
        taken = [standing.pop() for _ in range(len(standing) - len(pools))]
        self._end(taken, row)
        for place in taken:
            _, _, start, _, _, level, _ = self.found[place]
            if sign * self.close[row] <= sign * level:
                self._add("sweep", -sign, start, row, row, level)
        innermost = (pools[-1, liquidity.LEVEL], pools[-1, liquidity.TOUCHES]) if len(pools) else (np.nan, np.nan)
        # A pivot began a pool if there is one more, or if the same number ends in another: the oldest was forgotten.
        # A bar that takes pools confirms no pivot of that side, which would lie within them.
        if len(pools) > len(standing) or (innermost[1] == 1.0 and not taken and innermost != self.innermost[side]):
            if len(pools) == len(standing):
                self._end([standing.pop(0)], row)
            standing.append(self._add("pool", -sign, pivot, row, -1, sign * innermost[0]))
        self.innermost[side] = innermost

    def table(self, index: pd.Index[Any]) -> pd.DataFrame:
        found = dict(zip(_COLUMNS, zip(*self.found, strict=True), strict=False)) if self.found else {}
        table: dict[str, Any] = {"kind": pd.Series(found.get("kind", ()), dtype="str")}
        table["direction"] = np.array(found.get("direction", ()), np.int64)
        none: Any = pd.NaT
        for name in ("start", "known", "end"):
            table[name] = index.take(np.array(found.get(name, ()), np.int64), allow_fill=True, fill_value=none)
        for name in ("low", "high"):
            table[name] = np.array(found.get(name, ()), np.float64)
        return pd.DataFrame(table)
