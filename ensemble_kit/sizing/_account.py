"""The account: orders of a close filled at the next open, by the same steps in a backtest and in a paper account.

What the next time needs to know is in two arrays of records, `cash` and `held`, which `advance` changes
in place: a backtest takes all times at once (`run_account`), a paper account each bar as it comes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = [
    "CASH",
    "FILL",
    "HELD",
    "Account",
    "Terms",
    "advance",
    "hold_account",
    "new_account",
    "order_units",
    "run_account",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
RecordArray = NDArray[np.void]

_YEAR = 365.25 * 86_400e9  # nanoseconds
_DUST = 1e-9  # of equity: what rounding leaves of an order is no order


def _record(**fields: str) -> np.dtype[np.void]:
    return np.dtype([(name, kind) for kind, names in fields.items() for name in names.split()])


CASH = _record(f8="amount interest", i8="trades fills")  # (1,): currency, interest paid on it, how many of both
# (n_instruments,): of the order under way, `least` is the least that its opening part pays, and `base` what is added
# to its own share (below 0 where the closing part has paid the minimum already); borrow since the last fill is `owed`.
HELD = _record(f8="units mark owed order least base", i8="trade bars")
FILL = _record(f8="units price commission reference borrow before after", i8="time instrument trade bar")


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
    """What a run leaves: by time, by row, by fill, by instrument."""

    equity: FloatArray  # (n_times,) at closes
    gross: FloatArray  # (n_times,) of equity, at opens after fills
    net: FloatArray  # (n_times,)
    weights: FloatArray  # (n_rows,) of the row's instrument, at its open after fills
    fills: RecordArray  # (n_fills,) of FILL, in the order in which they were made
    held: RecordArray  # (n_instruments,) of HELD, at the end
    interest: float  # on negative cash


@intrinsic
def _lent(_: Any, array: Any) -> Any:
    """Return an array that counts no references; who lends it holds it.

    Counting them around each call of a step would cost several times what the step does.
    """

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        view = context.make_array(signature.return_type)(context, builder, given[0])
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        return view._getvalue()  # noqa: SLF001 - numba has no other

    return array(array), make


@numba.njit(cache=True)
def worth(held: RecordArray) -> Any:
    """Return net and gross notional; summed anew each time, so that no rounding piles up."""
    net = gross = 0.0
    for i in range(len(held)):
        value = held[i].units * held[i].mark
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
def order_units(weight: float, equity: float, close: float, units: float, lot_size: float, min_trade: float) -> float:
    """Return what is ordered at a close: what lacks to `weight` of equity, in lots, unless it is too small.

    An order that closes the position is never too small. 0.0 is no order.
    """
    target = _in_lots(weight * equity / close, lot_size)
    if abs(target) * close < _DUST * equity:
        target = 0.0
    order = target - units
    small = abs(order) * close < max(min_trade, _DUST * equity)
    return 0.0 if small and target != 0.0 else order


@numba.njit(cache=True)
def share_that_fits(held: Any, rows: Any, code: Any, opens: Any, room: float, terms: Terms) -> float:
    """Return the largest share of all openings of one time whose notional and commissions fit into `room`.

    What they take is convex and piecewise linear in the share (a commission has a minimum), so
    Newton's steps from 1 downwards end at the solution, after as many as there are kinks at most.
    """
    for r in range(rows[0], rows[1]):
        h = held[code[r]]
        if h.order != 0.0:  # what is held is valued at the fill, too
            worse = h.units * (_fill_price(opens[r], h.order, terms.slip) - opens[r])
            room += terms.max_leverage * worse - (worse if h.units > 0 else -worse)
    share = 1.0
    while True:
        fixed = slope = 0.0
        for r in range(rows[0], rows[1]):
            h = held[code[r]]
            size = abs(h.order)
            if size == 0.0:
                continue
            price = _fill_price(opens[r], h.order, terms.slip)
            fee = (terms.commission * price + terms.per_unit) * size
            slope += size * price
            if h.base + share * fee > h.least:
                fixed += terms.max_leverage * h.base
                slope += terms.max_leverage * fee
            else:
                fixed += terms.max_leverage * h.least
        fits = (room - fixed) / slope
        if fits >= share:
            return share
        if fits <= 0.0:
            return 0.0
        share = fits


def new_account(n_instruments: int, cash: float) -> tuple[RecordArray, RecordArray]:
    """Return cash and holdings of an account in which nothing has happened yet."""
    amount, held = np.zeros(1, CASH), np.zeros(n_instruments, HELD)
    amount["amount"], held["trade"] = cash, -1
    return amount, held


@numba.njit(cache=True)
def accrue(cash: RecordArray, held: RecordArray, elapsed: int, terms: Terms) -> None:
    """Charge interest on cash below 0 and borrow on what is short, for `elapsed` nanoseconds."""
    rate = terms.borrow * elapsed / _YEAR
    due = max(-cash[0].amount, 0.0) * rate
    cash[0].interest += due
    cash[0].amount -= due
    for i in range(len(held)):
        h = held[i]
        if h.units < 0.0:
            due = -h.units * h.mark * rate
            h.owed += due
            cash[0].amount -= due


@numba.njit(cache=True)
def mark_opens(held: RecordArray, rows: Any, code: IntArray, opens: FloatArray) -> None:
    """Value what is held at the opens of `rows`, the first and the one after the last of one time."""
    for r in range(rows[0], rows[1]):
        h = held[code[r]]
        h.mark = opens[r]
        h.bars += 1


@numba.njit(cache=True)
def _fill(c: Any, h: Any, f: Any, units: float, price: float, fee: float, reference: float, before: float) -> None:
    """Write the fill `f`, of the cash `c` and what is held, `h`."""
    c.amount -= units * price + fee
    c.fills += 1
    h.units += units
    f.units, f.price, f.commission, f.reference = units, price, fee, reference
    f.borrow, f.before, f.after = h.owed, before, h.units
    f.trade, f.bar = h.trade, h.bars
    h.owed = 0.0


@numba.njit(cache=True)
def fill_reductions(
    cash: Any, held: Any, fills: Any, m: int, rows: Any, code: Any, opens: Any, before: float, terms: Terms
) -> Any:
    """Fill what closes, and return whether the account is ruined, and whether an order opens."""
    left, ruined, opening = before, before <= 0.0, False
    for r in range(rows[0], rows[1]):
        i = code[r]
        h = held[i]
        order, u = h.order, h.units
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
        h.order = order - signed
        h.least, h.base = 0.0, linear - fee
        f = fills[cash[0].fills]
        f.time, f.instrument = m, i
        _fill(cash[0], h, f, signed, price, fee, opens[r], before)
    return ruined, opening


@numba.njit(cache=True)
def fill_openings(
    cash: Any,
    held: Any,
    fills: Any,
    m: int,
    rows: Any,
    code: Any,
    opens: Any,
    share: float,
    before: float,
    terms: Terms,
) -> None:
    """Fill a share of what opens."""
    for r in range(rows[0], rows[1]):
        h = held[code[r]]
        if h.order == 0.0:
            continue
        price = _fill_price(opens[r], h.order, terms.slip)
        size = abs(h.order)
        if share < 1.0:
            size = _in_lots(size * share, terms.lot_size)
            if size * price <= _DUST * before:
                continue
        fee = max(h.least, h.base + (terms.commission * price + terms.per_unit) * size)
        if h.units == 0.0:
            h.trade = cash[0].trades
            cash[0].trades += 1
        signed = size if h.order > 0 else -size
        f = fills[cash[0].fills]
        f.time, f.instrument = m, code[r]
        _fill(cash[0], h, f, signed, price, fee, opens[r], before)


@numba.njit(cache=True)
def mark_closes(held: Any, weights: Any, rows: Any, code: Any, opens: Any, closes: Any, equity: float) -> None:
    """Value what is held at the closes, and write what it weighed at the opens."""
    for r in range(rows[0], rows[1]):
        h = held[code[r]]
        weights[r] = h.units * opens[r] / equity
        h.mark = closes[r]


@numba.njit(cache=True)
def decide_orders(held: Any, rows: Any, code: Any, closes: Any, wanted: Any, equity: float, terms: Terms) -> None:
    """Order at the closes what lacks to the weights that are wanted."""
    for r in range(rows[0], rows[1]):
        if not np.isnan(wanted[r]):
            h = held[code[r]]
            h.order = order_units(wanted[r], equity, closes[r], h.units, terms.lot_size, terms.min_trade)
            h.least, h.base = terms.minimum, 0.0


@numba.njit(cache=True)
def close_all(cash: Any, held: Any, fills: Any, m: int, equity: float, gross: float, at_close: bool) -> None:
    """Leave nothing and owe nothing: close everything, each as far from its mark as the others."""
    for i in range(len(held)):
        h = held[i]
        if h.units != 0.0:
            f = fills[cash[0].fills]
            f.time, f.instrument = m, i
            price = h.mark * (1.0 - np.sign(h.units) * equity / gross)
            _fill(cash[0], h, f, -h.units, price, 0.0, price, np.inf)
            f.bar += at_close  # that bar was held
    cash[0].amount = 0.0


@numba.njit(cache=True)
def fill_orders(cash: Any, held: Any, fills: Any, m: int, rows: Any, code: Any, opens: Any, terms: Terms) -> Any:
    """Fill the orders of time m at its opens: reductions first, then as much of the openings as fits.

    Returns whether the account is ruined, and its equity, net and gross notional afterwards.
    """
    before = cash[0].amount + worth(held)[0]
    ruined, opening = fill_reductions(cash, held, fills, m, rows, code, opens, before, terms)
    net, gross = worth(held)
    if opening and not ruined:
        room = terms.max_leverage * (cash[0].amount + net) - gross
        share = share_that_fits(held, rows, code, opens, room, terms)
        fill_openings(cash, held, fills, m, rows, code, opens, share, before, terms)
        net, gross = worth(held)
    equity = cash[0].amount + net
    return ruined or equity <= 0.0, equity, net, gross


@numba.njit(cache=True)
def advance(
    cash: RecordArray,
    held: RecordArray,
    fills: RecordArray,
    since: int,
    start: IntArray,
    time: IntArray,
    code: IntArray,
    opens: FloatArray,
    closes: FloatArray,
    wanted: FloatArray,
    terms: Terms,
) -> Any:
    """Take the account through times, `since` being the one before them, and change it in place.

    `start` (n_times + 1,) cuts rows into times, which are in nanoseconds. Of each row the weight that
    is `wanted` sets the order for the instrument's next open; NaN leaves the one there is. Returns
    equity at closes, gross and net exposure at opens, shape (3, n_times), and the rows' weights.
    """
    path, weights = np.zeros((3, len(time))), np.zeros(len(code))
    _advance(
        _lent(cash),
        _lent(held),
        _lent(fills),
        since,
        _lent(start),
        _lent(time),
        _lent(code),
        _lent(opens),
        _lent(closes),
        _lent(wanted),
        _lent(path),
        _lent(weights),
        terms,
    )
    return path, weights


@numba.njit(cache=True)
def _advance(
    cash: Any,
    held: Any,
    fills: Any,
    since: int,
    start: Any,
    time: Any,
    code: Any,
    opens: Any,
    closes: Any,
    wanted: Any,
    path: Any,
    weights: Any,
    terms: Terms,
) -> None:
    for m in range(len(time)):
        rows = (start[m], start[m + 1])
        accrue(cash, held, time[m] - (time[m - 1] if m > 0 else since), terms)
        mark_opens(held, rows, code, opens)
        ruined, equity, net, gross = fill_orders(cash, held, fills, m, rows, code, opens, terms)
        if not ruined:
            path[1, m], path[2, m] = gross / equity, net / equity
            mark_closes(held, weights, rows, code, opens, closes, equity)
            net, gross = worth(held)
            equity = cash[0].amount + net
        if ruined or equity <= 0.0:
            close_all(cash, held, fills, m, equity, gross, not ruined)
            return
        path[0, m] = equity
        decide_orders(held, rows, code, closes, wanted, equity, terms)


def run_account(
    start: IntArray,
    time: IntArray,
    code: IntArray,
    opens: FloatArray,
    closes: FloatArray,
    weights: FloatArray,
    n_instruments: int,
    terms: Terms,
) -> Account:
    """Run an account from its first time to its last, as `advance` says."""
    cash, held = new_account(n_instruments, terms.cash)
    # An order is at most two fills, ruin one an instrument. Memory that is never written to is never taken.
    fills = np.empty(2 * len(code) + n_instruments, FILL)
    (equity, gross, net), filled = advance(cash, held, fills, time[0], start, time, code, opens, closes, weights, terms)
    return Account(equity, gross, net, filled, fills[: cash["fills"][0]].copy(), held, float(cash["interest"][0]))


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
