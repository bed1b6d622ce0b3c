"""Selection bias: the published figures, by hand, and on trials without skill."""

import tracemalloc
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri
from scipy.stats import kstest, kurtosis, rankdata, skew

from ensemble_kit.datasets import read_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import next_open_return
from ensemble_kit.metrics.overfitting import (
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    probabilistic_sharpe_ratio,
    probability_of_backtest_overfitting,
)


def sharpes_of(trials):
    return trials.mean(axis=0) / trials.std(axis=0, ddof=1)


def best_of(trials):
    return trials[:, sharpes_of(trials).argmax()]


# ------------------------------------------------------------------------------- Sharpe ratios


def test_the_papers_example():
    """Bailey and Lopez de Prado 2014: 2.5 a year, 5 years of 250 days, skewness -3 and kurtosis 10."""
    z = np.repeat([1.0, 0.0], [1145, 105])
    z = (z - z.mean()) / z.std(ddof=1)
    assert skew(z) == pytest.approx(-3, abs=0.001)
    assert kurtosis(z, fisher=False) == pytest.approx(10, abs=0.005)
    returns = z + 2.5 / np.sqrt(250)
    variance = 1 / 2 / 250
    assert expected_maximum_sharpe(n_trials=100, sharpe_variance=variance) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe_ratio(returns, n_trials=100, sharpe_variance=variance) == pytest.approx(0.9004, abs=5e-4)
    assert deflated_sharpe_ratio(returns, n_trials=46, sharpe_variance=variance) == pytest.approx(0.9505, abs=5e-4)
    # Of normal returns 88 trials would have done.
    normal = ndtri((np.arange(1250) + 0.5) / 1250)
    returns = normal / normal.std(ddof=1) + 2.5 / np.sqrt(250)
    assert deflated_sharpe_ratio(returns, n_trials=88, sharpe_variance=variance) == pytest.approx(0.9505, abs=1e-3)


def test_forms_agree():
    trials = np.random.default_rng(0).normal(size=(300, 12))
    sharpes = sharpes_of(trials)
    null = expected_maximum_sharpe(sharpes)
    assert null == expected_maximum_sharpe(n_trials=12, sharpe_variance=sharpes.var(ddof=1))
    assert null < expected_maximum_sharpe(sharpes, n_trials=13)
    best = best_of(trials)
    assert deflated_sharpe_ratio(best, trial_sharpes=sharpes) == probabilistic_sharpe_ratio(best, benchmark=null)
    # The unit of returns is none of a Sharpe ratio's.
    assert deflated_sharpe_ratio(1e-4 * best, trial_sharpes=sharpes) == pytest.approx(
        deflated_sharpe_ratio(best, trial_sharpes=sharpes)
    )


def test_one_trial_is_no_selection():
    x = np.random.default_rng(0).normal(0.1, size=100)
    assert deflated_sharpe_ratio(x, trial_sharpes=[0.1]) == probabilistic_sharpe_ratio(x)
    assert expected_maximum_sharpe(n_trials=1, sharpe_variance=2.0) == 0
    assert expected_maximum_sharpe(n_trials=1.01, sharpe_variance=2.0) == 0


def test_the_null_of_one_trial_is_uniform_and_of_the_best_is_not():
    rng = np.random.default_rng(1)
    # Student's t has fat tails; returns of a bet on rare gains are skewed.
    for draw in (rng.normal, lambda size: rng.standard_t(5, size), lambda size: rng.exponential(1.0, size) - 1):
        alone = [probabilistic_sharpe_ratio(draw(size=400)) for _ in range(500)]
        assert kstest(alone, "uniform").pvalue > 0.01
    studies = [rng.normal(size=(400, 40)) for _ in range(200)]
    naive = np.array([probabilistic_sharpe_ratio(best_of(trials)) for trials in studies])
    deflated = np.array([deflated_sharpe_ratio(best_of(x), trial_sharpes=sharpes_of(x)) for x in studies])
    assert (naive > 0.95).mean() > 0.8  # one in 40 always looks certain
    assert (deflated > 0.95).mean() < 0.05
    assert 0.4 < np.median(deflated) < 0.6


def test_trials_that_resemble_each_other_vary_less():
    """The variance across them with their full number is the best one's mean, as the notes say."""
    rng = np.random.default_rng(2)
    best, expected, deflated = [], [], []
    for _ in range(200):
        trials = np.sqrt(0.8) * rng.normal(size=(300, 1)) + np.sqrt(0.2) * rng.normal(size=(300, 40))
        best.append(sharpes_of(trials).max())
        expected.append(expected_maximum_sharpe(sharpes_of(trials)))
        deflated.append(deflated_sharpe_ratio(best_of(trials), trial_sharpes=sharpes_of(trials)))
    assert np.mean(expected) == pytest.approx(np.mean(best), abs=2.5 * np.std(best) / np.sqrt(200))
    assert np.mean(np.array(deflated) > 0.95) <= 0.05


def test_skill_survives_the_deflation():
    rng = np.random.default_rng(3)
    trials = rng.normal(size=(2000, 40))
    trials[:, 5] += 0.2
    assert deflated_sharpe_ratio(best_of(trials), trial_sharpes=sharpes_of(trials)) > 0.99


def test_two_values_only():
    # Skewness and Sharpe ratio at which the variance of the estimate is 0.
    x = np.repeat([1.0, 0.0], [50, 50]) - 0.1
    assert 0.99 < probabilistic_sharpe_ratio(x) <= 1
    assert 0 <= probabilistic_sharpe_ratio(x, benchmark=5.0) < 0.01


# ------------------------------------------------------------------- combinatorially symmetric


def by_hand(x, n_blocks):
    """The definition, split by split, on the rows themselves."""
    rows = np.array_split(np.arange(len(x)), n_blocks)
    out = []
    for taken in combinations(range(n_blocks), n_blocks // 2):
        inside = np.concatenate([rows[b] for b in taken])
        here, there = sharpes_of(x[inside]), sharpes_of(np.delete(x, inside, axis=0))
        best = here.argmax()
        relative = rankdata(there)[best] / (x.shape[1] + 1)
        out.append((best, here[best], there[best], np.log(relative / (1 - relative))))
    return pd.DataFrame(out, columns=["trial", "in_sample", "out_of_sample", "logit"])


@pytest.mark.parametrize(("shape", "n_blocks"), [((64, 7), 8), ((61, 5), 6), ((200, 2), 4), ((40, 30), 10)])
def test_splits_are_those_of_the_definition(shape, n_blocks):
    x = np.random.default_rng(0).normal(0.01, size=shape) * np.geomspace(0.01, 10, shape[1])
    expected = by_hand(x, n_blocks)
    result = probability_of_backtest_overfitting(x, n_blocks=n_blocks)
    pd.testing.assert_frame_equal(result.splits, expected, check_names=False, rtol=1e-9)
    assert result.pbo == pytest.approx((expected["logit"] < 0).mean() + (expected["logit"] == 0).mean() / 2, rel=1e-12)
    assert result.slope == pytest.approx(np.polyfit(expected["in_sample"], expected["out_of_sample"], 1)[0])
    assert result.probability_of_loss == (expected["out_of_sample"] < 0).mean()


def test_chunks_change_nothing(monkeypatch):
    x = np.random.default_rng(1).normal(size=(100, 9))
    whole = probability_of_backtest_overfitting(x, n_blocks=10)
    monkeypatch.setattr("ensemble_kit.metrics.overfitting._CHUNK", 50)
    parts = probability_of_backtest_overfitting(x, n_blocks=10)
    pd.testing.assert_frame_equal(parts.splits, whole.splits)


def test_large_drifts_lose_nothing_to_cancellation():
    x = np.random.default_rng(2).normal(size=(80, 5))
    expected = by_hand(x + 1e6, 8)
    pd.testing.assert_frame_equal(
        probability_of_backtest_overfitting(x + 1e6, n_blocks=8).splits, expected, check_names=False, rtol=1e-6
    )


def test_noise_is_a_coin():
    rng = np.random.default_rng(3)
    results = [probability_of_backtest_overfitting(rng.normal(size=(400, 50)), n_blocks=8) for _ in range(100)]
    pbo = np.array([result.pbo for result in results])
    assert abs(pbo.mean() - 0.5) < 3 * pbo.std() / 10
    assert 0.1 < pbo.std() < 0.25
    # What was better in sample is worse out of it: the same rows cannot be good in both halves.
    assert np.mean([result.slope for result in results]) < 0
    assert 0.35 < np.mean([result.probability_of_loss for result in results]) < 0.65


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_trials_of_noise_are_a_coin_too(n):
    """A median rank, which an odd number of trials has, is half a loss."""
    rng = np.random.default_rng(n)
    pbo = np.array([probability_of_backtest_overfitting(rng.normal(size=(160, n)), n_blocks=6).pbo for _ in range(300)])
    assert abs(pbo.mean() - 0.5) < 3 * pbo.std() / np.sqrt(300)
    # The fewer trials, the more one study's figure is a draw.
    assert 0.2 < pbo.std() < 0.4


def test_one_good_trial_is_found():
    x = np.random.default_rng(4).normal(size=(1600, 30))
    x[:, 11] += 0.2
    result = probability_of_backtest_overfitting(pd.DataFrame(x, columns=[f"t{k}" for k in range(30)]))
    assert len(result.splits) == 12_870
    assert result.pbo < 0.01
    assert result.probability_of_loss < 0.01
    assert (result.splits["trial"] == "t11").mean() > 0.99


def test_equal_trials_are_a_coin():
    x = np.random.default_rng(5).normal(size=(100, 1)).repeat(4, axis=1)
    result = probability_of_backtest_overfitting(x, n_blocks=4)
    assert result.pbo == 0.5
    assert (result.splits["logit"] == 0).all()
    assert (result.splits["trial"] == 0).all()


def test_a_trial_that_does_not_trade_in_a_half_is_neither_good_nor_bad_there():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(80, 3)) - 0.5
    x[:60, 0] = 0.0  # trades in the last quarter alone
    result = probability_of_backtest_overfitting(x, n_blocks=4)
    assert np.isfinite(result.splits.drop(columns="trial")).all(axis=None)
    without = result.splits.iloc[0]  # the first half, in which the others lose
    assert (without["trial"], without["in_sample"]) == (0, 0.0)


def test_a_study_of_1000_trials_fits_in_memory():
    """12,870 splits by 1,000 trials are 98 MiB an array: no such array is made."""
    x = np.random.default_rng(7).normal(size=(640, 1000))
    tracemalloc.start()
    result = probability_of_backtest_overfitting(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.splits.shape == (12_870, 4)
    assert peak < 80 * 2**20


# ---------------------------------------------------------------------------------- real bars


def test_hundreds_of_coins_on_real_bars(shared_data):
    """Random positions on SPY: the best of many looks certain, and both figures see through it."""
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet").iloc[:20_000]
    earned = next_open_return(bars).dropna().to_numpy()
    rng = np.random.default_rng(0)
    held = rng.choice([-1.0, 0.0, 1.0], size=(len(earned) // 20 + 1, 200)).repeat(20, axis=0)[: len(earned)]
    trials = held * earned[:, None]
    assert probabilistic_sharpe_ratio(best_of(trials)) > 0.98
    assert 0.1 < deflated_sharpe_ratio(best_of(trials), trial_sharpes=sharpes_of(trials)) < 0.9
    assert 0.2 < probability_of_backtest_overfitting(trials, n_blocks=10).pbo < 0.8


# ------------------------------------------------------------------------------------ refusals

X = np.random.default_rng(0).normal(size=(40, 7))
FRAME = pd.DataFrame(X, columns=list("abcdefg"))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: probabilistic_sharpe_ratio([1.0, 2.0]),
            r"^`returns` must have shape \(T,\), T at least 3; got \(2,\). Give returns a period, in time order.$",
        ),
        (lambda: probabilistic_sharpe_ratio(X), r"must have shape \(T,\), T at least 3; got \(40, 7\)"),
        (
            lambda: probabilistic_sharpe_ratio([1.0, np.nan, 2.0]),
            "^`returns` must be finite; got missing or infinite values. Use 0 where flat.$",
        ),
        (
            lambda: probabilistic_sharpe_ratio([0.1] * 9),
            "^`returns` must vary; got equal values only. Leave out what never traded.$",
        ),
        (
            lambda: probabilistic_sharpe_ratio(X[:, 0], benchmark=np.nan),
            "^`benchmark` must be a finite number; got nan. It is a Sharpe ratio a period.$",
        ),
        (
            lambda: deflated_sharpe_ratio(X[:, 0]),
            "^`n_trials` must be a number of at least 1; got None. Count all trials, or pass `trial_sharpes`.$",
        ),
        (
            lambda: deflated_sharpe_ratio(X[:, 0], n_trials=5),
            "^`sharpe_variance` must be a finite number of at least 0; got None. Pass `trial_sharpes`, and it is taken",
        ),
        (lambda: expected_maximum_sharpe(n_trials=0, sharpe_variance=1.0), "`n_trials` must be .*; got 0"),
        (lambda: expected_maximum_sharpe(n_trials=5, sharpe_variance=-1.0), "`sharpe_variance` must be .*; got -1.0"),
        (
            lambda: expected_maximum_sharpe([0.1, np.nan, 0.2]),
            r"^`trial_sharpes` must be finite numbers, one a trial; got shape \(3,\), 1 of them not finite. Leave out",
        ),
        (lambda: expected_maximum_sharpe([]), r"`trial_sharpes` must be .*; got shape \(0,\)"),
        (
            lambda: probability_of_backtest_overfitting(X[:, :1]),
            r"^`returns` must have shape \(T, N\), T at least 3 and N at least 2; got \(40, 1\)",
        ),
        (
            lambda: probability_of_backtest_overfitting(FRAME.assign(c=np.inf, e=np.nan), n_blocks=4),
            r"^`returns` must be finite; got missing or infinite values in 2 trial\(s\): c, e. Use 0 where flat.$",
        ),
        (
            lambda: probability_of_backtest_overfitting(FRAME * [0, 0, 0, 0, 0, 0, 1], n_blocks=4),
            r"^`returns` must vary; got equal values only in 6 trial\(s\): a, b, c, d, e, .... Leave out what",
        ),
        (
            lambda: probability_of_backtest_overfitting(X, n_blocks=7),
            "^`n_blocks` must be an even integer from 4 to 20; got 7. Take 16.$",
        ),
        (lambda: probability_of_backtest_overfitting(X, n_blocks=22), "`n_blocks` must be .*; got 22"),
        (lambda: probability_of_backtest_overfitting(X, n_blocks=8.0), r"`n_blocks` must be .*; got 8\.0"),
        (
            lambda: probability_of_backtest_overfitting(X[:31]),
            "^`returns` must have 2 rows a block at least, 32; got 31. Give more, or fewer blocks.$",
        ),
    ],
)
def test_refusals(call, says):
    with pytest.raises(EnsembleKitError, match=says):
        call()
