"""Fits and predictions on folds: real bars in every window, no label from outside the fold."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import BarsError, EnsembleKitError, LeakageError
from ensemble_kit.targets import LOG_FLOOR, predict_log_proba
from ensemble_kit.validation import (
    WalkForwardSplit,
    check_panel_index,
    final_estimator,
    fit_on_rows,
    predict_on_rows,
    take_rows,
    walk_forward_predict,
    weight_parameters,
)


def trailing_sums(X, seq_len):
    """Sums of each instrument's last `seq_len` rows (all of them for None), exact for small integers."""
    frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(X)
    by = frame.index.get_level_values(1) if isinstance(frame.index, pd.MultiIndex) else np.zeros(len(frame))
    sums = frame.groupby(np.asarray(by)).cumsum()
    if seq_len is not None:
        sums = sums - sums.groupby(np.asarray(by)).shift(seq_len, fill_value=0)
    return sums.to_numpy()


class WindowClassifier(ClassifierMixin, BaseEstimator):
    """Naive Bayes on sums of windows: what a sequence model is to the folds. It keeps what it was given."""

    def __init__(self, seq_len=4):
        self.seq_len = seq_len

    @property
    def lookback(self):
        return None if self.seq_len is None else self.seq_len - 1

    def fit(self, X, y, sample_weight=None):
        self.X_, self.y_ = X, y
        self.weight_ = np.ones(len(X)) if sample_weight is None else sample_weight
        learned = self.weight_ > 0
        self.model_ = GaussianNB().fit(trailing_sums(X, self.seq_len)[learned], y[learned], self.weight_[learned])
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        self.n_predicted_ = len(X)
        have = np.searchsorted(self.classes_, self.model_.classes_)
        proba = np.zeros((len(X), len(self.classes_)))
        proba[:, have] = self.model_.predict_proba(trailing_sums(X, self.seq_len))
        return proba


class Memory(BaseEstimator, ClassifierMixin):
    """Takes no weights; remembers the rows it was fitted on, and predicts the classes' shares."""

    def fit(self, X, y):
        self.rows_ = np.asarray(X)[:, 0].tolist()
        self.classes_, counts = np.unique(y, return_counts=True)
        self.shares_ = counts / counts.sum()
        return self

    def predict_proba(self, X):
        return np.tile(self.shares_, (len(X), 1))


class Watcher(TransformerMixin, BaseEstimator):
    """Passes columns on and keeps the target it saw: a selector that takes no weights."""

    seen = []

    def fit(self, X, y=None):
        Watcher.seen.append(np.asarray(y).tolist())
        return self

    def transform(self, X):
        return X

    def get_feature_names_out(self, names=None):
        return names


def single(n=60, seed=0):
    rng = np.random.default_rng(seed)
    index = pd.date_range("2022-01-03", periods=n, freq="5min", tz="UTC", name="datetime")
    X = pd.DataFrame(rng.integers(-5, 6, size=(n, 2)).astype(float), index=index, columns=["a", "b"])
    return X, pd.Series(rng.choice(["down", "up"], size=n), index=index)


def panel(seed=0):
    """Three instruments; B starts late, C has holes and ends early."""
    X, _ = single(40, seed)
    parts = {"A": X, "B": X.iloc[15:] * 2 + 1, "C": (X * 3 - 2).iloc[:34].drop(X.index[[5, 20, 31]])}
    X = pd.concat(parts, names=["instrument"]).swaplevel().sort_index()
    return X, pd.Series(np.random.default_rng(seed).choice(["down", "up"], size=len(X)), index=X.index)


def last_fold(cv, X):
    *_, (train, test) = cv.split(X)
    return train, test


# -------------------------------------------------------------------------------- history


@pytest.mark.parametrize("seq_len", [1, 4, 9, None])
@pytest.mark.parametrize("make", [single, panel])
def test_folds_predict_as_the_whole_series_does(make, seq_len):
    X, y = make()
    cv = WalkForwardSplit(3, purge=2)
    out = walk_forward_predict(WindowClassifier(seq_len), X, y, cv=cv)
    assert out.log_proba.shape == (len(X), 1, 2)
    assert out.classes.tolist() == ["down", "up"]
    covered = []
    for fold, (train, test) in enumerate(cv.split(X)):
        fitted, _ = fit_on_rows(WindowClassifier(seq_len), X, y.to_numpy(), np.ones(len(X)), train, row_keys(X))
        # Fitted by hand on windows of the whole series: those rows have no future in them.
        sums = trailing_sums(X, seq_len)
        by_hand = GaussianNB().fit(sums[train], y.to_numpy()[train]).predict_log_proba(sums[test])
        whole = predict_log_proba(fitted, X, out.classes)[test]
        np.testing.assert_array_equal(out.log_proba[test], whole)
        np.testing.assert_allclose(out.log_proba[test, 0], np.maximum(by_hand, LOG_FLOOR), atol=1e-9)
        assert (out.fold[test] == fold).all()
        covered.extend(test)
    assert np.flatnonzero(out.covered).tolist() == covered
    assert np.isnan(out.log_proba[~out.covered]).all()
    assert (out.fold[~out.covered] == -1).all()


def test_only_lookback_rows_stand_in_front():
    X, y = single()
    train, test = last_fold(WalkForwardSplit(3, purge=2), X)
    for seq_len, expected in [(4, 15 + 3), (1, 15), (None, 60)]:
        fitted, _ = fit_on_rows(WindowClassifier(seq_len), X, y, np.ones(60), train, row_keys(X))
        predict_on_rows(fitted, X, test, row_keys(X), np.array(["down", "up"]))
        assert fitted.n_predicted_ == expected
        assert len(fitted.X_) == len(train)  # nothing after the purge, either
        assert (fitted.weight_ == 1).all()


def test_any_order_of_rows_is_answered_in_that_order():
    X, y = single()
    fitted, _ = fit_on_rows(WindowClassifier(), X, y, np.ones(60), np.arange(30), row_keys(X))
    rows = np.array([50, 31, 44])
    classes = np.array(["down", "up"])
    found = predict_on_rows(fitted, X, rows, row_keys(X), classes)
    np.testing.assert_array_equal(found, predict_log_proba(fitted, X, classes)[rows])


def test_rows_purged_in_between_are_history_and_their_labels_unused():
    X, y = single()
    # Every third row before the fold's test block looks far ahead.
    t1 = pd.Series(X.index, index=X.index)
    far = np.arange(2, 50, 3)
    t1.iloc[far] = X.index[-1]
    cv = WalkForwardSplit(1, t1=t1, test_size=10)
    train, test = last_fold(cv, X)
    assert not set(train) & set(far)
    model = make_pipeline(Watcher(), WindowClassifier())
    Watcher.seen.clear()
    fitted, usage = fit_on_rows(model, X, y, np.ones(60), train, row_keys(X))
    inner = fitted[-1]
    pd.testing.assert_frame_equal(inner.X_, X.iloc[:50], check_freq=False)  # no hole in any window
    assert np.flatnonzero(inner.weight_ == 0).tolist() == far.tolist()
    assert usage["fit"].tolist() == train.tolist()
    # Another label, even a third class, on rows outside the fold changes nothing, for a step without weights either.
    other = y.copy()
    other.iloc[np.concatenate([far, test])] = "sideways"
    fit_on_rows(model, X, other, np.ones(60), train, row_keys(X))
    assert Watcher.seen[0] == Watcher.seen[1]
    assert np.asarray(Watcher.seen[0])[train].tolist() == y.iloc[train].tolist()
    other[other == "sideways"] = "up"
    first, second = (walk_forward_predict(model, X, target, cv=cv) for target in (y, other))
    np.testing.assert_array_equal(first.log_proba, second.log_proba)
    # A label of the fold does change it.
    third = walk_forward_predict(
        model, X, y.where(y.index != X.index[0], "up" if y.iloc[0] == "down" else "down"), cv=cv
    )
    assert not np.array_equal(first.log_proba, third.log_proba, equal_nan=True)


def test_weights_of_zero_inside_are_history_too():
    X, y = single()
    weight = np.ones(60)
    weight[::4] = 0
    weight[5] = 2.5
    train, _ = last_fold(WalkForwardSplit(2, purge=1), X)
    fitted, usage = fit_on_rows(WindowClassifier(), X, y, weight, train, row_keys(X))
    np.testing.assert_array_equal(fitted.weight_, weight[: len(fitted.X_)])
    assert len(fitted.X_) == train[-1] + 1
    assert usage["fit"].tolist() == [row for row in train if weight[row]]
    out = walk_forward_predict(WindowClassifier(), X, y, cv=WalkForwardSplit(2, purge=1), sample_weight=weight)
    assert out.covered[20:].all()  # predicted all the same
    assert out.usage.rows("score").tolist() == [row for row in range(20, 60) if weight[row]]
    assert out.usage.rows("fit", fold=0).tolist() == [row for row in range(19) if weight[row]]


# -------------------------------------------------------------------------------- weights


def test_weights_reach_every_step_that_takes_them():
    weights = np.array([1.0, 2.0])
    inner = Pipeline([("scale", StandardScaler()), ("pca", PCA())])
    model = Pipeline(
        [
            ("first", inner),
            ("none", "passthrough"),
            ("select", SelectKBest()),
            ("last", Pipeline([("scale", StandardScaler()), ("model", LogisticRegression())])),
        ]
    )
    found = weight_parameters(model, weights)
    assert sorted(found) == [
        "first__scale__sample_weight",
        "last__model__sample_weight",
        "last__scale__sample_weight",
    ]
    assert all(value is weights for value in found.values())
    assert isinstance(final_estimator(model), LogisticRegression)
    assert weight_parameters(make_pipeline(StandardScaler(), KNeighborsClassifier()), weights) == {}
    assert weight_parameters(GaussianNB(), weights) == {"sample_weight": weights}


def test_weights_count_as_repeats_through_a_nested_pipeline():
    X, y = single()
    model = make_pipeline(
        make_pipeline(StandardScaler(), "passthrough"), make_pipeline(StandardScaler(), LogisticRegression())
    )
    weight = np.where(np.arange(60) % 5 == 0, 3.0, 1.0)
    rows = np.arange(40)
    weighted, _ = fit_on_rows(model, X, y, weight, rows, row_keys(X))
    repeated = np.repeat(rows, weight[rows].astype(int))
    by_hand = clone(model).fit(X.iloc[repeated], y.iloc[repeated])
    np.testing.assert_allclose(weighted[0][0].mean_, by_hand[0][0].mean_)
    np.testing.assert_allclose(weighted.predict_proba(X), by_hand.predict_proba(X), atol=1e-4)
    assert np.abs(clone(model).fit(X[:40], y[:40]).predict_proba(X) - by_hand.predict_proba(X)).max() > 1e-2


def test_a_model_without_weights():
    X = np.arange(60.0)[:, None]
    y = np.arange(60) % 2
    weight = np.ones(60)
    weight[[3, 5]] = 0
    fitted, usage = fit_on_rows(Memory(), X, y, weight, np.arange(10), row_keys(X))
    assert fitted.rows_ == [0, 1, 2, 4, 6, 7, 8, 9]  # rows stand alone: those of weight 0 are dropped
    assert usage["fit"].tolist() == fitted.rows_
    walk_forward_predict(Memory(), X, y, cv=WalkForwardSplit(2, purge=0), sample_weight=weight)
    weight[7] = 0.5
    with pytest.raises(EnsembleKitError, match=r"must take `sample_weight` where rows have weights; Memory\(\) does"):
        walk_forward_predict(Memory(), X, y, cv=WalkForwardSplit(2, purge=0), sample_weight=weight)
    with pytest.raises(EnsembleKitError, match="Memory"):
        fit_on_rows(make_pipeline(StandardScaler(), Memory()), X, y, weight, np.arange(10), row_keys(X))


class MemoryWithHistory(Memory):
    lookback = 2


def test_a_model_with_windows_and_no_weights_cannot_tell_history_apart():
    X, y = np.arange(60.0)[:, None], np.arange(60) % 2
    fit_on_rows(MemoryWithHistory(), X, y, np.ones(60), np.arange(10), row_keys(X))
    with pytest.raises(EnsembleKitError, match="must take `sample_weight`"):
        fit_on_rows(MemoryWithHistory(), X, y, np.ones(60), np.array([4, 6, 7]), row_keys(X))


def test_a_fold_without_weight_is_refused():
    X, y = single()
    with pytest.raises(EnsembleKitError, match="above 0 on some training rows of every fold"):
        walk_forward_predict(GaussianNB(), X, y, cv=WalkForwardSplit(2, purge=0), sample_weight=np.arange(60) > 30)


# -------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("labels", [("bottom", "peak", "slope"), (10, 20, 30), (-1.0, 0.0, 1.0)])
@pytest.mark.parametrize("model", [GaussianNB(), WindowClassifier(), make_pipeline(StandardScaler(), GaussianNB())])
def test_a_class_that_a_fold_lacks_is_floored_in_its_place(labels, model):
    X, _ = single()
    codes = np.random.default_rng(1).choice([0, 2], size=60)
    codes[25:] = np.random.default_rng(2).integers(0, 3, size=35)  # the middle class comes late
    y = pd.Series(np.array(labels)[codes], index=X.index)
    cv = WalkForwardSplit(2, purge=0)
    out = walk_forward_predict(model, X, y, cv=cv)
    assert out.classes.tolist() == list(labels)
    first = out.fold == 0
    assert (out.log_proba[first, 0, 1] == LOG_FLOOR).all()
    np.testing.assert_allclose(np.exp(out.log_proba[first][:, 0, [0, 2]]).sum(axis=1), 1, atol=1e-6)
    assert (out.log_proba[out.fold == 1, 0, 1] > LOG_FLOOR).any()
    # Each column is its class: a model of two classes by hand gives the same.
    by_hand = walk_forward_predict(
        model, X.iloc[:40], y.iloc[:40].where(codes[:40] != 1, labels[0]), cv=WalkForwardSplit(1, purge=0, test_size=20)
    )
    np.testing.assert_array_equal(by_hand.log_proba[20:40, 0], out.log_proba[20:40, 0][:, [0, 2]])


@pytest.mark.parametrize(
    "model", [LogisticRegression(), WindowClassifier(), make_pipeline(StandardScaler(), LogisticRegression())]
)
@pytest.mark.parametrize("several", [False, True])
def test_a_fold_of_one_class_predicts_it_and_warns(model, several):
    X, _ = single()
    y = np.where(np.arange(60) < 25, "slope", np.where(np.arange(60) % 2, "peak", "bottom"))
    if several:
        y, model = np.stack([y, y], axis=1), MultiOutputClassifier(LogisticRegression())
    with pytest.warns(UserWarning, match="have the class .*slope.* only") as record:
        out = walk_forward_predict(model, X, y, cv=WalkForwardSplit(2, purge=0))
    assert len(record) == 1
    assert "2022-01-03 01:35" in str(record[0].message)
    constant = out.log_proba[out.fold == 0]
    assert constant.shape == (20, 2 if several else 1, 3)
    assert (constant == [LOG_FLOOR, LOG_FLOOR, 0]).all()
    assert np.unique(out.log_proba[out.fold == 1]).size > 3
    assert out.usage.rows("fit", fold=0).tolist() == list(range(20))


def test_numbers_need_no_variety():
    X, _ = single()
    y = np.where(np.arange(60) < 30, 0.5, X["a"])
    fitted, usage = fit_on_rows(make_pipeline(StandardScaler(), Ridge()), X, y, np.ones(60), np.arange(30), row_keys(X))
    assert isinstance(final_estimator(fitted), Ridge)
    assert usage["fit"].tolist() == list(range(30))
    rows = np.array([50, 31])
    answer = predict_on_rows(fitted, X, rows, row_keys(X), method="predict")
    np.testing.assert_allclose(answer, [0.5, 0.5])


def test_a_target_of_one_class_is_the_models_own_affair():
    X, _ = single()
    with pytest.raises(ValueError, match="class"):
        walk_forward_predict(LogisticRegression(), X, np.zeros(60, dtype=int), cv=WalkForwardSplit(2, purge=0))


def test_several_horizons():
    X, y = single()
    y = pd.DataFrame({"H0": y, "H1": y.shift(-1, fill_value="up"), "H2": np.where(X["a"] > 0, "up", "flat")})
    out = walk_forward_predict(DecisionTreeClassifier(max_depth=2), X, y, cv=WalkForwardSplit(3, purge=0))
    assert out.log_proba.shape == (60, 3, 3)
    assert out.classes.tolist() == ["down", "flat", "up"]
    assert (out.log_proba[out.covered][:, :2, 1] == LOG_FLOOR).all()  # no "flat" in these two
    rows = out.covered
    np.testing.assert_array_equal(out.log_proba[rows].argmax(axis=2)[:, 2] == 2, X["a"][rows] > 0)


def test_one_horizon_in_a_frame_is_one_output():
    X, y = single()
    framed = walk_forward_predict(LogisticRegression(), X, y.to_frame(), cv=WalkForwardSplit(3, purge=0))
    plain = walk_forward_predict(LogisticRegression(), X, y, cv=WalkForwardSplit(3, purge=0))
    np.testing.assert_array_equal(framed.log_proba, plain.log_proba)


def test_lists_will_do():
    X, y = single()
    out = walk_forward_predict(GaussianNB(), X.to_numpy().tolist(), y.tolist(), cv=WalkForwardSplit(3, purge=0))
    same = walk_forward_predict(GaussianNB(), X, y, cv=WalkForwardSplit(3, purge=0))
    np.testing.assert_array_equal(out.log_proba, same.log_proba)


# ------------------------------------------------------------------------------ refused


@pytest.mark.parametrize("cv", [KFold(3), KFold(3, shuffle=True, random_state=0)])
def test_other_splitters_leak(cv):
    X, y = single()
    with pytest.raises(LeakageError, match="Use `WalkForwardSplit`"):
        walk_forward_predict(GaussianNB(), X, y, cv=cv)


class Leaky(Memory):
    """Claims to have stopped on rows that it was fitted on."""

    def fit(self, X, y):
        self.row_usage_ = {"fit": np.arange(len(X)), "stop": np.arange(3)}
        return super().fit(X, y)


def test_models_that_say_what_they_used_are_held_to_it():
    X, y = single()
    with pytest.raises(LeakageError, match="'fit' and 'stop'"):
        walk_forward_predict(Leaky(), X, y, cv=WalkForwardSplit(2, purge=0))


def test_stop_rows_are_reported_as_positions():
    class Stopper(Memory):
        def fit(self, X, y):
            self.row_usage_ = {"fit": np.arange(len(X) - 5), "stop": np.arange(len(X) - 5, len(X)), "none": []}
            return super().fit(X, y)

    X, y = single()
    weight = np.ones(60)
    weight[:10] = 0
    out = walk_forward_predict(Stopper(), X, y, cv=WalkForwardSplit(2, purge=0), sample_weight=weight)
    assert out.usage.rows("stop", fold=0).tolist() == [15, 16, 17, 18, 19]
    assert out.usage.rows("fit", fold=0).tolist() == [10, 11, 12, 13, 14]


def test_lengths_must_agree():
    X, y = single()
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        walk_forward_predict(GaussianNB(), X.to_numpy(), y.to_numpy()[:-1], cv=WalkForwardSplit(2, purge=0))
    with pytest.raises(EnsembleKitError, match="one weight a row"):
        walk_forward_predict(GaussianNB(), X, y, cv=WalkForwardSplit(2, purge=0), sample_weight=np.ones(59))


def test_a_panel_without_its_index_is_refused():
    X, y = panel()
    with pytest.raises(BarsError, match=r"must keep the panel's .* index"):
        walk_forward_predict(GaussianNB(), X.to_numpy(), y, cv=WalkForwardSplit(2, purge=0))
    with pytest.raises(BarsError, match="must keep the panel's"):
        check_panel_index(X.reset_index(drop=True), fitted_on_panel=True)
    check_panel_index(X, fitted_on_panel=True)
    check_panel_index(X, y.to_numpy())


def test_a_panels_index_reaches_the_model_through_a_pipeline():
    X, y = panel()
    fitted, _ = fit_on_rows(
        make_pipeline(StandardScaler(), WindowClassifier()), X, y, np.ones(len(X)), np.arange(50), row_keys(X)
    )
    assert fitted[-1].X_.index.equals(X.index[:50])


def test_y_must_lie_on_the_same_index():
    X, y = single()
    shifted = y.set_axis(X.index + pd.Timedelta(minutes=5))
    for wrong in (shifted, shifted.to_frame(), y.iloc[::-1], y.tz_convert(None)):
        with pytest.raises(BarsError, match="`y` must have the index of `X`"):
            walk_forward_predict(GaussianNB(), X, wrong, cv=WalkForwardSplit(2, purge=0))
    X_panel, y_panel = panel()
    with pytest.raises(BarsError, match="`y` must have the index of `X`"):
        check_panel_index(X_panel, y_panel.iloc[::-1])
    with pytest.raises(BarsError, match="`y` must have the index of `X`"):
        check_panel_index(X_panel, y_panel.reset_index("instrument", drop=True))
    check_panel_index(X, y)
    check_panel_index(X, y.set_axis(X.index.as_unit("ns").tz_convert("Asia/Tokyo").tz_convert("UTC")))
    check_panel_index(X, y.reset_index(drop=True))  # a reset index says nothing
    check_panel_index(X.to_numpy(), y)


def test_take_rows():
    X, _ = single()
    run = take_rows(X.to_numpy(), np.arange(3, 9))
    assert run.base is not None  # a view
    np.testing.assert_array_equal(run, X.to_numpy()[3:9])
    rows = np.array([3, 4, 8])
    pd.testing.assert_frame_equal(take_rows(X, rows), X.iloc[rows])
    assert len(take_rows(X, rows[:0])) == 0
