"""Panels: one account for all, and a slow one in plain Python as the oracle."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.sizing.backtest import backtest
from ensemble_kit.sizing.costs import Costs

EVERYTHING = Costs(
    commission_bps=3, commission_per_unit=0.01, commission_min=2, spread_bps=4, slippage_bps=1, borrow_rate=0.5
)


def panel_of(n_times, n_instruments, seed, holes=0.4):
    """Instruments that trade at their own times, begin and end when they like; some hardly at all."""
    rng = np.random.default_rng(seed)
    times = pd.date_range("2024-01-01", periods=n_times, freq="h", tz="UTC")
    names = [f"i{k}" for k in rng.permutation(n_instruments)]
    parts = {}
    for k, name in enumerate(names):
        keep = np.flatnonzero(rng.random(n_times) > holes)
        keep = keep[: [len(keep), 1, 3, len(keep) // 2][k % 4]]
        path = rng.uniform(5, 200) * np.exp(np.cumsum(rng.normal(0, 0.01, (len(keep), 2)).ravel())).reshape(-1, 2)
        prices = {"open": path[:, 0], "high": path.max(1), "low": path.min(1), "close": path[:, 1]}
        parts[name] = pd.DataFrame(prices, index=times[keep])
    return pd.concat(parts, names=["instrument", "datetime"]).swaplevel().sort_index(level=0, sort_remaining=False)


def weights_of(panel, seed, gross):
    rng = np.random.default_rng(seed)
    n = panel.index.get_level_values(1).nunique()
    return rng.uniform(-1, 1, len(panel)) * (rng.random(len(panel)) < 0.6) * 2 * gross / n


def by_hand(bars, weights, *, costs, cash, lot=0.0, min_trade=0.0, leverage=1.0):
    """Keep the account with dictionaries; the share that fits is found by halving. No ruin."""
    held, mark, wish, equity, fills, previous = {}, {}, {}, {}, [], None
    rows = pd.DataFrame({"open": bars["open"], "close": bars["close"], "weight": weights})

    def commission(units, price):
        value = costs.commission_bps / 1e4 * units * price + costs.commission_per_unit * units
        return max(costs.commission_min, value) if units else 0.0

    def price_of(name, order):
        return mark[name] * (1 + np.sign(order) * costs.fill_bps / 1e4)

    for time, group in rows.groupby(level=0):
        group = group.droplevel(0)
        if previous is not None:
            rate = costs.borrow_rate * ((time - previous) / pd.Timedelta(days=365.25))
            cash -= rate * (max(-cash, 0) + sum(max(-held[name] * mark[name], 0) for name in held))
        mark |= group["open"].to_dict()
        worth_before = cash + sum(held[name] * mark[name] for name in held)
        closed, openings = {}, {}
        for name in group.index:
            order, units = wish.get(name, 0.0), held.get(name, 0.0)
            part = np.sign(order) * min(abs(order), abs(units)) if order * units < 0 else 0.0
            if part:
                cash -= part * price_of(name, order) + commission(abs(part), price_of(name, order))
                held[name] = units + part if abs(part) < abs(units) else 0.0
                fills.append((time, name, part))
            closed[name] = abs(part)
            if order != part:
                openings[name] = order - part

        def sizes_of(share):
            found = {name: abs(order) * share for name, order in openings.items()}
            return {k: lot * np.floor(v / lot * (1 + 1e-11)) for k, v in found.items()} if lot and share < 1 else found

        def fees(share, part):
            both = {name: (abs(openings[name]) * share, price_of(name, openings[name])) for name in openings}
            if part is not None:
                both = {part: (sizes_of(share)[part], both[part][1])}
            # Without lots here: a share is sought for what would be ordered, and rounded down afterwards.
            return sum(
                commission(size + closed[name], price) - (commission(closed[name], price) if closed[name] else 0)
                for name, (size, price) in both.items()
                if size or share
            )

        def fits(share):
            value = {name: mark[name] for name in held} | {k: price_of(k, order) for k, order in openings.items()}
            after = {k: held.get(k, 0.0) + share * openings.get(k, 0.0) for k in value}
            spent = sum(share * order * value[k] for k, order in openings.items())
            worth = cash - spent - fees(share, None) + sum(after[k] * value[k] for k in value)
            return sum(abs(after[k]) * value[k] for k in value) <= leverage * worth * (1 + 1e-13)

        share = 1.0
        if openings and not fits(1.0):
            low, high = 0.0, 1.0
            for _ in range(200):
                low, high = ((low + high) / 2, high) if fits((low + high) / 2) else (low, (low + high) / 2)
            share = low if low > 1e-15 else 0.0
        for name, order in openings.items():
            size, price = sizes_of(share)[name], price_of(name, order)
            if share < 1 and size * price <= 1e-9 * worth_before:
                continue
            cash -= np.sign(order) * size * price + fees(share, name)
            held[name] = held.get(name, 0.0) + np.sign(order) * size
            fills.append((time, name, np.sign(order) * size))
        mark |= group["close"].to_dict()
        equity[time] = cash + sum(held[name] * mark[name] for name in held)
        for name, row in group.iterrows():
            target = row["weight"] * equity[time] / row["close"]
            target = lot * np.trunc(target / lot) if lot else target
            order = target - held.get(name, 0.0)
            small = abs(order) * row["close"] < max(min_trade, 1e-9 * equity[time])
            wish[name] = 0.0 if small and target else order
        previous = time
    return pd.Series(equity), fills


@pytest.mark.parametrize(
    "told",
    [
        {"costs": Costs()},
        {"costs": Costs(commission_bps=20, spread_bps=10)},
        {"costs": Costs(commission_min=15)},
        {"costs": EVERYTHING, "lot": 1.0},
        {"costs": EVERYTHING, "min_trade": 800.0, "leverage": 2.5},
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_equals_an_account_kept_by_hand(told, seed):
    bars = panel_of(60, [1, 2, 5, 9][seed], seed)
    weights = weights_of(bars, seed, 1.5 * told.get("leverage", 1))
    equity, fills = by_hand(bars, weights, cash=30_000.0, **told)
    names = {"lot": "lot_size", "leverage": "max_leverage"}
    result = backtest(bars, weights, cash=30_000, **{names.get(key, key): value for key, value in told.items()})
    assert equity.min() > 0
    np.testing.assert_allclose(result.equity, equity, rtol=1e-8)
    assert result.equity.index.equals(pd.DatetimeIndex(equity.index))
    assert len(fills) > 20
    ours = sorted(result.fills[["time", "instrument", "units"]].itertuples(index=False, name=None))
    assert [fill[:2] for fill in ours] == [fill[:2] for fill in sorted(fills)]
    np.testing.assert_allclose([f[2] for f in ours], [f[2] for f in sorted(fills)], rtol=1e-5, atol=1e-6)
    gained = result.trades["pnl"].sum() - result.metrics["interest"] * 30_000
    assert gained == pytest.approx(result.equity.iloc[-1] - 30_000, abs=1e-3)
    assert (result.exposure["gross"] >= result.exposure["net"].abs() - 1e-12).all()


def test_openings_are_cut_alike_after_reductions():
    index = pd.MultiIndex.from_product(
        [pd.date_range("2024-01-01", periods=4, freq="D"), ["A", "B", "C"]], names=["datetime", "instrument"]
    )
    bars = pd.DataFrame(10.0, index=index, columns=["open", "high", "low", "close"])
    weights = [0.0, 0, 0.8, 0.8, 0.4, 0.2, 0.8, 0.4, 0.2, 0, 0, 0]
    result = backtest(bars, weights, costs=0, cash=1000)
    # C is sold down from 0.8 to 0.2 first; A and B ask for 1.2 and get the 0.8 that there is, alike.
    assert result.fills["instrument"].tolist()[:4] == ["C", "C", "A", "B"]
    np.testing.assert_allclose(result.fills["units"].iloc[:4], [80, -60, 80 * 2 / 3, 40 * 2 / 3])
    assert result.exposure["gross"].iloc[2] == pytest.approx(1)


def test_a_decision_waits_for_its_instruments_next_bar():
    bars = panel_of(30, 4, 3)
    name = bars.index.get_level_values(1).value_counts().index[0]
    own = bars.index[bars.index.get_level_values(1) == name]
    weights = pd.Series(0.0, bars.index)
    weights[own[3:6]] = 0.5
    result = backtest(bars, weights, min_trade=20_000)
    assert result.fills["time"].tolist() == [own[4][0], own[7][0]]
    assert (result.fills["instrument"] == name).all()
    assert result.fills["reference"].tolist() == [bars["open"][own[4]], bars["open"][own[7]]]
    assert result.position[result.position != 0].index.tolist() == list(own[4:7])
    assert result.trades["bars"].tolist() == [3]


def test_a_panel_of_one_is_its_instrument():
    one = make_bars(400, random_state=1)
    panel = pd.concat({"A": one}, names=["instrument", "datetime"]).swaplevel()
    weights = np.sin(np.arange(400) / 7)
    a, b = (backtest(bars, weights, costs=EVERYTHING) for bars in (one, panel))
    pd.testing.assert_frame_equal(a.to_frame(), b.to_frame(), check_exact=True, check_freq=False)
    np.testing.assert_array_equal(a.position, b.position)
    assert list(b.fills.columns)[:2] == ["time", "instrument"]
    pd.testing.assert_frame_equal(a.fills, b.fills.drop(columns="instrument"), check_exact=True)
    pd.testing.assert_frame_equal(a.trades, b.trades.drop(columns="instrument"), check_exact=True)
    assert a.metrics == b.metrics


def test_instruments_far_from_the_limit_earn_what_they_earn_alone():
    bars = make_bars(200, instruments=["A", "B", "C"], random_state=2)
    weights = pd.Series(np.random.default_rng(0).integers(0, 2, len(bars)) * 1e-4, bars.index)
    together = backtest(bars, weights).metrics["total_return"]
    alone = [
        backtest(bars.xs(name, level=1), weights.xs(name, level=1)).metrics["total_return"] for name in ("A", "B", "C")
    ]
    assert together == pytest.approx(sum(alone), rel=1e-3)


@pytest.mark.parametrize("k", [1, 2, 17, 40])
def test_prefix_of_bars_gives_prefix_of_result(k):
    bars = panel_of(60, 8, 5)
    weights = pd.Series(weights_of(bars, 6, 1.5), bars.index)
    early = bars.index.get_level_values(0) < bars.index.get_level_values(0).unique()[k]
    told = {"costs": EVERYTHING, "cash": 20_000, "lot_size": 1}
    whole, part = backtest(bars, weights, **told), backtest(bars[early], weights[early], **told)
    columns = ["gross", "net", "returns", "equity", "drawdown"]
    pd.testing.assert_frame_equal(part.to_frame()[columns], whole.to_frame()[columns][:k], check_exact=True)
    pd.testing.assert_series_equal(part.position, whole.position[early], check_exact=True)
    pd.testing.assert_frame_equal(part.fills, whole.fills[: len(part.fills)], check_exact=True)


def test_buy_and_hold_splits_the_cash():
    bars = panel_of(40, 5, 7)
    costs = Costs(commission_bps=10, spread_bps=20, commission_min=1)
    result = backtest(bars, np.zeros(len(bars)), costs=costs, cash=50_000)
    final = 0.0
    for _, own in bars.groupby(level=1):
        rest = 10_000.0
        if len(own) > 1:
            price = own["open"].iloc[1] * 1.001
            rest = rest / price / 1.001 * own["close"].iloc[-1]
        final += rest
    assert result.buy_and_hold.iloc[-1] == pytest.approx(final)
    assert result.metrics["buy_and_hold"] == pytest.approx(final / 50_000 - 1)


def test_ruin_closes_everything_at_once():
    index = pd.MultiIndex.from_product(
        [pd.date_range("2024-01-01", periods=5, freq="D"), ["A", "B"]], names=["datetime", "instrument"]
    )
    close = np.array([10.0, 10, 10, 10, 30, 9, 10, 10, 10, 10])
    start = np.array([10.0, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    high, low = np.maximum(start, close), np.minimum(start, close)
    bars = pd.DataFrame({"open": start, "high": high, "low": low, "close": close}, index=index)
    result = backtest(bars, np.tile([-0.5, 0.5], 5), costs=Costs(borrow_rate=0.1), cash=1000)
    assert result.equity.tolist()[2:] == [0, 0, 0]
    assert not result.trades["open"].any()
    assert (result.trades["exit"] == index[4][0]).all()
    assert (result.trades["bars"] == 2).all()
    assert result.trades["pnl"].sum() == pytest.approx(-1000)
    assert (result.position.to_numpy()[6:] == 0).all()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_the_books_add_up(seed):
    rng = np.random.default_rng(seed)
    bars = panel_of(40, int(rng.integers(1, 7)), seed)
    bars *= np.exp(rng.normal(0, rng.choice([0, 0.5]), len(bars)))[:, None]  # half of them ruinous
    leverage = float(rng.choice([0.3, 1, 3, 20]))
    costs = Costs(
        commission_bps=rng.choice([0, 5, 500]),
        commission_min=rng.choice([0, 5, 100]),
        spread_bps=rng.choice([0, 5, 1000]),
        borrow_rate=rng.choice([0, 0.1, 50]),
    )
    weights, lots = rng.uniform(-1, 1, len(bars)) * leverage * 1.5, rng.choice([0, 0.1, 1])
    result = backtest(bars, weights, costs=costs, cash=10_000, max_leverage=leverage, lot_size=lots)
    equity, trades = result.equity.to_numpy(), result.trades
    assert (equity >= 0).all()
    gained = trades["pnl"].sum() - result.metrics["interest"] * 10_000
    assert gained == pytest.approx(equity[-1] - 10_000, abs=1e-8 * equity.max() * leverage + 1e-6)
    assert trades["costs"].sum() == pytest.approx((result.metrics["costs"] - result.metrics["interest"]) * 10_000)
    assert equity[-1] > 0 or not trades["open"].any()


def test_panels_are_refused_where_they_are_wrong():
    bars = panel_of(20, 3, 1)
    with pytest.raises(EnsembleKitError, match="`position` must have the index of `bars`"):
        backtest(bars, pd.Series(0.0, bars.index[::-1]))
    torn = bars.copy()
    torn.iloc[4, 0] = np.nan
    with pytest.raises(BarsError, match=r"open and close on every row; got NaN at \(Timestamp.*\(row 4\); 1 such"):
        backtest(torn, np.zeros(len(bars)))
