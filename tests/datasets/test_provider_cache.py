"""The cache: with it as without it, only what is missing is asked for, and nothing torn or restated gets in."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provider_server import KEY_ID, PLANTED, SECRET, ProviderServer, session_bars

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.datasets.providers import fetch
from ensemble_kit.datasets.providers._cache import BarCache
from ensemble_kit.datasets.providers.alpaca import Alpaca
from ensemble_kit.datasets.providers.fetch import fetch_bars
from ensemble_kit.datasets.providers.request import Request
from ensemble_kit.exceptions import BarsError, ProviderError

DAYS = ("2022-11-21", "2022-11-22", "2022-11-23", "2022-11-25", "2022-11-28")


class Held:
    """A provider that gives what it holds of a request, and remembers what it was asked for."""

    name = "held"

    def __init__(self, bars: pd.DataFrame, *, adjustment: str = "splits and dividends") -> None:
        self.bars = bars
        self.adjustment = adjustment
        self.asked: list[Request] = []
        self.gone_before: pd.Timestamp | None = None

    def check(self, request: Request) -> None:
        if self.gone_before is not None and request.start < self.gone_before:
            raise ProviderError("`start` must be later.")

    def fetch(self, request: Request) -> pd.DataFrame:
        self.asked.append(request)
        times = self.bars.index if self.bars.index.tz is not None else self.bars.index.tz_localize("UTC")
        return self.bars[(times >= request.start) & (times < request.end)].copy()


@pytest.fixture
def held() -> Held:
    return Held(session_bars(*DAYS))


def get(held: Held, cache: Path | None, start: object = "2022-11-20", end: object = "2022-12-01") -> pd.DataFrame:
    return fetch_bars(held, "SPY", "5min", start, end, cache=cache)


def same(got: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(got, expected, check_freq=False)


def freeze(monkeypatch, now: str) -> None:
    monkeypatch.setattr(pd.Timestamp, "now", staticmethod(lambda _: pd.Timestamp(now, tz="UTC")))


def test_what_is_held_is_not_asked_for_again(held, tmp_path) -> None:
    for span in [("2022-11-20", "2022-12-01"), ("2022-11-22", "2022-11-24"), ("2022-11-20", "2022-12-01")]:
        same(get(held, tmp_path, *span), get(Held(held.bars), None, *span))
    assert len(held.asked) == 1
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files == [tmp_path / "held" / "splits-and-dividends" / "300s" / "SPY.parquet"]
    same(read_bars(files[0]), held.bars)


def test_a_span_grows_at_both_ends_by_what_it_lacks_and_ten_bars(held, tmp_path) -> None:
    bars = held.bars
    same(get(held, tmp_path, "2022-11-22", "2022-11-24"), bars[78:234])
    same(get(held, tmp_path, "2022-11-22", "2022-11-26"), bars[78:276])
    assert (held.asked[-1].start, held.asked[-1].end) == (bars.index[224], pd.Timestamp("2022-11-26", tz="UTC"))
    same(get(held, tmp_path, "2022-11-20", "2022-11-21 20:00"), bars[:66])
    assert held.asked[-1].start == pd.Timestamp("2022-11-20", tz="UTC")
    assert held.asked[-1].end == bars.index[88]
    same(get(held, tmp_path, "2022-11-20", "2022-11-26"), bars[:276])
    assert len(held.asked) == 3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 350), st.integers(1, 350)), min_size=1, max_size=6))
def test_any_requests_in_any_order_give_what_no_cache_gives(tmp_path_factory, spans) -> None:
    held, folder = Held(session_bars(*DAYS)), tmp_path_factory.mktemp("cache")
    times = held.bars.index
    for first, n in spans:
        start, end = times[min(first, 350)], times[min(first + n, len(times) - 1)]
        if start < end:
            same(get(held, folder, start, end), get(Held(held.bars), None, start, end))


def test_daily_bars_and_gapless_seams_on_real_prices(shared_data, tmp_path) -> None:
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")
    bars.index = bars.index.as_unit("ns")
    held = Held(bars)
    for end in pd.date_range("2022-04-01", "2023-06-23", freq="83D"):
        same(get(held, tmp_path, "2022-01-01", end), bars[bars.index < end.tz_localize("UTC")])
    dates = pd.bdate_range("2020-01-01", periods=200).as_unit("ns").rename("datetime")
    daily = Held(make_bars(200, random_state=0).set_axis(dates))
    for n in (50, 51, 120, 200):
        got = fetch_bars(daily, "SPY", "1d", dates[0], dates[n - 1] + pd.Timedelta("1D"), cache=tmp_path)
        same(got, daily.bars[:n])
    assert [len(daily.bars.loc[a.start.tz_localize(None) : a.end.tz_localize(None)]) for a in daily.asked[1:]] == [
        12,  # ten again, the new one, and the one that begins at the end
        80,
        90,
    ]


def test_the_newest_day_is_asked_for_again(held, tmp_path, monkeypatch) -> None:
    freeze(monkeypatch, "2022-11-25 16:02")
    first = get(held, tmp_path, "2022-11-20", None)
    assert first.index[-1] == pd.Timestamp("2022-11-25 15:55", tz="UTC")  # 16:00 is not closed yet
    corrected = first.index[-2]
    held.bars.loc[corrected, "volume"] += 1000
    held.bars.loc[corrected, "close"] = held.bars.loc[corrected, "low"]
    freeze(monkeypatch, "2022-11-25 16:05")
    second = get(held, tmp_path, "2022-11-20", None)
    same(second, held.bars[: len(first) + 1])
    assert held.asked[-1].start < corrected
    assert held.asked[-1].start > first.index[100]


def test_no_unfinished_bar_is_cached(held, tmp_path, monkeypatch) -> None:
    freeze(monkeypatch, "2022-11-25 16:04:59")
    get(held, tmp_path, "2022-11-20", "2022-12-01")
    table = read_bars(next(tmp_path.rglob("*.parquet")))
    assert table.index[-1] == pd.Timestamp("2022-11-25 15:55", tz="UTC")
    freeze(monkeypatch, "2022-12-10")
    same(get(held, tmp_path, "2022-11-20", "2022-12-01"), held.bars)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_restated_history_is_fetched_anew(held, tmp_path, earlier) -> None:
    get(held, tmp_path, "2022-11-22", "2022-11-26")
    restated = held.bars.copy()
    restated.iloc[:276, :4] *= 0.998  # a dividend of 0.2 % goes off on the 28th
    held.bars = restated
    # What is wholly held stays as it was, in itself consistent.
    assert len(get(held, tmp_path, "2022-11-22", "2022-11-26")) == 198
    assert len(held.asked) == 1
    wider = ("2022-11-20", "2022-11-26") if earlier else ("2022-11-22", "2022-12-01")
    with pytest.warns(UserWarning, match="SPY: its cached history was restated, so it was fetched anew"):
        got = get(held, tmp_path, *wider)
    same(got, restated[:276] if earlier else restated[78:])
    same(get(held, tmp_path, *wider), got)
    assert len(held.asked) == 3


@pytest.mark.parametrize("earlier", [False, True])
def test_volumes_of_two_scales_are_not_joined(held, tmp_path, earlier) -> None:
    get(held, tmp_path, "2022-11-22", "2022-11-26")
    corrected = held.bars.copy()
    corrected["volume"] *= np.where(np.arange(len(corrected)) == 270, 3.0, 1.01)  # late trades, one block among them
    held.bars = corrected
    get(held, tmp_path, "2022-11-22", "2022-11-27")
    held.bars = corrected.assign(volume=corrected["volume"] * 4)
    wider = ("2022-11-20", "2022-11-26") if earlier else ("2022-11-22", "2022-12-01")
    with pytest.warns(UserWarning, match="SPY: its cached history was restated, so it was fetched anew"):
        got = get(held, tmp_path, *wider)
    same(got, held.bars[:276] if earlier else held.bars[78:])


def test_a_bad_print_is_not_kept(held, tmp_path) -> None:
    sound = held.bars
    held.bars = sound.copy()
    held.bars.iloc[30, 1] = held.bars.iloc[30, 2] / 2
    with pytest.raises(BarsError, match="`SPY from held` must have high >= low"):
        get(held, tmp_path)
    held.bars = sound
    same(get(held, tmp_path), sound)


def test_a_bad_print_that_was_kept_is_fetched_anew(held, tmp_path, monkeypatch) -> None:
    sound = held.bars
    held.bars = sound.copy()
    held.bars.iloc[30, 1] = held.bars.iloc[30, 2] / 2
    monkeypatch.setattr(fetch, "check_bars", lambda bars, **_: bars)
    get(held, tmp_path)
    monkeypatch.undo()
    held.bars = sound
    with pytest.warns(UserWarning, match="could not be used, so it was fetched anew"):
        same(get(held, tmp_path), sound)


def test_adjustments_are_kept_apart(held, tmp_path) -> None:
    get(held, tmp_path)
    raw = Held(held.bars * 2, adjustment="none")
    same(get(raw, tmp_path), raw.bars)
    same(get(held, tmp_path), held.bars)
    assert len(list(tmp_path.rglob("*.parquet"))) == 2


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 0x10
    file.write_bytes(data)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def foreign(file: Path) -> None:
    make_bars(50, random_state=0).to_parquet(file)


def another(file: Path) -> None:
    """The file of another symbol, put here by hand."""
    bars = Held(session_bars(*DAYS, seed=5))
    fetch_bars(bars, "QQQ", "5min", "2022-11-20", "2022-12-01", cache=file.parents[3])
    (file.parent / "QQQ.parquet").replace(file)


@pytest.mark.parametrize("harm", [cut, flip, empty, foreign, another])
def test_a_torn_or_foreign_file_is_noticed_and_fetched_anew(held, tmp_path, harm) -> None:
    get(held, tmp_path)
    harm(file := next(tmp_path.rglob("SPY.parquet")))
    with pytest.warns(UserWarning, match=r"SPY: its cache file .*SPY\.parquet could not be used, so it was fetched"):
        same(get(held, tmp_path), held.bars)
    same(get(held, tmp_path), held.bars)
    assert len(held.asked) == 2
    assert file.exists()


def test_any_flipped_bit_is_noticed_or_harmless(held, tmp_path) -> None:
    get(held, tmp_path)
    file = next(tmp_path.rglob("*.parquet"))
    request = Request("SPY", pd.Timedelta("5min"), pd.Timestamp(0), pd.Timestamp(0))
    notes: list[str] = []
    cache = BarCache(tmp_path, held, request, notes)
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    bars, span = cache._read()
    same(bars, held.bars)
    footer = int.from_bytes(whole[-8:-4], "little")
    everywhere, there = rng.integers(0, len(whole), 200), rng.integers(len(whole) - footer - 8, len(whole), 200)
    for at in [*everywhere, *there]:
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(data)
        read = cache._read()
        if read is not None:
            same(read[0], bars)
            assert read[1] == span
    assert len(notes) > 200


def test_symbols_are_files_and_nothing_else(held, tmp_path) -> None:
    folder = tmp_path / "cache"
    for symbol in ["../../up", "BTC/USD", "X:BTCUSD", "^GSPC", ".."]:
        same(fetch_bars(held, symbol, "5min", "2022-11-20", "2022-12-01", cache=folder), held.bars)
    assert len({file.parent for file in tmp_path.rglob("*.parquet")}) == 1
    assert len(list(folder.rglob("*.parquet"))) == 5


def test_what_the_provider_no_longer_has_is_still_in_the_cache(held, tmp_path) -> None:
    get(held, tmp_path)
    held.gone_before = pd.Timestamp("2022-11-25", tz="UTC")
    same(get(held, tmp_path), held.bars)
    with pytest.raises(ProviderError, match="`start` must be later"):
        get(held, tmp_path, "2022-11-01")
    with pytest.raises(ProviderError, match="`start` must be later"):
        get(held, None)


def test_what_lies_on_this_machine_is_not_cached(held, tmp_path) -> None:
    held.local = True
    same(get(held, tmp_path), held.bars)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_answer_is_not_cached(held, tmp_path) -> None:
    with pytest.raises(ProviderError, match="`symbols` must have bars at held"):
        get(held, tmp_path, "2021-01-01", "2021-02-01")
    assert list(tmp_path.iterdir()) == []
    assert len(get(held, tmp_path, "2022-11-21", "2022-11-22")) == 78
    with pytest.raises(ProviderError, match="`symbols` must have bars at held"):
        get(held, tmp_path, "2022-11-10", "2022-11-12")
    # That there is none before the first bar is known now.
    asked = len(held.asked)
    same(get(held, tmp_path, "2022-11-10", "2022-11-22"), held.bars[:78])
    assert len(held.asked) == asked


def test_a_folder_that_cannot_be_written_to_is_said(held, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProviderError, match=r"`cache` must be a folder that can be written to; got '.*File exists"):
        get(held, tmp_path / "file")
    assert held.asked == []  # before an hour of pages, not after


def test_many_at_once_leave_whole_files(held, tmp_path) -> None:
    starts = [pd.Timestamp("2022-11-20") + pd.Timedelta(hours=6 * i) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for got, start in zip(pool.map(lambda at: get(held, tmp_path, at), starts), starts, strict=True):
            same(got, held.bars[held.bars.index >= start.tz_localize("UTC")])
    assert [file.suffix for file in tmp_path.rglob("*") if file.is_file()] == [".parquet"]
    same(get(held, tmp_path), held.bars)


KILLED = """
import sys, os
sys.path.insert(0, {tests!r})
from test_provider_cache import Held, get, session_bars, DAYS
import pyarrow.parquet as pq
import ensemble_kit.datasets.providers._cache as cache
whole = pq.write_table
def dies(table, file, **options):
    whole(table, file, **options)
    file.flush()
    file.truncate(file.tell() // 2)
    os.kill(os.getpid(), 9)
cache.pq.write_table = dies
get(Held(session_bars(*DAYS)), {folder!r})
"""


def test_killed_while_writing_leaves_the_old_file(held, tmp_path) -> None:
    get(held, tmp_path, "2022-11-22", "2022-11-24")
    before = next(tmp_path.rglob("*.parquet")).read_bytes()
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert died.returncode == -9, died.stderr.decode()
    assert next(tmp_path.rglob("*.parquet")).read_bytes() == before
    same(get(held, tmp_path), held.bars)


def test_the_cache_holds_no_key(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("APCA_API_KEY_ID", KEY_ID)
    monkeypatch.setenv("APCA_API_SECRET_KEY", SECRET)
    with ProviderServer() as server:
        server.bars["SPY"] = session_bars(*DAYS)
        provider = Alpaca(base_url=server.url)
        got = fetch_bars(provider, "SPY", "5min", "2022-11-20", "2022-12-01", cache=tmp_path)
        same(fetch_bars(provider, "SPY", "5min", "2022-11-20", "2022-12-01", cache=tmp_path), got)
        assert len(server.asked) == 1
    file = next(tmp_path.rglob("*.parquet"))
    assert pq.read_schema(file).metadata[b"ensemble_kit.bars"]
    data = file.read_bytes() + str(list(tmp_path.rglob("*"))).encode()
    assert not [key for key in PLANTED if key.encode() in data]
