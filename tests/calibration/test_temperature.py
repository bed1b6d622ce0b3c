"""Temperatures against known ones, a fine reference, and the laws they must obey."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.calibration import _TemperatureScaling

from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.exceptions import EnsembleKitError

CLASSES = ["bottom", "peak", "slope"]


def make(n=20_000, k=3, *, spread=1.5, seed=0):
    """Log-probabilities that are true, and the classes they made."""
    rng = np.random.default_rng(seed)
    true = log_softmax(rng.normal(size=(n, k)) * spread, axis=1)
    y = (np.exp(true).cumsum(axis=1) < rng.uniform(size=(n, 1))).sum(axis=1)
    return true, np.minimum(y, k - 1)


def loss(log_proba, y, temperature, weights=None):
    chosen = log_softmax(log_proba / temperature, axis=1)[np.arange(len(y)), y]
    return -np.average(chosen, weights=weights)


@pytest.fixture(scope="module")
def large():
    return make()


# ---------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0, 2.0, 4.0, 7.0])
def test_known_temperatures_are_recovered(large, temperature):
    true, y = large
    found = TemperatureScaling().fit(temperature * true, y)
    assert found.temperature_ == pytest.approx(temperature, rel=0.02)
    assert found.bound_hit_.tolist() == [False]
    # Whoever stretches the log-probabilities stretches the temperature, to the last digits.
    one = TemperatureScaling().fit(true, y).temperature_
    np.testing.assert_allclose(found.temperature_, temperature * one, rtol=1e-8)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 6.0])
@pytest.mark.parametrize("k", [2, 3, 7])
def test_temperature_is_that_of_a_fine_reference(temperature, k):
    true, y = make(500, k, seed=k)
    z = temperature * true
    weights = np.random.default_rng(1).uniform(0.1, 2, size=len(y))
    near = (np.log(temperature) - 1, np.log(temperature) + 1)
    fine = minimize_scalar(
        lambda t: loss(z, y, np.exp(t), weights), bounds=near, method="bounded", options={"xatol": 1e-10}
    )
    found = TemperatureScaling().fit(z, y, weights).temperature_[0]
    assert found == pytest.approx(np.exp(fine.x), abs=1e-4)
    # The slope of the loss is 0 there, and the loss no worse than the reference's.
    step = 1e-4 * found
    slope = (loss(z, y, found + step, weights) - loss(z, y, found - step, weights)) / (2 * step)
    assert abs(slope) < 1e-6
    assert loss(z, y, found, weights) <= fine.fun + 1e-12


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0, 2.0, 4.0, 7.0])
def test_temperature_is_that_of_sklearn_and_of_bounded_lbfgs(temperature):
    true, y = make(2000, seed=8)
    z = log_softmax(temperature * true, axis=1)
    weights = np.random.default_rng(2).choice([0.5, 1.0, 3.0], size=len(y))

    def slope(log_t):
        q = softmax(z / np.exp(log_t), axis=1)
        return np.average((z[np.arange(len(y)), y] - (q * z).sum(axis=1)) / np.exp(log_t), weights=weights)

    bounded = minimize(
        lambda x: (loss(z, y, np.exp(x[0]), weights), np.array([slope(x[0])])),
        [0.0],
        jac=True,
        method="L-BFGS-B",
        bounds=[np.log((0.1, 8.0))],
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    sklearn = _TemperatureScaling().fit(z, y, sample_weight=weights)
    found = TemperatureScaling().fit(z, y, weights).temperature_[0]
    assert found == pytest.approx(np.exp(bounded.x[0]), abs=1e-4)
    assert found == pytest.approx(1 / sklearn.beta_, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), stretch=st.floats(0.05, 20), k=st.integers(2, 5))
@pytest.mark.filterwarnings("ignore:temperature on its bound:UserWarning")
def test_the_fitted_rows_are_never_worse_off(seed, stretch, k):
    true, y = make(40, k, seed=seed)
    z = stretch * true
    y[:k] = np.arange(k)
    fit = TemperatureScaling().fit(z, y)
    after = -fit.transform(z)[np.arange(len(y)), y].mean()
    assert after <= loss(z, y, 1.0) + 1e-12
    low, high = fit.bounds
    assert low <= fit.temperature_[0] <= high
    if fit.bound_hit_[0]:  # inside is worse
        t = fit.temperature_[0]
        assert after <= loss(z, y, t * (1.01 if t == low else 0.99)) + 1e-12


# ---------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(("stretch", "bound"), [(20.0, 8.0), (0.03, 0.1)])
def test_a_bound_is_reported(large, stretch, bound):
    true, y = large
    with pytest.warns(UserWarning, match=rf"temperature on its bound \[{bound}\] at horizon\(s\) \[0\]"):
        fit = TemperatureScaling().fit(stretch * true, y)
    assert fit.temperature_.tolist() == [bound]
    assert fit.bound_hit_.tolist() == [True]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("margin", [1.0, 10.0, 40.0, 100.0, 1e5])
def test_separable_classes_end_on_the_lower_bound(margin, bias):
    y = np.tile([0, 0, 1, 2], 20)
    z = log_softmax(margin * np.eye(3)[y], axis=1)
    with pytest.warns(UserWarning, match="separate the classes completely"):
        fit = TemperatureScaling(bias=bias).fit(z, y)
    assert fit.temperature_.tolist() == [0.1]
    assert fit.bound_hit_.tolist() == [True]
    assert (np.exp(fit.transform(z))[np.arange(80), y] > 0.999).all()
    if margin >= 10:  # offsets have nothing to do
        np.testing.assert_allclose(fit.bias_, 0, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("margin", [0.1, 5.0, 1e3, 1e5])
def test_always_wrong_ends_on_the_upper_bound(margin, bias):
    y = np.tile([0, 0, 1, 2], 20)
    with pytest.warns(UserWarning, match=r"temperature on its bound \[8.0\] at horizon\(s\) \[0\]"):
        fit = TemperatureScaling(bias=bias).fit(-margin * np.eye(3)[y], y)
    assert fit.temperature_.tolist() == [8.0]
    assert np.isfinite(fit.bias_).all()
    calibrated = fit.transform(-margin * np.eye(3)[y])
    assert np.isfinite(calibrated).all()
    if bias:  # what is left to be right about are the shares of the classes
        np.testing.assert_allclose(np.exp(calibrated).mean(axis=0), [0.5, 0.25, 0.25], atol=1e-4)


def test_even_probabilities_have_nothing_to_scale():
    fit = TemperatureScaling().fit(np.full((30, 3), np.log(1 / 3)), np.tile([0, 1, 2], 10))
    assert fit.temperature_.tolist() == [1.0]
    assert not fit.bound_hit_.any()


@pytest.mark.parametrize("bounds", [(0.0, 8.0), (2.0, 8.0), (0.1, 0.5), (np.nan, 8.0), (-1.0, 2.0)])
def test_bounds_are_checked(bounds):
    with pytest.raises(EnsembleKitError, match="`bounds` must be 0 < low <= 1 <= high"):
        TemperatureScaling(bounds=bounds).fit(np.zeros((2, 2)), [0, 1])


# ------------------------------------------------------------------------- weights, horizons, order


def test_rows_of_weight_zero_do_not_count(large):
    true, y = large
    keep = np.random.default_rng(3).uniform(size=len(y)) < 0.3
    spoilt = 2 * true
    spoilt[~keep] = np.nan
    found = TemperatureScaling().fit(spoilt, y, keep.astype(float)).temperature_
    np.testing.assert_allclose(found, TemperatureScaling().fit(2 * true[keep], y[keep]).temperature_, rtol=1e-9)


def test_a_weight_of_two_is_the_row_twice():
    true, y = make(300)
    twice = np.concatenate([np.arange(300), np.arange(100)])
    weights = np.bincount(twice).astype(float)
    np.testing.assert_allclose(
        TemperatureScaling().fit(true, y, weights).temperature_,
        TemperatureScaling().fit(true[twice], y[twice]).temperature_,
        rtol=1e-8,
    )


def test_horizons_have_their_own_temperature():
    parts = [make(2000, seed=seed) for seed in (0, 1, 2)]
    z = np.stack([t * true for t, (true, _) in zip((0.5, 1.0, 3.0), parts, strict=True)], axis=1)
    y = np.column_stack([codes for _, codes in parts])
    together = TemperatureScaling().fit(z, y)
    alone = [TemperatureScaling().fit(z[:, h], y[:, h]).temperature_[0] for h in range(3)]
    assert together.temperature_.tolist() == alone
    np.testing.assert_allclose(alone, [0.5, 1.0, 3.0], rtol=0.1)
    for h in range(3):
        np.testing.assert_array_equal(
            together.transform(z)[:, h], TemperatureScaling().fit(z[:, h], y[:, h]).transform(z[:, h])
        )


def test_one_bound_among_horizons():
    true, y = make(2000)
    with pytest.warns(UserWarning, match=r"\[8.0\] at horizon\(s\) \[1\]"):
        fit = TemperatureScaling().fit([true, 30 * true], np.column_stack([y, y]))
    assert fit.bound_hit_.tolist() == [False, True]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 0, 2]])
def test_columns_may_come_in_any_order_of_classes(order):
    true, codes = make(3000)
    y = np.array(CLASSES)[codes]
    turned = np.array(CLASSES)[order]
    fit = TemperatureScaling().fit(2 * true[:, order], y, classes=turned)
    assert fit.classes_.tolist() == turned.tolist()
    np.testing.assert_allclose(fit.temperature_, TemperatureScaling().fit(2 * true, y).temperature_, rtol=1e-9)


def test_a_class_may_be_absent():
    true, codes = make(3000)
    rows = codes != 1
    y = np.array(CLASSES)[codes[rows]]
    fit = TemperatureScaling().fit(true[rows], y, classes=CLASSES)
    assert fit.temperature_[0] > 0
    with pytest.raises(EnsembleKitError, match=r"Name the columns with `classes=`"):
        TemperatureScaling().fit(true[rows], y)


# ------------------------------------------------------------------------------------ transform

# Below 0: three that are in [0, 1] and add up to 1 would be refused as probabilities.
logits = st.lists(st.lists(st.floats(-120, -1e-3), min_size=3, max_size=3), min_size=1, max_size=8).map(np.array)


@settings(max_examples=100, deadline=None)
@given(logits, st.floats(0.1, 8.0))
def test_rows_sum_to_one_and_keep_their_order(z, temperature):
    fit = TemperatureScaling().fit(np.zeros((3, 3)), [0, 1, 2])
    fit.temperature_ = np.array([temperature])
    calibrated = fit.transform(z)
    np.testing.assert_allclose(np.exp(calibrated).sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(calibrated, log_softmax(z / temperature, axis=1))
    for before, after in zip(z, calibrated, strict=True):
        ordered = after[np.argsort(before, kind="stable")]
        assert (np.diff(ordered) >= 0).all()


def test_shapes_come_back_as_given(large):
    true, y = large
    z, y = np.stack([true, 2 * true], axis=1)[:500], np.column_stack([y, y])[:500]
    fit = TemperatureScaling().fit(z, y)
    assert fit.transform(z).shape == (500, 2, 3)
    listed = fit.transform([z[:, 0], z[:, 1]])
    assert isinstance(listed, list)
    np.testing.assert_array_equal(np.stack(listed, axis=1), fit.transform(z))
    one = TemperatureScaling().fit(z[:, 0], y[:, 0])
    assert one.transform(z[:, 0]).shape == (500, 3)
    assert one.transform(z[:, :1]).shape == (500, 1, 3)
    assert [p.shape for p in one.transform([z[:, 0]])] == [(500, 3)]


def test_other_horizons_or_classes_are_refused(large):
    true, y = large
    fit = TemperatureScaling().fit(true, y)
    for wrong in (true[:, :2], np.stack([true, true], axis=1)):
        with pytest.raises(EnsembleKitError, match=r"must have the 1 horizon\(s\) and 3 classes given to `fit`"):
            fit.transform(wrong)


@pytest.mark.parametrize(("dtype", "rel"), [(np.float16, 5e-3), (np.float32, 1e-5)])
@pytest.mark.parametrize("bias", [False, True])
def test_less_precise_log_probabilities_are_worked_on_in_double(large, dtype, rel, bias):
    true, y = large
    z = log_softmax(2 * true, axis=1)
    fit = TemperatureScaling(bias=bias).fit(z.astype(dtype), y)
    exact = TemperatureScaling(bias=bias).fit(z, y)
    assert fit.temperature_ == pytest.approx(exact.temperature_, rel=rel)
    np.testing.assert_allclose(fit.bias_, exact.bias_, atol=rel)
    same = TemperatureScaling(bias=bias).fit(z.astype(dtype).astype(np.float64), y)
    np.testing.assert_array_equal(fit.temperature_, same.temperature_)
    calibrated = fit.transform(z.astype(dtype))
    assert calibrated.dtype == np.float64
    np.testing.assert_allclose(np.exp(calibrated).sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 5000])
@pytest.mark.parametrize("k", [2, 3, 20])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_are_never_taken_for_logits(rows, k, dtype):
    true, y = make(5000, k)
    says = (
        r"^`log_proba` must hold log-probabilities, which are at most 0, or logits; got probabilities: at horizon 0 "
        rf"all {rows} row\(s\) are in \[0, 1\] and add up to 1\. "
        r"Pass what `predict_log_proba` returns, or `np\.log` of them\.$"
    )
    proba = np.exp(true).astype(dtype)
    # A softmax worked out in half precision is as far from 1 as they come.
    rough = np.exp(true.astype(dtype))
    rough = rough / rough.sum(axis=1, keepdims=True)
    fit = TemperatureScaling().fit(true, y)
    for wrong in (proba[:rows], rough[:rows]):
        with pytest.raises(EnsembleKitError, match=says):
            fit.transform(wrong)
        with pytest.raises(EnsembleKitError, match=says):
            TemperatureScaling().fit(wrong, y[:rows], classes=np.arange(k))
    spoilt = np.vstack([proba[:rows], np.full((1, k), np.nan, dtype)])
    with pytest.raises(EnsembleKitError, match=says):
        fit.transform(spoilt)
    with pytest.raises(EnsembleKitError, match=says):
        TemperatureScaling().fit(
            np.vstack([proba[:rows], true[:3]]), y[: rows + 3], np.repeat([1.0, 0.0], [rows, 3]), classes=np.arange(k)
        ) if rows < 5000 else fit.transform(proba)


def test_one_horizon_of_probabilities_is_found():
    true, y = make(100)
    with pytest.raises(EnsembleKitError, match="got probabilities: at horizon 1 all 100"):
        TemperatureScaling().fit([true, np.exp(true)], np.column_stack([y, y]))


def test_what_is_no_probability_is_not_refused():
    true, y = make(200)
    fit = TemperatureScaling().fit(true, y)
    certain = np.array([[0.0, -40.0, -50.0], [-np.inf, 0.0, -np.inf]])
    for log_proba in (true[:1], certain, certain[:1], np.zeros((4, 3)), np.full((1, 3), -np.log(3)), true[:0]):
        assert fit.transform(log_proba).shape == log_proba.shape
    # Raw logits of a few rows may well look like probabilities: whoever was fitted on such takes them.
    raw = TemperatureScaling().fit(2 * true + 5, y)
    one = np.array([[0.2, 0.3, 0.5]])
    np.testing.assert_allclose(raw.transform(one), log_softmax(one / raw.temperature_, axis=1))
    with pytest.raises(EnsembleKitError, match="got probabilities"):
        raw.transform(np.exp(true))
    assert TemperatureScaling().fit(np.zeros((3, 1)), [7, 7, 7]).transform(np.zeros((2, 1))).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_must_be_finite(large, bad):
    true, y = large
    spoilt = true[:100].copy()
    spoilt[42, 1] = bad
    with pytest.raises(EnsembleKitError, match="`log_proba` must be finite; row 42 holds"):
        TemperatureScaling().fit(spoilt, y[:100])


def test_a_row_that_cannot_be_predicted_stays_unknown(large):
    true, y = large
    spoilt = true[:3].copy()
    spoilt[1] = np.nan
    calibrated = TemperatureScaling().fit(true, y).transform(spoilt)
    assert np.isnan(calibrated).all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("bias", [False, True])
def test_clone_and_pickle(large, bias):
    true, y = large
    fit = TemperatureScaling(bounds=(0.5, 4.0), bias=bias).fit(true, y)
    assert clone(fit).get_params() == {"bounds": (0.5, 4.0), "bias": bias}
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fit)).transform(true), fit.transform(true))
    kept = {name: value for name, value in vars(fit).items() if name.endswith("_")}
    assert {name: type(value) for name, value in kept.items()} == dict.fromkeys(
        ["classes_", "temperature_", "bias_", "bound_hit_"], np.ndarray
    )
