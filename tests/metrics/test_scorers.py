"""Scorers inside scikit-learn's validation and Optuna's studies."""

import pickle

import numpy as np
import optuna
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import AUCPRScorer, BrierScorer, auc_pr, brier_score
from ensemble_kit.validation import WalkForwardSplit

CV = WalkForwardSplit(2, purge=0)
N = 240


@pytest.fixture(scope="module")
def frame():
    """Columns, and labels of three classes that the first column half tells."""
    rng = np.random.default_rng(0)
    index = pd.date_range("2024-01-01", periods=N, freq="h", tz="UTC", name="datetime")
    X = pd.DataFrame(rng.normal(size=(N, 3)), columns=["a", "b", "c"], index=index)
    signal = X["a"] + 0.5 * rng.normal(size=N)
    y = pd.Series(np.select([signal > 0.8, signal < -0.8], ["peak", "bottom"], "slope"), index=index)
    return X, y


def folds(X, y):
    """Yield the fitted model and the test rows of each fold, as cross_validate has them."""
    for train, test in CV.split(X):
        yield LogisticRegression().fit(X.iloc[train], y.iloc[train]), X.iloc[test], y.iloc[test]


def test_cross_validate_gives_the_scores_by_hand(frame):
    X, y = frame
    scoring = {"auc": AUCPRScorer(events=["peak", "bottom"]), "brier": BrierScorer()}
    found = cross_validate(LogisticRegression(), X, y, cv=CV, scoring=scoring, error_score="raise")
    hand = [
        (
            auc_pr(yt, m.predict_proba(Xt), classes=m.classes_, events=["peak", "bottom"])[0],
            -brier_score(yt, m.predict_proba(Xt), classes=m.classes_)[0],
        )
        for m, Xt, yt in folds(X, y)
    ]
    np.testing.assert_allclose(np.column_stack([found["test_auc"], found["test_brier"]]), hand)


def test_greater_is_better(frame):
    X, y = frame
    good, prior = LogisticRegression(), DummyClassifier()
    for scorer in (AUCPRScorer(), BrierScorer()):
        assert scorer(good.fit(X, y), X, y) > scorer(prior.fit(X, y), X, y)


def test_grid_search_finds_the_model_that_learned(frame):
    X, y = frame
    grid = GridSearchCV(LogisticRegression(), {"C": [1e-6, 1.0]}, cv=CV, scoring=BrierScorer(), error_score="raise")
    assert grid.fit(X, y).best_params_ == {"C": 1.0}
    again = clone(grid).fit(X, y)
    assert again.best_score_ == grid.best_score_


def test_optuna_study_maximises_it(frame):
    X, y = frame
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial):
        model = LogisticRegression(C=trial.suggest_categorical("C", [1e-6, 1.0]))
        return cross_val_score(model, X, y, cv=CV, scoring=BrierScorer(), error_score="raise").mean()

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=6)
    assert study.best_params == {"C": 1.0}


def test_horizons(frame):
    X, y = frame
    Y = pd.DataFrame({"H0": y, "H1": y.shift(-1, fill_value="slope")})
    model = RandomForestClassifier(20, random_state=0).fit(X[:150], Y[:150])
    Xt, Yt = X[150:], Y[150:]
    each = [
        np.mean([average_precision_score(Yt.iloc[:, h] == c, p[:, k]) for k, c in enumerate(model.classes_[h])])
        for h, p in enumerate(model.predict_proba(Xt))
    ]
    assert [AUCPRScorer(horizon=h)(model, Xt, Yt) for h in (0, 1)] == pytest.approx(each)
    assert AUCPRScorer(horizon=None)(model, Xt, Yt) == pytest.approx(np.mean(each))
    found = cross_val_score(model, X, Y, cv=CV, scoring=AUCPRScorer(horizon=1), error_score="raise")
    assert (found > 0).all()
    for wrong in (2, -1):
        with pytest.raises(EnsembleKitError, match="`horizon` must be below the 2 of the model"):
            AUCPRScorer(horizon=wrong)(model, Xt, Yt)


def test_horizons_that_know_different_classes(frame):
    X, y = frame
    Y = pd.DataFrame({"H0": y, "H1": y.replace("peak", "slope")})
    model = RandomForestClassifier(5, random_state=0).fit(X, Y)
    assert len(model.classes_[1]) == 2
    p = model.predict_proba(X)[1]
    hand = ((p - np.column_stack([Y["H1"] == "bottom", Y["H1"] == "slope"])) ** 2).sum(axis=1).mean()
    assert -BrierScorer(horizon=1)(model, X, Y) == pytest.approx(hand)


# ------------------------------------------------------------------------------ missing classes


def test_a_class_that_the_fold_never_taught_has_probability_zero(frame):
    X, y = frame
    early = y.where(y != "peak", "slope")
    model = LogisticRegression().fit(X[:120], early[:120])
    Xt, yt = X[120:], y[120:]
    p = np.insert(model.predict_proba(Xt), 1, 0.0, axis=1)  # bottom, peak, slope
    hand = ((p - np.column_stack([yt == c for c in ("bottom", "peak", "slope")])) ** 2).sum(axis=1).mean()
    assert -BrierScorer()(model, Xt, yt) == pytest.approx(hand)
    # Nothing tells its rows apart: the score is the prevalence.
    assert AUCPRScorer(events=["peak"])(model, Xt, yt) == pytest.approx((yt == "peak").mean())


def test_a_fold_without_an_event_is_scored_on_the_others(frame):
    X, y = frame
    rare = y.where(y != "peak", "slope")
    rare.iloc[-1] = "peak"  # in the last test block only
    scorer = AUCPRScorer(events=["peak", "bottom"])
    with pytest.warns(UserWarning, match="no row of class peak"):
        found = cross_val_score(LogisticRegression(), X, rare, cv=CV, scoring=scorer, error_score="raise")
    (first, Xt, yt), _ = folds(X, rare)
    assert found[0] == pytest.approx(average_precision_score(yt == "bottom", first.predict_proba(Xt)[:, 0]))
    assert np.isfinite(found).all()


def test_events_that_nobody_knows_are_an_error(frame):
    X, y = frame
    model = LogisticRegression().fit(X, y)
    with pytest.raises(EnsembleKitError, match="`events` must be among the classes"):
        AUCPRScorer(events=["peek", "bottomless"])(model, X, y)


# --------------------------------------------------------------------------------------- weights


def test_weights_are_looked_up_by_index_after_slicing(frame):
    X, y = frame
    weights = pd.Series(np.random.default_rng(1).choice([0.0, 1.0, 2.0], size=N), index=X.index)
    scoring = {"auc": AUCPRScorer(sample_weight=weights[::-1]), "brier": BrierScorer(sample_weight=weights)}
    found = cross_validate(LogisticRegression(), X, y, cv=CV, scoring=scoring, error_score="raise")
    for k, (model, Xt, yt) in enumerate(folds(X, y)):
        p, w = model.predict_proba(Xt), weights[Xt.index]
        assert found["test_auc"][k] == pytest.approx(auc_pr(yt, p, classes=model.classes_, sample_weight=w)[0])
        assert found["test_brier"][k] == pytest.approx(-brier_score(yt, p, classes=model.classes_, sample_weight=w)[0])


def test_weights_of_a_panel_are_looked_up(frame):
    X, y = frame
    index = pd.MultiIndex.from_product([X.index[:120], ["A", "B"]], names=["datetime", "instrument"])
    X, y = X.set_axis(index), y.set_axis(index)
    model = LogisticRegression().fit(X, y)
    weights = pd.Series((index.get_level_values(1) == "B") * 1.0, index=index)
    half = index.get_level_values(1) == "B"
    assert BrierScorer(sample_weight=weights.sample(frac=1, random_state=0))(model, X, y) == pytest.approx(
        BrierScorer()(model, X[half], y[half])
    )


def test_weights_that_cannot_be_looked_up(frame):
    X, y = frame
    model = LogisticRegression().fit(X.to_numpy(), y)
    weights = pd.Series(1.0, index=X.index)
    with pytest.raises(EnsembleKitError, match="looked up by index; got X without one"):
        BrierScorer(sample_weight=weights)(model, X.to_numpy(), y)
    model.fit(X, y)
    with pytest.raises(EnsembleKitError, match="must have a weight for each row of X; 2024-01-01 00:00:00"):
        BrierScorer(sample_weight=weights[1:])(model, X, y)


@pytest.mark.parametrize("scorer", [AUCPRScorer(events=["peak"]), BrierScorer()])
def test_routed_weights(frame, scorer):
    X, y = frame
    weights = np.random.default_rng(2).choice([0.0, 1.0, 3.0], size=N)
    with sklearn.config_context(enable_metadata_routing=True):
        model = LogisticRegression().set_fit_request(sample_weight=False)
        arguments = {"cv": CV, "params": {"sample_weight": weights}, "error_score": "raise"}
        one = cross_validate(model, X, y, scoring=scorer, **arguments)["test_score"]
        named = cross_validate(model, X, y, scoring={"it": scorer}, **arguments)["test_it"]
        grid = GridSearchCV(model, {"C": [1.0]}, cv=CV, scoring=scorer).fit(X, y, sample_weight=weights)
    hand = [
        scorer(fitted, Xt, yt, sample_weight=weights[X.index.get_indexer(Xt.index)]) for fitted, Xt, yt in folds(X, y)
    ]
    plain = [scorer(fitted, Xt, yt) for fitted, Xt, yt in folds(X, y)]
    np.testing.assert_allclose(one, hand)
    np.testing.assert_allclose(named, hand)
    assert grid.best_score_ == pytest.approx(np.mean(hand))
    assert np.abs(np.array(hand) - plain).min() > 1e-4


# ---------------------------------------------------------------------------------------- object


@pytest.mark.parametrize("scorer", [AUCPRScorer(events=["peak"], horizon=0), BrierScorer(horizon=None)])
def test_scorers_pickle_and_clone(frame, scorer):
    X, y = frame
    model = LogisticRegression().fit(X, y)
    scorer = type(scorer)(**(vars(scorer) | {"sample_weight": pd.Series(1.0, index=X.index)}))
    for twin in (pickle.loads(pickle.dumps(scorer)), clone(scorer, safe=False)):
        assert twin(model, X, y) == scorer(model, X, y)
        assert repr(twin) == repr(scorer)


def test_models_fitted_on_objects(frame):
    X, y = frame
    model = LogisticRegression().fit(X, y.to_numpy(object))
    assert model.classes_.dtype == object
    assert AUCPRScorer()(model, X, y) == AUCPRScorer()(LogisticRegression().fit(X, y.to_numpy(str)), X, y)


def test_any_model_with_probabilities_will_do(frame):
    X, y = frame

    class Always(ClassifierMixin, BaseEstimator):
        classes_ = np.array(["bottom", "peak", "slope"], dtype=object)

        def predict_proba(self, X):
            return np.tile([0.2, 0.3, 0.5], (len(X), 1))

    shares = y.value_counts(normalize=True)
    assert AUCPRScorer()(Always(), X, y) == pytest.approx(shares.mean())
