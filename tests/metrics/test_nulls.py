"""Scores against labels of other bars."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import auc_pr, shift_labels, shifted_label_scores


@pytest.fixture(scope="module")
def rare_events():
    rng = np.random.default_rng(0)
    hit = rng.uniform(size=2000) < 0.03
    return np.where(hit, "peak", "slope"), hit, rng


def two_columns(p):
    return np.column_stack([p, 1 - p])


def test_a_random_score_lies_inside_its_null(rare_events):
    y, _, rng = rare_events
    proba = two_columns(rng.uniform(size=len(y)))
    arguments = {"classes": ["peak", "slope"], "events": ["peak"]}
    null = shifted_label_scores(y, proba, min_shift=36, random_state=0, **arguments)
    assert null.shape == (200,)
    low, high = np.quantile(null, [0.005, 0.995])
    assert low <= auc_pr(y, proba, **arguments)[0] <= high


def test_a_good_score_lies_far_outside_its_null(rare_events):
    y, hit, rng = rare_events
    proba = two_columns(np.clip(0.3 * hit + rng.uniform(size=len(y)) * 0.7, 0, 1))
    arguments = {"classes": ["peak", "slope"], "events": ["peak"]}
    null = shifted_label_scores(y, proba, min_shift=36, random_state=0, **arguments)
    assert auc_pr(y, proba, **arguments)[0] > null.max() + 3 * null.std()


def test_shifts_keep_their_distance():
    # One event among zeros: the score of a shift is 1 only where the probability was put.
    n, far = 13, 3
    y = np.array(["slope"] * n)
    y[0] = "peak"
    reached = []
    for s in range(n):
        p = np.zeros(n)
        p[s] = 1.0
        scores = shifted_label_scores(
            y, two_columns(p), classes=["peak", "slope"], events=["peak"], min_shift=far, n_shifts=60, random_state=0
        )
        reached.append((scores == 1.0).any())
    assert np.flatnonzero(reached).tolist() == list(range(far + 1, n - far))


def test_shifted_scores_of_one_horizon(rare_events):
    y, _, rng = rare_events
    proba = two_columns(rng.uniform(size=len(y)))
    arguments = {"classes": ["peak", "slope"], "min_shift": 10, "n_shifts": 5, "random_state": 1}
    several = shifted_label_scores(np.column_stack([y[::-1], y]), [proba[::-1], proba], horizon=1, **arguments)
    np.testing.assert_array_equal(several, shifted_label_scores(y, proba, **arguments))


@pytest.mark.parametrize(("shift", "says"), [(1000, "more than 2001 rows"), (-1, "integer of at least 0")])
def test_shifts_that_cannot_be(rare_events, shift, says):
    y, _, _ = rare_events
    with pytest.raises(EnsembleKitError, match=says):
        shifted_label_scores(y, np.ones((2000, 2)), classes=["peak", "slope"], min_shift=shift)


# ---------------------------------------------------------------------------------- shift_labels


def numbered(lengths, seed=0):
    """Labels of a panel that say whose they are and which, at times that differ."""
    rng = np.random.default_rng(seed)
    days = pd.date_range("2024-01-01", periods=200)
    frames = {
        name: pd.Series(np.arange(n) + 1000 * k, days[np.sort(rng.choice(200, n, replace=False))])
        for k, (name, n) in enumerate(lengths.items())
    }
    return pd.concat(frames, names=["instrument", "datetime"]).swaplevel().sort_index()


def shift_of(before, after):
    """By how many rows labels were rolled, which they must have been."""
    shift = int(np.flatnonzero(np.asarray(after) == np.asarray(before)[0])[0])
    np.testing.assert_array_equal(after, np.roll(before, shift))
    return shift


def test_every_shift_that_keeps_its_distance_comes():
    y = np.arange(13)
    shifts = {shift_of(y, shift_labels(y, min_shift=3, random_state=seed)) for seed in range(100)}
    assert shifts == set(range(4, 10))


def test_instruments_are_shifted_within_themselves():
    y = numbered({"A": 100, "B": 100, "C": 50, "D": 8})
    for seed in range(20):
        shifted = shift_labels(y, min_shift=3, random_state=seed)
        assert shifted.index.equals(y.index)
        assert shifted.dtype == y.dtype
        shifts = {name: shift_of(y.xs(name, level=1), shifted.xs(name, level=1)) for name in "ABCD"}
        for name, n in (("A", 100), ("C", 50), ("D", 8)):
            assert 3 < shifts[name] < n - 3
        # What is common to instruments of one length stays so.
        assert shifts["A"] == shifts["B"]
        assert (shifts["A"] - 4) / 93 == pytest.approx((shifts["C"] - 4) / 43, abs=1 / 43)


def test_columns_of_a_frame_move_together():
    y = numbered({"A": 40, "B": 30})
    frame = pd.DataFrame({"H0": y.astype(str), "weight": y / 2, "kind": pd.Categorical(y % 3)}, y.index)
    shifted = shift_labels(frame, min_shift=5, random_state=0)
    assert shifted.dtypes.equals(frame.dtypes)
    assert shifted.index.equals(frame.index)
    assert (shifted["H0"].astype(int) == 2 * shifted["weight"]).all()
    assert (shifted["weight"] != frame["weight"]).all()
    pd.testing.assert_series_equal(
        shifted["weight"] * 2, shift_labels(y, min_shift=5, random_state=0) * 1.0, check_names=False
    )
    several = frame[["weight", "weight"]].to_numpy()
    assert shift_labels(several, min_shift=5, random_state=0).shape == several.shape


def test_scores_of_a_panel_are_those_of_its_shifted_labels():
    number = numbered({"A": 60, "B": 60, "C": 45})
    rng = np.random.default_rng(0)
    y = pd.Series(np.where(rng.uniform(size=len(number)) < 0.1, "peak", "slope"), number.index)
    proba = two_columns(rng.uniform(size=len(y)))
    arguments = {"classes": ["peak", "slope"], "events": ["peak"]}
    found = shifted_label_scores(y, proba, min_shift=5, n_shifts=30, random_state=7, **arguments)
    generator = np.random.RandomState(7)
    others = [shift_labels(y, min_shift=5, random_state=generator) for _ in range(30)]
    np.testing.assert_array_equal(found, [auc_pr(other, proba, **arguments)[0] for other in others])
    # Rows of different instruments taken for one series would have been rolled into each other.
    as_one = shifted_label_scores(y.to_numpy(), proba, min_shift=5, n_shifts=30, random_state=7, **arguments)
    assert (found != as_one).any()


def test_instruments_too_short_to_shift():
    y = numbered({"A": 40, "B": 11})
    says = "`y` must have more than 11 rows an instrument for min_shift=5; got 11 of B. Give more bars, or drop it."
    with pytest.raises(EnsembleKitError, match=says):
        shift_labels(y, min_shift=5)
    with pytest.raises(
        EnsembleKitError, match=r"`y` must have more than 11 rows for min_shift=5; got 11\. Give more bars\."
    ):
        shift_labels(np.arange(11), min_shift=5)
    with pytest.raises(
        EnsembleKitError, match=r"`min_shift` must be an integer of at least 0; got 2\.5\. Take the label's reach plus"
    ):
        shift_labels(np.arange(11), min_shift=2.5)
    with pytest.raises(EnsembleKitError, match="`y` must be sorted by time"):
        shift_labels(y.iloc[::-1], min_shift=1)


@pytest.mark.parametrize("hole", [np.nan, None])
def test_labels_not_known_yet_are_not_shifted(hole):
    y = numbered({"A": 40, "B": 30}).astype(object)
    y.iloc[[60, 69]] = hole
    says = (
        r"^`y` must have no missing label; row 60 has one \(2 such row\(s\)\)\. Leave out .* with `labels.align\(X\)`"
    )
    for missing in (y, y.to_numpy(), y.to_frame("H0").assign(weight=1.0)):
        with pytest.raises(EnsembleKitError, match=says):
            shift_labels(missing, min_shift=5)
