"""What a backtest found: equity, fills, trades, metrics and their intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import empyrical
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from ensemble_kit.metrics._resamples import Resamples, percentiles
from ensemble_kit.sizing._returns import return_statistics, simple_returns, trade_statistics

__all__ = ["BacktestResult"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_PERCENT = frozenset(
    {
        "total_return",
        "annual_return",
        "buy_and_hold",
        "outperformance",
        "matched_return",
        "max_drawdown",
        "buy_and_hold_max_drawdown",
        "win_rate",
        "costs",
        "interest",
        "exposure",
    }
)
_CHUNK = 4_000_000  # resampled returns in memory at once


@dataclass(frozen=True, repr=False, eq=False)
class BacktestResult:
    """Equity of a position, time by time, fill by fill and trade by trade, beside buy and hold.

    Attributes
    ----------
    equity : Series of shape (n_times,)
        Currency at each time's closes, the starting cash at the first; 0 from ruin on.
    buy_and_hold : Series of shape (n_times,)
        The same for the cash split equally over the instruments, each part put into its own at
        that one's second bar's open, at the same costs, and kept.
    returns : Series of shape (n_times,)
        Simple return of `equity` from close to close, 0 at the first time.
    exposure : DataFrame of shape (n_times, 2)
        `gross` and `net` notional over equity, at the opens after that time's fills.
    traded : Series of shape (n_times,)
        Notional of that time's fills over the equity before them.
    position : Series of shape (n,)
        On the index of the bars: the weight held during each bar, as filled at its open; not quite
        the one decided, for the price has moved since.
    fills : DataFrame
        One row a fill: `time`, `instrument` (panels only), `units` (negative for sales), `price`
        (with spread and slippage), `cost` (commission) and `reference` (the open). An order that
        changes the sign is two rows, what it closes and what it opens; its least commission is
        paid once. At ruin, what is held is sold at the price at which nothing is left.
    trades : DataFrame
        One row from flat to flat or to a change of sign: `instrument` (panels only), `entry`,
        `exit` (NaT while open), `side`, `units` (the largest held), `entry_price`, `exit_price`
        (averages of all units bought or sold; NaN where none were), `bars` (of the instrument),
        `pnl` (currency, after all its costs and, if short, its borrow; at the last close while
        open), `return` (of equity at entry), `costs` (commissions, spread, slippage, borrow) and
        `open`. The sum of `pnl` less ``metrics["interest"] * cash`` is all that equity gained.
    metrics : dict of str to float
        Returns and costs are fractions of the starting cash. `total_return`, `annual_return`,
        `buy_and_hold` (its total return), `outperformance` (their difference), `matched_return`
        (of a constant weight equal to the mean net exposure, before costs), `sharpe`, `sortino`,
        `calmar`, `buy_and_hold_sharpe` (annualised, no risk-free rate), `max_drawdown` and
        `buy_and_hold_max_drawdown` (at closes, at most 0), `trades` (how many), `win_rate` (share
        of trades with a gain), `profit_factor` (gains of trades over their losses), `turnover`
        (sum of `traded`), `costs` (commissions, spread, slippage, borrow and
        interest), `interest` (on cash below 0, the part of `costs` that is no trade's), `exposure`
        (mean gross), `mean_bar_return` and `periods_per_year`. Statistics leave out the first
        time, during which nothing can be held. NaN is what has no meaning: a ratio without
        variance or losses, a mean of nothing.
    """

    equity: pd.Series[float]
    buy_and_hold: pd.Series[float]
    returns: pd.Series[float]
    exposure: pd.DataFrame
    traded: pd.Series[float]
    position: pd.Series[float]
    fills: pd.DataFrame
    trades: pd.DataFrame
    metrics: dict[str, float]

    @property
    def drawdown(self) -> pd.Series[float]:
        """Fall of equity from its highest close so far, at most 0, shape (n_times,)."""
        return (self.equity / self.equity.cummax() - 1.0).rename("drawdown")

    def to_frame(self) -> pd.DataFrame:
        """Return the numbers by time side by side.

        Returns
        -------
        DataFrame of shape (n_times, 6)
            Columns `gross`, `net`, `returns`, `equity`, `buy_and_hold`, `drawdown`.
        """
        return pd.concat([self.exposure, self.returns, self.equity, self.buy_and_hold, self.drawdown], axis=1)

    def summary(self) -> str:
        """Return the metrics as a small table of text.

        Returns
        -------
        str
            One line a metric.
        """
        width = max(map(len, self.metrics))
        return "\n".join(f"{name:<{width}}  {_shown(name, value):>12}" for name, value in self.metrics.items())

    def intervals(
        self, *, n_resamples: int = 1000, block: int | None = None, level: float = 0.95, random_state: Any = 0
    ) -> pd.DataFrame:
        """Return intervals of the metrics: how far other draws of the same times and trades would lie apart.

        Parameters
        ----------
        n_resamples : int, default=1000
            Resamples, each as long as the sample.
        block : int, default=None
            Length of the blocks in times, at most half of them; None for their cube root times 2,
            within that. It should be no less than a typical holding period. Those of trades
            are always of the latter length, in trades.
        level : float, default=0.95
            Coverage.
        random_state : int, RandomState or None, default=0
            Seed of the blocks.

        Returns
        -------
        DataFrame of shape (11, 3)
            Rows `total_return`, `annual_return`, `sharpe`, `sortino`, `calmar`, `max_drawdown`,
            `mean_bar_return`, `outperformance` (position and buy and hold in the same resamples),
            `turnover`, `win_rate` and `profit_factor`; columns `estimate`, `low`, `high`. NaN
            where it has no meaning in any resample, and of fewer than 2 trades.

        Raises
        ------
        EnsembleKitError
            If there are fewer than 3 times, or a parameter is out of its domain.

        See Also
        --------
        ensemble_kit.metrics.block_bootstrap_mean : The same of a mean.

        Notes
        -----
        Percentiles over a circular moving-block bootstrap of the returns from close to close,
        and of what was traded at the same times. It keeps what lies within a block together, and
        no trend longer than that: of a drawdown it says how deep luck alone makes one. `win_rate`
        and `profit_factor` are of resampled trades, in blocks of consecutive ones. Resamples in
        which a metric has no meaning, such as a profit factor without losses, are left out.
        """
        rng = check_random_state(random_state)
        hold_returns = simple_returns(np.asarray(self.buy_and_hold, dtype=np.float64))
        series = [np.asarray(part, dtype=np.float64)[1:] for part in (self.returns, hold_returns, self.traded)]
        blocks = Resamples.draw(len(series[0]), block, n_resamples, rng, name="returns")
        percentiles(np.empty(0), level)  # a wrong level is said before the work
        bars_a_year = self.metrics["periods_per_year"]
        draws: dict[str, list[FloatArray]] = {}
        for rows in _drawn(blocks):
            own, hold, traded = (part[rows] for part in series)
            found = return_statistics(own, bars_a_year)
            found["outperformance"] = found["total_return"] - empyrical.cum_returns_final(hold)
            found["turnover"] = traded.sum(axis=0)
            for name, values in found.items():
                draws.setdefault(name, []).append(values)
        pnl = self.trades["pnl"].to_numpy(np.float64)
        if len(pnl) > 1:
            for rows in _drawn(Resamples.draw(len(pnl), None, n_resamples, rng, name="trades")):
                for name, values in trade_statistics(pnl[rows]).items():
                    draws.setdefault(name, []).append(values)
        else:
            draws |= {"win_rate": [np.empty(0)], "profit_factor": [np.empty(0)]}
        return pd.DataFrame(
            [(self.metrics[name], *percentiles(np.concatenate(values), level)) for name, values in draws.items()],
            index=pd.Index(list(draws), name="metric"),
            columns=["estimate", "low", "high"],
        )

    def __repr__(self) -> str:
        return self.summary()


def _drawn(blocks: Resamples) -> Iterator[IntArray]:
    """Yield the rows of the resamples, one resample a column, not too many at once."""
    within = np.arange(blocks.length)[:, None, None]
    for part in np.array_split(blocks.starts, -(-blocks.starts.size * blocks.length // _CHUNK)):
        rows = (part.T + within).swapaxes(0, 1).reshape(-1, len(part))
        yield rows[: blocks.n_times] % blocks.n_times


def _shown(name: str, value: float) -> str:
    if np.isnan(value):
        return "-"
    if name in _PERCENT:
        return f"{value:z.2%}"  # z: what rounds to 0 has no sign
    if name == "mean_bar_return":
        return f"{value * 1e4:z.3f} bp"
    return f"{value:,.0f}" if name in {"trades", "periods_per_year"} else f"{value:z,.2f}"
