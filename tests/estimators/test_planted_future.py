"""Every network finds a planted future on bars it never saw, and none where there is nothing to find.

The nulls of a score: labels of another time (circular shifts of the holdout's), and what a
position earns. The label is the sign of what a decision at the bar's close earns: nothing of it is known at
its bar, so that prevalence and shifts are fair nulls.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from families import FAMILIES, small
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble_kit.datasets import make_bars
from ensemble_kit.metrics import auc_pr, block_bootstrap_mean, next_open_return, shifted_label_scores

N, HELD = 9000, 3000

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("family", FAMILIES)]


def columns(bars):
    """Shape and volume of each bar: what the synthetic future shows itself in, dimly."""
    body = bars["close"] / bars["open"] - 1
    size = (bars["high"] - bars["low"]) / bars["close"]
    wick = (bars["high"] + bars["low"] - bars["open"] - bars["close"]) / (bars["high"] - bars["low"])
    signed = np.sign(body) * np.log(bars["volume"])
    return pd.DataFrame({"body": body, "size": size, "wick": wick, "signed_volume": signed}).astype(np.float32)


@cache
def world(signal, seed):
    bars = make_bars(N + 2, signal=signal, random_state=seed)
    earned = next_open_return(bars).to_numpy()[:N]
    return columns(bars)[:N], np.where(earned > 0, "up", "down"), earned


def judged(family, signal, seed=0):
    """AUC-PR of "up" beside its shifts, and the interval of what the tilt of the probability earned."""
    X, y, earned = world(signal, seed)
    network = small(
        family, 12, max_epochs=4, batch_size=128, learning_rate=3e-3, validation_purge=2, random_state=seed, dropout=0.1
    )
    wide = {"hidden_size": 16, "d_model": 16, "n_filters": 16}
    network.set_params(**{name: value for name, value in wide.items() if name in network.get_params()})
    model = make_pipeline(StandardScaler().set_output(transform="pandas"), network)
    cut = N - HELD - 2  # the last training label looks two bars ahead
    model.fit(X[:cut], y[:cut])
    p = model.predict_proba(X)[-HELD:]
    truth = y[-HELD:]
    score = auc_pr(truth, p, classes=["down", "up"], events=["up"])[0]
    null = shifted_label_scores(
        truth, p, classes=["down", "up"], events=["up"], min_shift=200, n_shifts=100, random_state=0
    )
    position = p[:, 1] - np.median(p[:, 1])
    return score, null, block_bootstrap_mean(position * earned[-HELD:], random_state=0)


def test_finds_a_planted_future(family):
    score, null, (_, low, _) = judged(family, signal=3.0)
    assert score > null.max() + 0.03
    assert low > 0


def test_finds_nothing_where_there_is_nothing(family):
    score, null, (_, low, high) = judged(family, signal=0.0)
    assert null.min() - 0.005 < score < null.max() + 0.005
    assert low < 0 < high
