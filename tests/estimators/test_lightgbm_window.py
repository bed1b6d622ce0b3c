import io
import pickle

import joblib
import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.metrics import average_precision_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from ensemble_kit.bars import row_keys
from ensemble_kit.estimators.lags import LagColumns, lag_blocks, lag_names
from ensemble_kit.estimators.lightgbm_window import LGBMWindowClassifier
from ensemble_kit.exceptions import EnsembleKitError


def small(seq_len=4, **kwargs):
    return LGBMWindowClassifier(
        seq_len, **{"n_estimators": 8, "num_leaves": 5, "min_child_samples": 3, "random_state": 0} | kwargs
    )


def columns_and_labels(n=240, n_features=3, n_classes=3, seed=0, missing=0.05):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features)).astype(np.float32)
    X[rng.random(X.shape) < missing] = np.nan
    y = (np.nan_to_num(X[:, 0]) + np.nan_to_num(np.roll(X[:, 1], 2)) > 0).astype(int)
    y[rng.random(n) < 0.1] = n_classes - 1
    return X, y


def panel_of(X, y, n_instruments=3, short=40):
    """Interleave instruments that start and end at different times."""
    times = pd.date_range("2024-01-01", periods=len(X), freq="h")
    keep = np.random.default_rng(1).random((len(X), n_instruments)) < 0.7
    keep[:short, 0] = False
    at, who = np.nonzero(keep)
    names = np.array(["ccc", "aaa", "bbb"])
    index = pd.MultiIndex.from_arrays([times[at], names[who]], names=["datetime", "instrument"]).sortlevel()[0]
    rows = np.random.default_rng(2).permutation(len(index)) % len(X)
    return pd.DataFrame(X[rows], index=index, columns=[f"c{f}" for f in range(X.shape[1])]), y[rows]


def brute_force(X, seq_len, blocks):
    """Materialise every window, then average blocks of it."""
    pad = np.vstack([np.full((seq_len - 1, X.shape[1]), np.nan), X.astype(np.float64)])
    out = np.full((len(X), X.shape[1], len(blocks)), np.nan)
    for t in range(len(X)):
        window = pad[t : t + seq_len][::-1]  # lag 0 first
        for b, (lag, length) in enumerate(blocks):
            part = window[lag : lag + length]
            known = ~np.isnan(part)
            for f in range(X.shape[1]):
                if known[:, f].any():
                    out[t, f, b] = part[known[:, f], f].mean()
    return out.reshape(len(X), -1).astype(np.float32)


def as_matrix(table):
    return np.column_stack([column.to_numpy() for column in table.columns])


# ------------------------------------------------------------------------- lags


@pytest.mark.parametrize("seq_len", [1, 2, 5, 6, 31, 48, 205, 400])
def test_blocks_cover_every_lag_exactly_once(seq_len):
    blocks = lag_blocks("blocks", seq_len)
    covered = np.concatenate([np.arange(lag, lag + length) for lag, length in blocks])
    np.testing.assert_array_equal(covered, np.arange(seq_len))
    assert (np.diff(blocks[:-1, 1]) >= 0).all()


def test_block_counts():
    assert [len(lag_blocks("blocks", n)) for n in (5, 48, 205)] == [5, 17, 27]
    assert lag_blocks("all", 3).tolist() == [[0, 1], [1, 1], [2, 1]]
    assert lag_blocks("last", 3).tolist() == [[0, 1]]
    assert lag_blocks(np.array([2, 0]), 3).tolist() == [[2, 1], [0, 1]]


@pytest.mark.parametrize("lags", ["some", [], [0, 0], [3], [-1], [0.5], None, 2])
def test_lags_out_of_the_window_are_refused(lags):
    with pytest.raises(EnsembleKitError, match="`lags` must be 'blocks', 'all', 'last' or different lags"):
        lag_blocks(lags, 3)


@pytest.mark.parametrize(
    ("lags", "seq_len"), [("blocks", 1), ("blocks", 49), ("blocks", 90), ("all", 5), ([4, 0], 6), ("last", 3)]
)
def test_columns_equal_brute_force(lags, seq_len):
    X, _ = columns_and_labels(60, missing=0.3)
    blocks = lag_blocks(lags, seq_len)
    columns = LagColumns(X, row_keys(X), seq_len, blocks)
    expected = brute_force(X, seq_len, blocks)
    np.testing.assert_allclose(as_matrix(columns.table(np.arange(60))), expected, rtol=1e-6)
    rows = np.arange(0, 60, 7)
    np.testing.assert_allclose(as_matrix(columns.table(rows)), expected[rows], rtol=1e-6)
    assert len(lag_names(list("abc"), blocks)) == expected.shape[1]


def test_single_lags_are_slices_of_one_buffer():
    X, _ = columns_and_labels(500, 2)
    table = LagColumns(X, row_keys(X), 50, lag_blocks("all", 50)).table(np.arange(500))
    assert len({column.chunk(0).buffers()[1].address for column in table.columns}) == 2
    assert {column.num_chunks for column in table.columns} == {1}


def test_a_huge_value_is_forgotten_when_it_leaves_the_window():
    X = np.random.default_rng(0).normal(size=(80, 1)).astype(np.float32)
    calm = X.copy()
    X[10] = 1e30
    blocks = lag_blocks("blocks", 20)
    with_it, without = (as_matrix(LagColumns(x, row_keys(x), 20, blocks).table(np.arange(80))) for x in (X, calm))
    np.testing.assert_array_equal(with_it[30:], without[30:])
    assert not np.array_equal(with_it[29], without[29])


@pytest.mark.parametrize("lags", ["blocks", "all"])
def test_panel_columns_equal_each_instrument_alone(lags):
    X, _ = panel_of(*columns_and_labels(300))
    blocks = lag_blocks(lags, 12)
    whole = LagColumns(X.to_numpy(), row_keys(X), 12, blocks)
    rows = whole.arrange(np.arange(len(X)))
    table = whole.table(rows)
    assert table.column(0).num_chunks == 3
    got = np.empty((len(X), table.num_columns), np.float32)
    got[rows] = as_matrix(table)
    instruments = X.index.get_level_values(1)
    for name in instruments.unique():
        alone = X[instruments == name].to_numpy()
        keys = row_keys(alone)
        expected = as_matrix(LagColumns(alone, keys, 12, blocks).table(np.arange(len(alone))))
        np.testing.assert_array_equal(got[instruments == name], expected)


# ------------------------------------------------------------------- the answers


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("lags", ["all", "blocks"])
def test_equals_lightgbm_on_the_flattened_matrix(n_classes, lags):
    X, y = columns_and_labels(n_classes=n_classes)
    model = small(7, lags=lags).fit(X, y)
    flat = brute_force(X, 7, model.lag_blocks_)
    params = model._lightgbm_params(n_classes)
    booster = lgb.train(params, lgb.Dataset(flat, y, params=params), num_boost_round=8)
    raw = booster.predict(flat, raw_score=True)
    scores = raw if n_classes > 2 else np.column_stack([0 * raw, raw])
    np.testing.assert_array_equal(model.predict_log_proba(X), log_softmax(scores, axis=1))
    gain = booster.feature_importance("gain").reshape(3, -1).sum(axis=1)
    np.testing.assert_allclose(model.feature_importances_, gain, rtol=1e-5)
    assert model.feature_importances_.shape == (3,)
    assert (model.feature_importances_[:2] > model.feature_importances_[2]).all()


def test_panel_predictions_equal_each_instrument_alone():
    X, y = panel_of(*columns_and_labels(300))
    model = small(9).fit(X, y)
    together = model.predict_proba(X)
    instruments = X.index.get_level_values(1)
    for name in instruments.unique():
        np.testing.assert_array_equal(together[instruments == name], model.predict_proba(X[instruments == name]))


def test_a_lost_panel_index_is_refused():
    X, y = panel_of(*columns_and_labels(100))
    with pytest.raises(EnsembleKitError, match="panel"):
        small().fit(X.to_numpy(), pd.Series(y, index=X.index))
    model = small().fit(X, y)
    with pytest.raises(EnsembleKitError, match="set_output"):
        model.predict(X.reset_index(drop=True))


def test_rows_of_weight_0_are_history_only():
    X, y = columns_and_labels(200)
    weights = np.ones(200)
    weights[:30] = weights[50:60] = 0
    weights[100::3] = 0
    model = small().fit(X, y, weights)
    other_labels = np.where(weights > 0, y, 7)
    again = small().fit(X, other_labels, weights)
    assert again.model_text_ == model.model_text_
    np.testing.assert_array_equal(again.classes_, model.classes_)
    np.testing.assert_array_equal(model.row_usage_["fit"], np.flatnonzero(weights))

    far = X.copy()
    far[:26] = 5.0  # 4 rows and more before the first weighted row: in no window
    assert small().fit(far, y, weights).model_text_ == model.model_text_
    near = X.copy()
    near[27:30] = near[50:60] = 5.0
    assert small().fit(near, y, weights).model_text_ != model.model_text_
    assert small().fit(X[26:], y[26:], weights[26:]).model_text_ == model.model_text_


def test_weights_count():
    X, y = columns_and_labels(200)
    heavy = np.where(y == 1, 50.0, 1.0)
    plain, weighted = small().fit(X, y), small().fit(X, y, heavy)
    assert weighted.predict_proba(X)[:, 1].mean() > plain.predict_proba(X)[:, 1].mean() + 0.2
    by_class = small(class_weight={1: 50.0}).fit(X, y)
    np.testing.assert_array_equal(by_class.predict_proba(X), weighted.predict_proba(X))
    mass = np.array([1, 50, 1]) * np.bincount(y)
    by_mass = dict(enumerate(mass.sum() / (3 * mass)))
    np.testing.assert_array_equal(
        small(class_weight="balanced").fit(X, y, heavy).predict_proba(X),
        small(class_weight=by_mass).fit(X, y, heavy).predict_proba(X),
    )
    balanced = small(class_weight="balanced").fit(X, y).predict_proba(X).mean(axis=0)
    np.testing.assert_allclose(balanced, 1 / 3, atol=0.12)
    assert plain.predict_proba(X).mean(axis=0).min() < 0.15


def test_predictions_depend_on_the_window_only():
    X, y = columns_and_labels(150)
    model = small(10).fit(X, y)
    whole = model.predict_log_proba(X)
    assert model.lookback == 9
    for t in (1, 9, 10, 77):
        np.testing.assert_array_equal(model.predict_log_proba(X[:t]), whole[:t])
    np.testing.assert_array_equal(model.predict_log_proba(X[40:])[model.lookback :], whole[40 + model.lookback :])
    assert not np.array_equal(model.predict_log_proba(X[41:])[: model.lookback], whole[41 : 41 + model.lookback])


@pytest.mark.parametrize(
    "options", [{}, {"class_weight": {1: 9.0}}, {"class_weight": "balanced", "validation_fraction": 0.3, "patience": 2}]
)
def test_several_horizons_equal_each_alone(options):
    X, y = columns_and_labels(200)
    Y = np.column_stack([y, np.roll(y, 1), np.where(y == 2, 2, 1 - np.minimum(y, 1))])
    model = small(**options).fit(X, Y)
    proba = model.predict_proba(X)
    assert [p.shape for p in proba] == [(200, 3)] * 3
    assert model.predict(X).shape == (200, 3)
    for h in range(3):
        alone = small(**options).fit(X, Y[:, h])
        np.testing.assert_array_equal(alone.predict_proba(X), proba[h])
        np.testing.assert_array_equal(alone.predict(X), model.predict(X)[:, h])
        np.testing.assert_array_equal(alone.classes_, model.classes_[h])


def test_a_horizon_that_lacks_a_class_keeps_its_column():
    X, y = columns_and_labels(200)
    model = small(class_weight="balanced").fit(X, np.column_stack([y, np.minimum(y, 1), np.zeros_like(y)]))
    first, second, third = model.predict_proba(X)
    assert second.shape == first.shape == (200, 3)
    assert second[:, 2].max() < 1e-6
    assert third[:, 0].min() > 1 - 1e-6
    assert all(np.isfinite(p).all() for p in model.predict_log_proba(X))


def test_no_horizon_leaves_its_weights_to_the_next():
    X, y = columns_and_labels(200)
    Y = np.column_stack([y, np.minimum(y, 1)])  # the second lacks the class that weighs 9
    forth = small(class_weight={2: 9.0}).fit(X, Y).predict_proba(X)
    back = small(class_weight={2: 9.0}).fit(X, Y[:, ::-1]).predict_proba(X)
    np.testing.assert_array_equal(forth[0], back[1])
    np.testing.assert_array_equal(forth[1], back[0])


def test_rows_to_fit_that_hold_one_class_give_its_prior():
    X, _ = columns_and_labels(100)
    y = (np.arange(100) > 90).astype(int)
    with pytest.warns(UserWarning, match=r"Rows before those to stop have the class \[0\] only: the model says"):
        model = small(validation_fraction=0.2, class_weight="balanced").fit(X, y)
    assert len(model.row_usage_["stop"]) == 20
    assert model.predict_proba(X)[:, 0].min() > 1 - 1e-6


def test_early_stopping_rows_are_the_newest_and_purged():
    X, y = columns_and_labels(300)
    weights = np.ones(300)
    weights[290:] = 0
    weights[200:235:2] = 0
    model = small(n_estimators=500, learning_rate=0.5, validation_fraction=0.2, validation_purge=7, patience=3)
    model.fit(X, y, weights)
    learned = np.flatnonzero(weights)
    stop = learned[-int(np.ceil(0.2 * len(learned))) :]
    np.testing.assert_array_equal(model.row_usage_["stop"], stop)
    np.testing.assert_array_equal(model.row_usage_["fit"], learned[learned < stop[0] - 7])
    assert model.n_iter_[0] < 100
    assert lgb.Booster(model_str=model.model_text_[0]).current_iteration() == model.n_iter_[0]
    with pytest.raises(EnsembleKitError, match="must leave rows to fit"):
        clone(model).set_params(validation_purge=290).fit(X, y)


def test_labels_of_purged_rows_are_not_counted():
    X, y = columns_and_labels(200)
    model = small(validation_fraction=0.2, validation_purge=30, class_weight="balanced").fit(X, y)
    other = y.copy()
    other[130:160] = 2
    assert clone(model).fit(X, other).model_text_ == model.model_text_


def test_the_purge_of_a_panel_counts_times():
    X, y = panel_of(*columns_and_labels(300))
    model = small(validation_fraction=0.25, validation_purge=5).fit(X, y)
    times = X.index.get_level_values(0)
    fit, stop = (times[model.row_usage_[role]] for role in ("fit", "stop"))
    between = times[(times > fit.max()) & (times < stop.min())].unique()
    assert len(between) == 5
    assert stop.nunique() == np.ceil(0.25 * times.nunique())
    assert len(fit) + len(stop) + len(times[times.isin(between)]) == len(X)


# ------------------------------------------------------------------ what is kept


def test_a_reloaded_model_is_itself():
    X, y = columns_and_labels()
    model = small(class_weight="balanced").fit(X, y)
    expected = model.predict_log_proba(X)
    state = model.__getstate__()
    assert "_boosters" not in state
    assert set(map(type, state["model_text_"])) == {str}
    stored = io.BytesIO()
    joblib.dump(model, stored)
    stored.seek(0)
    for again in (pickle.loads(pickle.dumps(model)), joblib.load(stored)):
        np.testing.assert_array_equal(again.predict_log_proba(X), expected)
        np.testing.assert_array_equal(again.feature_importances_, model.feature_importances_)
    assert clone(model).fit(X, y).model_text_ == model.model_text_


def test_same_seed_same_bits():
    X, y = columns_and_labels()
    bagged = {"params": {"bagging_fraction": 0.5, "bagging_freq": 1}}
    first, again, other = (small(random_state=seed, **bagged).fit(X, y).predict_proba(X) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_string_labels_and_names():
    X, y = columns_and_labels()
    frame = pd.DataFrame(X, columns=["close", "a: {b}", "volume"])
    labels = np.array(["Neither", "Peak", "Bottom"])[y]
    model = small(6).fit(frame, labels)
    assert model.classes_.tolist() == ["Bottom", "Neither", "Peak"]
    numbers = small(6).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(model.predict_proba(frame), numbers[:, [2, 0, 1]], rtol=1e-6)
    assert set(model.predict(frame)) <= set(labels)
    assert model.lag_feature_names_[5:7] == ["close_lag5", "a: {b}_lag0"]


def test_learns_a_planted_signal_and_no_shuffled_one():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 3))
    signal = np.convolve(X[:, 0], np.ones(9), "full")[:1500] > 4  # the mean of lags 0 to 8
    fitted = small(12, n_estimators=60, num_leaves=7).fit(X[:1000], signal[:1000])
    score = average_precision_score(signal[1000:], fitted.predict_proba(X[1000:])[:, 1])
    null = [
        average_precision_score(np.roll(signal[1000:], shift), fitted.predict_proba(X[1000:])[:, 1])
        for shift in range(20, 480, 10)
    ]
    assert score > max(null) + 0.2
    noise = small(12, n_estimators=60, num_leaves=7).fit(X[:1000], rng.permutation(signal[:1000]))
    assert average_precision_score(signal[1000:], noise.predict_proba(X[1000:])[:, 1]) < np.max(null)


# ---------------------------------------------------------------------- refusals


def test_parameters_out_of_their_domain_are_all_named():
    X, y = columns_and_labels(50)
    bad = small(
        0,
        class_weight="even",
        n_estimators=0,
        num_leaves=1,
        learning_rate=0,
        validation_fraction=1.0,
        params={"eta": 0.1},
    )
    with pytest.raises(EnsembleKitError) as caught:
        bad.fit(X, y)
    with pytest.raises(EnsembleKitError, match="`class_weight` must name labels"):
        small(class_weight={"up": 2.0}).fit(X, y)
    message = str(caught.value)
    for name in (
        "seq_len",
        "n_estimators",
        "num_leaves",
        "learning_rate",
        "validation_fraction",
        "class_weight",
        "params",
    ):
        assert f"`{name}` must be " in message


def test_a_single_class_and_infinity_are_refused():
    X, y = columns_and_labels(50)
    with pytest.raises(
        EnsembleKitError, match="`y` must hold at least 2 classes on rows of weight above 0; got 1 class"
    ):
        small().fit(X, np.full(50, "up"))
    X[3, 1] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        small().fit(X, y)


def expected_failures(estimator):
    failures = {
        "check_sample_weight_equivalence_on_dense_data": (
            "bins and `min_child_samples` count rows, and a repeated row is another bar of the window"
        )
    }
    if estimator.seq_len > 1:
        reason = "a row's answer depends on the rows before it"
        failures |= {"check_methods_sample_order_invariance": reason, "check_methods_subset_invariance": reason}
    return failures


# scikit-learn's own cast of an infinite y warns before it refuses it.
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@parametrize_with_checks([small(1, n_estimators=5), small(3, n_estimators=5)], expected_failed_checks=expected_failures)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
