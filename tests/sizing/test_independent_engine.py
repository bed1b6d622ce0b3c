"""The same orders in an independent engine: the same fills, and the same equity to the cent."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import read_bars
from ensemble_kit.sizing.backtest import backtest
from ensemble_kit.sizing.costs import Costs

backtesting = pytest.importorskip("backtesting")

CASH = 1_000_000.0


def run_there(bars, weights, *, spread=0.0, commission=0.0):
    """Order what lacks to the target, from that engine's own equity and close; return equity and fills."""
    sides, fills = [0.0], []

    class Targets(backtesting.Strategy):
        def init(self):
            pass

        def next(self):
            now = len(self.data) - 1
            # Its units are whole, its price that of the close, its fill at the next open.
            order = int(weights[now] * self.equity / self.data.Close[-1]) - self.position.size
            sides[0] = np.sign(order)
            if order and now < len(weights) - 1:
                fills.append((bars.index[now + 1], order))
                (self.buy if order > 0 else self.sell)(size=abs(order))

    charge = (lambda units, price: commission(abs(units), price, sides[0])) if callable(commission) else commission
    frame = bars.rename(columns=str.capitalize)
    engine = backtesting.Backtest(frame, Targets, cash=CASH, spread=spread, commission=charge, trade_on_close=False)
    stats = engine.run()
    return stats["_equity_curve"]["Equity"], pd.DataFrame(fills, columns=["time", "units"]), stats["_trades"]


def steps(n, seed, low):
    """Weights held for some ten bars, flat at both ends; the other engine starts at the second bar."""
    rng = np.random.default_rng(seed)
    weights = np.repeat(rng.uniform(low, 0.95, n // 10 + 1) * (rng.random(n // 10 + 1) < 0.8), 10)[:n]
    weights[0], weights[-3:] = 0, 0
    return weights


def assert_same(here, equity, orders):
    """Equity to the cent at each bar; units and times of orders, whose two halves are one there."""
    assert np.abs(here.equity.to_numpy() - equity.to_numpy()).max() < 0.005
    ours = here.fills.groupby("time", as_index=False)["units"].sum()
    assert ours["time"].tolist() == orders["time"].tolist()
    np.testing.assert_array_equal(ours["units"], orders["units"])
    assert len(ours) > 1000


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:backtesting")
def test_long_only_with_its_own_spread_and_commission(shared_data):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet").iloc[:8000]
    weights, half = steps(len(bars), 0, 0.0), 1e-4
    # It charges the whole spread to what opens, none to what closes: its opens are our bids.
    bids = bars.assign(open=bars["open"] * (1 - half))
    equity, orders, _ = run_there(bids, weights, spread=(1 + half) / (1 - half) - 1, commission=2e-4)
    costs = Costs(commission_bps=2, spread_bps=2)
    here = backtest(bars, weights, costs=costs, cash=CASH, lot_size=1)
    assert_same(here, equity, orders)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:backtesting")
def test_long_and_short_with_spread_slippage_and_commission(shared_data):
    bars = read_bars(shared_data / "xauusd_1h_2006_2015.parquet").iloc[:8000]
    weights = steps(len(bars), 1, -0.95)
    worse, rate, per_unit = 1.5e-4, 1e-4, 0.01

    def commission(units, price, side):  # it has no spread on both sides: what a fill is worse goes in here
        return units * (price * worse + price * (1 + side * worse) * rate + per_unit)

    equity, orders, trades = run_there(bars, weights, commission=commission)
    costs = Costs(commission_bps=1, commission_per_unit=per_unit, spread_bps=2, slippage_bps=0.5)
    here = backtest(bars, weights, costs=costs, cash=CASH, lot_size=1)
    assert_same(here, equity, orders)
    # Its closed trades are lots, first in first out; what they gained together is what ours did.
    assert here.trades["pnl"].sum() == pytest.approx(equity.iloc[-1] - CASH, abs=0.005)
    by_time = here.fills.groupby("time")["reference"].first()
    assert set(trades["ExitPrice"]) <= set(by_time)
    np.testing.assert_array_equal(by_time, bars["open"].loc[by_time.index])
    side = np.sign(here.fills["units"])
    np.testing.assert_allclose(here.fills["price"], here.fills["reference"] * (1 + side * worse), rtol=1e-15)
