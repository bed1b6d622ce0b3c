"""What each member adds to the vote, and how alike members are."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import compare_scores, score_interval
from ensemble_kit.validation import WalkForwardSplit

# A tree that is sure of nothing, and wrong, and a constant end there.
pytestmark = pytest.mark.filterwarnings("ignore:temperature on its bound")

CV = WalkForwardSplit(2, purge=0)
WORDS = np.array(["down", "flat", "up"])
TEN = np.array([10, 20, 30])


class On(ClassifierMixin, BaseEstimator):
    """A logistic regression on some columns only."""

    def __init__(self, columns, c=1.0):
        self.columns = columns
        self.c = c

    def fit(self, X, y):
        self.model_ = LogisticRegression(C=self.c).fit(np.asarray(X)[:, self.columns], y)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(np.asarray(X)[:, self.columns])

    def predict(self, X):
        return self.model_.predict(np.asarray(X)[:, self.columns])


def rows(n=900, classes=WORDS, panel=False):
    """Return four columns, of which the first two say something of their own, and labels."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n, 4))
    labels = classes[np.digitize(1.5 * values[:, 0] + 1.5 * values[:, 1] + rng.logistic(size=n), [-1, 1])]
    times = pd.date_range("2022", periods=n, freq="h", tz="UTC")
    if panel:
        times = pd.MultiIndex.from_product([times[: n // 2], ["A", "B"]], names=["datetime", "instrument"])
    return pd.DataFrame(values, index=times, columns=list("abcd")), pd.Series(labels, index=times)


def fit(members, data, **parameters):
    return WalkForwardVotingClassifier(members, cv=CV, **parameters).fit(*data)


@pytest.fixture(scope="module", params=["words", "tens", "panel"])
def known(request):
    """Three members: one knows the first column, one the second, one nothing."""
    data = rows(classes=TEN if request.param == "tens" else WORDS, panel=request.param == "panel")
    members = [("first", On([0])), ("second", On([1])), ("nothing", On([2]))]
    return fit(members, data, events=data[1].unique()[:2].tolist()), data


@pytest.mark.parametrize("scorer", ["auc_pr", "brier", "log_loss"])
def test_by_hand(known, scorer):
    vote, (_, y) = known
    about = {"block": 20, "n_resamples": 50, "random_state": 0}
    table = vote.leave_one_member_out(scorer=scorer, **about)
    tested = y[vote.fold_ >= 0]
    times = tested.index.get_level_values(0)
    about |= {"classes": vote.classes_, "scorer": scorer, "times": times}
    about["events"] = vote.events if scorer == "auc_pr" else None
    raw = [vote.oof_log_proba_[name].to_numpy() for name, _ in vote.estimators]
    proba = [np.exp(one.transform(each)) for one, each in zip(vote.calibrators_, raw, strict=True)]
    weights = vote.weights_["H0"].to_numpy()
    _, whole = vote.out_of_fold()
    for m, name in enumerate(["first", "second", "nothing"]):
        others = [k for k in range(3) if k != m]
        without = sum(weights[k] * proba[k] for k in others) / weights[others].sum()
        line = table.loc[name]
        assert line["weight"] == weights[m]
        assert line["alone"] == pytest.approx(score_interval(tested, proba[m], **about)[0], rel=1e-9)
        assert line["without"] == pytest.approx(score_interval(tested, without, **about)[0], rel=1e-9)
        np.testing.assert_allclose(
            line[["adds", "low", "high"]].to_numpy(float), compare_scores(tested, whole, without, **about), atol=1e-9
        )
    assert table.columns.tolist() == ["weight", "alone", "without", "adds", "low", "high"]
    np.testing.assert_allclose(table["adds"] + table["without"], score_interval(tested, whole, **about)[0])


def test_who_knows_something_of_his_own_adds_and_who_knows_nothing_does_not(known):
    vote, _ = known
    table = vote.leave_one_member_out(n_resamples=200, random_state=0)
    assert (table.loc[["first", "second"], "low"] > 0).all()
    assert table.loc["nothing", "adds"] < 0.01
    assert table.loc["nothing", "high"] < table.loc[["first", "second"], "low"].min()
    losses = vote.leave_one_member_out(scorer="log_loss", n_resamples=200, random_state=0)
    assert (losses.loc[["first", "second"], "high"] < 0).all()  # of a loss, less is better


def test_a_member_that_says_nothing_adds_nothing():
    members = [("one", On([0, 1])), ("noise", On([2])), ("prior", DummyClassifier(strategy="prior"))]
    vote = fit(members, rows(), weighting=[0.9, 0.05, 0.05])
    table = vote.leave_one_member_out(n_resamples=200, random_state=0)
    assert (table.loc[["noise", "prior"], "low"] <= 0).all()
    assert (table.loc[["noise", "prior"], "high"] >= 0).all()
    assert table.loc["one", "low"] > 0


def test_a_copy_adds_nothing():
    members = [("one", On([0, 1])), ("copy", On([0, 1])), ("other", On([0]))]
    # Of two, the vote is the other one.
    table = fit(members[:2], rows()).leave_one_member_out(n_resamples=100, random_state=0)
    assert (table[["adds", "low", "high"]].abs() < 1e-9).all(axis=None)
    table = fit(members, rows()).leave_one_member_out(n_resamples=100, random_state=0)
    assert table.loc["one", "adds"] == table.loc["copy", "adds"]
    assert table.loc["copy", "adds"] < 0.01


def test_a_member_of_no_weight_adds_nothing_at_all():
    members = [("one", On([0])), ("mute", On([1]))]
    vote = fit(members, rows(), weighting={"one": 1, "mute": 0})
    table = vote.leave_one_member_out(n_resamples=20, random_state=0)
    np.testing.assert_array_equal(table.loc["mute", ["adds", "low", "high"]].astype(float), 0.0)
    # Without the only one that speaks, the others vote alike.
    assert table.loc["one", "without"] == pytest.approx(table.loc["mute", "alone"], rel=1e-12)


def test_horizons_and_rows_of_weight_zero():
    X, y = rows()
    far = pd.Series(WORDS[np.digitize(X["c"] + np.random.default_rng(1).logistic(size=len(X)), [-1, 1])], X.index)
    members = [(f"tree{k}", DecisionTreeClassifier(max_depth=k, min_samples_leaf=20, random_state=0)) for k in (2, 4)]
    weight = np.where(np.arange(len(X)) % 3 == 0, 0.0, 1.0)
    about = {"n_resamples": 20, "random_state": 0}
    other = far.copy()
    other[weight == 0] = "flat"  # of rows that do not count
    votes = [
        WalkForwardVotingClassifier(members, cv=CV).fit(X, pd.concat([y, second], axis=1), sample_weight=weight)
        for second in (far, other)
    ]
    for horizon in (0, 1):
        one, two = (vote.leave_one_member_out(horizon=horizon, **about) for vote in votes)
        pd.testing.assert_frame_equal(one, two)
        assert one["weight"].tolist() == votes[0].weights_[f"H{horizon}"].tolist()
        pd.testing.assert_frame_equal(*(vote.member_correlation(horizon=horizon) for vote in votes))
    assert not votes[0].member_correlation().equals(votes[0].member_correlation(horizon=1))


def test_the_same_seed_gives_the_same_table(known):
    vote, _ = known
    one, two = (vote.leave_one_member_out(n_resamples=20, random_state=3) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)


def test_correlation_by_hand(known):
    vote, _ = known
    table = vote.member_correlation()
    assert table.index.tolist() == table.columns.tolist() == ["first", "second", "nothing"]
    np.testing.assert_array_equal(table, table.T)
    np.testing.assert_allclose(np.diag(table), 1.0)
    raw = [vote.oof_log_proba_[name].to_numpy() for name, _ in vote.estimators]
    proba = [np.exp(one.transform(each)) for one, each in zip(vote.calibrators_, raw, strict=True)]
    at = [vote.classes_.tolist().index(event) for event in vote.events]
    by_hand = np.mean([spearmanr(proba[0][:, k], proba[1][:, k]).statistic for k in at])
    assert table.loc["first", "second"] == pytest.approx(by_hand, rel=1e-9)


def test_copies_correlate_fully_and_constants_not_at_all():
    members = [("one", On([0])), ("copy", On([0])), ("other", On([1])), ("prior", Same())]
    table = fit(members, rows()).member_correlation()
    assert table.loc["one", "copy"] == pytest.approx(1.0, abs=1e-12)
    assert abs(table.loc["one", "other"]) < 0.2
    assert table["prior"].isna().all()
    assert table.drop(index="prior", columns="prior").notna().all(axis=None)


class Same(DummyClassifier):
    """Says the same of every row, whatever it was fitted on."""

    def predict_proba(self, X):
        return np.tile([0.2, 0.5, 0.3], (len(X), 1))


def test_what_cannot_be_asked():
    vote = fit([("one", On([0])), ("two", On([1]))], rows())
    for table in (vote.leave_one_member_out, vote.member_correlation):
        for horizon in (1, -1, "H0", 0.5):
            with pytest.raises(EnsembleKitError, match=rf"^`horizon` must be from 0 to 0; got {horizon!r}\. Count"):
                table(horizon=horizon)
    with pytest.raises(EnsembleKitError, match=r"^`scorer` must be 'auc_pr', 'brier' or 'log_loss'; got 'f1'"):
        vote.leave_one_member_out(scorer="f1")
    alone = fit([("one", On([0]))], rows())
    with pytest.raises(EnsembleKitError, match=r"^`estimators` must name at least two members here; got one"):
        alone.leave_one_member_out()
    np.testing.assert_array_equal(alone.member_correlation(), [[1.0]])


def test_one_event_may_stand_alone():
    members = [("one", On([0])), ("two", On([1]))]
    one, other = (fit(members, rows(), events=events).member_correlation() for events in ("up", ["up"]))
    pd.testing.assert_frame_equal(one, other)
