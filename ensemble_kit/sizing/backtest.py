"""What a position would have earned: decided at a close, filled at the next open, costs paid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError

__all__ = ["BacktestResult", "backtest"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_YEAR = pd.Timedelta(days=365.25)
_PERCENT = ("total_return", "buy_and_hold", "outperformance", "max_drawdown", "costs", "exposure", "hit_rate")


@dataclass(frozen=True, repr=False, eq=False)
class BacktestResult:
    """Equity of a position, bar by bar and trade by trade, beside buy and hold.

    Attributes
    ----------
    equity : Series of shape (n,)
        Equity at each bar's close, 1 at the first bar; 0 from ruin on.
    buy_and_hold : Series of shape (n,)
        The same for all equity put into the instrument at the second bar's open.
    position : Series of shape (n,)
        The weight held during each bar, as filled at its open (0 during the first bar).
    returns : Series of shape (n,)
        Simple return of `equity` from close to close, 0 at the first bar.
    trades : DataFrame
        One row a maximal stretch of held positions of one sign: `entry`, `exit` (bars at
        whose open it was filled and left; NaT while open), `side`, `size` (the largest
        absolute weight), `bars`, `return` (of equity, net of its own costs) and `open`.
        ``(1 + return).prod()`` is the final equity.
    metrics : dict of str to float
        `total_return`, `buy_and_hold` (its total return), `outperformance` (their
        difference), `sharpe` and `buy_and_hold_sharpe` (annualised, no risk-free rate; NaN
        without variance), `max_drawdown` (at closes, at most 0), `trades`, `hit_rate` (share
        of trades with a gain, NaN without trades), `turnover` (sum of traded fractions of
        equity), `costs` (paid in all, in units of the starting equity), `exposure` (mean
        absolute weight), `mean_bar_return` and `periods_per_year`. Bar statistics leave out
        the first bar, during which nothing can be held.
    """

    equity: pd.Series[float]
    buy_and_hold: pd.Series[float]
    position: pd.Series[float]
    returns: pd.Series[float]
    trades: pd.DataFrame
    metrics: dict[str, float]

    @property
    def drawdown(self) -> pd.Series[float]:
        """Fall of equity from its highest close so far, at most 0, shape (n,)."""
        return (self.equity / self.equity.cummax() - 1.0).rename("drawdown")

    def to_frame(self) -> pd.DataFrame:
        """Return the bar-by-bar numbers side by side.

        Returns
        -------
        DataFrame of shape (n, 5)
            Columns `position`, `returns`, `equity`, `buy_and_hold`, `drawdown`.
        """
        return pd.concat([self.position, self.returns, self.equity, self.buy_and_hold, self.drawdown], axis=1)

    def summary(self) -> str:
        """Return the metrics as a small table of text.

        Returns
        -------
        str
            One line a metric.
        """
        width = max(map(len, self.metrics))
        return "\n".join(f"{name:<{width}}  {_shown(name, value):>12}" for name, value in self.metrics.items())

    def __repr__(self) -> str:
        return self.summary()


def _shown(name: str, value: float) -> str:
    if np.isnan(value):
        return "-"
    if name in _PERCENT:
        return f"{value:.2%}"
    if name == "mean_bar_return":
        return f"{value * 1e4:.3f} bp"
    return f"{value:,.0f}" if name in {"trades", "periods_per_year"} else f"{value:,.2f}"


def backtest(
    bars: pd.DataFrame, position: Any, *, cost_bps: float = 1.0, periods_per_year: float | None = None
) -> BacktestResult:
    """Turn positions into equity: decided at a bar's close, filled at the next bar's open.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        A bar frame of one instrument, open and close known on every row.
    position : Series or array-like of shape (n,)
        Fraction of equity, negative for short, decided with what is known at each bar's
        close. Beyond [-1, 1] is leverage, for which nothing is charged.
    cost_bps : float, default=1.0
        Cost in basis points of the traded notional, in [0, 10000).
    periods_per_year : float, default=None
        Bars a year, for the Sharpe ratio. None counts them from the index: bars after the
        first over the years they span.

    Returns
    -------
    BacktestResult
        Equity, buy and hold, trades and metrics.

    Raises
    ------
    BarsError
        If the bars are a panel, or not usable as they are.
    EnsembleKitError
        If a position is missing, infinite or on other rows, or a number is out of its range.

    See Also
    --------
    ensemble_kit.metrics.next_open_return : What one decision earns, without costs.

    Notes
    -----
    At each open the position is rebalanced to its target `w`: the old weight has drifted
    with the price to ``d = w' g / (1 + w' (g - 1))``, where `g` is the ratio of the two
    opens; the fraction ``|w - d|`` of equity is traded and paid for out of equity, and what
    is left is held at weight `w`. Equity is marked at closes. Row t of every series depends
    on positions up to t - 1 and prices up to t, so a prefix of the bars gives a prefix of
    the result; the last bar's decision is never filled.

    Equity that reaches 0 or less at an open, a fill or a close is ruin: 0 from then on, with
    no position. What happens between open and close of a bar is not looked at.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.sizing.backtest import backtest
    >>> index = pd.date_range("2024-01-01", periods=4, freq="D")
    >>> bars = pd.DataFrame({"open": [10.0, 10, 11, 12], "high": [10.0, 11, 12, 12],
    ...                      "low": [10.0, 10, 11, 9], "close": [10.0, 11, 12, 9]}, index=index)
    >>> result = backtest(bars, [1, 1, 0, 1], cost_bps=0)
    >>> result.equity.tolist()  # bought at 10 on the second bar's open, sold at 12 on the fourth's
    [1.0, 1.1, 1.2, 1.2]
    >>> float(result.buy_and_hold.iloc[-1])
    0.9
    """
    opens, closes = _prices(bars)
    decided = _check_position(position, bars.index)
    if not 0 <= cost_bps < 1e4:  # NaN fails, too
        raise EnsembleKitError(f"`cost_bps` must be in [0, 10000); got {cost_bps:g}. One basis point is 1e-4.")
    if periods_per_year is not None and not 0 < periods_per_year < np.inf:
        raise EnsembleKitError(
            f"`periods_per_year` must be None or a number above 0; got {periods_per_year:g}. None counts the bars."
        )
    ledger = _run(opens, closes, decided, cost_bps / 1e4)
    hold = np.ones(len(opens))
    hold[1:] = (1.0 - cost_bps / 1e4) * closes[1:] / opens[1:2]
    trades = _trades(ledger, bars.index)
    bars_a_year = _bars_a_year(bars.index) if periods_per_year is None else float(periods_per_year)
    return BacktestResult(
        equity=pd.Series(ledger.equity, bars.index, name="equity"),
        buy_and_hold=pd.Series(hold, bars.index, name="buy_and_hold"),
        position=pd.Series(ledger.held, bars.index, name="position"),
        returns=pd.Series(_returns(ledger.equity), bars.index, name="returns"),
        trades=trades,
        metrics=_metrics(ledger, hold, trades["return"].to_numpy(np.float64), bars_a_year),
    )


# --------------------------------------------------------------------------- checks


def _prices(bars: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    check_bars(bars)
    if isinstance(bars.index, pd.MultiIndex):
        raise BarsError(
            "`bars` must be of one instrument; got a panel (datetime, instrument). "
            "Backtest one instrument at a time with `bars.xs(instrument, level=1)`, and its positions likewise."
        )
    if bars.empty:
        raise BarsError("`bars` must have at least one row; got none. Widen the span that was read.")
    prices = bars[["open", "close"]].to_numpy(np.float64)
    unknown = np.isnan(prices).any(axis=1)
    if unknown.any():
        raise BarsError(
            f"`bars` must have open and close on every row; got NaN {_where(unknown, bars.index)}. "
            "Drop them from bars and positions: nothing was traded then."
        )
    return prices[:, 0], prices[:, 1]


def _check_position(position: Any, index: pd.Index[Any]) -> FloatArray:
    if isinstance(position, pd.Series) and not position.index.equals(index):
        raise EnsembleKitError(
            f"`position` must have the index of `bars` ({len(index)} rows); got another one of {len(position)}. "
            "Size the very bars that are traded, or pass an array."
        )
    weights = np.asarray(position, dtype=np.float64)
    if weights.shape != (len(index),):
        raise EnsembleKitError(
            f"`position` must have one weight a bar, shape ({len(index)},); got shape {weights.shape}. "
            "Size the very bars that are traded, one horizon."
        )
    wrong = ~np.isfinite(weights)
    if wrong.any():
        raise EnsembleKitError(
            f"`position` must be finite; got {weights[wrong][0]:g} {_where(wrong, index)}. "
            "Use 0 where nothing is known."
        )
    return weights


def _where(wrong: NDArray[np.bool_], index: pd.Index[Any]) -> str:
    """Name the first wrong rows and count them all."""
    rows = np.flatnonzero(wrong)
    named = ", ".join(f"{index[row]} (row {row})" for row in rows[:3])
    return f"at {named}{', ...' if len(rows) > 3 else ''}; {len(rows)} such row(s)"


# --------------------------------------------------------------------------- the account


@dataclass(frozen=True)
class _Ledger:
    """The account bar by bar: equity at the open before its fill, and at the close; weights; costs."""

    before: FloatArray
    equity: FloatArray
    held: FloatArray
    drifted: FloatArray
    traded: FloatArray
    cost: float


def _run(opens: FloatArray, closes: FloatArray, decided: FloatArray, cost: float) -> _Ledger:
    """Keep the account in closed form: after each fill the weight is the target, whatever was before."""
    target = np.concatenate([[0.0], decided[:-1]])
    to_close = 1.0 + target * (closes / opens - 1.0)
    ratio = opens[1:] / opens[:-1]
    to_open = np.ones(len(opens))
    to_open[1:] = 1.0 + target[:-1] * (ratio - 1.0)
    drifted = np.zeros(len(opens))
    np.divide(target[:-1] * ratio, to_open[1:], out=drifted[1:], where=to_open[1:] > 0)
    traded = np.abs(target - drifted)
    # A factor of 0 is ruin and stays in the product: at the close before, at the open, at the fill.
    to_open[1:] *= to_close[:-1] > 0
    to_open = np.maximum(to_open, 0.0)
    after: FloatArray = np.cumprod(to_open * np.maximum(1.0 - cost * traded, 0.0), dtype=np.float64)
    before = to_open * np.concatenate([[1.0], after[:-1]])
    return _Ledger(
        before=before,
        equity=after * np.maximum(to_close, 0.0),
        held=np.where(after > 0, target, 0.0),
        drifted=drifted,
        traded=np.where(before > 0, traded, 0.0),
        cost=cost,
    )


def _trades(ledger: _Ledger, index: pd.Index[Any]) -> pd.DataFrame:
    """Cut the held positions into trades; at a change of sign the closing half of the fill ends the old one."""
    sign = np.sign(ledger.held)
    edge = np.flatnonzero(np.diff(sign, prepend=0.0))
    first = edge[sign[edge] != 0]
    end = np.append(edge, len(sign))[np.searchsorted(edge, first, side="right")]
    still_open = end == len(sign)
    # Equity that changes hands between two trades: what is left when only the old one is closed.
    settled = ledger.before * np.maximum(1.0 - ledger.cost * np.abs(ledger.drifted), 0.0)
    out = np.append(settled, ledger.equity[-1])[end]
    # `reduceat` runs each stretch up to the next start; flat bars between add nothing to a maximum.
    largest = np.maximum.reduceat(np.abs(ledger.held), first) if len(first) else np.empty(0)
    exits = pd.Series(index.take(np.minimum(end, len(sign) - 1))).mask(still_open)
    return pd.DataFrame(
        {
            "entry": index.take(first),
            "exit": exits,
            "side": np.where(sign[first] > 0, "long", "short"),
            "size": largest,
            "bars": end - first,
            "return": out / settled[first] - 1.0,
            "open": still_open,
        }
    )


# --------------------------------------------------------------------------- metrics


def _returns(equity: FloatArray) -> FloatArray:
    returns = np.zeros(len(equity))
    np.divide(equity[1:], equity[:-1], out=returns[1:], where=equity[:-1] > 0)
    returns[1:] -= equity[:-1] > 0
    return returns


def _bars_a_year(index: pd.Index[Any]) -> float:
    span = (index[-1] - index[0]) / _YEAR
    return float((len(index) - 1) / span) if span > 0 else float("nan")


def _sharpe(returns: FloatArray, bars_a_year: float) -> float:
    # 1e-14: what rounding leaves of a constant return.
    if len(returns) < 2 or returns.std(ddof=1) < 1e-14:
        return float("nan")
    return float(returns.mean() / returns.std(ddof=1) * np.sqrt(bars_a_year))


def _metrics(ledger: _Ledger, hold: FloatArray, trades: FloatArray, bars_a_year: float) -> dict[str, float]:
    equity, returns, n = ledger.equity, _returns(ledger.equity)[1:], len(trades)
    return {
        "total_return": float(equity[-1] - 1.0),
        "buy_and_hold": float(hold[-1] - 1.0),
        "outperformance": float(equity[-1] - hold[-1]),
        "sharpe": _sharpe(returns, bars_a_year),
        "buy_and_hold_sharpe": _sharpe(_returns(hold)[1:], bars_a_year),
        "max_drawdown": float((equity / np.maximum.accumulate(equity) - 1.0).min()),
        "trades": float(n),
        "hit_rate": float((trades > 0).mean()) if n else float("nan"),
        "turnover": float(ledger.traded.sum()),
        "costs": float((ledger.before * ledger.traded).sum() * ledger.cost),
        "exposure": float(np.abs(ledger.held[1:]).mean()) if len(returns) else 0.0,
        "mean_bar_return": float(returns.mean()) if len(returns) else 0.0,
        "periods_per_year": bars_a_year,
    }
