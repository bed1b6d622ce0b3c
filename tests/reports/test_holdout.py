"""The holdout report: what stands beside each score, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline

from ensemble_kit.datasets import make_bars
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.features import Alpha158
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.metrics import auc_pr_by_class, brier_skill, calibration_slope
from ensemble_kit.reports import evaluate_holdout
from ensemble_kit.sizing import SizedClassifier, backtest
from ensemble_kit.validation import WalkForwardSplit

BARS = make_bars(3000, signal=3.0, random_state=0)


@pytest.fixture(scope="module")
def judged():
    labels = peak_slope_bottom(BARS, w=12)
    train, held = next(WalkForwardSplit(1, t1=labels.t1, test_size=0.3).split(BARS))
    trees = LGBMWindowClassifier(1, n_estimators=20, random_state=0)
    model = SizedClassifier(make_pipeline(Alpha158(), trees), cv=WalkForwardSplit(2, t1=labels.t1))
    y = labels.labels.iloc[train]
    model.fit(BARS.iloc[train], y, sample_weight=labels.sample_weight.iloc[train])
    told = {
        "start": BARS.index[held[0]],
        "definition": labels.definition,
        "prior": y.value_counts(normalize=True).to_dict(),
        "session": "XNYS",
    }
    return model, labels, held, told


def test_scores_are_those_of_the_holdout_alone(judged):
    model, labels, held, told = judged
    report = evaluate_holdout(model, BARS, **told)
    known = held[labels.known[held]]
    proba = model.predict_proba(BARS)[known]
    by_hand = auc_pr_by_class(labels.labels.iloc[known], proba, classes=model.classes_, events=["bottom", "peak"])
    np.testing.assert_allclose(report.events["auc_pr"], by_hand.iloc[0], rtol=1e-6)
    assert report.events["n_events"].tolist() == [
        (labels.labels.iloc[known] == event).sum() for event in ("bottom", "peak")
    ]
    assert list(report.events) == [
        "n_events",
        "prevalence",
        "auc_pr_causal_rule",
        "auc_pr_surrogate",
        "auc_pr_random_walk",
        "auc_pr",
        "excess",
        "excess_low",
        "excess_high",
        "p_value",
        "calibration_slope",
        "calibration_intercept",
        "ece",
    ]
    # A planted future is more than what the label gives away.
    assert report.skill.finds
    assert report.brier["skill"] > 0
    for words in ("Holdout: 900 bars", f"Skill: {report.skill.verdict} ("):
        assert words in str(report)
    assert {"auc_pr_peak", "p_value_mean", "skill", "brier_skill", "edge_low", "sharpe"} <= set(report.metrics())


def test_the_rest_is_that_of_the_same_rows(judged):
    model, labels, held, told = judged
    report = evaluate_holdout(model, BARS, **told)
    known = held[labels.known[held]]
    y, proba = labels.labels.iloc[known], model.predict_proba(BARS)[known]
    slope = calibration_slope(y, proba, classes=model.classes_, event="peak")
    np.testing.assert_allclose(
        report.events.loc["peak", ["calibration_slope", "calibration_intercept"]].tolist(), slope, rtol=1e-4
    )
    prior = [told["prior"][label] for label in model.classes_]
    by_hand = brier_skill(y, proba, prior, classes=model.classes_)[0]
    assert report.brier["skill"] == pytest.approx(by_hand, rel=1e-5)
    account = backtest(BARS.iloc[held], report.position, costs=1.0)
    pd.testing.assert_series_equal(report.backtest.equity, account.equity)


def test_bars_after_the_last_one_change_nothing(judged):
    model, _, _, told = judged
    short = evaluate_holdout(model, BARS.iloc[:2700], **told)
    whole = evaluate_holdout(model, BARS, **told)
    np.testing.assert_array_equal(short.position, whole.position[: len(short.position)])


def test_bars_without_a_price_are_not_traded(judged):
    model, _, _, told = judged
    torn = BARS.copy()
    torn.iloc[2600:2605, :4] = np.nan
    report = evaluate_holdout(model, torn, **told)
    assert len(report.backtest.equity) == len(report.bars) - 5
    assert "5 no price" in str(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": BARS.index[-1] + pd.Timedelta(days=1)}, "must reach past the training data"),
        ({"n_surrogates": 5}, "`n_surrogates` must be an integer of at least 19"),
    ],
)
def test_refusals(judged, change, message):
    model, _, _, told = judged
    with pytest.raises(EnsembleKitError, match=message):
        evaluate_holdout(model, BARS, **(told | change))
    with pytest.raises(EnsembleKitError, match="`model` must have `predict_position`; Pipeline has not"):
        evaluate_holdout(model.model_, BARS, **told)
    with pytest.raises(EnsembleKitError, match="must be of one instrument"):
        evaluate_holdout(model, make_bars(50, instruments=["A"], random_state=0), **told)
