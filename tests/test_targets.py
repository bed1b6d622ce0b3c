"""Targets and probabilities: in any shape and kind of label, out in the same."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import calibration_slope, score_interval, shifted_label_scores
from ensemble_kit.targets import (
    LOG_FLOOR,
    Targets,
    check_classes,
    check_row_weights,
    one_horizon,
    place_columns,
    predict_log_proba,
    stack_horizons,
    unstack_horizons,
)

# ---------------------------------------------------------------------- encode, decode

ONE = [
    ([3, 1, 3, 10], [1, 3, 10]),
    (np.array([1.0, -1.0, 0.0]), [-1.0, 0.0, 1.0]),
    ([True, False, True], [False, True]),
    (["up", "down", "up"], ["down", "up"]),
    (np.array(["up", "a", "up"], dtype=object), ["a", "up"]),
    (pd.Series(["up", "down"]), ["down", "up"]),
    (pd.Series(["up", "down"], dtype="category"), ["down", "up"]),
    (pd.Series([10, 9, 2], dtype="Int64"), [2, 9, 10]),
    (pd.Series([True, False], dtype="boolean"), [False, True]),
    (np.array([10, 9, 2], dtype=object), [2, 9, 10]),
]
SEVERAL = [
    ([[1, 2], [2, 10]], [1, 2, 10]),
    (np.array([["up", "down"], ["up", "flat"]]), ["down", "flat", "up"]),
    (np.array([["up", "down"], ["up", "flat"]], dtype=object), ["down", "flat", "up"]),
    (np.array([[True, True], [False, True]]), [False, True]),
    (pd.DataFrame({"H0": ["up", "down"], "H1": ["up", "up"]}), ["down", "up"]),
    (pd.DataFrame({"H0": [10, 9], "H1": [2, 2]}, dtype="Int64"), [2, 9, 10]),
    (pd.DataFrame({"H0": ["up", "down"]}), ["down", "up"]),
    (pd.DataFrame({"H0": [1, 1]}), [1]),
]


@pytest.mark.parametrize(("y", "classes"), ONE + SEVERAL)
def test_encode_and_decode(y, classes):
    values = np.array(y.astype(object) if hasattr(y, "iloc") else y)
    targets = Targets.encode(y)
    assert targets.classes.tolist() == classes
    assert targets.classes.dtype != object
    assert targets.single == (values.ndim == 1)
    assert targets.n_horizons == (1 if values.ndim == 1 else values.shape[1])
    assert targets.codes.shape == (len(values), targets.n_horizons)
    assert targets.codes.dtype == np.int64
    assert targets.decode(targets.codes).tolist() == values.tolist()
    again = Targets.encode(y, classes=targets.classes)
    assert again.codes.tolist() == targets.codes.tolist()
    assert targets.decode(targets.codes[::-1]).tolist() == values[::-1].tolist()


def test_a_column_is_one_output():
    with pytest.warns(DataConversionWarning):
        targets = Targets.encode(np.array([[1], [2]]))
    assert targets.single


def test_known_classes():
    targets = Targets.encode(["c", "a"], classes=np.array(["a", "b", "c"]))
    assert targets.codes.tolist() == [[2], [0]]
    with pytest.raises(EnsembleKitError, match=r"only the classes \[10, 20\]; got \[5, 15, 30\] besides"):
        Targets.encode([10, 30, 15, 5, 30], classes=np.array([10, 20]))
    with pytest.raises(EnsembleKitError, match=r"only the classes \['a', 'b'\]; got \[1, 2\] besides"):
        Targets.encode([1, 2], classes=np.array(["a", "b"]))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_labels(missing):
    for y in (
        pd.Series(["up", "down", missing]),
        pd.DataFrame({"H0": ["up", "up", "down"], "H1": ["up", "down", missing]}),
        np.array(["up", "down", missing], dtype=object),
        pd.Series([1, 2, missing], dtype="Int64"),
    ):
        with pytest.raises(EnsembleKitError, match=r"no missing label .*; row 2 has one\. Drop .*labels\.align"):
            Targets.encode(y)


@pytest.mark.parametrize("y", [[0.5, 1.2], np.zeros((2, 2, 2)), [1, np.inf], [[0.5, 1.2], [0.1, 0.2]]])
def test_no_classes(y):
    with pytest.raises(ValueError):
        Targets.encode(y)


def test_no_target():
    with pytest.raises(EnsembleKitError, match="requires y to be passed"):
        Targets.encode(None)


# -------------------------------------------------------------------- stack, unstack


def test_stack_and_unstack():
    proba = np.random.default_rng(0).random((5, 2, 3)).astype(np.float32)
    several = unstack_horizons(proba, False)
    assert [part.shape for part in several] == [(5, 3), (5, 3)]
    for form in (several, tuple(several), proba):
        assert stack_horizons(form).dtype == np.float64
        np.testing.assert_array_equal(stack_horizons(form), proba)
    one = unstack_horizons(proba[:, :1], True)
    np.testing.assert_array_equal(one, proba[:, 0])
    np.testing.assert_array_equal(stack_horizons(one), proba[:, :1])
    with pytest.raises(EnsembleKitError, match=r"got \(3,\)\. Pass what `predict_proba` returns"):
        stack_horizons(np.ones(3))


# ----------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (["a", "c"], ["a", "b", "c"]),
        (np.array(["c", "a"], dtype=object), ["a", "b", "c"]),
        ([10, 30], [10, 20, 30]),
        ([30, 10], [10.0, 20.0, 30.0]),
        ([1, 10], ["1", "10"]),  # a model that was given objects
    ],
)
def test_place_columns(have, want):
    have, want = np.asarray(have), np.array(want)
    log_proba = np.log([[0.25, 0.75], [1.0, 1e-30]])
    placed = place_columns(log_proba, have, want)
    assert placed.shape == (2, len(want))
    for column, label in enumerate(want.tolist()):
        at = np.flatnonzero(have.astype(want.dtype) == label)
        expected = np.maximum(log_proba[:, at[0]], LOG_FLOOR) if len(at) else np.full(2, LOG_FLOOR)
        np.testing.assert_array_equal(placed[:, column], expected)


@pytest.mark.parametrize(("have", "want"), [([1, 2], [1, 3]), ([4], [1, 3]), (["x"], ["a", "y"])])
def test_unknown_classes_have_no_place(have, want):
    with pytest.raises(EnsembleKitError, match=r"`classes_` must be among \[.*\]; got \["):
        place_columns(np.zeros((1, len(have))), np.array(have), np.array(want))


X = np.random.default_rng(0).normal(size=(60, 2))
LABELS = {
    "strings": np.array(["a", "b", "c"]),
    "objects": np.array(["a", "b", "c"], dtype=object),
    "integers": np.array([10, 20, 30]),
    "floats": np.array([-1.0, 0.0, 1.0]),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize(
    "model", [GaussianNB(), KNeighborsClassifier(1), make_pipeline(StandardScaler(), GaussianNB())]
)
def test_log_proba_of_one_output(kind, model):
    classes = LABELS[kind]
    y = classes[np.where(X[:, 0] > 0, 2, 0)]  # no middle class
    found = predict_log_proba(model.fit(X, y), X, np.unique(classes.tolist()))
    assert found.shape == (60, 1, 3)
    assert (found[:, 0, 1] == LOG_FLOOR).all()
    assert (found >= LOG_FLOOR).all()
    expected = np.maximum(np.log(np.maximum(model.predict_proba(X), 1e-300)), LOG_FLOOR)
    np.testing.assert_allclose(found[:, 0, [0, 2]], expected)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("model", [MultiOutputClassifier(GaussianNB()), KNeighborsClassifier(3)])
def test_log_proba_of_several_outputs(kind, model):
    classes = LABELS[kind]
    codes = np.stack([np.where(X[:, 0] > 0, 2, 0), np.where(X[:, 1] > 0, 1, 0) + (X[:, 0] > 1)], axis=1)
    model.fit(X, classes[codes])
    found = predict_log_proba(model, X, np.unique(classes.tolist()))
    assert found.shape == (60, 2, 3)
    assert (found[:, 0, 1] == LOG_FLOOR).all()
    first, second = model.predict_proba(X)
    np.testing.assert_allclose(np.exp(found[:, 0, [0, 2]]), first, atol=2e-7)
    np.testing.assert_allclose(np.exp(found[:, 1]), second, atol=2e-7)


def test_a_model_without_probabilities():
    model = LinearSVC().fit(X, X[:, 0] > 0)
    with pytest.raises(EnsembleKitError, match=r"got LinearSVC, which has no `predict_proba`. Wrap it"):
        predict_log_proba(model, X, np.array([False, True]))


def test_the_floor_is_that_of_a_float32_softmax():
    assert np.log(np.finfo(np.float32).eps) == LOG_FLOOR
    sure = LogisticRegression(C=1e6).fit(X, X[:, 0] > 0)
    assert predict_log_proba(sure, X * 1e3, np.array([False, True])).min() == LOG_FLOOR


# ------------------------------------------------------------------------------ weights


def test_weights():
    np.testing.assert_array_equal(check_row_weights(None, 3), [1, 1, 1])
    np.testing.assert_array_equal(check_row_weights(2, 3), [2, 2, 2])
    weights = check_row_weights(pd.Series([0, 1, 2], index=[5, 6, 7]), 3)
    assert weights.dtype == np.float64
    assert weights.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ([1, 2], r"shape \(3,\); got shape \(2,\)"),
        (np.ones((3, 1)), r"got shape \(3, 1\)"),
        ([1, -0.5, 1], "finite and at least 0; got -0.5 at row 1"),
        ([1, 1, np.nan], "got nan at row 2"),
        ([np.inf, 1, 1], "got inf at row 0"),
        ([0, 0, 0], "above zero somewhere"),
        (0, "above zero somewhere"),
    ],
)
def test_weights_refused(weights, match):
    with pytest.raises(EnsembleKitError, match=match):
        check_row_weights(weights, 3)


# ------------------------------------------------------------------------ frames and lists


def test_a_list_is_of_horizons_where_its_elements_are_frames_of_rows():
    proba = np.random.default_rng(0).random((4, 3))
    for rows in (proba.tolist(), list(proba), tuple(map(tuple, proba))):
        np.testing.assert_array_equal(stack_horizons(rows), proba[:, None])
    for one in (proba, proba.tolist(), pd.DataFrame(proba)):
        np.testing.assert_array_equal(stack_horizons([one, one]), np.stack([proba, proba], axis=1))
    with pytest.raises(EnsembleKitError, match=r"^`proba` must have shape .*; got \(0,\)\. Pass what"):
        stack_horizons([])


def test_columns_are_placed_by_their_names():
    proba = np.random.default_rng(0).random((4, 3))
    classes = np.array([3, 1, 2])
    named = pd.DataFrame(proba, columns=pd.Index([3, 1, 2]))[[1, 2, 3]]
    for form in (named, [named], proba, pd.DataFrame(proba)):  # pandas numbers columns without names
        np.testing.assert_array_equal(stack_horizons(form, classes=classes)[:, 0], proba)
    # Numbers that do not start at 0 upwards are names.
    numbered = pd.DataFrame(proba).iloc[:, ::-1]
    assert isinstance(numbered.columns, pd.RangeIndex)
    np.testing.assert_array_equal(stack_horizons(numbered, classes=np.array([0, 1, 2]))[:, 0], proba)
    np.testing.assert_array_equal(
        stack_horizons(pd.DataFrame(proba, columns=["1", "2", "3"]), classes=np.array(["2", "3", "1"]))[:, 0],
        proba[:, [1, 2, 0]],
    )
    for columns in (["a", "b", "c"], [1, 2, 2], [(1, "x"), (2, "x"), (3, "x")]):
        with pytest.raises(
            EnsembleKitError, match=r"must have a column for each of the classes \[3, 1, 2\], and no other"
        ):
            stack_horizons(pd.DataFrame(proba, columns=columns), classes=classes)


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ("up", r"^`classes` must be a sequence of labels, one a column; got 'up'\. Pass the fitted model's `classes_`"),
        ([], r"^`classes` must be a sequence of labels, one a column; got \[\]\. Pass"),
        ([["a", "b"], ["a", "b"]], "must be a sequence of labels"),
        ([["a", "b"], ["a"]], "must be a sequence of labels"),
        (None, "must be a sequence of labels, one a column; got None"),
        (
            [1, 2, 1],
            r"^`classes` must name each class once; got \[1, 2, 1\], with \[1\] repeated\. Pass the fitted model's ",
        ),
    ],
)
def test_classes_that_are_none(classes, says):
    with pytest.raises(EnsembleKitError, match=says):
        check_classes(classes)


def test_classes_stay_in_their_order():
    assert check_classes(np.array(["up", "down"], dtype=object)).dtype.kind == "U"
    assert check_classes(pd.Index([2, 1])).tolist() == [2, 1]


def test_a_target_without_rows():
    for y in ([], np.empty((0, 2)), pd.Series([], dtype=str)):
        with pytest.raises(
            EnsembleKitError, match=r"^`y` must have a row at least; got none\. Widen the span that was "
        ):
            Targets.encode(y)


@pytest.mark.parametrize("horizon", [-1, 2, None, 0.5])
def test_a_horizon_that_is_not_there_is_named(horizon):
    match = rf"^`horizon` must be from 0 to 1; got {horizon}\. Count from 0\.$"
    y, proba = np.tile([[0, 1], [1, 0]], (30, 1)), [np.full((60, 2), 0.5)] * 2
    for score in (
        lambda: score_interval(y, proba, classes=[0, 1], horizon=horizon),
        lambda: shifted_label_scores(y, proba, classes=[0, 1], events=[1], min_shift=5, horizon=horizon),
        lambda: calibration_slope(y, proba, classes=[0, 1], event=1, horizon=horizon),
        lambda: one_horizon(y, horizon),
    ):
        with pytest.raises(EnsembleKitError, match=match):
            score()


def test_labels_alone_are_the_first_horizon():
    y = np.array([0, 1, 1])
    assert np.array_equal(one_horizon(y, 0), y)
    with pytest.raises(EnsembleKitError, match=r"^`horizon` must be from 0 to 0; got 1\."):
        one_horizon(y, 1)
