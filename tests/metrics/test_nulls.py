"""What a score would be without skill."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.bars import check_bars
from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.metrics import auc_pr, block_bootstrap_mean, shifted_label_scores, surrogate_bars, turn_rule
from ensemble_kit.sessions import Session, session_times

PRICES = ["open", "high", "low", "close"]
NEW_YORK = Session("09:30", "16:00", "America/New_York")


@pytest.fixture(scope="module")
def bars():
    return make_bars(1500, random_state=0)


# ------------------------------------------------------------------------------------- turn_rule


def test_turn_rule_is_causal(bars):
    whole = turn_rule(bars, w=12)
    for n in (40, 333, 1000):
        pd.testing.assert_frame_equal(turn_rule(bars[:n], w=12), whole[:n])


def test_turn_rule_is_the_left_leg_at_a_new_extreme_and_zero_elsewhere(bars):
    from ensemble_kit.atr import average_true_range

    w = 12
    rule = turn_rule(bars, w=w)
    top, floor = bars["high"].shift(1).rolling(w).max(), bars["low"].shift(1).rolling(w).min()
    atr = average_true_range(bars)
    peak = ((bars["high"] - floor) / atr).where(bars["high"] > top, 0.0)
    bottom = ((top - bars["low"]) / atr).where(bars["low"] < floor, 0.0)
    known = slice(20, None)  # whole windows and an ATR
    np.testing.assert_allclose(rule["peak"][known], peak[known])
    np.testing.assert_allclose(rule["bottom"][known], bottom[known])
    assert 0.05 < (rule["peak"] > 0).mean() < 0.5
    assert (rule["peak"][bars["high"] <= top] == 0).all()


def test_turn_rule_where_prices_stand_still(bars):
    still = bars.copy()
    still.iloc[100:200, :4] = 100.0
    rule = turn_rule(still)
    assert np.isfinite(rule).all(axis=None)
    assert (rule[150:200] == 0).all(axis=None)


def test_turn_rule_refuses(bars):
    with pytest.raises(BarsError, match="missing close"):
        turn_rule(bars.drop(columns="close"))
    for w in (0, -3, 2.5):
        with pytest.raises(EnsembleKitError, match="`w` must be an integer of at least 1"):
            turn_rule(bars, w=w)


# --------------------------------------------------------------------------------- surrogate_bars


def shapes(bars):
    """Prices by the close before, and volume: what is shuffled."""
    made = bars[PRICES].div(bars["close"].shift(1), axis=0)
    made["volume"] = bars["volume"]
    return made[1:]


def test_surrogate_keeps_index_first_row_and_bars(bars):
    before = bars.copy()
    surrogate = surrogate_bars(bars, random_state=0)
    pd.testing.assert_frame_equal(bars, before)
    assert surrogate.index.equals(bars.index)
    assert surrogate.columns.equals(bars.columns)
    pd.testing.assert_series_equal(surrogate.iloc[0], bars.iloc[0])
    check_bars(surrogate)
    assert (surrogate["close"] != bars["close"])[1:-1].mean() > 0.9
    # The same bars in another order end where they ended.
    assert surrogate["close"].iloc[-1] == pytest.approx(bars["close"].iloc[-1])


@pytest.mark.parametrize("session", ["day", NEW_YORK, "XNYS"])
def test_surrogate_keeps_the_shapes_of_each_time_of_day(session):
    # Six weeks around the change of clocks: by exchange, not by UTC, the open stays the open.
    bars = make_bars(1200, bar="15min", start="2022-02-21", random_state=1)
    surrogate = surrogate_bars(bars, session=session, random_state=0)
    minute = session_times(bars.index, session).minute[1:]
    old, new = shapes(bars), shapes(surrogate)
    for slot in np.unique(minute):
        at = minute == slot
        mine = [np.array(sorted(map(tuple, frame[at].to_numpy()))) for frame in (old, new)]
        np.testing.assert_allclose(*mine, rtol=1e-9)


def test_surrogate_is_seeded(bars):
    pd.testing.assert_frame_equal(surrogate_bars(bars, random_state=3), surrogate_bars(bars, random_state=3))
    assert not surrogate_bars(bars, random_state=3).equals(surrogate_bars(bars, random_state=4))


def daily_bars(returns):
    close = 100 * np.exp(np.cumsum(returns))
    index = pd.date_range("2000-01-03", periods=len(close), freq="D", tz="UTC", name="datetime")
    return pd.DataFrame({"open": close, "high": close, "low": close, "close": close, "volume": 1.0}, index=index)


def test_surrogate_has_no_memory():
    rng = np.random.default_rng(0)
    shock = rng.normal(size=4000) * 0.01
    returns = np.empty_like(shock)
    returns[0] = shock[0]
    for t in range(1, len(shock)):
        returns[t] = 0.5 * returns[t - 1] + shock[t]
    bars = daily_bars(returns)

    def memory(frame):
        step = np.diff(np.log(frame["close"]))
        return np.corrcoef(step[1:], step[:-1])[0, 1]

    assert memory(bars) == pytest.approx(0.5, abs=0.05)
    found = [memory(surrogate_bars(bars, random_state=seed)) for seed in range(5)]
    assert np.abs(found).max() < 4 / np.sqrt(len(bars))


def test_rows_without_prices_stay_at_the_new_level(bars):
    holes = bars.copy()
    holes.iloc[[0, 1, 700, 701, 1499], :4] = np.nan
    holes.iloc[500, 3] = np.nan  # a high that lost its close
    surrogate = surrogate_bars(holes, random_state=0)
    pd.testing.assert_frame_equal(surrogate.isna(), holes.isna())
    check_bars(surrogate)
    pd.testing.assert_series_equal(surrogate.iloc[2], holes.iloc[2])  # the first whole one
    assert surrogate["high"].iloc[500] / surrogate["close"].iloc[499] == pytest.approx(
        holes["high"].iloc[500] / holes["close"].iloc[499]
    )
    assert surrogate["close"].iloc[499] != pytest.approx(holes["close"].iloc[499])


def test_instruments_are_shuffled_apart():
    panel = make_bars(1200, instruments=["A", "B"], random_state=0)
    surrogate = surrogate_bars(panel, random_state=0)
    check_bars(surrogate)
    assert surrogate.index.equals(panel.index)
    moves = {}
    for name in ("A", "B"):
        one, other = panel.xs(name, level=1), surrogate.xs(name, level=1)
        # Each volume is unique: it tells where every bar went.
        assert sorted(other["volume"]) == sorted(one["volume"])
        moves[name] = np.searchsorted(np.sort(one["volume"]), other["volume"]), np.argsort(one["volume"]).to_numpy()
    places = [order[at] for at, order in moves.values()]
    assert (places[0] != places[1]).mean() > 0.5


def test_columns_of_price_move_with_it(bars):
    more = bars.assign(
        vwap=bars[["high", "low", "close"]].mean(axis=1),
        bid=bars["close"] * 0.999,
        ask=bars["close"] * 1.001,
        ask_size=np.arange(len(bars), dtype=float),
        symbol="SPY",
    )
    more.loc[more.index[50], "vwap"] = np.nan
    surrogate = surrogate_bars(more, random_state=0)
    np.testing.assert_allclose(surrogate["bid"], surrogate["close"] * 0.999)
    np.testing.assert_allclose(surrogate["ask"], surrogate["close"] * 1.001)
    typical = surrogate[["high", "low", "close"]].mean(axis=1)
    known = surrogate["vwap"].notna()
    np.testing.assert_allclose(surrogate["vwap"][known], typical[known])
    assert (~known).sum() == 1
    # Sizes are taken along as they are, and say which bar went where.
    source = surrogate["ask_size"].to_numpy().astype(int)
    assert sorted(source) == list(range(len(bars)))
    np.testing.assert_array_equal(surrogate["volume"], bars["volume"].to_numpy()[source])
    assert (surrogate["symbol"] == "SPY").all()


def test_a_single_day_cannot_be_shuffled(bars):
    with pytest.warns(UserWarning, match="of the surrogate bars are the bars themselves"):
        surrogate = surrogate_bars(bars[:50], random_state=0)
    pd.testing.assert_frame_equal(surrogate, bars[:50])


# -------------------------------------------------------------------------- shifted_label_scores


@pytest.fixture(scope="module")
def rare_events():
    rng = np.random.default_rng(0)
    hit = rng.uniform(size=2000) < 0.03
    return np.where(hit, "peak", "slope"), hit, rng


def two_columns(p):
    return np.column_stack([p, 1 - p])


def test_a_random_score_lies_inside_its_null(rare_events):
    y, _, rng = rare_events
    proba = two_columns(rng.uniform(size=len(y)))
    arguments = {"classes": ["peak", "slope"], "events": ["peak"]}
    null = shifted_label_scores(y, proba, min_shift=36, random_state=0, **arguments)
    assert null.shape == (200,)
    low, high = np.quantile(null, [0.005, 0.995])
    assert low <= auc_pr(y, proba, **arguments)[0] <= high


def test_a_good_score_lies_far_outside_its_null(rare_events):
    y, hit, rng = rare_events
    proba = two_columns(np.clip(0.3 * hit + rng.uniform(size=len(y)) * 0.7, 0, 1))
    arguments = {"classes": ["peak", "slope"], "events": ["peak"]}
    null = shifted_label_scores(y, proba, min_shift=36, random_state=0, **arguments)
    assert auc_pr(y, proba, **arguments)[0] > null.max() + 3 * null.std()


def test_shifts_keep_their_distance():
    # One event among zeros: the score of a shift is 1 only where the probability was put.
    n, far = 13, 3
    y = np.array(["slope"] * n)
    y[0] = "peak"
    reached = []
    for s in range(n):
        p = np.zeros(n)
        p[s] = 1.0
        scores = shifted_label_scores(
            y, two_columns(p), classes=["peak", "slope"], events=["peak"], min_shift=far, n_shifts=60, random_state=0
        )
        reached.append((scores == 1.0).any())
    assert np.flatnonzero(reached).tolist() == list(range(far + 1, n - far))


def test_shifted_scores_of_one_horizon(rare_events):
    y, _, rng = rare_events
    proba = two_columns(rng.uniform(size=len(y)))
    arguments = {"classes": ["peak", "slope"], "min_shift": 10, "n_shifts": 5, "random_state": 1}
    several = shifted_label_scores(np.column_stack([y[::-1], y]), [proba[::-1], proba], horizon=1, **arguments)
    np.testing.assert_array_equal(several, shifted_label_scores(y, proba, **arguments))


@pytest.mark.parametrize(("shift", "says"), [(1000, "more than 2001 rows"), (-1, "integer of at least 0")])
def test_shifts_that_cannot_be(rare_events, shift, says):
    y, _, _ = rare_events
    with pytest.raises(EnsembleKitError, match=says):
        shifted_label_scores(y, np.ones((2000, 2)), classes=["peak", "slope"], min_shift=shift)


# ---------------------------------------------------------------------------- block_bootstrap_mean


def test_interval_covers_the_mean_of_dependent_values():
    rng = np.random.default_rng(0)
    shock = rng.normal(size=(200, 600))
    x = np.empty_like(shock)
    x[:, 0] = shock[:, 0] / np.sqrt(1 - 0.5**2)
    for t in range(1, x.shape[1]):
        x[:, t] = 0.5 * x[:, t - 1] + shock[:, t]
    inside = {"blocks": 0, "rows": 0}
    for k, row in enumerate(x):
        for name, block in (("blocks", None), ("rows", 1)):
            mean, low, high = block_bootstrap_mean(row, block=block, n_resamples=400, random_state=k)
            assert low < mean < high
            inside[name] += low < 0 < high
    assert 0.88 <= inside["blocks"] / 200 <= 0.985
    # Rows drawn one by one forget the dependence, and their interval is too narrow: 0.74 in theory.
    assert inside["rows"] / 200 < 0.85


def test_interval_of_independent_values_is_the_textbooks():
    x = np.random.default_rng(1).normal(size=2000)
    mean, low, high = block_bootstrap_mean(x, block=1, n_resamples=4000, level=0.9, random_state=0)
    half = 1.645 * x.std() / np.sqrt(len(x))
    assert mean == pytest.approx(x.mean())
    np.testing.assert_allclose([low - mean, high - mean], [-half, half], rtol=0.08)


def test_bootstrap_of_a_constant_and_of_holes():
    np.testing.assert_allclose(block_bootstrap_mean(np.full(50, 0.1), random_state=0), 0.1)
    x = np.random.default_rng(2).normal(size=100)
    holes = np.insert(x, [0, 10, 100], np.nan)
    assert block_bootstrap_mean(holes, random_state=0) == block_bootstrap_mean(x, random_state=0)
    assert block_bootstrap_mean(x, random_state=0) != block_bootstrap_mean(x, random_state=1)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_bootstrap_of_few_values_still_has_a_width(n):
    _, low, high = block_bootstrap_mean(np.arange(n), random_state=0)
    assert low < high


@pytest.mark.parametrize(
    ("values", "block", "says"),
    [
        ([1.0], None, "at least 2 numbers"),
        ([1.0, np.nan], None, "at least 2 numbers"),
        ([1.0, np.inf, 2.0], None, "1 of them infinite"),
        ([1.0, 2.0, 3.0, 4.0], 3, r"`block` must be in \[1, 2\]"),
        ([1.0, 2.0, 3.0, 4.0], 0, r"`block` must be in \[1, 2\]"),
    ],
)
def test_bootstrap_refuses(values, block, says):
    with pytest.raises(EnsembleKitError, match=says):
        block_bootstrap_mean(values, block=block)
