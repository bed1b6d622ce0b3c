"""Kelly's rule by hand, and what no input may make of it."""

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.base import clone

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.sizing import KellySizer
from ensemble_kit.sizing._growth import _many_outcomes, equal_weight_means, growth_optimal, reliability_error
from ensemble_kit.sizing.threshold import ThresholdSizer

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
        ({"conservatism": -1}, "`conservatism` must be at least 0, and finite; got -1"),
        ({"cap": 0}, "`cap` must be above 0"),
        ({"fraction": 2, "cap": -1}, "`fraction` .*`cap` must be above 0, and finite; got -1"),
        ({"cap": np.inf}, "`cap` must be above 0, and finite; got inf"),
        ({"conservatism": np.inf}, "`conservatism` must be"),
        ({"penalty": None}, "`penalty` must be 'brier' or 'reliability'; got None"),
        ({"payoffs": 0.0}, "`payoffs` must be a number above 0, a mapping of classes to returns, or 'estimate'; got 0"),
        ({"payoffs": "guess"}, "or 'estimate'; got 'guess'"),
        ({"payoffs": [1.0, -1.0]}, r"or 'estimate'; got \[1.0, -1.0\]"),
        ({"cost": np.float64(-0.1)}, r"`cost` must be at least 0, and finite; got -0\.1\."),
        ({"long_only": "yes"}, "`long_only` must be True or False; got 'yes'"),
        (
            {"horizon": -1},
            "^`horizon` must be an integer of at least 0; got -1. The first of the target's columns is 0.$",
        ),
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


@pytest.mark.parametrize("sizer", [KellySizer(), ThresholdSizer()])
@pytest.mark.parametrize("horizon", [0.5, True, -1, None])
def test_a_horizon_that_is_none(data, sizer, horizon):
    says = rf"^`horizon` must be an integer of at least 0; got {horizon}\. The first of the target's columns is 0\.$"
    with pytest.raises(EnsembleKitError, match=says):
        clone(sizer).set_params(horizon=horizon).fit(*data)


@pytest.mark.parametrize("sizer", [KellySizer(), ThresholdSizer(threshold=0.4)])
def test_frames_are_placed_by_the_names_of_their_columns(data, sizer):
    proba, y = data
    expected = clone(sizer).fit(proba, y).transform(proba)
    turned = pd.DataFrame(proba[:, [2, 0, 1]], columns=["slope", "bottom", "peak"])
    for form in (turned, [turned], proba, pd.DataFrame(proba), proba.tolist(), proba[:, None]):
        for classes in (None, CLASSES):
            fit = clone(sizer).fit(form, y, classes=classes)
            for other in (turned, proba, proba.tolist()):
                np.testing.assert_array_equal(fit.transform(other), expected)
    # By the classes told: unnamed columns stand in their order, named ones do not.
    told = ["slope", "bottom", "peak"]
    fit = clone(sizer).fit(turned.to_numpy(), y, classes=told)
    assert fit.classes_.tolist() == told
    np.testing.assert_allclose(fit.transform(turned.to_numpy()), expected, atol=1e-15)
    np.testing.assert_array_equal(fit.transform(turned), fit.transform(pd.DataFrame(proba, columns=CLASSES)))
    says = (
        r"^`proba` must have a column for each of the classes \['bottom', 'peak', 'slope'\], and no other; got "
        r"\['peak', 'base', 'slope'\]\. Name them as the model does, or pass `proba.to_numpy\(\)` with its columns in "
        r"that order\.$"
    )
    wrong = pd.DataFrame(proba, columns=["peak", "base", "slope"])
    fit = clone(sizer).fit(proba, y)
    for call in (lambda: fit.transform(wrong), lambda: fit.transform([wrong]), lambda: clone(sizer).fit(wrong, y)):
        with pytest.raises(EnsembleKitError, match=says):
            call()


@pytest.mark.parametrize("sizer", [KellySizer(), ThresholdSizer()])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"classes": "up"},
            (
                "^`classes` must be a sequence of labels, one a column; got 'up'. Pass the fitted model's `classes_`, "
                "of several horizons one.$"
            ),
        ),
        (
            {"classes": ["peak", "bottom", "peak"]},
            (
                r"^`classes` must name each class once; got \['peak', 'bottom', 'peak'\], with \['peak'\] repeated. "
                "Pass the fitted model's `classes_`.$"
            ),
        ),
        ({"rows": 0}, "^`y` must have a row at least; got none. Widen the span that was read.$"),
        ({"rows": 0, "classes": CLASSES}, "^`y` must have a row at least; got none. Widen the span that was read.$"),
    ],
)
def test_fit_refuses_classes_and_rows(data, sizer, options, says):
    proba, y = (part[: options.get("rows")] for part in data)
    with pytest.raises(EnsembleKitError, match=says):
        clone(sizer).fit(proba, y, classes=options.get("classes"))


def test_rows_may_be_lists(data):
    sizer = KellySizer().fit(*data)
    np.testing.assert_array_equal(sizer.transform([[0.9, 0.1, 0.0]]), sizer.transform(np.array([[0.9, 0.1, 0.0]])))
    assert sizer.transform(data[0][:0]).shape == (0,)
    for bad, reason in (
        ([["a", "b", "c"]], r"could not convert string to float: 'a'"),
        ([[0.1, 0.9, 0.0], [1.0]], r"setting an array element with a sequence\..*"),
        ([np.ones((2, 3)), np.ones((2, 2))], "all input arrays must have the same shape"),
    ):
        says = rf"^`proba` must be numbers, as many in each row and horizon; {reason}\. Pass what `predict_proba` ret"
        with pytest.raises(EnsembleKitError, match=says):
            sizer.transform(bad)


def test_half_precision_probabilities_will_do(data):
    proba, y = data
    half = KellySizer().fit(proba.astype(np.float16), y)
    np.testing.assert_allclose(half.transform(proba.astype(np.float16)), half.transform(proba), atol=1e-3)


def test_clone_and_pickle(data):
    proba, y = data
    sizer = KellySizer(fraction=0.25, long="bottom", short="peak").fit(proba, y)
    assert clone(sizer).get_params() == sizer.get_params()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(sizer)).transform(proba), sizer.transform(proba))


def test_all_that_is_wrong_is_said_at_once(data):
    wrong = {"fraction": 2, "conservatism": -1, "penalty": 3, "payoffs": -1, "cost": -1, "cap": 0, "long_only": 1}
    with pytest.raises(EnsembleKitError) as caught:
        KellySizer(**wrong).fit(*data)
    assert [name for name in wrong if f"`{name}` must be" in str(caught.value)] == list(wrong)


# --------------------------------------------------------------------------------------- payoffs


def stating(payoffs, **params):
    """A sizer without doubt about the probabilities."""
    return KellySizer(fraction=1.0, conservatism=0.0, payoffs=payoffs, **params).fit(np.eye(3), CLASSES)


@pytest.mark.parametrize("b", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("cost", [0.0, 0.05])
def test_kellys_formula_for_any_odds_and_cost(b, cost):
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([1, 1, 1], size=500)
    p = (1 + proba[:, 0] - proba[:, 1]) / 2
    long = p / (1 + cost) - (1 - p) / (b - cost)
    short = (1 - p) / (b + cost) - p / (1 - cost)
    position = stating(b, cost=cost, cap=9).transform(proba)
    np.testing.assert_allclose(position, np.where(long > 0, long, -np.maximum(short, 0)), atol=1e-13)
    if cost == 0:
        np.testing.assert_allclose(position, p - (1 - p) / b, atol=1e-13)
    # Between the two break-evens nothing is traded.
    edge = p * b - (1 - p)
    assert (position[np.abs(edge) < cost] == 0).all()
    assert (position[np.abs(edge) > cost] != 0).all()


def test_no_more_is_taken_from_a_class_than_it_has():
    # All of P(long) goes to the short class; what is neither is still half a win, of 3.
    sizer = fitted(0.5, payoffs=3.0, conservatism=9.0, fraction=1.0)
    assert sizer.transform(np.array([[0.1, 0.0, 0.9]]))[0] == pytest.approx(0.45 - 0.55 / 3)


def test_a_cost_that_eats_the_gain_leaves_no_long_bet():
    proba = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(stating(0.5, cost=0.5, cap=9).transform(proba), [0.0, -1.0])


@pytest.mark.parametrize("cost", [0.0, 0.002])
def test_many_outcomes_equal_the_closed_form_of_two(cost):
    rng = np.random.default_rng(1)
    proba = rng.dirichlet([0.5, 0.5, 0.5], size=2000)
    proba[:3] = np.eye(3)
    for gain, loss in rng.uniform(0.004, 3, size=(30, 2)):
        payoffs = [np.array([gain]), np.array([-loss]), np.array([gain, -loss, -loss])]
        for limit in (0.2, 1e4):
            closed = growth_optimal(proba, payoffs, cost=cost, limit=limit)
            net, starts = np.concatenate(payoffs) - cost, np.array([0, 1, 2, 5])
            np.testing.assert_allclose(
                _many_outcomes(proba, net, starts, np.full(2000, limit)), closed, rtol=1e-12, atol=1e-12
            )


@pytest.mark.parametrize("scale", [1e-4, 0.01, 0.5])
def test_many_outcomes_equal_a_root_found_by_scipy(scale):
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(150):
        payoffs = [scale * rng.standard_t(4, size=rng.integers(1, 17)) + shift * scale for shift in (0.5, -0.5, 0.0)]
        proba, cost, limit = rng.dirichlet([1, 1, 1], size=4), scale * 0.05, rng.choice([0.5, 5.0, 1e5])
        net = np.concatenate(payoffs) - cost
        top = min(limit, -1 / net.min() if net.min() < 0 else np.inf)
        for p, f in zip(proba, growth_optimal(proba, payoffs, cost=cost, limit=limit), strict=True):
            share = np.repeat(p / [len(r) for r in payoffs], [len(r) for r in payoffs])
            slope = lambda f: (share * net / (1 + f * net)).sum()
            if slope(0) <= 0:
                assert f == 0
            elif slope(top * (1 - 1e-12)) >= 0:
                assert f == pytest.approx(top)
            else:
                inside += 1
                assert f == pytest.approx(brentq(slope, 0, top * (1 - 1e-12), xtol=1e-14, rtol=1e-14), rel=1e-9)
    assert inside > 50


def test_a_mapping_of_odds_is_the_number():
    proba = np.random.default_rng(3).dirichlet([1, 1, 1], size=300)
    stated = stating({"bottom": 1.5, "peak": -1, "slope": [1.5, -1]}, cost=0.01)
    np.testing.assert_allclose(stated.transform(proba), stating(1.5, cost=0.01).transform(proba), atol=1e-13)


def test_scaling_payoffs_and_cost_scales_positions():
    proba = np.random.default_rng(4).dirichlet([1, 1, 1], size=300)
    payoffs = {"bottom": [0.03, 0.01, -0.004], "peak": [-0.02, 0.001], "slope": 0.0}
    tenth = {label: np.asarray(paid) / 10 for label, paid in payoffs.items()}
    near, far = stating(payoffs, cost=1e-3, cap=1e3), stating(tenth, cost=1e-4, cap=1e4)
    np.testing.assert_allclose(far.transform(proba), 10 * near.transform(proba), rtol=1e-10)
    assert len(np.unique(np.sign(near.transform(proba)))) == 3


def test_a_sure_gain_is_held_by_the_cap_and_a_sure_loss_by_ruin():
    never_down = {"bottom": 0.02, "peak": 0.0, "slope": 0.01}
    assert stating(never_down, cap=7).transform(np.array([[0.2, 0.4, 0.4]])) == [7.0]
    assert stating({"bottom": 0.5, "peak": -0.25, "slope": 0}, cap=7).transform(np.eye(3)[:1]) == [4.0]


@pytest.mark.parametrize(
    ("payoffs", "says"),
    [
        ({"bottom": 1, "peak": -1}, r"`payoffs` must name each of the classes \['bottom', 'peak', 'slope'\], and no"),
        ({"bottom": 1, "peak": -1, "slope": 0, "flat": 0}, "got .*'flat'"),
        ({"bottom": np.nan, "peak": -1, "slope": 0}, "`payoffs` must be finite returns.*; got nan for 'bottom'"),
        ({"bottom": 1, "peak": [], "slope": 0}, r"got \[\] for 'peak'"),
        ({"bottom": 1, "peak": "-1", "slope": 0}, "got '-1' for 'peak'"),
        ({"bottom": 1, "peak": [[-1]], "slope": 0}, r"got \[\[-1\]\] for 'peak'"),
        ({"bottom": -1, "peak": 1, "slope": 0}, "larger for 'bottom' than for 'peak'; got -1 and 1"),
    ],
)
def test_stated_payoffs_are_checked(data, payoffs, says):
    with pytest.raises(EnsembleKitError, match=says):
        KellySizer(payoffs=payoffs).fit(*data)


# ---------------------------------------------------------------------------- estimated payoffs


def earned(y, seed=5, shift=0.004):
    """Returns that rise after bottoms and fall after peaks."""
    noise = np.random.default_rng(seed).normal(0, 0.01, size=len(y))
    return noise + np.select([y == "bottom", y == "peak"], [shift, -shift], 0.0)


def test_estimated_payoffs_keep_mean_and_most_of_the_variance(data):
    proba, y = data
    returns = earned(y)
    sizer = KellySizer(payoffs="estimate").fit(proba, y, returns=returns)
    assert [len(paid) for paid in sizer.payoffs_] == [16, 16, 16]
    for label, paid in zip(CLASSES, sizer.payoffs_, strict=True):
        of = returns[y == label]
        assert paid.mean() == pytest.approx(of.mean(), rel=1e-12, abs=1e-16)
        assert 0.9 < paid.var() / of.var() < 1
        assert of.min() <= paid[0] <= paid[-1] <= of.max()
        assert (np.diff(paid) >= 0).all()


def test_parts_of_returns_are_equally_heavy():
    returns = np.array([5.0, 1.0, 2.0, 8.0, 3.0, 4.0])
    np.testing.assert_allclose(equal_weight_means(returns, np.ones(6), 3), [1.5, 3.5, 6.5])
    np.testing.assert_allclose(equal_weight_means(returns, np.ones(6), 4), [4 / 3, 8 / 3, 13 / 3, 7])
    np.testing.assert_allclose(equal_weight_means(returns[:2], np.array([3.0, 1.0]), 16), [3.0, 5.0])
    twice = equal_weight_means(np.repeat(returns, 2), np.ones(12), 5)
    np.testing.assert_allclose(equal_weight_means(returns, np.full(6, 2.0), 5), twice)


def test_unknown_returns_and_rows_of_weight_zero_do_not_count(data):
    proba, y = data
    rng = np.random.default_rng(6)
    returns, weights = earned(y), rng.choice([0.0, 1.0, 2.0], size=len(y))
    returns[weights == 0] = np.inf  # nobody looks there
    returns[rng.random(len(y)) < 0.2] = np.nan
    sizer = KellySizer(payoffs="estimate").fit(proba, y, sample_weight=weights, returns=returns)
    for label, paid in zip(CLASSES, sizer.payoffs_, strict=True):
        of = (y == label) & (weights > 0) & ~np.isnan(returns)
        assert paid.mean() == pytest.approx(np.average(returns[of], weights=weights[of]), rel=1e-10)
    # The error is that of all rows of weight, whether their return is known or not.
    assert sizer.rmse_ == KellySizer().fit(proba, y, sample_weight=weights).rmse_


def test_returns_are_not_looked_at_without_need(data):
    proba, y = data
    assert KellySizer().fit(proba, y, returns=np.full(7, np.inf)).rmse_ == KellySizer().fit(proba, y).rmse_
    assert [KellySizer(payoffs=p).needs_returns for p in (1.0, {}, "estimate")] == [False, False, True]


def test_estimated_payoffs_equal_the_same_stated(data):
    proba, y = data
    by_fit = KellySizer(payoffs="estimate", cap=9).fit(proba, y, returns=earned(y))
    stated = dict(zip(CLASSES, by_fit.payoffs_, strict=True))
    by_hand = KellySizer(payoffs=stated, cap=9).fit(proba, y)
    np.testing.assert_array_equal(by_fit.transform(proba), by_hand.transform(proba))


def test_classes_that_did_not_earn_what_they_promise_are_warned_of(data):
    proba, y = data
    with pytest.warns(UserWarning, match=r"`returns` were no larger after 'bottom' .* than after 'peak'.*do not trade"):
        sizer = KellySizer(payoffs="estimate").fit(proba, y, returns=-earned(y))
    # They follow the returns, and doubt still makes them smaller.
    sure = KellySizer(payoffs=dict(zip(CLASSES, [-r for r in sizer.payoffs_], strict=True))).fit(proba, y)
    np.testing.assert_allclose(sizer.transform(proba), -sure.transform(proba), atol=1e-12)


def test_a_class_without_returns_gets_those_of_all(data):
    proba, y = data
    returns = np.where(y == "slope", np.nan, earned(y))
    with pytest.warns(UserWarning, match=r"not known for any row of class \['slope'\]; those of all rows stand in"):
        sizer = KellySizer(payoffs="estimate").fit(proba, y, returns=returns)
    assert sizer.payoffs_[2].mean() == pytest.approx(np.nanmean(returns))


@pytest.mark.parametrize(
    ("returns", "says"),
    [
        (None, r"`returns` must be given for payoffs='estimate'; got None\. Pass `next_open_return\(bars\)`"),
        (np.zeros(999), r"one number a row, shape \(1000,\); got \(999,\)"),
        (np.full(1000, np.nan), "known on a row of weight; got 0 known"),
        (np.r_[np.inf, np.zeros(999)], "got 1000 known, 1 of them infinite"),
    ],
)
def test_returns_are_checked(data, returns, says):
    with pytest.raises(EnsembleKitError, match=says):
        KellySizer(payoffs="estimate").fit(*data, returns=returns)


def test_doubt_never_enlarges_a_position():
    # The opposite class earns less, but so calmly that a bet on it alone would be larger.
    payoffs = {"bottom": [0.08, -0.05], "peak": [0.0141, -0.001], "slope": -0.03}
    proba = np.random.default_rng(7).dirichlet([1, 1, 1], size=2000)
    truth = np.array(CLASSES)[(proba.cumsum(axis=1) < np.random.default_rng(8).random((2000, 1))).sum(axis=1)]
    sizes = [
        np.abs(KellySizer(payoffs=payoffs, conservatism=c, cap=50).fit(proba, truth).transform(proba))
        for c in (0.0, 0.25, 0.5, 1.0, 2.0)
    ]
    assert sizes[0].max() > 1
    for less in sizes[1:]:
        assert (less <= sizes[0] * (1 + 1e-12)).all()
    assert sizes[-1].sum() < sizes[0].sum()


# ------------------------------------------------------------------------- a million random inputs

ODDS = {
    "odds": 1.7,
    "even": 1.0,
    "stated": {"bottom": [0.03, 0.01, -0.002], "peak": [-0.02, 0.002, -0.01], "slope": [0.005, -0.004]},
    "estimate": "estimate",
}


@pytest.fixture(scope="module")
def million():
    rng = np.random.default_rng(9)
    proba = rng.dirichlet([0.5, 0.5, 0.5], size=1_000_000).astype(np.float32).astype(np.float64)
    proba[:6] = [*np.eye(3), [0.5, 0.5, 0], [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]
    # Mass goes from the short class to the long one: no position may fall.
    more = proba.copy()
    moved = rng.random(len(proba)) * proba[:, 1]
    more[:, 0] += moved
    more[:, 1] -= moved
    unknown = proba.copy()
    unknown[rng.random(proba.shape) < 0.01] = np.nan
    return proba, more, unknown


@pytest.mark.parametrize("params", [{}, {"cost": 0.003, "cap": 0.8, "fraction": 1.0, "penalty": "reliability"}])
@pytest.mark.parametrize("payoffs", ODDS)
def test_a_million_random_inputs(data, million, payoffs, params):
    train, y = data
    sizer = KellySizer(payoffs=ODDS[payoffs], **params).fit(train, y, returns=earned(y))
    paid = sizer.payoffs_
    assert all((np.sort(np.resize(paid[0], 48)) >= np.sort(np.resize(paid[1], 48))).tolist())
    proba, more, unknown = million
    position = sizer.transform(proba)
    assert np.isfinite(position).all()
    assert (np.abs(position) <= sizer.cap).all()
    assert not np.signbit(position[position == 0]).any()
    assert (position > 0).any()
    assert (position < 0).any()
    assert (sizer.transform(more) >= position - 1e-12).all()
    # What is expected decides on the side, and on whether there is one.
    expected = proba @ [r.mean() for r in paid]
    assert (position[np.abs(expected) <= sizer.cost] == 0).all()
    assert (position * expected >= 0).all()
    holes = np.isnan(unknown).any(axis=1)
    with_holes = sizer.transform(unknown)
    assert (with_holes[holes] == 0).all()
    np.testing.assert_array_equal(with_holes[~holes], position[~holes])
    sizer.long_only = True
    np.testing.assert_array_equal(sizer.transform(proba), np.maximum(position, 0.0))


# ------------------------------------------------------------------------------------- reliability


def worlds(n, slope, seed):
    """Bets of two classes whose logits were multiplied."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 1, size=n)
    true, said = (1 / (1 + np.exp(-k * logit)) for k in (1.0, slope))
    return said, true, (rng.random(n) < true).astype(float)


def test_known_probabilities_have_next_to_no_error():
    errors = [reliability_error(*worlds(10_000, 1.0, seed)[::2], np.ones(10_000)) for seed in range(40)]
    assert np.mean(errors) < 0.006
    assert np.max(errors) < 0.02
    assert np.mean(np.array(errors) == 0) > 0.3


@pytest.mark.parametrize("slope", [0.4, 2.0, 4.0])
def test_miscalibration_is_measured_as_it_is(slope):
    said, true, came = worlds(50_000, slope, 0)
    error = reliability_error(said, came, np.ones(50_000))
    # Within bins over- and understatement may cancel, hardly so in ten of them.
    assert error == pytest.approx(np.sqrt(np.mean((said - true) ** 2)), rel=0.06)


def test_weights_count_as_rows_do_and_weight_zero_not_at_all(data):
    proba, y = data
    weights = np.random.default_rng(10).choice([0.0, 1.0], size=len(y))
    spoilt = np.where(weights[:, None] > 0, proba, np.nan)
    sizer = KellySizer(penalty="reliability").fit(spoilt, y, sample_weight=weights)
    alone = KellySizer(penalty="reliability").fit(proba[weights > 0], y[weights > 0])
    assert sizer.error_ == alone.error_
    assert sizer.rmse_ == pytest.approx(alone.rmse_)
    said, _, came = worlds(5_000, 2.0, 1)
    heavy = [reliability_error(said, came, np.full(5_000, w)) for w in (1.0, 0.125)]
    assert heavy[0] == heavy[1]


def test_the_penalty_chooses_the_error(data):
    proba, y = data
    brier, reliability = (KellySizer(penalty=p).fit(proba, y) for p in ("brier", "reliability"))
    assert brier.error_ == brier.rmse_ == reliability.rmse_
    assert reliability.error_ < 0.2 * reliability.rmse_
    assert (np.abs(reliability.transform(proba)) >= np.abs(brier.transform(proba))).all()


def test_reliability_needs_rows():
    with pytest.raises(EnsembleKitError, match="must have at least 5 rows of weight to judge; got 3"):
        KellySizer(penalty="reliability").fit(np.eye(3), CLASSES)


def test_a_constant_forecast_is_one_bin():
    came = np.tile([1.0, 0.0], 500)
    assert reliability_error(np.full(1000, 0.8), came, np.ones(1000)) == pytest.approx(0.3)
    assert reliability_error(np.full(1000, 0.5), came, np.ones(1000)) == 0
