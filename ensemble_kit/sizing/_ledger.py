"""The book of an account: its fills, and the trades they sum to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.sizing._account import Account

__all__ = ["fill_frame", "trade_frame"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def _named(codes: IntArray, names: list[Any] | None) -> dict[str, Any]:
    return {} if names is None else {"instrument": pd.Index(names).take(codes)}


def fill_frame(account: Account, times: pd.Index[Any], names: list[Any] | None) -> pd.DataFrame:
    """Return one row a fill, in the order in which they were made."""
    fills = account.fills
    when = {"time": times.take(fills["time"])} | _named(fills["instrument"], names)
    numbers = {"units": "units", "price": "price", "cost": "commission", "reference": "reference"}
    return pd.DataFrame(when | {name: fills[field].copy() for name, field in numbers.items()})


def trade_frame(account: Account, times: pd.Index[Any], names: list[Any] | None) -> pd.DataFrame:
    """Sum fills to trades; each fill belongs to one, and trades are numbered by their first."""
    moment, code, number, bar = (account.fills[name] for name in ("time", "instrument", "trade", "bar"))
    units, price, commission, reference = (
        account.fills[name] for name in ("units", "price", "commission", "reference")
    )
    borrow, before, after = (account.fills[name] for name in ("borrow", "before", "after"))
    n = int(number.max(initial=-1)) + 1

    def total(values: FloatArray) -> FloatArray:
        return np.bincount(number, values, n).astype(np.float64, copy=False)  # without fills it counts

    first, last = np.empty(n, np.int64), np.empty(n, np.int64)
    first[number[::-1]] = np.arange(len(number))[::-1]  # of fills on one place, the last one written stays
    last[number] = np.arange(len(number))
    open_ = after[last] != 0
    owner = code[first]
    largest = np.zeros(n)
    np.maximum.at(largest, number, np.abs(after))
    side = np.sign(units[first])
    adds = np.sign(units) == side[number]
    bought, sold = total(np.abs(units) * adds), total(np.abs(units) * ~adds)
    notional = np.abs(units) * price
    paid = total(commission + np.abs(units * (price - reference)) + borrow)
    gain = total(-units * price - commission - borrow)
    held, still = account.held["units"][owner], account.held["owed"][owner] * open_
    gain += np.where(open_, held * account.held["mark"][owner], 0.0) - still
    exits = pd.Series(times.take(moment[last])).mask(open_)
    with np.errstate(invalid="ignore"):
        out_price = total(notional * ~adds) / sold
    return pd.DataFrame(
        _named(owner, names)
        | {
            "entry": times.take(moment[first]),
            "exit": exits,
            "side": pd.Index(["long", "short"]).take((side < 0).astype(np.int64)),
            "units": largest,
            "entry_price": total(notional * adds) / bought,
            "exit_price": out_price,
            # The bar of the exit is not held: it is left at its open. An open trade holds the last one, too.
            "bars": np.where(open_, account.held["bars"][owner] + 1, bar[last]) - bar[first],
            "pnl": gain,
            "return": gain / before[first],
            "costs": paid + still,
            "open": open_,
        }
    )
