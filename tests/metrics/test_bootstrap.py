"""Intervals of dependent rows."""

import numpy as np
import pandas as pd
import pytest
from sklearn.utils import check_random_state

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import block_bootstrap_mean, ic_summary


def test_interval_covers_the_mean_of_dependent_values():
    rng = np.random.default_rng(0)
    shock = rng.normal(size=(200, 600))
    x = np.empty_like(shock)
    x[:, 0] = shock[:, 0] / np.sqrt(1 - 0.5**2)
    for t in range(1, x.shape[1]):
        x[:, t] = 0.5 * x[:, t - 1] + shock[:, t]
    inside = {"blocks": 0, "rows": 0}
    for k, row in enumerate(x):
        for name, block in (("blocks", None), ("rows", 1)):
            mean, low, high = block_bootstrap_mean(row, block=block, n_resamples=400, random_state=k)
            assert low < mean < high
            inside[name] += low < 0 < high
    assert 0.88 <= inside["blocks"] / 200 <= 0.985
    # Rows drawn one by one forget the dependence, and their interval is too narrow: 0.74 in theory.
    assert inside["rows"] / 200 < 0.85


def test_interval_of_independent_values_is_the_textbooks():
    x = np.random.default_rng(1).normal(size=2000)
    mean, low, high = block_bootstrap_mean(x, block=1, n_resamples=4000, level=0.9, random_state=0)
    half = 1.645 * x.std() / np.sqrt(len(x))
    assert mean == pytest.approx(x.mean())
    np.testing.assert_allclose([low - mean, high - mean], [-half, half], rtol=0.08)


def test_bootstrap_of_a_constant_and_of_holes():
    np.testing.assert_allclose(block_bootstrap_mean(np.full(50, 0.1), random_state=0), 0.1)
    x = np.random.default_rng(2).normal(size=100)
    holes = np.insert(x, [0, 10, 100], np.nan)
    assert block_bootstrap_mean(holes, random_state=0) == block_bootstrap_mean(x, random_state=0)
    assert block_bootstrap_mean(x, random_state=0) != block_bootstrap_mean(x, random_state=1)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_bootstrap_of_few_values_still_has_a_width(n):
    _, low, high = block_bootstrap_mean(np.arange(n), random_state=0)
    assert low < high


def panel_of(n_times=60, seed=0):
    """Times with one to four instruments, in which a common shock moves all of a time."""
    rng = np.random.default_rng(seed)
    times = np.repeat(pd.date_range("2024-01-01", periods=n_times), rng.integers(1, 5, n_times))
    instrument = pd.Series(times).groupby(times).cumcount().to_numpy()
    index = pd.MultiIndex.from_arrays([times, instrument], names=["datetime", "instrument"])
    common = pd.Series(rng.normal(size=n_times), pd.unique(times))
    return pd.Series(common.reindex(times).to_numpy() + 0.1 * rng.normal(size=len(times)), index)


def by_hand(values, moment, n_resamples, block, seed, level=0.95):
    """Put each resample together, row by row."""
    n = moment.max() + 1
    starts = check_random_state(seed).randint(0, n, size=(n_resamples, -(-n // block)))
    means = []
    for row in starts:
        drawn = np.concatenate([np.arange(start, start + block) % n for start in row])
        means.append(np.concatenate([values[moment == t] for t in drawn]).mean())
    return values.mean(), *np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


def test_a_panel_is_drawn_by_whole_times():
    values = panel_of()
    moment = pd.factorize(values.index.get_level_values(0))[0]
    expected = by_hand(values.to_numpy(), moment, 50, block=7, seed=3)
    arguments = {"block": 7, "n_resamples": 50, "random_state": 3}
    np.testing.assert_allclose(block_bootstrap_mean(values, **arguments), expected)
    times = values.index.get_level_values(0)
    np.testing.assert_allclose(block_bootstrap_mean(values.to_numpy(), times=times, **arguments), expected)
    utc = times.tz_localize("UTC")
    np.testing.assert_allclose(block_bootstrap_mean(values.to_numpy(), times=utc, **arguments), expected)
    # Rows taken for independent forget what the instruments of a time have in common.
    _, low, high = block_bootstrap_mean(values.to_numpy(), block=1, random_state=0)
    _, lower, higher = block_bootstrap_mean(values, block=1, random_state=0)
    assert higher - lower > 1.2 * (high - low)


def test_times_of_which_nothing_is_known_are_left_out():
    values = panel_of()
    times = values.index.get_level_values(0)
    holes = values.where(times != times[30])
    assert block_bootstrap_mean(holes, random_state=0) == block_bootstrap_mean(holes.dropna(), random_state=0)


@pytest.mark.parametrize(
    ("values", "block", "says"),
    [
        ([1.0], None, "`values` must be known at 2 times at least, to make blocks of; got 1. Give more rows."),
        ([1.0, np.nan], None, "at 2 times at least, to make blocks of; got 1"),
        ([np.nan], None, "at 2 times at least, to make blocks of; got 0"),
        ([1.0, np.inf, 2.0], None, "`values` must be finite or NaN; got 1 of 3 infinite. Set them to NaN"),
        ([1.0, 2.0, 3.0, 4.0], 3, r"`block` must be an integer in \[1, 2\] for 4 times; got 3. Leave it None."),
        ([1.0, 2.0, 3.0, 4.0], 0, r"`block` must be an integer in \[1, 2\]"),
        ([1.0, 2.0, 3.0, 4.0], 1.5, r"`block` must be an integer in \[1, 2\] for 4 times; got 1\.5\. Leave it None"),
    ],
)
def test_bootstrap_refuses(values, block, says):
    with pytest.raises(EnsembleKitError, match=says):
        block_bootstrap_mean(values, block=block)


@pytest.mark.parametrize("function", [block_bootstrap_mean, ic_summary])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"level": 95}, "^`level` must be a number above 0 and below 1; got 95. Of 95 % coverage it is 0.95.$"),
        ({"level": 0.0}, "`level` must be .*; got 0.0"),
        ({"level": 1.0}, "`level` must be .*; got 1.0"),
        ({"level": np.nan}, "`level` must be .*; got nan"),
        ({"level": "0.9"}, "`level` must be .*; got '0.9'"),
        ({"n_resamples": 0}, "^`n_resamples` must be an integer of at least 1; got 0. Intervals need some 1000.$"),
        ({"n_resamples": 100.0}, "`n_resamples` must be an integer of at least 1; got 100.0"),
        ({"block": 2.0}, r"`block` must be an integer in \[1, 5\] for 10 times; got 2\.0"),
    ],
)
def test_intervals_that_cannot_be(function, options, says):
    with pytest.raises(EnsembleKitError, match=says):
        function(np.arange(10.0), **options)


def test_a_panel_of_one_time_is_refused():
    with pytest.raises(EnsembleKitError, match=r"got 1\. Give more rows"):
        block_bootstrap_mean([1.0, 2.0, 3.0], times=[5, 5, 5])


@pytest.mark.parametrize(
    ("times", "got"), [([1, 2], "got 2, 0 of them missing"), ([1, 2, None], "got 3, 1 of them missing")]
)
def test_times_that_do_not_fit(times, got):
    with pytest.raises(EnsembleKitError, match=f"`times` must have a time for each of the 3 rows of `values`; {got}"):
        block_bootstrap_mean([1.0, 2.0, 3.0], times=times)
