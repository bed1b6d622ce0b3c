"""Yahoo: the real yfinance, speaking with a local server in Yahoo's format."""

import logging
import re
import sys

import numpy as np
import pandas as pd
import pytest
from yahoo_server import chart, local_server, refusal

from ensemble_kit.datasets.providers import yahoo
from ensemble_kit.datasets.providers.fetch import fetch_bars
from ensemble_kit.datasets.providers.report import report_bars
from ensemble_kit.datasets.providers.request import Request
from ensemble_kit.datasets.providers.yahoo import Yahoo
from ensemble_kit.exceptions import ProviderError, TryAgainError

NOW = pd.Timestamp("2024-12-02 12:00", tz="UTC")
OPEN, CLOSE = pd.Timestamp("2024-11-29 14:30", tz="UTC"), pd.Timestamp("2024-11-29 18:00", tz="UTC")  # a half day


@pytest.fixture(scope="module", autouse=True)
def no_user_folder(tmp_path_factory):
    yf = pytest.importorskip("yfinance")
    yf.set_tz_cache_location(str(tmp_path_factory.mktemp("yfinance")))


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    from yfinance.data import SingletonMeta

    SingletonMeta._instances.clear()
    monkeypatch.setattr(yahoo, "_now", lambda: NOW)
    yield
    SingletonMeta._instances.clear()


def request(symbol="SPY", bar="1D", start="2024-11-25", end="2024-11-30"):
    return Request(symbol, pd.Timedelta(bar), pd.Timestamp(start, tz="UTC"), pd.Timestamp(end, tz="UTC"))


def seconds(time):
    return int(pd.Timestamp(time).timestamp())


def days(n=5):
    """n daily rows as Yahoo stamps them, with the open in New York."""
    times = pd.date_range("2024-11-25 14:30", periods=n, freq="D", tz="UTC")
    return [(seconds(t), 10.0 + i, 12.0 + i, 9.0 + i, 11.0 + i, 1000 + i) for i, t in enumerate(times)]


def five_minutes(start=OPEN, end=CLOSE):
    times = pd.date_range(start, end, freq="5min", inclusive="left")
    return [(seconds(t), 10.0 + i, 12.0 + i, 9.0 + i, 11.0 + i, 100) for i, t in enumerate(times)]


def serve(*answers):
    """Answer requests for bars in turn (the last one again and again), and others as Yahoo's cookie pages do."""
    left = list(answers)

    def answer(path, query, headers):
        if not path.startswith("/v8/finance/chart/"):
            return 200, {}, b"crumb"
        if "range" in query:  # yfinance looks for the time zone first
            return 200, {}, chart("SPY", days(1))
        return left.pop(0) if len(left) > 1 else left[0]

    return local_server(answer)


def ok(rows, **more):
    return 200, {}, chart("SPY", rows, **more)


def test_daily_bars_are_adjusted_and_have_naive_dates():
    # A dividend before day 2 and a split before day 3, which Yahoo's own prices know of already.
    adjusted = [(11.0 + i) * (0.9 if i < 2 else 1.0) for i in range(5)]
    split = {"date": seconds("2024-11-28 14:30+00:00"), "numerator": 4, "denominator": 1, "splitRatio": "4:1"}
    with serve(ok(days(), adjusted=adjusted, splits=[split])) as server:
        provider = Yahoo(server.url)
        bars = provider.fetch(request())
        query = server.asked[-1][1]
    assert list(bars.columns) == ["open", "high", "low", "close", "volume"]
    assert (bars.dtypes == np.float64).all()
    assert bars.index.equals(pd.date_range("2024-11-25", periods=5, name="datetime"))
    assert bars.index.tz is None
    np.testing.assert_allclose(bars["close"], adjusted, rtol=1e-15)
    np.testing.assert_allclose(bars["open"], [9.0, 9.9, 12, 13, 14], rtol=1e-15)
    assert list(bars["volume"]) == [1000, 1001, 1002, 1003, 1004]
    # New York's days, not UTC's.
    assert query["period1"] == str(seconds("2024-11-25 05:00+00:00"))
    assert query["period2"] == str(seconds("2024-11-30 05:00+00:00"))
    assert query["includePrePost"] == "false"
    assert provider.adjustment == "splits and dividends"


def test_dates_are_the_exchange_s_east_of_utc_too():
    rows = [(seconds("2024-11-24 23:00+00:00"), 1.0, 2.0, 0.5, 1.5, 7)]  # Sydney opens the day before, by UTC

    def answer(path, query, headers):
        return 200, {}, chart("BHP.AX", rows, zone="Australia/Sydney")

    with local_server(answer) as server:
        bars = Yahoo(server.url).fetch(request("BHP.AX"))
        assert server.asked[-1][1]["period1"] == str(seconds("2024-11-24 13:00+00:00"))
    assert list(bars.index) == [pd.Timestamp("2024-11-25")]


def test_a_half_day_ends_at_its_close_and_a_halted_bar_is_no_row():
    rows = five_minutes(end=CLOSE + pd.Timedelta("10min"))  # Yahoo sends some of the evening along
    rows[5] = (rows[5][0], None, None, None, None, None)
    with serve(ok(rows, periods=[(seconds(OPEN), seconds(CLOSE))])) as server:
        provider = Yahoo(server.url)
        bars = provider.fetch(request(bar="5min", start="2024-11-29"))
    assert bars.index[0] == OPEN
    assert bars.index[-1] == CLOSE - pd.Timedelta("5min")
    assert str(bars.index.tz) == "UTC"
    assert len(bars) == 42 - 1
    assert provider.adjustment == "splits"
    report = report_bars(bars, "5min", session="XNYS")
    assert (report.missing, report.outside) == (1, 0)
    assert report.gaps[0].start == OPEN + pd.Timedelta("25min")


def test_the_live_quote_is_no_bar():
    rows = [*five_minutes()[:3], (seconds(OPEN) + 15 * 60 + 32, 1.0, 2.0, 0.5, 1.5, 0)]
    with serve(ok(rows, periods=[(seconds(OPEN), seconds(CLOSE))])) as server:
        bars = Yahoo(server.url).fetch(request(bar="5min", start="2024-11-29"))
    assert list(bars.index) == list(pd.date_range(OPEN, periods=3, freq="5min"))


def test_minutes_come_in_pages_of_seven_days():
    def answer(path, query, headers):
        if "period1" not in query:
            return 200, {}, chart("SPY", days(1))
        start = int(query["period1"])
        assert int(query["period2"]) - start <= 7 * 86400
        day = pd.Timestamp(start, unit="s", tz="UTC").normalize() + pd.Timedelta("14h30min")
        rows = [(seconds(day) + 60 * i, 1.0, 2.0, 0.5, 1.5, 7) for i in range(3)]
        return 200, {}, chart("SPY", rows, periods=[(seconds(day), seconds(day) + 23400)])

    with local_server(answer) as server:
        bars = Yahoo(server.url).fetch(request(bar="1min", start="2024-11-10", end="2024-11-25"))
    opens = ["2024-11-10 14:30", "2024-11-17 14:30", "2024-11-24 14:30"]
    assert list(bars.index[::3]) == [pd.Timestamp(time, tz="UTC") for time in opens]


@pytest.mark.parametrize(
    ("bar", "reach", "first"),
    [("1min", 30, "2024-11-03"), ("5min", 60, "2024-10-04"), ("90min", 60, "2024-10-04"), ("1h", 730, "2022-12-04")],
)
def test_a_start_too_long_ago_names_the_earliest_day(bar, reach, first):
    shown = {"1h": "60min"}.get(bar, bar)
    message = (
        f"`start` must be within the last {reach} days for bars of {shown} from Yahoo; got 2020-01-02. "
        f"The earliest whole day is {first}; daily bars go further back."
    )
    with pytest.raises(ProviderError, match=f"^{re.escape(message)}$"):
        Yahoo().check(request(bar=bar, start="2020-01-02"))
    Yahoo().check(request(bar=bar, start=first))


def test_a_bar_that_yahoo_has_not():
    message = (
        "`bar` must be one of 1min, 2min, 5min, 15min, 30min, 1h, 90min, 1D from Yahoo; got 10min. "
        "Fetch a shorter bar and resample it."
    )
    with pytest.raises(ProviderError, match=f"^{re.escape(message)}$"):
        Yahoo().check(request(bar="10min"))


def test_an_unknown_symbol():
    with local_server(lambda *_: (404, {}, refusal("Not Found", "No data found, symbol may be delisted"))) as server:
        message = (
            "`symbols` must be known to Yahoo; got NOPE. Look it up at finance.yahoo.com: it may be delisted, or "
            "spelt otherwise (BRK-B, ^GSPC, EURUSD=X)."
        )
        with pytest.raises(ProviderError, match=f"^{re.escape(message)}$") as caught:
            Yahoo(server.url).fetch(request("NOPE"))
    assert not isinstance(caught.value, TryAgainError)


@pytest.mark.parametrize(
    "nothing",
    [
        ok([]),
        (400, {}, refusal("Bad Request", "Data doesn't exist for startDate = 1732510800, endDate = 1732942800")),
    ],
    ids=["empty", "refused"],
)
def test_no_bars_in_the_range_are_no_error(nothing):
    with serve(nothing) as server:
        daily = Yahoo(server.url).fetch(request())
        minutes = Yahoo(server.url).fetch(request(bar="5min"))
    assert daily.empty
    assert minutes.empty
    assert daily.index.tz is None
    assert str(minutes.index.tz) == "UTC"


def test_a_refused_range_says_why():
    why = "5m data not available for startDate=1 and endDate=2. The requested range must be within the last 60 days."
    with serve((422, {}, refusal("Unprocessable Entity", why))) as server, pytest.raises(ProviderError) as caught:
        Yahoo(server.url).fetch(request(bar="5min"))
    assert not isinstance(caught.value, TryAgainError)
    assert why in str(caught.value)


BAD = {
    "rate limit": (429, {"Retry-After": "7"}, b"Too Many Requests"),
    "fault": (500, {}, b'{"finance": {"error": {"code": "Internal"}}}'),
    "busy": (503, {"Retry-After": "7"}, b""),
    "turned away": (401, {}, b'{"finance": {"error": {"code": "Unauthorized", "description": "Invalid Crumb"}}}'),
    "empty": (200, {}, b""),
    "truncated": (200, {}, chart("SPY", days())[:-40]),
    "cut": (200, {"Content-Length": "100000"}, chart("SPY", days())),
    "ragged": (200, {}, chart("SPY", days()).replace(b"[1000, ", b"[")),
    "down": (200, {}, b"<html>Will be right back</html>"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_may_pass_can_be_asked_again(bad, capsys, caplog):
    caplog.set_level(logging.WARNING)
    # As often as yfinance itself asks for one answer.
    left = [BAD[bad]] * (2 if BAD[bad][0] in {401, 429} else 1)
    with serve(*left, ok(days())) as server:
        provider = Yahoo(server.url)
        with pytest.raises(TryAgainError) as caught:
            provider.fetch(request())
        assert len(provider.fetch(request())) == 5
    if "Retry-After" in BAD[bad][1]:
        assert caught.value.retry_after == 7
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


def test_nobody_there():
    with serve(ok(days())) as server:
        url = server.url
    with pytest.raises(TryAgainError, match="about SPY"):
        Yahoo(url).fetch(request())


def test_yfinance_is_left_as_it_was():
    import yfinance as yf

    with serve(BAD["fault"]) as server, pytest.raises(TryAgainError):
        Yahoo(server.url).fetch(request())
    assert yf.config.debug.hide_exceptions is True


def test_fetch_bars_waits_and_makes_a_panel(monkeypatch):
    import ensemble_kit.datasets.providers._patience as patience

    slept = []
    monkeypatch.setattr(patience, "_sleep", slept.append)
    with serve(*[BAD["rate limit"]] * 2, ok(days())) as server:
        bars = fetch_bars(Yahoo(server.url), ["SPY", "QQQ"], "1D", "2024-11-25", "2024-11-30")
    assert slept == [7.0]
    assert bars.shape == (10, 5)
    assert list(bars.index.get_level_values(1)[:2]) == ["QQQ", "SPY"]
    assert bars.attrs["adjustment"] == "splits and dividends"


def test_without_yfinance(monkeypatch):
    monkeypatch.setitem(sys.modules, "yfinance", None)
    message = "`yfinance` must be installed for these bars; it is not. Run `pip install 'ensemble-kit[yahoo]'`."
    with pytest.raises(ProviderError, match=f"^{re.escape(message)}$"):
        Yahoo().check(request())
