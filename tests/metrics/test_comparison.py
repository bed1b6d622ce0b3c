"""Two models on the same rows, and scores with their interval."""

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter
from sklearn.metrics import average_precision_score, log_loss
from sklearn.utils import check_random_state

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.metrics import auc_pr, brier_score, causal_rule, compare_scores, score_interval

CLASSES = ["bottom", "peak", "slope"]
EVENTS = ["peak", "bottom"]
SCORERS = ["auc_pr", "brier", "log_loss"]


@pytest.fixture(scope="module")
def rows():
    """A panel of 150 times with one to three rows, labels, weights and two models with ties."""
    rng = np.random.default_rng(0)
    times = np.repeat(pd.date_range("2024-01-01", periods=150), rng.integers(1, 4, 150))
    instrument = pd.Series(times).groupby(times).cumcount().to_numpy()
    index = pd.MultiIndex.from_arrays([times, instrument], names=["datetime", "instrument"])
    truth = pd.Series(rng.choice(CLASSES, p=[0.1, 0.1, 0.8], size=len(times)), index)
    hit = truth.to_numpy()[:, None] == np.array(CLASSES)
    models = []
    for noise in (1.0, 2.0):
        score = (0.7 * hit + noise * rng.uniform(size=hit.shape)).round(1) + 0.05
        models.append(score / score.sum(axis=1, keepdims=True))
    weight = rng.choice([0.0, 0.5, 1.0, 2.0], size=len(times))
    return truth, *models, weight


def score_by_sklearn(kind, y, p, weight):
    if kind == "auc_pr":
        present = [k for k, label in enumerate(CLASSES) if label in EVENTS and weight[y == label].sum() > 0]
        scores = [average_precision_score(y == CLASSES[k], p[:, k], sample_weight=weight) for k in present]
        return np.mean(scores) if scores else np.nan
    if kind == "brier":
        return np.average(((p - (y[:, None] == np.array(CLASSES))) ** 2).sum(axis=1), weights=weight)
    return log_loss(y, p, sample_weight=weight, labels=CLASSES)


def arguments(kind, **more):
    return {"classes": CLASSES, "scorer": kind, "events": EVENTS if kind == "auc_pr" else None} | more


@pytest.mark.parametrize("kind", SCORERS)
def test_resamples_are_scored_as_sklearn_scores_drawn_rows(rows, kind):
    truth, a, b, weight = rows
    y, block, n, seed = truth.to_numpy(), 11, 30, 4
    moment = pd.factorize(truth.index.get_level_values(0))[0]
    starts = check_random_state(seed).randint(0, 150, size=(n, -(-150 // block)))
    draws = []
    for row in starts:
        drawn = np.bincount(np.concatenate([np.arange(start, start + block) % 150 for start in row]), minlength=150)
        counts = drawn[moment] * weight
        draws.append([score_by_sklearn(kind, y, p, counts) for p in (a, b)])
    draws = np.array(draws)
    whole = [score_by_sklearn(kind, y, p, weight) for p in (a, b)]
    options = arguments(kind, sample_weight=weight, block=block, n_resamples=n, random_state=seed, level=0.8)
    one = score_interval(truth, a, **options)
    np.testing.assert_allclose(one, [whole[0], *np.quantile(draws[:, 0], [0.1, 0.9])])
    two = compare_scores(truth, a, b, **options)
    np.testing.assert_allclose(two, [whole[0] - whole[1], *np.quantile(draws[:, 0] - draws[:, 1], [0.1, 0.9])])
    # Without an index, times are given.
    times = truth.index.get_level_values(0)
    assert compare_scores(y, a, b, times=times, **options) == two
    assert compare_scores(y, a, b, **options) != two


def test_the_score_of_all_rows_is_that_of_the_room(rows):
    truth, a, _, weight = rows
    for kind, score in (("auc_pr", auc_pr), ("brier", brier_score)):
        options = {key: value for key, value in arguments(kind).items() if value is not None and key != "scorer"}
        expected = score(truth, a, sample_weight=weight, **options)[0]
        found = score_interval(truth, a, sample_weight=weight, n_resamples=5, **arguments(kind))[0]
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("kind", SCORERS)
def test_horizons_and_the_order_of_classes(rows, kind):
    truth, a, b, _ = rows
    options = {"scorer": kind, "n_resamples": 20, "random_state": 0}
    expected = compare_scores(truth, a, b, classes=CLASSES, **options)
    several = truth.to_frame("H0").assign(H1=truth)
    several["H0"] = several["H0"].to_numpy()[::-1]
    found = compare_scores(several, [a[::-1], a], np.stack([b[::-1], b], 1), classes=CLASSES, horizon=1, **options)
    assert found == expected
    other = [2, 0, 1]
    found = compare_scores(truth, a[:, other], b[:, other], classes=[CLASSES[k] for k in other], **options)
    np.testing.assert_allclose(found, expected)


def test_a_model_against_a_causal_rule():
    bars = make_bars(3000, signal=0.0, random_state=0)
    labels = peak_slope_bottom(bars, w=12)
    rule, y = labels.align(causal_rule(bars, labels.definition))
    weight = labels.sample_weight[labels.known]
    options = {"classes": CLASSES, "events": EVENTS, "sample_weight": weight, "n_resamples": 200, "random_state": 0}
    proba = np.column_stack([rule["bottom"], rule["peak"], np.zeros(len(rule))])
    # A DataFrame's columns are found by name, whatever their order and what is missing.
    assert score_interval(y, rule, **options) == score_interval(y, proba, **options)
    assert compare_scores(y, proba, rule, **options) == (0.0, 0.0, 0.0)
    hindsight = rule + 5.0 * np.column_stack([y == "peak", y == "bottom"])
    difference, low, high = compare_scores(y, hindsight, rule, **options)
    assert 0 < low < difference < high
    guess = np.random.default_rng(0).uniform(size=proba.shape)
    assert compare_scores(y, guess, rule, **options)[2] < 0


def test_models_that_err_alike_are_told_apart_better_than_alone():
    rng = np.random.default_rng(0)
    y = rng.uniform(size=3000) < 0.1
    common, slight = 0.5 * y + rng.uniform(size=3000), 0.02 * rng.uniform(size=(2, 3000))
    a, b = (np.column_stack([-common, common + own]) for own in slight)
    options = {"classes": [False, True], "events": [True], "random_state": 0}
    _, low, high = compare_scores(y, a, b, **options)
    _, alone_low, alone_high = score_interval(y, a, **options)
    assert high - low < 0.2 * (alone_high - alone_low)


def test_rows_of_weight_zero_keep_their_place_in_time(rows):
    truth, a, b, _ = rows
    every_third = (np.arange(len(truth)) % 3 == 0).astype(float)
    holes = np.where(every_third[:, None] > 0, a, np.nan)  # never predicted, never asked for
    options = {"classes": CLASSES, "scorer": "brier", "block": 10, "random_state": 0}
    whole = compare_scores(truth, holes, b, sample_weight=every_third, **options)
    kept = every_third > 0
    alone = compare_scores(truth[kept], a[kept], b[kept], **options)
    assert whole[0] == pytest.approx(alone[0])
    assert whole[1:] != alone[1:]


def test_events_that_do_not_occur():
    y = np.array(["slope"] * 50)
    p = np.random.default_rng(0).uniform(size=(50, 3))
    options = {"classes": CLASSES, "events": EVENTS, "random_state": 0}
    assert np.isnan(score_interval(y, p, **options)).all()
    y[7] = "peak"  # drawn in some resamples only, and scored in those
    assert np.isfinite(score_interval(y, p, **options)).all()


def test_resamples_without_an_event_are_scored_by_the_others():
    y = np.array(["slope", "bottom"] * 25)
    y[7] = "peak"
    oracle = (y[:, None] == np.array(CLASSES)).astype(float)
    assert score_interval(y, oracle, classes=CLASSES, events=EVENTS, random_state=0) == (1.0, 1.0, 1.0)


def test_an_impossible_event_costs_what_the_floor_says():
    y = np.array([0, 1, 0, 1])
    sure = np.array([[1.0, 0.0]] * 4)
    loss, *_ = score_interval(y, sure, classes=[0, 1], scorer="log_loss", random_state=0)
    assert loss == pytest.approx(-np.log(np.finfo(np.float32).eps) / 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scorer": "auc"}, "`scorer` must be 'auc_pr', 'brier' or 'log_loss'; got 'auc'"),
        ({"scorer": "brier", "events": EVENTS}, "`events` must be None for scorer='brier', which judges all classes"),
        ({"block": 76}, r"`block` must be an integer in \[1, 75\] for 150 times; got 76"),
        ({"block": 7.5}, r"`block` must be an integer in .*; got 7\.5"),
        ({"n_resamples": 0}, "`n_resamples` must be an integer of at least 1; got 0"),
        ({"level": 95}, "`level` must be a number above 0 and below 1; got 95"),
        ({"events": ["top"]}, r"`events` must be among the classes .* got \['top'\]"),
        ({"times": [1, 2]}, "`times` must have a time for each of the .* rows of `y`; got 2"),
        ({"sample_weight": [1.0]}, "`sample_weight` must have one weight a row"),
    ],
)
def test_comparison_refuses(rows, options, says):
    truth, a, b, _ = rows
    with pytest.raises(EnsembleKitError, match=says):
        compare_scores(truth, a, b, classes=CLASSES, **options)
    if "times" not in options:
        with pytest.raises(EnsembleKitError, match=says):
            score_interval(truth, a, classes=CLASSES, **options)


@pytest.mark.parametrize("kind", ["brier", "log_loss"])
def test_losses_judge_probabilities(rows, kind):
    truth, a, b, _ = rows
    says = r"^`proba` must hold probabilities, in \[0, 1\] and of sum 1 over the classes; row 0 has .* take `np.exp` of"
    options = {"classes": CLASSES, "n_resamples": 5, "random_state": 0}
    for wrong in (np.log(b), 1.01 * b, pd.DataFrame(np.log(b), truth.index, CLASSES)):
        with pytest.raises(EnsembleKitError, match=says):
            compare_scores(truth, a, wrong, scorer=kind, **options)
        with pytest.raises(EnsembleKitError, match=says):
            score_interval(truth, wrong, scorer=kind, **options)
    # A ranking is one by any scores.
    assert compare_scores(truth, b, np.log(b), **options) == (0.0, 0.0, 0.0)


def test_scores_that_do_not_fit(rows):
    truth, a, b, _ = rows
    frame = pd.DataFrame(a[:, :1], truth.index, columns=["bottom"])
    says = r"`proba` must have a column for each of \['peak', 'bottom'\]; got \['bottom'\], without \['peak'\]"
    with pytest.raises(EnsembleKitError, match=says):
        compare_scores(truth, frame, b, classes=CLASSES, events=EVENTS)
    shifted = pd.DataFrame(a, truth.index, columns=CLASSES)[1:]
    with pytest.raises(EnsembleKitError, match=r"`proba` must have the index of `y` \(\d+ rows\); got another one of"):
        compare_scores(truth, a, shifted, classes=CLASSES)
    with pytest.raises(EnsembleKitError, match="`proba` must have shape"):
        compare_scores(truth, a, b[:-1], classes=CLASSES)
    one = pd.MultiIndex.from_product([[pd.Timestamp("2024-01-01")], range(5)])
    with pytest.raises(EnsembleKitError, match="`y` must be known at 2 times at least"):
        score_interval(
            pd.Series(CLASSES * 2, [*one, (pd.Timestamp("2024-01-01"), 9)])[:5].set_axis(one), a[:5], classes=CLASSES
        )


# -------------------------------------------------------------------------------------- coverage


def persistent(n, rng, phi=0.8):
    """Events of a state that lasts, and two models that see it through noise that lasts."""
    shock = rng.normal(size=(3, n + 200))
    state, *noise = lfilter([np.sqrt(1 - phi**2)], [1, -phi], shock, axis=1)[:, 200:]
    return state > 1.9, 0.6 * state + noise[0], 0.5 * state + noise[1]


@pytest.mark.slow
def test_intervals_cover_the_truth_of_dependent_rows():
    y, a, b = persistent(2_000_000, np.random.default_rng(9))
    truth = average_precision_score(y, a)
    lead = truth - average_precision_score(y, b)
    covered = {"score": [], "difference": [], "difference by rows": []}
    for seed in range(200):
        y, a, b = persistent(3000, np.random.default_rng(seed))
        a, b = np.column_stack([-a, a]), np.column_stack([-b, b])
        options = {"classes": [False, True], "events": [True], "n_resamples": 300, "random_state": seed}
        _, low, high = score_interval(y, a, **options)
        covered["score"].append(low < truth < high)
        for name, block in (("difference", None), ("difference by rows", 1)):
            _, low, high = compare_scores(y, a, b, block=block, **options)
            covered[name].append(low < lead < high)
    share = {name: np.mean(inside) for name, inside in covered.items()}
    assert 0.86 <= share["score"] <= 0.98
    assert 0.89 <= share["difference"] <= 0.985
    assert share["difference by rows"] < share["difference"] - 0.05
