"""The service: a trader behind HTTP, one page that shows it, and a stream of what it decides."""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ensemble_kit.exceptions import BrokerError, EnsembleKitError, JournalError
from ensemble_kit.live.champion import ChampionWatch
from ensemble_kit.live.trader import Trader
from ensemble_kit.tracking.intake import MAX_ROWS

try:
    import anyio
    from fastapi import FastAPI, Query, Request, Response, WebSocket, WebSocketDisconnect
    from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

    from ensemble_kit.live.desk import BusyError, Desk, Reader, read_rows, write_decision
    from ensemble_kit.live.security import LOOPBACK, Guard, RefusedError, check_token, read_body
except ImportError as error:  # pragma: no cover - the extra is installed where this is tested
    raise EnsembleKitError(
        f"The service needs a package that is not here ({error.name}): pip install 'ensemble-kit[serve]'."
    ) from None

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["create_app"]

#: Of a request's body: 50,000 bars as JSON are some 6 MB.
_MAX_BODY = 8 * 1024 * 1024
#: Of any other request's.
_MAX_WORDS = 4096
#: How often a second anything may be changed; a service takes one bar a minute, or less.
_CHANGES = 20.0
#: Seconds between two looks at what the broker has filled.
_SYNC = 15.0
#: Seconds that a reader may take to take a message, or to say who it is.
_PATIENCE = 5.0
_REASON = 200
_MOST = 5000
_NO_TOKEN, _TOO_SLOW = 4401, 1013


def create_app(
    trader: Trader,
    *,
    token: str,
    watch: ChampionWatch | None = None,
    hosts: Iterable[str] = (),
    open_reads: bool = True,
    max_body: int = _MAX_BODY,
    changes_per_second: float = _CHANGES,
) -> FastAPI:
    """Return the service as an ASGI application.

    Parameters
    ----------
    trader : Trader
        From now on moved by this application alone.
    token : str
        What every request that changes anything must bring; 16 or more characters.
    watch : ChampionWatch, default=None
        Looks for new versions while the service runs; None to stay with the trader's.
    hosts : iterable of str, default=()
        Names by which the service is called besides the loopback's; "*" for any.
    open_reads : bool, default=True
        Whether reads go without the token, as they may where only this machine reaches the service.
    max_body : int, default=8388608
        Bytes that a request's body may have.
    changes_per_second : float, default=20.0
        How often anything may be changed, on average; a halt has a share of its own.

    Returns
    -------
    FastAPI
        Its `state.desk` is the `Desk`. What it answers to is in ``docs/live.md``.

    Raises
    ------
    EnsembleKitError
        If the token could be guessed.
    """
    from ensemble_kit.live.desk import Desk

    desk = Desk(trader)
    app = FastAPI(title="ensemble_kit", lifespan=_life(desk, watch), docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk, app.state.watch = desk, watch
    if watch is not None:
        watch.between_bars = desk.between_bars
        desk.after_take = watch.check_first
    app.add_middleware(_Clock, desk=desk)
    app.add_middleware(
        Guard,
        token=check_token(token),
        hosts=[*LOOPBACK, *hosts],
        open_reads=open_reads,
        changes_per_second=changes_per_second,
    )
    for kind in (RefusedError, BusyError, BrokerError, EnsembleKitError):
        app.add_exception_handler(kind, _answer_error)
    _add_reads(app, desk)
    _add_tables(app, desk)
    _add_changes(app, desk, watch, max_body)
    _add_stream(app, desk, None if open_reads else token)
    _add_page(app)
    return app


def _life(desk: Desk, watch: ChampionWatch | None) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(desk.open)
        desk.listen_here()
        syncing = asyncio.create_task(_keep_syncing(desk))
        if watch is not None:
            watch.start()
        try:
            yield
        finally:
            syncing.cancel()
            if watch is not None:
                await asyncio.to_thread(watch.stop)
            await asyncio.to_thread(desk.close)

    return life


async def _keep_syncing(desk: Desk) -> None:
    while True:
        await asyncio.sleep(_SYNC)
        with suppress(EnsembleKitError):  # the next look may find the broker again, and the state says it is gone
            await asyncio.wrap_future(desk.between_bars(desk.trader.sync))


async def _answer_error(_: Request, error: Exception) -> Response:
    known = {BrokerError: 502, JournalError: 503}
    status = next((code for kind, code in known.items() if isinstance(error, kind)), getattr(error, "status", 422))
    headers = getattr(error, "headers", None)
    if isinstance(error, BusyError):
        status, headers = 429, {"Retry-After": "1"}
    return JSONResponse({"detail": str(error)}, status, headers)


class _Clock:
    """ASGI middleware that times requests, by route: what a client writes is no label."""

    def __init__(self, app: ASGIApp, *, desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def watch(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._desk.metrics.requests.labels(path, str(status)).observe(time.perf_counter() - began)


# ---------------------------------------------------------------------- reads


def _add_reads(app: FastAPI, desk: Desk) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        return desk.health()

    @app.get("/card")
    async def card() -> dict[str, Any]:
        return {**desk.trader.card, "version": desk.trader.version}

    @app.get("/prediction")
    async def prediction() -> dict[str, Any]:
        decision: dict[str, Any] | None = desk.state["decision"]
        if decision is None:
            raise RefusedError(503, "Nothing is decided yet: the model is warming up. Send bars.")
        return decision

    @app.get("/position")
    async def position() -> dict[str, Any]:
        decision = desk.state["decision"] or {}
        told = {name: decision.get(name) for name in ("wanted", "position", "reason")}
        return {"symbol": desk.state["symbol"], **desk.state["account"], **told, "halted": desk.state["halted"]}

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_tables(app: FastAPI, desk: Desk) -> None:
    """Add what is read from the database, in threads: neither the writer nor other readers wait."""
    many = Query(default=500, ge=1, le=_MOST, alias="n")

    @app.get("/orders")
    def orders(n: int = many) -> list[dict[str, Any]]:
        found = desk.trader.journal.orders(newest=n)[::-1]
        return [_plain(asdict(one.order) | {"state": one.state}, desk) for one in found]

    @app.get("/fills")
    def fills(n: int = many) -> list[dict[str, Any]]:
        return [_plain(asdict(fill), desk) for fill in desk.trader.journal.fills(newest=n)[::-1]]

    @app.get("/events")
    def events(n: int = many) -> list[dict[str, Any]]:
        return [_plain(asdict(event), desk) for event in desk.trader.journal.events(newest=n)[::-1]]

    @app.get("/refusals")
    def refusals(n: int = many) -> list[dict[str, Any]]:
        return [_plain(asdict(refusal), desk) for refusal in desk.trader.journal.refusals(newest=n)[::-1]]

    @app.get("/equity")
    def equity(n: int = many) -> list[dict[str, Any]]:
        known = desk.trader.journal.equity(newest=n)
        return [_plain({"time": at, "equity": value}, desk) for at, value in known.items()]

    @app.get("/bars")
    def bars(n: int = many) -> list[dict[str, Any]]:
        return read_rows(desk.trader.journal, zone=desk.trader.card.get("tz"), newest=n)


def _plain(row: dict[str, Any], desk: Desk) -> dict[str, Any]:
    zone = desk.trader.card.get("tz")
    return {
        name: value.tz_convert(zone).isoformat() if isinstance(value, pd.Timestamp) else value
        for name, value in row.items()
    }


# ---------------------------------------------------------------------- changes


def _add_changes(app: FastAPI, desk: Desk, watch: ChampionWatch | None, max_body: int) -> None:
    @app.post("/bars")
    async def bars(request: Request) -> Response:
        if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
            raise RefusedError(
                415,
                f"`Content-Encoding` must be identity; got {coding[:50]!r}. Send the bars as they are.",
                Accept_Encoding="identity",
            )
        body = await read_body(request, max_body)
        table = await asyncio.to_thread(_read_table, body, request.headers.get("content-type", ""))
        outcomes = await desk.take(table)
        card = desk.trader.card
        told = [
            {
                "time": outcome.time.isoformat(),
                "outcome": outcome.status,
                "reason": outcome.reason,
                "decision": None if outcome.decision is None else write_decision(outcome.decision, card),
            }
            for outcome in outcomes
        ]
        status = 422 if all(one["outcome"] == "refused" for one in told) else 200
        return JSONResponse({"outcomes": told, "health": desk.health()}, status)

    @app.post("/halt")
    async def halt(request: Request) -> dict[str, Any]:
        reason = _read_reason(await read_body(request, _MAX_WORDS))
        await asyncio.wrap_future(desk.between_bars(lambda: desk.trader.halt(reason)))
        return desk.health()

    @app.post("/resume")
    async def resume() -> dict[str, Any]:
        await asyncio.wrap_future(desk.between_bars(desk.trader.release))
        return desk.health()

    @app.post("/model")
    async def model() -> dict[str, Any]:
        if watch is None:
            raise RefusedError(409, "This service stays with the version that it was started with.")
        said = await asyncio.to_thread(watch.look)
        return {"version": desk.trader.version, "said": said}


def _read_table(body: bytes, kind: str) -> pd.DataFrame:
    """Read a body as a table of bars: JSON, a list of objects, or CSV with a header."""
    kind = kind.partition(";")[0].strip().lower()
    if kind not in {"application/json", "text/csv"}:
        raise RefusedError(
            415, f"`Content-Type` must be application/json or text/csv; got {kind[:50] or 'none'!r}. Say what is sent."
        )
    try:
        if kind == "text/csv":
            table = pd.read_csv(io.BytesIO(body), dtype={"timestamp": str})
        else:
            rows = json.loads(body)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise RefusedError(422, "The body must be a list of bars: [{...}, ...]. One bar stands in [ ], too.")
            table = pd.DataFrame(rows)
            # Nothing but nulls is no text: each bar is refused by itself, and says why.
            table = table.astype({name: float for name in table.columns if len(table) and table[name].isna().all()})
    except RefusedError:
        raise
    except (ValueError, RecursionError) as fault:  # of pandas and json, and of text that is not UTF-8
        said = " ".join(str(fault).split())[:200]
        raise RefusedError(422, f"The body must be {kind} that can be read; it is not ({said}).") from None
    if len(table) > MAX_ROWS:
        raise RefusedError(413, f"The body must hold {MAX_ROWS:,} bars at most; got {len(table):,}. Send some later.")
    return table


def _read_reason(body: bytes) -> str:
    try:
        said = json.loads(body or b"{}")
        reason = said.get("reason", "by hand")
        known = isinstance(reason, str) and 0 < len(reason.strip()) <= _REASON and reason.isprintable()
    except (ValueError, AttributeError, RecursionError):
        known = False
    if not known:
        raise RefusedError(
            422, f'The body must be {{"reason": "..."}}, of 1 to {_REASON} printable characters, or empty.'
        )
    return str(reason).strip()


# ---------------------------------------------------------------------- the stream and the page


def _add_stream(app: FastAPI, desk: Desk, token: str | None) -> None:
    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        if token is not None and not await _says(socket, token):
            await socket.close(_NO_TOKEN)
            return
        reader = desk.join()
        if reader is None:
            await socket.close(_TOO_SLOW)
            return
        try:
            await _attend(socket, reader)
        finally:
            desk.leave(reader)
        with anyio.move_on_after(1.0), suppress(Exception):  # it may be closed already, or not listen at all
            await socket.close(_TOO_SLOW if reader.slow else 1000)


async def _attend(socket: WebSocket, reader: Reader) -> None:
    """Write what is published until the reader goes, or is too slow."""
    async with anyio.create_task_group() as both:

        async def do(work: Callable[[WebSocket, Reader], Awaitable[None]]) -> None:
            with suppress(Exception):  # whichever way a connection breaks, it is over
                await work(socket, reader)
            both.cancel_scope.cancel()

        both.start_soon(do, _write)
        both.start_soon(do, _hear)


async def _says(socket: WebSocket, token: str) -> bool:
    """Return whether the first message holds the token: a browser sends no header with a WebSocket."""
    try:
        said = json.loads(await asyncio.wait_for(socket.receive_text(), _PATIENCE))
        return secrets.compare_digest(str(said["token"]).encode(), token.encode())
    except (TimeoutError, ValueError, KeyError, TypeError, RecursionError, WebSocketDisconnect):
        return False


async def _write(socket: WebSocket, reader: Reader) -> None:
    while (message := await reader.line.get()) is not None:
        with anyio.move_on_after(_PATIENCE) as sending:
            await socket.send_text(message)
        reader.slow = sending.cancelled_caught
        if reader.slow:
            return


async def _hear(socket: WebSocket, _: Reader) -> None:
    """Wait until the other side goes; what it says is of no interest."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


def _add_page(app: FastAPI) -> None:
    import plotly

    page = files("ensemble_kit.live").joinpath("_page.html").read_text(encoding="utf-8")
    library = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"

    @app.get("/")
    async def show() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data: blob:; "
            "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(page.replace("{{ nonce }}", nonce), headers={"Content-Security-Policy": policy})

    @app.get("/plotly.min.js")
    async def plotly_js() -> FileResponse:
        return FileResponse(library, media_type="text/javascript", headers={"Cache-Control": "max-age=3600"})
