"""Information coefficients across instruments."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import block_bootstrap_mean, ic_summary, information_coefficient


def panel(n_times, n_instruments, seed=0, signal=0.0):
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product(
        [pd.date_range("2024-01-01", periods=n_times), [f"I{k:02}" for k in range(n_instruments)]],
        names=["datetime", "instrument"],
    )
    earned = pd.Series(rng.normal(size=len(index)), index)
    return signal * earned + rng.normal(size=len(index)), earned


@pytest.mark.parametrize(("method", "oracle"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_ic_is_scipys_one_time_at_a_time(method, oracle):
    prediction, earned = panel(60, 12)
    rng = np.random.default_rng(1)
    prediction, earned = prediction.round(1), earned.round(1)  # ties
    prediction[rng.uniform(size=720) < 0.2] = np.nan
    earned[rng.uniform(size=720) < 0.2] = np.nan
    keep = rng.uniform(size=720) < 0.8  # instruments that come and go
    prediction, earned = prediction[keep] * 1e-4, earned[keep] * 1e3 + 7
    found = information_coefficient(prediction, earned, method=method)
    expected = []
    for _, pair in pd.DataFrame({"p": prediction, "r": earned}).groupby(level=0):
        known = pair.dropna()
        expected.append(oracle(known["p"], known["r"]).statistic)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.name == {"pearson": "ic", "spearman": "rank_ic"}[method]
    assert found.index.equals(pd.date_range("2024-01-01", periods=60, name="datetime"))


def test_rows_need_no_order():
    prediction, earned = panel(10, 8)
    shuffled = np.random.default_rng(0).permutation(80)
    found = information_coefficient(prediction.iloc[shuffled], earned.iloc[shuffled])
    pd.testing.assert_series_equal(found, information_coefficient(prediction, earned), check_freq=False)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_times_without_an_answer(method):
    prediction, earned = panel(5, 6, signal=1.0)
    prediction.iloc[0:4] = np.nan  # two instruments left
    prediction.iloc[6:12] = 0.1  # whose mean is not quite itself
    earned.iloc[12:18] = -0.1
    earned.iloc[18:24] = np.nan
    found = information_coefficient(prediction, earned, method=method)
    assert found.isna().tolist() == [True, True, True, True, False]
    assert len(information_coefficient(prediction * np.nan, earned, method=method).dropna()) == 0


def test_perfect_predictions():
    _, earned = panel(50, 5)
    np.testing.assert_allclose(information_coefficient(3 * earned, earned), 1.0)
    np.testing.assert_allclose(information_coefficient(-np.exp(earned), earned, method="spearman"), -1.0)
    assert information_coefficient(3 * earned, earned).max() <= 1.0


def test_no_signal_is_within_its_interval_of_zero_and_a_signal_is_not():
    inside = []
    for seed in range(20):
        summary = ic_summary(information_coefficient(*panel(300, 10, seed=seed)), random_state=0)
        inside.append(summary["low"] < 0 < summary["high"])
    assert np.mean(inside) >= 0.8
    strong = ic_summary(information_coefficient(*panel(300, 10, signal=0.2)), random_state=0)
    assert 0 < strong["low"] < strong["mean"] < strong["high"]
    assert strong["mean"] == pytest.approx(0.2 / np.sqrt(1.04), abs=0.05)


def test_summary_of_coefficients():
    ic = pd.Series([0.1, np.nan, 0.3, 0.0, -0.2, 0.4], name="rank_ic")
    known = ic.dropna()
    summary = ic_summary(ic, periods_per_year=252, block=2, random_state=0)
    mean, low, high = block_bootstrap_mean(known, block=2, random_state=0)
    icir = known.mean() / known.std()
    assert summary.to_dict() == pytest.approx(
        {"n": 5, "mean": mean, "low": low, "high": high, "std": known.std(), "icir": icir}
        | {"icir_annual": icir * np.sqrt(252), "positive": 0.6}
    )
    assert summary.name == "rank_ic"
    assert "icir_annual" not in ic_summary(ic)


def test_summary_of_what_never_varies():
    summary = ic_summary(np.full(10, 0.1))
    assert summary["std"] == 0
    assert np.isnan(summary["icir"])


@pytest.mark.parametrize("periods", [0, -1, np.nan])
def test_summary_refuses(periods):
    with pytest.raises(EnsembleKitError, match="`periods_per_year` must be above 0; got"):
        ic_summary([0.1, 0.2], periods_per_year=periods)
    with pytest.raises(EnsembleKitError, match="known at 2 times at least"):
        ic_summary([0.1, np.nan])


def test_ic_refuses():
    prediction, earned = panel(5, 4)
    with pytest.raises(EnsembleKitError, match="`method` must be 'pearson' or 'spearman'; got 'kendall'"):
        information_coefficient(prediction, earned, method="kendall")
    with pytest.raises(
        EnsembleKitError,
        match=r"`forward_return` must have the index of `prediction` \(20 rows\); got another one of 19",
    ):
        information_coefficient(prediction, earned[1:])
    alone = prediction.xs("I00", level=1)
    with pytest.raises(EnsembleKitError, match=r"got Series on a DatetimeIndex\. Of a single instrument"):
        information_coefficient(alone, alone)
    with pytest.raises(EnsembleKitError, match=r"`prediction` must be a Series on a panel's index .* got ndarray"):
        information_coefficient(prediction.to_numpy(), earned)
    earned.iloc[3] = np.inf
    with pytest.raises(EnsembleKitError, match=r"`forward_return` must be finite or NaN; got inf at .*I03.* \(row 3\)"):
        information_coefficient(prediction, earned)
