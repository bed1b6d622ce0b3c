"""CUSUM filter, volatility and average uniqueness: against naive loops, and blind to what comes later."""

import re

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels.events import average_uniqueness, cusum_events, ewm_volatility


def random_bars(n=300, *, seed=0, instruments=None, holes=0.0):
    """Bars of instruments that come and go, some of them without prices."""
    rng = np.random.default_rng(seed)
    bars = make_bars(n, instruments=instruments, bar="30min", random_state=seed)
    if instruments is not None:
        name = bars.index.get_level_values(1)
        row = bars.groupby(name).cumcount()
        bars = bars[(name == instruments[0]) | ((row >= 25) & (row < n - 10) & (rng.random(len(bars)) > 0.1))]
    bars.loc[rng.random(len(bars)) < holes] = np.nan
    return bars


def one_at_a_time(frame):
    if isinstance(frame.index, pd.MultiIndex):
        return [
            (frame.xs(name, level=1), frame.index.get_locs([slice(None), name])) for name in frame.index.unique(level=1)
        ]
    return [(frame, np.arange(len(frame)))]


def returns_of(close):
    out, before = np.full(len(close), np.nan), np.nan
    for t, price in enumerate(close):
        out[t] = price / before - 1
        before = before if np.isnan(price) else price
    return out


CASES = [(None, 0.0), (None, 0.2), (["B", "A", "C"], 0.05)]


# ------------------------------------------------------------------------------ CUSUM


def naive_cusum(close, threshold):
    """The filter of the book, and its two sums; an event is where a sum reaches the threshold."""
    events, up, down = [], 0.0, 0.0
    for r, h in zip(returns_of(close), threshold, strict=True):
        if np.isnan(r):
            events.append(False)
            continue
        up, down = max(0.0, up + r), min(0.0, down + r)
        events.append(bool(up >= h or down <= -h))
        if events[-1]:
            up = down = 0.0
    return events


@pytest.mark.parametrize(("instruments", "holes"), CASES)
@pytest.mark.parametrize("moving", [False, True])
def test_cusum_equals_a_naive_loop(instruments, holes, moving):
    bars = random_bars(instruments=instruments, holes=holes)
    threshold = pd.Series(0.004, index=bars.index)
    if moving:
        threshold *= np.random.default_rng(1).uniform(0.2, 2, len(bars))
        threshold.iloc[::7] = np.nan
    found = cusum_events(bars, threshold)
    assert found.dtype == bool
    for part, rows in one_at_a_time(bars):
        assert found.iloc[rows].tolist() == naive_cusum(part["close"], threshold.iloc[rows])
        assert 5 < found.iloc[rows].sum() < len(part) / 2
    if not moving:
        assert cusum_events(bars, 0.004).equals(found)
        assert cusum_events(bars["close"], 0.004).equals(found)


def test_cusum_resets_as_the_book_does():
    """The book starts only the sum that fired anew: at a constant threshold the other one is 0 there anyway."""
    close = random_bars(3000)["close"]
    events, up, down = [], 0.0, 0.0
    for r in returns_of(close)[1:]:
        up, down = max(0.0, up + r), min(0.0, down + r)
        events.append(bool(down < -0.004 or up > 0.004))
        if down < -0.004:
            down = 0.0
        elif up > 0.004:
            up = 0.0
    assert cusum_events(close, 0.004).tolist() == [False, *events]
    assert sum(events) > 300


def test_cusum_by_hand():
    times = pd.date_range("2022-01-03", periods=8)
    # +1/8 twice is an event at 1/4 reached exactly; NaN rows pass, and the next return spans them.
    close = pd.Series([64, 72, 81, np.nan, 81, 60.75, np.nan, 30.0], index=times)
    assert cusum_events(close, 0.25).tolist() == [False, False, True, False, False, True, False, True]
    assert cusum_events(close.iloc[:1], 0.25).tolist() == [False]
    assert not cusum_events(close * np.nan, 0.25).any()


@pytest.mark.parametrize(
    "function", [lambda bars: cusum_events(bars, 0.004), lambda bars: ewm_volatility(bars, span=9)]
)
def test_later_rows_change_nothing(function):
    bars = random_bars(150, instruments=["A", "B"], holes=0.05)
    whole = function(bars)
    for end in range(1, len(bars), 13):
        assert function(bars.iloc[:end]).equals(whole.iloc[:end])


@pytest.mark.parametrize(
    "function", [lambda bars: cusum_events(bars, 0.004), lambda bars: ewm_volatility(bars, span=9)]
)
def test_a_panel_gives_each_what_it_gets_alone(function):
    bars = random_bars(instruments=["B", "A", "C"], holes=0.05)
    whole = function(bars)
    for part, rows in one_at_a_time(bars):
        assert whole.iloc[rows].reset_index(drop=True).equals(function(part).reset_index(drop=True))


# ------------------------------------------------------------------------- volatility


@pytest.mark.parametrize(("instruments", "holes"), CASES)
def test_volatility_equals_its_formula(instruments, holes):
    bars, span = random_bars(instruments=instruments, holes=holes), 20
    found = ewm_volatility(bars, span=span)
    for part, rows in one_at_a_time(bars):
        r = returns_of(part["close"])
        expected = np.full(len(r), np.nan)
        for t in np.flatnonzero(~np.isnan(r)):
            past = r[: t + 1][~np.isnan(r[: t + 1])]
            if len(past) >= span:
                weight = (1 - 2 / (span + 1)) ** np.arange(len(past))[::-1]
                mean = np.average(past, weights=weight)
                spread = np.average((past - mean) ** 2, weights=weight)
                expected[t] = np.sqrt(spread / (1 - (weight**2).sum() / weight.sum() ** 2))
        np.testing.assert_allclose(found.iloc[rows], expected, rtol=1e-9)
        assert found.iloc[rows].notna().sum() > 100


def test_volatility_of_prices_that_stand_still():
    times = pd.date_range("2022-01-03", periods=30)
    assert ewm_volatility(pd.Series(5.0, index=times), span=10).dropna().tolist() == [0.0] * 20
    assert ewm_volatility(pd.Series(5.0, index=times[:1]), span=10).isna().all()


# ------------------------------------------------------------------------- uniqueness


def naive_uniqueness(end, counts):
    """Mean over each label's bars of 1 / labels made of that bar; `end` holds places."""
    spans = [list(range(t + 1, e + 1)) or [t] for t, e in enumerate(end)]
    made = [sum(s in spans[i] for i in np.flatnonzero(counts)) for s in range(len(end))]
    return [np.mean([1 / made[s] for s in spans[t]]) if counts[t] else 0.0 for t in range(len(end))]


def random_t1(frame, *, seed=0, farthest=12):
    """Ends of labels: irregular, some of them at their own bar, the last ones not known."""
    rng = np.random.default_rng(seed)
    t1 = pd.Series(pd.NaT, index=frame.index, dtype=frame.index.get_level_values(0).dtype, name="t1")
    for _, rows in one_at_a_time(frame):
        times = frame.index.get_level_values(0)[rows]
        end = np.arange(len(rows)) + rng.integers(0, farthest, len(rows))
        inside = np.flatnonzero(end < len(rows))
        t1.iloc[rows[inside]] = times[end[inside]]
    return t1


@pytest.mark.parametrize("instruments", [None, ["B", "A", "C"]])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.02])
def test_uniqueness_equals_a_naive_loop(instruments, share):
    frame = random_bars(150, instruments=instruments)
    t1 = random_t1(frame)
    events = pd.Series(np.random.default_rng(2).random(len(frame)) < share, index=frame.index)
    found = average_uniqueness(t1, events=events)
    for part, rows in one_at_a_time(t1.to_frame()):
        place = {time: i for i, time in enumerate(part.index)}
        end = [place.get(time, i) for i, time in enumerate(part["t1"])]
        counts = part["t1"].notna().to_numpy() & events.iloc[rows].to_numpy()
        np.testing.assert_allclose(found.iloc[rows], naive_uniqueness(end, counts), rtol=1e-12)
        alone = average_uniqueness(part["t1"], events=events.iloc[rows].set_axis(part.index))
        assert alone.tolist() == found.iloc[rows].tolist()
    assert found.between(0, 1).all()
    if share == 1:
        assert average_uniqueness(t1).equals(found)


def test_labels_without_a_common_return_are_unique():
    times = pd.date_range("2022-01-03", periods=50)
    following = pd.Series(times, index=times).shift(-1)
    assert average_uniqueness(following).tolist() == [1.0] * 49 + [0.0]
    assert average_uniqueness(pd.Series(times, index=times)).tolist() == [1.0] * 50
    everything = pd.Series(times[-1], index=times)  # row t shares bar s with the s rows before it
    shares = [np.mean(1 / np.arange(t + 1, 50)) for t in range(49)]
    np.testing.assert_allclose(average_uniqueness(everything.iloc[:-1].reindex(times)), [*shares, 0.0])


def test_an_end_between_two_bars_is_the_bar_before():
    times = pd.date_range("2022-01-03", periods=6)
    t1 = pd.Series(times, index=times) + pd.Timedelta("36h")
    assert average_uniqueness(t1).equals(average_uniqueness(pd.Series([*times[1:], times[-1]], index=times)))


def test_sums_over_many_rows_stay_exact():
    n, length = 300_000, 7
    times = pd.date_range("2022-01-03", periods=n, freq="min")
    found = average_uniqueness(pd.Series(times, index=times).shift(-length)).iloc[length : -2 * length]
    np.testing.assert_allclose(found, 1 / length, rtol=1e-9)


# ------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda b: cusum_events(b, 0), EnsembleKitError, "`threshold` must be above 0; got 0. It is a simple return"),
        (lambda b: cusum_events(b, np.nan), EnsembleKitError, "`threshold` must be above 0; got nan"),
        (lambda b: cusum_events(b, b["close"] * 0 - 1), EnsembleKitError, "`threshold` must be above 0; got -1"),
        (
            lambda b: cusum_events(b, b["close"].iloc[1:]),
            EnsembleKitError,
            "`threshold` must be on the bars' index (60 rows); got another one of 59. Compute it from these very bars.",
        ),
        (lambda b: cusum_events(b, 1.0, column="mid"), BarsError, "got 'mid'. Name the column that holds the price."),
        (
            lambda b: cusum_events(b.rename(columns={"open": "bid", "high": "ask", "close": "last"}), 1.0),
            BarsError,
            "Quotes have a mid price: `bars.assign(mid=(bars['bid'] + bars['ask']) / 2)` and `column='mid'`.",
        ),
        (
            lambda b: cusum_events(b.to_numpy(), 1.0),
            BarsError,
            "must be a pandas DataFrame or a Series of prices; got nd",
        ),
        (
            lambda b: cusum_events(b.reset_index(drop=True), 1.0),
            BarsError,
            "must be indexed by time (DatetimeIndex) or",
        ),
        (lambda b: cusum_events(b.iloc[::-1], 1.0), BarsError, "`bars` must be sorted by time; row 1"),
        (lambda b: cusum_events(b.astype(str), 1.0), BarsError, "`bars` must have numeric prices; got str"),
        (lambda b: cusum_events(b / 0, 1.0), BarsError, "`bars` must have finite prices; got inf at 2022-01-03 14:30"),
        (
            lambda b: ewm_volatility(b, span=1),
            EnsembleKitError,
            "`span` must be an integer of at least 2; got 1. Count",
        ),
        (lambda b: ewm_volatility(b, span=9.5), EnsembleKitError, "`span` must be an integer of at least 2; got 9.5"),
        (
            lambda b: average_uniqueness(b["close"]),
            EnsembleKitError,
            "`t1` must hold times on an index of times; got fl",
        ),
        (
            lambda b: average_uniqueness(pd.Series(b.index)),
            EnsembleKitError,
            "got datetime64[us, UTC] on RangeIndex. Pass `labels.t1`.",
        ),
        (
            lambda b: average_uniqueness(pd.Series(b.index[0], index=b.index)),
            EnsembleKitError,
            "`t1` must not lie before its own row; row 1 has 2022-01-03 14:30:00+00:00.",
        ),
        (
            lambda b: average_uniqueness(pd.Series(b.index, b.index), events=b["close"].iloc[:5] > 0),
            EnsembleKitError,
            "`events` must be on the index of `t1` (60 rows); got another one of 5. Take both from the same bars.",
        ),
        (
            lambda b: average_uniqueness(pd.Series(b.index.tz_localize(None), b.index)),
            EnsembleKitError,
            "and none where it has none; got datetime64[us] on datetime64[us, UTC]. Pass `labels.t1`",
        ),
        (
            lambda b: average_uniqueness(pd.Series(b.index, b.index.tz_localize(None))),
            EnsembleKitError,
            "got datetime64[us, UTC] on datetime64[us].",
        ),
        (lambda b: average_uniqueness(b.index), EnsembleKitError, "`t1` must be a Series of times; got DatetimeIndex."),
        (
            lambda b: average_uniqueness(pd.Series(b.index, b.index), events=np.ones(len(b), bool)),
            EnsembleKitError,
            "`events` must be a Series of bool on the index of `t1`; got ndarray. Pass what",
        ),
        (
            lambda b: average_uniqueness(pd.Series(b.index, b.index), events=b["close"]),
            EnsembleKitError,
            "got a Series of float64. Pass what `cusum_events` returned",
        ),
        (lambda b: cusum_events(b, "1 %"), EnsembleKitError, "`threshold` must be a number or a Series on the bars'"),
        (lambda b: cusum_events(b, None), EnsembleKitError, "; got NoneType. Give a simple return such as 0.01"),
        (lambda b: cusum_events(b, b["close"].to_numpy()), EnsembleKitError, "; got ndarray. Give a simple return"),
        (lambda b: cusum_events(b, b["close"].astype(str)), EnsembleKitError, "must hold numbers; got a Series of str"),
        (
            lambda b: cusum_events(b - b["close"].iloc[3], 1.0),
            BarsError,
            "Set them to NaN, or add a constant to a spread.",
        ),
        (lambda b: ewm_volatility(b * 0.0), BarsError, "prices above 0; got 0 at 2022-01-03 14:30:00+00:00 (row 0; 60"),
        (lambda b: cusum_events(b.iloc[:0], 1.0), BarsError, "`bars` must have at least one row; got 0."),
        (lambda b: ewm_volatility(b["close"].iloc[:0]), BarsError, "`bars` must have at least one row; got 0."),
        (
            lambda b: ewm_volatility(pd.concat([b, b["close"]], axis=1)),
            BarsError,
            "`bars` must have each column once; got close 2 times. Drop or rename the others.",
        ),
    ],
)
def test_refused(call, error, match):
    with pytest.raises(error, match=re.escape(match)):
        call(random_bars(60))


@pytest.mark.parametrize("name", ["btcusdt_5min_2023", "vxx_1h_2009_2021", "spy_1min_bidask"])
def test_real_bars(shared_data, name):
    bars = pd.read_parquet(shared_data / f"{name}.parquet").set_index("timestamp").iloc[:20_000]
    volatility = ewm_volatility(bars)
    events = cusum_events(bars, 3 * volatility)
    assert events.tolist() == naive_cusum(bars["close"], 3 * volatility)
    assert 0.02 < events.mean() < 0.3
