"""Calibration measures: against hand formulas, identities that hold exactly, and coverage of intervals."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit, softmax
from scipy.stats import norm
from sklearn.calibration import calibration_curve

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import (
    brier_decomposition,
    brier_score,
    calibration_slope,
    expected_calibration_error,
    reliability_curve,
)

CLASSES = ["bottom", "peak", "slope"]


@pytest.fixture(scope="module")
def data():
    """Labels (n, 2) and their probabilities (n, 2, 3), columns in order of name."""
    rng = np.random.default_rng(0)
    proba = softmax(rng.normal(size=(300, 2, 3)) * 2, axis=2)
    codes = (proba.cumsum(axis=2) < rng.uniform(size=(300, 2, 1))).sum(axis=2)
    return np.array(CLASSES)[codes], proba


def two(p):
    return np.column_stack([1 - p, p])


# ------------------------------------------------------------------------------------ slope


@pytest.fixture(scope="module")
def calibrated():
    rng = np.random.default_rng(3)
    score = rng.normal(-1.0, 1.5, size=100_000)
    return (rng.uniform(size=len(score)) < expit(score)).astype(int), score


@pytest.mark.parametrize(
    ("stretch", "shift", "slope", "intercept"), [(1.0, 0.0, 1.0, 0.0), (3.0, 0.0, 1 / 3, 0.0), (0.5, 0.3, 2.0, -0.6)]
)
def test_slope_and_intercept_are_recovered(calibrated, stretch, shift, slope, intercept):
    y, score = calibrated
    p = expit(stretch * score + shift)
    found = calibration_slope(y, np.column_stack([1 - p, p]), classes=[0, 1], event=1)
    np.testing.assert_allclose(found, (slope, intercept), atol=0.03)


def test_slope_solves_the_score_equations(data):
    y, proba = data
    weights = np.random.default_rng(4).uniform(0.1, 3, size=len(y))
    slope, intercept = calibration_slope(y, proba, classes=CLASSES, event="slope", horizon=1, sample_weight=weights)
    score = logit(proba[:, 1, 2])
    residual = weights * ((y[:, 1] == "slope") - expit(slope * score + intercept))
    assert abs(residual.sum()) < 1e-6 * weights.sum()
    assert abs((residual * score).sum()) < 1e-6 * weights.sum()


@pytest.mark.parametrize("reverse", [False, True])
def test_slope_is_unknown_where_there_is_no_finite_one(reverse):
    p = np.linspace(0.05, 0.95, 10)
    proba = np.column_stack([1 - p, p])[:: -1 if reverse else 1]
    nothing = [[0] * 10, [1] * 10, [0] * 5 + [1] * 5]
    for y in nothing:
        assert np.isnan(calibration_slope(y, proba, classes=[0, 1], event=1)).all()
    constant = np.tile([0.7, 0.3], (10, 1))
    assert np.isnan(calibration_slope([0, 1] * 5, constant, classes=[0, 1], event=1)).all()


def test_slope_takes_certain_probabilities():
    rng = np.random.default_rng(5)
    p = np.clip(np.round(rng.uniform(-0.2, 1.2, size=2000), 2), 0, 1)
    y = (rng.uniform(size=2000) < p).astype(int)
    y[np.flatnonzero(p == 1)[:3]] = 0  # where it was certain, it was wrong
    slope, intercept = calibration_slope(y, np.column_stack([1 - p, p]), classes=[0, 1], event=1)
    assert 0 < slope < 1
    assert np.isfinite(intercept)


# -------------------------------------------------------------------------------------- ECE


def test_ece_of_a_calibrated_constant_is_zero():
    # In time order all events come last: bins that cut the tie would call it miscalibrated.
    y = np.repeat([0, 1], [70, 30])
    table = expected_calibration_error(y, np.tile([0.7, 0.3], (100, 1)), classes=[0, 1])
    np.testing.assert_allclose(table, 0.0, atol=1e-12)
    off = expected_calibration_error(y, np.tile([0.6, 0.4], (100, 1)), classes=[0, 1])
    np.testing.assert_allclose(off, 0.1)


def test_ece_by_hand():
    p = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
    y = np.array([0, 1, 0, 1, 1, 0])
    # Two bins of equal mass: mean 0.2 against 1/3, and 2.2/3 against 2/3.
    expected = 0.5 * abs(0.2 - 1 / 3) + 0.5 * abs(2.2 / 3 - 2 / 3)
    shuffle = np.array([3, 0, 5, 1, 4, 2])
    proba = np.column_stack([1 - p, p])[shuffle]
    table = expected_calibration_error(y[shuffle], proba, classes=[0, 1], n_bins=2)
    np.testing.assert_allclose(table, expected)
    # Weight moves the border: the first two rows are half of the mass.
    weights = np.array([2.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    first = abs(2 * 0.1 + 2 * (0.2 - 1))
    second = abs(0.3 + (0.6 - 1) + (0.7 - 1) + 0.9)
    table = expected_calibration_error(y[shuffle], proba, classes=[0, 1], n_bins=2, sample_weight=weights[shuffle])
    np.testing.assert_allclose(table, (first + second) / 8)


def test_the_middle_of_a_tie_decides_its_bin():
    # Three quarters of the mass are one value: it fills the first of two bins, and the rest is apart.
    p = np.array([0.2, 0.2, 0.2, 0.8])
    table = expected_calibration_error([1, 0, 0, 0], np.column_stack([1 - p, p]), classes=[0, 1], events=[1], n_bins=2)
    assert table.iloc[0, 0] == pytest.approx((abs(0.6 - 1) + 0.8) / 4)
    # As the last of them, it begins in the first bin, and lies in the second.
    p = np.array([0.2, 0.8, 0.8, 0.8])
    table = expected_calibration_error([1, 1, 0, 0], np.column_stack([1 - p, p]), classes=[0, 1], events=[1], n_bins=2)
    assert table.iloc[0, 0] == pytest.approx((abs(0.2 - 1) + abs(2.4 - 1)) / 4)


def test_ece_of_calibrated_probabilities_is_small_and_of_tempered_ones_is_not(calibrated):
    y, score = calibrated
    ece = [
        expected_calibration_error(y, np.column_stack([1 - p, p]), classes=[0, 1], events=[1]).iloc[0, 0]
        for p in (expit(score), expit(4 * score))
    ]
    assert ece[0] < 0.01
    assert ece[1] > 0.1


def test_ece_of_the_top_label_by_hand():
    proba = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.1, 0.7], [0.0, 0.1, 0.9]])
    y = ["bottom", "slope", "slope", "slope"]  # right, wrong, right, right
    table = expected_calibration_error(y, proba, classes=CLASSES, kind="top_label", n_bins=2)
    assert table.columns.tolist() == ["top_label"]
    # Bins {0.5, 0.6} and {0.7, 0.9}: mean 0.55 against 1/2, and 0.8 against 1.
    np.testing.assert_allclose(table, 0.5 * 0.05 + 0.5 * 0.2)
    turned = expected_calibration_error(y, proba[:, [2, 0, 1]], classes=["slope", "bottom", "peak"], kind="top_label")
    pd.testing.assert_frame_equal(turned, expected_calibration_error(y, proba, classes=CLASSES, kind="top_label"))
    assert expected_calibration_error([0, 1], np.eye(2), classes=[0, 1], kind="top_label").iloc[0, 0] == 0.0


def test_ece_says_what_it_cannot_do(data):
    y, proba = data
    known = {"classes": CLASSES}
    with pytest.raises(EnsembleKitError, match=r"`kind` must be 'class', or 'top_label' with `events=None`; got 'top'"):
        expected_calibration_error(y, proba, **known, kind="top")
    with pytest.raises(EnsembleKitError, match=r"got 'top_label' with events=\['peak'\]"):
        expected_calibration_error(y, proba, **known, kind="top_label", events=["peak"])
    for measure in (expected_calibration_error, brier_decomposition, reliability_curve):
        for n_bins in (0, 2.5):
            with pytest.raises(EnsembleKitError, match=rf"`n_bins` must be an integer of at least 1; got {n_bins}"):
                measure(y, proba, **known, n_bins=n_bins)
        with pytest.raises(EnsembleKitError, match=r"`proba` must hold probabilities.*`np.exp` of log-probabilities"):
            measure(y, np.log(proba), **known)
    with pytest.raises(EnsembleKitError, match="`proba` must hold probabilities"):
        calibration_slope(y, np.log(proba), **known, event="peak")


@pytest.mark.parametrize("noise", [0.0, 1e-17, 1e-8])
def test_a_constant_but_for_rounding_has_no_slope(noise):
    rng = np.random.default_rng(6)
    p = (0.3 + noise * rng.normal(size=500)).astype(np.float32 if noise > 1e-10 else np.float64)
    y = rng.uniform(size=500) < 0.3
    assert np.isnan(calibration_slope(y, two(p), classes=[False, True], event=True)).all()


def test_a_line_that_parts_all_but_a_tie_has_no_finite_slope():
    p = np.array([0.1, 0.2, 0.5, 0.5, 0.8])
    assert np.isnan(calibration_slope([0, 0, 0, 1, 1], two(p), classes=[0, 1], event=1)).all()
    assert np.isfinite(calibration_slope([0, 1, 0, 1, 1], two(p), classes=[0, 1], event=1)).all()


# ------------------------------------------------------------------------------ Brier's parts


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_bins", [1, 4, 15, 1000])
def test_parts_add_up_to_the_brier_score(data, n_bins, weighted):
    y, proba = data
    weights = np.random.default_rng(1).choice([0.0, 0.5, 2.0], size=len(y)) if weighted else None
    for p in (proba, proba.round(1) / proba.round(1).sum(axis=2, keepdims=True)):  # with ties, too
        parts = brier_decomposition(y, p, classes=CLASSES, n_bins=n_bins, sample_weight=weights)
        total = (
            parts["reliability"]
            - parts["resolution"]
            + parts["uncertainty"]
            + parts["within_variance"]
            - parts["within_covariance"]
        )
        np.testing.assert_allclose(total, parts["brier"], rtol=0, atol=1e-12)
        whole = brier_score(y, p, classes=CLASSES, sample_weight=weights)
        np.testing.assert_allclose(parts["brier"].groupby("horizon").sum(), whole, rtol=0, atol=1e-12)
        assert (parts[["reliability", "resolution", "uncertainty", "within_variance"]] >= 0).all(axis=None)
    assert parts.index.tolist() == [(h, c) for h in ("H0", "H1") for c in CLASSES]


def test_parts_within_bins_vanish_where_each_holds_one_probability():
    rng = np.random.default_rng(2)
    p = rng.choice([0.1, 0.4, 0.8], size=900)
    y = (rng.uniform(size=900) < p).astype(int)
    parts = brier_decomposition(y, two(p), classes=[0, 1], events=[1], n_bins=300).iloc[0]
    np.testing.assert_allclose(parts[["within_variance", "within_covariance"]], 0, atol=1e-15)
    seen = {v: y[p == v].mean() for v in (0.1, 0.4, 0.8)}
    assert parts["reliability"] == pytest.approx(np.mean([(v - seen[v]) ** 2 for v in p]))
    assert parts["resolution"] == pytest.approx(np.mean([(seen[v] - y.mean()) ** 2 for v in p]))
    assert parts["uncertainty"] == pytest.approx(y.mean() * (1 - y.mean()))


def test_parts_of_a_prior_of_calibrated_and_of_sharpened(calibrated):
    y, score = calibrated
    known = {"classes": [0, 1], "events": [1]}
    prior = brier_decomposition(y, np.tile([1 - y.mean(), y.mean()], (len(y), 1)), **known).iloc[0]
    good, sharp = (brier_decomposition(y, two(p), **known).iloc[0] for p in (expit(score), expit(3 * score)))
    assert prior["reliability"] == pytest.approx(0, abs=1e-15)
    assert prior["resolution"] == pytest.approx(0, abs=1e-15)
    assert good["reliability"] < 1e-4
    assert sharp["reliability"] > 0.01
    assert good["resolution"] == pytest.approx(sharp["resolution"], rel=1e-6)  # the order is the same, and so are bins
    assert good["resolution"] > 0.05


# --------------------------------------------------------------------------------- the curve


def test_curve_is_that_of_sklearn_where_bins_are():
    rng = np.random.default_rng(3)
    p = rng.uniform(size=1000)
    y = rng.uniform(size=1000) < p**2
    curve = reliability_curve(y, two(p), classes=[False, True], events=[True], n_bins=8)
    frequency, probability = calibration_curve(y, p, n_bins=8, strategy="quantile")
    np.testing.assert_allclose(curve["frequency"], frequency)
    np.testing.assert_allclose(curve["probability"], probability)
    assert curve["count"].tolist() == [125] * 8
    assert curve.index.names == ["horizon", "class", "bin"]


def test_curve_of_a_tie_is_one_bin(data):
    y, _ = data
    curve = reliability_curve(y, np.full((300, 2, 3), 1 / 3), classes=CLASSES)
    assert curve.index.tolist() == [(h, c, 0) for h in ("H0", "H1") for c in CLASSES]
    np.testing.assert_allclose(curve["frequency"], [(y[:, h] == c).mean() for h in range(2) for c in CLASSES])
    assert (curve["count"] == 300).all()
    few = reliability_curve(y[:, 0], np.tile([[0.2, 0.3, 0.5], [0.3, 0.3, 0.4]], (150, 1)), classes=CLASSES)
    assert few.groupby("class").size().to_dict() == {"bottom": 2, "peak": 1, "slope": 2}


def test_bins_of_equally_many_promised_events():
    rng = np.random.default_rng(4)
    p = 0.3 * rng.uniform(size=20_000) ** 6
    y = rng.uniform(size=20_000) < p
    curve = reliability_curve(y, two(p), classes=[False, True], events=[True], equal="events")
    promised = curve["probability"] * curve["count"]
    np.testing.assert_allclose(promised, p.sum() / 10, rtol=0.01)
    assert curve["count"].iloc[0] > 40 * curve["count"].iloc[-1]
    certain = np.tile([1.0, 0.0], (50, 1))
    nothing = reliability_curve(np.zeros(50), certain, classes=[0, 1], events=[1], equal="events")
    assert nothing["count"].tolist() == [50]
    with pytest.raises(EnsembleKitError, match="`equal` must be 'rows' or 'events'; got 'time'"):
        reliability_curve(y, two(p), classes=[False, True], equal="time")


def test_interval_of_rows_that_say_nothing_of_each_other_is_wilsons():
    # Hits that alternate say more than independent ones: no fewer rows than there are, and no more.
    p, hit = np.repeat([0.02, 0.1, 0.5, 0.9], 10), np.concatenate([np.arange(10) % 2 * (k == 2) for k in range(4)])
    hit[-10:] = 1
    curve = reliability_curve(hit, two(p), classes=[0, 1], events=[1], n_bins=4, block=1)
    wilson = [[0, 0.2775328], [0, 0.2775328], [0.2365931, 0.7634069], [0.7224672, 1]]  # of 0, 0, 5 and 10 of 10
    np.testing.assert_allclose(curve[["low", "high"]], wilson, atol=1e-6)
    wide = reliability_curve(hit, two(p), classes=[0, 1], events=[1], n_bins=4, block=1, level=0.99)
    assert (wide["high"] - wide["low"] > curve["high"] - curve["low"]).all()


def test_a_row_of_many_copies_is_one_row():
    rng = np.random.default_rng(5)
    p = rng.choice([0.2, 0.7], size=400)
    y = rng.uniform(size=400) < p
    known = {"classes": [False, True], "events": [True], "n_bins": 2}
    alone = reliability_curve(y, two(p), **known, block=1)
    # As instruments of one time, and as bars in a row, ten copies say what one does.
    copies = np.repeat(np.arange(400), 10)
    for more in ({"times": copies, "block": 1}, {"block": 100}):
        repeated = reliability_curve(y[copies], two(p[copies]), **known, **more)
        width = (repeated["high"] - repeated["low"]) / (alone["high"] - alone["low"])
        assert width.between(0.75, 1.35).all(), more
        np.testing.assert_allclose(repeated["frequency"], alone["frequency"])
    taken_for_many = reliability_curve(y[copies], two(p[copies]), **known, block=1)
    assert (taken_for_many["high"] - taken_for_many["low"] < 0.5 * (alone["high"] - alone["low"])).all()


def test_the_larger_of_a_bins_own_factor_and_that_of_all_widens_it():
    rng = np.random.default_rng(9)
    p = np.repeat([0.1, 0.3, 0.5], [1500, 1500, 1500])
    runs = np.repeat(rng.random(50) < 0.3, 30)
    apart = rng.random(1500) < 0.5
    known = {"classes": [False, True], "events": [True], "n_bins": 3}

    def width(came, **more):
        curve = reliability_curve(came, two(p), **known, **more)
        return (curve["high"] - curve["low"]).to_numpy()

    came = np.concatenate([np.zeros(1500, bool), runs, apart])
    naive, dependent = width(came, block=1), width(came, block=60)
    ratio = dependent / naive
    assert ratio[0] > 2  # nothing came: by what all bins say
    assert ratio[1] > 1.3 * ratio[2] > 2  # its own runs are longer than those of all


def test_intervals_hold_the_truth_where_events_come_in_runs():
    rng = np.random.default_rng(6)

    def slow(n, phi=0.9):
        noise = rng.normal(size=n) * np.sqrt(1 - phi**2)
        out = np.empty(n)
        last = rng.normal()
        for t in range(n):
            last = out[t] = phi * last + noise[t]
        return out

    held, independent = [], []
    for _ in range(40):
        p = rng.choice([0.05, 0.1, 0.2, 0.4], p=[0.4, 0.3, 0.2, 0.1], size=300).repeat(10)
        came = norm.cdf(slow(3000)) < p
        curve = reliability_curve(came, two(p), classes=[False, True], events=[True], n_bins=20)
        naive = reliability_curve(came, two(p), classes=[False, True], events=[True], n_bins=20, block=1)
        held += curve["probability"].between(curve["low"], curve["high"]).tolist()
        independent += naive["probability"].between(naive["low"], naive["high"]).tolist()
    assert len(held) == 160
    assert np.mean(held) > 0.88
    assert np.mean(independent) < 0.75


def test_curve_weighs_rows_and_leaves_out_those_of_no_weight(data):
    y, proba = data
    weights = np.random.default_rng(7).choice([0.0, 1.0, 3.0], size=len(y))
    keep = weights > 0
    spoilt = proba.copy()
    spoilt[~keep] = np.nan
    curve = reliability_curve(y, spoilt, classes=CLASSES, events=["peak"], sample_weight=weights, n_bins=1)
    for h, row in enumerate(curve.itertuples()):
        assert row.count == keep.sum()
        assert row.weight == weights.sum()
        assert row.frequency == pytest.approx(np.average(y[:, h] == "peak", weights=weights))
        assert row.probability == pytest.approx(np.average(proba[keep, h, 1], weights=weights[keep]))
        assert 0 <= row.low < row.frequency < row.high <= 1
    doubled = reliability_curve(y, spoilt, classes=CLASSES, events=["peak"], sample_weight=2 * weights, n_bins=1)
    np.testing.assert_allclose(doubled[["low", "high"]], curve[["low", "high"]])


def test_curve_of_one_row_and_of_a_panel():
    one = reliability_curve(["peak"], np.array([[0.2, 0.5, 0.3]]), classes=CLASSES, events=["peak"])
    assert one[["probability", "frequency", "high", "count"]].to_numpy().tolist() == [[0.5, 1.0, 1.0, 1.0]]
    index = pd.MultiIndex.from_product([pd.date_range("2024-01-01", periods=60), ["A", "B"]])
    rng = np.random.default_rng(8)
    p = rng.uniform(size=120)
    y = pd.Series(rng.uniform(size=120) < p, index)
    known = {"classes": [False, True], "events": [True], "n_bins": 3}
    by_index = reliability_curve(y, two(p), **known)
    by_times = reliability_curve(y.to_numpy(), two(p), **known, times=index.get_level_values(0))
    pd.testing.assert_frame_equal(by_index, by_times)
    with pytest.raises(EnsembleKitError, match=r"`block` must be an integer in \[1, 30\] for 60 times; got 31"):
        reliability_curve(y, two(p), **known, block=31)
    with pytest.raises(EnsembleKitError, match="`level` must be a number above 0 and below 1; got 95"):
        reliability_curve(y, two(p), **known, level=95)


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2]])
def test_measures_do_not_depend_on_the_order_of_columns_or_shapes(data, order):
    y, proba = data
    turned = [CLASSES[k] for k in order]
    for measure in (brier_decomposition, reliability_curve, expected_calibration_error):
        straight = measure(y, proba, classes=CLASSES)
        pd.testing.assert_frame_equal(measure(y, proba[:, :, order], classes=turned), straight)
        pd.testing.assert_frame_equal(measure(y, [proba[:, 0], proba[:, 1]], classes=CLASSES), straight)
        pd.testing.assert_frame_equal(
            measure(pd.DataFrame(y), proba.astype(np.float32), classes=CLASSES), straight, rtol=1e-4, atol=1e-6
        )
