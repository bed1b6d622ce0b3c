"""Accuracy by confidence against sums by hand, and crossings against a loop."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels import next_direction, peak_slope_bottom
from ensemble_kit.metrics.classification import brier_skill
from ensemble_kit.metrics.confidence import belief_crossings, check_thresholds, confidence_curve

CLASSES = ["peak", "slope", "bottom"]  # not sorted
COLUMNS = ["n", "coverage", "accuracy", "low", "high", "base_rate", "chance", "mean_confidence"]


@pytest.fixture(scope="module")
def data():
    """Calibrated beliefs: each label is drawn with its own row's probabilities."""
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([0.3, 1.0, 0.3], size=3000)
    codes = (proba.cumsum(axis=1) < rng.uniform(size=(3000, 1))).sum(axis=1)
    return np.array(CLASSES)[codes], proba


def by_hand(y, proba, threshold, weights, events=CLASSES):
    """One row of the table, row by row."""
    of = [CLASSES.index(event) for event in events]
    total = dict.fromkeys(["n", "w", "right", "chance", "said"], 0.0)
    came = dict.fromkeys(CLASSES, 0.0)
    share = {c: weights[y == c].sum() / weights.sum() for c in CLASSES}
    for label, p, w in zip(y, proba, weights, strict=True):
        call = max(of, key=lambda k: p[k])
        if w > 0 and p[call] >= threshold:
            total["n"] += 1
            total["w"] += w
            total["right"] += w * (label == CLASSES[call])
            total["chance"] += w * share[CLASSES[call]]
            total["said"] += w * p[call]
            came[label] += w
    if not total["n"]:
        return [0, 0.0] + 4 * [np.nan]
    mean = {name: total[name] / total["w"] for name in ("right", "chance", "said")}
    shares = total["w"] / weights.sum(), max(came.values()) / total["w"]
    return [total["n"], shares[0], mean["right"], shares[1], mean["chance"], mean["said"]]


@pytest.mark.parametrize("events", [None, ["peak", "bottom"], ["bottom"]])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_sums_by_hand(data, events, weighted):
    y, proba = data
    weights = np.random.default_rng(1).integers(0, 4, len(y)) if weighted else np.ones(len(y))
    thresholds = [0.2, 0.5, 0.8, 0.97, 1.0]
    curve = confidence_curve(
        y, proba, classes=CLASSES, events=events, thresholds=thresholds, sample_weight=weights if weighted else None
    )
    expected = [by_hand(y, proba, t, weights, events or CLASSES) for t in thresholds]
    got = curve[["n", "coverage", "accuracy", "base_rate", "chance", "mean_confidence"]]
    np.testing.assert_allclose(got.to_numpy(np.float64), expected, rtol=1e-12)
    assert curve.index.tolist() == thresholds
    assert curve.columns.tolist() == COLUMNS
    assert curve["n"].dtype == np.int64


def test_every_row_is_the_models_accuracy(data):
    y, proba = data
    curve = confidence_curve(y, proba, classes=CLASSES)
    all_rows = curve.loc[0.0]
    assert all_rows["coverage"] == 1
    assert all_rows["accuracy"] == accuracy_score(y, np.array(CLASSES)[proba.argmax(axis=1)])
    assert all_rows["base_rate"] == (y == "slope").mean()
    # The largest of three reaches 0.3 on every row.
    np.testing.assert_array_equal(curve.loc[0.3], all_rows)
    assert (np.diff(curve["coverage"]) <= 0).all()


def test_rows_without_weight_change_nothing(data):
    y, proba = data
    weights = np.r_[np.ones(len(y)), np.zeros(500)]
    more = np.r_[y, y[:500]], np.r_[proba, np.full((500, 3), np.nan)]
    times = np.r_[np.arange(len(y)), np.full(500, len(y) - 1)]
    curve = confidence_curve(*more, classes=CLASSES, sample_weight=weights, times=times)
    pd.testing.assert_frame_equal(curve, confidence_curve(y, proba, classes=CLASSES, times=times[: len(y)]))


def test_columns_may_come_in_any_order(data):
    y, proba = data
    turned = confidence_curve(y, proba[:, ::-1], classes=CLASSES[::-1])
    pd.testing.assert_frame_equal(turned, confidence_curve(y, proba, classes=CLASSES))


def test_calibrated_beliefs_are_as_accurate_as_they_say_and_sharper_ones_less(data):
    y, proba = data
    calibrated = confidence_curve(y, proba, classes=CLASSES, thresholds=[0, 0.5, 0.7, 0.9])
    inside = calibrated["mean_confidence"].between(calibrated["low"], calibrated["high"])
    assert inside.all()
    sharp = proba**3 / (proba**3).sum(axis=1, keepdims=True)
    boast = confidence_curve(y, sharp, classes=CLASSES, thresholds=[0, 0.5, 0.7, 0.9])
    assert (boast["mean_confidence"] > boast["high"]).all()


def test_intervals_cover_runs_and_are_wider_for_them():
    """Labels and beliefs that last 20 rows: rows say a twentieth of their number."""
    rng = np.random.default_rng(2)
    inside = {"runs": 0, "rows": 0}
    for _ in range(100):
        p = np.repeat(rng.choice([0.3, 0.5, 0.8], 100), 20)
        up = np.repeat(rng.uniform(size=100), 20) < p
        for name, block in (("runs", 40), ("rows", 1)):
            row = confidence_curve(up, np.c_[1 - p, p], classes=[False, True], thresholds=[0.75], block=block).iloc[0]
            inside[name] += row["low"] < 0.8 < row["high"]
    assert inside["runs"] / 100 > 0.88
    assert inside["rows"] / 100 < 0.6


def test_a_few_right_calls_are_not_certain():
    p = np.r_[np.full(95, 0.6), np.full(5, 0.99)]
    y = np.r_[np.tile([0, 1, 1, 1, 1], 19), np.ones(5, dtype=int)]
    row = confidence_curve(y, np.c_[1 - p, p], classes=[0, 1], thresholds=[0.9]).iloc[0]
    assert row["accuracy"] == row["high"] == row["base_rate"] == 1
    assert row["low"] < 0.7
    # A threshold is reached by what equals it.
    assert confidence_curve(y, np.c_[1 - p, p], classes=[0, 1], thresholds=[0.6, 0.99])["n"].tolist() == [100, 5]


def test_noise_is_no_better_than_chance_at_any_confidence():
    rng = np.random.default_rng(3)
    y = rng.choice(CLASSES, p=[0.05, 0.9, 0.05], size=4000)
    curve = confidence_curve(y, rng.dirichlet([1, 1, 1], size=4000), classes=CLASSES, events=["peak", "bottom"])
    reached = curve[curve["n"] > 30]
    assert reached["chance"].between(reached["low"], reached["high"]).all()
    assert (reached["accuracy"] < reached["base_rate"]).all()


def test_the_usual_thresholds():
    assert check_thresholds(None, 2).tolist() == [0.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert check_thresholds(None, 3)[:3].tolist() == [0.0, 0.3, 0.35]
    assert check_thresholds(0.7, 3).tolist() == [0.7]
    assert check_thresholds([0.9, 0.1, 0.9], 3).tolist() == [0.1, 0.9]


def test_a_panel_depends_by_times():
    index = make_bars(300, instruments=list("ABCD"), random_state=0).index
    rng = np.random.default_rng(4)
    # All instruments of a time see the same.
    p = np.repeat(rng.uniform(size=300), 4)
    y = pd.Series(np.repeat(rng.uniform(size=300), 4) < p, index)
    by_time = confidence_curve(y, np.c_[1 - p, p], classes=[False, True], block=1)
    by_row = confidence_curve(y.to_numpy(), np.c_[1 - p, p], classes=[False, True], block=1)
    assert ((by_time["high"] - by_time["low"]) > 1.5 * (by_row["high"] - by_row["low"]))[by_time["n"] > 20].all()
    pd.testing.assert_frame_equal(by_time.drop(columns=["low", "high"]), by_row.drop(columns=["low", "high"]))


def test_real_bars_give_a_rule_of_yesterday_no_confidence(shared_data):
    """The share of rises so far says nothing of the next bar, and the table says so."""
    bars = read_bars(shared_data / "spy_1h_1998_2021.parquet").iloc[:5000]
    close, y = next_direction(bars).align(bars["close"].to_frame())
    up = (close["close"].diff() > 0).ewm(halflife=5).mean().clip(0.01, 0.99).to_numpy()
    curve = confidence_curve(y, np.c_[1 - up, up], classes=[0, 1])
    reached = curve[curve["n"] > 50]
    assert (reached["accuracy"] < 0.6).all()
    assert reached["mean_confidence"].iloc[-1] > reached["high"].iloc[-1]
    prior = np.bincount(y.to_numpy().astype(int)) / len(y)
    assert brier_skill(y, np.c_[1 - up, up], prior, classes=[0, 1])[0] < 0


# ------------------------------------------------------------------------------------ crossings


def crossings_by_loop(p, classes, least, instruments):
    out, last = [], {}
    for row, (beliefs, name) in enumerate(zip(p, instruments, strict=True)):
        for k, belief in enumerate(beliefs):
            before = last.get((name, k), np.nan)
            if not np.isnan(before) and not np.isnan(belief) and (before >= least[k]) != (belief >= least[k]):
                out.append((row, classes[k], "up" if belief >= least[k] else "down", belief))
            last[name, k] = belief
    return out


def beliefs(n, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([1, 1, 1], size=n).round(1)
    p[:, 2] = 1 - p[:, 0] - p[:, 1]
    p[rng.uniform(size=n) < 0.1] = np.nan
    return np.clip(p, 0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_crossings_of_a_panel_are_those_of_each_instrument_alone(seed):
    index = make_bars(60, instruments=list("ABC"), random_state=0).index
    index = index[np.random.default_rng(seed).uniform(size=len(index)) < 0.7]  # other times, interleaved
    p = pd.DataFrame(beliefs(len(index), seed), index)
    found = belief_crossings(p, classes=CLASSES, threshold=0.4)
    expected = crossings_by_loop(p.to_numpy(), CLASSES, [0.4] * 3, index.get_level_values(1))
    assert list(found.itertuples(index=False, name=None)) == expected
    assert found.index.equals(index[found["row"]])
    for name in "ABC":
        alone = belief_crossings(p.xs(name, level=1), classes=CLASSES, threshold=0.4)
        mine = found.xs(name, level=1).drop(columns="row")
        pd.testing.assert_frame_equal(alone.drop(columns="row"), mine)


def test_a_prefix_has_a_prefix_of_the_crossings():
    p = beliefs(200)
    whole = belief_crossings(p, classes=CLASSES, threshold=0.4)
    for n in (0, 1, 2, 57, 150):
        part = belief_crossings(p[:n], classes=CLASSES, threshold=0.4)
        pd.testing.assert_frame_equal(part, whole[whole["row"] < n], check_index_type=False)
    # One earlier row is enough, as in live use.
    late = belief_crossings(p[99:], classes=CLASSES, threshold=0.4)
    assert (late["row"] + 99).tolist() == whole["row"][whole["row"] > 99].tolist()


def test_what_was_not_known_before_is_no_crossing():
    p = np.array([0.9, 0.9, np.nan, 0.9, 0.2, np.nan, 0.9, 0.5, 0.4])
    found = belief_crossings(np.c_[p, 1 - p], classes=["buy", "sell"], threshold={"buy": 0.5})
    assert list(found.itertuples(index=False, name=None)) == [(4, "buy", "down", 0.2), (8, "buy", "down", 0.4)]


def test_thresholds_by_class_and_their_order():
    p = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [0.6, 0.1, 0.3]])
    index = pd.date_range("2024-01-01", periods=3, tz="UTC", name="datetime")
    found = belief_crossings(p, classes=CLASSES, threshold={"bottom": 0.65, "peak": 0.5}, index=index)
    assert found[["class", "direction"]].to_numpy().tolist() == [
        ["peak", "down"],
        ["bottom", "up"],
        ["peak", "up"],
        ["bottom", "down"],
    ]
    assert found.index.tolist() == [index[1], index[1], index[2], index[2]]
    empty = belief_crossings(p[:1], classes=CLASSES, threshold=0.5)
    assert empty.columns.tolist() == ["row", "class", "direction", "belief"]
    assert len(empty) == 0


def test_crossings_alternate_on_real_bars(shared_data):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet").iloc[:3000]
    turn = bars["close"].rolling(36).rank(pct=True)
    p = np.c_[turn**4, 1 - turn**4]
    found = belief_crossings(p, classes=["peak", "other"], threshold={"peak": 0.6}, index=bars.index)
    assert len(found) > 50
    assert (found["direction"].to_numpy()[1:] != found["direction"].to_numpy()[:-1]).all()
    labels = peak_slope_bottom(bars, w=36).labels
    at_up = labels.reindex(found.index[found["direction"] == "up"]).dropna()
    assert (at_up == "peak").mean() > (labels == "peak").mean()  # half of the label is known at its bar


# ------------------------------------------------------------------------------------- refusals

P = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
Y = ["peak", "slope", "bottom"]


def test_frames_and_lists():
    turned = pd.DataFrame(P, columns=CLASSES)[CLASSES[::-1]]
    curve = confidence_curve(Y, P, classes=CLASSES)
    found = belief_crossings(P, classes=CLASSES, threshold=0.5)
    assert len(found) > 0
    for form in (turned, [turned], pd.DataFrame(P), P.tolist(), list(P)):
        pd.testing.assert_frame_equal(confidence_curve(Y, form, classes=CLASSES), curve)
        pd.testing.assert_frame_equal(belief_crossings(form, classes=CLASSES, threshold=0.5), found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"thresholds": [0.5, 50]},
            r"^`thresholds` must be numbers in \[0, 1\], one at least; got \[0.5, 50.0\]. Leave it None.$",
        ),
        (
            {"proba": P[:0], "y": []},
            "^`y` must have a row at least; got none. Widen the span that was read.$",
        ),
        (
            {"classes": ["peak", "slope", "peak"]},
            r"^`classes` must name each class once; got .*, with \['peak'\] repeated",
        ),
        (
            {"proba": pd.DataFrame(P, columns=["peak", "slope", "base"])},
            (
                r"^`proba` must have a column for each of the classes \['peak', 'slope', 'bottom'\], and no other; got "
                r"\['peak', 'slope', 'base'\]\. Name them as the model does, or pass `proba.to_numpy\(\)` with its "
                r"columns in that order\.$"
            ),
        ),
        ({"thresholds": []}, r"`thresholds` must be .*; got \[\]"),
        ({"thresholds": [np.nan]}, r"`thresholds` must be .*; got \[nan\]"),
        ({"level": 95}, "^`level` must be a number above 0 and below 1; got 95. Of 95 % coverage it is 0.95.$"),
        ({"events": ["top"]}, r"`events` must be among the classes \['bottom', 'peak', 'slope'\]; got \['top'\]"),
        ({"sample_weight": [1, 1]}, "`sample_weight` must have one weight a row"),
        ({"proba": np.log(P)}, "`proba` must hold probabilities"),
        ({"proba": P[:, :2]}, r"`proba` must have shape \(3, 1, 3\)"),
        ({"proba": np.where(P == 0.8, np.nan, P)}, "`proba` must be finite where rows count; row 2"),
        ({"classes": ["peak", "slope", "base"]}, "`y` must hold only the classes"),
        (
            {"y": np.array([Y, Y]).T, "proba": [P, P]},
            r"^`y` must be of one horizon, shape \(n,\); got 2. Pass `y\[:, h\]` and `proba\[:, h\]`.$",
        ),
    ],
)
def test_curve_refuses(options, says):
    arguments = {"y": Y, "proba": P, "classes": CLASSES} | options
    with pytest.raises(EnsembleKitError, match=says):
        confidence_curve(arguments.pop("y"), arguments.pop("proba"), **arguments)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (
            {"threshold": 0.0},
            EnsembleKitError,
            r"^`threshold` must be in \(0, 1\], a number or one by class; got 0.0. Take some multiple of the class's",
        ),
        ({"threshold": True}, EnsembleKitError, r"`threshold` must be in \(0, 1\], a number or one by class; got True"),
        ({"threshold": {"peak": True}}, EnsembleKitError, "`threshold` must be .*; got {'peak': True}"),
        ({"classes": "up"}, EnsembleKitError, "`classes` must be a sequence of labels, one a column; got 'up'"),
        ({"classes": ["peak", "peak", "slope"]}, EnsembleKitError, "`classes` must name each class once"),
        (
            {"proba": pd.DataFrame(P, columns=list("abc"))},
            EnsembleKitError,
            "`proba` must have a column for each of the classes",
        ),
        ({"threshold": {"peak": 2.0}}, EnsembleKitError, "`threshold` must be .*; got {'peak': 2.0}"),
        ({"threshold": {}}, EnsembleKitError, "`threshold` must be .*; got {}"),
        ({"threshold": "high"}, EnsembleKitError, "`threshold` must be .*; got 'high'"),
        (
            {"threshold": {"top": 0.5}},
            EnsembleKitError,
            r"^`threshold` must be of the classes \['peak', 'slope', 'bottom'\]; got \['top'\] besides. Write them as",
        ),
        (
            {"classes": ["a", "b"]},
            EnsembleKitError,
            r"^`proba` must be of one horizon and 2 classes, a row a bar; got \(3, 1, 3\). Pass what `predict_proba`",
        ),
        ({"proba": [P, P]}, EnsembleKitError, r"`proba` must be of one horizon and 3 classes, .*; got \(3, 2, 3\)"),
        ({"proba": P - 1}, EnsembleKitError, "`proba` must hold probabilities"),
        (
            {"index": pd.RangeIndex(5)},
            EnsembleKitError,
            "^`index` must have the 3 rows of `proba`; got 5. Pass that of the rows predicted.$",
        ),
        ({"index": pd.to_datetime(["2024-01-02", "2024-01-01", "2024-01-03"])}, BarsError, "`index`"),
    ],
)
def test_crossings_refuse(options, error, says):
    arguments = {"proba": P, "classes": CLASSES, "threshold": 0.5} | options
    with pytest.raises(error, match=says):
        belief_crossings(arguments.pop("proba"), **arguments)
