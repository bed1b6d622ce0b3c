import pickle

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

from ensemble_kit.bars import row_keys
from ensemble_kit.estimators import _lag_explanations
from ensemble_kit.estimators.lags import LagColumns
from ensemble_kit.estimators.lightgbm_window import LGBMWindowClassifier
from ensemble_kit.exceptions import EnsembleKitError

LOSSES = ["cross_entropy", "expected_cost"]


def columns_and_labels(n=300, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)).astype(np.float32)
    score = X[:, 0] + np.roll(X[:, 1], 5) + 0.5 * rng.normal(size=n)
    X[rng.random(X.shape) < 0.05] = np.nan
    return X, np.digitize(score, [0.3] if n_classes == 2 else [-1, 1])


def fitted(n_classes=3, loss="cross_entropy", n_horizons=0, seq_len=8, **options):
    X, y = columns_and_labels(n_classes=n_classes)
    if n_horizons:
        y = np.column_stack([np.roll(y, h) for h in range(n_horizons)])
    options = {"n_estimators": 12, "num_leaves": 7, "min_child_samples": 5, "random_state": 0} | options
    cost = 1 - np.eye(n_classes)
    return LGBMWindowClassifier(seq_len, loss=loss, cost_matrix=cost, **options).fit(X, y), X


# ---------------------------------------------------------------- the newest row


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n_horizons", [0, 2])
def test_the_newest_row_is_the_last_of_all(n_classes, loss, n_horizons):
    model, X = fitted(n_classes, loss, n_horizons)
    for rows in (1, 3, 8, 9, 60, 300):
        whole = model.predict_log_proba(X[:rows])
        last = np.stack([each[-1] for each in whole]) if n_horizons else whole[-1]
        newest = model.newest_log_proba(X[:rows])
        np.testing.assert_array_equal(newest, last)
        assert newest.shape == ((n_horizons, n_classes) if n_horizons else (n_classes,))
    window = X[292:].astype(np.float64)
    np.testing.assert_array_equal(model.newest_log_proba(window), model.newest_log_proba(X))
    np.testing.assert_array_equal(model.newest_log_proba(window.tolist()), model.newest_log_proba(X))


def test_the_newest_row_of_a_frame_and_of_a_panel():
    X, y = columns_and_labels()
    index = pd.MultiIndex.from_product([pd.date_range("2024", periods=150), ["a", "b"]])
    index.names = ["datetime", "instrument"]
    frame = pd.DataFrame(X, index=index, columns=list("xyz"))
    model = LGBMWindowClassifier(6, n_estimators=5, random_state=0).fit(frame, y)
    whole = model.predict_log_proba(frame)
    for name, last in (("a", -2), ("b", -1)):
        one = frame.xs(name, level=1)
        np.testing.assert_array_equal(model.newest_log_proba(one), whole[last])
        np.testing.assert_array_equal(model.newest_log_proba(one[-6:]), whole[last])


@pytest.mark.parametrize("shape", [(3,), (4, 2), (0, 3), (1, 2, 3)])
def test_windows_of_another_shape_are_refused(shape):
    model, _ = fitted()
    with pytest.raises(EnsembleKitError) as caught:
        model.newest_log_proba(np.zeros(shape))
    assert str(caught.value) == (
        f"`window` must have shape (m, 3) with at least one row; got {shape}. Give the newest rows, with the columns "
        "of `fit`."
    )
    with pytest.raises(NotFittedError):
        clone(model).newest_log_proba(np.zeros((4, 3)))


# ------------------------------------------------------------------- importances


@pytest.mark.parametrize("kind", ["gain", "split"])
def test_importances_by_lag_are_those_of_lightgbm(kind):
    model, _ = fitted(n_horizons=2)
    by_hand = [lgb.Booster(model_str=text).feature_importance(kind) for text in model.model_text_]
    names = model.lag_feature_names_
    table = model.lag_importance(kind)
    assert table.index.tolist() == ["x0", "x1", "x2"]
    assert table.columns.tolist() == ["0", "1", "2", "3", "4", "5-6", "7"]
    np.testing.assert_array_equal(table.to_numpy().ravel(), by_hand[0] + by_hand[1])
    for h in range(2):
        one = model.lag_importance(kind, horizon=h)
        np.testing.assert_array_equal(one.to_numpy().ravel(), by_hand[h])
    assert by_hand[0][names.index("x1_mean5_6")] == model.lag_importance(kind, horizon=0).loc["x1", "5-6"]


def test_importances_point_to_what_was_planted():
    model, _ = fitted()
    gain = model.lag_importance()
    assert gain.loc["x0"].idxmax() == "0"
    assert gain.loc["x1"].idxmax() == "5-6"
    assert gain.loc["x2"].max() < min(gain.loc["x0", "0"], gain.loc["x1", "5-6"])
    np.testing.assert_array_equal(model.feature_importances_, gain.to_numpy().sum(axis=1))


def test_no_such_importance():
    model, _ = fitted(n_horizons=2)
    for kind, horizon in (("cover", None), ("gain", 2), ("gain", -1)):
        with pytest.raises(EnsembleKitError) as caught:
            model.lag_importance(kind, horizon=horizon)
        assert str(caught.value) == (
            f"`kind` must be 'gain' or 'split', and `horizon` None or one of 0 to 1; got {kind!r} and {horizon!r}. "
            "Leave `horizon` out for the sum."
        )


# ----------------------------------------------------------------- contributions


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n_horizons", [0, 2])
def test_contributions_add_up_to_the_scores(n_classes, loss, n_horizons):
    model, X = fitted(n_classes, loss, n_horizons)
    answers = model.contributions(X)
    answers = answers if n_horizons else [answers]
    log_proba = model.predict_log_proba(X)
    log_proba = log_proba if n_horizons else [log_proba]
    table = LagColumns(X, row_keys(X), 8, model.lag_blocks_).table(np.arange(300))
    for h, (answer, expected) in enumerate(zip(answers, log_proba, strict=True)):
        assert answer.shape == (300, n_classes, 4)
        scores = answer.sum(axis=2)
        np.testing.assert_allclose(log_softmax(scores, axis=1), expected, atol=1e-9)
        raw = lgb.Booster(model_str=model.model_text_[h]).predict(table, raw_score=True).reshape(300, -1)
        np.testing.assert_allclose(scores[:, -raw.shape[1] :], raw + model.init_score_[h, -raw.shape[1] :], atol=1e-9)
        if n_classes == 2:
            assert (answer[:, 0] == 0).all()
        np.testing.assert_allclose(answer[:, :, -1], np.broadcast_to(answer[0, :, -1], (300, n_classes)))


def test_contributions_fold_the_lags_of_a_column():
    model, X = fitted()
    table = LagColumns(X, row_keys(X), 8, model.lag_blocks_).table(np.arange(300))
    each = lgb.Booster(model_str=model.model_text_[0]).predict(table, pred_contrib=True).reshape(300, 3, -1)
    n_blocks = len(model.lag_blocks_)
    folded = np.stack([each[:, :, f * n_blocks : (f + 1) * n_blocks].sum(axis=2) for f in range(3)], axis=2)
    np.testing.assert_allclose(model.contributions(X)[:, :, :3], folded, atol=1e-12)
    # What says nothing adds little.
    share = np.abs(folded).mean(axis=(0, 1))
    assert share[2] < 0.2 * share[0]


def test_contributions_walk_in_pieces(monkeypatch):
    model, X = fitted(n_horizons=2)
    whole = model.contributions(X)
    monkeypatch.setattr(_lag_explanations, "_CONTRIBUTIONS", 7 * 3 * (3 * 7 + 1))
    for pieces, together in zip(model.contributions(X), whole, strict=True):
        np.testing.assert_array_equal(pieces, together)
    monkeypatch.setattr(_lag_explanations, "_CONTRIBUTIONS", 1)
    np.testing.assert_array_equal(model.contributions(X[:20])[1], whole[1][:20])


def test_contributions_of_a_panel_are_those_of_each_alone():
    X, y = columns_and_labels()
    keep = np.random.default_rng(0).random((len(X), 2)) < 0.7
    at, who = np.nonzero(keep)
    index = pd.MultiIndex.from_arrays([pd.date_range("2024", periods=300)[at], np.array(["a", "b"])[who]])
    index.names = ["datetime", "instrument"]
    rows = np.random.default_rng(1).integers(300, size=len(at))
    frame = pd.DataFrame(X[rows], index=index, columns=list("xyz"))
    model = LGBMWindowClassifier(6, n_estimators=5, random_state=0).fit(frame, y[rows])
    together = model.contributions(frame)
    for name in "ab":
        of_one = frame.index.get_level_values(1) == name
        np.testing.assert_array_equal(together[of_one], model.contributions(frame[of_one]))
    with pytest.raises(EnsembleKitError, match="panel"):
        model.contributions(frame.to_numpy())


# ------------------------------------------------------------------ what is kept


@pytest.mark.parametrize("loss", LOSSES)
def test_all_that_is_said_survives_a_reload(loss):
    model, X = fitted(loss=loss, n_horizons=2)
    model.contributions(X[:5])
    assert not {"_forest", "_boosters"} & set(model.__getstate__())
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.newest_log_proba(X), model.newest_log_proba(X))
    np.testing.assert_array_equal(again.contributions(X), model.contributions(X))
    pd.testing.assert_frame_equal(again.lag_importance("split"), model.lag_importance("split"))
    np.testing.assert_array_equal(again.init_score_, model.init_score_)


def test_a_second_fit_forgets_the_first():
    model, X = fitted()
    model.contributions(X[:5])
    y = np.roll(columns_and_labels()[1], 3)
    again = clone(model).fit(X, y)
    model.fit(X, y)
    np.testing.assert_array_equal(model.contributions(X), again.contributions(X))
    np.testing.assert_array_equal(model.predict_proba(X), again.predict_proba(X))
    np.testing.assert_array_equal(model.feature_importances_, again.feature_importances_)


def test_grid_search_takes_it():
    X, y = columns_and_labels()
    grid = {"loss": LOSSES, "seq_len": [2, 6]}
    model = LGBMWindowClassifier(n_estimators=8, learning_rate=0.3, cost_matrix=1 - np.eye(3), random_state=0)
    search = GridSearchCV(model, grid, cv=TimeSeriesSplit(2)).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["seq_len"] == 6  # the label hangs on lag 5
