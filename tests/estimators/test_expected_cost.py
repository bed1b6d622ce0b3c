"""Decisions by cost: by hand, by horizon, and with the probabilities as they were."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from families import small
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from ensemble_kit.estimators import ExpectedCostClassifier
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.validation import lookback

LABELS = ["bottom", "peak", "slope"]


class ZeroOne(ExpectedCostClassifier):
    """Every mistake costs the same, whatever the classes: then the decision is the usual one."""

    def fit(self, X, y, sample_weight=None):
        n = len(np.unique(np.asarray(y)))
        self.cost_matrix = 1.0 - np.eye(n) if n > 1 else np.ones((1, 1))
        return super().fit(X, y, sample_weight)


SETS_ITS_COSTS = "sets its costs by the classes in `fit`, to be checked at all"


@parametrize_with_checks(
    [ZeroOne(LogisticRegression())],
    expected_failed_checks=lambda _: dict.fromkeys(
        ["check_dont_overwrite_parameters", "check_estimators_overwrite_params"], SETS_ITS_COSTS
    ),
)
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.fixture(name="X")
def columns():
    return np.random.default_rng(0).normal(size=(400, 2))


@pytest.fixture
def y(X):
    noise = np.random.default_rng(1).normal(size=len(X))
    return np.array(["bottom", "slope", "peak"])[np.digitize(X[:, 0] + noise, [-1.5, 1.5])]


def test_the_cheapest_answer_by_hand(X, y):
    model = ExpectedCostClassifier(GaussianNB()).fit(X, y)
    p = model.predict_proba(X)
    assert_array_equal(p, GaussianNB().fit(X, y).predict_proba(X))
    cost = np.column_stack(
        [5000 * p[:, 1] + 500 * p[:, 2], 5000 * p[:, 0] + 500 * p[:, 2], 3000 * p[:, 0] + 3000 * p[:, 1]]
    )
    assert_allclose(model.expected_cost(X), cost)
    assert_array_equal(model.predict(X), np.array(LABELS)[cost.argmin(axis=1)])
    # Missing a turn costs six times what a needless trade does: more of them are called.
    assert (model.predict(X) != "slope").sum() > 2 * (model.estimator_.predict(X) != "slope").sum()


def test_equal_costs_change_nothing(X, y):
    model = ExpectedCostClassifier(GaussianNB(), cost_matrix=1 - np.eye(3)).fit(X, y)
    assert_array_equal(model.predict(X), model.estimator_.predict(X))


def test_decisions_cost_less_where_probabilities_are_true():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(6000, 1))
    p = 1 / (1 + np.exp(-2 * X[:, 0]))
    y = np.where(rng.random(6000) < p, "up", "down")
    costs = {"up": {"up": 0, "down": 5}, "down": {"up": 1, "down": 0}}
    model = ExpectedCostClassifier(LogisticRegression(), cost_matrix=costs).fit(X[:3000], y[:3000])

    def paid(said):
        return np.mean([costs[s][came] for s, came in zip(said, y[3000:], strict=True)])

    assert paid(model.predict(X[3000:])) < 0.8 * paid(model.estimator_.predict(X[3000:]))
    assert_allclose(model.expected_cost(X[3000:]).min(axis=1).mean(), paid(model.predict(X[3000:])), rtol=0.1)


def test_several_horizons_and_windows(X, y):
    both = np.column_stack([y, np.roll(y, 1)])
    model = ExpectedCostClassifier(small("cnn", 3, max_epochs=2)).fit(X, both)
    assert model.predict(X).shape == (400, 2)
    assert [cost.shape for cost in model.expected_cost(X)] == [(400, 3)] * 2
    assert lookback(model) == model.lookback == 2
    assert set(model.row_usage_) == {"fit", "stop"}
    assert_array_equal(np.exp(model.predict_log_proba(X)[0]), model.predict_proba(X)[0])


def test_weights_go_to_the_classifier(X, y):
    weight = np.where(X[:, 1] > 0, 1.0, 0.0)
    model = ExpectedCostClassifier(GaussianNB()).fit(X, y, weight)
    assert_array_equal(model.predict_proba(X), GaussianNB().fit(X, y, weight).predict_proba(X))
    with pytest.raises(EnsembleKitError, match="`estimator` must take `sample_weight` where it is given"):
        ExpectedCostClassifier(KNeighborsClassifier()).fit(X, y, weight)


def test_frames_keep_their_names(X, y):
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = make_pipeline(ExpectedCostClassifier(GaussianNB())).fit(frame, y)
    assert model.feature_names_in_.tolist() == ["a", "b"]


def test_costs_must_fit_the_labels(X, y):
    with pytest.raises(EnsembleKitError, match=r"it lacks \['top'\]"):
        ExpectedCostClassifier(GaussianNB()).fit(X, np.where(y == "peak", "top", y))
    with pytest.raises(EnsembleKitError, match=r"`cost_matrix` must have shape \(3, 3\)"):
        ExpectedCostClassifier(GaussianNB(), cost_matrix=np.eye(2)).fit(X, y)
