"""A model and its sizer as one classifier."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LSTMGRUClassifier
from ensemble_kit.exceptions import BarsError, EnsembleKitError, LeakageError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.metrics import next_open_return
from ensemble_kit.sizing import KellySizer, SizedClassifier
from ensemble_kit.validation import REFIT, RowUsage, WalkForwardSplit, walk_forward_predict

CV = WalkForwardSplit(3, purge=5)
N = 400


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    index = pd.date_range("2024-01-01", periods=N, freq="h", tz="UTC", name="datetime")
    X = pd.DataFrame(rng.normal(size=(N, 3)), columns=["a", "b", "c"], index=index)
    signal = 2 * X["a"] + 0.5 * rng.normal(size=N)
    return X, pd.Series(np.select([signal > 1, signal < -1], ["bottom", "peak"], "slope"), index=index)


@pytest.fixture(scope="module")
def weights():
    return np.random.default_rng(1).choice([0.0, 1.0, 2.0], size=N)


def vote(**params):
    members = [("lr", make_pipeline(StandardScaler(), LogisticRegression())), ("nb", GaussianNB())]
    return WalkForwardVotingClassifier(members, cv=CV, **params)


# ------------------------------------------------------------------------ what the sizer is fitted on


def test_the_last_fit_of_a_plain_model_is_on_record(data, weights):
    X, y = data
    usage = SizedClassifier(LogisticRegression(), cv=CV).fit(X, y, sample_weight=weights).row_usage_
    np.testing.assert_array_equal(usage.rows("fit", fold=REFIT), np.flatnonzero(weights))
    with pytest.raises(EnsembleKitError, match="400"):
        usage.add(REFIT, "model", "fit", [N])
    network = LSTMGRUClassifier(2, hidden_size=2, n_layers=1, max_epochs=1, random_state=0)
    usage = SizedClassifier(network, cv=CV).fit(X, y).row_usage_
    assert usage.rows("stop", fold=REFIT).tolist() == list(range(360, N))
    assert usage.rows("fit", fold=REFIT).tolist() == list(range(360))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("front", [False, True])
def test_an_ensemble_gives_its_own_out_of_fold_probabilities(data, weights, weighted, front):
    X, y = data
    w = weights if weighted else None
    model = make_pipeline(StandardScaler(), vote()) if front else vote()
    sized = SizedClassifier(model).fit(X, y, sample_weight=w)
    ensemble = sized.model_[-1] if front else sized.model_
    rows, proba = ensemble.out_of_fold()
    assert 0 < len(rows) < N
    by_hand = KellySizer().fit(
        proba, y.iloc[rows], sample_weight=None if w is None else w[rows], classes=ensemble.classes_
    )
    assert sized.sizer_.rmse_ == by_hand.rmse_
    # The rows it was fitted on know better, and would bet more.
    inside = KellySizer().fit(sized.predict_proba(X), y, sample_weight=w)
    assert inside.rmse_ < by_hand.rmse_
    expected = by_hand.transform(sized.predict_proba(X))
    np.testing.assert_allclose(sized.predict_position(X), expected, atol=1e-6)
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("weighted", [False, True])
def test_any_other_classifier_is_walked_forward(data, weights, weighted):
    X, y = data
    w = weights if weighted else None
    model = make_pipeline(StandardScaler(), LogisticRegression())
    sized = SizedClassifier(model, KellySizer(fraction=1.0), cv=CV).fit(X, y, sample_weight=w)
    out = walk_forward_predict(model, X, y, cv=CV, sample_weight=w)
    rows = np.flatnonzero(out.covered)
    by_hand = KellySizer(fraction=1.0).fit(
        np.exp(out.log_proba[rows]), y.iloc[rows], sample_weight=None if w is None else w[rows]
    )
    assert sized.sizer_.rmse_ == pytest.approx(by_hand.rmse_)
    np.testing.assert_allclose(sized.predict_position(X), by_hand.transform(sized.predict_proba(X)), atol=1e-6)


@pytest.mark.parametrize("model", [LogisticRegression(), vote()], ids=["classifier", "ensemble"])
def test_the_record_of_rows_names_the_sizer(data, weights, model):
    X, y = data
    sized = SizedClassifier(model, cv=CV).fit(X, y, sample_weight=weights)
    usage = sized.row_usage_.check()
    tests = [test for _, test in CV.split(X)]
    covered = np.sort(np.concatenate(tests))
    np.testing.assert_array_equal(usage.rows("size"), covered[weights[covered] > 0])
    for fold, test in enumerate(tests):
        np.testing.assert_array_equal(usage.rows("size", fold=fold), test[weights[test] > 0])
        assert len(np.intersect1d(usage.rows("size", fold=fold), usage.rows("fit", fold=fold))) == 0
    # A sizer that saw a fitted row would be refused.
    usage.add(0, "*", "size", usage.rows("fit", fold=0)[:1])
    with pytest.raises(LeakageError, match="'fit' and 'size'"):
        usage.check()


class Leaking(ClassifierMixin, BaseEstimator):
    """Calls rows out of fold that it was fitted on."""

    def fit(self, X, y):
        self.classes_, self.fold_ = np.unique(y), np.zeros(len(X), int)
        self.row_usage_ = RowUsage()
        self.row_usage_.add(0, "it", "fit", np.arange(len(X)))
        return self

    def out_of_fold(self):
        return np.arange(5), np.full((5, 1, 3), 1 / 3)


def test_a_model_that_sizes_on_fitted_rows_is_refused(data):
    X, y = data
    with pytest.raises(LeakageError, match="'fit' and 'size'"):
        SizedClassifier(Leaking()).fit(X, y)


def test_several_horizons(data):
    X, y = data
    Y = pd.DataFrame({"H0": y, "H1": y.shift(-1, fill_value="slope")})
    forest = RandomForestClassifier(20, max_depth=3, random_state=0)
    zero, one = (SizedClassifier(forest, KellySizer(horizon=h), cv=CV).fit(X, Y) for h in (0, 1))
    assert zero.sizer_.rmse_ != one.sizer_.rmse_
    assert zero.predict(X).shape == (N, 2)
    assert [p.shape for p in zero.predict_proba(X)] == [(N, 3), (N, 3)]
    for sized in (zero, one):
        np.testing.assert_allclose(sized.predict_position(X), sized.sizer_.transform(sized.predict_proba(X)), atol=1e-6)


def test_horizons_that_know_different_classes(data):
    X, y = data
    Y = pd.DataFrame({"H0": y, "H1": y.replace("peak", "slope")})
    forest = RandomForestClassifier(5, random_state=0)
    assert SizedClassifier(forest, cv=CV).fit(X, Y).predict_position(X).shape == (N,)


def test_bars_to_positions():
    bars = make_bars(800, random_state=0)
    labels = peak_slope_bottom(bars, w=6)
    X, y = labels.align(bars)
    model = make_pipeline(SessionFeatures(), LogisticRegression())
    sized = SizedClassifier(model, cv=WalkForwardSplit(2, t1=labels.t1))
    position = sized.fit(X, y, sample_weight=labels.sample_weight[X.index]).predict_position(bars)
    assert position.shape == (800,)
    assert (np.abs(position) <= 0.5).all()
    assert sized.lookback == 0


# ------------------------------------------------------------------------------------------ returns


def on_bars(n=800):
    """Bars, and labels that the last return gives away."""
    bars = make_bars(n, signal=2.0, random_state=0)
    labels = peak_slope_bottom(bars, w=6)
    X, y = labels.align(bars)
    return bars, X, y, WalkForwardSplit(2, t1=labels.t1)


@pytest.mark.filterwarnings("ignore:`returns` were no larger")
@pytest.mark.parametrize("voting", [False, True])
def test_payoffs_are_estimated_on_the_rows_out_of_fold(voting):
    bars, X, y, cv = on_bars()
    last = WalkForwardVotingClassifier([("lr", LogisticRegression())], cv=cv) if voting else LogisticRegression()
    sizer = KellySizer(payoffs="estimate", conservatism=0.0)
    model = make_pipeline(SessionFeatures(), last)
    sized = SizedClassifier(model, sizer, cv=None if voting else cv).fit(X, y)
    rows = sized.row_usage_.rows("size")
    earned = next_open_return(X).to_numpy()[rows]
    if voting:
        proba = sized.model_[-1].out_of_fold()[1]
    else:
        proba = walk_forward_predict(model, X, y, cv=cv, method="predict_proba").predictions
    by_hand = KellySizer(payoffs="estimate", conservatism=0.0).fit(proba, y.iloc[rows], returns=earned)
    for ours, theirs in zip(sized.sizer_.payoffs_, by_hand.payoffs_, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(
        sized.predict_position(bars), by_hand.transform(sized.predict_proba(bars)), rtol=1e-5, atol=1e-6
    )
    assert np.abs(sized.predict_position(bars)).max() > 0
    again = pickle.loads(pickle.dumps(sized))
    np.testing.assert_array_equal(again.predict_position(bars), sized.predict_position(bars))


def test_estimated_payoffs_need_bars_before_the_model_is_fitted(data):
    X, y = data
    sizer = KellySizer(payoffs="estimate")
    for no_bars in (X, X.to_numpy()):
        with pytest.raises(BarsError, match=r"`X` must be bars where the sizer needs returns.*`bars` must .*Or say"):
            SizedClassifier(NeverFitted(), sizer, cv=CV).fit(no_bars, y)
    _, X, y, cv = on_bars(100)
    never_open = X.assign(open=np.nan)
    with pytest.raises(EnsembleKitError, match=r"`returns` must be finite, and known .*; got 0 known"):
        SizedClassifier(NeverFitted(), sizer, cv=cv).fit(never_open, y)


class Always(BaseEstimator):
    """A sizer of another kind, which asks for no returns and takes none."""

    def fit(self, proba, y, sample_weight=None, *, classes=None):
        self.classes_ = classes
        return self

    def transform(self, proba):
        return np.full(len(proba), 0.25)


def test_a_sizer_that_asks_for_no_returns_gets_none(data):
    X, y = data
    assert (SizedClassifier(LogisticRegression(), Always(), cv=CV).fit(X, y).predict_position(X) == 0.25).all()


# ------------------------------------------------------------------------------------------ weights


class Recorder(ClassifierMixin, BaseEstimator):
    """Keeps the weights of its last fit."""

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.unique(y)
        self.weights_ = sample_weight
        return self

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


def test_weights_reach_the_model(data, weights):
    X, y = data
    assert SizedClassifier(Recorder(), cv=CV).fit(X, y).model_.weights_ is None
    for model in (Recorder(), make_pipeline(StandardScaler(), Recorder())):
        sized = SizedClassifier(model, cv=CV).fit(X, y, sample_weight=pd.Series(weights, index=X.index))
        last = sized.model_ if isinstance(model, Recorder) else sized.model_[-1]
        np.testing.assert_array_equal(last.weights_, weights)


def test_a_model_without_weights_is_refused_where_there_are_some(data, weights):
    X, y = data
    neighbours = KNeighborsClassifier()
    SizedClassifier(neighbours, cv=CV).fit(X, y)
    for model in (neighbours, make_pipeline(StandardScaler(), neighbours)):
        with pytest.raises(EnsembleKitError, match=r"`model` must take `sample_weight`.*KNeighborsClassifier\(\)"):
            SizedClassifier(model, cv=CV).fit(X, y, sample_weight=weights)


# ----------------------------------------------------------------------------------------- refusals


class NeverFitted(ClassifierMixin, BaseEstimator):
    """Hours of work, which no mistake elsewhere should begin."""

    def fit(self, X, y, sample_weight=None):
        raise AssertionError("the model was fitted")


@pytest.mark.parametrize(
    ("sizer", "relabel", "says"),
    [
        (None, {"peak": "one", "bottom": "two"}, "`long` and `short` must be two"),
        (KellySizer(fraction=3), {}, "`fraction` must be in"),
        (KellySizer(horizon=1), {}, "must have horizon 1"),
    ],
)
def test_what_the_sizer_refuses_is_refused_before_the_model_is_fitted(data, sizer, relabel, says):
    X, y = data
    with pytest.raises(EnsembleKitError, match=says):
        SizedClassifier(NeverFitted(), sizer, cv=CV).fit(X, y.replace(relabel))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"model": None}, "^`model` must be a classifier or a Pipeline; got None. Pass one that is not fitted yet.$"),
        ({"model": "logistic"}, "^`model` must be a classifier or a Pipeline; got 'logistic'. Pass one"),
        ({"model": LogisticRegression}, "^`model` must be a classifier or a Pipeline; got <class "),
        (
            {"sizer": "kelly"},
            r"^`sizer` must be None, or have `fit` and `transform`; got 'kelly'. None takes KellySizer\(\).$",
        ),
        ({"sizer": KellySizer}, "^`sizer` must be None, or have `fit` and `transform`; got <class "),
        (
            {"sizer": LogisticRegression()},
            "^`sizer` must be None, or have `fit` and `transform`; got LogisticRegression",
        ),
        (
            {"cv": "x"},
            r"^`cv` must be None, a splitter or pairs of train and test rows; got 'x'. Pass WalkForwardSplit\(3, t1=",
        ),
        ({"cv": 5}, "^`cv` must be None, a splitter or pairs of train and test rows; got 5. Pass"),
    ],
)
def test_parts_that_are_none(data, parts, says):
    told = {"model": NeverFitted(), "cv": CV} | parts
    with pytest.raises(EnsembleKitError, match=says):
        SizedClassifier(told.pop("model"), **told).fit(*data)


def test_no_rows_are_refused(data):
    X, y = data
    with pytest.raises(
        EnsembleKitError, match=r"^`y` must have a row at least; got none\. Widen the span that was read\.$"
    ):
        SizedClassifier(NeverFitted(), cv=CV).fit(pd.DataFrame(X)[:0], y[:0])


def test_folds_that_leak_are_refused(data):
    X, y = data
    backwards = [(np.arange(200, 400), np.arange(200))]
    with pytest.raises(LeakageError, match="`cv` must train on rows before the test rows only"):
        SizedClassifier(LogisticRegression(), cv=backwards).fit(X, y)
    forwards = [(np.arange(200), np.arange(205, 400))]
    assert SizedClassifier(LogisticRegression(), cv=forwards).fit(X, y).row_usage_.rows("size").min() == 205


def test_without_folds_it_warns_that_labels_may_leak(data):
    X, y = data
    with pytest.warns(UserWarning, match="neither `t1` nor `purge`"):
        SizedClassifier(LogisticRegression()).fit(X, y)


# ----------------------------------------------------------------------------------------- delegation


def test_it_predicts_what_its_model_predicts(data):
    X, y = data
    sized = SizedClassifier(LogisticRegression(), cv=CV).fit(X, y)
    alone = LogisticRegression().fit(X, y)
    for name in ("predict", "predict_proba", "predict_log_proba"):
        np.testing.assert_array_equal(getattr(sized, name)(X), getattr(alone, name)(X))
    assert sized.score(X, y) == alone.score(X, y)
    assert sized.classes_.tolist() == alone.classes_.tolist()
    assert sized.n_features_in_ == 3
    assert sized.feature_names_in_.tolist() == ["a", "b", "c"]
    # A model that has no logs has none here either.
    assert not hasattr(SizedClassifier(Recorder()), "predict_log_proba")
    assert hasattr(SizedClassifier(Recorder()), "predict_proba")


@pytest.mark.parametrize("name", ["predict", "predict_proba", "predict_log_proba", "predict_position"])
def test_nothing_is_predicted_before_fit(data, name):
    with pytest.raises(NotFittedError):
        getattr(SizedClassifier(LogisticRegression()), name)(data[0])


def test_fit_leaves_model_and_sizer_as_they_were(data):
    X, y = data
    model, sizer = LogisticRegression(), KellySizer()
    SizedClassifier(model, sizer, cv=CV).fit(X, y)
    assert not hasattr(model, "coef_")
    assert not hasattr(sizer, "rmse_")


def test_clone_pickle_and_nested_parameters(data):
    X, y = data
    sized = SizedClassifier(vote(), KellySizer())
    sized.set_params(sizer__fraction=0.25, model__lr__logisticregression__C=0.1, model__power=0.0)
    twin = clone(sized)
    assert twin.sizer.fraction == 0.25
    assert dict(twin.model.estimators)["lr"][-1].C == 0.1
    sized.fit(X, y)
    again = pickle.loads(pickle.dumps(sized))
    np.testing.assert_array_equal(again.predict_position(X), sized.predict_position(X))
    pd.testing.assert_frame_equal(again.row_usage_.to_frame(), sized.row_usage_.to_frame())
    np.testing.assert_array_equal(twin.fit(X, y).predict_position(X), sized.predict_position(X))


# --------------------------------------------------------------------------------- scikit-learn's checks


def expected_failures(_):
    return {
        "check_classifiers_classes": "labels 'one' and 'two' have no direction, and are refused",
        "check_sample_weight_equivalence_on_dense_data": "its folds train on rows after their test rows",
    }


# Checks whose few rows come sorted by class give a first fold of one class, and say so.
@pytest.mark.filterwarnings("ignore:Training rows before:UserWarning")
@parametrize_with_checks(
    [SizedClassifier(LogisticRegression(), cv=WalkForwardSplit(2, purge=0))],
    expected_failed_checks=expected_failures,
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# ------------------------------------------------------------------------ judged anew


@pytest.mark.parametrize("changed", [{}, {"calibrator": None}, {"weighting": "uniform"}, {"power": 4}])
def test_judged_anew_is_as_if_fitted_so(data, weights, changed):
    X, y = data
    judged = SizedClassifier(vote(), KellySizer()).fit(X, y, sample_weight=weights)
    judged.model_.set_params(**changed)
    judged.set_params(sizer=KellySizer(penalty="reliability", fraction=0.5)).recalibrate(X, y, sample_weight=weights)
    fitted = SizedClassifier(vote(**changed), KellySizer(penalty="reliability", fraction=0.5))
    fitted.fit(X, y, sample_weight=weights)
    np.testing.assert_array_equal(judged.predict_position(X), fitted.predict_position(X))
    assert str(judged.row_usage_) == str(fitted.row_usage_)
    assert judged.predict_position(X).any()


def test_only_what_was_fitted_on_can_be_judged_anew(data):
    X, y = data
    with pytest.raises(NotFittedError):
        SizedClassifier(vote()).recalibrate(X, y)
    plain = SizedClassifier(GaussianNB(), cv=CV).fit(X, y)
    with pytest.raises(
        EnsembleKitError,
        match=r"^`model` must end in an ensemble, which keeps what its members said out of fold; got GaussianNB\(\). "
        r"Fit it again.$",
    ):
        plain.recalibrate(X, y)
    fitted = SizedClassifier(vote()).fit(X, y)
    with pytest.raises(
        EnsembleKitError, match=r"^`X` and `y` must have the 400 rows given to `fit`; got 399 and 399. Give those.$"
    ):
        fitted.recalibrate(X[1:], y[1:])
