"""The main job, end to end: panels, horizons and weights together, and what no signal must give."""

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import RobustScaler

from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.features import Alpha158, SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.metrics import auc_pr, block_bootstrap_mean, next_open_return, shifted_label_scores
from ensemble_kit.sizing import KellySizer, SizedClassifier
from ensemble_kit.validation import WalkForwardSplit, lookback

SESSION = "XNYS"


def features():
    return make_union(Alpha158(), SessionFeatures(SESSION))


# ------------------------------------------------------------- a panel, six horizons, weights


@pytest.fixture(scope="module")
def panel_model():
    names = ["AAA", "BBB", "CCC"]
    bars = make_bars(500, instruments=names, signal=2.0, random_state=0)
    # Instruments begin on different days, and one has a hole.
    late = bars.index.get_level_values(1) == "CCC"
    bars = bars[~late | (np.arange(len(bars)) > 300)]
    bars = bars.drop(bars.index[np.flatnonzero(bars.index.get_level_values(1) == "BBB")[200:210]])
    labels = peak_slope_bottom(bars, horizons=6, w=6)
    X, y = labels.align(bars)
    weight = np.random.default_rng(0).uniform(0.5, 1.5, len(X))
    weight[::7] = 0
    scaled = [SimpleImputer(strategy="median", keep_empty_features=True), RobustScaler()]
    network = LSTMGRUClassifier(4, hidden_size=8, max_epochs=3, learning_rate=1e-2, random_state=0)
    trees = LGBMWindowClassifier(4, n_estimators=15, random_state=0)
    vote = WalkForwardVotingClassifier(
        [("net", make_pipeline(*scaled, network)), ("trees", trees)],
        cv=WalkForwardSplit(2, t1=labels.t1),
        events=["peak", "bottom"],
    )
    model = SizedClassifier(make_pipeline(features(), vote), KellySizer(conservatism=0.1))
    return model.fit(X, y, sample_weight=weight), X, y, weight


def test_panel_horizons_and_weights_go_through(panel_model):
    model, X, y, _ = panel_model
    proba = model.predict_proba(X)
    assert len(proba) == 6
    assert all(p.shape == (len(X), 3) for p in proba)
    assert model.predict(X).shape == y.shape
    position = model.predict_position(X)
    assert position.shape == (len(X),)
    assert np.abs(position).max() > 0
    assert model.model_[-1].weights_.shape == (2, 6)


def test_each_instrument_gets_what_it_gets_alone(panel_model):
    model, X, _, _ = panel_model
    position = pd.Series(model.predict_position(X), index=X.index)
    for name in ("AAA", "BBB", "CCC"):
        alone = X.loc[pd.IndexSlice[:, [name]], :]
        np.testing.assert_allclose(model.predict_position(alone), position.loc[alone.index], atol=1e-6)


def test_history_is_all_that_a_position_depends_on(panel_model):
    model, X, _, _ = panel_model
    assert lookback(model) == 60 + 3
    one = X.xs("AAA", level=1, drop_level=False)
    position = model.predict_position(one)
    np.testing.assert_array_equal(model.predict_position(one.iloc[:300]), position[:300])
    # Some recurrences of Alpha158 carry rounding from further back than its windows.
    tail = model.predict_position(one.iloc[-(20 + lookback(model)) :])[-20:]
    np.testing.assert_allclose(tail, position[-20:], atol=1e-3)


def test_no_row_was_used_twice(panel_model):
    model, X, _, weight = panel_model
    usage = model.row_usage_.check()
    unused = np.flatnonzero(weight == 0)
    for role in ("fit", "stop", "score", "calibrate", "weigh", "size"):
        rows = usage.rows(role)
        assert len(rows)
        assert not np.intersect1d(rows, unused).size
    for fold in (0, 1):
        fitted = usage.rows("fit", fold=fold)
        sized = usage.rows("size", fold=fold)
        times = X.index.get_level_values(0)
        assert times[fitted].max() < times[sized].min()


# ----------------------------------------------------------------------------------- nulls


def world(signal, seed, n_bars=5000):
    """Train on three fifths of a world, and return what its positions earn and its probabilities say on the rest."""
    bars = make_bars(n_bars, signal=signal, random_state=seed)
    labels = peak_slope_bottom(bars)
    train, held = next(WalkForwardSplit(1, t1=labels.t1, test_size=0.4).split(bars))
    trees = LGBMWindowClassifier(1, n_estimators=40, random_state=0)
    vote = WalkForwardVotingClassifier([("trees", trees)], cv=WalkForwardSplit(2, t1=labels.t1))
    model = SizedClassifier(make_pipeline(features(), vote), KellySizer(conservatism=0.0))
    weight = labels.sample_weight.iloc[train]
    model.fit(bars.iloc[train], labels.labels.iloc[train], sample_weight=weight)
    earned = model.predict_position(bars)[held] * next_open_return(bars).to_numpy()[held]
    known = held[labels.known[held]]
    return earned[~np.isnan(earned)], labels.labels.iloc[known], model.predict_proba(bars)[known], model.classes_


def earns(signal, seeds):
    earned = np.concatenate([world(signal, seed)[0] for seed in seeds])
    return block_bootstrap_mean(earned, random_state=0)


@pytest.mark.slow
def test_positions_earn_nothing_where_nothing_is_predictable():
    _, low, high = earns(0.0, range(8))
    assert low < 0 < high


@pytest.mark.slow
def test_positions_earn_where_a_future_was_planted():
    _, low, _ = earns(3.0, range(8))
    assert low > 0


EVENTS = ["peak", "bottom"]


def test_shifted_labels_are_not_found_and_true_ones_are():
    _, y, proba, classes = world(2.0, seed=1)
    null = shifted_label_scores(y, proba, classes=classes, events=EVENTS, min_shift=36, n_shifts=200, random_state=0)
    assert auc_pr(y, proba, classes=classes, events=EVENTS)[0] > 3 * null.max()
    # Against labels of another time, the same probabilities are one draw of the null among others.
    rng = np.random.default_rng(0)
    shifts = rng.integers(37, len(y) - 36, size=20)
    scores = [auc_pr(np.roll(y, s), proba, classes=classes, events=EVENTS)[0] for s in shifts]
    assert np.mean((scores > np.quantile(null, 0.025)) & (scores < np.quantile(null, 0.975))) >= 0.8


@pytest.mark.slow
def test_a_model_of_shifted_labels_scores_within_the_permutation_distribution():
    """Fitted on labels of another time, the whole pipeline finds nothing on the holdout."""
    inside = []
    for seed in range(6):
        bars = make_bars(5000, signal=0.0, random_state=seed)
        labels = peak_slope_bottom(bars)
        train, held = next(WalkForwardSplit(1, t1=labels.t1, test_size=0.4).split(bars))
        known = held[labels.known[held]]
        y = pd.Series(np.roll(labels.labels.iloc[train], 1000), index=bars.index[train])
        trees = LGBMWindowClassifier(1, n_estimators=40, random_state=0)
        model = make_pipeline(features(), trees).set_output(transform="pandas").fit(bars.iloc[train], y)
        proba, truth = model.predict_proba(bars)[known], labels.labels.iloc[known]
        null = shifted_label_scores(truth, proba, classes=model.classes_, events=EVENTS, min_shift=36, random_state=0)
        score = auc_pr(truth, proba, classes=model.classes_, events=EVENTS)[0]
        inside.append(np.quantile(null, 0.01) <= score <= np.quantile(null, 0.99))
    assert sum(inside) >= 5  # of 6, each inside with 98 %
