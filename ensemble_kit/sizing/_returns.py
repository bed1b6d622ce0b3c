"""Statistics of returns and of trades, of one series or of many resampled ones."""

from __future__ import annotations

import empyrical
import numpy as np
from numpy.typing import NDArray

__all__ = ["return_statistics", "simple_returns", "trade_statistics"]

FloatArray = NDArray[np.float64]


def simple_returns(equity: FloatArray) -> FloatArray:
    """Return what each close has gained on the one before, 0 at the first and after ruin."""
    returns = np.zeros(len(equity))
    np.divide(equity[1:], equity[:-1], out=returns[1:], where=equity[:-1] > 0)
    returns[1:] -= equity[:-1] > 0
    return returns


def return_statistics(returns: FloatArray, bars_a_year: float) -> dict[str, FloatArray]:
    """Return statistics of returns (n,) or of the columns of (n, m); NaN where one has no meaning."""
    nothing: FloatArray = np.full(returns.shape[1:], np.nan)
    if not len(returns):
        names = ["total_return", "annual_return", "sharpe", "sortino", "calmar", "max_drawdown", "mean_bar_return"]
        return dict.fromkeys(names, nothing) | dict.fromkeys(["total_return", "max_drawdown"], np.zeros_like(nothing))
    with np.errstate(all="ignore"):  # a year of two good minutes is more than a float holds
        final = np.asarray(empyrical.cum_returns_final(returns))
        # 1e-14: what rounding leaves of a constant return.
        varies = returns.std(axis=0) > 1e-14
        found = {
            "annual_return": np.asarray(empyrical.annual_return(returns, annualization=bars_a_year)),
            "sharpe": np.asarray(empyrical.sharpe_ratio(returns, annualization=bars_a_year)),
            "sortino": np.asarray(empyrical.sortino_ratio(returns, annualization=bars_a_year)),
        }
    found["sharpe"] = np.where(varies, found["sharpe"], np.nan)
    found["sortino"] = np.where(varies, found["sortino"], np.nan)
    found = {name: np.where(np.isfinite(values), values, np.nan) for name, values in found.items()}
    fall = np.asarray(empyrical.max_drawdown(returns))
    return {
        "total_return": final,
        **found,
        "calmar": np.divide(found["annual_return"], -fall, out=nothing.copy(), where=fall < 0),
        "max_drawdown": fall,
        "mean_bar_return": returns.mean(axis=0),
    }


def trade_statistics(pnl: FloatArray) -> dict[str, FloatArray]:
    """Return statistics of the gains of trades (n,) or of the columns of (n, m); NaN where one has no meaning."""
    nothing: FloatArray = np.full(pnl.shape[1:], np.nan)
    won, lost = np.maximum(pnl, 0.0).sum(axis=0), -np.minimum(pnl, 0.0).sum(axis=0)
    return {
        "win_rate": (pnl > 0).mean(axis=0) if len(pnl) else nothing,
        "profit_factor": np.divide(won, lost, out=nothing.copy(), where=lost > 0),
    }
