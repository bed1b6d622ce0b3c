"""Out-of-fold predictions: any method, by hand the same, on X's index, and nothing of it guessed."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import KFold
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeRegressor

from ensemble_kit.bars import row_keys
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.features import ICTFeatures, SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.sizing import KellySizer, SizedClassifier
from ensemble_kit.targets import LOG_FLOOR
from ensemble_kit.validation import WalkForwardSplit, fit_on_rows, lookback, walk_forward_predict

CV = WalkForwardSplit(3, purge=2)
COVERED = np.arange(120) >= 30


def single(n=120, seed=0):
    rng = np.random.default_rng(seed)
    index = pd.date_range("2022-03-10", periods=n, freq="h", tz="America/New_York", name="datetime")
    X = pd.DataFrame(rng.normal(size=(n, 3)), index=index, columns=["a", "b", "c"])
    y = pd.Series(np.select([X["a"] > 0.7, X["a"] < -0.7], ["up", "down"], "flat"), index)
    return X, y


def panel():
    """Three instruments; B starts late, C has holes and ends early."""
    X, _ = single()
    parts = {"A": X, "B": X.iloc[40:] * 2 + 1, "C": (X * 3 - 2).iloc[:100].drop(X.index[[5, 50, 91]])}
    X = pd.concat(parts, names=["instrument"]).swaplevel().sort_index()
    return X, pd.Series(np.where(X["b"] > 0, "up", "down"), X.index)


# ------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("make", [single, panel])
@pytest.mark.parametrize(
    ("model", "method"),
    [
        (LogisticRegression(), "predict_proba"),
        (GaussianNB(), "predict_log_proba"),
        (make_pipeline(StandardScaler(), LinearDiscriminantAnalysis()), "decision_function"),
        (KNeighborsClassifier(), "predict"),
        (Ridge(), "predict"),
        (make_pipeline(StandardScaler(), DecisionTreeRegressor(random_state=0)), "predict"),
        (make_pipeline(StandardScaler(), PCA(2)), "transform"),
    ],
)
def test_each_fold_is_what_one_fits_by_hand(model, method, make):
    X, y = make()
    if method == "transform" or isinstance(model, Ridge) or not hasattr(model, "predict_proba"):
        y = X["a"] + X["b"]
    out = walk_forward_predict(model, X, y, cv=CV, method=method)
    frame = out.to_frame()
    for fold, (train, test) in enumerate(CV.split(X)):
        answer = np.asarray(getattr(model.fit(X.iloc[train], y.iloc[train]), method)(X.iloc[test]))
        if method == "predict_log_proba":
            answer = np.maximum(answer, LOG_FLOOR)
        np.testing.assert_array_equal(frame.loc[X.index[test]].to_numpy().reshape(answer.shape), answer)
        np.testing.assert_array_equal(out.values[test].reshape(answer.shape), answer)
        assert (out.fold[test] == fold).all()
        assert out.usage.rows("fit", fold=fold).tolist() == train.tolist()
        assert out.usage.rows("score", fold=fold).tolist() == test.tolist()
    assert frame.index.equals(X.index[out.covered])
    assert out.usage.n_rows == len(X)
    assert out.predictions.dtype == np.asarray(answer).dtype or out.predictions.dtype.kind == "U"


class SignModel(RegressorMixin, BaseEstimator):
    """Answers by a method of its own, with a window: the sign of the last four rows' sum."""

    lookback = 3

    def fit(self, X, y, sample_weight=None):
        self.n_features_in_ = X.shape[1]
        return self

    def predict_position(self, X):
        return np.sign(X["a"].rolling(4).sum().to_numpy())


def test_any_method_of_any_estimator():
    X, _ = single()
    out = walk_forward_predict(SignModel(), X, X["b"], cv=CV, method="predict_position")
    np.testing.assert_array_equal(out.values[COVERED], np.sign(X["a"].rolling(4).sum())[COVERED])
    assert out.to_frame().columns.tolist() == ["predict_position"]
    assert out.classes is None


def test_positions_of_a_sized_model():
    X, y = single()
    y = y.replace({"up": "bottom", "down": "peak", "flat": "slope"})
    inner = WalkForwardSplit(2, purge=2)
    model = SizedClassifier(LogisticRegression(), KellySizer(fraction=1.0), cv=inner)
    out = walk_forward_predict(model, X, y, cv=CV, method="predict_position")
    for train, test in CV.split(X):
        by_hand = SizedClassifier(LogisticRegression(), KellySizer(fraction=1.0), cv=inner)
        expected = by_hand.fit(X.iloc[train], y.iloc[train]).predict_position(X.iloc[test])
        np.testing.assert_array_equal(out.values[test], expected)
    assert np.ptp(out.predictions) > 0.1


@pytest.mark.parametrize("make", [single, panel])
@pytest.mark.parametrize(
    "model",
    [
        LGBMWindowClassifier(6, n_estimators=5, min_child_samples=5, random_state=0),
        make_pipeline(StandardScaler(), LSTMGRUClassifier(6, hidden_size=4, max_epochs=1, random_state=0)),
    ],
    ids=["lightgbm", "lstm"],
)
def test_windows_hold_the_real_bars_in_front(model, make):
    X, _ = make()
    before = X["a"].groupby(level=1).shift(2) if isinstance(X.index, pd.MultiIndex) else X["a"].shift(2)
    y = pd.Series(np.where(before > 0, "up", "down"), X.index)
    assert lookback(model) == 5
    out = walk_forward_predict(model, X, y, cv=CV, method="predict_proba")
    padded = []
    for train, test in CV.split(X):
        fitted, _ = fit_on_rows(model, X, y, np.ones(len(X)), train, row_keys(X))
        np.testing.assert_allclose(out.values[test, 0], fitted.predict_proba(X)[test], atol=1e-6)
        padded.append(np.abs(out.values[test, 0] - fitted.predict_proba(X.iloc[test])).max())
        for _, alone in X.groupby(level=1) if isinstance(X.index, pd.MultiIndex) else []:
            mine = np.intersect1d(np.flatnonzero(X.index.isin(alone.index)), test)
            answer = pd.DataFrame(fitted.predict_proba(alone), alone.index).loc[X.index[mine]]
            np.testing.assert_allclose(out.values[mine, 0], answer, atol=1e-6)
    assert max(padded) > 1e-3  # without history the first windows are padded, and answered otherwise


def test_features_with_a_long_memory_on_real_bars(shared_data):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet").iloc[:700]
    labels = peak_slope_bottom(bars, w=6)
    X, y = labels.align(bars)
    features = ICTFeatures()
    assert lookback(features) is None
    cv = WalkForwardSplit(2, t1=labels.t1)
    model = LGBMWindowClassifier(1, n_estimators=5, random_state=0)
    whole = walk_forward_predict(make_pipeline(features, model), X, y, cv=cv)
    columns = features.set_output(transform="pandas").fit_transform(X)
    np.testing.assert_array_equal(whole.log_proba, walk_forward_predict(model, columns, y, cv=cv).log_proba)


# ---------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("labels", [["down", "flat", "up"], [-1, 0, 1], [-1.0, 0.0, 1.0]])
def test_labels_stay_what_they_are(labels):
    X, y = single()
    y = pd.Series(np.array(labels)[pd.factorize(y, sort=True)[0]], X.index)
    out = walk_forward_predict(GaussianNB(), X, y, cv=CV, method="predict")
    frame = out.to_frame()
    assert frame.columns.tolist() == ["predict"]
    assert frame["predict"].dtype.kind == y.dtype.kind
    assert set(frame["predict"]) <= set(labels)
    # On all rows: numbers as floats with NaN, names as objects with None.
    missing = out.values[~COVERED]
    assert out.values.dtype == (object if isinstance(labels[0], str) else float)
    assert pd.isna(missing).all()
    assert accuracy_score(y[out.covered], out.values[out.covered]) > 0.7
    assert out.classes.tolist() == labels


def test_flags():
    X, _ = single()
    out = walk_forward_predict(GaussianNB(), X, X["a"] > 0, cv=CV, method="predict")
    assert out.to_frame()["predict"].dtype == bool
    assert set(out.values[COVERED]) == {0.0, 1.0}


@pytest.mark.parametrize("method", ["predict_proba", "predict_log_proba"])
def test_a_class_not_learned_yet_has_no_probability(method):
    X, y = single()
    y[: len(y) // 2] = np.where(X["a"][: len(y) // 2] > 0, "up", "flat")  # "down" comes late
    out = walk_forward_predict(GaussianNB(), X, y, cv=CV, method=method)
    early = out.fold == 0
    assert out.classes.tolist() == ["down", "flat", "up"]
    assert out.to_frame().columns.tolist() == ["down", "flat", "up"]
    assert (out.log_proba[early, 0, 0] == LOG_FLOOR).all()
    assert (out.proba[early, 0, 0] == (0 if method == "predict_proba" else np.exp(LOG_FLOOR))).all()
    assert (out.proba[out.fold == 2, 0, 0] > 1e-3).any()
    np.testing.assert_allclose(out.proba[COVERED].sum(axis=2), 1, atol=1e-6)
    assert np.isnan(out.proba[~COVERED]).all()
    assert np.isnan(out.log_proba[~COVERED]).all()
    other = "predict_log_proba" if method == "predict_proba" else "predict_proba"
    same = walk_forward_predict(GaussianNB(), X, y, cv=CV, method=other)
    np.testing.assert_allclose(out.proba, same.proba, atol=1e-6)
    np.testing.assert_allclose(out.log_proba, same.log_proba, atol=1e-9)


def test_several_horizons():
    X, y = single()
    Y = pd.DataFrame({"now": y, "next": y.shift(-1, fill_value="flat")})
    model = MultiOutputClassifier(GaussianNB())
    out = walk_forward_predict(model, X, Y, cv=CV, method="predict_proba")
    assert out.values.shape == (120, 2, 3)
    frame = out.to_frame()
    assert frame.columns.names == ["horizon", "class"]
    for h, horizon in enumerate(Y):
        alone = walk_forward_predict(GaussianNB(), X, Y[horizon], cv=CV, method="predict_proba")
        pd.testing.assert_frame_equal(frame[horizon], alone.to_frame())
        np.testing.assert_array_equal(out.proba[:, [h]], alone.proba)
    labels = walk_forward_predict(model, X, Y, cv=CV, method="predict").to_frame()
    assert labels.columns.tolist() == ["now", "next"]
    assert (labels["now"] == frame["now"].idxmax(axis=1)).all()
    arrays = walk_forward_predict(model, X.to_numpy(), Y.to_numpy(), cv=CV)
    assert arrays.to_frame().columns.get_level_values(0).unique().tolist() == ["H0", "H1"]
    assert arrays.to_frame().index.tolist() == np.flatnonzero(COVERED).tolist()


def test_several_numbers():
    X, _ = single()
    Y = np.stack([X["a"] + X["b"], X["c"]], axis=1)
    out = walk_forward_predict(LinearRegression(), X, Y, cv=CV, method="predict")
    np.testing.assert_allclose(out.values[COVERED], Y[COVERED])
    assert out.to_frame().columns.tolist() == ["H0", "H1"]
    parts = walk_forward_predict(PLSRegression(2), X, Y, cv=CV, method="transform")
    assert parts.to_frame().columns.tolist() == [0, 1]  # components, no horizons


def test_scores_of_a_decision():
    X, y = single()
    three = walk_forward_predict(RidgeClassifier(), X, y, cv=CV, method="decision_function")
    assert three.to_frame().columns.tolist() == ["down", "flat", "up"]
    two = walk_forward_predict(RidgeClassifier(), X, y == "up", cv=CV, method="decision_function")
    assert two.values.shape == (120,)
    assert two.to_frame().columns.tolist() == ["decision_function"]
    four = pd.Series(np.arange(120) % 4, X.index)
    pairs = walk_forward_predict(
        SVC(decision_function_shape="ovo"), X, four, cv=CV, method="decision_function"
    ).to_frame()
    assert pairs.columns.tolist() == [0, 1, 2, 3, 4, 5]  # pairs of classes: nobody's columns
    y[:60] = np.where(y[:60] == "down", "flat", y[:60])
    message = (
        r"`method` 'decision_function' must find all classes \['down', 'flat', 'up'\] in the training rows of every "
        r"fold; one has \['flat', 'up'\] only, and a score has no value for a class never seen. Predict 'predict_log_"
    )
    with pytest.raises(EnsembleKitError, match=message):
        walk_forward_predict(RidgeClassifier(), X, y, cv=CV, method="decision_function")


def test_numbers_are_never_taken_for_classes():
    X, _ = single()
    y = np.round(X["a"])  # few values, one throughout the first fold
    y[:40] = 1.0
    out = walk_forward_predict(LinearRegression(), X, y, cv=CV, method="predict")
    assert out.values[out.fold == 0] == pytest.approx(1.0)
    assert out.classes is None
    weight = np.where(np.arange(120) % 3, 1.0, 0.0)
    other = y.where(weight > 0, 1e9)
    one, two = (
        walk_forward_predict(LinearRegression(), X, t, cv=CV, method="predict", sample_weight=weight)
        for t in (y, other)
    )
    np.testing.assert_array_equal(one.values, two.values)
    assert r2_score(y[80:], walk_forward_predict(Ridge(), X, X["a"], cv=CV, method="predict").values[80:]) > 0.5


def test_any_rows_in_any_order_that_a_splitter_gives():
    X, y = single()
    folds = [(range(58), np.arange(80, 90)), (np.arange(50), [70, 60, 65])]
    out = walk_forward_predict(GaussianNB(), X, y, cv=folds)
    assert np.flatnonzero(out.covered).tolist() == [60, 65, 70, *range(80, 90)]
    sums = GaussianNB().fit(X[:50], y[:50]).predict_log_proba(X.iloc[[60, 65, 70]])
    np.testing.assert_array_equal(out.log_proba[[60, 65, 70], 0], np.maximum(sums, LOG_FLOOR))
    frame = X.reset_index(drop=True)  # an index that is no time: positions count, labels stay
    assert walk_forward_predict(GaussianNB(), frame, y, cv=iter(folds)).to_frame().index.tolist()[:3] == [60, 65, 70]


def test_shown_and_kept():
    X, y = single()
    out = walk_forward_predict(GaussianNB(), X, y, cv=CV)
    assert repr(out) == ("<OutOfFold predict_log_proba: 90 of 120 rows covered by 3 fold(s); classes down, flat, up>")
    assert "<p>OutOfFold predict_log_proba: 90 of" in out._repr_html_()
    assert out._repr_html_().count("<th>") > 5
    again = pickle.loads(pickle.dumps(out))
    pd.testing.assert_frame_equal(again.to_frame(), out.to_frame())
    assert repr(again.usage) == repr(out.usage)
    angled = walk_forward_predict(GaussianNB(), X, "<" + y + ">", cv=CV)
    assert "&lt;up&gt;" in angled._repr_html_().split("</p>")[0]


# ------------------------------------------------------------------------------- refused


def test_a_row_is_tested_once():
    X, y = single()
    folds = [(np.arange(50), np.arange(60, 80)), (np.arange(55), np.arange(78, 90))]
    message = r"`cv` must test each row once; fold 1 tests 2 row\(s\) again, the first is row 78, tested by fold 0"
    with pytest.raises(EnsembleKitError, match=message):
        walk_forward_predict(GaussianNB(), X, y, cv=folds)


@pytest.mark.parametrize(
    ("cv", "error", "message"),
    [
        (3, LeakageError, "`cv` must train on rows before the test rows only"),
        (KFold(3), LeakageError, "Use `WalkForwardSplit`"),
        ([], EnsembleKitError, "`cv` must give at least one fold; got none"),
        ([([0, 1], [])], EnsembleKitError, "fold 0 has 2 training rows and 0 test rows"),
        ([([0, 1], [120])], EnsembleKitError, "`cv` must be at least 0 and below 120; got 120"),
        ([([-1, 1], [50])], EnsembleKitError, "`cv` must be at least 0 and below 120; got -1"),
        ([([0, 1], [5, 6, 5])], EnsembleKitError, "`cv` must name each row once; got row 5 more often"),
        ([([True] * 60 + [False] * 60, [False] * 60 + [True] * 60)], EnsembleKitError, "`numpy.flatnonzero`"),
    ],
)
def test_folds_that_make_no_sense(cv, error, message):
    X, y = single()
    with pytest.raises(error, match=message):
        walk_forward_predict(GaussianNB(), X, y, cv=cv)


class Counting(GaussianNB):
    fits = 0

    def fit(self, X, y, sample_weight=None):
        Counting.fits += 1
        return super().fit(X, y, sample_weight)


def test_folds_are_refused_before_any_work():
    X, y = single()
    with pytest.raises(EnsembleKitError, match="again"):
        walk_forward_predict(Counting(), X, y, cv=[([0, 1, 2], [9]), ([0, 1, 2], [9])])
    assert Counting.fits == 0


class Moody(TransformerMixin, BaseEstimator):
    """Answers with as many columns as it has rows, or a scalar, or too few rows."""

    def fit(self, X, y):
        self.n_ = len(X)
        return self

    def growing(self, X):
        return np.zeros((len(X), self.n_))

    def scalar(self, X):
        return 1.0

    def short(self, X):
        return np.zeros(len(X) - 1)


@pytest.mark.parametrize(
    ("model", "method", "message"),
    [
        (Ridge(), "predict_log_proba", r"`method` must be one that Ridge has; .*'predict_log_proba', which needs clas"),
        (Ridge(), "transform", r"`method` must be a method of the fitted model; got 'transform', and Ridge has none"),
        (
            Moody(),
            "growing",
            r"`method` must answer alike in every fold; 'growing' gave \(28,\) a row in fold 0 and \(5",
        ),
        (Moody(), "scalar", r"`method` must answer a row for a row; 'scalar' gave shape \(\) for 30 rows"),
        (Moody(), "short", r"'short' gave shape \(29,\) for 30 rows"),
    ],
)
def test_methods_that_cannot_be_asked(model, method, message):
    X, _ = single()
    with pytest.raises(EnsembleKitError, match=message):
        walk_forward_predict(model, X, X["a"], cv=CV, method=method)


def test_probabilities_are_not_made_up():
    X, y = single()
    out = walk_forward_predict(GaussianNB(), X, y, cv=CV, method="predict")
    for name in ("proba", "log_proba"):
        with pytest.raises(
            EnsembleKitError, match=r"must be one of predict_log_proba, predict_proba .*; got 'predict'"
        ):
            getattr(out, name)
    with pytest.raises(EnsembleKitError, match="has no `predict_proba`"):
        walk_forward_predict(RidgeClassifier(), X, y, cv=CV)
    constant = y.where(np.arange(120) > 40, "flat")
    with (
        pytest.warns(UserWarning, match="have the class flat only"),
        pytest.raises(EnsembleKitError, match=r"DummyClassifier has none\. .* one class only gets a constant instead"),
    ):
        walk_forward_predict(RidgeClassifier(), X, constant, cv=CV, method="decision_function")


class Narrow(GaussianNB):
    """Claims a class that nobody labelled."""

    def predict_proba(self, X):
        self.classes_ = np.array(["down", "flat", "sideways"])
        return super().predict_proba(X)


def test_a_class_that_the_target_lacks():
    X, y = single()
    with pytest.raises(EnsembleKitError, match=r"`classes_` must be among .*; got \['sideways'\] besides"):
        walk_forward_predict(Narrow(), X, y, cv=CV, method="predict_proba")


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, r"`y` must be finite; got nan at row 7. Drop"), (np.inf, "got inf at row 7"), ("x", "must hold numbers")],
)
def test_numbers_that_are_none(value, message):
    X, _ = single()
    y = X["a"].astype(object)
    y.iloc[7] = value
    with pytest.raises(EnsembleKitError, match=message):
        walk_forward_predict(Ridge(), X, y, cv=CV, method="predict")


def test_bars_through_a_pipeline_of_features():
    bars = make_bars(400, random_state=0)
    labels = peak_slope_bottom(bars, w=6)
    X, y = labels.align(bars)
    model = make_pipeline(SessionFeatures(), LogisticRegression())
    out = walk_forward_predict(
        model, X, y, cv=WalkForwardSplit(2, t1=labels.t1), sample_weight=labels.sample_weight[X.index]
    )
    assert out.to_frame().index.equals(X.index[out.covered])
