"""How members are weighed and calibrated: by what, for whom, and what is refused before any work is done."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import StandardScaler

from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.ensemble import WalkForwardVotingClassifier, voting_weights
from ensemble_kit.ensemble.judgement import _warnings_of
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import auc_pr, brier_score
from ensemble_kit.targets import predict_log_proba
from ensemble_kit.validation import WalkForwardSplit

CV = WalkForwardSplit(2, purge=0)
MEMBERS = [("lr", LogisticRegression()), ("nb", GaussianNB())]
UP_FRONT = "said only after the members were fitted"


def rows(n=240, classes=("down", "flat", "up")):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3))
    return X, np.asarray(classes)[np.digitize(X[:, 0] + 0.7 * rng.normal(size=n), [-0.8, 0.8])]


class TwoHorizons(ClassifierMixin, BaseEstimator):
    """One model a horizon."""

    def __init__(self, model):
        self.model = model

    def fit(self, X, y):
        self.models_ = [type(self.model)().fit(X, column) for column in np.asarray(y).T]
        self.classes_ = [model.classes_ for model in self.models_]
        return self

    def predict_proba(self, X):
        return [model.predict_proba(X) for model in self.models_]

    def predict(self, X):
        return np.column_stack([model.predict(X) for model in self.models_])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


TWO = [("lr", TwoHorizons(LogisticRegression())), ("nb", TwoHorizons(GaussianNB()))]


def two_horizons(classes=("down", "flat", "up")):
    X, y = rows(classes=classes)
    return X, np.column_stack([y, np.asarray(classes)[np.digitize(X[:, 1], [-0.5, 0.5])]])


def fit(members=MEMBERS, data=None, **parameters):
    return WalkForwardVotingClassifier(members, cv=CV, **parameters).fit(*(data or rows()))


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("uniform", [[0.5, 0.5], [0.5, 0.5]]),
        ({"nb": 1, "lr": 3}, [[0.75, 0.75], [0.25, 0.25]]),
        ({"nb": [0, 2], "lr": [3, 2]}, [[1.0, 0.5], [0.0, 0.5]]),
        ([3, 1], [[0.75, 0.75], [0.25, 0.25]]),
        (np.array([[3], [1]]), [[0.75, 0.75], [0.25, 0.25]]),
        ([[3, 0], [1, 7]], [[0.75, 0.0], [0.25, 1.0]]),
    ],
)
@pytest.mark.parametrize("classes", [("down", "flat", "up"), (10, 20, 30)])
def test_given_weights(weighting, expected, classes):
    X, y = two_horizons(classes)
    vote = fit(TWO, (X, y), weighting=weighting)
    np.testing.assert_array_equal(vote.weights_, expected)
    assert vote.weights_.index.tolist() == ["lr", "nb"]
    # Scores are there all the same; what did not happen is not on record.
    assert vote.scores_.notna().all(axis=None)
    assert {entry["role"] for entry in vote.row_usage_.entries} == {"fit", "calibrate", "score"}
    said = [
        np.exp(calibrator.transform(predict_log_proba(member, X, vote.classes_[0])))
        for member, calibrator in zip(vote.estimators_, vote.calibrators_, strict=True)
    ]
    for h, proba in enumerate(vote.predict_proba(X)):
        by_hand = sum(weight * each[:, h] for weight, each in zip(vote.weights_[f"H{h}"], said, strict=True))
        np.testing.assert_allclose(proba, by_hand / by_hand.sum(axis=1, keepdims=True), rtol=1e-9)


def test_weights_are_copied():
    weighting = np.array([3.0, 1.0])
    vote = fit(weighting=weighting)
    weighting[:] = 0.0
    vote.weights_["H0"].to_numpy(copy=True)[:] = 0.0
    np.testing.assert_array_equal(vote.weights_["H0"], [0.75, 0.25])


@pytest.mark.parametrize("power", [0, 0.5, 1, 2.0, 8, np.float32(3)])
def test_power(power):
    vote = fit(power=power)
    raised = vote.scores_["H0"].to_numpy() ** np.float64(power)
    np.testing.assert_allclose(vote.weights_["H0"], raised / raised.sum(), rtol=1e-12)
    assert ("weigh" in {entry["role"] for entry in vote.row_usage_.entries}) == (power != 0)


def test_a_scorer_is_asked_in_all_horizons_and_folds():
    asked = []

    def skill(y, proba, *, classes, events, sample_weight):
        asked.append((y.shape, proba.shape, classes.tolist(), events, sample_weight.shape))
        np.testing.assert_allclose(proba.sum(axis=2), 1.0)
        assert (sample_weight > 0).any()
        return 2 - brier_score(y, proba, classes=classes, sample_weight=sample_weight)

    vote = fit(TWO, two_horizons(), scorer=skill, events=["up"], power=1)
    whole, fold = (((n, 2), (n, 2, 3), ["down", "flat", "up"], ["up"], (n,)) for n in (160, 80))
    assert asked[-6:] == [whole, fold, fold] * 2
    assert {rows for (rows, _), *_ in asked[:-6]} == {24}  # made up, before any member is fitted
    np.testing.assert_allclose(vote.weights_, vote.scores_ / vote.scores_.sum(), rtol=1e-12)
    y, (covered, _) = two_horizons()[1], vote.out_of_fold()
    raw = vote.oof_log_proba_["lr"].to_numpy().reshape(160, 2, 3)
    proba = np.exp(vote.calibrators_[0].transform(raw))
    expected = 2 - brier_score(y[covered], proba, classes=vote.classes_[0])
    np.testing.assert_allclose(vote.scores_.loc["lr"], expected, rtol=1e-12)


def test_another_scorer_gives_other_weights():
    def less_loss(y, proba, *, classes, events, sample_weight):
        return 1.0 - brier_score(y, proba, classes=classes, sample_weight=sample_weight)

    assert (fit(scorer=less_loss).weights_ != fit().weights_).all(axis=None)
    pd.testing.assert_frame_equal(fit(scorer=auc_pr).weights_, fit().weights_)


def test_scores_below_nothing_make_a_uniform_vote_and_say_so():
    def losses(y, proba, *, classes, events, sample_weight):
        return -brier_score(y, proba, classes=classes, sample_weight=sample_weight)

    with pytest.warns(UserWarning, match=r"no member scored above 0 at horizon\(s\) \[0\]: a uniform vote there"):
        vote = fit(scorer=losses)
    np.testing.assert_array_equal(vote.weights_, 0.5)


# ------------------------------------------------------------------------- calibrators


def test_a_calibrator_for_each_member():
    calibrator = {"nb": TemperatureScaling(bounds=(0.5, 4.0)), "lr": None}
    vote, plain = fit(calibrator=calibrator), fit()
    assert vote.calibrators_[0] is None
    assert vote.calibrators_[1].bounds == (0.5, 4.0)
    assert vote.calibrators_[1] is not calibrator["nb"]  # a clone
    assert not hasattr(calibrator["nb"], "temperature_")
    assert np.isnan(vote.temperatures_.loc["lr", "H0"])
    assert vote.temperatures_.loc["nb", "H0"] == pytest.approx(plain.temperatures_.loc["nb", "H0"], rel=1e-8)
    _, y = rows()
    raw = np.exp(vote.oof_log_proba_["lr"].to_numpy())
    assert vote.scores_.loc["lr", "H0"] == auc_pr(y[vote.fold_ >= 0], raw, classes=vote.classes_)[0]


@pytest.mark.parametrize(
    "calibrator", ["temperature", TemperatureScaling(), {"lr": "temperature", "nb": "temperature"}]
)
def test_ways_to_ask_for_temperatures(calibrator):
    np.testing.assert_array_equal(fit(calibrator=calibrator).predict_proba(rows()[0]), fit().predict_proba(rows()[0]))


class Prior(BaseEstimator):
    """A calibrator of somebody else: what it says is the prior, whatever it hears."""

    def fit(self, log_proba, y, sample_weight=None, *, classes):
        labels = np.asarray(y).reshape(len(log_proba), -1)
        self.log_prior_ = np.log([[np.mean(column == label) for label in classes] for column in labels.T])
        return self

    def transform(self, log_proba):
        return np.broadcast_to(self.log_prior_, log_proba.shape)


def test_a_calibrator_of_another_kind():
    X, y = rows()
    vote = fit(calibrator={"lr": Prior(), "nb": None}, weighting={"lr": 1, "nb": 0})
    assert vote.temperatures_.isna().all(axis=None)
    tested = y[vote.fold_ >= 0]
    np.testing.assert_allclose(vote.predict_proba(X[:1])[0], [np.mean(tested == label) for label in vote.classes_])


# -------------------------------------------------------------------------- refusals


class Counted(GaussianNB):
    """Counts its fits."""

    n_fits = 0

    def fit(self, X, y, sample_weight=None):
        Counted.n_fits += 1
        return super().fit(X, y, sample_weight)


BOTH = r"\['lr', 'nb'\]"
OF_TWO = r"must hold 2 finite weights of at least 0, one a member \(and, if it has columns, 1 of them, one a horizon\)"
REFUSALS = [
    (
        {"weighting": "softmax"},
        rf"^`weighting` must be 'squared_auc_pr', 'uniform', or .* members {BOTH}; got 'softmax'",
    ),
    ({"weighting": None}, "^`weighting` must be 'squared_auc_pr', .*; got None"),
    ({"weighting": 0.5}, "^`weighting` must be 'squared_auc_pr', .*; got 0.5"),
    ({"weighting": {"lr": 1}}, rf"^`weighting` must be .* members {BOTH}; got {{'lr': 1}}"),
    ({"weighting": {"lr": 1, "nb": 1, "gb": 1}}, "^`weighting` must be 'squared_auc_pr'"),
    ({"weighting": [1, 1, 1]}, rf"^`weighting` {OF_TWO}, some above 0; got \[1, 1, 1\]\. Give 0 to leave a member out"),
    ({"weighting": [1, -1]}, rf"^`weighting` {OF_TWO}"),
    ({"weighting": [1, np.nan]}, rf"^`weighting` {OF_TWO}"),
    ({"weighting": [1, np.inf]}, rf"^`weighting` {OF_TWO}"),
    ({"weighting": [0, 0]}, rf"^`weighting` {OF_TWO}, some above 0"),
    ({"weighting": np.ones((2, 2))}, rf"^`weighting` {OF_TWO}"),
    ({"weighting": np.ones((1, 1, 1))}, "^`weighting` must be 'squared_auc_pr'"),
    ({"scorer": "roc_auc"}, "^`scorer` must be None or a function of labels and probabilities; got 'roc_auc'"),
    ({"calibrator": "platt"}, "^`calibrator` must be 'temperature', an object with `fit` and `transform`"),
    ({"calibrator": {"lr": None}}, rf"^`calibrator` must name each of the members {BOTH}; got \['lr'\]"),
    ({"calibrator": {"lr": None, "nb": 3}}, "^`calibrator` must be 'temperature', .*; got 3"),
    ({"refit": "last"}, "^`refit` must be 'all' or 'fold_average'; got 'last'"),
    ({"events": ["sideways"]}, "^`events` must be among the classes"),
    ({"calibrator": StandardScaler()}, "^`calibrator` must be 'temperature'"),
    ({"scorer": lambda y, proba: 1.0}, "^`scorer` must "),
    ({"scorer": lambda y, p, **_: np.array([np.nan])}, "^`scorer` must "),
    ({"weighting": {"lr": "much", "nb": 1}}, "^`weighting` must "),
    ({"weighting": [[1, 2], [1]]}, "^`weighting` must "),
    ({"weighting": pd.Series([1, 3], index=["nb", "gb"])}, "^`weighting` must "),
    ({"power": -1.0}, "^`power` must "),
    ({"power": np.nan}, "^`power` must "),
    ({"power": "2"}, "^`power` must "),
]


@pytest.mark.parametrize(("parameters", "message"), REFUSALS)
def test_what_cannot_be_used_is_said_before_any_member_is_fitted(parameters, message):
    Counted.n_fits = 0
    with pytest.raises(EnsembleKitError, match=message):
        fit([("lr", LogisticRegression()), ("nb", Counted())], **parameters)
    assert Counted.n_fits == 0


def test_a_series_of_weights_is_read_by_name():
    vote = fit(weighting=pd.Series({"nb": 1.0, "lr": 3.0}))
    np.testing.assert_array_equal(vote.weights_["H0"], [0.75, 0.25])


def test_one_event_may_stand_alone():
    pd.testing.assert_frame_equal(fit(events="up").scores_, fit(events=["up"]).scores_)


# --------------------------------------------------------------------- voting_weights


def test_voting_weights_by_hand():
    scores = np.array([[0.3, -0.2], [0.1, 0.4]])
    np.testing.assert_allclose(voting_weights(scores), [[0.9, 0.0], [0.1, 1.0]])
    np.testing.assert_allclose(voting_weights(scores, power=1), [[0.75, 0.0], [0.25, 1.0]])
    np.testing.assert_allclose(voting_weights(scores, power=0), 0.5)
    np.testing.assert_allclose(voting_weights(3 * np.abs(scores)), voting_weights(np.abs(scores)))


def test_a_calibrators_warning_names_its_member_and_points_at_who_judges():
    with pytest.warns(UserWarning, match=r"^on its bound \(member 'trees'\)$") as caught, _warnings_of("trees"):
        warnings.warn("on its bound", UserWarning, stacklevel=1)
    assert caught[0].filename == __file__  # and not contextlib's
