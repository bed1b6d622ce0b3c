"""What a position would have earned: decided at a close, filled at the next open, costs paid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import check_bars, instrument_codes, row_keys
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.sizing._account import Account, Terms, hold_account, run_account
from ensemble_kit.sizing._ledger import fill_frame, trade_frame
from ensemble_kit.sizing._payoffs import is_number, shown
from ensemble_kit.sizing._returns import return_statistics, simple_returns, trade_statistics
from ensemble_kit.sizing.costs import Costs
from ensemble_kit.sizing.result import BacktestResult

__all__ = ["BacktestResult", "backtest"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_YEAR = pd.Timedelta(days=365.25)


def backtest(
    bars: pd.DataFrame,
    position: Any,
    *,
    costs: float | Costs = 1.0,
    cash: float = 100_000.0,
    lot_size: float = 0.0,
    min_trade: float = 0.0,
    max_leverage: float = 1.0,
    periods_per_year: float | None = None,
) -> BacktestResult:
    """Trade positions as a live account would: ordered at a bar's close, filled at the next open.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        A bar frame of one instrument or of a panel, open and close known on every row.
    position : Series or array-like of shape (n,)
        Fraction of the account's equity, negative for short, decided with what is known at each
        bar's close.
    costs : float or Costs, default=1.0
        A number is a commission in basis points of the traded notional.
    cash : float, default=100_000
        What the account starts with, in the currency of the prices.
    lot_size : float, default=0.0
        Units come in multiples of it, rounded towards zero; 0 for fractions of a unit.
    min_trade : float, default=0.0
        An order worth less than this, in currency at the close it is decided at, is not placed
        unless it closes the position.
    max_leverage : float, default=1.0
        The gross notional that an opening may reach, as a multiple of equity. With 1, cash never
        falls below 0 for longs.
    periods_per_year : float, default=None
        Times a year, for annualised metrics. None counts them from the index: times after the
        first over the years they span.

    Returns
    -------
    BacktestResult
        Equity, buy and hold, exposure, fills, trades and metrics.

    Raises
    ------
    BarsError
        If the bars are not usable as they are, or a price is missing.
    EnsembleKitError
        If a position is missing, infinite or on other rows, or a number is out of its range.

    See Also
    --------
    ensemble_kit.metrics.next_open_return : What one decision earns, without costs.

    Notes
    -----
    At the close of a bar the target is ``position * equity / close`` units, and what lacks to it
    is ordered. The order is filled at the same instrument's next open, half the spread and the
    slippage worse, whatever that open is: a decision never sees it. An order that adds exposure is
    cut, and rounded down to lots, so that gross notional is at most ``max_leverage * equity``
    after commissions, at the prices of the fills; reductions are always filled, and a change of
    sign is a reduction and an opening. Of a panel, all reductions of one time come first, and
    openings that do not fit together are cut by the same share. Borrow and interest are charged
    on what was short or below 0 between two times, at the later one, before its fills.

    Equity of 0 or less at an open or a close, or too little to pay for a closing order, is ruin:
    everything is closed, and 0 from then on. What happens between open and close of a bar is not
    looked at, and nothing is sold because its leverage has grown.

    Row t depends on positions before t and prices up to t: a prefix of the bars gives a prefix of
    the result, bit for bit (of a panel's buy and hold, if it has the same instruments), and the
    last bar's decision is never filled. Work grows with distinct times times instruments.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.sizing.backtest import backtest
    >>> index = pd.date_range("2024-01-01", periods=4, freq="D")
    >>> bars = pd.DataFrame({"open": [10.0, 10, 11, 12], "high": [10.0, 11, 12, 12],
    ...                      "low": [10.0, 10, 11, 9], "close": [10.0, 11, 12, 9]}, index=index)
    >>> result = backtest(bars, [1, 1, 0, 1], costs=0, cash=100)
    >>> result.equity.tolist()  # bought at 10 on the second bar's open, sold at 12 on the fourth's
    [100.0, 110.0, 120.0, 120.0]
    >>> result.buy_and_hold.tolist()
    [100.0, 110.0, 120.0, 90.0]
    """
    check_bars(bars)
    _check_known(bars)
    weights = _check_position(position, bars.index)
    terms = account_terms(Costs.of(costs), cash, lot_size, min_trade, max_leverage)
    if periods_per_year is not None and not (is_number(periods_per_year) and periods_per_year > 0):
        raise EnsembleKitError(
            f"`periods_per_year` must be None or a number above 0; got {shown(periods_per_year)}. None counts the bars."
        )
    keys = row_keys(bars, name="bars")
    names = instrument_codes(bars.index)[1] if keys.panel else None
    start = np.append(np.flatnonzero(np.diff(keys.time, prepend=keys.time[0] - 1)), len(bars))
    times = keys.axis().take(start[:-1]) if keys.panel else bars.index
    # Copies are all laid out alike, so that the loop is compiled once.
    opens, closes = (np.array(bars[column], dtype=np.float64) for column in ("open", "close"))
    n = 1 if names is None else len(names)

    account = run_account(start, keys.time[start[:-1]], keys.instrument, opens, closes, weights, n, terms)
    hold, gratis = (
        hold_account(start, keys.instrument, opens, closes, n, paid) for paid in (terms, Terms(terms.cash, *[0.0] * 8))
    )
    trades = trade_frame(account, times, names)
    fills = account.fills
    traded = np.zeros(len(times))
    np.add.at(traded, fills["time"], np.abs(fills["units"]) * fills["price"] / fills["before"])
    bars_a_year = _bars_a_year(times) if periods_per_year is None else float(periods_per_year)
    return BacktestResult(
        equity=pd.Series(account.equity, times, name="equity"),
        buy_and_hold=pd.Series(hold, times, name="buy_and_hold"),
        returns=pd.Series(simple_returns(account.equity), times, name="returns"),
        exposure=pd.DataFrame({"gross": account.gross, "net": account.net}, times),
        traded=pd.Series(traded, times, name="traded"),
        position=pd.Series(account.weights, bars.index, name="position"),
        fills=fill_frame(account, times, names),
        trades=trades,
        metrics=_metrics(account, trades, traded, hold, gratis, terms.cash, bars_a_year),
    )


# --------------------------------------------------------------------------- checks


def _check_known(bars: pd.DataFrame) -> None:
    unknown = np.isnan(bars[["open", "close"]].to_numpy(np.float64)).any(axis=1)
    if unknown.any():
        raise BarsError(
            f"`bars` must have open and close on every row; got NaN {_where(unknown, bars.index)}. "
            "Drop them from bars and positions: nothing was traded then."
        )


def _check_position(position: Any, index: pd.Index[Any]) -> FloatArray:
    if isinstance(position, pd.Series) and not position.index.equals(index):
        raise EnsembleKitError(
            f"`position` must have the index of `bars` ({len(index)} rows); got another one of {len(position)}. "
            "Size the very bars that are traded, or pass an array."
        )
    try:
        weights = np.array(position, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise EnsembleKitError(
            f"`position` must be numbers, one weight a bar; {error}. Pass what `predict_position` returns."
        ) from error
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


def _where(wrong: Any, index: pd.Index[Any]) -> str:
    """Name the first wrong rows and count them all."""
    rows = np.flatnonzero(wrong)
    named = ", ".join(f"{index[row]} (row {row})" for row in rows[:3])
    return f"at {named}{', ...' if len(rows) > 3 else ''}; {len(rows)} such row(s)"


def account_terms(costs: Costs, cash: float, lot_size: float, min_trade: float, max_leverage: float) -> Terms:
    """Return what an account is run on, checked: here, and on paper.

    Parameters
    ----------
    costs : Costs
        What trading costs.
    cash, lot_size, min_trade, max_leverage : float
        As of `backtest`.

    Returns
    -------
    Terms
        Fractions instead of basis points.

    Raises
    ------
    EnsembleKitError
        If a number is out of its range.
    """
    given = {"cash": cash, "max_leverage": max_leverage, "lot_size": lot_size, "min_trade": min_trade}
    wrong = [
        f"`{name}` must be a number {'above 0' if name in {'cash', 'max_leverage'} else 'of at least 0'}; got {value!r}"
        for name, value in given.items()
        if not is_number(value) or value < 0 or (value == 0 and name in {"cash", "max_leverage"})
    ]
    if wrong:
        raise EnsembleKitError(". ".join(wrong) + ". Cash and trades are in currency, lots in units.")
    return Terms(
        cash=float(cash),
        lot_size=float(lot_size),
        min_trade=float(min_trade),
        max_leverage=float(max_leverage),
        commission=costs.commission_bps / 1e4,
        per_unit=float(costs.commission_per_unit),
        minimum=float(costs.commission_min),
        slip=costs.fill_bps / 1e4,
        borrow=float(costs.borrow_rate),
    )


# --------------------------------------------------------------------------- metrics


def _bars_a_year(times: pd.Index[Any]) -> float:
    span = (times[-1] - times[0]) / _YEAR
    return float((len(times) - 1) / span) if span > 0 else float("nan")


def _metrics(
    account: Account,
    trades: pd.DataFrame,
    traded: FloatArray,
    hold: FloatArray,
    gratis: FloatArray,
    cash: float,
    bars_a_year: float,
) -> dict[str, float]:
    own, kept = (return_statistics(simple_returns(e)[1:], bars_a_year) for e in (account.equity, hold))
    total, bought = account.equity[-1] / cash - 1, hold[-1] / cash - 1
    of_trades = trade_statistics(trades["pnl"].to_numpy(np.float64))
    # A constant weight cannot lose more than everything.
    matched = np.maximum(1.0 + account.net[1:].mean() * simple_returns(gratis)[1:], 0.0) if len(hold) > 1 else 1.0
    metrics = {
        "total_return": total,
        "annual_return": own["annual_return"],
        "buy_and_hold": bought,
        "outperformance": total - bought,
        "matched_return": np.prod(matched) - 1.0,
        "sharpe": own["sharpe"],
        "sortino": own["sortino"],
        "calmar": own["calmar"],
        "buy_and_hold_sharpe": kept["sharpe"],
        "max_drawdown": own["max_drawdown"],
        "buy_and_hold_max_drawdown": kept["max_drawdown"],
        "trades": len(trades),
        **of_trades,
        "turnover": traded.sum(),
        "costs": (trades["costs"].sum() + account.interest) / cash,
        "interest": account.interest / cash,
        "exposure": account.gross[1:].mean() if len(hold) > 1 else 0.0,
        "mean_bar_return": own["mean_bar_return"],
        "periods_per_year": bars_a_year,
    }
    return {name: float(value) for name, value in metrics.items()}
