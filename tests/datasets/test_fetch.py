"""`fetch_bars` and `report_bars`: what is asked, repeated, missing, unfinished, refused; and what is said about it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from provider_server import session_bars

from ensemble_kit.bars import check_bars
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.datasets.providers import _patience
from ensemble_kit.datasets.providers._answers import key_from, refusal, without_keys
from ensemble_kit.datasets.providers._patience import Pace
from ensemble_kit.datasets.providers.fetch import Patience, fetch_bars
from ensemble_kit.datasets.providers.report import drop_repeated, report_bars
from ensemble_kit.exceptions import BarsError, ProviderError, TryAgainError
from ensemble_kit.sessions import Session


class Held:
    """A provider that gives what it holds."""

    name = "held"
    adjustment = "none"

    def __init__(self, **bars: pd.DataFrame) -> None:
        self.bars = bars
        self.asked: list = []

    def check(self, request) -> None:
        if request.bar == pd.Timedelta("2min"):
            raise ProviderError("`bar` must not be 2min; got 2min. Take 1min.")

    def fetch(self, request) -> pd.DataFrame:
        self.asked.append(request)
        return self.bars.get(request.symbol, pd.DataFrame())


@pytest.fixture
def time(monkeypatch) -> list[float]:
    """Waits as they were made, without waiting."""
    waits: list[float] = []
    start = 1000.0
    monkeypatch.setattr(_patience, "_sleep", waits.append)
    monkeypatch.setattr(_patience, "_clock", lambda: start + math.fsum(waits))
    monkeypatch.setattr(_patience.random, "uniform", lambda low, high: high)
    return waits


# ----------------------------------------------------------------------- fetch_bars


def test_one_symbol_is_a_frame_and_several_are_the_panel() -> None:
    spy, qqq = session_bars("2022-11-23"), session_bars("2022-11-23", seed=1)[5:]
    held = Held(SPY=spy, QQQ=qqq)
    one = fetch_bars(held, "SPY", "5min", "2022-11-01", "2022-12-01")
    pd.testing.assert_frame_equal(one, spy, check_freq=False)
    assert one.attrs == {"provider": "held", "adjustment": "none"}
    both = fetch_bars(held, ["SPY", "QQQ"], pd.Timedelta("5min"), "2022-11-01", "2022-12-01")
    check_bars(both)
    assert both.index.names == ["datetime", "instrument"]
    for name, bars in {"SPY": spy, "QQQ": qqq}.items():
        pd.testing.assert_frame_equal(both.xs(name, level=1), bars, check_freq=False)
    assert fetch_bars(held, ["SPY"], "5min", "2022-11-01", "2022-12-01").index.nlevels == 2


def test_the_span_is_half_open_and_an_unfinished_bar_is_left_out(monkeypatch) -> None:
    bars = session_bars("2022-11-23")
    got = fetch_bars(Held(SPY=bars), "SPY", "5min", bars.index[3], bars.index[9])
    assert got.index.equals(bars.index[3:9])
    New = pd.Timestamp("2022-11-23 15:02", tz="America/New_York")
    monkeypatch.setattr(pd.Timestamp, "now", staticmethod(lambda _: New.tz_convert("UTC")))
    got = fetch_bars(Held(SPY=bars), "SPY", "5min", "2022-11-23")
    assert got.index[-1] == pd.Timestamp("2022-11-23 14:55", tz="America/New_York")


def test_a_daily_bar_closes_when_its_date_ends_in_utc(monkeypatch) -> None:
    bars = make_bars(3, random_state=0).set_axis(pd.DatetimeIndex(["2022-11-22", "2022-11-23", "2022-11-25"]))
    monkeypatch.setattr(pd.Timestamp, "now", staticmethod(lambda _: pd.Timestamp("2022-11-25 23:59", tz="UTC")))
    assert len(fetch_bars(Held(SPY=bars), "SPY", "1d", "2022-11-22")) == 2
    monkeypatch.setattr(pd.Timestamp, "now", staticmethod(lambda _: pd.Timestamp("2022-11-26", tz="UTC")))
    got = fetch_bars(Held(SPY=bars), "SPY", "1d", "2022-11-22")
    assert got.index.equals(bars.index)
    assert got.index.tz is None


def test_repeated_and_unsorted_rows_are_put_right_and_said() -> None:
    bars = session_bars("2022-11-23")
    other = bars.iloc[[7]] * 1.01
    mixed = pd.concat([bars[40:], bars[:40], bars.iloc[[3, 3]], other])
    with pytest.warns(UserWarning, match="held") as told:
        got = fetch_bars(Held(SPY=mixed), "SPY", "5min", "2022-11-01", "2022-12-01")
    assert [str(w.message) for w in told] == [
        "Bars from held: SPY: 2 copied rows dropped, 1 rows replaced by a later one."
    ]
    expected = bars.copy()
    expected.iloc[7] = other.iloc[0]
    pd.testing.assert_frame_equal(got, expected, check_freq=False)
    assert told[0].filename == __file__


def test_holes_in_sessions_and_symbols_without_bars_are_said_in_one_warning() -> None:
    bars = session_bars("2022-11-23", "2022-11-25")
    held = Held(SPY=bars.drop(bars.index[[5, 6, 90]]))
    with pytest.warns(UserWarning, match="held") as told:
        fetch_bars(held, ["SPY", "NONE"], "5min", "2022-11-01", "2022-12-01", session="XNYS")
    assert [str(w.message) for w in told] == [
        f"Bars from held: SPY: 3 bars missing in 2 gaps, the first {bars.index[5]}; NONE: no bars."
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "iex"}, "`source` must be one of alpaca, polygon, qlib, schwab, yahoo, or a provider; got 'iex'."),
        ({"symbols": []}, "`symbols` must be one name, or several that differ; got []."),
        ({"symbols": ["A", "A"]}, "`symbols` must be one name, or several that differ; got ['A', 'A']."),
        ({"bar": "1w"}, "`bar` must be a time of one second to one day, with its unit; got '1w'."),
        ({"bar": "soon"}, "`bar` must be a time of one second to one day, with its unit; got 'soon'."),
        ({"bar": "5"}, "`bar` must be a time of one second to one day, with its unit; got '5'."),
        ({"bar": 3_600_000_000_000}, "a time of one second to one day, with its unit; got 3600000000000."),
        ({"start": "01/02/2022"}, "`start` must be a time; got '01/02/2022'. Write '2022-01-03', say."),
        ({"end": 20220201}, "`end` must be a time; got 20220201."),
        ({"bar": "2min"}, "`bar` must not be 2min; got 2min."),
        ({"start": "then"}, "`start` must be a time; got 'then'."),
        ({"end": "NaT"}, "`end` must be a time; got 'NaT'."),
        ({"end": "2021-01-01"}, "`start` must lie before `end`; got 2022-01-01 00:00:00+00:00 and 2021-01-01"),
        ({"symbols": "XX"}, "`symbols` must have bars at held from 2022-01-01 00:00:00+00:00 to 2022-02-01"),
    ],
)
def test_what_cannot_be_fetched_is_said(change, said) -> None:
    asked = {"source": Held(), "symbols": "SPY", "bar": "1min", "start": "2022-01-01", "end": "2022-02-01"} | change
    with pytest.raises(BarsError if "a time of one second" in said else ProviderError, match=re.escape(said)):
        fetch_bars(**asked)


def test_what_is_no_bar_frame_is_refused_by_name() -> None:
    bars = session_bars("2022-11-23")
    bars.iloc[4, 1] = bars.iloc[4, 2] / 2
    with pytest.raises(BarsError, match="`SPY from held` must have high >= low"):
        fetch_bars(Held(SPY=bars), "SPY", "5min", "2022-11-01", "2022-12-01")
    with pytest.raises(ProviderError, match="held must give times in UTC for bars of 0 days 00:05:00"):
        fetch_bars(Held(SPY=bars.tz_localize(None)), "SPY", "5min", "2022-11-01", "2022-12-01")
    with pytest.raises(ProviderError, match=r"held must give a DataFrame; got NoneType\. Mend the provider's `fetch`"):
        fetch_bars(Held(SPY=None), "SPY", "5min", "2022-11-01", "2022-12-01")
    with pytest.raises(ProviderError, match=re.escape("held must give open, high, low, close, volume; missing volume")):
        fetch_bars(Held(SPY=bars.drop(columns="volume")), "SPY", "5min", "2022-11-01", "2022-12-01")


# ------------------------------------------------------------------------- patience


class Failing:
    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.left = times
        self.error = error or TryAgainError("busy.")
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "bars"


def test_waits_double_up_to_a_minute(time) -> None:
    assert Patience(tries=10, seconds=1000).ask(Failing(8), "it") == "bars"
    assert time == [1, 2, 4, 8, 16, 32, 60, 60]


def test_retry_after_is_honoured_as_seconds_and_as_a_date(time) -> None:
    assert Patience().ask(Failing(1, refusal(429, "", who="it", retry_after="7")), "it") == "bars"
    soon = pd.Timestamp.now("UTC") + pd.Timedelta("30s")
    date = refusal(503, "", who="it", retry_after=f"{soon:%a, %d %b %Y %H:%M:%S} GMT")
    assert Patience().ask(Failing(1, date), "it") == "bars"
    assert time[0] == 7
    assert time[1] == pytest.approx(30, abs=3)
    assert Patience().ask(Failing(1, refusal(429, "", who="it", retry_after="soon")), "it") == "bars"
    assert time[2] == 1


@pytest.mark.parametrize("zone", ["", " -0000", " GMT", " +0000"])
def test_a_date_to_come_back_at_is_in_gmt_whatever_its_zone(zone) -> None:
    soon = pd.Timestamp.now("UTC") + pd.Timedelta("30s")
    error = refusal(503, "", who="it", retry_after=f"{soon:%a, %d %b %Y %H:%M:%S}{zone}")
    assert error.retry_after == pytest.approx(30, abs=3)


@pytest.mark.parametrize(
    ("patience", "error", "calls", "said"),
    [
        (Patience(tries=3), None, 3, "it must answer within 3 tries and 300 s; got no answer in 3"),
        (Patience(tries=9, seconds=10), None, 4, "it must answer within 9 tries and 10 s; got no answer in 4"),
        (Patience(), refusal(429, "", who="it", retry_after="3600"), 1, "was to wait 3600 s more"),
    ],
)
def test_patience_ends_and_says_what_to_do(time, patience, error, calls, said) -> None:
    failing = Failing(99, error)
    with pytest.raises(ProviderError, match=said) as caught:
        patience.ask(failing, "it")
    assert not isinstance(caught.value, TryAgainError)
    assert str(caught.value).endswith("Ask for less at once, or give a longer `patience`.")
    assert failing.calls == calls
    assert math.fsum(time) <= patience.seconds


def test_a_refusal_for_good_is_not_asked_again(time) -> None:
    failing = Failing(1, ProviderError("never."))
    with pytest.raises(ProviderError, match="never"):
        Patience().ask(failing, "it")
    assert (failing.calls, time) == (1, [])


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"seconds": 0.0}, {"seconds": math.nan}])
def test_patience_needs_a_try_and_some_time(wrong) -> None:
    with pytest.raises(ProviderError, match="`patience` must allow at least one try and some time"):
        Patience(**wrong)


def test_no_minute_sees_more_requests_than_allowed(monkeypatch) -> None:
    now, made, rng = [0.0], [], np.random.default_rng(0)
    monkeypatch.setattr(_patience, "_clock", lambda: now[0])
    monkeypatch.setattr(_patience, "_sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    pace = Pace(5)
    for _ in range(60):
        pace.wait()
        made.append(now[0])
        now[0] += rng.exponential(4.0)
    # The sixth after any request comes a minute later, and no wait was longer than needed.
    assert min(b - a for a, b in zip(made, made[5:], strict=False)) == pytest.approx(60.0)
    assert max(b - a for a, b in zip(made, made[5:], strict=False)) < 90.0


def test_a_pace_of_none_is_refused() -> None:
    with pytest.raises(ProviderError, match="`per_minute` must be at least 1; got 0"):
        Pace(0)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_repeated_even_if_the_server_does(monkeypatch, status) -> None:
    monkeypatch.setenv("IT_KEY", "planted0000")
    error = refusal(status, "your key planted0000 is\n bad", "IT_KEY", who="it")
    assert str(error) == (
        f"`IT_KEY` must hold what it accepts for this request; got HTTP {status} (your key *** is bad). "
        "Check the key, and what its plan includes."
    )
    assert not isinstance(error, TryAgainError)


@pytest.mark.parametrize(
    "spelt",
    [
        "S3cr3t+/Key==",
        "S3cr3t%2B%2FKey%3D%3D",
        "S3cr3t%2b/Key%3d%3d",
        "S3cr3t%252B%252FKey%253D%253D",
        r"S3cr3t+\/Key==",
    ],
)
def test_a_key_is_blotted_out_however_it_is_spelt(monkeypatch, spelt) -> None:
    monkeypatch.setenv("IT_KEY", "S3cr3t+/Key==")
    assert without_keys(f"https://it/?key={spelt}&n=1 S3cr3t+/Key==, not S3cr3t", "IT_KEY") == (
        "https://it/?key=***&n=1 ***, not S3cr3t"
    )


def test_a_missing_key_is_named(monkeypatch) -> None:
    monkeypatch.delenv("IT_KEY", raising=False)
    monkeypatch.setenv("OTHER_KEY", " ")
    with pytest.raises(ProviderError, match="`IT_KEY` must be set in the environment") as caught:
        key_from("IT_KEY", "OTHER_KEY", who="it")
    assert str(caught.value) == (
        "`IT_KEY` must be set in the environment to your it key; got none. "
        "Run `read -rs IT_KEY && export IT_KEY` and type it in: it then stands in no history and no script."
    )


# --------------------------------------------------------------------------- report


def test_sound_bars_give_a_clean_report_half_day_and_clock_change_included() -> None:
    bars = session_bars("2022-11-03", "2022-11-04", "2022-11-07", "2022-11-08")  # clocks change on the 6th
    for frame in (bars, session_bars("2022-11-22", "2022-11-23", "2022-11-25", "2022-11-28")):
        report = report_bars(frame, "5min", session="XNYS")
        assert (report.missing, report.outside, report.splits, report.halts) == (0, 0, (), ())
    hours = session_bars("2022-11-04", "2022-11-07", bar="2h")
    assert report_bars(hours, "2h", session="XNYS").gaps == ()


def test_gaps_are_found_where_they_are_and_nowhere_else() -> None:
    bars = session_bars("2022-11-22", "2022-11-23", "2022-11-25", "2022-11-28")
    holes = [10, 11, 12, 77, 78, 100]  # 77 is a day's last bar and 78 the next one's first: one gap
    report = report_bars(bars.drop(bars.index[holes]), "5min", session="XNYS")
    assert [(gap.start, gap.end, gap.bars) for gap in report.gaps] == [
        (bars.index[10], bars.index[12], 3),
        (bars.index[77], bars.index[78], 2),
        (bars.index[100], bars.index[100], 1),
    ]
    whole_day = bars[bars.index.normalize() != pd.Timestamp("2022-11-25", tz="UTC")]
    assert [gap.bars for gap in report_bars(whole_day, "5min", session="XNYS").gaps] == [42]
    # Without an exchange only holes between a day's first and last bar can be known.
    assert report_bars(bars.drop(bars.index[holes]), "5min").missing == 4
    newyork = Session("09:30", "16:00", "America/New_York")
    assert report_bars(bars, "5min", session=newyork).missing == 78 + 36  # Thanksgiving, and the half day's rest


def test_daily_gaps_need_an_exchange() -> None:
    dates = pd.DatetimeIndex(["2022-11-22", "2022-11-23", "2022-11-28", "2022-11-29"])
    bars = make_bars(4, random_state=0).set_axis(dates)
    report = report_bars(bars, "1d", session="XNYS")
    assert [(gap.start, gap.bars) for gap in report.gaps] == [(pd.Timestamp("2022-11-25"), 1)]
    assert report_bars(bars, "1d").gaps == ()
    # Midnights of New York are dates, too, in summer and in winter.
    index = pd.bdate_range("2022-10-31", "2022-11-18", tz="America/New_York")
    winter = make_bars(len(index), random_state=0).set_axis(index)
    assert report_bars(winter, "1d", session="XNYS").gaps == ()
    assert report_bars(winter.tz_convert("UTC"), "1d", session="XNYS").gaps == ()
    # A Saturday's bar lies outside.
    assert report_bars(pd.concat([bars, bars[:1].set_axis([pd.Timestamp("2022-12-03")])]), "1d", session="XNYS").outside


@pytest.mark.parametrize(("n", "m"), [(4, 1), (3, 2), (1, 10)])
def test_a_split_between_two_days_is_suspected(n, m) -> None:
    bars = session_bars("2022-11-21", "2022-11-22", "2022-11-23")
    split = bars.copy()
    split.iloc[78:, :4] *= m / n
    found = report_bars(split, "5min", session="XNYS").splits
    assert [(at.time, at.ratio) for at in found] == [(bars.index[78], f"{n}:{m}")]
    halved = bars.copy()
    halved.iloc[100:, :4] /= 2  # within a day: a crash, no split
    assert report_bars(halved, "5min", session="XNYS").splits == ()


def test_a_filled_halt_is_told_from_single_quiet_bars() -> None:
    bars = session_bars("2022-11-23")
    bars.iloc[20:26, :4] = bars["close"].iloc[19]
    bars.iloc[20:26, 4] = 0.0
    bars.iloc[40, 4] = 0.0
    report = report_bars(bars, "5min", session="XNYS")
    assert [(halt.start, halt.end, halt.bars) for halt in report.halts] == [(bars.index[20], bars.index[25], 6)]
    assert report.no_volume == 7


def test_a_panel_is_reported_by_instrument_and_reads_well() -> None:
    one, two = session_bars("2022-11-23", "2022-11-25"), session_bars("2022-11-23", "2022-11-25", seed=1)
    two.iloc[78:, :4] /= 4
    panel = pd.concat({"A": one.drop(one.index[3]), "B": two}, names=["instrument", "datetime"]).swaplevel()
    panel = pd.concat([panel.sort_index(), panel.iloc[:1]])
    panel.attrs["adjustment"] = "none"
    assert str(report_bars(panel, "5min", session="XNYS")) == (
        "240 bars of 5 min, 2 instruments, 2022-11-23 14:30:00+00:00 to 2022-11-25 17:55:00+00:00, not in order\n"
        "adjusted for      none\n"
        "repeated rows     1 copies, 0 with other values\n"
        "missing bars      1 in 1 gaps: A 2022-11-23 14:45:00+00:00 (1)\n"
        "suspected splits  1: B 2022-11-25 14:30:00+00:00 4:1\n"
        "halted stretches  0\n"
        "volume of 0       0\n"
        "prices unknown    0\n"
        "outside sessions  0"
    )


@pytest.mark.parametrize("bar", ["5", "1e3", 5, "5ns"])
def test_a_bar_without_a_unit_is_no_length(bar) -> None:
    with pytest.raises(BarsError, match="`bar` must be a time of one second to one day, with its unit; got"):
        report_bars(session_bars("2022-11-23"), bar)


def test_a_report_needs_bars() -> None:
    bars = session_bars("2022-11-23")
    with pytest.raises(BarsError, match=r"`bars` must have rows and the columns .* got 78 rows, without open"):
        report_bars(bars.drop(columns="open"), "5min")
    with pytest.raises(BarsError, match="`bars` must have rows"):
        report_bars(bars[:0], "5min")
    with pytest.raises(BarsError, match="`bars` must be indexed by time"):
        report_bars(bars.reset_index(drop=True), "5min")


def test_drop_repeated_keeps_the_last_of_each_time() -> None:
    rng = np.random.default_rng(0)
    times = pd.DatetimeIndex(pd.Timestamp("2022-01-03") + pd.to_timedelta(rng.integers(0, 20, 100), unit="min"))
    bars = pd.DataFrame({"close": rng.integers(0, 3, 100).astype(float)}, times)
    kept, copies, conflicts = drop_repeated(bars)
    assert kept["close"].to_dict() == dict(zip(times, bars["close"], strict=True))
    assert kept.index.is_monotonic_increasing
    assert copies + conflicts + len(kept) == 100
    values = pd.Series(bars["close"].to_numpy()).groupby(times).nunique()
    assert conflicts == (values - 1).sum()


def test_what_real_bars_lack_is_found(shared_data: Path) -> None:
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")
    with pytest.warns(UserWarning, match="108 bars missing in 2 gaps, the first 2022-11-23 18:15"):
        got = fetch_bars(Held(SPY=bars), "SPY", "5min", "2022-01-01", "2024-01-01", session="XNYS")
    report = report_bars(got, "5min", session="XNYS")
    assert (report.copies, report.conflicts, report.splits, report.halts) == (0, 0, (), ())
    # This file cuts the day before the half day short, lets the half day run on, and lacks one day.
    assert [(str(gap.start)[:16], gap.bars) for gap in report.gaps] == [
        ("2022-11-23 18:15", 30),
        ("2023-02-10 14:30", 78),
    ]
    assert report.outside == 33
