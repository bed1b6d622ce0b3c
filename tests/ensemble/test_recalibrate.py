"""Calibrators, scores and weights anew: from what was said out of fold, or from rows that came later."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.exceptions import BarsError, EnsembleKitError, LeakageError
from ensemble_kit.metrics import auc_pr
from ensemble_kit.targets import predict_log_proba
from ensemble_kit.validation import WalkForwardSplit

# A tree that is sure of nothing, and wrong, ends there.
pytestmark = pytest.mark.filterwarnings("ignore:temperature on its bound")

N_FITTED = 240
CV = WalkForwardSplit(2, purge=0)
MEMBERS = [("lr", LogisticRegression()), ("nb", GaussianNB())]
LABELS = ["weights_", "scores_", "fold_scores_", "temperatures_"]
TEN = np.array([10, 20, 30])
WORDS = np.array(["down", "flat", "up"])


def series(n=600, classes=WORDS, seed=0):
    """Return columns and labels whose probabilities are those of a logistic model."""
    rng = np.random.default_rng(seed)
    index = pd.date_range("2022", periods=n, freq="h", tz="UTC")
    X = pd.DataFrame(rng.normal(size=(n, 2)), index=index, columns=["a", "b"])
    return X, pd.Series(classes[np.digitize(2 * X["a"] + rng.logistic(size=n), [-1, 1])], index=index)


def panel(n=300):
    X, y = series(2 * n)
    index = pd.MultiIndex.from_product([X.index[:n], ["A", "B"]], names=["datetime", "instrument"])
    return X.set_axis(index), y.set_axis(index)


def with_far(X, y):
    """Return two horizons: the labels, and others that another column tells of."""
    noise = np.random.default_rng(2).logistic(size=len(X))
    return pd.DataFrame({"near": y, "far": WORDS[np.digitize(2 * X["b"] + noise, [-1, 1])]}, index=X.index)


def ensemble(members=MEMBERS, cv=CV, **parameters):
    return WalkForwardVotingClassifier(members, cv=cv, **parameters)


def halves(X, y, n=N_FITTED):
    return X.iloc[:n], y.iloc[:n], X.iloc[n:], y.iloc[n:]


def assert_same(one, other, X):
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    for name in LABELS:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)
    pd.testing.assert_frame_equal(one.row_usage_.to_frame(), other.row_usage_.to_frame())
    assert one.recalibrated_ == other.recalibrated_


# ------------------------------------------------------------------ what was said out of fold


@pytest.fixture(scope="module", params=["words", "tens", "panel", "horizons", "weights"])
def data(request):
    X, y = {"tens": lambda: series(classes=TEN), "panel": panel}.get(request.param, series)()
    X, y, _, _ = halves(X, y)
    members = MEMBERS
    if request.param == "horizons":
        y = with_far(X, y)
        members = [(f"tree{k}", DecisionTreeClassifier(max_depth=k, random_state=0)) for k in (2, 3)]
    weights = np.arange(len(X)) % 4 if request.param == "weights" else None
    return members, X, y, weights


def test_without_rows_it_is_what_fit_did(data):
    members, X, y, weights = data
    vote = ensemble(members).fit(X, y, sample_weight=weights)
    again = pickle.loads(pickle.dumps(vote))
    assert again.recalibrate() is again
    assert_same(again, vote, X)


@pytest.mark.parametrize(
    "parameters",
    [
        {"weighting": "uniform"},
        {"power": 1.0},
        {"power": 0},
        {"calibrator": None},
        {"calibrator": TemperatureScaling(bounds=(0.9, 1.1))},
        {"scorer": lambda y, proba, *, classes, events, sample_weight: np.full(np.shape(proba)[1], 0.5)},
    ],
    ids=str,
)
def test_with_other_parameters_it_is_a_fit_with_these(data, parameters):
    members, X, y, weights = data
    vote = ensemble(members).fit(X, y, sample_weight=weights)
    models = list(vote.estimators_)
    vote.set_params(**parameters).recalibrate()
    assert all(now is then for now, then in zip(vote.estimators_, models, strict=True))
    assert_same(vote, ensemble(members, **parameters).fit(X, y, sample_weight=weights), X)


def test_events_and_weights_by_name_too():
    X, y, _, _ = halves(*series())
    for parameters in ({"events": ["up"]}, {"weighting": {"nb": 1, "lr": 3}}, {"calibrator": {"lr": None, "nb": None}}):
        vote = ensemble().fit(X, y).set_params(**parameters).recalibrate()
        assert_same(vote, ensemble(**parameters).fit(X, y), X)


def test_it_is_a_fit_with_fold_averages_as_well():
    X, y, later, _ = halves(*series())
    vote = ensemble(refit="fold_average").fit(X, y).set_params(power=1.0).recalibrate()
    assert_same(vote, ensemble(refit="fold_average", power=1.0).fit(X, y), later)


# ------------------------------------------------------------------------------- later rows


def test_later_rows_by_hand(data):
    members, X, y, weights = data
    X_all, y_all = panel() if isinstance(X.index, pd.MultiIndex) else series()
    if X.index.nlevels == 1:
        y_all = series(classes=TEN)[1] if y.to_numpy().dtype.kind == "i" else y_all
    _, _, later, y_later = halves(X_all, y_all)
    if y.ndim == 2:
        y_later = with_far(later, y_later)
    vote = ensemble(members).fit(X, y, sample_weight=weights)
    oof, usage = vote.oof_log_proba_, vote.row_usage_.to_frame()
    counted = np.where(np.arange(len(later)) % 5 == 2, 0.0, 1.0)
    assert vote.recalibrate(later, y_later, sample_weight=counted) is vote
    rows = counted > 0
    classes = vote.classes_[0] if y.ndim == 2 else vote.classes_
    for m, (name, model) in enumerate(vote.named_estimators_.items()):
        said = predict_log_proba(model, later, classes)[rows]
        scaling = TemperatureScaling().fit(said, y_later[rows], classes=classes)
        np.testing.assert_array_equal(vote.temperatures_.iloc[m], scaling.temperature_)
        score = auc_pr(y_later[rows], np.exp(scaling.transform(said)), classes=classes)
        np.testing.assert_allclose(vote.scores_.loc[name], score, rtol=1e-12)
    squares = vote.scores_**2
    np.testing.assert_allclose(vote.weights_, squares / squares.sum(), rtol=1e-12)
    # What is known of the rows of `fit` stays, and says no more than happened.
    pd.testing.assert_frame_equal(vote.oof_log_proba_, oof)
    fits = usage[usage["role"] == "fit"].reset_index(drop=True)
    pd.testing.assert_frame_equal(vote.row_usage_.to_frame().reset_index(drop=True), fits)
    times = later.index.get_level_values(0)[rows]
    assert vote.recalibrated_ == {"n_rows": int(rows.sum()), "first": str(times[0]), "last": str(times[-1])}
    again = pickle.loads(pickle.dumps(vote))
    assert_same(again, vote, later)
    # And back to what was said out of fold.
    assert_same(again.recalibrate(), ensemble(members).fit(X, y, sample_weight=weights), X)


def test_overconfident_members_are_cooled_down():
    """A shift: the columns say less than they did, so that members say too much."""
    X, y, later, y_later = halves(*series(n=3000), n=1000)
    rng = np.random.default_rng(1)
    weaker = pd.Series(WORDS[np.digitize(0.5 * later["a"] + rng.logistic(size=len(later)), [-1, 1])], index=later.index)
    vote = ensemble().fit(X, y)
    same = pickle.loads(pickle.dumps(vote)).recalibrate(later, y_later).temperatures_
    cooler = pickle.loads(pickle.dumps(vote)).recalibrate(later, weaker)
    assert same.sub(1).abs().max(axis=None) < 0.3
    assert (cooler.temperatures_ > 2).all(axis=None)
    assert cooler.predict_proba(later).max() < vote.predict_proba(later).max()
    # The other way round: columns that say more than members make of them.
    sharper = pd.Series(WORDS[np.digitize(8 * later["a"] + rng.logistic(size=len(later)), [-4, 4])], index=later.index)
    assert (pickle.loads(pickle.dumps(vote)).recalibrate(later, sharper).temperatures_ < 0.8).all(axis=None)


def test_history_comes_as_rows_of_weight_zero():
    X, y, later, y_later = halves(*series())
    members = [("trees", LGBMWindowClassifier(5, lags="all", n_estimators=5, random_state=0)), *MEMBERS]
    vote = ensemble(members).fit(X, y)
    assert vote.lookback == 4
    with_history = pd.concat([X.tail(4), later])
    labels = pd.concat([y.tail(4), y_later])
    labels.iloc[:4] = "sideways"  # of a class that nobody knows: not looked at
    weights = np.repeat([0, 1], [4, len(later)])
    vote.recalibrate(with_history, labels, sample_weight=weights)
    assert vote.recalibrated_["n_rows"] == len(later)
    assert vote.recalibrated_["first"] == str(later.index[0])
    said = predict_log_proba(vote.named_estimators_["trees"], pd.concat([X, later]), vote.classes_)[len(X) :]
    expected = TemperatureScaling().fit(said, y_later, classes=vote.classes_).temperature_
    np.testing.assert_allclose(vote.temperatures_.loc["trees"], expected, rtol=1e-9)


def test_panels_whose_instruments_have_other_times():
    X, y = panel()
    X, y, later, y_later = halves(X, y)
    some = later.index.get_level_values("instrument").isin(["A"]) | (np.arange(len(later)) % 3 == 0)
    vote = ensemble().fit(X, y).recalibrate(later[some], y_later[some])
    assert vote.recalibrated_["n_rows"] == some.sum()
    with pytest.raises(BarsError, match=r"must keep the panel's \(datetime, instrument\) index"):
        vote.recalibrate(later.droplevel(1), y_later.droplevel(1))


# --------------------------------------------------------------------------------- refusals


def test_rows_that_members_have_seen_are_refused():
    X, y = series()
    vote = ensemble().fit(*halves(X, y)[:2])
    before = vote.weights_, vote.temperatures_
    message = (
        r"^`X` must hold rows of weight above 0 after 2022-01-10 23:00:00 \(UTC\) only, and after what labels up "
        r"to then looked at; got 40 earlier row\(s\), the first at 2022-01-09 08:00:00\+00:00\. Give those "
        r"`sample_weight` 0: they are history\.$"
    )
    with pytest.raises(LeakageError, match=message):
        vote.recalibrate(X.iloc[200:], y.iloc[200:])
    with pytest.raises(LeakageError, match=r"got 1 earlier row\(s\)"):
        vote.recalibrate(X.iloc[239:], y.iloc[239:])
    pd.testing.assert_frame_equal(vote.weights_, before[0])
    pd.testing.assert_frame_equal(vote.temperatures_, before[1])
    vote.recalibrate(X.iloc[240:], y.iloc[240:])


def test_rows_of_weight_zero_in_fit_were_not_learned_from():
    X, y = series()
    weights = np.repeat([1, 0], [200, 40])
    vote = ensemble().fit(*halves(X, y)[:2], sample_weight=weights).recalibrate(X.iloc[200:], y.iloc[200:])
    assert vote.recalibrated_["n_rows"] == 400


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
@pytest.mark.parametrize("kind", ["series", "panel"])
def test_rows_that_labels_of_members_have_seen_are_refused(kind, zone):
    """`t1` says how far: 12 bars beyond the last one, in any time zone."""
    X, y = panel() if kind == "panel" else series()
    step = 12 * (2 if kind == "panel" else 1)
    times = X.index.get_level_values(0)
    ends = pd.Series(np.append(times[step:], [times[-1]] * step), index=X.index)
    if zone != "UTC":
        local = X.index.levels[0].tz_convert(zone) if kind == "panel" else X.index.tz_convert(zone)
        ends.index = X.index.set_levels(local, level=0) if kind == "panel" else local
    vote = ensemble(cv=WalkForwardSplit(2, t1=ends)).fit(*halves(X, y)[:2])
    with pytest.raises(LeakageError, match=rf"got {step} earlier row\(s\)"):
        vote.recalibrate(X.iloc[N_FITTED:], y.iloc[N_FITTED:])
    vote.recalibrate(X.iloc[N_FITTED + step :], y.iloc[N_FITTED + step :])


def test_rows_that_are_purged_by_bars_are_refused():
    X, y = series()
    vote = ensemble(cv=WalkForwardSplit(2, purge=12)).fit(*halves(X, y)[:2])
    with pytest.raises(LeakageError, match=r"12 earlier row\(s\)"):
        vote.recalibrate(X.iloc[N_FITTED:], y.iloc[N_FITTED:])


def test_rows_without_times_are_refused():
    X, y, later, y_later = halves(*series())
    message = (
        "^`X` must carry its times, and so must the X given to `fit`, both with a time zone or both without: nothing "
        r"else says which rows are later; got others\. Give frames indexed by time\.$"
    )
    with pytest.raises(EnsembleKitError, match=message):
        ensemble().fit(X.to_numpy(), y.to_numpy()).recalibrate(later.to_numpy(), y_later.to_numpy())
    vote = ensemble().fit(X, y)
    with pytest.raises(EnsembleKitError, match=message):
        vote.recalibrate(later.reset_index(drop=True), y_later.reset_index(drop=True))


def test_other_horizons_and_classes_are_refused():
    X, y, later, y_later = halves(*series())
    vote = ensemble().fit(X, y)
    with pytest.raises(EnsembleKitError, match=r"^`y` must have the 1 horizon\(s\) given to `fit`; got 2\. Label"):
        vote.recalibrate(later, pd.concat([y_later, y_later], axis=1))
    with pytest.raises(EnsembleKitError, match=r"^`y` must hold only the classes .*; got \['sideways'\] besides"):
        vote.recalibrate(later, y_later.replace("flat", "sideways"))
    with pytest.raises(EnsembleKitError, match="`y` must have no missing label"):
        vote.recalibrate(later, y_later.where(y_later != "flat"))
    with pytest.raises(EnsembleKitError, match=r"^`sample_weight` must have one weight a row"):
        vote.recalibrate(later, y_later, sample_weight=np.ones(3))
    with pytest.raises(EnsembleKitError, match=r"^`sample_weight` must be above zero somewhere"):
        vote.recalibrate(later, y_later, sample_weight=np.zeros(len(later)))
    with pytest.raises(BarsError, match=r"^`y` must have the index of `X`"):
        vote.recalibrate(later, y_later.iloc[1:])
    with pytest.raises(NotFittedError):
        ensemble().recalibrate()


def test_horizons_must_be_those_of_fit():
    X, y, later, y_later = halves(*series())
    two = pd.concat([y, y], axis=1)
    vote = ensemble([("tree", DecisionTreeClassifier(max_depth=2))]).fit(X, two)
    with pytest.raises(EnsembleKitError, match=r"^`y` must have the 2 horizon\(s\) given to `fit`; got 1"):
        vote.recalibrate(later, y_later)


@pytest.mark.filterwarnings("ignore:no row of class")
def test_later_rows_may_lack_a_class():
    X, y, later, y_later = halves(*series())
    some = (y_later != "up").to_numpy()
    vote = ensemble().fit(X, y).recalibrate(later[some], y_later[some])
    assert vote.predict_proba(later).shape == (360, 3)
    assert np.isfinite(vote.predict_log_proba(later)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda X, y: {"X": X}, "y"),
        (lambda X, y: {"y": y}, "X"),
        pytest.param(
            lambda X, y: {"sample_weight": np.ones(len(X))},
            "X",
        ),
        pytest.param(
            lambda X, y: {"X": X, "y": y.to_numpy()[:-5]},
            "^`y` must",
        ),
        pytest.param(
            lambda X, y: {"X": X, "y": np.append(y.to_numpy(), ["up"] * 5)},
            "y",
        ),
    ],
)
def test_rows_and_labels_belong_together(arguments, message):
    X, y, later, y_later = halves(*series())
    vote = ensemble().fit(X, y)
    with pytest.raises(ValueError, match=message):
        vote.recalibrate(**arguments(later, y_later))


def test_parameters_are_checked_as_fit_does():
    X, y, _, _ = halves(*series())
    with pytest.raises(EnsembleKitError, match=r"^`scorer` must be None or a function"):
        ensemble().fit(X, y).set_params(scorer="roc_auc").recalibrate()


def test_fitted_members_keep_their_names():
    X, y, _, _ = halves(*series())
    vote = ensemble().fit(X, y)
    weights = vote.weights_
    vote.set_params(estimators=MEMBERS[::-1])
    pd.testing.assert_frame_equal(vote.weights_, weights)
    assert isinstance(vote.named_estimators_["lr"], LogisticRegression)


def test_what_fails_leaves_the_last_judgement():
    X, y, later, y_later = halves(*series())
    vote = ensemble().fit(X, y).recalibrate(later, y_later)
    before = pickle.loads(pickle.dumps(vote))
    with pytest.raises(EnsembleKitError, match="`weighting` must be"):
        vote.set_params(weighting="softmax").recalibrate()
    assert_same(vote, before, later)
