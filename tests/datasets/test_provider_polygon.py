"""Polygon's own client against a server on the loopback address."""

from __future__ import annotations

import logging
import math

import pandas as pd
import provider_server
import pytest
from provider_server import (
    PLANTED,
    POLYGON_KEY,
    Fault,
    ProviderServer,
    daily_bars,
    everything_said,
    session_bars,
)

from ensemble_kit.datasets.providers import _patience
from ensemble_kit.datasets.providers.fetch import Patience, fetch_bars
from ensemble_kit.datasets.providers.polygon import Polygon
from ensemble_kit.datasets.providers.report import report_bars
from ensemble_kit.exceptions import ProviderError, TryAgainError

SPAN = ("2022-11-01", "2022-12-01")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("POLYGON_API_KEY", POLYGON_KEY)
    monkeypatch.delenv("MASSIVE_API_KEY", raising=False)
    with ProviderServer() as serving:
        serving.bars["SPY"] = session_bars("2022-11-23", "2022-11-25")
        yield serving


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr(_patience, "_sleep", made.append)
    monkeypatch.setattr(_patience, "_clock", lambda: math.fsum(made))
    return made


def quick(server: ProviderServer) -> Polygon:
    return Polygon(per_minute=1000, base_url=server.url)


def test_three_pages_of_bars_come_as_they_are(server) -> None:
    server.page = 50
    got = fetch_bars(quick(server), "SPY", "5min", *SPAN, session="XNYS")
    bars = server.bars["SPY"]
    pd.testing.assert_frame_equal(got[bars.columns], bars, check_freq=False)
    assert list(got.columns) == ["open", "high", "low", "close", "volume", "vwap"]
    assert got.attrs == {"provider": "polygon", "adjustment": "splits"}
    assert [asked.query.get("cursor") for asked in server.asked] == [None, "50", "100"]
    first = server.asked[0]
    assert first.path == "/v2/aggs/ticker/SPY/range/5/minute/1667260800000/1669852800000"
    assert first.query == {"adjusted": "true", "sort": "asc", "limit": "50000"}


def test_a_page_without_bars_is_not_the_last(server) -> None:
    bars = server.bars["SPY"]
    path = "/v2/aggs/ticker/SPY/range/5/minute/1667260800000/1669852800000"
    server.faults = [Fault(body=f'{{"status": "OK", "next_url": "https://api.polygon.io{path}?cursor=0"}}')]
    got = fetch_bars(quick(server), "SPY", "5min", *SPAN)
    assert got.index.equals(bars.index)


def test_unsorted_and_repeated_rows_over_pages(server) -> None:
    bars = server.bars["SPY"]
    late = bars.iloc[[3]] * 1.001
    server.bars["SPY"] = pd.concat([bars[60:], bars[:70], late])
    server.page = 45
    with pytest.warns(UserWarning, match="SPY: 10 copied rows dropped, 1 rows replaced by a later one"):
        got = fetch_bars(quick(server), "SPY", "5min", *SPAN)
    bars.iloc[3] = late.iloc[0]
    pd.testing.assert_frame_equal(got[bars.columns], bars, check_freq=False)


@pytest.mark.parametrize("start", ["2022-10-24", "2022-11-24"])  # summer and winter time
def test_daily_bars_have_naive_dates(server, start) -> None:
    server.bars["SPY"] = daily_bars(start, 15)
    got = fetch_bars(quick(server), "SPY", "1d", start, "2023-01-01")
    assert got.index.equals(pd.bdate_range(start, periods=15).as_unit("ns"))


def test_a_halted_symbol_is_reported(server) -> None:
    server.bars["SPY"] = server.bars["SPY"].drop(server.bars["SPY"].index[20:32])
    with pytest.warns(UserWarning, match="SPY: 12 bars missing in 1 gaps, the first 2022-11-23 16:10:00"):
        got = fetch_bars(quick(server), "SPY", "5min", *SPAN, session="XNYS")
    assert report_bars(got, "5min", session="XNYS").missing == 12


def test_an_empty_answer_is_no_bars(server) -> None:
    with pytest.raises(ProviderError, match=r"`symbols` must have bars at polygon .* got none of NONE"):
        fetch_bars(quick(server), "NONE", "5min", *SPAN)
    assert len(server.asked) == 1


def test_a_symbol_cannot_lead_elsewhere(server) -> None:
    with pytest.raises(ProviderError):
        fetch_bars(quick(server), "../../../v3/reference?x=", "5min", *SPAN)
    assert server.asked[0].path.startswith("/v2/aggs/ticker/../../../v3/reference?x=/range/5")  # quoted on the way


PASSING = {
    "429 with Retry-After": (Fault(429, {"Retry-After": "17"}, '{"status":"ERROR","error":"slow down"}'), 17.0),
    "429 without": (Fault(429, {}, '{"status":"ERROR","error":"slow down"}'), None),
    "500": (Fault(500, {}, '{"status":"ERROR"}'), None),
    "503 of a proxy": (Fault(503, {}, "<html>Service Unavailable</html>"), None),
    "cut connection": (Fault(cut=0.5), None),
    "half an answer": (Fault(cut=0.5, length=False), None),
    "no body": (Fault(body=""), None),
    "no JSON": (Fault(body="<html></html>"), None),
    "another form": (Fault(body='{"status": "OK", "results": [{"t": 1669213800000}]}'), None),
    "an error of 200": (Fault(body='{"status": "ERROR", "error": "internal"}'), None),
    "a list": (Fault(body="[1, 2]"), None),
}


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("page", [0, 1], ids=["first page", "second page"])
def test_what_passes_is_waited_for(server, waits, name, page) -> None:
    fault, wait = PASSING[name]
    server.page = 60
    server.faults = [*[None] * page, fault]
    got = fetch_bars(quick(server), "SPY", "5min", *SPAN)
    pd.testing.assert_frame_equal(got[server.bars["SPY"].columns], server.bars["SPY"], check_freq=False)
    assert len(server.asked) == page + 3
    assert len(waits) == 1
    assert waits[0] == wait if wait else 0.5 <= waits[0] <= 1.0


def test_a_server_that_stays_down_is_given_up(server, waits) -> None:
    server.faults = [Fault(500, {}, "")] * 9
    with pytest.raises(ProviderError, match="polygon must answer within 4 tries and 300 s") as caught:
        fetch_bars(quick(server), "SPY", "5min", *SPAN, patience=Patience(tries=4))
    assert not isinstance(caught.value, TryAgainError)
    assert (len(server.asked), len(waits)) == (4, 3)


def test_no_key_is_said_before_anything_is_asked(server, monkeypatch) -> None:
    monkeypatch.delenv("POLYGON_API_KEY")
    with pytest.raises(ProviderError, match="`POLYGON_API_KEY` must be set in the environment to your Polygon key"):
        fetch_bars(quick(server), "SPY", "5min", *SPAN)
    assert server.asked == []
    monkeypatch.setenv("MASSIVE_API_KEY", POLYGON_KEY)
    assert len(fetch_bars(quick(server), "SPY", "5min", *SPAN)) == 120


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (None, r"`POLYGON_API_KEY` and `MASSIVE_API_KEY` must hold what Polygon accepts .* HTTP 401 \(Unknown API Key"),
        (Fault(403, {}, '{"status":"NOT_AUTHORIZED","message":"Upgrade plan"}'), r"HTTP 403 \(Upgrade plan\)"),
        (Fault(400, {}, '{"status":"ERROR","error":"bad range"}'), r"HTTP 400 \(bad range\)\. Check symbol"),
    ],
)
def test_a_refusal_is_final(server, monkeypatch, waits, fault, said) -> None:
    if fault is None:
        monkeypatch.setenv("POLYGON_API_KEY", "another")
    server.faults = [fault]
    with pytest.raises(ProviderError, match=said):
        fetch_bars(quick(server), "SPY", "5min", *SPAN)
    assert (len(server.asked), waits) == (1, [])


@pytest.mark.parametrize("bar", ["30s", "90s"])
def test_bars_that_polygon_has_not(server, bar) -> None:
    with pytest.raises(ProviderError, match="`bar` must be whole minutes, whole hours or 1 day for Polygon"):
        fetch_bars(quick(server), "SPY", bar, *SPAN)


def test_each_page_waits_for_its_turn(server, waits) -> None:
    server.page = 20  # 6 pages, and 5 a minute
    fetch_bars(Polygon(base_url=server.url), "SPY", "5min", *SPAN)
    assert waits == [60.0]


@pytest.mark.parametrize("fault", [*PASSING, "401", "echo", "echo in a page"])
def test_the_key_is_nowhere(server, waits, caplog, tmp_path, fault) -> None:
    caplog.set_level(logging.DEBUG)
    echo = Fault(403, {"X-Key": POLYGON_KEY}, f'{{"error": "{POLYGON_KEY} is not allowed"}}')
    page = Fault(body=f'{{"status": "ERROR", "error": "{POLYGON_KEY} is not allowed"}}')
    faults = {"401": Fault(401, {}, "{}"), "echo": echo, "echo in a page": page}
    server.faults = [faults[fault] if fault in faults else PASSING[fault][0]] * 9
    provider = quick(server)
    with pytest.raises(ProviderError) as caught:
        fetch_bars(provider, "SPY", "5min", *SPAN, cache=tmp_path, patience=Patience(tries=2))
    said = [*everything_said(caught.value), caplog.text, repr(provider), str(vars(provider))]
    said += [str(vars(record)) for record in caplog.records]
    assert caplog.records
    assert not [key for key in PLANTED if key in "\n".join(said)]


def endless(fresh):
    """Answer with one page after the other: always the same one, or each another."""

    def route(server, asked):
        status, page = provider_server.polygon(server, asked)
        page["next_url"] = f"https://api.polygon.io{asked.path}?cursor={len(server.asked) if fresh else 0}"
        return status, page

    return route


def test_a_page_that_names_itself_is_the_last(server, waits, caplog) -> None:
    server.routes = dict.fromkeys(server.routes, endless(fresh=False))
    with pytest.raises(
        ProviderError, match="Polygon must name a new page after each; it named the same one twice"
    ) as caught:
        fetch_bars(quick(server), "SPY", "5min", *SPAN)
    assert (len(server.asked), waits) == (2, [])
    assert not [key for key in PLANTED if key in "\n".join(everything_said(caught.value))]


def test_pages_without_end_end_with_the_time(server, monkeypatch) -> None:
    monkeypatch.setattr(_patience, "_clock", lambda: 3.0 * len(server.asked))  # three seconds a page
    server.routes = dict.fromkeys(server.routes, endless(fresh=True))
    with pytest.raises(ProviderError, match=r"polygon must give all pages within 20 s; it still has more\.") as caught:
        fetch_bars(quick(server), "SPY", "5min", *SPAN, patience=Patience(tries=1, seconds=20))
    assert len(server.asked) == 7
    assert not [key for key in PLANTED if key in "\n".join(everything_said(caught.value))]
