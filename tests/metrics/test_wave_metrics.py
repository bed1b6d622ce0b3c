"""Directions of waves: counted by hand, NaN where there is nothing to count, base rates beside the model."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics.waves import (
    direction_of,
    loss_rate,
    sideways_precision,
    slope_threshold,
    up_down_ratio,
    wave_scores,
)
from ensemble_kit.waves import extract_waves, wave_features, wave_targets

DIRECTIONS = ["up", "down", "sideways"]


def by_hand(true, predicted, weights):
    def count(test):
        return sum(w for t, p, w in zip(true, predicted, weights, strict=True) if test(t, p))

    up, down = count(lambda t, p: p == "up"), count(lambda t, p: p == "down")
    wrong = count(lambda t, p: p == "up" and t == "down") / up + count(lambda t, p: p == "down" and t == "up") / down
    sideways = count(lambda t, p: p == "sideways")
    return up / down, 50 * wrong, count(lambda t, p: p == t == "sideways") / sideways


def test_counts():
    rng = np.random.default_rng(0)
    true, predicted = rng.choice(DIRECTIONS, 300), rng.choice(DIRECTIONS, 300, p=[0.5, 0.3, 0.2])
    for weights in (None, rng.integers(0, 3, 300)):
        ratio, loss, precision = by_hand(true, predicted, np.ones(300) if weights is None else weights)
        assert up_down_ratio(predicted, sample_weight=weights) == pytest.approx(ratio)
        assert loss_rate(true, predicted, sample_weight=weights) == pytest.approx(loss)
        assert sideways_precision(true, predicted, sample_weight=weights) == pytest.approx(precision)
    assert loss_rate(["down", "up"], ["up", "down"]) == 100
    assert loss_rate(["sideways", "up"], ["up", "down"]) == 50


def test_nothing_to_count_is_nan():
    true = ["up", "down", "sideways"]
    assert np.isnan(up_down_ratio(["up", "sideways", "up"]))
    assert up_down_ratio(["down", "sideways", "down"]) == 0
    assert np.isnan(loss_rate(true, ["up", "sideways", "up"]))
    assert np.isnan(loss_rate(true, ["down", "sideways", "down"]))
    assert np.isnan(sideways_precision(true, ["up", "down", "up"]))
    assert np.isnan(sideways_precision(true, ["up", "down", "sideways"], sample_weight=[1, 1, 0]))


def test_both_lines_must_go_one_way():
    slopes = [[2, 2], [2, 1], [-2, -2], [-2, -1], [2, -2], [0, 0], [1.5, 1.001]]
    expected = ["up", "sideways", "down", "sideways", "sideways", "sideways", "up"]
    assert direction_of(pd.DataFrame(slopes), tau=1.0).tolist() == expected
    assert direction_of([[1, 1], [0, 0], [-1, -1]], tau=0).tolist() == ["up", "sideways", "down"]
    rng = np.random.default_rng(1)
    training = rng.normal(0.5, [1.0, 3.0], (500, 2))
    assert slope_threshold(training) == pytest.approx(np.std(training.ravel()) / 2)


def test_the_table_has_its_base_rates():
    rng = np.random.default_rng(2)
    train, true, last = rng.normal(0.1, 2, (200, 2)), rng.normal(0, 1, (80, 2)), rng.normal(0, 1, (80, 2))
    true[:, 1], last[:, 1] = true[:, 0] + 0.1, last[:, 0]
    predicted, weights = true + rng.normal(0, 1, (80, 2)), rng.integers(0, 2, 80)
    scores = wave_scores(true, predicted, y_train=train, last_slopes=last, sample_weight=weights)
    assert scores.index.tolist() == ["model", "persistence", "constant", "actual"]
    keep, tau = weights == 1, train.std() / 2
    mean = np.tile(train.mean(axis=0), (80, 1))
    for row, slopes in {"model": predicted, "persistence": last, "constant": mean, "actual": true}.items():
        t, p = true[keep], slopes[keep]
        assert scores.loc[row, "mse"] == pytest.approx(((t - p) ** 2).mean())
        assert scores.loc[row, "mae"] == pytest.approx(np.abs(t - p).mean())
        r2 = 1 - ((t - p) ** 2).sum(axis=0) / ((t - t.mean(axis=0)) ** 2).sum(axis=0)
        assert scores.loc[row, "r2"] == pytest.approx(r2.mean())
        assert scores.loc[row, "directional_accuracy"] == pytest.approx((np.sign(t) == np.sign(p)).mean())
        if row != "constant":
            names = direction_of(true, tau=tau)[keep], direction_of(slopes, tau=tau)[keep]
            expected = by_hand(*names, np.ones(keep.sum()))
            assert scores.loc[row].iloc[:3].tolist() == pytest.approx(expected)
            assert scores.loc[row, "sideways_share"] == pytest.approx((names[1] == "sideways").mean())
    assert scores.loc["actual"].iloc[1:].tolist()[:2] == [0, 1]
    sideways = (direction_of(true, tau=tau)[keep] == "sideways").mean()
    assert scores.loc["constant", ["sideways_precision", "sideways_share"]].tolist() == pytest.approx([sideways, 1])


def test_the_constant_is_the_training_waves_most_frequent_direction():
    rising, test = np.full((30, 2), 1.0) * np.linspace(1, 2, 30)[:, None], np.array([[1.0, 1.0], [-1.0, -1.0]])
    scores = wave_scores(test, test, y_train=rising, last_slopes=-test)
    assert scores.loc["constant", "sideways_share"] == 0
    assert np.isnan(scores.loc["constant", "up_down_ratio"])  # always up
    assert scores.loc["persistence", "loss_rate"] == 100
    assert scores.loc["constant", "mse"] == pytest.approx((0.5**2 + 2.5**2) / 2)


def test_waves_of_a_random_walk_have_no_skill():
    bars = make_bars(20_000, random_state=0)
    waves = extract_waves(bars)
    X, y = wave_targets(waves).align(wave_features(bars, waves))
    last, half = X[["slope_high", "slope_low"]], len(X) // 2
    scores = wave_scores(y[half:], last[half:], y_train=y[: half - 1], last_slopes=last[half:])
    assert scores.loc["model"].equals(scores.loc["persistence"])
    # The bare precision looks like skill; it is the share of sideways waves.
    shares = scores["sideways_share"]
    assert scores.loc["persistence", "sideways_precision"] == pytest.approx(shares["actual"], abs=0.05)
    assert shares["actual"] > 0.6
    assert scores.loc["persistence", "r2"] < -0.5
    assert scores.loc["constant", "r2"] == pytest.approx(0, abs=0.02)


def test_persistence_on_gold(shared_data):
    bars = read_bars(shared_data / "xauusd_1h_2006_2015.parquet")
    waves = extract_waves(bars)
    X, y = wave_targets(waves).align(wave_features(bars, waves))
    last, half = X[["slope_high", "slope_low"]], bars.index[len(bars) // 2]
    test, train = X.index >= half, (wave_targets(waves).t1.reindex(X.index) < half).to_numpy()
    scores = wave_scores(y[test], last[test], y_train=y[train], last_slopes=last[test])
    found = scores.loc["persistence", ["up_down_ratio", "loss_rate", "sideways_precision", "sideways_share"]].tolist()
    assert found == pytest.approx([0.834, 3.243, 0.811, 0.828], abs=1e-3)


def test_frames_go_by_name():
    rng = np.random.default_rng(3)
    train, true, predicted, last = (rng.normal(size=(n, 2)) for n in (50, 20, 20, 20))
    expected = wave_scores(true, predicted, y_train=train, last_slopes=last)
    index = pd.date_range("2024-01-01", periods=20)

    def framed(values, index=index):
        return pd.DataFrame({"slope_low": values[:, 1], "n": 7, "slope_high": values[:, 0]}, index)

    trained = framed(train, pd.RangeIndex(50))
    found = wave_scores(framed(true), framed(predicted), y_train=trained, last_slopes=framed(last))
    pd.testing.assert_frame_equal(found, expected)
    found = wave_scores(framed(true), predicted, y_train=train, last_slopes=framed(last))
    pd.testing.assert_frame_equal(found, expected)
    says = r"^`{}` must have the index of `{}` \(20 waves\); got another one of {}\. Align both with"
    with pytest.raises(EnsembleKitError, match=says.format("y_pred", "y_true", 20)):
        wave_scores(framed(true), framed(predicted, index[::-1]), y_train=train, last_slopes=last)
    with pytest.raises(EnsembleKitError, match=says.format("last_slopes", "y_pred", 19)):
        wave_scores(true, framed(predicted), y_train=train, last_slopes=framed(last)[1:])
    says = "^`y_train` must have the columns slope_high and slope_low; got high, slope_low, without slope_high. Name"
    with pytest.raises(EnsembleKitError, match=says):
        wave_scores(true, predicted, y_train=pd.DataFrame(train, columns=["high", "slope_low"]), last_slopes=last)


def test_bad_input():
    good = np.ones((3, 2))
    shape = r"^`{}` must have shape \({}, 2\), a row a wave, its slopes of highs and lows; got \({}\)\. Align it with"
    with pytest.raises(EnsembleKitError, match=shape.format("slopes", "n", "3,")):
        slope_threshold(good[:, 0])
    with pytest.raises(EnsembleKitError, match=shape.format("slopes", "n", "0, 2")):
        direction_of(good[:0], tau=1.0)
    with pytest.raises(EnsembleKitError, match=shape.format("y_pred", "3", "2, 2")):
        wave_scores(good, good[:2], y_train=good, last_slopes=good)
    with pytest.raises(EnsembleKitError, match=shape.format("last_slopes", "3", "3, 1")):
        wave_scores(good, good, y_train=good, last_slopes=good[:, :1])
    with pytest.raises(EnsembleKitError, match=r"^`y_true` must be finite; got \[1\.0, nan\] at row 1\. Leave out"):
        wave_scores([[1, 1], [1, np.nan]], good[:2], y_train=good, last_slopes=good[:2])
    with pytest.raises(EnsembleKitError, match=r"^`tau` must be a finite number of at least 0; got -1\. Take `slope_"):
        direction_of(good, tau=-1)
    labels = r"^`y_pred` must hold directions, up, down, sideways; got {}\. Make them of slopes with `direction_of`\.$"
    with pytest.raises(EnsembleKitError, match=labels.format("Up, flat")):
        loss_rate(["up", "up", "up"], ["Up", "flat", "up"])
    with pytest.raises(EnsembleKitError, match=labels.format("a table")):
        up_down_ratio(good)
    with pytest.raises(EnsembleKitError, match=r"^`y_pred` must have the 2 rows of `y_true`; got 1\. Score the rows"):
        sideways_precision(["up", "down"], ["up"])
    with pytest.raises(EnsembleKitError, match="`sample_weight` must have one weight a row"):
        up_down_ratio(["up", "down"], sample_weight=[1])
