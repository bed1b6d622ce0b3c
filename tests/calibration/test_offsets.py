"""Temperature with an offset a class: known ones found again, the laws of a convex fit, and classes that never came."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler

from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.datasets import read_bars
from ensemble_kit.estimators.costs import PEAK_SLOPE_BOTTOM, cost_table
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.metrics import brier_score, brier_skill, calibration_slope

CLASSES = ["bottom", "peak", "slope"]


def make(n=20_000, *, spread=1.5, seed=0):
    """Log-probabilities that are true, of two rarer classes and a common one, and the classes they made."""
    rng = np.random.default_rng(seed)
    true = log_softmax(rng.normal(size=(n, 3)) * spread + [-2, -2, 1], axis=1)
    y = (np.exp(true).cumsum(axis=1) < rng.uniform(size=(n, 1))).sum(axis=1)
    return true, np.minimum(y, 2)


def loss(fit, log_proba, y, weights=None):
    return -np.average(fit.transform(log_proba)[np.arange(len(y)), y], weights=weights)


def cost_weighted(true):
    """What a classifier says whose loss weighs each class by what missing it costs."""
    costs = cost_table(PEAK_SLOPE_BOTTOM, np.array(CLASSES))
    return log_softmax(true + np.log(costs.sum(axis=0)), axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_offsets_undo_cost_weighted_training(seed):
    true, y = make(seed=seed)
    said = cost_weighted(true)
    fit, alone = (TemperatureScaling(bias=bias).fit(said[:10_000], y[:10_000]) for bias in (True, False))
    later = said[10_000:], y[10_000:]
    assert loss(fit, *later) < 0.9 * loss(alone, *later)  # measured: some 0.8 of it
    best = -true[10_000:][np.arange(10_000), y[10_000:]].mean()
    assert loss(fit, *later) == pytest.approx(best, rel=0.005)


def test_on_real_bars_offsets_mend_what_class_weights_did(shared_data):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet").iloc[:12_000]
    labels = peak_slope_bottom(bars)
    close = np.log(bars["close"])
    X = np.column_stack([close.diff(k).abs() for k in (1, 3, 12, 48)] + [close.diff(k) for k in (1, 3, 12, 48)])
    rows = np.flatnonzero(np.asarray(labels.known) & np.isfinite(X).all(axis=1))
    X, y = X[rows], np.asarray(labels.labels)[rows].astype(str)
    model = make_pipeline(RobustScaler(), LogisticRegression(class_weight="balanced", max_iter=500))
    model.fit(X[:4000], y[:4000])
    fitted, judged = slice(4100, 7900), slice(8000, None)
    raw = model.predict_log_proba(X)
    fits = [TemperatureScaling(bias=bias).fit(raw[fitted], y[fitted]) for bias in (False, True)]
    alone, offset = (np.exp(fit.transform(raw[judged])) for fit in fits)
    known = {"y": y[judged], "classes": CLASSES}
    assert brier_score(proba=offset, **known) < 0.5 * brier_score(proba=alone, **known)
    prior = [(y[fitted] == label).mean() for label in CLASSES]
    assert brier_skill(proba=offset, prior=prior, **known) > -0.01
    for event in ("peak", "bottom"):
        assert 0.6 < calibration_slope(proba=offset, event=event, **known)[0] < 1.6


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0, 2.0, 4.0, 7.0])
def test_known_temperature_and_offsets_are_recovered(temperature):
    true, y = make(60_000)
    offsets = np.array([1.0, -2.5, 1.5])
    z = temperature * (true - offsets)
    fit = TemperatureScaling(bias=True).fit(z, y)
    assert fit.temperature_ == pytest.approx(temperature, rel=0.02)
    np.testing.assert_allclose(fit.bias_, [offsets], atol=0.06)
    np.testing.assert_allclose(fit.bias_.sum(axis=1), 0, atol=1e-12)
    # Stretched and shifted inputs give the same answer to the last digits that sums allow.
    np.testing.assert_allclose(
        fit.transform(z), TemperatureScaling(bias=True).fit(true, y).transform(true), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("seed", range(3))
def test_no_other_optimiser_finds_better(seed):
    true, y = make(800, seed=seed)
    weights = np.random.default_rng(seed).choice([0.2, 1.0, 4.0], size=len(y))
    z = 3 * cost_weighted(true)

    def of(x):
        return -np.average(log_softmax(z * x[0] + [*x[1:], 0], axis=1)[np.arange(len(y)), y], weights=weights)

    other = minimize(
        of, [0.5, 0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 4000}
    )
    fit = TemperatureScaling(bias=True).fit(z, y, weights)
    assert loss(fit, z, y, weights) <= other.fun + 1e-10
    assert fit.temperature_[0] == pytest.approx(1 / other.x[0], rel=1e-4)
    # At the minimum each class is promised as often as it came.
    promised = np.average(np.exp(fit.transform(z)), axis=0, weights=weights)
    came = np.bincount(y, weights) / weights.sum()
    np.testing.assert_allclose(promised, came, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), stretch=st.floats(0.05, 20), n=st.integers(1, 40))
@pytest.mark.filterwarnings("ignore:temperature on its bound:UserWarning")
def test_offsets_never_leave_the_fitted_rows_worse_off(seed, stretch, n):
    true, y = make(n, seed=seed)
    z = np.maximum(stretch * true, -200)
    fit, alone = (TemperatureScaling(bias=bias).fit(z, y, classes=[0, 1, 2]) for bias in (True, False))
    assert np.isfinite(fit.bias_).all()
    assert 0.1 <= fit.temperature_[0] <= 8
    assert np.isfinite(fit.transform(z)).all()
    if len(set(y)) == 3:
        assert loss(fit, z, y) <= loss(alone, z, y) + 1e-9


def test_a_constant_prior_becomes_the_shares_that_came():
    y = np.repeat([0, 1, 2], [10, 30, 60])
    fit = TemperatureScaling(bias=True).fit(np.tile(np.log([0.3, 0.3, 0.4]), (100, 1)), y)
    assert fit.temperature_.tolist() == [1.0]
    assert not fit.bound_hit_.any()
    np.testing.assert_allclose(np.exp(fit.transform(np.log([[0.3, 0.3, 0.4]]))), [[0.1, 0.3, 0.6]], rtol=1e-9)


@pytest.mark.parametrize(("seed", "n"), [(7681, 22), (591, 8), (7990, 21)])
@pytest.mark.filterwarnings("ignore:temperature on its bound:UserWarning")
def test_a_start_far_from_the_minimum_reaches_it(seed, n):
    # One run of L-BFGS-B ends at a gradient of 0.1 here.
    true, y = make(n, seed=seed)
    z = 20 * true
    fit = TemperatureScaling(bias=True).fit(z, y, classes=[0, 1, 2])
    here = np.unique(y)
    promised = softmax(z[:, here] / fit.temperature_ + fit.bias_[:, here], axis=1)
    np.testing.assert_allclose(promised.mean(axis=0), np.bincount(y)[here] / n, atol=1e-4)


def test_what_no_float_can_tell_apart_is_said():
    y = np.tile([0, 0, 1, 2], 20)
    with pytest.raises(EnsembleKitError, match=r"got none for log-probabilities that differ by .*Take `bias=False`"):
        TemperatureScaling(bias=True).fit(-1e100 * np.eye(3)[y], y)


# ----------------------------------------------------------------------------- classes that never came


@pytest.mark.parametrize("n", [50, 5000])
def test_a_class_that_never_came_is_promised_one_row_at_most(n):
    true, y = make(n)
    here = y != 1
    said = cost_weighted(true)[here]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = TemperatureScaling(bias=True).fit(said, y[here], classes=[0, 1, 2])
    promised = np.exp(fit.transform(said)).sum(axis=0)
    assert 0.5 < promised[1] <= 1
    assert fit.bias_[0, [0, 2]].sum() == pytest.approx(0)
    # The others are as though it did not exist.
    without = TemperatureScaling(bias=True).fit(said[:, [0, 2]], y[here])
    np.testing.assert_allclose(fit.temperature_, without.temperature_, rtol=1e-6)
    np.testing.assert_allclose(fit.bias_[:, [0, 2]], without.bias_, atol=1e-6)


def test_a_class_that_no_member_knew_is_not_raised():
    true, y = make(1000)
    here = y != 1
    z = log_softmax(true[here], axis=1)
    z[:, 1] = -60.0
    fit = TemperatureScaling(bias=True).fit(z, y[here], classes=[0, 1, 2])
    assert fit.bias_[0, 1] == 0
    assert np.exp(fit.transform(z))[:, 1].max() < 1e-10


def test_one_class_alone_says_nothing_of_the_temperature():
    true, _ = make(300)
    fit = TemperatureScaling(bias=True).fit(true, np.full(300, 2), classes=[0, 1, 2])
    assert fit.temperature_.tolist() == [1.0]
    assert fit.bias_[0, 2] == 0
    assert (np.exp(fit.transform(true))[:, :2].sum(axis=0) <= 1).all()
    assert TemperatureScaling(bias=True).fit(np.zeros((5, 1)), ["a"] * 5).bias_.tolist() == [[0.0]]


# ------------------------------------------------------------------------- weights, horizons, order


def test_rows_of_weight_zero_do_not_count():
    true, y = make(3000)
    keep = np.random.default_rng(3).uniform(size=len(y)) < 0.3
    spoilt = cost_weighted(true)
    kept = spoilt[keep].copy()
    spoilt[~keep] = np.nan
    found = TemperatureScaling(bias=True).fit(spoilt, y, keep.astype(float))
    alone = TemperatureScaling(bias=True).fit(kept, y[keep])
    np.testing.assert_array_equal(found.temperature_, alone.temperature_)
    np.testing.assert_array_equal(found.bias_, alone.bias_)


def test_a_weight_of_two_is_the_row_twice_and_size_does_not_matter():
    true, y = make(600)
    twice = np.concatenate([np.arange(600), np.arange(200)])
    weights = np.bincount(twice).astype(float)
    z = cost_weighted(true)
    once, copied, large = (
        TemperatureScaling(bias=True).fit(*given)
        for given in ((z, y, weights), (z[twice], y[twice]), (z, y, 1e6 * weights))
    )
    for other in (copied, large):
        np.testing.assert_allclose(once.temperature_, other.temperature_, rtol=1e-5)
        np.testing.assert_allclose(once.bias_, other.bias_, atol=1e-5)


def test_horizons_are_each_alone():
    parts = [make(2000, seed=seed) for seed in (0, 1, 2)]
    z = np.stack([cost_weighted(true) for true, _ in parts], axis=1)
    y = np.column_stack([codes for _, codes in parts])
    together = TemperatureScaling(bias=True).fit(z, y)
    assert together.bias_.shape == (3, 3)
    for h in range(3):
        alone = TemperatureScaling(bias=True).fit(z[:, h], y[:, h])
        np.testing.assert_array_equal(together.bias_[h], alone.bias_[0])
        np.testing.assert_array_equal(together.transform(z)[:, h], alone.transform(z[:, h]))


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2]])
def test_columns_may_come_in_any_order_of_classes(order):
    true, codes = make(3000)
    y, z = np.array(CLASSES)[codes], cost_weighted(true)
    straight = TemperatureScaling(bias=True).fit(z, y)
    turned = TemperatureScaling(bias=True).fit(z[:, order], y, classes=np.array(CLASSES)[order])
    np.testing.assert_allclose(turned.bias_, straight.bias_[:, order], atol=1e-6)
    np.testing.assert_allclose(turned.transform(z[:, order]), straight.transform(z)[:, order], atol=1e-6)


def test_ties_and_a_rare_class():
    # Log-probabilities of ten values only, and a class of three rows in 30,000.
    true, y = make(30_000)
    z = (2 * true).round(0)
    rare = np.flatnonzero(y == 1)[3:]
    keep = np.setdiff1d(np.arange(30_000), rare)
    fit = TemperatureScaling(bias=True).fit(z[keep], y[keep])
    promised = np.exp(fit.transform(z[keep])).sum(axis=0)
    np.testing.assert_allclose(promised, np.bincount(y[keep]), rtol=1e-3)


def test_without_offsets_they_are_zero():
    true, y = make(500)
    fit = TemperatureScaling().fit(true, y)
    np.testing.assert_array_equal(fit.bias_, np.zeros((1, 3)))
    np.testing.assert_allclose(np.exp(fit.transform(true)), softmax(true / fit.temperature_, axis=1), rtol=1e-12)
