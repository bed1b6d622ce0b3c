"""Direction of the next price: bars, ticks, prices that are not known."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels.next_direction import next_direction


def random_prices(n=200, *, seed=0, holes=0.0, instruments=None):
    """A coarse grid: many prices repeat the one before."""
    bars = make_bars(n, bar="30min", instruments=instruments, random_state=seed)
    rng = np.random.default_rng(seed)
    if instruments is not None:
        bars = bars[rng.random(len(bars)) > 0.2]
    bars[["open", "high", "low", "close"]] = (bars[["open", "high", "low", "close"]] * 2).round() / 2
    bars.loc[rng.random(len(bars)) < holes, "close"] = np.nan
    return bars


def oracle(price, time):
    n = len(price)
    label, t1, weight = [np.nan] * n, [pd.NaT] * n, [0.0] * n
    for t in range(n):
        later = [i for i in range(t + 1, n) if not np.isnan(price[i])]
        if later:
            label[t], t1[t] = float(price[later[0]] > price[t]), time[later[0]]
            weight[t] = float(not np.isnan(price[t]))
    return label, t1, weight


@pytest.mark.parametrize(
    ("instruments", "holes"), [(None, 0.0), (None, 0.3), (["B", "A", "C"], 0.2), (["A", "B"], 0.9)]
)
def test_equal_to_brute_force(instruments, holes):
    bars = random_prices(holes=holes, instruments=instruments)
    found = next_direction(bars)
    parts = [(bars, np.arange(len(bars)))]
    if instruments is not None:
        parts = [(bars.xs(name, level=1), bars.index.get_locs([slice(None), name])) for name in instruments]
    for part, rows in parts:
        label, t1, weight = oracle(part["close"].to_numpy(), part.index)
        np.testing.assert_array_equal(found.labels.iloc[rows], label)
        assert found.t1.iloc[rows].tolist() == t1
        assert found.sample_weight.iloc[rows].tolist() == weight
        known = found.known[rows]
        assert not known[np.argmin(known) :].any()  # unknown rows lie at the end
    y = found.align(bars)[1]
    assert {*y} == {0, 1}
    assert y.dtype == np.int64


def test_what_a_prefix_knows_stays():
    bars = random_prices(120, holes=0.2, instruments=["A", "B"])
    whole = next_direction(bars)
    for end in range(10, len(bars), 11):
        part = next_direction(bars.iloc[:end])
        for one, all_ in ((part.labels, whole.labels), (part.t1, whole.t1), (part.sample_weight, whole.sample_weight)):
            assert one[part.known].equals(all_.iloc[:end][part.known])
        after = bars.copy()
        after.iloc[end:, :4] = 1000 - after.iloc[end:, :4]
        seen = (whole.t1 < bars.index.get_level_values(0)[end]).to_numpy()
        assert next_direction(after).labels[seen].equals(whole.labels[seen])


def test_by_hand():
    times = pd.date_range("2022-01-03", periods=7)
    labels = next_direction(pd.Series([np.nan, 5, 5, np.nan, 6, 4, np.nan], index=times))
    np.testing.assert_array_equal(labels.labels, [0, 0, 1, 0, 0, np.nan, np.nan])
    assert labels.t1.tolist() == [times[1], times[2], times[4], times[4], times[5], pd.NaT, pd.NaT]
    assert labels.sample_weight.tolist() == [0, 1, 1, 0, 1, 0, 0]


def test_short_instruments_are_unknown():
    bars = random_prices(50, instruments=["A", "B"])
    rows = bars.index.get_level_values(1) == "A"
    rows[bars.index.get_locs([slice(None), "B"])[0]] = True
    labels = next_direction(bars[rows])
    assert labels.labels.xs("B", level=1).isna().all()
    assert labels.known.sum() == rows.sum() - 2


def test_definition():
    bars = random_prices()
    labels = next_direction(bars, column="open")
    assert json.loads(json.dumps(labels.definition)) == {"label": "next_direction", "column": "open"}
    assert labels.labels.equals(next_direction(bars["open"]).labels)
    assert not labels.labels.equals(next_direction(bars).labels)


TICKS = pd.DataFrame(
    {"price": [1.0, 2.0, 3.0]}, index=pd.to_datetime(["2024-01-01 00:00:01"] * 2 + ["2024-01-01 00:00:02"])
)


def test_ticks_of_the_same_time_get_times_of_their_own():
    with pytest.raises(BarsError, match=re.escape("`bars` must have unique times; 2024-01-01 00:00:01 stands 2 times")):
        next_direction(TICKS, column="price")
    ticks = TICKS.copy()
    ticks.index += pd.to_timedelta(ticks.groupby(level=0).cumcount().to_numpy(), unit="ns")
    labels = next_direction(ticks, column="price")
    assert labels.labels.iloc[:2].tolist() == [1, 1]
    assert labels.t1.iloc[0] == pd.Timestamp("2024-01-01 00:00:01.000000001")


@pytest.mark.parametrize(
    ("bars", "parameters", "error", "match"),
    [
        (TICKS, {}, BarsError, "`column` must be one of price; got 'close'. Name the column that holds the price."),
        (
            TICKS.iloc[1:2],
            {"column": "price"},
            EnsembleKitError,
            "at least two known prices of an instrument; got 1 of 1",
        ),
        (TICKS.iloc[1:] * np.nan, {"column": "price"}, EnsembleKitError, "got 0 of 2 rows. Give more rows."),
        (TICKS.iloc[:0], {"column": "price"}, EnsembleKitError, "got 0 of 0 rows"),
        (
            TICKS.reset_index(drop=True),
            {"column": "price"},
            BarsError,
            "`bars` must be indexed by time (DatetimeIndex)",
        ),
        ([1, 2, 3], {}, BarsError, "`bars` must be a pandas DataFrame or a Series of prices; got list."),
    ],
)
def test_refused(bars, parameters, error, match):
    with pytest.raises(error, match=re.escape(match)):
        next_direction(bars, **parameters)


def test_real_ticks(shared_data):
    quotes = pd.read_parquet(shared_data / "xauusd_tick_20140501.parquet").set_index("timestamp")
    with pytest.raises(BarsError, match="Quotes have a mid price"):
        next_direction(quotes)
    quotes = quotes.assign(mid=(quotes["bid"] + quotes["ask"]) / 2)
    labels = next_direction(quotes, column="mid")
    mid = quotes["mid"].to_numpy()
    np.testing.assert_array_equal(labels.labels, [*(mid[1:] > mid[:-1]).astype(float), np.nan])
    assert labels.t1.iloc[:-1].tolist() == quotes.index[1:].tolist()
    assert 0.4 < labels.labels.mean() < 0.6

    trades = pd.read_parquet(shared_data / "trades_btcusdt_spot_20240808.parquet").set_index("timestamp")
    labels = next_direction(trades, column="price")
    assert labels.labels.mean() < 0.15  # most trades repeat the price before them
    assert labels.known.sum() == len(trades) - 1
