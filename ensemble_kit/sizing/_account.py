"""The account of a backtest: orders of a close filled at the next open, one loop over times."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["Account", "Terms", "hold_account", "run_account"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_YEAR = 365.25 * 86_400e9  # nanoseconds
_DUST = 1e-9  # of equity: what rounding leaves of an order is no order


class Terms(NamedTuple):
    """What the account is run on: currency, units, and fractions of the notional or of the price."""

    cash: float
    lot_size: float
    min_trade: float
    max_leverage: float
    commission: float
    per_unit: float
    minimum: float
    slip: float
    borrow: float


class Account(NamedTuple):
    """What the loop leaves: by time, by row, by fill, by instrument."""

    equity: FloatArray  # (n_times,) at closes
    gross: FloatArray  # (n_times,) of equity, at opens after fills
    net: FloatArray  # (n_times,)
    held: FloatArray  # (n_rows,) weight of the row's instrument, at its open after fills
    ids: IntArray  # (n_fills, 4) time, instrument, trade, bar of the instrument
    fills: FloatArray  # (n_fills, 7) units, price, commission, reference, borrow, equity before, units after
    units: FloatArray  # (n_instruments,) at the end
    marks: FloatArray  # (n_instruments,) last known closes
    owed: FloatArray  # (n_instruments,) borrow since the last fill
    trade: IntArray  # (n_instruments,) the last trade
    bars: IntArray  # (n_instruments,) seen
    interest: float  # on negative cash


@numba.njit(cache=True)
def _worth(units: FloatArray, marks: FloatArray) -> Any:
    """Return net and gross notional; summed anew each time, so that no rounding piles up."""
    net = gross = 0.0
    for i in range(len(units)):
        value = units[i] * marks[i]
        net += value
        gross += abs(value)
    return net, gross


@numba.njit(cache=True)
def _fill_price(reference: float, order: float, slip: float) -> float:
    return reference * (1.0 + slip) if order > 0 else reference * (1.0 - slip)


@numba.njit(cache=True)
def _in_lots(units: float, lot: float) -> float:
    """Round towards zero to whole lots; 0.3 / 0.1 is three of them."""
    if lot == 0.0:
        return units
    lots = units / lot
    nearest = np.round(lots)
    if abs(lots - nearest) > 1e-12 * max(abs(nearest), 1.0):
        nearest = np.trunc(lots)
    return nearest * lot


@numba.njit(cache=True)
def _share_that_fits(rows: Any, code: Any, opens: Any, orders: Any, fees: Any, room: float, terms: Terms) -> float:
    """Return the largest share of all openings of one time whose notional and commissions fit into `room`.

    What they take is convex and piecewise linear in the share (a commission has a minimum), so
    Newton's steps from 1 downwards end at the solution, after as many as there are kinks at most.
    """
    share = 1.0
    while True:
        fixed = slope = 0.0
        for r in range(rows[0], rows[1]):
            size = abs(orders[code[r]])
            if size == 0.0:
                continue
            price = _fill_price(opens[r], orders[code[r]], terms.slip)
            least, base = fees[code[r], 0], fees[code[r], 1]
            fee = (terms.commission * price + terms.per_unit) * size
            slope += size * price
            if base + share * fee > least:
                fixed += terms.max_leverage * base
                slope += terms.max_leverage * fee
            else:
                fixed += terms.max_leverage * least
        fits = (room - fixed) / slope
        if fits >= share:
            return share
        if fits <= 0.0:
            return 0.0
        share = fits


@numba.njit(cache=True)
def run_account(  # noqa: C901, PLR0912, PLR0915 - one loop, one state
    start: IntArray,
    time: IntArray,
    code: IntArray,
    opens: FloatArray,
    closes: FloatArray,
    weights: FloatArray,
    n_instruments: int,
    terms: Terms,
) -> Account:
    """Run the account; `start` (n_times + 1,) cuts rows into times, `time` is in nanoseconds.

    At each time: interest since the one before, opens, reductions, openings, closes, decisions.
    """
    n_times, n = len(start) - 1, len(code)
    cash, interest, n_fills, n_trades = terms.cash, 0.0, 0, 0
    units, marks = np.zeros(n_instruments), np.zeros(n_instruments)
    owed, orders = np.zeros(n_instruments), np.zeros(n_instruments)
    # Of an order under way: the least that its opening part pays, and what is added to its own share (below 0 where
    # the closing part has paid the minimum already).
    fees = np.zeros((n_instruments, 2))
    trade, bars = np.full(n_instruments, -1), np.zeros(n_instruments, np.int64)
    equity, gross_of, net_of, held = np.zeros(n_times), np.zeros(n_times), np.zeros(n_times), np.zeros(n)
    # An order is at most two fills; memory that is never written to is never taken.
    ids, fills = np.empty((2 * n + n_instruments, 4), np.int64), np.empty((2 * n + n_instruments, 7))
    for m in range(n_times):
        rows = (start[m], start[m + 1])
        if m > 0 and terms.borrow > 0.0:
            rate = terms.borrow * (time[m] - time[m - 1]) / _YEAR
            due = max(-cash, 0.0) * rate
            interest += due
            cash -= due
            for i in range(n_instruments):
                if units[i] < 0.0:
                    due = -units[i] * marks[i] * rate
                    owed[i] += due
                    cash -= due
        for r in range(rows[0], rows[1]):
            marks[code[r]] = opens[r]
            bars[code[r]] += 1
        net, gross = _worth(units, marks)
        before = cash + net
        left, ruined, opening = before, before <= 0.0, False

        for r in range(rows[0], rows[1]):
            i = code[r]
            order, u = orders[i], units[i]
            if ruined or order == 0.0:
                continue
            opening |= abs(order) > abs(u) or order * u >= 0.0
            if order * u >= 0.0:
                continue
            part = min(abs(order), abs(u))
            price = _fill_price(opens[r], order, terms.slip)
            linear = (terms.commission * price + terms.per_unit) * part
            fee = max(terms.minimum, linear)
            left -= part * opens[r] * terms.slip + fee
            if left <= 0.0:  # cannot pay for its own closing
                ruined = True
                continue
            signed = part if order > 0 else -part
            cash -= signed * price + fee
            units[i] = u + signed
            orders[i] = order - signed
            fees[i, 0], fees[i, 1] = 0.0, linear - fee
            ids[n_fills] = (m, i, trade[i], bars[i])
            fills[n_fills] = (signed, price, fee, opens[r], owed[i], before, units[i])
            owed[i] = 0.0
            n_fills += 1

        if opening and not ruined:
            net, gross = _worth(units, marks)
            room = terms.max_leverage * (cash + net) - gross
            for r in range(rows[0], rows[1]):
                i = code[r]
                if orders[i] != 0.0:  # valued at its fill
                    worse = units[i] * (_fill_price(opens[r], orders[i], terms.slip) - opens[r])
                    room += terms.max_leverage * worse - (worse if units[i] > 0 else -worse)
            share = _share_that_fits(rows, code, opens, orders, fees, room, terms)
            for r in range(rows[0], rows[1]):
                i = code[r]
                if orders[i] == 0.0:
                    continue
                price = _fill_price(opens[r], orders[i], terms.slip)
                size = abs(orders[i])
                if share < 1.0:
                    size = _in_lots(size * share, terms.lot_size)
                    if size * price <= _DUST * before:
                        continue
                fee = max(fees[i, 0], fees[i, 1] + (terms.commission * price + terms.per_unit) * size)
                signed = size if orders[i] > 0 else -size
                if units[i] == 0.0:
                    trade[i] = n_trades
                    n_trades += 1
                cash -= signed * price + fee
                units[i] += signed
                ids[n_fills] = (m, i, trade[i], bars[i])
                fills[n_fills] = (signed, price, fee, opens[r], owed[i], before, units[i])
                owed[i] = 0.0
                n_fills += 1

        net, gross = _worth(units, marks)
        after = cash + net
        ruined |= after <= 0.0
        if not ruined:
            gross_of[m], net_of[m] = gross / after, net / after
            for r in range(rows[0], rows[1]):
                held[r] = units[code[r]] * opens[r] / after
                marks[code[r]] = closes[r]
            net, gross = _worth(units, marks)
            after = cash + net
        if ruined or after <= 0.0:
            for i in range(n_instruments):
                if units[i] != 0.0:
                    # The price at which nothing is left and nothing is owed, each as far from its mark as the others.
                    price = marks[i] * (1.0 - np.sign(units[i]) * after / gross)
                    ids[n_fills] = (m, i, trade[i], bars[i] + (0 if ruined else 1))
                    fills[n_fills] = (-units[i], price, 0.0, price, owed[i], np.inf, 0.0)
                    units[i] = owed[i] = 0.0
                    n_fills += 1
            break
        equity[m] = after

        for r in range(rows[0], rows[1]):
            i = code[r]
            target = _in_lots(weights[r] * after / closes[r], terms.lot_size)
            if abs(target) * closes[r] < _DUST * after:
                target = 0.0
            order = target - units[i]
            small = abs(order) * closes[r] < max(terms.min_trade, _DUST * after)
            orders[i] = 0.0 if small and target != 0.0 else order
            fees[i, 0], fees[i, 1] = terms.minimum, 0.0
    return Account(
        equity,
        gross_of,
        net_of,
        held,
        ids[:n_fills].copy(),
        fills[:n_fills].copy(),
        units,
        marks,
        owed,
        trade,
        bars,
        interest,
    )


@numba.njit(cache=True)
def hold_account(
    start: IntArray, code: IntArray, opens: FloatArray, closes: FloatArray, n_instruments: int, terms: Terms
) -> FloatArray:
    """Split the cash equally, put each part into its instrument at its second bar's open, and keep it."""
    worth = np.full(n_instruments, terms.cash / n_instruments)
    units, rest, bars = np.zeros(n_instruments), worth.copy(), np.zeros(n_instruments, np.int64)
    equity = np.empty(len(start) - 1)
    for m in range(len(equity)):
        for r in range(start[m], start[m + 1]):
            i = code[r]
            bars[i] += 1
            if bars[i] == 2:
                price = opens[r] * (1.0 + terms.slip)
                unit = price * (1.0 + terms.commission) + terms.per_unit
                size = _in_lots(max(min((rest[i] - terms.minimum) / price, rest[i] / unit), 0.0), terms.lot_size)
                if size > 0.0:
                    units[i] = size
                    fee = max(terms.minimum, (terms.commission * price + terms.per_unit) * size)
                    rest[i] -= size * price + fee
            worth[i] = rest[i] + units[i] * closes[r]
        equity[m] = worth.sum()
    return equity
