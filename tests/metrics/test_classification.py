"""Scores of probabilities: against scikit-learn's and against hand formulas."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import average_precision_score, brier_score_loss

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import (
    auc_pr,
    auc_pr_by_class,
    brier_decomposition,
    brier_score,
    brier_skill,
    calibration_slope,
    compare_scores,
    expected_calibration_error,
    reliability_curve,
    score_interval,
    shifted_label_scores,
)

CLASSES = ["bottom", "peak", "slope"]


@pytest.fixture(scope="module")
def data():
    """Labels (n, 2) and their probabilities (n, 2, 3), columns in order of name."""
    rng = np.random.default_rng(0)
    proba = softmax(rng.normal(size=(300, 2, 3)) * 2, axis=2)
    codes = (proba.cumsum(axis=2) < rng.uniform(size=(300, 2, 1))).sum(axis=2)
    return np.array(CLASSES)[codes], proba


def by_sklearn(y, proba, weights=None):
    return np.array(
        [
            [
                average_precision_score(y[:, h] == c, proba[:, h, k], sample_weight=weights)
                for k, c in enumerate(CLASSES)
            ]
            for h in range(y.shape[1])
        ]
    )


# ------------------------------------------------------------------------------------- AUC-PR


def test_auc_pr_is_sklearns_average_precision(data):
    y, proba = data
    table = auc_pr_by_class(y, proba, classes=CLASSES)
    np.testing.assert_allclose(table, by_sklearn(y, proba), rtol=1e-12)
    assert table.columns.tolist() == CLASSES
    assert table.index.tolist() == ["H0", "H1"]
    np.testing.assert_allclose(auc_pr(y, proba, classes=CLASSES), table.mean(axis=1))
    only = auc_pr(y, proba, classes=CLASSES, events=["peak", "bottom"])
    np.testing.assert_allclose(only, table[["peak", "bottom"]].mean(axis=1))


def test_columns_may_come_in_any_order_of_classes(data):
    y, proba = data
    order = [2, 0, 1]
    turned = [CLASSES[k] for k in order]
    table = auc_pr_by_class(y, proba[:, :, order], classes=turned)
    np.testing.assert_allclose(table[CLASSES], by_sklearn(y, proba), rtol=1e-12)
    prior = np.array([0.1, 0.2, 0.7])
    np.testing.assert_allclose(
        brier_score(y, proba[:, :, order], classes=turned), brier_score(y, proba, classes=CLASSES)
    )
    np.testing.assert_allclose(
        brier_skill(y, proba[:, :, order], prior[order], classes=turned), brier_skill(y, proba, prior, classes=CLASSES)
    )
    assert calibration_slope(y, proba[:, :, order], classes=turned, event="peak") == calibration_slope(
        y, proba, classes=CLASSES, event="peak"
    )


def test_shapes_of_probabilities_are_one_thing(data):
    y, proba = data
    listed = [proba[:, 0], proba[:, 1]]
    pd.testing.assert_frame_equal(
        auc_pr_by_class(y, listed, classes=CLASSES), auc_pr_by_class(y, proba, classes=CLASSES)
    )
    one = auc_pr_by_class(y[:, 0], proba[:, 0], classes=CLASSES)
    pd.testing.assert_frame_equal(one, auc_pr_by_class(y, proba, classes=CLASSES).iloc[:1])
    frame = pd.DataFrame(y, columns=["H0", "H1"])
    np.testing.assert_array_equal(brier_score(frame, listed, classes=CLASSES), brier_score(y, proba, classes=CLASSES))


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        ([0, 1, 1, 0, 2, 1], [0, 1, 2]),
        ([-1, 0, 0, -1, 1, 0], [-1, 0, 1]),
        (["a", "b", "b", "a", "c", "b"], ["a", "b", "c"]),
        (np.array(["a", "b", "b", "a", "c", "b"], dtype=object), np.array(["a", "b", "c"], dtype=object)),
        (np.array([0, 1, 1, 0, 2, 1], dtype=object), np.array([0, 1, 2], dtype=object)),
        (np.array([0.0, 1.0, 1.0, 0.0, 2.0, 1.0]), [0, 1, 2]),
    ],
    ids=["int", "negative", "str", "object", "object-int", "float"],
)
def test_labels_of_any_kind(y, classes):
    proba = np.random.default_rng(1).dirichlet(np.ones(3), size=6)
    expected = [average_precision_score(np.asarray(y) == c, proba[:, k]) for k, c in enumerate(classes)]
    np.testing.assert_allclose(auc_pr_by_class(y, proba, classes=classes).iloc[0], expected)
    assert auc_pr(y, proba, classes=classes, events=[classes[1]])[0] == pytest.approx(expected[1])


def test_bool_labels():
    y, proba = np.array([True, False, True]), np.array([[0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    table = auc_pr_by_class(y, proba, classes=[False, True], events=[True])
    assert table.columns.tolist() == [True]
    assert table.iloc[0, 0] == pytest.approx(average_precision_score(y, proba[:, 1]))


def test_rows_of_weight_zero_do_not_count(data):
    y, proba = data
    rng = np.random.default_rng(2)
    weights = rng.choice([0.0, 0.5, 2.0], size=len(y))
    keep = weights > 0
    spoilt = proba.copy()
    spoilt[~keep] = np.nan
    np.testing.assert_allclose(
        auc_pr_by_class(y, spoilt, classes=CLASSES, sample_weight=weights),
        by_sklearn(y[keep], proba[keep], weights[keep]),
        rtol=1e-12,
    )
    zero_one = keep.astype(float)
    for score in (auc_pr, brier_score, expected_calibration_error):
        np.testing.assert_allclose(
            score(y, spoilt, classes=CLASSES, sample_weight=zero_one), score(y[keep], proba[keep], classes=CLASSES)
        )
    assert calibration_slope(y, spoilt, classes=CLASSES, event="peak", sample_weight=zero_one) == pytest.approx(
        calibration_slope(y[keep], proba[keep], classes=CLASSES, event="peak")
    )


def test_a_weight_of_two_is_the_row_twice(data):
    y, proba = data
    twice = np.concatenate([np.arange(len(y)), np.arange(50)])
    weights = np.bincount(twice).astype(float)
    for score in (auc_pr, brier_score, expected_calibration_error):
        np.testing.assert_allclose(
            score(y, proba, classes=CLASSES, sample_weight=weights), score(y[twice], proba[twice], classes=CLASSES)
        )


def test_absent_class_is_left_out_with_a_warning(data):
    y, proba = data
    y = np.where(y == "peak", "slope", y)
    y[0, 1] = "peak"
    with pytest.warns(UserWarning, match="no row of class peak at some horizon"):
        table = auc_pr_by_class(y, proba, classes=CLASSES)
    assert table.isna().to_numpy().tolist() == [[False, True, False], [False, False, False]]
    with pytest.warns(UserWarning, match="no row of class peak"):
        mean = auc_pr(y, proba, classes=CLASSES)
    np.testing.assert_allclose(mean, [table.iloc[0].dropna().mean(), table.iloc[1].mean()])
    with pytest.warns(UserWarning, match="no row of class peak"):
        assert auc_pr(y[:, 0], proba[:, 0], classes=CLASSES, events=["peak"]) == [0.0]


@pytest.mark.parametrize("score", [auc_pr_by_class, auc_pr, expected_calibration_error])
@pytest.mark.parametrize("event", ["pea", "peaks_and_more", "bottomless"])
def test_unknown_events_are_named(data, score, event):
    # "bottomless" cut to the length of the longest class would be "bottom".
    y, proba = data
    with pytest.raises(EnsembleKitError, match=rf"`events` must be among the classes .*got \['{event}'\]"):
        score(y, proba, classes=CLASSES, events=["peak", event])
    with pytest.raises(EnsembleKitError, match="`events` must be among"):
        calibration_slope(y, proba, classes=CLASSES, event=event)


def test_events_are_not_rounded_to_classes():
    proba = np.array([[0.2, 0.8], [0.6, 0.4]])
    with pytest.raises(EnsembleKitError, match=r"got \[1.5\]"):
        auc_pr([0, 1], proba, classes=[0, 1], events=[1.5])


def test_bad_probabilities_are_refused(data):
    y, proba = data
    with pytest.raises(EnsembleKitError, match=r"`proba` must have shape \(300, 2, 3\).*got \(300, 1, 3\)"):
        auc_pr(y, proba[:, 0], classes=CLASSES)
    spoilt = proba.copy()
    spoilt[7, 1, 0] = np.inf
    for score in (auc_pr, brier_score, expected_calibration_error):
        with pytest.raises(EnsembleKitError, match="`proba` must be finite where rows count; row 7"):
            score(y, spoilt, classes=CLASSES)


# -------------------------------------------------------------------------------------- Brier


def test_brier_score_by_hand_and_by_sklearn(data):
    y, proba = data
    hand = [
        sum((proba[i, h, k] - (y[i, h] == c)) ** 2 for i in range(len(y)) for k, c in enumerate(CLASSES)) / len(y)
        for h in range(2)
    ]
    np.testing.assert_allclose(brier_score(y, proba, classes=CLASSES), hand)
    p = proba[:, 0, 0] / (proba[:, 0, 0] + proba[:, 0, 1])
    two = brier_score(y[:, 0] == "peak", np.column_stack([1 - p, p]), classes=[False, True])
    assert two[0] == pytest.approx(2 * brier_score_loss(y[:, 0] == "peak", p))
    assert brier_score([0, 1], np.eye(2), classes=[0, 1]) == [0.0]
    assert brier_score([0, 1], np.eye(2)[::-1], classes=[0, 1]) == [2.0]


def test_brier_judges_probabilities(data):
    y, proba = data
    says = (
        r"^`{}` must hold probabilities, in \[0, 1\] and of sum 1 over the classes; row {} has \[\[.*\]\] "
        r"\({} such row\(s\)\)\. Predict with `method=\"predict_proba\"`, or take `np\.exp` of log-probabilities\.$"
    )
    for row in ([-0.1, 0.5, 0.6], [1.1, 0.0, -0.1], [0.2, 0.2, 0.2], [-0.7, -0.7, -np.inf], [-np.inf, np.inf, 0.0]):
        spoilt = proba.copy()
        spoilt[7, 1] = row
        with pytest.raises(EnsembleKitError, match=says.format("proba", 7, 1)):
            brier_score(y, spoilt, classes=CLASSES)
        with pytest.raises(EnsembleKitError, match=says.format("proba", 7, 1)):
            brier_skill(y, spoilt, [0.2, 0.3, 0.5], classes=CLASSES)
        weights = np.arange(300) != 7
        brier_score(y, spoilt, classes=CLASSES, sample_weight=weights)
    with pytest.raises(EnsembleKitError, match=says.format("proba", 0, 300)):
        brier_score(y, np.log(proba), classes=CLASSES)
    with pytest.raises(EnsembleKitError, match=says.format("prior", 0, 300)):
        brier_skill(y, proba, [20, 30, 50], classes=CLASSES)
    rounded = proba.astype(np.float32) * np.float32(1 + 2e-7)
    np.testing.assert_allclose(brier_score(y, rounded, classes=CLASSES), brier_score(y, proba, classes=CLASSES))


def test_brier_skill_of_the_prior_is_zero(data):
    y, proba = data
    prior = np.array([0.2, 0.3, 0.5])
    constant = np.broadcast_to(prior, proba.shape)
    np.testing.assert_array_equal(brier_skill(y, constant, prior, classes=CLASSES), [0.0, 0.0])
    by_horizon = np.array([prior, [0.4, 0.4, 0.2]])
    skill = brier_skill(y, proba, by_horizon, classes=CLASSES)
    reference = brier_score(y, np.broadcast_to(by_horizon, proba.shape), classes=CLASSES)
    np.testing.assert_allclose(skill, 1 - brier_score(y, proba, classes=CLASSES) / reference)
    assert brier_skill([0, 1], np.eye(2), [0.5, 0.5], classes=[0, 1]) == [1.0]


def test_brier_skill_against_a_perfect_prior_is_unknown():
    proba = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert np.isnan(brier_skill([0, 0], proba, [1.0, 0.0], classes=[0, 1])).all()


def test_nothing_warns_on_ordinary_data(data):
    y, proba = data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auc_pr(y, proba, classes=CLASSES)
        calibration_slope(y, proba, classes=CLASSES, event="peak")


# ------------------------------------------------------------------------ frames


@pytest.mark.parametrize(
    "score",
    [
        auc_pr,
        brier_score,
        lambda y, p, classes: calibration_slope(y, p, classes=classes, event="peak"),
        expected_calibration_error,
        reliability_curve,
        brier_decomposition,
        lambda y, p, classes: brier_skill(y, p, [0.3, 0.3, 0.4], classes=classes),
        lambda y, p, classes: score_interval(y, p, classes=classes, scorer="brier", horizon=1, random_state=0),
        lambda y, p, classes: compare_scores(y, p, p, classes=classes, scorer="brier", horizon=1, random_state=0),
        lambda y, p, classes: shifted_label_scores(
            y, p, classes=classes, min_shift=5, horizon=1, n_shifts=5, random_state=0
        ),
    ],
)
def test_columns_of_frames_are_placed_by_name(data, score):
    y, proba = data
    expected = score(y, proba, classes=CLASSES)
    named = [pd.DataFrame(proba[:, h], columns=CLASSES)[["slope", "bottom", "peak"]] for h in range(2)]
    unnamed = [pd.DataFrame(proba[:, h]) for h in range(2)]
    for form in (named, unnamed, [part.tolist() for part in proba.swapaxes(0, 1)]):
        np.testing.assert_array_equal(score(y, form, classes=CLASSES), expected)
    wrong = [part.rename(columns={"slope": "flat"}) for part in named]
    with pytest.raises(
        EnsembleKitError, match=r"^`proba` must have a column for each of the classes .*'flat'.*order\.$"
    ):
        score(y, wrong, classes=CLASSES)
    with pytest.raises(
        EnsembleKitError, match=r"^`classes` must name each class once; got .*, with \['peak'\] repeated"
    ):
        score(y, proba, classes=["bottom", "peak", "peak"])


@pytest.mark.parametrize("scorer", ["brier", "auc_pr"])
def test_one_frame_without_names_is_in_order(data, scorer):
    y, proba = data[0][:, 0], data[1][:, 0]
    told = {"classes": CLASSES, "scorer": scorer, "random_state": 0}
    expected = score_interval(y, proba, **told)
    assert score_interval(y, pd.DataFrame(proba), **told) == expected
    assert score_interval(y, pd.DataFrame(proba, columns=CLASSES).iloc[:, ::-1], **told) == expected


def test_a_prior_is_placed_by_name(data):
    y, proba = data[0][:, 0], data[1][:, 0]
    shares = pd.Series(y).value_counts(normalize=True)
    assert shares.index.tolist() != CLASSES
    expected = brier_skill(y, proba, shares[CLASSES].to_numpy(), classes=CLASSES)
    assert brier_skill(y, proba, shares, classes=CLASSES) == expected
    assert brier_skill(y, proba, shares.to_frame().T, classes=CLASSES) == expected
