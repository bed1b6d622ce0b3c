"""Alpaca's own client against a server on the loopback address."""

from __future__ import annotations

import logging
import math

import pandas as pd
import provider_server
import pytest
from provider_server import KEY_ID, PLANTED, SECRET, Fault, ProviderServer, daily_bars, everything_said, session_bars

from ensemble_kit.datasets.providers import _patience
from ensemble_kit.datasets.providers.alpaca import Alpaca
from ensemble_kit.datasets.providers.fetch import Patience, fetch_bars
from ensemble_kit.datasets.providers.report import report_bars
from ensemble_kit.exceptions import ProviderError, TryAgainError

SPAN = ("2022-11-01", "2022-12-01")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("APCA_API_KEY_ID", KEY_ID)
    monkeypatch.setenv("APCA_API_SECRET_KEY", SECRET)
    with ProviderServer() as serving:
        serving.bars["SPY"] = session_bars("2022-11-23", "2022-11-25")
        yield serving


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr(_patience, "_sleep", made.append)
    monkeypatch.setattr(_patience, "_clock", lambda: math.fsum(made))
    return made


def test_three_pages_of_bars_come_as_they_are(server) -> None:
    server.page = 50
    got = fetch_bars(Alpaca(base_url=server.url), "SPY", "5min", *SPAN, session="XNYS")
    bars = server.bars["SPY"]
    pd.testing.assert_frame_equal(got[bars.columns], bars, check_freq=False)
    assert list(got.columns) == ["open", "high", "low", "close", "volume", "vwap"]
    assert got.attrs == {"provider": "alpaca", "adjustment": "splits and dividends"}
    assert [asked.query.get("page_token") for asked in server.asked] == [None, "50", "100"]
    for asked in server.asked:
        assert asked.query["adjustment"] == "all"
        assert asked.query["feed"] == "iex"
        assert asked.query["timeframe"] == "5Min"
    # A half day: 42 bars, and nothing missing.
    assert len(got[got.index.normalize() == pd.Timestamp("2022-11-25", tz="UTC")]) == 42


def test_unsorted_and_repeated_rows_over_pages(server) -> None:
    bars = server.bars["SPY"]
    server.bars["SPY"] = pd.concat([bars[60:], bars[:70]])
    server.page = 45
    with pytest.warns(UserWarning, match="Bars from alpaca: SPY: 10 copied rows dropped, 0 rows replaced"):
        got = fetch_bars(Alpaca(base_url=server.url), "SPY", "5min", *SPAN)
    pd.testing.assert_frame_equal(got[bars.columns], bars, check_freq=False)


@pytest.mark.parametrize("start", ["2022-10-24", "2022-11-24"])  # summer and winter time
def test_daily_bars_have_naive_dates(server, start) -> None:
    server.bars["SPY"] = daily_bars(start, 15)
    got = fetch_bars(Alpaca(base_url=server.url), "SPY", "1d", start, "2023-01-01")
    assert got.index.equals(pd.bdate_range(start, periods=15).as_unit("ns"))
    assert server.asked[0].query["timeframe"] == "1Day"


def test_a_halted_symbol_and_a_split_are_reported(server) -> None:
    bars = server.bars["SPY"].drop(server.bars["SPY"].index[20:32])
    bars.iloc[66:, :4] /= 2
    server.bars["SPY"] = bars
    with pytest.warns(UserWarning, match="SPY: 12 bars missing in 1 gaps, the first 2022-11-23 16:10:00"):
        got = fetch_bars(Alpaca(base_url=server.url), "SPY", "5min", *SPAN, session="XNYS")
    report = report_bars(got, "5min", session="XNYS")
    assert [gap.bars for gap in report.gaps] == [12]
    assert [split.ratio for split in report.splits] == ["2:1"]


def test_an_empty_answer_is_no_bars(server) -> None:
    with pytest.raises(ProviderError, match=r"`symbols` must have bars at alpaca .* got none of NONE"):
        fetch_bars(Alpaca(base_url=server.url), "NONE", "5min", *SPAN)
    assert len(server.asked) == 1


PASSING = {
    "429 with Retry-After": (Fault(429, {"Retry-After": "17"}, '{"message": "too many requests."}'), 17.0),
    "429 without": (Fault(429, {}, '{"message": "too many requests."}'), None),
    "500": (Fault(500, {}, '{"message": "internal server error occurred"}'), None),
    "503 of a proxy": (Fault(503, {}, "<html>Service Unavailable</html>"), None),
    "cut connection": (Fault(cut=0.5), None),
    "half an answer": (Fault(cut=0.5, length=False), None),
    "no body": (Fault(body=""), None),
    "no JSON": (Fault(body="<html></html>"), None),
    "another form": (Fault(body='{"bars": {"SPY": [{"t": "2022-11-23T14:30:00Z"}]}, "next_page_token": null}'), None),
    "no bars key": (Fault(body='{"next_page_token": null}'), None),
    "a list": (Fault(body="[1, 2]"), None),
}


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("page", [0, 1], ids=["first page", "second page"])
def test_what_passes_is_waited_for(server, waits, name, page) -> None:
    fault, wait = PASSING[name]
    server.page = 60
    server.faults = [*[None] * page, fault]
    got = fetch_bars(Alpaca(base_url=server.url), "SPY", "5min", *SPAN)
    pd.testing.assert_frame_equal(got[server.bars["SPY"].columns], server.bars["SPY"], check_freq=False)
    assert len(server.asked) == page + 3  # as far as the fault, and two pages
    assert len(waits) == 1
    assert waits[0] == wait if wait else 0.5 <= waits[0] <= 1.0


def test_a_server_that_stays_down_is_given_up(server, waits) -> None:
    server.faults = [Fault(500, {}, "")] * 9
    with pytest.raises(
        ProviderError, match="alpaca must answer within 4 tries and 300 s; got no answer in 4"
    ) as caught:
        fetch_bars(Alpaca(base_url=server.url), "SPY", "5min", *SPAN, patience=Patience(tries=4))
    assert not isinstance(caught.value, TryAgainError)
    assert len(server.asked) == 4
    assert len(waits) == 3


def test_nobody_there_is_waited_for_and_given_up(server, waits) -> None:
    with pytest.raises(ProviderError, match=r"got: a ConnectionError\. Ask again later"):
        fetch_bars(Alpaca(base_url="http://127.0.0.1:9"), "SPY", "5min", *SPAN, patience=Patience(tries=2))
    assert len(waits) == 1


@pytest.mark.parametrize("missing", ["APCA_API_KEY_ID", "APCA_API_SECRET_KEY"])
def test_no_key_is_said_before_anything_is_asked(server, monkeypatch, missing) -> None:
    monkeypatch.delenv(missing)
    with pytest.raises(ProviderError, match=f"`{missing}` must be set in the environment to your Alpaca key; got none"):
        fetch_bars(Alpaca(base_url=server.url), "SPY", "5min", *SPAN)
    assert server.asked == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            None,
            "`APCA_API_KEY_ID` and `APCA_API_SECRET_KEY` must hold what Alpaca accepts .* HTTP 401 \\(forbidden.\\)",
        ),
        (Fault(403, {}, '{"message": "subscription does not permit"}'), "HTTP 403 \\(subscription does not permit\\)"),
        (Fault(400, {}, '{"message": "invalid symbol: SPY"}'), "HTTP 400 \\(invalid symbol: SPY\\). Check symbol"),
    ],
)
def test_a_refusal_is_final(server, monkeypatch, waits, fault, said) -> None:
    if fault is None:
        monkeypatch.setenv("APCA_API_SECRET_KEY", "another")
    server.faults = [fault]
    with pytest.raises(ProviderError, match=said):
        fetch_bars(Alpaca(base_url=server.url), "SPY", "5min", *SPAN)
    assert (len(server.asked), waits) == (1, [])


@pytest.mark.parametrize("bar", ["30s", "90min", "65min"])
def test_bars_that_alpaca_has_not(server, bar) -> None:
    with pytest.raises(ProviderError, match="`bar` must be 1 to 59 minutes, 1 to 23 hours or 1 day for Alpaca"):
        fetch_bars(Alpaca(base_url=server.url), "SPY", bar, *SPAN)


def test_feeds_are_told_apart(server) -> None:
    got = fetch_bars(Alpaca(feed="sip", base_url=server.url), "SPY", "5min", *SPAN)
    assert got.attrs["provider"] == "alpaca-sip"
    assert server.asked[0].query["feed"] == "sip"
    with pytest.raises(ProviderError, match=r"`feed` must be one of iex, sip, .*; got 'all'"):
        fetch_bars(Alpaca(feed="all"), "SPY", "5min", *SPAN)


def test_each_page_waits_for_its_turn(server, waits) -> None:
    server.page = 40
    fetch_bars(Alpaca(per_minute=2, base_url=server.url), "SPY", "5min", *SPAN)
    assert waits == [60.0]


@pytest.mark.parametrize("fault", [*PASSING, "401", "echo", "down"])
def test_the_key_is_nowhere(server, waits, caplog, tmp_path, fault) -> None:
    caplog.set_level(logging.DEBUG)
    echo = Fault(403, {"X-Key": SECRET}, f'{{"message": "{KEY_ID} {SECRET} is not allowed"}}')
    faults = {"401": Fault(401, {}, '{"message": "forbidden."}'), "echo": echo, "down": Fault(500, {}, SECRET)}
    server.faults = [faults[fault] if fault in faults else PASSING[fault][0]] * 9
    provider = Alpaca(base_url=server.url)
    with pytest.raises(ProviderError) as caught:
        fetch_bars(provider, "SPY", "5min", *SPAN, cache=tmp_path, patience=Patience(tries=2))
    said = [*everything_said(caught.value), caplog.text, repr(provider), str(vars(provider))]
    said += [str(vars(record)) for record in caplog.records]
    said += [str(file) for file in tmp_path.rglob("*")]
    assert caplog.records
    assert not [key for key in PLANTED if key in "\n".join(said)]


def endless(fresh):
    """Answer with one page after the other: always the same one, or each another."""

    def route(server, asked):
        status, page = provider_server.alpaca(server, asked)
        page["next_page_token"] = str(len(server.asked)) if fresh else "100000"
        return status, page

    return route


def test_a_page_that_names_itself_is_the_last(server, waits, caplog) -> None:
    server.routes = dict.fromkeys(server.routes, endless(fresh=False))
    with pytest.raises(
        ProviderError, match="Alpaca must name a new page after each; it named the same one twice"
    ) as caught:
        fetch_bars(Alpaca(base_url=server.url), "SPY", "5min", *SPAN)
    assert (len(server.asked), waits) == (2, [])
    assert not [key for key in PLANTED if key in "\n".join(everything_said(caught.value))]


def test_pages_without_end_end_with_the_time(server, monkeypatch) -> None:
    monkeypatch.setattr(_patience, "_clock", lambda: 3.0 * len(server.asked))  # three seconds a page
    server.routes = dict.fromkeys(server.routes, endless(fresh=True))
    with pytest.raises(ProviderError, match=r"alpaca must give all pages within 20 s; it still has more\.") as caught:
        fetch_bars(Alpaca(base_url=server.url), "SPY", "5min", *SPAN, patience=Patience(tries=1, seconds=20))
    assert len(server.asked) == 7
    assert not [key for key in PLANTED if key in "\n".join(everything_said(caught.value))]
