"""Resampling: what a bar holds, where it ends, when it is known, and that no later row changes it."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.bars import check_bars
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError
from ensemble_kit.resampling import as_known, dollar_bars, resample, volume_bars
from ensemble_kit.sessions import Session, session_times

NEW_YORK = Session("09:30", "16:00", "America/New_York")
FUTURES = Session("18:00", "17:00", "America/New_York")
HOW = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


def flat_bars(times, *, tz="UTC", **columns):
    """Bars that tell their row: row i opens and closes at 100 + i."""
    index = pd.DatetimeIndex(times, name="datetime")
    index = index.tz_localize(tz) if index.tz is None else index
    price = 100.0 + np.arange(len(index))
    return pd.DataFrame({"open": price, "high": price, "low": price, "close": price, **columns}, index=index)


def every(freq, periods, start="2022-01-03", tz="UTC"):
    return pd.date_range(start, periods=periods, freq=freq, tz=tz)


def random_bars(times, seed=0):
    """A random walk on given times; every 7th row misses its volume."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, len(times))))
    start = close * np.exp(rng.normal(0, 1e-3, len(times)))
    high, low = np.maximum(start, close) * 1.0005, np.minimum(start, close) * 0.9995
    volume = np.where(np.arange(len(times)) % 7 == 6, np.nan, rng.integers(0, 1000, len(times)))
    columns = {"open": start, "high": high, "low": low, "close": close, "volume": volume, "vwap": (high + low) / 2}
    return pd.DataFrame(columns, index=pd.DatetimeIndex(times, name="datetime"))


def clock(frame, tz="UTC"):
    return [f"{time:%d %H:%M}" for time in frame.index.tz_convert(tz)]


def groups(bars, higher):
    """The rows of `bars` that begin each bar, read from the labels."""
    return bars.index.get_indexer(higher.index).tolist()


def assert_equals_pandas(bars, rule, *, origin="start_day", how=HOW):
    mine = resample(bars, rule, drop_last=False)
    oracle = bars.resample(rule, origin=origin).agg(how).dropna(subset="open")
    pd.testing.assert_frame_equal(mine[list(how)], oracle, check_freq=False, rtol=1e-12, check_dtype=False)


# --------------------------------------------------------------------------- what a bar holds


def test_a_bar_by_hand():
    bars = pd.DataFrame(
        {
            "open": [10.0, 12, 11, 9, 9],
            "high": [13.0, 12, 14, 9, 9],
            "low": [9.0, 11, 11, 8, 9],
            "close": [12.0, 11, 13, 8, 9],
            "volume": [1, 2, 3, 4, 5],
            "vwap": [11.0, 12, np.nan, 8, 9],
            "bid": [1.0, 2, 3, 4, np.nan],
            "ask_size": [5, 6, 7, 8, 9],
            "note": list("abcde"),
        },
        index=every("5min", 5).rename("datetime"),
    )
    higher = resample(bars, "15min", drop_last=False)
    pd.testing.assert_frame_equal(
        higher,
        pd.DataFrame(
            {
                "open": [10.0, 9],
                "high": [14.0, 9],
                "low": [9.0, 8],
                "close": [13.0, 9],
                "volume": [6.0, 9],
                "vwap": [(11 + 2 * 12) / 3, (4 * 8 + 5 * 9) / 9],
                "bid": [3.0, np.nan],
                "ask_size": [7, 9],
                "note": ["c", "e"],
                "known_at": pd.DatetimeIndex([bars.index[3], pd.NaT]),
            },
            index=bars.index[[0, 3]],
        ),
    )
    assert len(resample(bars, "15min")) == 1
    check_bars(higher, require=["volume", "vwap"])


def test_unknown_volumes_and_prices():
    nan = np.nan
    bars = flat_bars(every("5min", 9), volume=[1, nan, 2, nan, nan, nan, 0, 0, 0], vwap=101.0)
    bars.iloc[1, :4] = nan
    bars.iloc[2, 1] = nan  # no high: not a bar
    higher = resample(bars, "15min", drop_last=False)
    np.testing.assert_array_equal(higher["volume"], [1, nan, 0])
    np.testing.assert_array_equal(higher["vwap"], [101, nan, nan])
    assert higher["close"].tolist() == [100, 105, 108]
    bars.iloc[3:6, 3] = nan
    assert resample(bars, "15min", drop_last=False)["close"].tolist() == [100, 108]  # no row, no bar
    bars["close"] = nan
    assert resample(bars, "15min", drop_last=False).shape == (0, 7)
    assert resample(flat_bars(every("5min", 3)), "15min", drop_last=False)["open"].tolist() == [100]  # no volume at all


def test_the_first_row_with_a_price_gives_the_label():
    bars = flat_bars(every("5min", 6))
    bars.iloc[0, 0] = np.nan
    assert clock(resample(bars, "15min", drop_last=False)) == ["03 00:05", "03 00:15"]


@pytest.mark.parametrize("rule", ["5min", "15min", "1h", "4h", "1D"])
def test_pandas_agrees_on_the_clock(rule):
    bars = random_bars(every("5min", 2000)).fillna({"volume": 0.0})
    assert_equals_pandas(bars, rule)
    assert_equals_pandas(bars.tz_localize(None), rule)


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_the_index_keeps_name_zone_and_unit(unit):
    bars = flat_bars(every("5min", 30).tz_convert("Asia/Tokyo")).rename_axis("when")
    bars.index = bars.index.as_unit(unit)
    higher = resample(bars, "15min")
    assert higher.index.name == "when"
    assert higher.index.dtype == higher["known_at"].dtype == bars.index.dtype


# ---------------------------------------------------------------------------- where a bar ends


def test_a_session_is_cut_from_its_open_and_its_last_bar_is_short():
    bars = flat_bars(every("5min", 12 * 48, "2022-01-03"))
    higher = resample(bars, "1h", session=NEW_YORK, bar_length="5min")
    assert clock(higher, "America/New_York") == [f"0{day} {hour:02}:30" for day in (3, 4) for hour in range(9, 16)]
    lasts = higher["known_at"] - higher.index
    assert (lasts / pd.Timedelta("1min")).tolist() == [*[60] * 6, 30] * 2
    assert resample(bars, "1D", session=NEW_YORK, bar_length="5min")["close"].tolist() == [100 + 251, 100 + 251 + 288]


@pytest.mark.parametrize("session", ["XNYS", NEW_YORK])
@pytest.mark.parametrize(("start", "end"), [("2022-03-10", "2022-03-17"), ("2022-11-03", "2022-11-10")])
def test_weeks_in_which_the_clock_is_moved(session, start, end):
    index = pd.date_range(start, end, freq="5min", tz="UTC", name="datetime")
    index = index[index.tz_convert("America/New_York").day_of_week < 5]
    higher = resample(flat_bars(index), "1h", session=session, bar_length="5min")
    local = higher.index.tz_convert("America/New_York")
    assert (local.strftime("%H:%M").to_numpy().reshape(-1, 7) == [f"{h:02}:30" for h in range(9, 16)]).all()


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/New_York", "2022-03-13", 23),
        ("America/New_York", "2022-11-06", 25),
        ("America/New_York", "2022-11-07", 24),
        ("America/Havana", "2022-03-13", 23),  # has no midnight
        ("America/Havana", "2022-11-06", 25),  # has two
    ],
)
@pytest.mark.parametrize("by_name", [False, True])
def test_a_day_of_23_or_25_hours(zone, day, hours, by_name):
    """The wall clock shows one hour twice, or not at all: each bar takes an hour all the same."""
    given = Session("00:00", "00:00", zone) if by_name else "day"
    end = (pd.Timestamp(day) + pd.Timedelta("1D")).tz_localize(zone)
    start = end - pd.Timedelta(hours=hours)
    index = pd.date_range(start, end, freq="15min", inclusive="left", name="datetime")
    assert set(index.date) == {pd.Timestamp(day).date()}
    higher = resample(flat_bars(index), "1h", session=given, bar_length="15min")
    assert (higher["known_at"] - higher.index == pd.Timedelta("1h")).all()
    assert len(higher) == hours
    whole = resample(flat_bars(index), "1D", session=given, bar_length="15min")
    assert whole["known_at"].tolist() == [end]
    assert len(resample(flat_bars(index), f"{hours}h", session=given, clock="trading", bar_length="15min")) == 1


def test_a_half_day_and_the_hours_after_it():
    bars = flat_bars(every("5min", 12 * 24 * 5, "2022-11-23"))  # Wednesday to Sunday, Thanksgiving on Thursday
    day = resample(bars, "1D", session="XNYS", bar_length="5min")
    assert clock(day) == ["23 14:30", "25 14:30"]  # Thursday and the weekend are not there
    assert [f"{known:%d %H:%M}" for known in day["known_at"]] == ["23 21:00", "25 18:00"]
    hours = resample(bars, "1h", session="XNYS", bar_length="5min")
    assert clock(hours)[7:] == ["25 14:30", "25 15:30", "25 16:30", "25 17:30"]
    assert f"{hours['known_at'].iloc[-1]:%H:%M}" == "18:00"
    trading = resample(bars, "5h", session="XNYS", clock="trading", bar_length="5min")  # 6.5 + 3.5 hours
    assert clock(trading) == ["23 14:30", "23 19:30"]
    assert [f"{known:%d %H:%M}" for known in trading["known_at"]] == ["23 19:30", "25 18:00"]


def test_overnight_sessions_run_over_midnight():
    higher = resample(flat_bars(every("1h", 72)), "4h", session=FUTURES, bar_length="1h")
    assert clock(higher, "America/New_York")[:8] == [
        "02 19:00", "02 22:00", "03 02:00", "03 06:00", "03 10:00", "03 14:00", "03 18:00", "03 22:00",
    ]  # fmt: skip


def test_gaps_give_no_bar():
    bars = flat_bars(["2022-01-03 00:00", "2022-01-03 00:50", "2022-01-03 05:10", "2022-01-04 05:00"])
    higher = resample(bars, "1h")
    assert clock(higher) == ["03 00:00", "03 05:10"]
    assert higher["close"].tolist() == [101, 102]


def oracle_trading(bars, hours, opens, lengths):
    """Walk through the rows, minute by minute of trading time; return where bars begin."""
    begins, before, here, previous = [], 0, None, None
    for row, time in enumerate(bars.index.tz_convert("America/New_York")):
        minute = time.hour * 60 + time.minute - opens
        length = lengths(time)
        if not 0 <= minute < length:
            continue
        if here is not None and here[0] != time.date():
            before += here[1]
        here = time.date(), length
        bin_ = (before + minute) // (hours * 60)
        if bin_ != previous:
            begins.append(row)
        previous = bin_
    return begins


@pytest.mark.parametrize("hours", [2, 64])
def test_trading_time_on_real_bars(shared_data, hours):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")
    half = pd.Timestamp("2022-11-25").date()
    for session, lengths in [
        (NEW_YORK, lambda _: 390),
        ("XNYS", lambda time: 210 if time.date() == half else 390),
    ]:
        higher = resample(bars, f"{hours}h", session=session, clock="trading", drop_last=False)
        begins = oracle_trading(bars, hours, 570, lengths)
        assert groups(bars, higher) == begins
        check_bars(higher, require=["volume"])
        if hours == 64:
            sessions = np.diff(session_times(higher.index, session).day)
            assert len(higher) == np.ceil(len(np.unique(bars.index.date)) * 6.5 / 64)
            assert (sessions >= 11).all()  # 9.85 sessions, and a weekend at least


def test_64_hours_of_a_session_of_6_5_are_9_85_sessions():
    index = every("30min", 48 * 60, tz="America/New_York")
    index = index[index.day_of_week < 5]
    higher = resample(flat_bars(index), "64h", session=NEW_YORK, clock="trading", bar_length="30min")
    at = session_times(higher.index, NEW_YORK)
    local = pd.DatetimeIndex(higher["known_at"]).tz_convert("America/New_York")
    # Each bar begins 30 minutes earlier on the wall than ten sessions after the one before.
    assert at.minute.tolist() == [0, 330, 270, 210][: len(higher)]
    assert local.strftime("%H:%M").tolist() == ["15:00", "14:00", "13:00", "12:00"][: len(higher)]
    assert len(higher) == 4
    long = resample(flat_bars(index), "64h", session=Session("04:00", "20:00", "America/New_York"), clock="trading")
    assert np.diff(session_times(long.index, NEW_YORK).day).tolist()[:3] == [4, 6, 6]  # four sessions of 16 hours


def test_trading_time_needs_no_weekends_around_the_clock():
    bars = random_bars(every("1h", 24 * 30))
    pd.testing.assert_frame_equal(
        resample(bars, "64h", clock="trading", drop_last=False)[["open", "close"]],
        bars.resample("64h", origin="start").agg({"open": "first", "close": "last"}),
        check_freq=False,
    )


# ------------------------------------------------------------------------ by volume and dollars


def test_volume_bars_by_hand():
    bars = flat_bars(every("1min", 9), volume=[4, 5, 1, 25, np.nan, 3, 8, 9, 1])
    higher = volume_bars(bars, 10)
    assert higher["volume"].tolist() == [10, 25, 11]  # a row is not cut, what is beyond is not carried
    assert clock(higher) == ["03 00:00", "03 00:03", "03 00:04"]
    assert [f"{known:%M}" for known in higher["known_at"]] == ["03", "04", "07"]
    known = volume_bars(bars, 10, bar_length="1min", drop_last=False)["known_at"]
    assert known.isna().tolist() == [False] * 4  # the last is full at its close
    assert [f"{time:%M}" for time in known] == ["03", "04", "07", "09"]
    assert volume_bars(bars.iloc[:8], 10, bar_length="1min")["volume"].tolist() == [10, 25, 11]
    bars.iloc[3, 1] = np.nan  # no price: its volume is not traded at any
    assert volume_bars(bars, 10)["volume"].tolist() == [10, 11]


def test_dollar_bars_by_hand():
    bars = flat_bars(every("1min", 5), volume=[1.0, 1, 1, 1, 1])  # 100, 101, 102, ...
    assert dollar_bars(bars, 201)["close"].tolist() == [101, 103]
    assert dollar_bars(bars, 201.5)["close"].tolist() == [102]
    assert dollar_bars(bars.assign(vwap=[1000, np.nan, np.nan, 1, 1]), 201)["close"].tolist() == [100, 102]
    bars.iloc[1, 3] = np.nan  # no price, no turnover
    assert dollar_bars(bars, 201)["close"].tolist() == [102]


@pytest.mark.parametrize("make", [volume_bars, dollar_bars])
def test_information_bars_against_a_loop(make):
    bars = random_bars(every("1min", 3000))
    amount = bars["volume"].fillna(0) * (bars["vwap"] if make is dollar_bars else 1)
    total, begins, threshold = np.inf, [], 2500 * (100 if make is dollar_bars else 1)
    for row, value in enumerate(amount):
        if total >= threshold:
            begins.append(row)
            total = 0
        total += value
    assert groups(bars, make(bars, threshold, drop_last=False)) == begins
    assert 100 < len(begins) < 1500


# -------------------------------------------------------------------------------------- ticks


def test_ticks_by_hand():
    seconds = pd.to_datetime([0.5, 3, 3, 18, 18, 20, 60], unit="s", origin="2022-01-03", utc=True).rename("datetime")
    ticks = pd.DataFrame({"price": [10.0, 12, 9, 11, 8, np.nan, 1], "volume": [1, 2, 3, 1, 3, 1, 1]}, index=seconds)
    higher = resample(ticks, "18s")
    assert higher[["open", "high", "low", "close", "volume"]].to_numpy().tolist() == [
        [10, 12, 9, 9, 6],
        [11, 11, 8, 8, 4],
    ]
    np.testing.assert_allclose(higher["vwap"], [(10 + 24 + 27) / 6, (11 + 24) / 4])
    assert higher.index.equals(seconds[[0, 3]])
    assert higher["known_at"].tolist() == [seconds[3], seconds[6]]
    quotes = pd.DataFrame({"bid": ticks["price"] - 1, "ask": ticks["price"] + 1, "bid_size": range(7)}, index=seconds)
    quoted = resample(quotes, "18s")
    assert list(quoted) == ["open", "high", "low", "close", "bid", "ask", "bid_size", "known_at"]
    assert quoted[["close", "bid", "ask", "bid_size"]].to_numpy().tolist() == [[9, 8, 10, 2], [8, 7, 9, 4]]


def test_ticks_of_one_time_stay_together():
    ticks = pd.DataFrame({"price": 1.0, "volume": 1.0}, index=every("1s", 6).repeat(5))
    higher = volume_bars(ticks, 7)
    assert higher["volume"].tolist() == [10, 10]
    check_bars(higher)
    ticks.iloc[10, 0] = np.nan  # a tick without a price tells that the time before it is over
    assert len(volume_bars(ticks.iloc[:10], 7)) == 0
    assert volume_bars(ticks.iloc[:11], 7)["known_at"].tolist() == [ticks.index[10]]


def random_ticks(n, seed=0):
    """Trades, up to five at a time, some without a price."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, n // 2, n))
    price = np.where(rng.random(n) < 0.05, np.nan, 100 + rng.normal(0, 1, n).cumsum() / 10)
    index = pd.DatetimeIndex(pd.to_datetime(times, unit="s", origin="2022-01-03", utc=True), name="datetime")
    return pd.DataFrame({"price": price, "volume": rng.integers(1, 9, n), "side": rng.integers(-1, 2, n)}, index=index)


@pytest.mark.parametrize(
    "make", [lambda ticks: resample(ticks, "18s"), lambda ticks: dollar_bars(ticks, 5e3), lambda t: volume_bars(t, 7)]
)
def test_a_prefix_of_ticks_and_a_panel_of_ticks(make):
    ticks = random_ticks(500)
    whole = make(ticks)
    check_bars(whole, require=["volume", "vwap"])
    joined = as_known(whole, index=ticks.index)
    for n in range(200, 260, 2):
        part = make(ticks.iloc[:n])
        pd.testing.assert_frame_equal(part, whole.iloc[: len(part)])
        given = as_known(part, index=ticks.index[:n]).iloc[-1]
        pd.testing.assert_series_equal(given.astype(object), joined.iloc[n - 1].astype(object))
    parts = {"B": ticks, "A": random_ticks(300, 1)}
    panel = pd.concat(parts, names=["instrument"]).swaplevel()
    turn = panel.groupby(panel.index).cumcount()  # at one time: a tick of B, one of A, the next of B
    panel = panel.iloc[np.lexsort((turn, panel.index.get_level_values(0)))]
    both = make(panel)
    check_bars(both)
    for name, alone in parts.items():
        pd.testing.assert_frame_equal(both.xs(name, level="instrument"), make(alone))


@pytest.mark.parametrize("rule", ["18s", "28s", "36s"])
def test_real_ticks_against_pandas(shared_data, rule):
    ticks = pd.read_parquet(shared_data / "xauusd_tick_20140501.parquet").set_index("timestamp")
    higher = resample(ticks, rule)
    check_bars(higher)
    oracle = ((ticks["bid"] + ticks["ask"]) / 2).resample(rule).ohlc().dropna()
    np.testing.assert_array_equal(higher[list(oracle)], oracle.iloc[:-1])
    assert (higher.index.floor("1ns") >= oracle.index[:-1]).all()


def test_real_trades(shared_data):
    trades = pd.read_parquet(shared_data / "trades_btcusdt_spot_20240808.parquet").set_index("timestamp")
    trades = trades.rename(columns={"size": "volume"})
    higher = dollar_bars(trades, 1e5)
    turnover = higher["vwap"] * higher["volume"]
    assert (turnover > 1e5 - 1e-6).all()
    assert len(higher) > 20
    assert higher["vwap"].between(higher["low"] - 1e-6, higher["high"] + 1e-6).all()


# ------------------------------------------------------------------------------ nothing leaks

CASES = {
    "1h": lambda bars, **options: resample(bars, "1h", **options),
    "7min": lambda bars, **options: resample(bars, "7min", **options),
    "1h by session": lambda bars, **options: resample(bars, "1h", session=NEW_YORK, **options),
    "1D": lambda bars, **options: resample(bars, "1D", session="XNYS", **options),
    "3h trading": lambda bars, **options: resample(bars, "3h", session=NEW_YORK, clock="trading", **options),
    "9h trading": lambda bars, **options: resample(bars, "9h", session="XNYS", clock="trading", **options),
    "futures": lambda bars, **options: resample(bars, "5h", session=FUTURES, clock="trading", **options),
    "volume": lambda bars, **options: volume_bars(bars, 3000, **options),
    "dollar": lambda bars, **options: dollar_bars(bars, 3e5, **options),
}


def holey(seed=0, start="2022-11-21 12:00", n=1500):
    """Five days of 5 minutes over Thanksgiving, with holes, NaN rows and flat stretches."""
    rng = np.random.default_rng(seed)
    bars = random_bars(every("5min", n, start), seed)
    bars.iloc[rng.integers(0, n, n // 10), rng.integers(0, 4)] = np.nan
    bars.iloc[200:230] = bars.iloc[200].to_numpy()
    return bars[rng.random(n) > 0.15]


@pytest.mark.parametrize("bar_length", [None, "5min"])
@pytest.mark.parametrize("case", CASES)
def test_a_prefix_gives_the_first_bars_of_the_whole(case, bar_length):
    bars = holey()
    whole = CASES[case](bars, bar_length=bar_length)
    assert len(whole) >= 2
    joined = as_known(whole, index=bars.index, bar_length=bar_length)
    for n in [1, *range(24, 38), *range(84, 92), 555, *range(len(bars) - 2, len(bars))]:
        part = CASES[case](bars.iloc[:n], bar_length=bar_length)
        pd.testing.assert_frame_equal(part, whole.iloc[: len(part)], check_dtype=bool(len(part)))
        # All that a row is given by the join is there in the prefix that ends with it, and nothing is held back.
        given = as_known(part, index=bars.index[:n], bar_length=bar_length).iloc[-1]
        pd.testing.assert_series_equal(given.astype(object), joined.iloc[n - 1].astype(object), check_names=False)
        assert len(part) == 0 or given["known_at"] == part["known_at"].iloc[-1]


def test_rows_that_straddle_two_bars_do_not_leak():
    bars = flat_bars(every("5min", 100))
    higher = resample(bars, "7min", bar_length="5min")
    joined = as_known(higher, index=bars.index, bar_length="5min")
    assert (joined["close"].dropna() <= bars["close"].loc[joined["close"].notna()]).all()
    assert (joined["known_at"].dropna() <= bars.index[joined["known_at"].notna()] + pd.Timedelta("5min")).all()


def test_a_bar_whose_last_row_is_missing_is_known_by_the_next_row_in_the_session():
    # 15:55 is missing, and 09:25 is before the open: the day ends when the row of 09:30 has closed.
    bars = flat_bars(["2022-01-03 20:45", "2022-01-03 20:50", "2022-01-04 14:25", "2022-01-04 14:30"])
    for options, known in ({}, "14:30"), ({"bar_length": "5min"}, "14:35"):
        day = resample(bars, "1D", session=NEW_YORK, **options)
        assert [f"{time:%H:%M}" for time in day["known_at"]] == [known]
        joined = as_known(day, index=bars.index, **options)
        assert joined["close"].notna().tolist() == [False, False, False, True]


def test_the_join_by_hand():
    bars = flat_bars(every("5min", 8))
    closed = as_known(resample(bars, "15min", bar_length="5min"), index=bars.index, bar_length="5min")["close"]
    np.testing.assert_array_equal(closed, [np.nan, np.nan, 102, 102, 102, 105, 105, 105])
    later = as_known(resample(bars, "15min"), index=bars.index)["close"]
    np.testing.assert_array_equal(later, [np.nan, np.nan, np.nan, 102, 102, 102, 105, 105])
    higher = resample(bars, "15min", drop_last=False)
    change = higher[["close"]].diff()
    joined = as_known(change, known_at=higher["known_at"], index=bars.index)["close"]
    np.testing.assert_array_equal(joined, [np.nan] * 6 + [3, 3])  # the open bar at the end is never joined
    plain = pd.merge_asof(bars[[]], higher.dropna(), left_index=True, right_on="known_at")
    np.testing.assert_array_equal(later, plain["close"])  # pandas alone does it, too


def test_chains_of_bars():
    bars = random_bars(every("5min", 3000)).drop(columns="vwap")
    once, twice = (resample(b, "4h") for b in (bars, resample(bars, "1h")))
    pd.testing.assert_frame_equal(twice, once.loc[twice.index], rtol=1e-12)
    assert len(once) - len(twice) <= 1


@pytest.mark.parametrize("case", CASES)
def test_a_panel_is_each_instrument_alone(case):
    parts = {
        "B": holey(1),
        "A": holey(2).iloc[100:700],
        "D": holey(3).iloc[:3],
        "C": holey(4).iloc[[500]],
        "E": holey(5, "2022-11-18 03:00", 300),
    }
    panel = pd.concat(parts, names=["instrument"]).swaplevel().sort_index(level=0, sort_remaining=False)
    panel.index = panel.index.set_names(["datetime", "instrument"])
    for options in ({}, {"bar_length": "5min", "drop_last": False}):
        whole = CASES[case](panel, **options)
        check_bars(whole, require=["volume"])
        assert whole.index.names == panel.index.names
        joined = as_known(whole, index=panel.index, bar_length=options.get("bar_length"))
        pd.testing.assert_index_equal(joined.index, panel.index)
        for name, bars in parts.items():
            alone = CASES[case](bars, **options)
            pd.testing.assert_frame_equal(whole[whole.index.get_level_values(1) == name].droplevel(1), alone)
            pd.testing.assert_frame_equal(
                joined.xs(name, level=1), as_known(alone, index=bars.index, bar_length=options.get("bar_length"))
            )


def test_a_panel_over_different_years():
    parts = {"new": random_bars(every("1h", 48, "2022-11-24")), "old": random_bars(every("1h", 200, "2016-11-21"))}
    panel = pd.concat(parts, names=["instrument"]).swaplevel().sort_index(level=0, sort_remaining=False)
    whole = resample(panel, "1D", session="XNYS", drop_last=False)
    assert clock(whole.droplevel(1)) == ["21 15:00", "22 15:00", "23 15:00", "25 15:00", "28 15:00", "25 15:00"]


# --------------------------------------------------------------------------------- real files


def test_real_bars_against_pandas(shared_data):
    bars = read_bars(shared_data / "btcusdt_5min_2023.parquet")
    assert_equals_pandas(bars, "1h", how=HOW)
    spy = read_bars(shared_data / "spy_5min_2022_2023.parquet")
    for rule in ("15min", "1h"):
        mine = resample(spy, rule, session=NEW_YORK, bar_length="5min", drop_last=False)
        oracle = spy.resample(rule, origin="2022-02-14 14:30+00:00").agg(HOW).dropna(subset="open")
        pd.testing.assert_frame_equal(mine[list(HOW)].set_axis(oracle.index), oracle, check_dtype=False)
        late = mine.index != oracle.index  # where the first 5 minutes of the interval are missing
        assert 0 < late.sum() < 10
        assert (mine.index - oracle.index < pd.Timedelta(rule)).all()
        check_bars(mine)
        assert mine["known_at"].is_monotonic_increasing
    daily = read_bars(shared_data / "us_daily_panel_1998_2021.parquet")
    assert resample(daily, "1D", drop_last=False)["close"].equals(daily["close"])


def test_quote_only_minutes_are_skipped(shared_data):
    bars = read_bars(shared_data / "spy_1min_bidask.parquet")
    for higher in (resample(bars, "5min"), resample(bars, "15min", session="XNYS"), dollar_bars(bars, 1e7)):
        check_bars(higher, require=["bid", "ask"])
        assert higher[["open", "high", "low", "close", "volume"]].notna().all(axis=None)
        pd.testing.assert_series_equal(
            higher["bid"].iloc[:1], bars.loc[bars.index < higher["known_at"].iloc[0]].dropna()["bid"].iloc[-1:],
            check_index=False,
        )  # fmt: skip


def test_quotes_without_volume(shared_data):
    higher = resample(read_bars(shared_data / "xauusd_1min_2014-05.parquet"), "1h", bar_length="1min")
    check_bars(higher)
    assert higher["volume"].isna().all()
    assert (higher["bid"] < higher["ask"]).all()


# ------------------------------------------------------------------------------------- errors

BARS = make_bars(100, random_state=0)
TICKS = pd.DataFrame({"price": [1.0, 2.0], "volume": [1.0, 1.0]}, index=every("1s", 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resample(BARS, "an hour"), "`rule` must be a time above 0 with its unit; got 'an hour'. Write"),
        (lambda: resample(BARS, "64"), "`rule` must be a time above 0 with its unit; got '64'"),
        (lambda: resample(BARS, 60), "got 60"),
        (lambda: resample(BARS, "-1h"), "got '-1h'"),
        (lambda: resample(BARS, "NaT"), "got 'NaT'"),
        (lambda: resample(BARS, "1M"), "got '1M'"),
        (lambda: resample(BARS, "64h"), "`rule` must be at most a day on the wall clock.* got '64h'.*clock='trading'"),
        (lambda: resample(BARS, "1h", clock="session"), "`clock` must be 'wall' or 'trading'; got 'session'"),
        (lambda: resample(BARS, "1min", bar_length="5min"), "`rule` must be at least `bar_length`.* got '1min'"),
        (lambda: resample(BARS, "1h", bar_length="6min"), "`bar_length` must be .* got '6min' where .* 0 days 00:05"),
        (lambda: resample(BARS, "1h", session="NYSE?"), "`session` must be 'day', an exchange code or a Session"),
        (lambda: resample(BARS.tz_localize(None), "1h", session="XNYS"), "must have tz-aware times"),
        (lambda: resample(BARS.iloc[::-1], "1h"), "`bars` must be sorted by time; row 1"),
        (lambda: resample(BARS.iloc[[0, 0]], "1h"), "`bars` must have unique times"),
        (lambda: resample(BARS[["open", "close"]], "1h"), "missing high, low"),
        (lambda: resample(TICKS.iloc[::-1], "1h"), "must be sorted, with a time on every row; got ticks out of order"),
        (lambda: resample(TICKS, "1h", bar_length="1s"), "`bar_length` must be None for ticks"),
        (lambda: resample(TICKS.reset_index(drop=True), "1h"), "must be indexed by time"),
        (lambda: resample(-TICKS, "1h"), "volumes of at least 0"),
        (lambda: resample(-TICKS[["price"]], "1h"), "prices above 0"),
        (lambda: resample(TICKS.astype(str), "1h"), "numeric prices and volumes; got text in price, volume"),
        (lambda: volume_bars(BARS, 0), "`threshold` must be a finite number above 0; got 0"),
        (lambda: dollar_bars(BARS, np.nan), "`threshold` must be a finite number above 0; got nan"),
        (lambda: dollar_bars(BARS, "1e6"), "got '1e6'"),
        (lambda: volume_bars(BARS.drop(columns="volume"), 1), "missing volume"),
        (lambda: dollar_bars(TICKS[["price"]], 1), "missing volume"),
        (lambda: as_known(BARS, index=BARS.index), "`known_at` must be given, on the index of `values`; got none"),
        (lambda: as_known(BARS, index=BARS.index, known_at=pd.Series(BARS.index)), "got another index"),
        (lambda: as_known(resample(BARS, "1h"), index=BARS.index.tz_localize(None)), "`index` must be .* in None and"),
        (lambda: as_known(resample(BARS, "1h"), index=BARS.index[::-1]), "`index` must be sorted by time"),
    ],
)  # fmt: skip
def test_errors(call, message):
    with pytest.raises(BarsError, match=message):
        call()


def test_nothing_is_changed_and_nothing_known_is_an_empty_frame():
    before = BARS.copy()
    for make in (lambda b: resample(b, "1h"), lambda b: volume_bars(b, 1e5)):
        make(BARS)
        assert make(BARS.iloc[:1]).shape == (0, 6)
        assert as_known(make(BARS.iloc[:1]), index=BARS.index[:3]).isna().all(axis=None)
    assert resample(BARS, "1h", session=Session("02:00", "03:00")).empty
    pd.testing.assert_frame_equal(BARS, before)
    ticks = TICKS.copy()
    resample(TICKS, "1s")
    pd.testing.assert_frame_equal(TICKS, ticks)
