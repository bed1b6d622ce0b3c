"""A server on the loopback address that answers as the providers' data interfaces do, or fails as told."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pandas as pd

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import EnsembleKitError

KEY_ID = "PKPLANTEDKEYID0001"
SECRET = "plantedsecret0002plantedsecret"
POLYGON_KEY = "plantedpolygonkey0003"
PLANTED = (KEY_ID, SECRET, POLYGON_KEY)


@dataclass
class Fault:
    """What is answered in place of bars, once."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None  # None: the right answer
    cut: float = 1.0  # the share of the body that is sent before the connection ends
    length: bool = True  # whether the length sent is the whole body's


@dataclass
class Asked:
    """A request as it came."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


# Takes the server and a request, returns status and page.
Route = Callable[["ProviderServer", Asked], tuple[int, Any]]


class ProviderServer:
    """Bars by symbol and bar (as the provider spells it, or by symbol alone), in the order in which they are given."""

    def __init__(self, *, page: int = 100_000) -> None:
        self.page = page
        self.bars: dict[str, pd.DataFrame] = {}
        self.faults: list[Fault | None] = []
        self.asked: list[Asked] = []
        self.routes: dict[str, Route] = {"/v2/stocks/bars": alpaca, "/v2/aggs/ticker/": polygon}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def find(self, symbol: str, bar: str) -> pd.DataFrame:
        """The bars of a symbol, none if there are none."""
        return self.bars.get(f"{symbol} {bar}", self.bars.get(symbol, make_bars(1, random_state=0)[:0]))

    def answer(self, asked: Asked) -> tuple[int, Any]:
        for start, route in self.routes.items():
            if asked.path.startswith(start):
                return route(self, asked)
        return 404, {"message": "not found"}


def _handler(server: ProviderServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            asked = Asked(unquote(url.path), query, dict(self.headers))
            server.asked.append(asked)
            fault = (server.faults.pop(0) if server.faults else None) or Fault()
            status, page = (fault.status, fault.body) if fault.body is not None else server.answer(asked)
            body = (page if isinstance(page, str) else json.dumps(page)).encode()
            sent = body[: int(len(body) * fault.cut)]
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body if fault.length else sent)))
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)
            if fault.cut < 1.0:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


# ------------------------------------------------------------------- their formats


def alpaca(server: ProviderServer, asked: Asked) -> tuple[int, Any]:
    """`GET /v2/stocks/bars`: both ends belong to the span; times are RFC 3339 in UTC."""
    if (asked.headers.get("APCA-API-KEY-ID"), asked.headers.get("APCA-API-SECRET-KEY")) != (KEY_ID, SECRET):
        return 401, {"message": "forbidden."}
    query = asked.query
    bars = server.find(query["symbols"], query["timeframe"])
    bars = bars[(bars.index >= pd.Timestamp(query["start"])) & (bars.index <= pd.Timestamp(query["end"]))]
    first = int(query.get("page_token") or 0)
    page = bars[first : first + min(server.page, int(query["limit"]))]
    rows = [
        {"t": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "o": o, "h": h, "l": l, "c": c, "v": int(v), "n": 1, "vw": c}
        for time, (o, h, l, c, v) in zip(page.index, page.to_numpy(), strict=True)
    ]
    following = first + len(page)
    return 200, {
        "bars": {query["symbols"]: rows} if rows else {},
        "next_page_token": str(following) if following < len(bars) else None,
    }


def polygon(server: ProviderServer, asked: Asked) -> tuple[int, Any]:
    """`GET /v2/aggs/ticker/{}/range/{}/{}/{}/{}`: both ends belong to the span; times are milliseconds."""
    if asked.headers.get("Authorization") != f"Bearer {POLYGON_KEY}":
        return 401, {"status": "ERROR", "request_id": "1", "error": "Unknown API Key"}
    *_, symbol, _, many, unit, start, end = asked.path.split("/")
    bars = server.find(symbol, f"{many} {unit}")
    at = bars.index.as_unit("ms").asi8
    inside = (at >= int(start)) & (at <= int(end))
    bars, at = bars[inside], at[inside]
    first = int(asked.query.get("cursor", 0))
    last = first + server.page
    rows = [
        {"t": int(t), "o": o, "h": h, "l": l, "c": c, "v": v, "vw": c, "n": 1}
        for t, (o, h, l, c, v) in zip(at[first:last], bars.to_numpy()[first:last], strict=True)
    ]
    page: dict[str, Any] = {"ticker": symbol, "adjusted": True, "status": "OK", "resultsCount": len(rows)}
    if rows:
        page["results"] = rows
    if last < len(bars):
        page["next_url"] = f"https://api.polygon.io{asked.path}?cursor={last}"
    return 200, page


# -------------------------------------------------------------------- what they hold


def session_bars(*days: str, bar: str = "5min", seed: int = 0) -> pd.DataFrame:
    """Bars of New York's sessions on some days, in UTC; 2022-11-25 is a half day."""
    opens = [pd.Timestamp(f"{day} 09:30", tz="America/New_York") for day in days]
    closes = [time + pd.Timedelta("3.5h" if f"{time:%m-%d}" == "11-25" else "6.5h") for time in opens]
    each = [pd.date_range(a, b, freq=bar, inclusive="left") for a, b in zip(opens, closes, strict=True)]
    index = pd.DatetimeIndex(np.concatenate([times.tz_convert("UTC").tz_localize(None) for times in each]))
    bars = make_bars(len(index), random_state=seed).round(4)
    bars["volume"] = bars["volume"].round()
    return bars.set_axis(index.tz_localize("UTC").as_unit("ns").rename("datetime"))


def daily_bars(start: str, n: int, *, seed: int = 0) -> pd.DataFrame:
    """Daily bars by weekday, at midnight in New York, as Alpaca and Polygon time them."""
    index = pd.bdate_range(start, periods=n, tz="America/New_York").tz_convert("UTC")
    bars = make_bars(n, random_state=seed).round(4)
    bars["volume"] = bars["volume"].round()
    return bars.set_axis(index.as_unit("ns").rename("datetime"))


# ------------------------------------------------------------------- what was said


def everything_said(error: BaseException) -> list[str]:
    """All that an error, those chained to it and the frames they came through show, without the test's own."""
    said: list[str] = []
    seen: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or one in seen:
            continue
        seen.append(one)
        left += [one.__cause__, one.__context__]
        # A client's error holds its request, and that the key.
        assert isinstance(one, EnsembleKitError), repr(one)
        said.append(f"{one!r} {one} {vars(one)}")
        frames = traceback.StackSummary.extract(traceback.walk_tb(one.__traceback__), capture_locals=True)
        said += [str(frame.locals) for frame in frames if "/tests/" not in frame.filename]
    return said
