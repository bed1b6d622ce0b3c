"""The account in closed form against one kept in shares and cash, and what must hold for any position."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.metrics import next_open_return
from ensemble_kit.sizing.backtest import backtest


def frame(opens, closes, freq="D"):
    opens, closes = np.asarray(opens, float), np.asarray(closes, float)
    index = pd.date_range("2024-01-01", periods=len(opens), freq=freq, tz="UTC")
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    return pd.DataFrame({"open": opens, "high": high, "low": low, "close": closes}, index=index)


def walk(n, seed=0, scale=0.02):
    rng = np.random.default_rng(seed)
    path = 100 * np.exp(np.cumsum(rng.normal(0, scale, 2 * n)))
    return frame(path[::2], path[1::2], freq="h")


def by_hand(bars, position, cost):
    """Bar by bar in shares and cash; returns equity at closes, costs paid and fractions traded."""
    cash, shares, ruined, paid, turnover, equity = 1.0, 0.0, False, 0.0, 0.0, []
    for k, (o, c) in enumerate(zip(bars["open"], bars["close"], strict=True)):
        if k and not ruined:
            worth = cash + shares * o
            ruined = worth <= 0
            if not ruined:
                traded = abs(position[k - 1] - shares * o / worth)
                turnover, paid = turnover + traded, paid + worth * cost * traded
                worth *= 1 - cost * traded
                shares = position[k - 1] * worth / o
                cash = worth - shares * o
        ruined = ruined or cash + shares * c <= 0
        equity.append(0.0 if ruined else cash + shares * c)
    return np.array(equity), paid, turnover


@pytest.mark.parametrize("cost_bps", [0, 1, 37.5])
@pytest.mark.parametrize("seed", range(6))
def test_equals_shares_and_cash_bar_by_bar(seed, cost_bps):
    bars, rng = walk(300, seed), np.random.default_rng(100 + seed)
    position = rng.uniform(-2, 2, 300) * (rng.random(300) < 0.7)
    position = np.repeat(position[::3], 3)  # held for a while, so that weights drift
    result = backtest(bars, position, cost_bps=cost_bps)
    equity, paid, turnover = by_hand(bars, position, cost_bps / 1e4)
    np.testing.assert_allclose(result.equity, equity, rtol=1e-12)
    np.testing.assert_allclose(result.metrics["costs"], paid, rtol=1e-12)
    np.testing.assert_allclose(result.metrics["turnover"], turnover, rtol=1e-12)
    np.testing.assert_allclose((1 + result.returns).cumprod(), equity, rtol=1e-11)
    assert (result.position.to_numpy()[1:] == position[:-1]).all()
    assert result.position.iloc[0] == 0


def test_fill_is_at_the_next_open():
    bars = frame(opens=[100, 110, 120, 90], closes=[105, 115, 100, 99])
    early = backtest(bars, [1, 0, 0, 0], cost_bps=100)
    # Bought at 110 for 1 %, marked at 115, sold at 120 for 1 % of it.
    np.testing.assert_allclose(early.equity, [1, 0.99 * 115 / 110, 0.99 * 0.99 * 120 / 110, 0.99 * 0.99 * 120 / 110])
    late = backtest(bars, [0, 1, 0, 0], cost_bps=100)
    np.testing.assert_allclose(late.equity, [1, 1, 0.99 * 100 / 120, 0.99 * 0.99 * 90 / 120])
    last = backtest(bars, [0, 0, 0, 1], cost_bps=100)
    assert (last.equity == 1).all()
    assert last.trades.empty


def test_constant_full_position_is_buy_and_hold():
    bars = walk(200)
    result = backtest(bars, np.ones(200), cost_bps=25)
    np.testing.assert_allclose(result.equity, result.buy_and_hold, rtol=1e-12)
    assert result.metrics["turnover"] == pytest.approx(1)
    assert result.metrics["outperformance"] == pytest.approx(0, abs=1e-12)
    assert result.metrics["sharpe"] == pytest.approx(result.metrics["buy_and_hold_sharpe"])


def test_zero_position_is_flat():
    result = backtest(walk(50), np.zeros(50))
    assert (result.equity == 1).all()
    assert result.trades.empty
    assert list(result.trades.columns) == ["entry", "exit", "side", "size", "bars", "return", "open"]
    assert np.isnan(result.metrics["sharpe"])
    assert np.isnan(result.metrics["hit_rate"])
    assert result.metrics["exposure"] == result.metrics["costs"] == result.metrics["max_drawdown"] == 0


def test_higher_costs_earn_less():
    bars, position = walk(300), np.random.default_rng(1).uniform(-1, 1, 300)
    final = [backtest(bars, position, cost_bps=c).equity.to_numpy()[2:] for c in (0, 1, 5, 50)]
    assert all((dearer < cheaper).all() for cheaper, dearer in itertools.pairwise(final))


@pytest.mark.parametrize("k", [1, 2, 3, 57, 299])
def test_prefix_of_bars_gives_prefix_of_result(k):
    bars, position = walk(300), np.random.default_rng(2).uniform(-2, 2, 300)
    whole, part = backtest(bars, position).to_frame(), backtest(bars[:k], position[:k]).to_frame()
    pd.testing.assert_frame_equal(part, whole[:k], check_exact=True, check_freq=False)


@pytest.mark.parametrize(
    ("opens", "closes", "weight", "held", "exit_row"),
    [
        ([10, 10, 10, 20, 20], [10, 10, 4, 20, 20], 2, 2, 3),  # at a close; the later recovery does not help
        ([10, 10, 4, 20, 20], [10, 10, 4, 20, 20], 2, 0, 2),  # at an open
        ([10, 10, 10, 5, 5], [10, 10, 20, 5, 5], -1, -1, 3),  # a short that doubled: exactly 0
    ],
)
def test_ruin_stays_at_zero(opens, closes, weight, held, exit_row):
    bars = frame(opens, closes)
    result = backtest(bars, np.full(5, weight), cost_bps=1)
    assert result.metrics["turnover"] == pytest.approx(by_hand(bars, [weight] * 5, 1e-4)[2])
    assert (result.equity.to_numpy()[2:] == 0).all()
    assert result.equity.iloc[1] > 0
    assert result.position.iloc[2] == held
    assert (result.position.to_numpy()[3:] == 0).all()
    trade = result.trades.iloc[0]
    assert len(result.trades) == 1
    assert trade["return"] == -1
    assert trade["exit"] == result.equity.index[exit_row]
    assert result.metrics["total_return"] == result.metrics["max_drawdown"] == -1
    assert (result.returns.to_numpy()[3:] == 0).all()


def test_costs_alone_can_ruin():
    result = backtest(frame([10] * 4, [10] * 4), np.full(4, 2.0), cost_bps=6000)
    assert result.equity.tolist() == [1, 0, 0, 0]


def test_trades_by_hand():
    bars = frame([10] * 8, [10] * 8)
    result = backtest(bars, [0.5, 1, -1, -0.25, 0, 0, 1, 1], cost_bps=100)
    trades, time = result.trades, bars.index
    assert trades["side"].tolist() == ["long", "short", "long"]
    assert trades["size"].tolist() == [1, 1, 1]
    assert trades["bars"].tolist() == [2, 2, 1]
    assert trades["entry"].tolist() == [time[1], time[3], time[7]]
    assert trades["exit"].tolist()[:2] == [time[3], time[5]]
    assert pd.isna(trades["exit"].iloc[2])
    assert trades["open"].tolist() == [False, False, True]
    # The flip from 1 to -1 costs 2 %: one half closes the long, the rest opens the short.
    long, short = 0.995 * 0.995 * 0.99, 0.98 / 0.99 * 0.9925 * 0.9975
    np.testing.assert_allclose(trades["return"], [long - 1, short - 1, -0.01])


@pytest.mark.parametrize("unit", [True, False])
def test_returns_of_trades_compound_to_the_total(unit):
    bars, rng = walk(400), np.random.default_rng(3)
    position = np.repeat(rng.integers(-1, 2, 100) if unit else rng.uniform(-1.5, 1.5, 100), 4)
    result = backtest(bars, position, cost_bps=20)
    assert len(result.trades) > 30
    assert (1 + result.trades["return"]).prod() - 1 == pytest.approx(result.metrics["total_return"], rel=1e-12)


def test_metrics_by_definition():
    bars, position = walk(300), np.random.default_rng(4).uniform(-1, 1, 300)
    result = backtest(bars, position, periods_per_year=1000)
    returns = result.equity.pct_change().iloc[1:]
    m = result.metrics
    assert m["sharpe"] == pytest.approx(returns.mean() / returns.std() * np.sqrt(1000))
    assert m["max_drawdown"] == pytest.approx((result.equity / result.equity.cummax() - 1).min())
    assert m["exposure"] == pytest.approx(np.abs(position[:-1]).mean())
    assert m["mean_bar_return"] == pytest.approx(returns.mean())
    assert m["hit_rate"] == pytest.approx((result.trades["return"] > 0).mean())
    assert m["trades"] == len(result.trades)
    assert all(type(value) is float for value in m.values())
    counted = backtest(bars, position).metrics  # hourly bars
    assert counted["periods_per_year"] == pytest.approx(365.25 * 24)
    assert counted["sharpe"] == pytest.approx(m["sharpe"] * np.sqrt(365.25 * 24 / 1000))


def test_shows_itself():
    result = backtest(walk(30), np.ones(30))
    assert repr(result) == result.summary()
    assert len(result.summary().splitlines()) == len(result.metrics)
    assert re.search(r"max_drawdown +-\d+\.\d\d%", result.summary())
    assert result.to_frame().shape == (30, 5)


def test_one_bar():
    result = backtest(walk(1), [1.0])
    assert result.equity.tolist() == result.buy_and_hold.tolist() == [1]
    assert np.isnan(result.metrics["sharpe"])


def nan_row(bars):
    bars = bars.copy()
    bars.iloc[3] = np.nan
    return check_bars(bars)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"position": np.ones(4)}, EnsembleKitError, r"`position` must have one weight a bar, shape \(5,\); got .*4"),
        ({"position": np.ones((5, 1))}, EnsembleKitError, r"got shape \(5, 1\)"),
        ({"position": pd.Series(np.ones(5))}, EnsembleKitError, "`position` must have the index of `bars`"),
        (
            {"position": [0, np.nan, 0, np.nan, 1]},
            EnsembleKitError,
            r"got nan at 2024-01-01 01.* \(row 1\), .* \(row 3\); 2 such",
        ),
        ({"position": [0, 0, np.inf, 0, 1]}, EnsembleKitError, r"`position` must be finite; got inf .* \(row 2\)"),
        ({"cost_bps": -1}, EnsembleKitError, r"`cost_bps` must be in \[0, 10000\); got -1\."),
        ({"cost_bps": np.nan}, EnsembleKitError, "`cost_bps` must be"),
        ({"periods_per_year": 0}, EnsembleKitError, "`periods_per_year` must be None or a number above 0; got 0"),
        ({"bars": nan_row(walk(5))}, BarsError, r"open and close on every row; got NaN at .* \(row 3\); 1 such"),
        ({"bars": walk(5)[:0], "position": []}, BarsError, "`bars` must have at least one row"),
        ({"bars": walk(5).rename(columns={"open": "Open"})}, BarsError, "missing open"),
        ({"bars": pd.concat({"A": walk(5)}).swaplevel()}, BarsError, r"got a panel .*bars\.xs\("),
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
        decision[t] = 1
        assert backtest(bars, decision, cost_bps=0).metrics["total_return"] == pytest.approx(earned.iloc[t])
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
