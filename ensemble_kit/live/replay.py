"""The whole trading loop on bars of the past: the same code as live, with a clock that reads each bar's close."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.live._forecasts import in_zone
from ensemble_kit.live.gate import closes_at, read_bars_sent
from ensemble_kit.live.records import Refusal
from ensemble_kit.live.trader import Outcome, Trader
from ensemble_kit.sizing.result import BacktestResult

__all__ = ["ReplayResult", "replay"]

#: Half a cent: two amounts that differ by less are the same on any statement.
CENT = 0.005


@dataclass(frozen=True, eq=False)
class ReplayResult:
    """What a replay did, from its first bar on, whenever it was interrupted.

    Attributes
    ----------
    bars : DataFrame of shape (n, n_columns)
        Those that were decided on, in the zone of training.
    position : Series of shape (n,)
        What was decided at each close, a fraction of equity; NaN where nothing was.
    equity : Series of shape (n,)
        The account's at each close.
    fills : DataFrame
        One row a fill: `time`, `units`, `price` and `cost`, as in `BacktestResult.fills`, and the
        order's `client_id`.
    refused : list of Refusal
        Bars that were not taken.
    """

    bars: pd.DataFrame
    position: pd.Series[float]
    equity: pd.Series[float]
    fills: pd.DataFrame
    refused: list[Refusal]

    def differences(self, result: BacktestResult) -> list[str]:
        """Compare with a backtest of the same bars, to the cent.

        Parameters
        ----------
        result : BacktestResult
            Of `bars` and `position`, at the same costs.

        Returns
        -------
        list of str
            What differs; empty where nothing does: equity at every close and, fill by fill, its
            time, what was paid and its cost, each by less than half a cent.
        """
        found = []
        if not self.equity.index.equals(result.equity.index):
            return [f"equity on {len(self.equity)} bars against {len(result.equity)}"]
        apart = (self.equity - result.equity).abs().to_numpy()
        if (wrong := ~(apart < CENT)).any():
            row = int(np.argmax(wrong))
            found.append(
                f"equity at {int(wrong.sum())} of {len(apart)} closes, first at {self.equity.index[row]}: "
                f"{self.equity.iloc[row]:.4f} against {result.equity.iloc[row]:.4f}"
            )
        theirs = result.fills
        if len(self.fills) != len(theirs):
            return [*found, f"{len(self.fills)} fills against {len(theirs)}"]
        ours_paid, their_paid = (frame["units"] * frame["price"] for frame in (self.fills, theirs))
        for what, differ in {
            "times": self.fills["time"].to_numpy() != theirs["time"].to_numpy(),
            "amounts": ~((ours_paid.to_numpy() - their_paid.to_numpy()).__abs__() < CENT),
            "costs": ~(np.abs(self.fills["cost"].to_numpy() - theirs["cost"].to_numpy()) < CENT),
        }.items():
            if differ.any():
                found.append(f"{what} of {int(differ.sum())} of {len(theirs)} fills, first of number {differ.argmax()}")
        return found


def replay(
    trader: Trader,
    bars: pd.DataFrame,
    *,
    history: pd.DataFrame | None = None,
    after_bar: Callable[[Outcome], object] | None = None,
) -> ReplayResult:
    """Let a trader take the bars of the past, one by one, each at the time it closed.

    Parameters
    ----------
    trader : Trader
        Resumed here; on a journal that holds a part of this replay, it goes on behind it. Its
        clock is set, and its account stays taken until it is closed.
    bars : DataFrame of shape (n, n_columns)
        A bar frame.
    history : DataFrame of shape (m, n_columns), default=None
        Earlier bars, placed as history where nothing was decided yet.
    after_bar : callable, default=None
        Called with each outcome, to show how far it is.

    Returns
    -------
    ReplayResult
        From the journal: of all bars that were decided on, those of earlier runs included.

    Raises
    ------
    BarsError
        If the journal holds other bars than these, or later ones.
    EnsembleKitError
        As the trader raises it.
    """
    sent = read_bars_sent(bars, trader.card, symbol=trader.symbol)
    closes = closes_at(pd.DatetimeIndex(sent.index), trader.card)
    newest = trader.journal.newest_bar()
    now = [_close(newest, trader) if newest is not None else _opens(sent)[0]]
    trader.clock = lambda: now[0]
    trader.resume()
    if history is not None and trader.latest is None:
        now[0] = _opens(sent)[0]
        trader.seed(history)
    done = _done(trader, sent)
    for row in range(done, len(sent)):
        now[0] = closes[row]
        for outcome in trader.take(sent.iloc[[row]]):
            if after_bar is not None:
                after_bar(outcome)
    return _result(trader)


def _opens(bars: pd.DataFrame) -> pd.DatetimeIndex:
    index = pd.DatetimeIndex(bars.index)
    return index.tz_localize("UTC") if index.tz is None else index.tz_convert("UTC")


def _close(time: pd.Timestamp, trader: Trader) -> pd.Timestamp:
    return closes_at(in_zone(pd.DatetimeIndex([time]), trader.card), trader.card)[0]


def _done(trader: Trader, bars: pd.DataFrame) -> int:
    """Return how many bars were decided on already; they must be these."""
    decided = trader.journal.decisions()
    if not decided:
        return 0
    known = trader.journal.bars(since=decided[0].time, until=decided[-1].time)
    opens = _opens(bars)
    if opens[0] > known.index[0] or opens[-1] < known.index[-1]:
        raise BarsError(
            f"`bars` must reach over what the journal has replayed, {known.index[0]} to {known.index[-1]}; they reach "
            f"from {opens[0]} to {opens[-1]}. Replay the same file, or begin another journal."
        )
    same = bars.set_axis(opens).reindex(known.index).reindex(columns=known.columns)
    differ = ~((same == known) | (same.isna() & known.isna())).all(axis=1).to_numpy()
    if differ.any():
        raise BarsError(
            f"`bars` must be those that the journal has replayed; they differ at {known.index[int(differ.argmax())]} "
            f"({int(differ.sum())} bar(s)). Replay the same file, or begin another journal."
        )
    return int(opens.searchsorted(decided[-1].time, side="right"))


def _result(trader: Trader) -> ReplayResult:
    journal = trader.journal
    decisions = journal.decisions()
    if not decisions:
        raise EnsembleKitError(
            "`bars` must hold a bar that can be decided on; none was. The journal's refusals say why: "
            f"{[refusal.reason for refusal in journal.refusals(newest=3)]}."
        )
    times = pd.DatetimeIndex([decision.time for decision in decisions], name="datetime")
    bars = journal.bars(since=times[0]).reindex(times)
    fills = journal.fills()
    bars.index = index = in_zone(times, trader.card)
    at = in_zone(pd.DatetimeIndex([fill.at for fill in fills], tz="UTC"), trader.card)
    return ReplayResult(
        bars=bars.reindex(columns=trader.card["layout"]),
        position=pd.Series([decision.allowed for decision in decisions], index, dtype=np.float64, name="position"),
        equity=pd.Series([decision.equity for decision in decisions], index, dtype=np.float64, name="equity"),
        fills=pd.DataFrame(
            {
                "time": at,
                "units": np.array([fill.units for fill in fills], dtype=np.float64),
                "price": np.array([fill.price for fill in fills], dtype=np.float64),
                "cost": np.array([fill.commission for fill in fills], dtype=np.float64),
                "client_id": [fill.client_id for fill in fills],
            }
        ),
        refused=journal.refusals(),
    )
