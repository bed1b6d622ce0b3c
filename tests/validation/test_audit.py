"""Leaks at rare bars are found: a part of the times at which the check hides the future stands at telling ones."""

import inspect

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.bars import row_keys
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.features import Alpha158, ICTFeatures, SessionFeatures
from ensemble_kit.validation._audit import Audit, Tally, _telling, probes
from ensemble_kit.validation._runs import CUT, NAN, TIMES_1000, Run
from ensemble_kit.validation.lookahead import check_no_lookahead

BARS = make_bars(2000, random_state=0)
PANEL = make_bars(400, instruments=["A", "B", "C"], random_state=1)
DEFAULT = inspect.signature(check_no_lookahead).parameters["n_prefixes"].default


def audit_of(bars):
    run = Run.of(lambda bars: np.zeros(len(bars)), None, None)
    return Audit.of(run, bars, None, row_keys(bars), dict.fromkeys((CUT, NAN, TIMES_1000), 0.0), Tally())


def telling(bars, n):
    return _telling(audit_of(bars), n).tolist()


def each(bars):
    return bars if bars.index.nlevels == 1 else bars.groupby(level=1)


def change(bars):
    close = bars["close"]
    return close / each(close).shift() - 1


def next_close_where(bars, rare):
    return each(bars["close"]).shift(-1).where(rare).to_frame()


def overnight_gap(bars):
    day = pd.Series(bars.index.get_level_values(0).normalize(), bars.index)
    gap = each(bars["open"]).shift(-1) / bars["close"] - 1
    return gap.where(each(day).shift(-1) != day).to_frame("gap")


def fixed(bars, rare):
    """Return a leak of the next close at rows that are known beforehand, whatever is hidden."""
    rows = bars.index[rare]
    return lambda bars: next_close_where(bars, bars.index.isin(rows))


# ------------------------------------------------------------------- rare leaks


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bars", [BARS, PANEL], ids=["one", "panel"])
def test_leaks_at_rare_bars_are_found(bars, seed):
    size = change(bars).abs()
    rare = size > size.nlargest(4).iloc[-1]
    ahead = each(rare).shift(-1, fill_value=False)
    for leak in (overnight_gap, fixed(bars, rare), fixed(bars, ahead)):
        report = check_no_lookahead(leak, bars, random_state=seed)
        assert report.leaks["kind"].tolist() == ["future"]
        assert (report.leaks.loc[0, "nearest"], report.leaks.loc[0, "farthest"]) == (1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_leaks_at_large_returns_are_found(seed):
    for leak in (
        lambda bars: next_close_where(bars, change(bars).abs() > 0.002),
        lambda bars: next_close_where(bars, change(bars).shift(-1).abs() > 0.002),
    ):
        assert not check_no_lookahead(leak, BARS, random_state=seed).ok


@pytest.mark.parametrize("seed", range(3))
def test_the_overnight_gap_of_real_bars_is_found(shared_data, seed):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")[:5000]
    leak = check_no_lookahead(overnight_gap, bars, random_state=seed).leaks.iloc[0]
    assert (leak["nearest"], leak["farthest"]) == (1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_leaks_at_ordinary_bars_only_stay_found(seed):
    size = change(BARS).abs()
    calm = (size < 0.002) & (size.shift(-1) < 0.002) & overnight_gap(BARS)["gap"].isna()
    assert not check_no_lookahead(fixed(BARS, calm), BARS, random_state=seed).ok
    assert not set(np.flatnonzero(calm)) & set(telling(BARS, 3))


def test_rare_leaks_of_an_array_are_found():
    X = BARS[["close", "volume"]].to_numpy()
    size = np.abs(X[1:, 0] / X[:-1, 0] - 1)
    for shift in (0, 1):
        at = int(size.argmax()) + 1 - shift

        def leak(X, at=at):
            out = np.zeros(len(X))
            out[at : at + 1] = X[at + 1 : at + 2, 0].sum()  # the last of fewer rows: nothing
            return out

        assert check_no_lookahead(leak, X).leaks["position"].tolist() == [at]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("part", [Alpha158(), ICTFeatures(), SessionFeatures()], ids=lambda part: type(part).__name__)
def test_causal_parts_raise_no_alarm(part, seed):
    check_no_lookahead(part, BARS[:800], random_state=seed).check()


# --------------------------------------------------------------- where they stand


def flat(n, freq="5min"):
    index = pd.date_range("2024-01-01", periods=n, freq=freq, tz="UTC", name="datetime")
    return pd.DataFrame({"volume": np.arange(n), "close": 100.0}, index)


def test_telling_times_stand_at_the_longest_step_and_the_largest_moves_in_turn():
    bars = flat(400).drop(flat(400).index[[50, 301, 302]])  # holes of one bar, then of two
    bars.iloc[200:, 1] *= 1.1
    bars.iloc[350:, 1] /= 1.05
    assert telling(bars, 3) == [299, 200, 199]
    assert telling(bars, 6) == [299, 200, 199, 49, 350, 349]
    assert telling(bars, 9) == telling(bars, 6)  # there are no more
    assert telling(bars, 2) == [299, 200]
    assert telling(bars, 0) == []


def test_of_steps_that_are_equally_long_the_middle_one_is_taken_first():
    [weekend] = telling(BARS, 1)
    assert BARS.index[weekend].day_of_week == 4
    assert BARS.index[weekend + 1].day_of_week == 0
    assert abs(weekend - 1000) <= 5 * 78 / 2


def test_the_next_ones_lie_in_other_parts_of_the_data():
    bars = flat(1000)
    bars.iloc[::2, 1] = 100.1
    bars.iloc[500:510:2, 1] = 150.0  # the ten largest moves are one event
    bars.iloc[900, 1] = 120.0
    assert telling(bars, 4)[::2] == [500, 900]
    for n in (6, 12, 24):
        itself = telling(bars, n)[::2]
        assert np.diff(np.sort(itself)).min() > 1000 // (2 * n)


def test_more_prefixes_are_more_distinct_times():
    counts = []
    for n in (4, 12, 24, 60, 100):
        times = telling(BARS, n // 4)
        assert len(set(times)) == len(times) == n // 4
        assert set(telling(BARS, 1)) <= set(times)
        counts.append(len(times))
    assert counts == sorted(counts)


def test_a_panel_goes_by_its_largest_move_of_a_time():
    size = change(PANEL).abs().groupby(level=0).max().to_numpy()
    assert telling(PANEL, 3)[1] == np.nanargmax(size)
    calm = PANEL.copy()
    calm["close"] = np.array([10.0, 1000.0, 0.1])[np.arange(len(calm)) % 3]  # from one to the next is no move
    calm.iloc[300:, 3] *= 1 + 0.01 * (np.arange(900) % 3 == 1)
    assert telling(calm, 3)[1:] == [100, 99]
    listed_later = calm[(np.arange(len(calm)) % 3 != 1) | (np.arange(len(calm)) >= 600)]
    assert not {199, 200} & set(telling(listed_later, 3))


def test_gaps_of_nan_are_not_before_telling_times():
    plain = audit_of(BARS)
    times = telling(BARS, 3)
    hidden = probes(plain, DEFAULT, np.random.default_rng(0))
    last = {audit is plain: set() for audit, _ in hidden}
    for audit, rows in hidden:
        last[audit is plain].add(int(np.argmax(rows)) - 1)
    assert set(times) <= last[True]
    assert (len(last[True]), len(last[False])) == (8, 4)
    again = probes(plain, DEFAULT, np.random.default_rng(1))
    assert set(times) <= {int(np.argmax(rows)) - 1 for audit, rows in again if audit is plain}


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, DEFAULT, 40])
def test_as_many_comparisons_are_made_as_asked_for(n):
    report = check_no_lookahead(lambda bars: bars.cummax(), BARS, n_prefixes=n, random_state=3)
    assert report.ok
    assert report.n_runs == 3 * n


def test_the_warm_up_is_left_to_the_log_scale():
    bars = flat(400)
    bars.iloc[5:, 1] *= 3.0
    bars.iloc[30:, 1] *= 1.1
    assert telling(bars, 2) == [30, 29]


# --------------------------------------------------------------------- odd data


def odd():
    n = 40
    index = flat(n).index
    holes = flat(n).assign(close=np.where(np.arange(n) % 3, 100.0 + np.arange(n), np.nan))
    yield "constant", flat(n)[["close"]]
    yield "NaN", holes
    yield "only NaN", holes * np.nan
    yield "zeros", flat(n).assign(close=np.arange(n) % 2 * 1.0)
    yield "only zeros", flat(n) * 0
    yield "infinite", flat(n).assign(close=np.where(np.arange(n) == 9, np.inf, 1.0))
    yield "integers", flat(n).astype("int8")
    yield "nullable", holes.astype("Float64")
    yield "close of objects", flat(n).astype({"close": object})
    yield "only objects", pd.DataFrame({"venue": ["X", None] * (n // 2)}, index)
    yield "flags", pd.DataFrame({"holiday": np.arange(n) % 2 == 0}, index)
    yield "no columns", pd.DataFrame(index=index)
    yield "twice the same name", pd.DataFrame(np.ones((n, 2)), index, ["close", "close"])
    yield "two rows", flat(2)
    yield "three rows", holes[:3]
    yield "array of objects", np.array([["a", 1.0], ["b", None]] * 5, dtype=object)
    yield "array of one column", np.arange(9)
    yield "array of windows", np.arange(60.0).reshape(10, 3, 2)
    yield "panel of one time and a half", PANEL[:5]


@pytest.mark.parametrize(("name", "bars"), list(odd()), ids=[name for name, _ in odd()])
def test_odd_data_is_taken_as_it_is(name, bars):
    for n in (0, 1, 3, 10):
        times = telling(bars, n)
        assert len(set(times)) == len(times) <= n
        assert all(0 <= t < audit_of(bars).n_times - 1 for t in times)
    assert check_no_lookahead(lambda bars: np.zeros(len(bars)), bars).ok


def test_a_move_that_is_not_known_is_none():
    bars = flat(400)
    bars.iloc[100:, 1] *= 1.5
    bars.iloc[[200, 250], 1] = np.nan, 0.0  # back from 0 by an infinite move
    assert telling(bars, 2) == [250, 249]


def test_a_frame_without_close_goes_by_its_first_column_of_numbers():
    bars = flat(400).rename(columns={"close": "price"}).assign(volume="X")
    bars.iloc[123:, 1] *= 1.5
    assert telling(bars, 2) == [123, 122]
