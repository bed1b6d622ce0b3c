"""One instrument: a slow account in plain Python as the oracle, what happens when, and what is refused."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.metrics import next_open_return
from ensemble_kit.sizing.backtest import backtest
from ensemble_kit.sizing.costs import Costs

METRICS = [
    "total_return",
    "annual_return",
    "buy_and_hold",
    "outperformance",
    "matched_return",
    "sharpe",
    "sortino",
    "calmar",
    "buy_and_hold_sharpe",
    "max_drawdown",
    "buy_and_hold_max_drawdown",
    "trades",
    "win_rate",
    "profit_factor",
    "turnover",
    "costs",
    "interest",
    "exposure",
    "mean_bar_return",
    "periods_per_year",
]


def frame(opens, closes, freq="D"):
    opens, closes = np.asarray(opens, float), np.asarray(closes, float)
    index = pd.date_range("2024-01-01", periods=len(opens), freq=freq, tz="UTC")
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    return pd.DataFrame({"open": opens, "high": high, "low": low, "close": closes}, index=index)


def walk(n, seed=0, scale=0.02):
    rng = np.random.default_rng(seed)
    path = 100 * np.exp(np.cumsum(rng.normal(0, scale, 2 * n)))
    return frame(path[::2], path[1::2], freq="h")


def opened_higher(bars):
    """Let the second bar open a little above the first's close: cash runs out at the entry."""
    bars.iloc[1, :3] = bars.iloc[0]["close"] * 1.001, 200.0, 1.0


def weights_of(n, seed, high=1.0):
    """Held for a while, so that weights drift; often flat, often turned round."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.uniform(-high, high, n) * (rng.random(n) < 0.8), 3)[:n]


def by_hand(bars, weights, *, costs, cash, lot=0.0, min_trade=0.0, leverage=1.0):
    """Keep one instrument's account bar by bar; the opening that fits is found by halving. No ruin."""
    slip, held, wish, equity, fills = costs.fill_bps / 1e4, 0.0, 0.0, [], []

    def commission(units, price):
        value = costs.commission_bps / 1e4 * units * price + costs.commission_per_unit * units
        return max(costs.commission_min, value) if units else 0.0

    previous = None
    for time, weight, (o, c) in zip(bars.index, weights, bars[["open", "close"]].to_numpy(), strict=True):
        if previous is not None:
            years = (time - previous[0]) / pd.Timedelta(days=365.25)
            cash -= costs.borrow_rate * years * (max(-cash, 0) + max(-held * previous[1], 0))
        price = o * (1 + np.sign(wish) * slip)
        closing = -held if wish * held < 0 and abs(wish) >= abs(held) else wish if wish * held < 0 else 0.0
        paid = commission(abs(closing), price)
        if closing:
            cash, held = cash - closing * price - paid, held + closing
            fills.append((time, closing, price))
        opening = wish - closing
        if opening:

            def fee(size, closing=closing, paid=paid, price=price):
                return commission(size + abs(closing), price) - paid if size else 0.0

            def fits(size, opening=opening, fee=fee, price=price):
                after = held + np.sign(opening) * size
                worth = cash - np.sign(opening) * size * price - fee(size) + after * price
                return abs(after) * price <= leverage * worth * (1 + 1e-13)

            size = abs(opening)
            if not fits(size):
                low, high = 0.0, size
                for _ in range(200):
                    low, high = ((low + high) / 2, high) if fits((low + high) / 2) else (low, (low + high) / 2)
                size = low if not lot else lot * np.floor(low / lot * (1 + 1e-11))
                if size * price <= 1e-9 * (cash + held * o):
                    size = 0.0
            if size:
                cash -= np.sign(opening) * size * price + fee(size)
                held += np.sign(opening) * size
                fills.append((time, np.sign(opening) * size, price))
        equity.append(cash + held * c)
        target = weight * equity[-1] / c
        if lot:
            target = lot * np.trunc(target / lot)
        wish = target - held
        if target and abs(wish) * c < max(min_trade, 1e-9 * equity[-1]):
            wish = 0.0
        previous = time, c
    return np.array(equity), fills


EVERYTHING = Costs(
    commission_bps=3, commission_per_unit=0.01, commission_min=2, spread_bps=4, slippage_bps=1, borrow_rate=0.5
)


@pytest.mark.parametrize(
    "told",
    [
        {"costs": Costs()},
        {"costs": Costs(commission_bps=37.5)},
        {"costs": Costs(spread_bps=20, slippage_bps=5)},
        {"costs": Costs(commission_min=25)},
        {"costs": Costs(commission_min=40, commission_bps=30)},
        {"costs": Costs(borrow_rate=5.0), "leverage": 2.0},
        {"costs": EVERYTHING, "lot": 1.0},
        {"costs": EVERYTHING, "lot": 10.0, "min_trade": 3000.0},
        {"costs": EVERYTHING, "leverage": 3.0, "min_trade": 500.0},
        {"costs": EVERYTHING, "lot": 7.0, "leverage": 0.5},
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_equals_an_account_kept_by_hand(told, seed):
    bars, weights = walk(300, seed), weights_of(300, 100 + seed, 1.5 * told.get("leverage", 1))
    equity, fills = by_hand(bars, weights, cash=20_000.0, **told)
    names = {"lot": "lot_size", "leverage": "max_leverage"}
    result = backtest(bars, weights, cash=20_000, **{names.get(key, key): value for key, value in told.items()})
    assert equity.min() > 0
    np.testing.assert_allclose(result.equity, equity, rtol=1e-9)
    assert result.fills["time"].tolist() == [fill[0] for fill in fills]
    np.testing.assert_allclose(result.fills[["units", "price"]], [fill[1:] for fill in fills], rtol=1e-6, atol=1e-7)
    assert len(fills) > 15
    adds_up(result)


def adds_up(result):
    """What must hold of any account: trades, fills, costs and returns tell one story."""
    cash, m, trades = result.equity.iloc[0], result.metrics, result.trades
    gained = trades["pnl"].sum() - m["interest"] * cash
    assert gained == pytest.approx(result.equity.iloc[-1] - cash, abs=1e-7 * cash)
    np.testing.assert_allclose(cash * (1 + result.returns).cumprod(), result.equity, rtol=1e-9, atol=1e-9)
    fills = result.fills
    slipped = (fills["units"] * (fills["price"] - fills["reference"])).sum()
    assert (m["costs"] - m["interest"]) * cash >= (fills["cost"].sum() + slipped) * (1 - 1e-12)
    assert trades["costs"].sum() == pytest.approx((m["costs"] - m["interest"]) * cash)
    assert trades["entry"].is_monotonic_increasing
    assert (trades["bars"] >= 0).all()
    assert (trades["units"] > 0).all()
    assert trades["exit"].isna().tolist() == trades["open"].tolist()
    assert m["total_return"] == pytest.approx(result.equity.iloc[-1] / cash - 1)
    assert m["max_drawdown"] == pytest.approx(result.drawdown.min())


# --------------------------------------------------------------------------- when


def test_fill_is_at_the_next_open_whatever_it_is():
    bars = frame(opens=[100, 80, 120, 90], closes=[100, 115, 100, 99])
    early = backtest(bars, [1, 0, 0, 0], costs=100, cash=1000)
    # 10 units ordered at 100, bought at 80 for 1 %, marked at 115, sold at 120 for 1 %.
    np.testing.assert_allclose(early.equity, [1000, 200 - 8 + 1150, 192 + 1200 - 12, 1380])
    assert early.fills["units"].tolist() == [10, -10]
    np.testing.assert_allclose(early.position, [0, 800 / 992, 0, 0])
    last = backtest(bars, [0, 0, 0, 1])
    assert (last.equity == 100_000).all()
    assert last.trades.empty
    assert last.fills.empty


def test_a_decision_does_not_see_the_next_open():
    bars, weights = walk(60), weights_of(60, 3, 0.4)
    whole = backtest(bars, weights)
    gap = bars.copy()
    gap.iloc[30, :3] *= [1.01, 1.1, 0.9]
    moved = backtest(gap, weights)
    at = bars.index[30]
    before, after = (r.fills[r.fills["time"] == at] for r in (whole, moved))
    assert before["units"].tolist() == after["units"].tolist()
    assert (before["price"].to_numpy() != after["price"].to_numpy()).all()
    assert (whole.equity[:30] == moved.equity[:30]).all()


@pytest.mark.parametrize("told", [{}, {"costs": EVERYTHING, "lot_size": 1}, {"costs": 25}])
def test_constant_full_position_is_buy_and_hold(told):
    bars = walk(200)
    opened_higher(bars)
    result = backtest(bars, np.ones(200), **told)
    assert len(result.fills) == 1
    np.testing.assert_allclose(result.equity, result.buy_and_hold, rtol=1e-12)
    assert result.metrics["outperformance"] == pytest.approx(0, abs=1e-12)
    assert result.metrics["sharpe"] == pytest.approx(result.metrics["buy_and_hold_sharpe"])
    assert result.metrics["turnover"] == pytest.approx(1, abs=0.01)


def test_what_a_lower_open_leaves_is_invested_later():
    bars = frame([100, 90, 100, 100], [100, 100, 100, 100])
    result = backtest(bars, np.ones(4), costs=0, cash=1000)
    assert result.fills["units"].tolist() == [10, 1]
    assert len(backtest(bars, np.ones(4), costs=0, cash=1000, min_trade=200).fills) == 1


def test_zero_position_is_flat():
    result = backtest(walk(50), np.zeros(50))
    assert (result.equity == 100_000).all()
    shown = "entry exit side units entry_price exit_price bars pnl return costs open"
    assert " ".join(result.trades.columns) == shown
    assert list(result.fills.columns) == ["time", "units", "price", "cost", "reference"]
    assert result.trades.empty
    m = result.metrics
    assert m["exposure"] == m["costs"] == m["max_drawdown"] == m["turnover"] == m["matched_return"] == 0
    assert all(np.isnan(m[name]) for name in ("sharpe", "sortino", "calmar", "win_rate", "profit_factor"))


def test_higher_costs_earn_less():
    bars, weights = walk(300), np.random.default_rng(1).uniform(-0.9, 0.9, 300)
    for name in ("commission_bps", "commission_per_unit", "commission_min", "spread_bps", "slippage_bps"):
        final = [backtest(bars, weights, costs=Costs(**{name: c})).equity.to_numpy()[2:] for c in (0, 0.1, 1, 5)]
        assert all((dearer < cheaper).all() for cheaper, dearer in itertools.pairwise(final)), name


@pytest.mark.parametrize("k", [1, 2, 3, 57, 299])
def test_prefix_of_bars_gives_prefix_of_result(k):
    bars, weights = walk(300), weights_of(300, 2, 2.0)
    told = {"costs": EVERYTHING, "max_leverage": 1.5, "cash": 5000}
    whole, part = (backtest(bars[:n], weights[:n], **told) for n in (300, k))
    pd.testing.assert_frame_equal(part.to_frame(), whole.to_frame()[:k], check_exact=True, check_freq=False)
    pd.testing.assert_series_equal(part.position, whole.position[:k], check_exact=True, check_freq=False)
    pd.testing.assert_frame_equal(part.fills, whole.fills[whole.fills["time"] < bars.index[k]], check_exact=True)


# --------------------------------------------------------------------------- cash


def test_cash_does_not_fall_below_zero_without_leverage():
    bars, weights = walk(400, 5), np.abs(weights_of(400, 6, 3.0))
    result = backtest(bars, weights, costs=EVERYTHING, cash=7000, lot_size=1)
    spent = (result.fills["units"] * result.fills["price"] + result.fills["cost"]).cumsum()
    assert spent.max() <= 7000
    assert result.exposure["gross"].max() <= 1
    assert result.metrics["interest"] == 0


def test_least_commission_of_a_turn_is_paid_once():
    bars = frame([10] * 4, [10] * 4)
    result = backtest(bars, [0.5, -0.5, -0.5, 0], costs=Costs(commission_min=5), cash=1000)
    assert result.fills["cost"].tolist()[:3] == [5, 5, 0]
    assert np.sign(result.fills["units"]).tolist()[:3] == [1, -1, -1]


def test_interest_and_borrow_are_of_calendar_time():
    bars = frame([10] * 5, [10] * 5)
    bars.index = pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-05", "2024-01-06", "2024-01-07"], tz="UTC")
    rate = Costs(borrow_rate=0.3653)
    short = backtest(bars, [-0.5, 0, 0, 0, 0], costs=rate, cash=1000)
    short_cost = 500 * 0.3653 * 3 / 365.25
    np.testing.assert_allclose(short.equity, [1000, 1000, *[1000 - short_cost] * 3])
    assert short.trades["costs"].iloc[0] == pytest.approx(short_cost)
    lent = backtest(bars, [2, 0, 0, 0, 0], costs=rate, cash=1000, max_leverage=2)
    interest = 1000 * 0.3653 * 3 / 365.25
    np.testing.assert_allclose(lent.equity, [1000, 1000, *[1000 - interest] * 3])
    assert lent.metrics["interest"] == lent.metrics["costs"] == pytest.approx(interest / 1000)
    assert lent.trades["pnl"].iloc[0] == 0


@pytest.mark.parametrize(
    ("opens", "closes", "weight", "exit_row"),
    [
        ([10, 10, 10, 20, 20], [10, 10, 4, 20, 20], 2, 2),  # at a close; the later recovery does not help
        ([10, 10, 4, 20, 20], [10, 10, 4, 20, 20], 2, 2),  # at an open
        ([10, 10, 10, 5, 5], [10, 10, 25, 5, 5], -1, 2),
    ],
)
def test_ruin_stays_at_zero(opens, closes, weight, exit_row):
    bars = frame(opens, closes)
    result = backtest(bars, np.full(5, weight), costs=Costs(commission_bps=1, borrow_rate=0.1), max_leverage=2)
    assert (result.equity.to_numpy()[2:] == 0).all()
    assert result.equity.iloc[1] > 0
    assert (result.position.to_numpy()[3:] == 0).all()
    (trade,) = result.trades.itertuples()
    assert not trade.open
    assert trade.exit == bars.index[exit_row]
    assert result.metrics["total_return"] == result.metrics["max_drawdown"] == -1
    assert result.metrics["annual_return"] == -1
    adds_up(result)


def test_closing_that_cannot_be_paid_is_ruin():
    bars = frame([10] * 5, [10] * 5)
    result = backtest(bars, [4, 0, 1, 1, 1], costs=Costs(slippage_bps=2300), cash=1000, max_leverage=4)
    # 4,000 bought for 1.23 each leaves 80 of 1,000 at the mark; selling costs more.
    assert result.equity.iloc[1] > 0
    assert (result.equity.to_numpy()[2:] == 0).all()
    adds_up(result)
    at_once = backtest(bars, np.full(5, 2.0), costs=Costs(slippage_bps=9000), cash=1000, max_leverage=20)
    assert at_once.equity.tolist() == [1000, 0, 0, 0, 0]
    adds_up(at_once)


# --------------------------------------------------------------------------- trades and metrics


def test_trades_by_hand():
    bars = frame([10] * 9, [10] * 9)
    weights = [0.5, 0.8, 0.4, -0.4, 0, 0, 0.5, 0.5, 0.5]
    result = backtest(bars, weights, costs=Costs(commission_bps=100), cash=1000, min_trade=50)
    trades, time = result.trades, bars.index
    assert trades["side"].tolist() == ["long", "short", "long"]
    assert trades["bars"].tolist() == [3, 1, 2]
    assert trades["entry"].tolist() == [time[1], time[4], time[7]]
    assert trades["exit"].tolist()[:2] == [time[4], time[5]]
    assert trades["open"].tolist() == [False, False, True]
    assert trades["entry_price"].tolist() == [10, 10, 10]
    assert np.isnan(trades["exit_price"].iloc[2])
    np.testing.assert_allclose(trades["pnl"], -trades["costs"])
    traded = result.fills["units"].abs() * 10
    np.testing.assert_allclose(result.fills["cost"], traded * 0.01)
    np.testing.assert_allclose(trades["costs"].iloc[0], traded[:4].sum() * 0.01)
    assert trades["units"].iloc[0] == pytest.approx(79.6)  # 80 % of 995 at the second close
    np.testing.assert_allclose(trades["return"].iloc[0], trades["pnl"].iloc[0] / 1000)
    adds_up(result)


def test_metrics_by_definition():
    bars, weights = walk(300), np.random.default_rng(4).uniform(-1, 1, 300)
    result = backtest(bars, weights, periods_per_year=1000)
    r, trades, m = result.equity.pct_change().iloc[1:], result.trades, result.metrics
    assert list(m) == METRICS
    assert m["sharpe"] == pytest.approx(r.mean() / r.std() * np.sqrt(1000))
    assert m["sortino"] == pytest.approx(r.mean() * np.sqrt(1000) / np.sqrt((np.minimum(r, 0) ** 2).mean()))
    assert m["annual_return"] == pytest.approx((1 + m["total_return"]) ** (1000 / 299) - 1)
    assert m["calmar"] == pytest.approx(m["annual_return"] / -m["max_drawdown"])
    assert m["exposure"] == pytest.approx(result.position.abs().iloc[1:].mean())
    assert m["mean_bar_return"] == pytest.approx(r.mean())
    assert m["win_rate"] == pytest.approx((trades["pnl"] > 0).mean())
    gains = trades["pnl"].clip(lower=0).sum()
    assert m["profit_factor"] == pytest.approx(gains / (gains - trades["pnl"].sum()))
    assert m["trades"] == len(trades)
    same = bars["close"] / bars["close"].shift().where(np.arange(300) > 1, bars["open"]) - 1
    net = result.exposure["net"].iloc[1:].mean()
    assert m["matched_return"] == pytest.approx((1 + net * same.iloc[1:]).prod() - 1)
    assert all(type(value) is float for value in m.values())
    counted = backtest(bars, weights).metrics  # hourly bars
    assert counted["periods_per_year"] == pytest.approx(365.25 * 24)
    assert counted["sharpe"] == pytest.approx(m["sharpe"] * np.sqrt(365.25 * 24 / 1000))


def test_intervals_hold_the_estimate_and_pair_buy_and_hold():
    bars = walk(500, 7, 0.005)
    result = backtest(bars, weights_of(500, 8))
    table = result.intervals(n_resamples=300)
    assert list(table.columns) == ["estimate", "low", "high"]
    assert set(table.index) == set(METRICS) - {
        "buy_and_hold",
        "matched_return",
        "buy_and_hold_sharpe",
        "buy_and_hold_max_drawdown",
        "trades",
        "costs",
        "interest",
        "exposure",
        "periods_per_year",
    }
    assert (table["low"] < table["high"]).all()
    for name, row in table.iterrows():
        assert row["estimate"] == result.metrics[name]
    shallow = table.drop(index=["max_drawdown", "calmar"])
    assert ((shallow["low"] < shallow["estimate"]) & (shallow["estimate"] < shallow["high"])).all()
    pd.testing.assert_frame_equal(table, result.intervals(n_resamples=300))
    wide = result.intervals(n_resamples=300, level=0.5)
    assert (wide["high"] - wide["low"] < table["high"] - table["low"]).all()
    # Each resample is compared with buy and hold on its own blocks: of itself there is nothing to beat.
    opened_higher(bars)
    held = backtest(bars, np.ones(500), costs=0).intervals(n_resamples=100)
    np.testing.assert_allclose(held.loc["outperformance"], 0, atol=1e-9)
    assert held.loc["total_return", "low"] < 0 < held.loc["total_return", "high"]


def test_intervals_do_not_depend_on_how_they_are_cut(monkeypatch):
    result = backtest(walk(80), weights_of(80, 1))
    whole = result.intervals(n_resamples=50)
    monkeypatch.setattr("ensemble_kit.sizing.result._CHUNK", 300)
    pd.testing.assert_frame_equal(whole, result.intervals(n_resamples=50))


def test_intervals_by_hand():
    result = backtest(walk(41, 3), weights_of(41, 4))
    rng = np.random.RandomState(0)
    starts = rng.randint(0, 40, size=(30, 8))
    rows = ((starts[:, :, None] + np.arange(5)) % 40).reshape(30, 40)
    means = result.returns.to_numpy()[1:][rows].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    table = result.intervals(n_resamples=30, block=5)
    np.testing.assert_allclose(table.loc["mean_bar_return", ["low", "high"]].astype(float), [low, high])
    totals = (1 + result.returns.to_numpy()[1:][rows]).prod(axis=1) - 1
    np.testing.assert_allclose(
        table.loc["total_return", ["low", "high"]].astype(float), np.quantile(totals, [0.025, 0.975])
    )
    paths = (1 + np.pad(result.returns.to_numpy()[1:][rows], ((0, 0), (1, 0)))).cumprod(axis=1)
    fall = (paths / np.maximum.accumulate(paths, axis=1) - 1).min(axis=1)
    yearly = paths[:, -1] ** (result.metrics["periods_per_year"] / 40) - 1
    expected = {"calmar": yearly / -fall, "turnover": result.traded.to_numpy()[1:][rows].sum(axis=1)}
    # Trades are drawn after the times, in blocks of twice the cube root of their number, or of half of them.
    pnl = result.trades["pnl"].to_numpy()
    length = min(len(pnl) // 2, round(2 * len(pnl) ** (1 / 3)))
    starts = rng.randint(0, len(pnl), size=(30, -(-len(pnl) // length)))
    drawn = pnl[((starts[:, :, None] + np.arange(length)) % len(pnl)).reshape(30, -1)[:, : len(pnl)]]
    lost = -np.minimum(drawn, 0).sum(axis=1)
    assert (lost > 0).all()
    expected |= {"win_rate": (drawn > 0).mean(axis=1), "profit_factor": np.maximum(drawn, 0).sum(axis=1) / lost}
    for name, draws in expected.items():
        row = table.loc[name].astype(float)
        np.testing.assert_allclose(row[["low", "high"]], np.quantile(draws, [0.025, 0.975]), rtol=1e-9)


def test_what_was_traded_at_each_time_is_the_turnover():
    result = backtest(walk(100), weights_of(100, 4), costs=EVERYTHING)
    before = result.equity.shift() * result.traded  # roughly: prices have moved since the close
    fills = result.fills
    notional = (fills["units"].abs() * fills["price"]).groupby(fills["time"]).sum()
    np.testing.assert_allclose(before[notional.index], notional, rtol=0.1)
    assert (result.traded[~result.traded.index.isin(notional.index)] == 0).all()
    assert result.traded.sum() == pytest.approx(result.metrics["turnover"], rel=1e-12)


@pytest.mark.parametrize(("weights", "n_trades"), [(np.zeros(30), 0), (np.ones(30), 1)])
def test_intervals_without_trades_to_draw(weights, n_trades):
    result = backtest(walk(30), weights, costs=0)
    table = result.intervals(n_resamples=20)
    assert result.metrics["trades"] == n_trades
    assert table.loc[["win_rate", "profit_factor"], ["low", "high"]].isna().all(axis=None)
    assert table.loc["calmar"].isna().all() == (n_trades == 0)
    assert table.loc["turnover", "low"] == 0


def test_the_least_trade_is_asked_for_at_the_decision_only():
    """At the fill an order is cut to what the account carries, and what is left of it is filled."""
    bars = frame([10] * 4, [10] * 4)
    result = backtest(bars, [0.9, 1, 1, 1], costs=100, cash=1000, min_trade=90.5)
    # 9.1 units are ordered for 91; after 1 % of commission there is cash for 90.10.
    np.testing.assert_allclose(result.fills["units"], [90, 91 / 10.1])
    assert len(backtest(bars, [0.9, 1, 1, 1], costs=100, cash=1000, min_trade=91.5).fills) == 1


@pytest.mark.parametrize(
    ("n", "told", "message"),
    [
        (2, {}, "`returns` must be known at 2 times at least"),
        (30, {"n_resamples": 0}, "`n_resamples` must be an integer of at least 1; got 0"),
        (30, {"block": 20}, r"`block` must be an integer in \[1, 14\] for 29 times; got 20"),
        (30, {"level": 95}, "`level` must be a number above 0 and below 1; got 95"),
    ],
)
def test_intervals_refuse(n, told, message):
    with pytest.raises(EnsembleKitError, match=message):
        backtest(walk(n), np.ones(n)).intervals(**told)


def test_shows_itself():
    result = backtest(walk(30), np.ones(30))
    assert repr(result) == result.summary()
    assert len(result.summary().splitlines()) == len(result.metrics)
    assert re.search(r"max_drawdown +-\d+\.\d\d%", result.summary())
    tiny = replace(result, metrics=result.metrics | {"total_return": -1e-7, "sharpe": -1e-4, "mean_bar_return": -1e-9})
    assert re.search(r"total_return +0\.00%\n", tiny.summary())
    assert re.search(r"\nsharpe +0\.00\n", tiny.summary())
    assert re.search(r"\nmean_bar_return +0\.000 bp\n", tiny.summary())
    assert list(result.to_frame().columns) == ["gross", "net", "returns", "equity", "buy_and_hold", "drawdown"]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_bars(n):
    result = backtest(walk(n), np.ones(n))
    assert result.equity.iloc[0] == result.buy_and_hold.iloc[0] == 100_000
    assert len(result.fills) == min(n - 1, 1)
    assert np.isnan(result.metrics["sharpe"]) == (n < 3)
    adds_up(result)


# --------------------------------------------------------------------------- refused


def nan_row(bars):
    bars = bars.copy()
    bars.iloc[3] = np.nan
    return check_bars(bars)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"position": np.ones(4)}, EnsembleKitError, r"`position` must have one weight a bar, shape \(5,\); got .*4"),
        ({"position": np.ones(6)}, EnsembleKitError, r"got shape \(6,\)"),
        ({"position": np.ones((5, 1))}, EnsembleKitError, r"got shape \(5, 1\)"),
        ({"position": pd.Series(np.ones(5))}, EnsembleKitError, "`position` must have the index of `bars`"),
        (
            {"position": [0, np.nan, 0, np.nan, 1]},
            EnsembleKitError,
            r"got nan at 2024-01-01 01.* \(row 1\), .* \(row 3\); 2 such",
        ),
        ({"position": [0, 0, np.inf, 0, 1]}, EnsembleKitError, r"`position` must be finite; got inf .* \(row 2\)"),
        ({"costs": -1}, EnsembleKitError, "`commission_bps` must be a number of at least 0; got -1"),
        ({"costs": np.nan}, EnsembleKitError, "`commission_bps` must be a number of at least 0; got nan"),
        ({"costs": True}, EnsembleKitError, "^`commission_bps` must be a number of at least 0; got True. One basis"),
        ({"costs": "low"}, EnsembleKitError, "`commission_bps` must be a number of at least 0; got 'low'"),
        (
            {"cash": 0, "lot_size": -1, "min_trade": np.nan},
            EnsembleKitError,
            (
                "`cash` must be a number above 0; got 0. `lot_size` must be a number of at least 0; got -1. "
                "`min_trade` must be a number of at least 0; got nan. Cash and trades are in currency"
            ),
        ),
        ({"cash": np.inf}, EnsembleKitError, "`cash` must be a number above 0; got inf"),
        ({"max_leverage": 0.0}, EnsembleKitError, r"`max_leverage` must be a number above 0; got 0\.0"),
        ({"periods_per_year": 0}, EnsembleKitError, "`periods_per_year` must be None or a number above 0; got 0"),
        (
            {"periods_per_year": "a"},
            EnsembleKitError,
            "^`periods_per_year` must be None or a number above 0; got 'a'. None counts the bars.$",
        ),
        ({"periods_per_year": np.nan}, EnsembleKitError, "`periods_per_year` must be .*; got nan"),
        ({"cash": True}, EnsembleKitError, "`cash` must be a number above 0; got True"),
        (
            {"position": list("abcde")},
            EnsembleKitError,
            (
                "^`position` must be numbers, one weight a bar; could not convert string to float: 'a'. Pass what "
                "`predict_position` returns.$"
            ),
        ),
        ({"bars": nan_row(walk(5))}, BarsError, r"open and close on every row; got NaN at .* \(row 3\); 1 such"),
        ({"bars": walk(5)[:0], "position": []}, BarsError, "`bars` must have at least one row"),
        ({"bars": walk(5).rename(columns={"open": "Open"})}, BarsError, "missing open"),
        ({"bars": walk(5) * [1, 1, 0, 1]}, BarsError, "`bars` must have prices above 0; got .*low=0"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"bars": walk(5), "position": np.ones(5)} | change
    with pytest.raises(error, match=message):
        backtest(arguments.pop("bars"), arguments.pop("position"), **arguments)


def test_next_open_return_is_what_a_decision_earns():
    bars = walk(40)
    earned = next_open_return(bars)
    for t in (0, 7, 37):
        decision = np.zeros(40)
        decision[t] = 0.5
        result = backtest(bars, decision, costs=0)
        # Half of equity at the close, in units whose price has moved until the open.
        weight = 0.5 * bars["open"].iloc[t + 1] / bars["close"].iloc[t]
        assert result.metrics["total_return"] == pytest.approx(weight * earned.iloc[t])
    assert earned.isna().tolist() == [False] * 38 + [True] * 2
    pd.testing.assert_index_equal(earned.index, bars.index)


@pytest.mark.parametrize("categorical", [False, True])
def test_next_open_return_keeps_instruments_apart(categorical):
    parts = {"A": walk(20, 1), "B": walk(15, 2), "C": walk(1, 3)}
    panel = pd.concat(parts, names=["instrument", "datetime"]).swaplevel().sort_index()
    if categorical:
        panel.index = panel.index.set_levels(pd.CategoricalIndex(panel.index.levels[1]), level=1)
    earned = next_open_return(panel)
    assert earned.index.equals(panel.index)
    for name, bars in parts.items():
        np.testing.assert_array_equal(earned.xs(name, level=1), next_open_return(bars))
