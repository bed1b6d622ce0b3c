"""Schwab: the real schwab-py, speaking with a local server in Schwab's format, and its secrets."""

import functools
import json
import logging
import re
import sys
import time
import traceback

import numpy as np
import pandas as pd
import pytest
from yahoo_server import local_server

from ensemble_kit.datasets import read_bars
from ensemble_kit.datasets.providers.fetch import Patience, fetch_bars
from ensemble_kit.datasets.providers.report import report_bars
from ensemble_kit.datasets.providers.request import Request
from ensemble_kit.datasets.providers.schwab import Schwab
from ensemble_kit.exceptions import ProviderError, TryAgainError

pytest.importorskip("httpx")

SECRETS = {
    "key": "PLANTEDKEY41",
    "secret": "PLANTEDSECRET42",
    "access": "PLANTEDACCESS43",
    "refresh": "PLANTEDREFRESH44",
}
OPEN, CLOSE = pd.Timestamp("2024-11-29 14:30", tz="UTC"), pd.Timestamp("2024-11-29 18:00", tz="UTC")  # a half day
EXPIRED = (
    "The token in the file of `SCHWAB_TOKEN_PATH` must be this app's and valid; Schwab refuses it (it lives 7 days). "
    "Log in with schwab-py's `schwab.auth.client_from_login_flow`, or its `schwab-generate-token.py`."
)


def token(*, expires_in=1800):
    return {
        "access_token": SECRETS["access"],
        "refresh_token": SECRETS["refresh"],
        "token_type": "Bearer",
        "expires_in": expires_in,
        "expires_at": int(time.time()) + expires_in,
        "scope": "api",
    }


def write_token(path, **more):
    path.write_text(json.dumps({"creation_timestamp": int(time.time()), "token": token(**more)}), encoding="utf-8")


@pytest.fixture(autouse=True)
def keys(monkeypatch, tmp_path):
    pytest.importorskip("authlib")
    path = tmp_path / "token.json"
    write_token(path)
    monkeypatch.setenv("SCHWAB_API_KEY", SECRETS["key"])
    monkeypatch.setenv("SCHWAB_APP_SECRET", SECRETS["secret"])
    monkeypatch.setenv("SCHWAB_TOKEN_PATH", str(path))
    return path


def request(symbol="SPY", bar="5min", start="2024-11-29", end="2024-11-30"):
    return Request(symbol, pd.Timedelta(bar), pd.Timestamp(start, tz="UTC"), pd.Timestamp(end, tz="UTC"))


def candles(times, first=10.0):
    rows = [
        {"open": first + i, "high": 12.5 + i, "low": 9.0 + i, "close": 11.0 + i, "volume": 100 + i, "datetime": t}
        for i, t in enumerate(pd.DatetimeIndex(times).as_unit("ms").asi8.tolist())
    ]
    return 200, {}, json.dumps({"symbol": "SPY", "empty": not rows, "candles": rows}).encode()


FIVE = pd.date_range(OPEN, CLOSE, freq="5min", inclusive="left")


def serve(*answers, tokens=(200, {}, b"")):
    """Answer requests for bars in turn, the last one again and again; and those for tokens."""
    left = list(answers)

    def answer(path, query, headers):
        if path == "/v1/oauth/token":
            return tokens
        assert path == "/marketdata/v1/pricehistory"
        assert headers["Authorization"] == f"Bearer {SECRETS['access']}"
        return left.pop(0) if len(left) > 1 else left[0]

    return local_server(answer)


def test_a_half_day_with_a_halt_in_utc():
    with serve(candles(FIVE.delete([5, 6]))) as server:
        bars = Schwab(server.url).fetch(request())
        query = server.asked[-1][1]
    assert list(bars.columns) == ["open", "high", "low", "close", "volume"]
    assert (bars.dtypes == np.float64).all()
    assert bars.index.equals(FIVE.delete([5, 6]).rename("datetime"))
    assert list(bars.iloc[0]) == [10.0, 12.5, 9.0, 11.0, 100.0]
    assert (query["frequencyType"], query["frequency"]) == ("minute", "5")
    assert query["needExtendedHoursData"] == "false"
    assert query["startDate"] == str(1000 * int(pd.Timestamp("2024-11-29", tz="UTC").timestamp()))
    report = report_bars(bars, "5min", session="XNYS")
    assert [(gap.start, gap.bars) for gap in report.gaps] == [(FIVE[5], 2)]


def test_a_month_of_real_bars_comes_through_as_it_is(shared_data):
    real = read_bars(shared_data / "spy_5min_2022_2023.parquet").loc["2022-11"]
    real = real[["open", "high", "low", "close", "volume"]]
    times = real.index.as_unit("ms").asi8.tolist()
    rows = [row | {"datetime": t} for row, t in zip(real.to_dict("records"), times, strict=True)]
    with serve((200, {}, json.dumps({"symbol": "SPY", "candles": rows}).encode())) as server:
        bars = fetch_bars(Schwab(server.url), "SPY", "5min", "2022-11-01", "2022-12-01")
    pd.testing.assert_frame_equal(bars, real.set_axis(real.index.as_unit("ns").rename("datetime")), check_freq=False)
    # The day after Thanksgiving ends at 13:00; what this file has of its evening is outside the session, and no gap.
    report = report_bars(bars, "5min", session="XNYS")
    assert report.outside == (bars.loc["2022-11-25"].index >= "2022-11-25 18:00+00:00").sum() > 0
    assert not [gap for gap in report.gaps if gap.start.day == 25]


def test_daily_candles_have_new_york_s_dates():
    # Midnight in Chicago, which is not the same hour in UTC before and after the clocks change; and Chicago's 19:00.
    times = pd.DatetimeIndex(["2024-11-01 05:00", "2024-11-04 06:00", "2024-11-05 06:00"], tz="UTC")
    with serve(candles(times)) as server:
        provider = Schwab(server.url)
        bars = provider.fetch(request(bar="1D", start="2024-11-01", end="2024-11-06"))
        assert server.asked[-1][1]["frequencyType"] == "daily"
    assert list(bars.index) == [pd.Timestamp(day) for day in ("2024-11-01", "2024-11-04", "2024-11-05")]
    assert bars.index.tz is None
    assert provider.adjustment == "splits"


def test_no_candles_are_no_bars():
    with serve(candles([])) as server:
        bars = Schwab(server.url).fetch(request())
        daily = Schwab(server.url).fetch(request(bar="1D"))
    assert bars.empty
    assert str(bars.index.tz) == "UTC"
    assert daily.index.tz is None


def test_an_old_token_is_refreshed_and_written(keys):
    write_token(keys, expires_in=-10)
    fresh = json.dumps(token() | {"scope": "fresh"}).encode()
    with serve(candles(FIVE), tokens=(200, {}, fresh)) as server:
        assert len(Schwab(server.url).fetch(request())) == len(FIVE)
        assert [path for path, _ in server.asked] == ["/v1/oauth/token", "/marketdata/v1/pricehistory"]
    assert json.loads(keys.read_text())["token"]["scope"] == "fresh"


@pytest.mark.parametrize(
    ("tokens", "kind", "message"),
    [
        ((400, {}, b'{"error": "invalid_grant", "error_description": "PLANTEDREFRESH44"}'), ProviderError, EXPIRED),
        ((401, {}, b'{"errors": [{"title": "PLANTEDSECRET42"}]}'), ProviderError, EXPIRED),
        (
            (429, {"Retry-After": "9"}, b"{}"),
            TryAgainError,
            "Schwab must answer; got HTTP 429 (asked for a token). Ask again later.",
        ),
        (
            (500, {}, b"{}"),
            TryAgainError,
            "Schwab must answer; got HTTP 500 (asked for a token). Ask again later.",
        ),
        (
            (200, {}, b'{"access_to'),
            TryAgainError,
            "Schwab must answer whole and readably; got: no token when asked for one. Ask again later.",
        ),
        (
            (200, {}, b"[]"),
            TryAgainError,
            "Schwab must answer whole and readably; got: no token when asked for one. Ask again later.",
        ),
    ],
)
def test_a_refused_refresh_leaves_the_token_file_alone(keys, tokens, kind, message):
    write_token(keys, expires_in=-10)
    before = keys.read_bytes()
    with serve(candles(FIVE), tokens=tokens) as server:
        with pytest.raises(ProviderError, match=f"^{re.escape(message)}$") as caught:
            Schwab(server.url).fetch(request())
        assert {path for path, _ in server.asked} == {"/v1/oauth/token"}
    assert type(caught.value) is kind
    assert keys.read_bytes() == before


REFUSALS = {
    "401": ((401, {}, b'{"errors": []}'), ProviderError, EXPIRED),
    "403": (
        (403, {}, b""),
        ProviderError,
        (
            "`SCHWAB_API_KEY` and `SCHWAB_APP_SECRET` must hold what Schwab accepts for this request; got HTTP 403 "
            "(SPY, 2024-11-29 00:00:00+00:00 to 2024-11-30 00:00:00+00:00). Check the key, and what its plan includes."
        ),
    ),
    "404": (
        (404, {}, b""),
        ProviderError,
        (
            "The request must be one that Schwab can answer; got HTTP 404 (SPY, 2024-11-29 00:00:00+00:00 "
            "to 2024-11-30 00:00:00+00:00). Check symbol, bar and dates."
        ),
    ),
    "429": (
        (429, {"Retry-After": "9"}, b""),
        TryAgainError,
        (
            "Schwab must answer; got HTTP 429 (SPY, 2024-11-29 00:00:00+00:00 to 2024-11-30 00:00:00+00:00). "
            "Ask again later."
        ),
    ),
    "503": (
        (503, {}, b""),
        TryAgainError,
        (
            "Schwab must answer; got HTTP 503 (SPY, 2024-11-29 00:00:00+00:00 to 2024-11-30 00:00:00+00:00). "
            "Ask again later."
        ),
    ),
    "empty": (
        (200, {}, b""),
        TryAgainError,
        "Schwab must answer whole and readably; got: JSONDecodeError about SPY. Ask again later.",
    ),
    "truncated": (
        (200, {}, candles(FIVE)[2][:-30]),
        TryAgainError,
        "Schwab must answer whole and readably; got: JSONDecodeError about SPY. Ask again later.",
    ),
    "cut": (
        (200, {"Content-Length": "100000"}, candles(FIVE)[2]),
        TryAgainError,
        "Schwab must answer whole and readably; got: RemoteProtocolError about SPY. Ask again later.",
    ),
    "no candles": (
        (200, {}, b'{"symbol": "SPY"}'),
        TryAgainError,
        "Schwab must answer whole and readably; got: KeyError about SPY. Ask again later.",
    ),
    "half a candle": (
        (200, {}, b'{"candles": [{"open": 1.0, "datetime": null}]}'),
        TryAgainError,
        "Schwab must answer whole and readably; got: TypeError about SPY. Ask again later.",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    answer, kind, message = REFUSALS[case]
    with serve(answer, candles(FIVE)) as server:
        provider = Schwab(server.url)
        with pytest.raises(ProviderError, match=f"^{re.escape(message)}$") as caught:
            provider.fetch(request())
        assert type(caught.value) is kind
        if "Retry-After" in answer[1]:
            assert caught.value.retry_after == 9
        assert len(provider.fetch(request())) == len(FIVE)


def test_nobody_there():
    with serve(candles([])) as server:
        url = server.url
    with pytest.raises(TryAgainError, match=r"got: ConnectError about SPY\. Ask again later\.$"):
        Schwab(url).fetch(request())


@pytest.mark.parametrize("name", ["SCHWAB_API_KEY", "SCHWAB_APP_SECRET", "SCHWAB_TOKEN_PATH"])
def test_a_missing_key_is_named_before_anything_is_asked(monkeypatch, name):
    monkeypatch.delenv(name)
    with serve(candles(FIVE)) as server:
        with pytest.raises(
            ProviderError, match=f"^`{name}` must be set in the environment to your Schwab key; got none"
        ):
            fetch_bars(Schwab(server.url), "SPY", "5min", "2024-11-29")
        assert not server.asked


def test_a_token_file_that_cannot_be_written(keys, monkeypatch):
    write_token(keys, expires_in=-10)
    monkeypatch.setattr("builtins.open", functools.partial(read_only, open))
    with serve(candles(FIVE), tokens=(200, {}, json.dumps(token()).encode())) as server:
        message = "`SCHWAB_TOKEN_PATH` must name a file that can be written; got: Permission denied."
        with pytest.raises(ProviderError, match=f"^{re.escape(message)}$"):
            Schwab(server.url).fetch(request())


def read_only(really_open, path, mode="r", *args, **options):
    """Refuse to write, also to root."""
    if "w" in mode:
        raise PermissionError(13, "Permission denied", str(path))
    return really_open(path, mode, *args, **options)


def test_a_token_file_that_is_none(keys):
    keys.write_text(f'{{"access_token": "{SECRETS["access"]}", ', encoding="utf-8")
    with pytest.raises(
        ProviderError, match=r"must name a file as schwab-py's login writes it; got '.*token\.json'"
    ) as it:
        Schwab().fetch(request())
    assert leaks(it.value, "") == []
    keys.unlink()
    with pytest.raises(ProviderError, match=r"^`SCHWAB_TOKEN_PATH` must name the file that schwab-py's login wrote"):
        Schwab().check(request())


@pytest.mark.parametrize("bar", ["1h", "2min"])
def test_a_bar_that_schwab_has_not(bar):
    with pytest.raises(ProviderError, match=r"^`bar` must be one of 1min, 5min, 10min, 15min, 30min, 1D from Schwab"):
        Schwab().check(request(bar=bar))


def leaks(error, *places):
    """Return the secrets that stand in the whole chain of an error, what its links hold, or in the places."""
    seen, chain = "".join(places), []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for link in chain:
        seen += repr(link) + str(link.__dict__) + repr(getattr(link, "doc", ""))
        seen += "".join(traceback.format_exception(link))
    return [name for name, secret in SECRETS.items() if secret in seen]


@pytest.mark.parametrize(
    "answer",
    [case[0] for case in REFUSALS.values()] + [(400, {}, json.dumps(SECRETS).encode())],
    ids=[*REFUSALS, "a server that repeats what it was sent"],
)
def test_no_secret_is_told(answer, capsys, caplog, tmp_path, monkeypatch, keys):
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    write_token(keys, expires_in=-10)
    refreshed = (200, {}, json.dumps(token()).encode())
    with serve(answer, tokens=refreshed) as server, pytest.raises(ProviderError) as caught:
        fetch_bars(
            Schwab(server.url), "SPY", "5min", "2024-11-29", cache=tmp_path / "cache", patience=Patience(tries=1)
        )
    assert caplog.records
    assert leaks(caught.value, *capsys.readouterr(), caplog.text) == []
    for file in tmp_path.rglob("*"):
        if file.is_file() and file != keys:
            assert not any(secret.encode() in file.read_bytes() for secret in SECRETS.values()), file


def test_no_secret_is_told_on_a_good_day(capsys, caplog, tmp_path, monkeypatch, keys):
    caplog.set_level(logging.DEBUG)
    write_token(keys, expires_in=-10)
    with serve(candles(FIVE), tokens=(200, {}, json.dumps(token()).encode())) as server:
        bars = fetch_bars(Schwab(server.url), "SPY", "5min", "2024-11-29", "2024-11-30", cache=tmp_path / "cache")
    assert len(bars) == len(FIVE)
    assert caplog.records
    assert leaks(None, *capsys.readouterr(), caplog.text, repr(bars.attrs)) == []
    for file in (tmp_path / "cache").rglob("*"):
        if file.is_file():
            assert not any(secret.encode() in file.read_bytes() for secret in SECRETS.values()), file


def test_without_schwab_py(monkeypatch):
    monkeypatch.setitem(sys.modules, "schwab", None)
    monkeypatch.setitem(sys.modules, "schwab.auth", None)
    message = "`schwab-py` must be installed for these bars; it is not. Run `pip install 'ensemble-kit[schwab]'`."
    with pytest.raises(ProviderError, match=f"^{re.escape(message)}$"):
        Schwab().check(request())
