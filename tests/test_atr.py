"""Average true range: against its definition, with holes and instruments."""

import numpy as np
import pytest

from ensemble_kit.atr import average_true_range
from ensemble_kit.datasets import make_bars

BARS = make_bars(120, random_state=0)


def by_hand(bars, period):
    high, low, close = bars[["high", "low", "close"]].dropna().to_numpy().T
    reach = [max(h - l, abs(h - c), abs(l - c)) for h, l, c in zip(high[1:], low[1:], close[:-1], strict=True)]
    atr = [np.mean(reach[:period])]
    for value in reach[period:]:
        atr.append((atr[-1] * (period - 1) + value) / period)
    return np.array([np.nan] * period + atr)


@pytest.mark.parametrize("period", [1, 5, 14])
def test_definition(period):
    np.testing.assert_allclose(average_true_range(BARS, period), by_hand(BARS, period), rtol=1e-12)


def test_gaps_count():
    bars = BARS.copy()
    bars.iloc[60:, :4] += 50
    atr = average_true_range(bars)
    assert atr[60] == pytest.approx(atr[59] * 13 / 14 + 50 / 14, rel=0.01)


@pytest.mark.parametrize("column", ["high", "low", "close"])
def test_bars_without_prices_leave_it_as_it_was(column):
    holes = np.random.default_rng(0).random(len(BARS)) < 0.3
    bars = BARS.copy()
    bars.loc[holes, column] = np.nan
    atr = average_true_range(bars)
    assert np.isnan(atr[holes]).all()
    np.testing.assert_array_equal(atr[~holes], average_true_range(BARS[~holes]))


def test_instruments_stand_alone():
    bars = make_bars(60, instruments=["B", "A", "C"], random_state=0)
    bars = bars[np.random.default_rng(0).random(len(bars)) > 0.2]
    atr = average_true_range(bars)
    for name, part in bars.groupby(level=1):
        np.testing.assert_array_equal(
            atr[bars.index.get_level_values(1) == name], average_true_range(part.droplevel(1))
        )


def test_a_prefix_gives_what_the_whole_gives():
    for end in (0, 1, 13, 14, 15, 50):
        np.testing.assert_array_equal(average_true_range(BARS.iloc[:end]), average_true_range(BARS)[:end])
