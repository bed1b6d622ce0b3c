"""The skill test: its figures by hand, its four verdicts, and what it refuses."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features import Alpha158
from ensemble_kit.labels import Labels, peak_slope_bottom
from ensemble_kit.metrics import (
    auc_pr_by_class,
    block_bootstrap_mean,
    causal_rule,
    next_open_return,
    random_walk_bars,
    score_interval,
)
from ensemble_kit.metrics.skill import _excess, skill_test
from ensemble_kit.sizing import KellySizer, SizedClassifier
from ensemble_kit.validation import WalkForwardSplit

TURNS = {"label": "peak_slope_bottom", "w": 12}
CLASSES = np.array(["bottom", "peak", "slope"])
BARS = make_bars(2400, random_state=0)
START = BARS.index[1400]
HELD = np.arange(1400, 2400)


class Oracle:
    """A model that reads its answers in columns that came with the bars."""

    classes_ = CLASSES

    def predict_proba(self, bars):
        return bars[["p_bottom", "p_peak", "p_slope"]].to_numpy()


class SizedOracle(Oracle):
    def predict_position(self, bars):
        return bars["position"].to_numpy()


def with_answers(bars, *, sees=0.0, times=0.0, long=0.0, seed=0):
    """Add columns that know the labels, and the next return, as well as told."""
    rng = np.random.default_rng(seed)
    y = peak_slope_bottom(bars, w=12).labels
    told = {
        f"p_{name}": 0.1 + 0.8 * sees * (y == name).to_numpy() + 0.1 * rng.uniform(size=len(bars)) for name in CLASSES
    }
    p = pd.DataFrame(told, index=bars.index)
    ahead = np.sign(next_open_return(bars).fillna(0.0)).to_numpy()
    position = long + times * ahead + rng.normal(size=len(bars)) * (times > 0 or long == 0)
    return bars.join(p.div(p.sum(axis=1), axis=0)).assign(position=position)


# ---------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        ({"sees": 1.0, "times": 1.0}, "skill"),
        ({"sees": 1.0}, "classification only"),
        ({"times": 1.0}, "returns only"),
        ({}, "none"),
    ],
)
def test_only_yes_to_both_is_skill(told, verdict):
    report = skill_test(SizedOracle(), with_answers(BARS, **told), start=START, label=TURNS)
    assert report.verdict == verdict
    assert report.metrics()["skill"] == (verdict == "skill")
    assert f"Skill: {verdict} (" in str(report)


def test_a_model_without_positions_is_judged_by_its_classes_alone():
    for sees, word in ((1.0, "classification"), (0.0, "none")):
        report = skill_test(Oracle(), with_answers(BARS, sees=sees), start=START, label=TURNS)
        assert report.verdict == f"{word}, no positions"
        assert report.position is None
        assert report.edge.empty
        assert "predict_position" in str(report)
        assert "Position x" not in str(report)
        assert report.metrics()["skill"] == 0


def rising(bars, drift=5e-4):
    """Return bars that rise by so much each, whatever else they do."""
    lift = np.exp(drift * np.arange(len(bars)))
    up = bars.copy()
    up[["open", "high", "low", "close"]] *= lift[:, None]
    return up


def test_a_constant_answer_is_no_skill_in_a_market_that_rose():
    """Not by its classes, though turns are more frequent than on its walks; nor by its gains."""
    bars = with_answers(rising(BARS), long=1.0).assign(p_bottom=0.2, p_peak=0.2, p_slope=0.6)
    report = skill_test(SizedOracle(), bars, start=START, label=TURNS)
    assert report.edge["low"]["position"] > 0
    assert report.edge.loc["timing"].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(report.scores["auc_pr"], report.scores["prevalence"])
    np.testing.assert_allclose(report.scores["auc_pr_random_walk"], report.scores["prevalence"])
    assert (report.scores["p_value"] == 1).all()
    assert report.verdict == "none"


# ----------------------------------------------------------------------------------------- figures


@pytest.fixture(scope="module")
def trained():
    bars = make_bars(2400, signal=3.0, random_state=1)
    labels = peak_slope_bottom(bars, w=12)
    train, held = next(WalkForwardSplit(1, t1=labels.t1, test_size=1000).split(bars))
    trees = LGBMWindowClassifier(2, n_estimators=10, random_state=0)
    model = SizedClassifier(
        make_pipeline(Alpha158(), trees), KellySizer(conservatism=0.0), cv=WalkForwardSplit(2, t1=labels.t1)
    )
    model.fit(bars.iloc[train], labels.labels.iloc[train])
    return model, bars, labels, held


def test_the_figures_of_a_pipeline_by_hand(trained):
    model, bars, labels, held = trained
    before = bars.copy()
    report = skill_test(model, bars, start=bars.index[held[0]], label=TURNS, random_state=3)
    pd.testing.assert_frame_equal(bars, before)
    rows = held[labels.known[held]]
    y, events = labels.labels.iloc[rows], ["bottom", "peak"]

    def scored(p, truth=y):
        return auc_pr_by_class(truth, p, classes=model.classes_, events=events).iloc[0].to_numpy()

    scores = report.scores.loc[events]
    assert scores["n_events"].tolist() == [(y == event).sum() for event in events]
    np.testing.assert_allclose(scores["prevalence"], scores["n_events"] / len(y))
    np.testing.assert_allclose(scores["auc_pr"], scored(model.predict_proba(bars)[rows]), rtol=1e-6)
    rule = causal_rule(bars, labels.definition).iloc[rows]
    np.testing.assert_allclose(
        scores["auc_pr_causal_rule"], [average_precision_score(y == event, rule[event]) for event in events]
    )
    # The walks: the holdout's own bars behind the real ones, labelled, predicted and weighed anew.
    rng, walks = np.random.RandomState(3), []
    for _ in range(19):
        other = pd.concat([bars[: held[0] - 1], random_walk_bars(bars[held[0] - 1 :], random_state=rng)])
        truth = peak_slope_bottom(other, w=12).labels.iloc[rows]
        p = model.predict_proba(other)[rows]
        walk = []
        for k, event in enumerate(events):
            hit = (truth == event).to_numpy()
            share = scores["prevalence"][event]
            weight = np.where(hit, share / hit.mean(), (1 - share) / (1 - hit.mean()))
            walk.append(average_precision_score(hit, p[:, k], sample_weight=weight))
        walks.append(walk)
    walks = np.array(walks)
    np.testing.assert_allclose(scores["auc_pr_random_walk"], walks.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(scores["excess"], scores["auc_pr"] - walks.mean(axis=0), atol=1e-7)
    assert scores["p_value"].tolist() == [
        (1 + (walks[:, k] >= scores["auc_pr"][event]).sum()) / 20 for k, event in enumerate(events)
    ]
    mean = report.scores.loc["mean"]
    assert mean["auc_pr"] == pytest.approx(scores["auc_pr"].mean())
    assert mean["excess"] == pytest.approx(mean["auc_pr"] - walks.mean(), abs=1e-7)
    assert mean["p_value"] == (1 + (walks.mean(axis=1) >= mean["auc_pr"]).sum()) / 20

    position = model.predict_position(bars)[held]
    np.testing.assert_allclose(report.position, position)
    ahead = next_open_return(bars).to_numpy()[held]
    edge = report.edge["mean"]
    assert edge["position"] == pytest.approx(np.nanmean(position * ahead))
    assert edge["timing"] == pytest.approx(np.cov(position[:-2], ahead[:-2], ddof=0)[0, 1])


def test_the_interval_of_the_excess_joins_both():
    walks = pd.Series([0.2, 0.3, np.nan, 0.1])
    half = 4.302653 * 0.1 / np.sqrt(3)  # Student's quantile of 2 degrees of freedom
    excess, low, high = _excess((0.5, 0.4, 0.7), walks, 0.95)
    assert excess == pytest.approx(0.3)
    assert excess - low == pytest.approx(np.hypot(0.1, half))
    assert high - excess == pytest.approx(np.hypot(0.2, half))

    bars = with_answers(BARS, sees=0.05)
    scores = skill_test(Oracle(), bars, start=START, label=TURNS).scores
    excess, low, high = scores.loc["mean", ["excess", "excess_low", "excess_high"]]
    labels = peak_slope_bottom(bars, w=12)
    rows = HELD[labels.known[HELD]]
    score, *alone = score_interval(
        labels.labels.iloc[rows],
        bars.iloc[rows][["p_bottom", "p_peak", "p_slope"]].to_numpy(),
        classes=CLASSES,
        events=["peak", "bottom"],
        random_state=0,
    )
    assert 0.8 * (score - alone[0]) < excess - low < 1.5 * (score - alone[0])
    assert 0.8 * (alone[1] - score) < high - excess < 1.5 * (alone[1] - score)


def test_rows_of_weight_0_are_history():
    def label(bars):
        labels = peak_slope_bottom(bars, w=12)
        weight = labels.sample_weight.where(bars.index >= BARS.index[1900], 0.0)
        return Labels(labels.labels, labels.t1, weight, labels.definition)

    report = skill_test(Oracle(), with_answers(BARS, sees=0.05), start=START, label=label)
    assert report.rows.min() == 500
    late = peak_slope_bottom(BARS, w=12).labels.iloc[1900:]
    assert report.scores["n_events"]["peak"] == (late == "peak").sum()


def test_blocks_are_no_shorter_than_the_label_reaches():
    bars = with_answers(BARS, sees=0.05)
    short, long = (
        skill_test(Oracle(), bars, start=START, label=lambda b, by=by: stretched(b, by)).scores.loc["mean"]
        for by in (0, 400)
    )
    assert short["auc_pr"] == long["auc_pr"]
    assert short["excess_low"] != long["excess_low"]


def stretched(bars, by):
    """Return the labels of turns, said to have been known later than they were."""
    labels = peak_slope_bottom(bars, w=12)
    at = np.minimum(np.arange(len(bars)) + 12 + by, len(bars) - 1)
    t1 = pd.Series(bars.index[at], index=bars.index).where(labels.known)
    return Labels(labels.labels, t1, labels.sample_weight, labels.definition)


def test_it_is_seeded():
    ask = partial(skill_test, SizedOracle(), with_answers(BARS, sees=0.05), start=START, label=TURNS)
    one = ask(random_state=5)
    pd.testing.assert_frame_equal(one.scores, ask(random_state=5).scores)
    pd.testing.assert_frame_equal(one.edge, ask(random_state=5).edge)
    assert not one.scores.equals(ask(random_state=6).scores)


def test_history_in_front_of_the_holdout_is_all_that_matters(trained):
    """Bars before the model's and the labels' reach change nothing but rounding."""
    model, bars, _, held = trained
    ask = partial(skill_test, model, start=bars.index[held[0]], label=TURNS)
    whole, short = ask(bars), ask(bars.iloc[held[0] - 600 :])
    np.testing.assert_allclose(short.scores["auc_pr"], whole.scores["auc_pr"], rtol=1e-3)
    np.testing.assert_allclose(short.position, whole.position, atol=1e-4)


# ------------------------------------------------------------------------------------------ panels


def panel_with_answers(**told):
    names = ["A", "B"]
    panel = make_bars(2000, instruments=names, random_state=0)
    parts = [with_answers(panel.xs(name, level=1), seed=k, **told) for k, name in enumerate(names)]
    whole = pd.concat(parts, keys=names, names=["instrument"]).swaplevel().sort_index()
    # One instrument begins late and has a hole.
    code = whole.index.get_level_values(1)
    place = whole.groupby(level=1).cumcount()
    return whole[(code == "A") | ((place > 300) & ~place.between(1500, 1520)).to_numpy()]


def test_panels_are_averaged_by_time_and_each_instrument_by_itself():
    panel = panel_with_answers(sees=1.0, times=1.0, long=1.0)
    start = panel.index.get_level_values(0).unique()[1200]
    report = skill_test(SizedOracle(), panel, start=start, label=TURNS)
    assert report.verdict == "skill"
    labels = peak_slope_bottom(panel, w=12)
    late = panel.index.get_level_values(0) >= start
    rows = late & labels.known & (labels.sample_weight > 0).to_numpy()
    y, p = labels.labels[rows], panel[rows][["p_bottom", "p_peak", "p_slope"]].to_numpy()
    by_hand = auc_pr_by_class(y, p, classes=CLASSES, events=["bottom", "peak"]).iloc[0]
    np.testing.assert_allclose(report.scores["auc_pr"][["bottom", "peak"]], by_hand)

    held = panel[late].assign(ahead=next_open_return(panel)[late]).dropna(subset="ahead")
    parts = []
    for _, one in held.groupby(level=1):
        parts.append((one["position"] - one["position"].mean()) * (one["ahead"] - one["ahead"].mean()))
    timing = pd.concat(parts).groupby(level=0).mean()
    assert report.edge["mean"]["timing"] == pytest.approx(timing.mean())
    np.testing.assert_allclose(report.edge["low"]["timing"], block_bootstrap_mean(timing, random_state=1)[1], rtol=0.2)
    earned = (held["position"] * held["ahead"]).groupby(level=0).mean()
    assert report.edge["mean"]["position"] == pytest.approx(earned.mean())


# -------------------------------------------------------------------------- labels of other kinds


def test_a_label_function_of_ones_own_is_judged_on_all_classes():
    def label(bars):
        labels = peak_slope_bottom(bars, w=12)
        return Labels(labels.labels, labels.t1, labels.sample_weight)

    report = skill_test(Oracle(), with_answers(BARS, sees=1.0), start=START, label=label)
    assert report.scores.index.tolist() == [*CLASSES, "mean"]
    assert report.scores["auc_pr_causal_rule"].isna().all()
    assert report.verdict == "classification, no positions"


@pytest.mark.parametrize(
    "definition",
    [
        {"label": "triple_barrier", "horizon": 12, "profit": 2.5, "stop": 2.5},
        {"label": "buy_sell_hold"},
        {"label": "next_direction"},
    ],
    ids=lambda definition: definition["label"],
)
def test_every_label_can_be_judged(definition):
    from ensemble_kit.labels import label_bars

    labels = label_bars(BARS, definition)
    classes = np.unique(labels.labels.dropna())

    class Coin:
        classes_ = classes

        def predict_proba(self, bars):
            p = np.random.default_rng(0).uniform(size=(len(bars), len(classes)))
            return p / p.sum(axis=1, keepdims=True)

    report = skill_test(Coin(), BARS, start=START, label=labels.definition)
    assert "hold" not in report.scores.index
    assert report.scores[["auc_pr", "auc_pr_random_walk", "auc_pr_causal_rule", "p_value"]].notna().all(axis=None)
    assert report.verdict == "none, no positions"


def test_of_several_horizons_the_first_is_judged():
    class Several(Oracle):
        classes_ = [CLASSES, CLASSES]

        def predict_proba(self, bars):
            p = super().predict_proba(bars)
            return [p, p[::-1]]

    bars = with_answers(BARS, sees=1.0)
    report = skill_test(Several(), bars, start=START, label=TURNS | {"horizons": 2})
    assert report.scores["auc_pr"]["mean"] == pytest.approx(1.0)
    assert report.proba.shape == (1000, 2, 3)


def calm(bars, *, without=("peak", "bottom")):
    """Return the labels of turns, some of them called slopes."""
    labels = peak_slope_bottom(bars, w=12)
    y = labels.labels.mask(labels.labels.isin(without), "slope")
    return Labels(y, labels.t1, labels.sample_weight, labels.definition)


def test_an_event_that_does_not_occur_is_left_out():
    label = partial(calm, without=("peak",))
    report = skill_test(Oracle(), with_answers(BARS, sees=1.0), start=START, label=label)
    assert report.scores.loc["peak"].isna().all()
    assert report.scores["auc_pr"]["mean"] == report.scores["auc_pr"]["bottom"]
    assert report.verdict == "classification, no positions"
    assert "auc_pr_peak" not in report.metrics()
    assert report.to_dict()["scores"]["peak"]["auc_pr"] is None


# ------------------------------------------------------------------------------ reports and refusals


def test_what_the_report_holds():
    report = skill_test(SizedOracle(), with_answers(BARS, sees=1.0), start=START, label=TURNS)
    said = json.loads(json.dumps(report.to_dict()))
    assert said["verdict"] == report.verdict == "classification only"
    assert said["scores"]["mean"]["p_value"] == 0.05
    assert {"auc_pr_peak", "p_value_mean", "edge_low", "edge_timing_low"} <= set(report.metrics())
    assert np.isfinite([*report.metrics().values()]).all()
    assert repr(report) == str(report)
    for word in ("auc_pr_causal_rule", "auc_pr_surrogate", "p = 0.05 (above its null)", "Skill: classification only"):
        assert word in report._repr_html_()
        assert word in str(report)
    assert len(report.labels) == len(report.position) == len(report.proba) == 1000
    assert str(pickle.loads(pickle.dumps(report))) == str(report)


def test_to_earn_is_to_have_an_interval_above_0():
    report = skill_test(SizedOracle(), with_answers(BARS, sees=1.0, times=1.0), start=START, label=TURNS)
    for low, high, verdict in ((1e-9, 2e-4, "skill"), (-1e-9, 2e-4, "classification only")):
        edge = report.edge.copy()
        edge.loc["timing"] = [1e-4, low, high]
        assert replace(report, edge=edge).verdict == verdict


def test_a_finer_level_needs_more_walks():
    bars = with_answers(BARS, sees=1.0)
    fine = skill_test(Oracle(), bars, start=START, label=TURNS, level=0.99, n_surrogates=99)
    assert fine.scores["p_value"]["mean"] == pytest.approx(0.01)
    assert fine.finds
    with pytest.raises(EnsembleKitError, match=r"`n_surrogates` must be an integer of at least 99 for level=0\.99"):
        skill_test(Oracle(), bars, start=START, label=TURNS, level=0.99, n_surrogates=98)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_surrogates": 18}, r"`n_surrogates` must be an integer of at least 19 for level=0\.95; got 18\. A model"),
        ({"n_surrogates": 19.5}, r"`n_surrogates` must be an integer of at least 19 for level=0\.95; got 19\.5\."),
        ({"level": 1.0}, r"`level` must be a number between 0 and 1; got 1\.0\. 0\.95 is usual\."),
        ({"start": "2023-01-01"}, "`bars` must reach past the training data: the holdout starts at 2023-01-01, and"),
        ({"start": pd.Timestamp("2022-01-10")}, "`start` must be a time like those of the bars .*Give it their time"),
        ({"start": BARS.index[-4]}, "`bars` must have known labels in the holdout; got 0 in its 4 rows"),
        ({"label": calm}, r"`bars` must have events in the holdout; got none of \['bottom', 'peak'\] i"),
        ({"label": {"label": "buy_sell_hold"}}, r"`label` must be what the model was fitted on; its events are \['b"),
        ({"label": lambda bars: bars["close"]}, "`label` must give the Labels of the bars it is given; got Series"),
        ({"label": {"label": "none"}}, "`definition` must name one of"),
        ({"model": object()}, "`model` must be a fitted classifier of bars; object has no predict_proba and no cla"),
    ],
)  # fmt: skip
def test_refusals(change, message):
    told = {"model": Oracle(), "start": START, "label": TURNS} | change
    with pytest.raises(EnsembleKitError, match=message):
        skill_test(told.pop("model"), with_answers(BARS), **told)


def test_bars_must_be_bars():
    with pytest.raises(BarsError, match="missing close"):
        skill_test(Oracle(), with_answers(BARS).drop(columns="close"), start=START, label=TURNS)


# ------------------------------------------------------------------------------------------- nulls


@pytest.mark.slow
def test_p_values_are_uniform_where_nothing_is_known():
    """A model that reads the half of the label that is known, on walks that it never saw."""

    class Rule(Oracle):
        def predict_proba(self, bars):
            rule = causal_rule(bars, TURNS)
            p = np.column_stack([rule["bottom"], rule["peak"], np.full(len(bars), 5.0)])
            return p / p.sum(axis=1, keepdims=True)

    def p_value(seed):
        bars = random_walk_bars(make_bars(1600, signal=2.0, random_state=seed), random_state=seed)
        report = skill_test(Rule(), bars, start=bars.index[800], label=TURNS, random_state=seed)
        return report.scores["p_value"]["mean"]

    found = np.array([p_value(seed) for seed in range(60)])
    assert kstest(found, "uniform").pvalue > 0.01
    assert (found <= 0.05).mean() < 0.15


@pytest.mark.slow
def test_real_bars(shared_data):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet").iloc[:6000]
    labels = peak_slope_bottom(bars, w=12)
    train, held = next(WalkForwardSplit(1, t1=labels.t1, test_size=0.4).split(bars))
    model = make_pipeline(Alpha158(), LGBMWindowClassifier(1, n_estimators=20, random_state=0))
    model.set_output(transform="pandas").fit(bars.iloc[train], labels.labels.iloc[train])
    report = skill_test(model, bars, start=bars.index[held[0]], label=TURNS, session="XNYS")
    scores = report.scores.loc["mean"]
    # What the label gives away is a dozen times its prevalence, and no skill.
    assert scores["auc_pr"] > 5 * scores["prevalence"]
    assert abs(scores["excess"]) < 0.1
    assert report.verdict == "none, no positions"


@pytest.mark.slow
def test_the_null_benchmark_runs(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks" / "nulls.py"
    done = subprocess.run(
        [sys.executable, script, "--seeds", "3", "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if " of 3 " in line]
    assert len(table) == 13
    # Three worlds can refute a lot, though prove nothing: 90 % of them is more than two.
    planted = [line for line in table if "at least 90 %" in line]
    assert [line for line in table if line.endswith("NO") and line not in planted] == []
    assert " 2 of 3 " in planted[0] or " 3 of 3 " in planted[0]
