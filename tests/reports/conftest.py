"""One small holdout report for all that is made of it."""

import pytest
from sklearn.pipeline import make_pipeline

from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.features import Alpha158
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.reports.holdout import evaluate_holdout
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.sizing.threshold import ThresholdSizer
from ensemble_kit.validation import WalkForwardSplit


@pytest.fixture(scope="session")
def small_report():
    """A report on 800 bars, its model (an ensemble of two) and the card of its training."""
    bars = make_bars(2400, signal=4.0, random_state=0)
    labels = peak_slope_bottom(bars, w=5)
    train, held = next(WalkForwardSplit(1, t1=labels.t1, test_size=800).split(bars))
    members = [(f"trees{n}", LGBMWindowClassifier(1, n_estimators=n, random_state=0)) for n in (5, 10)]
    vote = WalkForwardVotingClassifier(members, cv=WalkForwardSplit(2, t1=labels.t1), events=["peak", "bottom"])
    model = SizedClassifier(make_pipeline(Alpha158(), vote), ThresholdSizer(threshold=0.2, size=0.5))
    y = labels.labels.iloc[train]
    model.fit(bars.iloc[train], y, sample_weight=labels.sample_weight.iloc[train])
    shares = y.value_counts(normalize=True).to_dict()
    report = evaluate_holdout(
        model, bars, start=bars.index[held[0]], definition=labels.definition, prior=shares, session="XNYS"
    )
    card = {
        "first_training_bar": str(bars.index[train[0]]),
        "last_training_bar": str(bars.index[train[-1]]),
        "n_training_bars": len(train),
        "labels": labels.definition,
        "class_shares": shares,
    }
    return report, model, card
