"""Displays: what a model's own predictions give is what predictions by hand give."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.metrics import confidence_curve
from ensemble_kit.reports import (
    BeliefDisplay,
    ConfidenceDisplay,
    EquityDisplay,
    ReliabilityDisplay,
    interactive_beliefs,
)
from ensemble_kit.sizing import SizedClassifier, backtest
from ensemble_kit.validation import WalkForwardSplit

BARS = make_bars(1200, random_state=0)
LABELS = peak_slope_bottom(BARS, w=6, horizons=2)
X, Y = LABELS.align(BARS)
CLASSES = ["bottom", "peak", "slope"]
OF_LABELS = [ReliabilityDisplay, ConfidenceDisplay]


@pytest.fixture(scope="module")
def model():
    inner = make_pipeline(SessionFeatures(), LogisticRegression())
    return SizedClassifier(inner, cv=WalkForwardSplit(2, t1=LABELS.t1)).fit(X, Y.iloc[:, 0])


def lines(display):
    return [line.get_xydata() for axes in display.figure_.axes for line in axes.get_lines()]


def same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("display", OF_LABELS)
def test_of_a_model_is_of_its_predictions(display, model):
    by_model = display.from_estimator(model, X, Y, events=["peak", "bottom"])
    by_hand = display.from_predictions(Y.iloc[:, 0], model.predict_proba(X), classes=CLASSES, events=["peak", "bottom"])
    same(lines(by_model), lines(by_hand))


@pytest.mark.parametrize("display", OF_LABELS)
@pytest.mark.parametrize("h", [0, 1])
def test_the_horizon_asked_for(display, h):
    several = make_pipeline(SessionFeatures(), MultiOutputClassifier(LogisticRegression())).fit(X, Y)
    options = {"events": ["peak"]}
    shown = display.from_estimator(several, X, Y, horizon=h, **options)
    by_hand = display.from_predictions(Y.iloc[:, h], several.predict_proba(X)[h], classes=CLASSES, **options)
    same(lines(shown), lines(by_hand))
    with pytest.raises(EnsembleKitError, match=r"`horizon` must be one of the 2 that the model has; got 2\."):
        display.from_estimator(several, X, Y, horizon=2)


def test_a_confidence_display_keeps_its_curve(model):
    shown = ConfidenceDisplay.from_estimator(model, X, Y)
    wanted = confidence_curve(Y.iloc[:, 0], model.predict_proba(X), classes=CLASSES)
    pd.testing.assert_frame_equal(shown.arguments["curve"], wanted)


def test_beliefs_of_a_model_and_their_twin(model):
    shown = BeliefDisplay.from_estimator(model, BARS, last=200, threshold=0.05, labels=Y.iloc[:, 0].reindex(BARS.index))
    by_hand = BeliefDisplay.from_predictions(BARS, model.predict_proba(BARS), classes=CLASSES, last=200, threshold=0.05)
    same(
        shown.figure_.axes[-1].get_lines()[0].get_xydata()[None],
        by_hand.figure_.axes[-1].get_lines()[0].get_xydata()[None],
    )
    assert "200 bars" in shown.ax_.get_title(loc="left")
    assert interactive_beliefs(**shown.arguments).data


def test_equity_of_a_model(model):
    shown = EquityDisplay.from_estimator(model, BARS, costs=3.0, cash=1000.0)
    wanted = backtest(BARS, model.predict_position(BARS), costs=3.0, cash=1000.0)
    pd.testing.assert_series_equal(shown.arguments["result"].equity, wanted.equity)
    with pytest.raises(EnsembleKitError, match=r"must have `predict_position`; LogisticRegression has not"):
        EquityDisplay.from_estimator(LogisticRegression(), BARS)


def test_drawn_again_where_told(model):
    ax = Figure().subplots()
    shown = ReliabilityDisplay.from_estimator(model, X, Y)
    first = shown.figure_
    assert shown.plot(ax=ax) is shown
    assert shown.ax_ is ax
    assert shown.figure_ is ax.figure is not first
