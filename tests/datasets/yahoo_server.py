"""A local HTTP server that answers as Yahoo's chart service does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, dict[str, str], bytes]


class LocalServer:
    """What the server was asked for, and what it is to answer."""

    def __init__(self, answer: Callable[[str, dict[str, str], dict[str, str]], Answer]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""


@contextmanager
def local_server(answer: Callable[[str, dict[str, str], dict[str, str]], Answer]) -> Iterator[LocalServer]:
    """Serve on a free port of the loopback address; `answer(path, query, headers)` gives status, headers and body."""
    served = LocalServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            if length := int(self.headers.get("Content-Length") or 0):
                self.rfile.read(length)
            served.asked.append((parts.path, query))
            served.headers.append(dict(self.headers))
            status, headers, body = served.answer(parts.path, query, dict(self.headers))
            self.send_response(status)
            usual = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            for key, value in (usual | headers).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)  # the connection closes after it, also where more was announced

        do_POST = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chart(symbol, rows, *, adjusted=None, splits=None, periods=(), zone="America/New_York"):
    """Return a chart answer: rows of (epoch s, open, high, low, close, volume), None where nothing traded."""
    times, *values = ([list(column) for column in zip(*rows, strict=True)]) if rows else ([], [], [], [], [], [])
    quote = dict(zip(("open", "high", "low", "close", "volume"), values, strict=True)) if rows else {}
    result = {
        "meta": {
            "currency": "USD",
            "symbol": symbol,
            "instrumentType": "EQUITY",
            "exchangeTimezoneName": zone,
            "timezone": "EST",
            "gmtoffset": -18000,
            "validRanges": ["1d", "5d", "max"],
            "priceHint": 2,
        },
        "indicators": {"quote": [quote]},
    }
    if rows:
        result["timestamp"] = times
    if adjusted is not None:
        result["indicators"]["adjclose"] = [{"adjclose": adjusted}]
    if splits:
        result["events"] = {"splits": {str(split["date"]): split for split in splits}}
    if periods:
        result["meta"]["tradingPeriods"] = [
            [{"timezone": "EST", "gmtoffset": -18000, "start": start, "end": end}] for start, end in periods
        ]
    return json.dumps({"chart": {"result": [result], "error": None}}).encode()


def refusal(code, said):
    """Return Yahoo's answer to what it refuses."""
    return json.dumps({"chart": {"result": None, "error": {"code": code, "description": said}}}).encode()
