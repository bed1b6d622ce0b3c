"""Folds inside scikit-learn's and Optuna's machinery: rows are found by index, with no metadata routed."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble_kit.validation import WalkForwardSplit


class Witness(ClassifierMixin, BaseEstimator):
    """Scores the rows it was fitted on and asked about: the sum of their squared numbers, and how many."""

    def __init__(self, shift=0.0):
        self.shift = shift

    def fit(self, X, y):
        self.rows_ = X["row"].to_numpy()
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])

    def score(self, X, y):
        return signature(self.rows_, X["row"].to_numpy()) + self.shift


def signature(train, test):
    return float(np.square(train + 1.0).sum() + np.square(test + 1.0).sum() / 2**20)


def make_panel(seed=0):
    """Rows of three instruments, the labels of all of them (known irregularly), and columns of some of them."""
    rng = np.random.default_rng(seed)
    times = pd.date_range("2022-03-11 09:30", periods=240, freq="h", tz="America/New_York", name="datetime")
    index = pd.MultiIndex.from_product([times, ["A", "B", "C"]], names=["datetime", "instrument"])
    t1 = pd.Series(index.get_level_values(0) + pd.to_timedelta(rng.integers(0, 30, len(index)), unit="h"), index=index)
    t1[rng.random(len(t1)) < 0.05] = pd.NaT
    kept = np.flatnonzero(rng.random(len(index)) < 0.7)
    X = pd.DataFrame({"noise": rng.normal(size=len(kept)), "row": kept.astype(float)}, index=index[kept])
    return X, rng.integers(0, 2, len(kept)), t1


X, Y, T1 = make_panel()
CV = WalkForwardSplit(3, t1=T1, train_size="3D", test_size=20)
N_JOBS = [None, pytest.param(2, marks=pytest.mark.slow)]  # loky's workers start afresh and import everything


def expected(rows=slice(None), n_splits=3, test_size=20, window="3D"):
    """The signature of each fold, by the rule."""
    X_, known = X.iloc[rows], T1.reindex(X.index[rows])
    when = X_.index.get_level_values(0)
    times, number = when.unique(), X_["row"].to_numpy()
    out = []
    for fold in range(n_splits):
        block = times[len(times) - (n_splits - fold) * test_size :][:test_size]
        train = (when < block[0]) & (known < block[0]).to_numpy()
        train &= when >= block[0] - pd.Timedelta(window)
        out.append(signature(number[train], number[when.isin(block)]))
    return out


def test_in_cross_validate():
    assert cross_val_score(Witness(), X, Y, cv=CV).tolist() == expected()
    assert cross_val_score(Witness(), X[["row", "noise"]], Y, cv=CV).tolist() == expected()
    half = slice(60, None)
    assert cross_val_score(Witness(), X.iloc[half], Y[half], cv=CV).tolist() == expected(half)
    behind = make_pipeline(StandardScaler().set_output(transform="pandas"), LogisticRegression())
    assert len(cross_val_score(behind, X, Y, cv=CV)) == 3


@pytest.mark.parametrize("n_jobs", N_JOBS)
def test_in_grid_search_with_refit(n_jobs):
    search = GridSearchCV(Witness(), {"shift": [0.0, 0.5]}, cv=CV, n_jobs=n_jobs).fit(X, Y)
    for k, fold in enumerate(expected()):
        assert search.cv_results_[f"split{k}_test_score"].tolist() == [fold, fold + 0.5]
    assert search.best_estimator_.shift == 0.5
    assert search.best_estimator_.rows_.tolist() == X["row"].tolist()


@pytest.mark.parametrize("n_jobs", N_JOBS)
def test_nested(n_jobs):
    inner = GridSearchCV(Witness(), {"shift": [0.0]}, cv=WalkForwardSplit(2, t1=T1, train_size="2D", test_size=5))
    found = cross_validate(inner, X, Y, cv=CV, n_jobs=n_jobs, return_estimator=True, return_indices=True)
    assert found["test_score"].tolist() == expected()
    for search, train in zip(found["estimator"], found["indices"]["train"], strict=True):
        scores = [search.cv_results_[f"split{k}_test_score"][0] for k in range(2)]
        assert scores == expected(train, n_splits=2, test_size=5, window="2D")


def test_a_clone_finds_the_same_rows():
    search = clone(GridSearchCV(Witness(), {"shift": [0.0]}, cv=CV))
    assert search.cv is not CV
    assert search.fit(X, Y).cv_results_["split1_test_score"].tolist() == expected()[1:2]


def test_in_an_optuna_study():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = []

    def objective(trial):
        cv = WalkForwardSplit(2, t1=T1, train_size=trial.suggest_categorical("days", ["2D", "3D"]), test_size=20)
        scores = cross_val_score(Witness(trial.suggest_float("shift", 0, 1)), X, Y, cv=cv)
        asked.append((trial.params, scores.tolist()))
        return scores.mean()

    optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).optimize(objective, n_trials=4)
    assert {parameters["days"] for parameters, _ in asked} == {"2D", "3D"}
    for parameters, scores in asked:
        exact = expected(n_splits=2, window=parameters["days"])
        np.testing.assert_allclose(scores, np.add(exact, parameters["shift"]), rtol=1e-15)


@pytest.mark.filterwarnings("ignore:OptunaSearchCV is experimental", "ignore:`optuna.terminator` module:FutureWarning")
def test_in_optunas_search():
    integration = pytest.importorskip("optuna_integration")
    optuna = pytest.importorskip("optuna")
    grid = {"shift": optuna.distributions.CategoricalDistribution([0.0, 0.5])}
    search = integration.OptunaSearchCV(Witness(), grid, cv=CV, n_trials=3, random_state=0, verbose=0).fit(X, Y)
    assert search.best_estimator_.rows_.tolist() == X["row"].tolist()
    for trial in search.trials_:
        scores = [trial.user_attrs[f"split{k}_test_score"] for k in range(3)]
        assert scores == np.add(expected(), trial.params["shift"]).tolist()
