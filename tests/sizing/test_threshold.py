"""Fixed positions at a threshold, and what each threshold would have earned."""

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.metrics import block_bootstrap_mean, next_open_return
from ensemble_kit.metrics.overfitting import deflated_sharpe_ratio, probability_of_backtest_overfitting
from ensemble_kit.sizing import KellySizer, SizedClassifier
from ensemble_kit.sizing._directions import check_probabilities, find_directions
from ensemble_kit.sizing.backtest import backtest
from ensemble_kit.sizing.costs import Costs
from ensemble_kit.sizing.study import trade_at_thresholds
from ensemble_kit.sizing.threshold import ThresholdSizer
from ensemble_kit.validation import WalkForwardSplit

CLASSES = ["bottom", "peak", "slope"]  # long, short, neither
P = np.array([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.2, 0.2, 0.6], [0.45, 0.45, 0.1], [0.59, 0.31, 0.1]])


def fitted(**params):
    return ThresholdSizer(**params).fit(P[:3], CLASSES)


# --------------------------------------------------------------------------------------- sizer


def test_size_where_a_direction_reaches_the_threshold():
    assert fitted(threshold=0.6).transform(P).tolist() == [1, -1, 0, 0, 0]
    assert fitted(threshold=0.59, size=0.25).transform(P).tolist() == [0.25, -0.25, 0, 0, 0.25]
    # 0 always trades the likelier direction, and nothing where they are equal.
    assert fitted(threshold=0.0).transform(P).tolist() == [1, -1, 0, 0, 1]
    assert fitted(threshold=1.0).transform(np.eye(3)).tolist() == [1, -1, 0]
    # A row of which not all is known has no position, whatever else it says.
    assert fitted().transform(np.array([[0.9, 0.1, np.nan], [np.nan, 0.9, 0.1]])).tolist() == [0, 0]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(*[st.one_of(st.floats(0, 1), st.just(np.nan))] * 3), min_size=1, max_size=10),
    st.floats(0, 1),
    st.floats(1e-6, 10),
)
def test_positions_are_the_size_or_nothing(rows, threshold, size):
    raw = np.array(rows) + 1e-300
    proba = raw / raw.sum(axis=1, keepdims=True)
    sizer = fitted(threshold=threshold, size=size)
    position = sizer.transform(proba)
    assert set(np.abs(position)) <= {0.0, size}
    assert not np.signbit(position[position == 0]).any()
    for p, held in zip(proba, position, strict=True):
        called = not np.isnan(p).any() and p[0] != p[1] and max(p[0], p[1]) >= threshold
        assert held == (size * np.sign(p[0] - p[1]) if called else 0)
    # Each row alone gives what it gives among others.
    np.testing.assert_array_equal([sizer.transform(p[None])[0] for p in proba], position)


@pytest.mark.parametrize("sizer", [KellySizer(), ThresholdSizer()])
def test_sizers_share_one_contract(sizer):
    sizer = clone(sizer)
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([1, 1, 1], size=(200, 2))
    y = rng.choice(CLASSES, size=(200, 2))
    other = sizer.set_params(horizon=1).fit(proba, y, np.ones(200), classes=CLASSES, returns=np.zeros(200))
    assert (other.long_, other.short_) == (0, 1)
    assert other.classes_.tolist() == CLASSES
    position = other.transform(proba)
    assert position.shape == (200,)
    np.testing.assert_array_equal(other.transform([proba[:, 0], proba[:, 1]]), position)
    swapped = clone(sizer).set_params(horizon=0).fit(proba[:, ::-1], y[:, ::-1])
    np.testing.assert_array_equal(swapped.transform(proba[:, ::-1]), position)
    assert swapped.classes_.tolist() == CLASSES
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(other)).transform(proba), position)
    # Columns in another order of classes.
    turned = clone(sizer).fit(proba[:, :, ::-1], y, classes=CLASSES[::-1])
    np.testing.assert_allclose(turned.transform(proba[:, :, ::-1]), position, atol=1e-12)
    with pytest.raises(NotFittedError):
        clone(sizer).transform(proba)


def test_it_sizes_a_classifier():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = np.where(X[:, 0] + 0.3 * rng.normal(size=400) > 0, "up", "down")
    sized = SizedClassifier(LogisticRegression(), ThresholdSizer(threshold=0.9), cv=WalkForwardSplit(3, purge=0))
    position = sized.fit(X, y).predict_position(X)
    up = sized.predict_proba(X)[:, 1]
    np.testing.assert_array_equal(position, np.where(up >= 0.9, 1.0, np.where(up <= 0.1, -1.0, 0.0)))


@pytest.mark.parametrize(
    ("classes", "long", "short", "columns"),
    [
        (["down", "up"], None, None, (1, 0)),
        (["slope", "peak", "bottom"], None, None, (2, 1)),
        (["sell", "hold", "buy"], None, None, (2, 0)),
        ([-1, 0, 1], None, None, (2, 0)),
        ([1, -1, 0], None, None, (0, 1)),  # the largest, wherever it stands
        ([False, True], None, None, (1, 0)),
        (["a", "b"], "b", "a", (1, 0)),
        (["up", "down"], "down", "up", (1, 0)),
        (["Bottom", "Peak", "Slope"], None, None, (0, 1)),
        (["SELL", "hold", "BUY"], None, None, (2, 0)),
    ],
)
def test_directions(classes, long, short, columns):
    assert find_directions(np.array(classes), long, short) == columns


@pytest.mark.parametrize(
    ("classes", "long", "short"),
    [
        (["a", "b"], None, None),
        ([1], None, None),
        (["up", "down"], "up", None),
        (["up", "down"], "up", "up"),
        (["UP", "down", "up"], None, None),
    ],
)
def test_directions_that_are_not_clear(classes, long, short):
    says = rf"^`long` and `short` must be two of the {len(classes)} class\(es\) .*; got .*\. Say which class means a"
    with pytest.raises(EnsembleKitError, match=says):
        find_directions(classes, long, short)


@pytest.mark.parametrize(
    ("proba", "says"),
    [
        (P - 0.1, r"^`proba` must hold probabilities that sum to 1; row 0 has \[0.5, 0.2, 0.0\]. Pass `predict_proba`"),
        (np.log(P), "`proba` must hold probabilities that sum to 1; row 0"),
        ([[np.inf, -np.inf, 1.0]], r"`proba` must hold probabilities that sum to 1; row 0 has \[inf, -inf, 1.0\]"),
        (P[:, :2], r"^`proba` must have horizon 0 and 3 classes; got 1 horizon\(s\) and 2 classes. Pass what the"),
    ],
)
def test_what_are_no_probabilities(proba, says):
    with pytest.raises(EnsembleKitError, match=says):
        fitted().transform(np.asarray(proba))
    with pytest.raises(EnsembleKitError, match=r"`proba` must have horizon 1 and 3 classes; got 1 horizon"):
        check_probabilities(P, 1, 3)
    with pytest.raises(EnsembleKitError, match=r"^`horizon` must be an integer of at least 0; got 0\.5\. The first of"):
        check_probabilities(P, 0.5, 3)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"threshold": 1.5}, r"^`threshold` must be in \[0, 1\]; got 1.5. It is a probability.$"),
        ({"threshold": np.nan}, "`threshold` must be .*; got nan"),
        ({"threshold": "0.5"}, "`threshold` must be .*; got '0.5'"),
        ({"size": 0.0}, "^`size` must be a number above 0; got 0.0. All equity is 1.$"),
        ({"size": np.inf}, "`size` must be .*; got inf"),
        ({"size": True}, "`size` must be .*; got True"),
        ({"long": "top", "short": "peak"}, "`long` and `short` must be two of the 3"),
    ],
)
def test_parameters_out_of_their_domain(params, says):
    with pytest.raises(EnsembleKitError, match=says):
        fitted(**params)


def test_rows_that_do_not_fit():
    with pytest.raises(
        EnsembleKitError, match=r"`proba` must have the rows and horizons of `y`, \(2, 1\); got \(5, 1\)"
    ):
        ThresholdSizer().fit(P, ["bottom", "peak"], classes=CLASSES)
    with pytest.raises(EnsembleKitError, match="`sample_weight` must have one weight a row"):
        ThresholdSizer().fit(P[:3], CLASSES, [1.0])


# --------------------------------------------------------------------------------------- study

TRADED = ["trades", "win_rate", "total_return", "sharpe", "max_drawdown", "exposure", "matched_return"]


def foresight(bars, skill, seed=0):
    """Beliefs in a rise that lean, with `skill`, to what the next open-to-open return will be."""
    earned = next_open_return(bars).fillna(0.0).to_numpy()
    noise = np.random.default_rng(seed).normal(size=len(bars))
    up = 1 / (1 + np.exp(-(skill * earned / earned.std() + noise)))
    return np.column_stack([1 - up, up])


@pytest.fixture(scope="module")
def bars():
    return make_bars(3000, random_state=0)


def test_each_row_is_its_backtest(bars):
    proba = foresight(bars, 0.15)
    proba[:50] = np.nan
    costs = Costs(commission_bps=0.5, spread_bps=1.0)
    study = trade_at_thresholds(bars, proba, classes=["down", "up"], costs=costs, thresholds=[0.8, 0.5], random_state=3)
    assert study.index.tolist() == [0.5, 0.8]
    assert study.columns.tolist() == ["coverage", "edge", "low", "high", *TRADED, "deflated_sharpe"]
    results = []
    for threshold, row in study.iterrows():
        side = np.select([proba[:, 1] >= threshold, proba[:, 0] >= threshold], [1.0, -1.0], 0.0)
        results.append(backtest(bars, side, costs=costs))
        assert row[TRADED].to_dict() == pytest.approx({name: results[-1].metrics[name] for name in TRADED})
        assert row["coverage"] == (side != 0).mean()
        expected = block_bootstrap_mean(side * next_open_return(bars), random_state=3)
        assert tuple(row[["edge", "low", "high"]]) == pytest.approx(expected)
    returns = [result.returns.to_numpy()[1:] for result in results]
    sharpes = [x.mean() / x.std(ddof=1) for x in returns]
    expected = [deflated_sharpe_ratio(x, trial_sharpes=sharpes) for x in returns]
    assert study["deflated_sharpe"].tolist() == pytest.approx(expected, rel=1e-12)


def test_skill_is_seen_and_grows_with_confidence(bars):
    study = trade_at_thresholds(bars, foresight(bars, 1.0), classes=["down", "up"], costs=0, random_state=0)
    assert (study.loc[:0.9, "low"] > 0).all()
    a_bar = study["edge"] / study["coverage"]
    assert a_bar[0.8] > a_bar[0.65] > a_bar[0.0] > 0
    assert study["deflated_sharpe"].loc[0.0] > 0.95


def test_noise_earns_nothing_before_costs_and_loses_them():
    """Null B: over bars without signal, about 95 % of the intervals hold 0."""
    held, after, deflated = [], [], []
    for seed in range(40):
        bars = make_bars(1000, random_state=seed)
        proba = foresight(bars, 0.0, seed)
        study = trade_at_thresholds(bars, proba, classes=["down", "up"], thresholds=[0.5, 0.6, 0.8], random_state=seed)
        held.append((study["low"] < 0) & (study["high"] > 0))
        after.append(study["total_return"])
        deflated.append(study["deflated_sharpe"].max())
    assert 0.85 < np.mean(held) <= 1
    assert np.mean(after) < 0
    assert np.mean(np.array(deflated) > 0.95) <= 0.05


def test_a_threshold_that_nobody_reaches(bars):
    proba = np.clip(foresight(bars, 0.3), 0.1, 0.9)
    study = trade_at_thresholds(bars, proba, classes=["down", "up"], thresholds=[0.5, 0.95], random_state=0)
    never = study.loc[0.95]
    assert (never["coverage"], never["trades"], never["total_return"], never["exposure"]) == (0, 0, 0, 0)
    assert never[["edge", "low", "high", "sharpe", "win_rate", "deflated_sharpe"]].isna().all()
    # It is no trial, and neither is the same threshold twice over.
    alone = trade_at_thresholds(bars, proba, classes=["down", "up"], thresholds=[0.5], random_state=0)
    pd.testing.assert_series_equal(study.loc[0.5], alone.loc[0.5])
    proba = foresight(bars, 0.0)
    twice = trade_at_thresholds(bars, proba, classes=["down", "up"], thresholds=[0.0, 0.5, 0.8], costs=0)
    once = trade_at_thresholds(bars, proba, classes=["down", "up"], thresholds=[0.5, 0.8], costs=0)
    assert twice["deflated_sharpe"].tolist() == once["deflated_sharpe"].iloc[[0, 0, 1]].tolist()
    assert once["deflated_sharpe"].between(0.001, 0.999).all()


def test_columns_and_directions_by_name(bars):
    proba = foresight(bars, 0.3)
    study = trade_at_thresholds(bars, proba, classes=["down", "up"], thresholds=[0.6], random_state=0)
    turned = trade_at_thresholds(bars, proba[:, ::-1], classes=["up", "down"], thresholds=[0.6], random_state=0)
    pd.testing.assert_frame_equal(study, turned)
    named = {"classes": ["falls", "rises"], "long": "rises", "short": "falls"}
    by_name = trade_at_thresholds(bars, pd.DataFrame(proba, bars.index), thresholds=[0.6], random_state=0, **named)
    pd.testing.assert_frame_equal(study, by_name)
    frame = pd.DataFrame(proba[:, ::-1], bars.index, ["up", "down"])
    placed = trade_at_thresholds(bars, frame, classes=["down", "up"], thresholds=[0.6], random_state=0)
    pd.testing.assert_frame_equal(study, placed)
    # As out-of-fold predictions come.
    stacked = trade_at_thresholds(bars, proba[:, None], classes=["down", "up"], thresholds=[0.6], random_state=0)
    pd.testing.assert_frame_equal(study, stacked)


def test_a_panel_shares_its_equity():
    panel = make_bars(600, instruments=list("ABC"), random_state=0)
    panel = panel.drop(panel.index[np.random.default_rng(1).uniform(size=len(panel)) < 0.1])
    proba = foresight(panel, 0.5)
    study = trade_at_thresholds(panel, proba, classes=["down", "up"], thresholds=[0.5], costs=0, random_state=0)
    row = study.iloc[0]
    assert 0.9 < row["exposure"] <= 1.05
    sides = pd.Series(np.sign(proba[:, 1] - 0.5), panel.index)
    gains = [(sides.xs(i, level=1) * next_open_return(panel.xs(i, level=1))).dropna() for i in "ABC"]
    assert row["edge"] == pytest.approx(np.concatenate(gains).mean())
    assert row["low"] > 0
    assert row["total_return"] == backtest(panel, sides / 3, costs=0).metrics["total_return"]


def test_selecting_a_threshold_on_real_bars_without_a_signal(shared_data):
    """SPY and beliefs about nothing: no interval far from 0, and no threshold that survives its deflation."""
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet").iloc[:20_000]
    proba = foresight(bars, 0.0)
    study = trade_at_thresholds(bars, proba, classes=["down", "up"], random_state=0)
    assert ((study["low"] < 0) & (study["high"] > 0)).mean() > 0.7
    assert (study["deflated_sharpe"] < 0.95).all()
    assert study["total_return"].iloc[0] < -0.5  # turning over at every bar
    assert study.loc[0.5, "trades"] > 5000
    held = {t: fitted_two(t).transform(proba) * next_open_return(bars).fillna(0) for t in study.index[1:]}
    assert 0 <= probability_of_backtest_overfitting(pd.DataFrame(held), n_blocks=8).pbo <= 1


def fitted_two(threshold):
    return ThresholdSizer(threshold=threshold).fit(np.full((2, 2), 0.5), ["down", "up"])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (
            {"proba": np.full((9, 2), 0.5)},
            EnsembleKitError,
            r"^`proba` must be of 3000 rows, one horizon and 2 classes; got \(9, 1, 2\). Predict the very bars that",
        ),
        (
            {"classes": ["up", "up"]},
            EnsembleKitError,
            r"^`classes` must name each class once; got \['up', 'up'\], with",
        ),
        ({"proba": np.full((3000, 2), 0.7)}, EnsembleKitError, "`proba` must hold probabilities that sum to 1"),
        ({"classes": ["a", "b"]}, EnsembleKitError, "`long` and `short` must be two of the 2"),
        (
            {"thresholds": [2.0]},
            EnsembleKitError,
            r"`thresholds` must be numbers in \[0, 1\], one at least; got \[2.0\]",
        ),
        ({"costs": -1.0}, EnsembleKitError, "`commission_bps` must be a number of at least 0; got -1.0"),
        ({"bars": pd.DataFrame({"close": [1.0]})}, BarsError, "`bars`"),
    ],
)
def test_study_refuses(bars, change, error, says):
    arguments = {"bars": bars, "proba": np.full((3000, 2), 0.5), "classes": ["down", "up"]} | change
    with pytest.raises(error, match=says):
        trade_at_thresholds(arguments.pop("bars"), arguments.pop("proba"), **arguments)


def test_study_of_other_or_too_few_rows(bars):
    shifted = pd.DataFrame(np.full((2999, 2), 0.5), bars.index[1:])
    with pytest.raises(
        EnsembleKitError, match=r"^`proba` must have the index of `bars` \(2999 rows\); got another one"
    ):
        trade_at_thresholds(bars[:-1], shifted, classes=["down", "up"])
    for n in (1, 3, 5):
        says = rf"^`bars` must be some more: opens two bars on are known on {max(n - 2, 0)} of {n} row\(s\), and 4 is"
        with pytest.raises(EnsembleKitError, match=says):
            trade_at_thresholds(bars[:n], np.full((n, 2), 0.5), classes=["down", "up"])
