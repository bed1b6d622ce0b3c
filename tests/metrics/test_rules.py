"""The part of a label that anyone has for free."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from ensemble_kit.atr import average_true_range
from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels import (
    buy_sell_hold,
    ewm_volatility,
    next_direction,
    peak_slope_bottom,
    triple_barrier,
)
from ensemble_kit.metrics import causal_rule, turn_rule
from ensemble_kit.sessions import Session, session_times

NEW_YORK = Session("09:30", "16:00", "America/New_York")
DEFINITIONS = {
    "peak": {"label": "peak_slope_bottom", "horizons": 2, "w": 12, "k": 2.0, "clip_session": None},
    "clipped peak": {"label": "peak_slope_bottom", "horizons": 1, "w": 12, "k": 2.0, "clip_session": "day"},
    "trend": {"label": "buy_sell_hold", "w": 12, "k": 2.0, "session": "XNYS"},
    "long trend": {"label": "buy_sell_hold", "w": 24, "k": 2.0, "session": None},
    "barrier": {"label": "triple_barrier", "horizon": 36, "profit": 4.0, "stop": 4.0, "span": 50},
    "bounce": {"label": "next_direction", "column": "close"},
}


@pytest.fixture(scope="module")
def bars():
    return make_bars(1500, random_state=0)


every_rule = pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS)


# ------------------------------------------------------------------------------------- all rules


@every_rule
def test_a_prefix_is_scored_as_the_whole(bars, definition):
    holes = bars.copy()
    holes.iloc[[0, 3, 200, 201, 900], :4] = np.nan
    whole = causal_rule(holes, definition)
    for n in (1, 3, 40, 333, 1000):
        pd.testing.assert_frame_equal(causal_rule(holes[:n], definition), whole[:n], check_exact=True)


@every_rule
def test_each_instrument_is_scored_as_alone(bars, definition):
    frames = {"A": bars, "B": make_bars(700, random_state=1)[::2], "C": bars[100:101], "D": bars[50:53]}
    frames["B"] = frames["B"].assign(close=frames["B"]["close"].where(np.arange(350) % 50 != 7))
    panel = pd.concat(frames, names=["instrument", "datetime"]).swaplevel().sort_index()
    together = causal_rule(panel, definition)
    assert together.index.equals(panel.index)
    for name, frame in frames.items():
        alone = causal_rule(frame, definition)
        pd.testing.assert_frame_equal(
            together.xs(name, level=1), alone, check_exact=True, check_freq=False, check_index_type=False
        )


@every_rule
def test_rules_stay_finite_without_prices_or_moves(bars, definition):
    odd = bars.drop(columns="volume")
    odd.iloc[100:400, :4] = 100.0
    odd.iloc[600:700, :4] = np.nan
    odd.iloc[800, 3] = np.nan
    rule = causal_rule(odd, definition)
    assert np.isfinite(rule).all(axis=None)
    assert (rule[601:699] == 0).all(axis=None)
    assert (rule[200:400] == 0).all(axis=None)


def definition_of(labels):
    """As it comes back from a record."""
    return json.loads(json.dumps(labels.definition))


@pytest.mark.parametrize(
    "label",
    [
        lambda bars: peak_slope_bottom(bars, w=12, clip_session=NEW_YORK),
        lambda bars: buy_sell_hold(bars, session=NEW_YORK),
        lambda bars: triple_barrier(bars, horizon=24, profit=4, stop=4),
        lambda bars: triple_barrier(bars, horizon=24, side=pd.Series(1, index=bars.index)),
        next_direction,
    ],
)
def test_rules_score_the_events_of_their_label(bars, label):
    labels = label(bars)
    rule, y = labels.align(causal_rule(bars, definition_of(labels)))
    nothing = {"slope", "hold", 0} - ({0} if labels.definition["label"] == "next_direction" else set())
    assert set(rule.columns) == set(y.unique()) - nothing


def advantage(labels, bars):
    """AUC-PR above prevalence of each event."""
    counted = (labels.known & (labels.sample_weight > 0)).to_numpy()
    y = labels.horizon()[counted]
    rule = causal_rule(bars, labels.definition)[counted]
    return {event: average_precision_score(y == event, rule[event]) - (y == event).mean() for event in rule}


def test_what_labels_give_away_on_random_walks():
    bars = make_bars(12_000, random_state=1)
    given = {
        name: advantage(label, bars)
        for name, label in {
            "turns": peak_slope_bottom(bars),
            "trend": buy_sell_hold(bars, session="XNYS"),
            "barrier": triple_barrier(bars, horizon=36, profit=5, stop=5),
            "next": next_direction(bars),
        }.items()
    }
    assert min(given["turns"].values()) > 0.05
    assert min(given["trend"].values()) > 0.15
    assert min(given["barrier"].values()) > 0.02
    assert max(map(abs, given["next"].values())) < 0.02  # nothing at all


@pytest.mark.parametrize(
    ("definition", "got"), [({"label": "top"}, "'top'"), ({"w": 12}, "None")], ids=["unknown", "nameless"]
)
def test_labels_without_a_rule(bars, definition, got):
    says = (
        "`definition` must name one of peak_slope_bottom, buy_sell_hold, triple_barrier, next_direction under "
        f"'label'; got {got}. For another label, make a frame of your own"
    )
    with pytest.raises(EnsembleKitError, match=says):
        causal_rule(bars, definition)


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        (
            {"label": "peak_slope_bottom", "windw": 12},
            "^`definition` must hold parameters of peak_slope_bottom, horizons, w, k, clip_session; got 'windw'. Pass",
        ),
        ({"label": "triple_barrier", "bars": 1, "Span": 5}, "horizon, profit, .* side, span; got 'bars', 'Span'"),
        ("peak_slope_bottom", "^`definition` must be a mapping, .*; got str. Pass `labels.definition`.$"),
    ],
)
def test_definitions_of_no_label(bars, definition, says):
    with pytest.raises(EnsembleKitError, match=says):
        causal_rule(bars, definition)


def test_labels_are_no_definition(bars):
    with pytest.raises(EnsembleKitError, match=r"got Labels\. Pass `labels.definition`"):
        causal_rule(bars, peak_slope_bottom(bars))


# ------------------------------------------------------------------------------------- turn_rule


def test_turn_rule_is_the_left_leg_at_a_new_extreme_and_zero_elsewhere(bars):
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


def test_turn_rule_is_the_rule_of_its_label(bars):
    pd.testing.assert_frame_equal(causal_rule(bars, {"label": "peak_slope_bottom", "w": 20}), turn_rule(bars, w=20))


def sessions_of(bars, session):
    day = session_times(bars.index, session).day
    return [np.flatnonzero(day == each) for each in np.unique(day)]


def test_turn_rule_begins_anew_with_a_clipped_session(bars):
    bars = bars.round(1)  # so coarse that highs repeat
    w, atr = 12, average_true_range(bars)
    high, low = bars["high"].to_numpy(), bars["low"].to_numpy()
    expected = np.zeros((len(bars), 2))
    for rows in sessions_of(bars, NEW_YORK):
        for t in rows[1:]:
            window = slice(max(t - w, rows[0]), t)
            top, floor = high[window].max(), low[window].min()
            if high[t] > top and not np.isnan(atr[t]):
                expected[t, 0] = (high[t] - floor) / atr[t]
            if low[t] < floor and not np.isnan(atr[t]):
                expected[t, 1] = (top - low[t]) / atr[t]
    np.testing.assert_allclose(turn_rule(bars, w=w, clip_session=NEW_YORK), expected)
    assert (expected != turn_rule(bars, w=w)).any(axis=None)


def test_turn_rule_refuses(bars):
    with pytest.raises(BarsError, match="missing close"):
        turn_rule(bars.drop(columns="close"))
    for w in (0, -3, 2.5):
        with pytest.raises(EnsembleKitError, match="`w` must be an integer of at least 1"):
            turn_rule(bars, w=w)


# ------------------------------------------------------------------------------- the other rules


@pytest.mark.parametrize("session", ["XNYS", None])
def test_trend_rule_is_the_place_in_the_range_of_half_a_window(bars, session):
    atr = average_true_range(bars)
    high, low, close = (bars[column].to_numpy() for column in ("high", "low", "close"))
    expected = np.zeros(len(bars))
    for rows in [np.arange(len(bars))] if session is None else sessions_of(bars, session):
        for t in rows:
            window = slice(max(t - 6, rows[0]), t + 1)
            rise = (close[t] - low[window].min()) - (high[window].max() - close[t])
            expected[t] = np.nan_to_num(rise / atr[t])
    rule = causal_rule(bars, {"label": "buy_sell_hold", "w": 12, "session": session})
    np.testing.assert_allclose(rule["buy"], expected, atol=1e-12)
    np.testing.assert_array_equal(rule["sell"], -rule["buy"])


def test_barrier_rule_is_the_usual_reach_in_units_of_the_barriers(bars):
    volatility = ewm_volatility(bars, span=50).to_numpy()
    expected = np.zeros(len(bars))
    for t in range(50, len(bars)):
        span = bars["high"].iloc[t] / bars["low"].iloc[t] - 1
        expected[t] = np.sqrt(span * np.nanmean(volatility[: t + 1])) / volatility[t]
    rule = causal_rule(bars, {"label": "triple_barrier", "span": 50})
    np.testing.assert_allclose(rule[1], expected, rtol=1e-9)
    np.testing.assert_array_equal(rule[-1], rule[1])
    meta = causal_rule(bars, {"label": "triple_barrier", "span": 50, "side": "given"})
    pd.testing.assert_frame_equal(meta, rule[[1]])


def test_bounce_rule_is_the_last_move_reversed():
    times = pd.date_range("2024-01-02", periods=6, freq="s")
    prices = pd.Series([10.0, 11.0, np.nan, 9.9, 9.9, 19.8], index=times)
    rule = causal_rule(prices.to_frame("mid"), {"label": "next_direction", "column": "mid"})
    np.testing.assert_allclose(rule[1], [0, -0.1, 0, 0.1, 0, -1.0], atol=1e-12)
    np.testing.assert_array_equal(rule[0], -rule[1])
    pd.testing.assert_frame_equal(causal_rule(prices, {"label": "next_direction"}), rule)


def test_prices_that_bounce_between_bid_and_ask_are_known():
    rng = np.random.default_rng(0)
    mid = 100 + 0.01 * np.cumsum(rng.normal(size=4000))
    trades = pd.DataFrame({"price": mid + rng.choice([-0.05, 0.05], size=4000)})
    trades.index = pd.date_range("2024-01-02", periods=4000, freq="s")
    assert min(advantage(next_direction(trades, column="price"), trades).values()) > 0.1
