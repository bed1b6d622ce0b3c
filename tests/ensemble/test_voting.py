"""The ensemble: what members are fitted on, how they are calibrated and weighed, and what is refused."""

import pickle

import dateutil.tz
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.ensemble import WalkForwardVotingClassifier, voting_weights
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.exceptions import BarsError, EnsembleKitError, LeakageError
from ensemble_kit.metrics import auc_pr
from ensemble_kit.targets import LOG_FLOOR
from ensemble_kit.validation import REFIT, WalkForwardSplit, walk_forward_predict

CV = WalkForwardSplit(3, purge=0)
MEMBERS = [("lr", LogisticRegression()), ("nb", GaussianNB())]


def problem(n=400, seed=0, classes=("down", "flat", "up")):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    score = X[:, 0] + 0.7 * rng.normal(size=n)
    return X, np.asarray(classes)[np.digitize(score, [-0.8, 0.8])]


@pytest.fixture(scope="module")
def fitted():
    X, y = problem()
    return WalkForwardVotingClassifier(MEMBERS, cv=CV).fit(X, y), X, y


def test_out_of_fold_is_what_walk_forward_predict_gives(fitted):
    vote, X, y = fitted
    for name, member in MEMBERS:
        out = walk_forward_predict(member, X, y, cv=CV)
        np.testing.assert_array_equal(vote.oof_log_proba_[name].to_numpy(), out.log_proba[out.covered, 0])
        np.testing.assert_array_equal(vote.fold_, out.fold)


def test_temperature_score_and_weight_by_hand(fitted):
    vote, _, y = fitted
    covered = vote.fold_ >= 0
    raw = vote.oof_log_proba_
    scores = {}
    for name, _ in MEMBERS:
        scaling = TemperatureScaling().fit(raw[name].to_numpy(), y[covered], classes=vote.classes_)
        assert vote.temperatures_.loc[name, "H0"] == scaling.temperature_[0]
        proba = np.exp(scaling.transform(raw[name].to_numpy()))
        scores[name] = auc_pr(y[covered], proba, classes=vote.classes_)[0]
    squares = np.array(list(scores.values())) ** 2
    np.testing.assert_allclose(vote.scores_["H0"], list(scores.values()), rtol=1e-12)
    np.testing.assert_allclose(vote.weights_["H0"], squares / squares.sum(), rtol=1e-12)


def test_the_vote_by_hand(fitted):
    vote, X, _ = fitted
    expected = sum(
        vote.weights_.loc[name, "H0"]
        * np.exp(vote.calibrators_[m].transform(np.maximum(member.predict_log_proba(X), LOG_FLOOR)))
        for m, (name, member) in enumerate(vote.named_estimators_.items())
    )
    np.testing.assert_allclose(vote.predict_proba(X), expected / expected.sum(axis=1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(vote.predict_proba(X).sum(axis=1), 1.0)
    np.testing.assert_allclose(np.exp(vote.predict_log_proba(X)), vote.predict_proba(X))
    assert (vote.predict(X) == vote.classes_[vote.predict_proba(X).argmax(axis=1)]).all()


def test_members_are_refitted_on_all_rows(fitted):
    vote, X, y = fitted
    np.testing.assert_array_equal(vote.named_estimators_["lr"].coef_, LogisticRegression().fit(X, y).coef_)


def test_who_saw_what(fitted):
    vote, X, _ = fitted
    usage = vote.row_usage_
    for fold, (train, test) in enumerate(CV.split(X)):
        np.testing.assert_array_equal(usage.rows("fit", fold=fold, member="lr"), train)
        for role in ("score", "calibrate", "weigh"):
            np.testing.assert_array_equal(usage.rows(role, fold=fold), test)
    assert len(usage.rows("fit", fold=REFIT)) == len(X)
    usage.check()


def test_labelled_frames(fitted):
    vote, _, _ = fitted
    assert vote.weights_.shape == vote.scores_.shape == vote.temperatures_.shape == (2, 1)
    assert vote.oof_log_proba_.shape == (300, 6)
    assert list(vote.oof_log_proba_.columns.names) == ["member", "horizon", "class"]
    assert vote.fold_scores_.shape == (6, 1)


@pytest.mark.parametrize("classes", [("down", "flat", "up"), (10, 20, 30), (-1, 0, 1)])
def test_classes_are_complete_whatever_a_fold_lacked(classes):
    X, y = problem(classes=classes)
    y[:150] = classes[1]  # the first fold trains on one class, and rows of two are to be predicted
    y[:75:5] = classes[0]
    vote = WalkForwardVotingClassifier(MEMBERS, cv=CV).fit(X, y)
    assert vote.classes_.tolist() == list(classes)
    assert vote.predict_proba(X).shape == (400, 3)
    assert np.isfinite(vote.predict_log_proba(X)).all()


@pytest.mark.filterwarnings("ignore:temperature on its bound")  # a horizon of noise ends there, rightly
def test_horizons_are_calibrated_and_weighed_apart():
    X, y = problem()
    two = np.column_stack([y, np.roll(y, 7)])
    members = [("a", DecisionTreeClassifier(max_depth=2)), ("b", DecisionTreeClassifier(max_depth=5, random_state=0))]
    vote = WalkForwardVotingClassifier(members, cv=CV).fit(X, two)
    alone = WalkForwardVotingClassifier(members, cv=CV).fit(X, y)
    assert vote.weights_.shape == (2, 2)
    np.testing.assert_allclose(vote.weights_.sum(), 1.0)
    assert [p.shape for p in vote.predict_proba(X)] == [(400, 3), (400, 3)]
    assert vote.predict(X).shape == (400, 2)
    # Trees grow on both outputs at once; the first horizon is learnable and the second is noise.
    assert vote.scores_["H0"].min() > vote.scores_["H1"].max()
    assert alone.weights_.shape == (2, 1)


def test_rows_of_weight_zero_change_nothing():
    X, y = problem()
    weight = np.ones(len(y))
    weight[::3] = 0
    other = y.copy()
    other[::3] = "flat"
    one, two = (WalkForwardVotingClassifier(MEMBERS, cv=CV).fit(X, t, sample_weight=weight) for t in (y, other))
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))
    pd.testing.assert_frame_equal(one.scores_, two.scores_)
    assert not np.intersect1d(one.row_usage_.rows("score"), np.arange(0, len(y), 3)).size


def test_calibrator_none_and_power_zero():
    X, y = problem()
    vote = WalkForwardVotingClassifier(MEMBERS, cv=CV, calibrator=None, power=0).fit(X, y)
    assert vote.temperatures_.isna().all(axis=None)
    np.testing.assert_array_equal(vote.weights_, 0.5)
    # What did not happen is not on record.
    assert {entry["role"] for entry in vote.row_usage_.entries} == {"fit", "score"}


def test_a_row_is_tested_once():
    X, y = problem()
    folds = [(np.arange(100), np.arange(100, 250)), (np.arange(150), np.arange(200, 400))]
    with pytest.raises(EnsembleKitError, match=r"`cv` must test each row once; fold 1 tests 50 row\(s\) again"):
        WalkForwardVotingClassifier(MEMBERS, cv=folds).fit(X, y)


def test_events_choose_the_classes_that_count():
    X, y = problem()
    vote = WalkForwardVotingClassifier(MEMBERS, cv=CV, events=["up"]).fit(X, y)
    _, proba = vote.out_of_fold()
    assert proba.shape == (300, 1, 3)
    full = WalkForwardVotingClassifier(MEMBERS, cv=CV).fit(X, y)
    assert (vote.scores_ != full.scores_).all(axis=None)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"cv": KFold(3)}, LeakageError, "must train on rows before the test rows only; fold 0"),
        ({"cv": KFold(3, shuffle=True, random_state=0)}, LeakageError, "must train on rows before"),
        ({"estimators": []}, EnsembleKitError, "must name at least one member"),
        ({"estimators": [("a", GaussianNB()), ("a", GaussianNB())]}, ValueError, "not unique"),
        ({"estimators": [("cv", GaussianNB())]}, ValueError, "conflict"),
        ({"calibrator": "platt"}, EnsembleKitError, "`calibrator` must be 'temperature'"),
        ({"events": ["sideways"]}, EnsembleKitError, "`events` must be among the classes"),
    ],
)
def test_refusals(parameters, error, message):
    X, y = problem()
    with pytest.raises(error, match=message):
        WalkForwardVotingClassifier(**({"estimators": MEMBERS, "cv": CV} | parameters)).fit(X, y)


def test_no_t1_and_no_purge_warns():
    X, y = problem()
    with pytest.warns(UserWarning, match="neither `t1` nor `purge`"):
        WalkForwardVotingClassifier(MEMBERS).fit(X, y)


def panel(n=120, names=("A", "B")):
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [pd.date_range("2022", periods=n, tz="UTC"), names], names=["datetime", "instrument"]
    )
    X = pd.DataFrame(rng.normal(size=(len(index), 2)).astype(np.float32), index=index, columns=["a", "b"])
    return X, pd.Series(np.where(X["a"] + rng.normal(size=len(index)) > 0, "up", "down"), index=index)


def test_a_panel_that_lost_its_index_is_refused():
    X, y = panel()
    vote = WalkForwardVotingClassifier(MEMBERS, cv=CV)
    with pytest.raises(BarsError, match=r"must keep the panel's \(datetime, instrument\) index"):
        vote.fit(X.to_numpy(), y)
    vote.fit(X, y)
    with pytest.raises(BarsError, match="must keep the panel's"):
        vote.predict(X.to_numpy())


@pytest.mark.filterwarnings("ignore:temperature on its bound")  # five trees and one epoch know next to nothing
def test_a_panel_reaches_windowed_members_behind_a_scaler():
    X, y = panel()
    window = LGBMWindowClassifier(3, n_estimators=5, random_state=0)
    network = LSTMGRUClassifier(3, hidden_size=4, max_epochs=1, random_state=0)
    members = [("trees", make_pipeline(StandardScaler(), window)), ("net", make_pipeline(StandardScaler(), network))]
    vote = WalkForwardVotingClassifier(members, cv=CV).fit(X, y)
    assert vote.lookback == 2
    whole = pd.DataFrame(vote.predict_proba(X), index=X.index)
    for name in ("A", "B"):
        alone = X.loc[pd.IndexSlice[:, [name]], :]
        np.testing.assert_allclose(vote.predict_proba(alone), whole.loc[alone.index], atol=1e-6)


def test_history_stands_in_front_of_each_fold():
    """A window at a fold's first row holds the training rows before it: the same as fitting by hand."""
    X, y = panel(names=("A",))
    X, y = X.droplevel(1), y.droplevel(1)
    member = LGBMWindowClassifier(5, lags="all", n_estimators=5, min_child_samples=3, random_state=0)
    vote = WalkForwardVotingClassifier([("m", member)], cv=CV).fit(X, y)
    for fold, (train, test) in enumerate(CV.split(X)):
        by_hand = LGBMWindowClassifier(5, lags="all", n_estimators=5, min_child_samples=3, random_state=0)
        by_hand.fit(X.iloc[train], y.iloc[train])
        expected = by_hand.predict_log_proba(X)[test]
        got = vote.oof_log_proba_["m"].to_numpy()[vote.fold_[vote.fold_ >= 0] == fold]
        np.testing.assert_allclose(got, np.maximum(expected, LOG_FLOOR), rtol=1e-12)


@pytest.mark.filterwarnings("ignore:temperature on its bound")  # three trees know next to nothing
def test_within_a_pipeline_and_through_joblib(tmp_path):
    X, y = panel()
    windows = LGBMWindowClassifier(2, n_estimators=3, random_state=0)
    members = [MEMBERS[0], ("trees", make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), windows)))]
    vote = WalkForwardVotingClassifier(members, cv=CV)
    inner = make_pipeline(StandardScaler(), vote).set_output(transform="pandas")
    whole = make_pipeline(StandardScaler(), inner).set_output(transform="pandas")
    expected = whole.fit(X, y).predict_proba(X)
    joblib.dump(whole, tmp_path / "model.joblib")
    np.testing.assert_array_equal(joblib.load(tmp_path / "model.joblib").predict_proba(X), expected)
    search = GridSearchCV(clone(whole), {"pipeline__walkforwardvotingclassifier__power": [0.0, 2.0]}, cv=CV).fit(X, y)
    assert search.best_estimator_[-1][-1].weights_.shape == (2, 1)


def test_pickle_clone_and_search(fitted):
    vote, X, y = fitted
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(vote)).predict_proba(X), vote.predict_proba(X))
    search = GridSearchCV(
        WalkForwardVotingClassifier(MEMBERS, cv=WalkForwardSplit(2, purge=0)), {"lr__C": [0.1, 10.0]}, cv=CV
    ).fit(X, y)
    assert search.best_params_["lr__C"] in {0.1, 10.0}
    assert search.best_estimator_.get_params()["lr__C"] == search.best_params_["lr__C"]


class Listener:
    """Writes down what it hears, and may break down."""

    max_propagation_depth = None

    def __init__(self, breaks_at=None):
        self.heard = []
        self.breaks_at = breaks_at

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        self.heard.append(("begin", self.path(context)))

    def on_fit_task_end(self, estimator, context):
        self.heard.append(("end", self.path(context)))
        if self.path(context) == self.breaks_at:
            raise RuntimeError("no space for the log")

    def teardown(self, estimator, context):
        pass

    def path(self, context):
        name = context.source_task_name or context.task_name
        return name if context.parent is None else f"{self.path(context.parent)}/{name}"


@pytest.mark.filterwarnings("ignore:temperature on its bound")  # two epochs know next to nothing
def test_callbacks_hear_of_folds_members_and_what_members_tell():
    X, y = problem()
    network = LSTMGRUClassifier(3, hidden_size=4, max_epochs=2, validation_fraction=0.0, random_state=0)
    members = [("nb", GaussianNB()), ("net", make_pipeline(StandardScaler(), network))]
    listener = Listener()
    vote = WalkForwardVotingClassifier(members, cv=WalkForwardSplit(2, purge=0)).set_callbacks(listener)
    with pytest.warns(UserWarning, match="GaussianNB does not support callbacks"):
        vote.fit(X, y)
    ends = [path for what, path in listener.heard if what == "end"]
    for fold in ("fold 0", "fold 1", "refit"):
        assert ends.count(f"fit/{fold}/nb") == ends.count(f"fit/{fold}/net") == ends.count(f"fit/{fold}") == 1
        epochs = [path for path in ends if path.startswith(f"fit/{fold}/net/fit-final-estimator/")]
        assert len(epochs) == 2
    assert ends[-1] == "fit"
    # A fold begins when the one before has ended.
    assert listener.heard.index(("end", "fit/fold 0")) < listener.heard.index(("begin", "fit/fold 1"))
    assert sorted(path for what, path in listener.heard if what == "begin") == sorted(ends)
    assert not hasattr(pickle.loads(pickle.dumps(vote)), "_skl_callbacks")


@pytest.mark.filterwarnings("ignore:.*does not support callbacks")
def test_a_callback_that_raises_loses_nothing_that_was_finished(tmp_path):
    X, y = problem()
    kept = WalkForwardVotingClassifier(MEMBERS, cv=CV, memory=tmp_path)
    with pytest.raises(RuntimeError, match="no space"):
        kept.set_callbacks(Listener(breaks_at="fit/fold 1/nb")).fit(X, y)
    finished = {path.stat().st_mtime_ns for path in tmp_path.glob("*.checkpoint")}
    assert len(finished) == 4  # two members on two folds, the last one included
    listener = Listener()
    kept.set_callbacks(listener).fit(X, y)
    assert finished < {path.stat().st_mtime_ns for path in tmp_path.glob("*.checkpoint")}
    # What was found again is told of as well.
    assert ("begin", "fit/fold 0/lr") in listener.heard
    assert ("end", "fit/fold 0/lr") in listener.heard
    np.testing.assert_array_equal(
        kept.predict_proba(X), WalkForwardVotingClassifier(MEMBERS, cv=CV).fit(X, y).predict_proba(X)
    )


def test_what_members_cannot_do_is_said_before_any_work():
    X, y = problem()
    for wrong in (SVC(), LinearRegression(), "drop", None):
        with pytest.raises(EnsembleKitError, match=r"must be \(name, classifier\) tuples of classifiers with"):
            WalkForwardVotingClassifier([MEMBERS[0], ("wrong", wrong)], cv=CV).fit(X, y)
    weight = np.ones(len(y))
    weight[100:] = 0
    with pytest.raises(EnsembleKitError, match="must be above 0 on some rows that a fold tests; got 0 on all"):
        WalkForwardVotingClassifier(MEMBERS, cv=CV).fit(X, y, weight)
    with pytest.raises(EnsembleKitError, match="must be above 0 on training rows of every fold; fold 0 has none"):
        WalkForwardVotingClassifier(MEMBERS, cv=CV).fit(X, y, 1 - weight)


def test_a_member_that_gives_nan_is_named():
    X, y = problem()
    X[:, 0] = np.nan
    with pytest.raises(ValueError, match="NaN") as raised:
        WalkForwardVotingClassifier([("lr", LogisticRegression())], cv=CV).fit(X, y)
    assert "This was member 'lr', in fold 0." in raised.value.__notes__


def test_weights_of_other_rows_are_refused():
    X, y = panel(names=("A",))
    X, y = X.droplevel(1), y.droplevel(1)
    weight = pd.Series(1.0, index=X.index)
    with pytest.raises(BarsError, match="`sample_weight` must have the index of `X`"):
        WalkForwardVotingClassifier(MEMBERS, cv=CV).fit(X, y, weight[::-1])


@pytest.mark.filterwarnings("ignore:temperature on its bound")
def test_zones_without_a_name_survive_a_pickle():
    X, y = panel(names=("A",))
    X, y = X.droplevel(1), y.droplevel(1)
    X.index = y.index = X.index.tz_convert(dateutil.tz.gettz("America/New_York"))
    vote = WalkForwardVotingClassifier(MEMBERS, cv=CV).fit(X, y)
    again = pickle.loads(pickle.dumps(vote))
    assert (again.oof_log_proba_.index == X.index[vote.fold_ >= 0]).all()


def test_voting_weights():
    np.testing.assert_allclose(voting_weights(np.array([[0.3, 0.0], [0.1, 0.2]])), [[0.9, 0.0], [0.1, 1.0]])
    with pytest.warns(UserWarning, match=r"no member scored above 0 at horizon\(s\) \[1\]"):
        weights = voting_weights(np.array([[0.3, 0.0], [0.1, 0.0]]))
    np.testing.assert_allclose(weights[:, 1], 0.5)
