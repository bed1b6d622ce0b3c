"""Kelly's rule by hand, and what no input may make of it."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.sizing import KellySizer

CLASSES = ["bottom", "peak", "slope"]  # long, short, neither


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([0.4, 0.4, 0.4], size=1000)
    codes = (proba.cumsum(axis=1) < rng.uniform(size=(1000, 1))).sum(axis=1)
    return proba, np.array(CLASSES)[codes]


def fitted(rmse, **params):
    """A sizer whose error is known: two rows that are wrong by `rmse`, one way and the other."""
    p = np.array([[1 - rmse, rmse, 0.0], [rmse, 1 - rmse, 0.0]])
    sizer = KellySizer(**params).fit(p, ["bottom", "peak"], classes=CLASSES)
    assert sizer.rmse_ == pytest.approx(rmse)
    return sizer


# --------------------------------------------------------------------------------------- formula


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("conservatism", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("cap", [0.05, 1.0, 3.0])
def test_the_published_formula(data, fraction, conservatism, cap):
    proba, y = data
    sizer = KellySizer(fraction=fraction, conservatism=conservatism, cap=cap).fit(proba, y)
    position = sizer.transform(proba)
    for p, f in zip(proba[:200], position, strict=False):
        edge = p[0] - p[1]
        alpha = max(0.0, 1 - conservatism * sizer.rmse_ / abs(edge))
        assert f == pytest.approx(max(-cap, min(cap, fraction * alpha * edge)), abs=1e-12)


def test_rmse_is_that_of_the_bet(data):
    proba, y = data
    truth = np.array([{"bottom": 1.0, "peak": 0.0, "slope": 0.5}[label] for label in y])
    bet = (1 + proba[:, 0] - proba[:, 1]) / 2
    assert KellySizer().fit(proba, y).rmse_ == pytest.approx(np.sqrt(np.mean((bet - truth) ** 2)))


def test_even_bets_trade_above_their_break_even_only():
    # (2p - 1) > sqrt(p (1 - p)) from p = (5 + sqrt 5) / 10 = 0.7236 on.
    for p, trades in ((0.70, False), (0.72, False), (0.73, True), (0.9, True)):
        n = 10_000
        wins = round(p * n)
        y = np.repeat(["up", "down"], [wins, n - wins])
        proba = np.tile([1 - p, p], (n, 1))  # down, up
        assert (KellySizer().fit(proba, y).transform(proba[:1]) > 0) == [trades]


def test_swapping_the_directions_turns_the_sign(data):
    proba, y = data
    swapped = np.array(["peak" if c == "bottom" else "bottom" if c == "peak" else c for c in y])
    sizer, mirror = KellySizer().fit(proba, y), KellySizer().fit(proba[:, [1, 0, 2]], swapped)
    np.testing.assert_allclose(mirror.transform(proba[:, [1, 0, 2]]), -sizer.transform(proba), atol=1e-12)
    np.testing.assert_allclose(sizer.transform(proba[:, [1, 0, 2]]), -sizer.transform(proba), atol=1e-12)


def test_position_grows_with_the_edge():
    edge = np.linspace(-1, 1, 201)
    proba = np.column_stack([(1 + edge) / 2, (1 - edge) / 2, np.zeros(201)])
    position = fitted(0.2).transform(proba)
    assert (np.diff(position) >= -1e-15).all()
    assert (position[np.abs(edge) < 0.19] == 0).all()
    assert position[-1] == pytest.approx(0.4)
    assert position[0] == pytest.approx(-0.4)


def test_conservatism_shrinks_and_fraction_scales():
    proba = np.array([[0.7, 0.1, 0.2]])
    sizes = [fitted(0.2, conservatism=c).transform(proba)[0] for c in (0, 0.5, 1, 2, 5)]
    np.testing.assert_allclose(sizes, [0.3, 0.25, 0.2, 0.1, 0.0], atol=1e-12)
    full, half = (fitted(0.2, fraction=f).transform(proba)[0] for f in (1.0, 0.5))
    assert full == pytest.approx(2 * half)


def test_certain_probabilities_without_error_bet_the_fraction():
    sizer = KellySizer().fit(np.eye(3), CLASSES)
    assert sizer.rmse_ == 0
    np.testing.assert_array_equal(sizer.transform(np.eye(3)), [0.5, -0.5, 0.0])


# ------------------------------------------------------------------------------------ properties


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=10),
    st.floats(0, 1),
    st.floats(0.01, 1),
    st.floats(0, 1e6),
    st.floats(1e-6, 10),
)
def test_positions_are_numbers_within_the_cap(rows, rmse, fraction, conservatism, cap):
    raw = np.array(rows) + 1e-300
    proba = raw / raw.sum(axis=1, keepdims=True)
    position = fitted(rmse, fraction=fraction, conservatism=conservatism, cap=cap).transform(proba)
    assert position.shape == (len(rows),)
    assert np.isfinite(position).all()
    assert (np.abs(position) <= min(cap, fraction)).all()
    edge = proba[:, 0] - proba[:, 1]
    assert (position * edge >= 0).all()


def test_any_row_gives_a_number_and_an_unknown_one_gives_nothing():
    rng = np.random.default_rng(1)
    proba = rng.dirichlet([0.2, 0.2, 0.2], size=100_000)
    holes = rng.uniform(size=proba.shape) < 0.1
    proba[holes] = np.nan
    position = fitted(0.1).transform(proba)
    assert np.isfinite(position).all()
    # Also where only the class that does not trade is unknown.
    assert (position[holes.any(axis=1)] == 0).all()
    assert (position[~holes.any(axis=1)] != 0).mean() > 0.5


# --------------------------------------------------------------------------- weights and horizons


def test_rows_of_weight_zero_do_not_count(data):
    proba, y = data
    weights = np.random.default_rng(2).choice([0.0, 1.0, 3.0], size=len(y))
    spoilt = proba.copy()
    spoilt[weights == 0] = np.nan
    truth = np.select([y == "bottom", y == "peak"], [1.0, 0.0], 0.5)
    error = (1 + proba[:, 0] - proba[:, 1]) / 2 - truth
    sizer = KellySizer().fit(spoilt, y, sample_weight=weights)
    assert sizer.rmse_ == pytest.approx(np.sqrt((weights * error**2).sum() / weights.sum()))


def test_the_horizon_that_trades(data):
    proba, y = data
    several, Y = [proba[::-1], proba], np.column_stack([y[::-1], y])
    one = KellySizer().fit(proba[:500], y[:500])
    sizer = KellySizer(horizon=1).fit([p[:500] for p in several], Y[:500])
    assert sizer.rmse_ != KellySizer().fit([p[:500] for p in several], Y[:500]).rmse_
    assert sizer.rmse_ == one.rmse_
    np.testing.assert_array_equal(sizer.transform(np.stack(several, axis=1)), one.transform(proba))
    with pytest.raises(EnsembleKitError, match="must have horizon 2 and 3 classes; got 2 horizon"):
        KellySizer(horizon=2).fit(several, Y)
    with pytest.raises(EnsembleKitError, match="must have horizon 1 and 3 classes; got 1 horizon"):
        sizer.transform(proba)


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2]])
def test_columns_may_come_in_any_order_of_classes(data, order):
    proba, y = data
    turned = np.array(CLASSES)[order]
    sizer = KellySizer().fit(proba[:, order], y, classes=turned)
    plain = KellySizer().fit(proba, y)
    assert sizer.rmse_ == pytest.approx(plain.rmse_)
    assert KellySizer().fit(proba[:, order], y, classes=turned.astype(object)).rmse_ == sizer.rmse_
    np.testing.assert_allclose(sizer.transform(proba[:, order]), plain.transform(proba))


# ------------------------------------------------------------------------------------- direction


@pytest.mark.parametrize(
    ("labels", "long", "short"),
    [
        (["bottom", "peak", "slope"], "bottom", "peak"),
        (["buy", "hold", "sell"], "buy", "sell"),
        (["down", "up"], "up", "down"),
        ([-1, 0, 1], 1, -1),
        ([0, 1], 1, 0),
        ([0.0, 1.0, 9.0], 9.0, 0.0),
        ([False, True], True, False),
    ],
)
def test_directions_are_known(labels, long, short):
    k = len(labels)
    sizer = KellySizer().fit(np.full((k, k), 1 / k), labels)
    assert sizer.classes_[sizer.long_] == long
    assert sizer.classes_[sizer.short_] == short


def test_directions_can_be_said():
    sizer = KellySizer(long="bear", short="bull").fit(np.full((2, 2), 0.5), ["bear", "bull"])
    assert (sizer.long_, sizer.short_) == (0, 1)
    sizer = KellySizer(long=0, short=2).fit(np.full((3, 3), 1 / 3), [0, 1, 2])
    assert (sizer.long_, sizer.short_) == (0, 2)


@pytest.mark.parametrize(
    ("params", "labels"),
    [
        ({}, ["one", "two"]),
        ({}, ["bottom", "slope"]),
        ({}, [1]),
        ({"long": "bottom"}, ["bottom", "peak"]),
        ({"long": "bottom", "short": "bottom"}, ["bottom", "peak"]),
        ({"long": "Bottom", "short": "peak"}, ["bottom", "peak"]),
        ({"long": 1, "short": 7}, [0, 1]),
    ],
)
def test_doubtful_directions_are_refused(params, labels):
    k = len(labels)
    with pytest.raises(EnsembleKitError, match=r"`long` and `short` must be two of the .* Say which class means"):
        KellySizer(**params).fit(np.full((k, k), 1 / k), labels)


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"fraction": 0.0}, r"`fraction` must be in \(0, 1\]; got 0.0"),
        ({"fraction": 1.5}, "`fraction` must be"),
        ({"fraction": np.nan}, "`fraction` must be"),
        ({"conservatism": -1}, "`conservatism` must be at least 0; got -1"),
        ({"cap": 0}, "`cap` must be above 0"),
        ({"fraction": 2, "cap": -1}, "`fraction` .*`cap` must be above 0; got -1"),
        ({"horizon": -1}, "horizon -1"),
    ],
)
def test_parameters_are_checked(data, params, says):
    proba, y = data
    with pytest.raises(EnsembleKitError, match=says):
        KellySizer(**params).fit(proba, y)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([0.5, 0.6, 0.2], "sum to 1; row 3 has"),
        ([-2.0, -0.5, -1.0], "not logits or log-probabilities"),
        ([1.2, -0.1, -0.1], "sum to 1; row 3 has"),
        ([np.inf, 0.0, 0.0], "sum to 1; row 3 has"),
    ],
)
def test_probabilities_are_checked(data, row, says):
    proba, y = data
    bad = proba.copy()
    bad[3] = row
    sizer = KellySizer().fit(proba, y)
    for call in (lambda: sizer.transform(bad), lambda: KellySizer().fit(bad, y)):
        with pytest.raises(EnsembleKitError, match=says):
            call()


def test_fit_refuses_what_it_cannot_measure(data):
    proba, y = data
    bad = proba.copy()
    bad[5, 2] = np.nan
    with pytest.raises(EnsembleKitError, match="`proba` must not be NaN in `fit`; row 5 is"):
        KellySizer().fit(bad, y)
    with pytest.raises(EnsembleKitError, match=r"3 classes; got 1 horizon.* and 2 classes"):
        KellySizer().fit(proba[:, :2], y)
    with pytest.raises(EnsembleKitError, match=r"must have the rows and horizons of `y`, \(1000, 1\); got \(999, 1\)"):
        KellySizer().fit(proba[1:], y)
    with pytest.raises(EnsembleKitError, match=r"classes.*flat|flat.*classes"):
        KellySizer().fit(proba, np.where(y == "slope", "flat", y), classes=CLASSES)
    with pytest.raises(EnsembleKitError, match="2 classes"):
        KellySizer().fit(proba, y).transform(proba[:, :2])


def test_half_precision_probabilities_will_do(data):
    proba, y = data
    half = KellySizer().fit(proba.astype(np.float16), y)
    np.testing.assert_allclose(half.transform(proba.astype(np.float16)), half.transform(proba), atol=1e-3)


def test_clone_and_pickle(data):
    proba, y = data
    sizer = KellySizer(fraction=0.25, long="bottom", short="peak").fit(proba, y)
    assert clone(sizer).get_params() == sizer.get_params()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(sizer)).transform(proba), sizer.transform(proba))
