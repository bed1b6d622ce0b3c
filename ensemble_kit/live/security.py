"""Who may do what over HTTP: known hosts, no foreign pages, a token, bodies of a size, and not too often."""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["LOOPBACK", "Bucket", "Guard", "RefusedError", "check_token", "read_body"]

#: The names by which a browser on this machine finds the service.
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
#: Fewer letters could be tried out.
_SHORTEST = 16
#: A body that takes longer than this holds its connection for nothing.
_BODY_SECONDS = 30.0
#: The kill switch never waits for a busy feeder: so often a second it may be pressed, whatever else is sent.
_HALTS = 20.0
_READS = ("GET", "HEAD")
#: What says nothing of the account: the page as an empty sheet, its library, and whether the service is up.
_PUBLIC = ("/", "/plotly.min.js", "/health")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class RefusedError(EnsembleKitError):
    """A request that is answered by a status and a reason.

    Parameters
    ----------
    status : int
        HTTP's.
    why : str
        For whoever asked.
    **headers : str
        That go with the answer, with underscores for hyphens.
    """

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def check_token(token: str) -> str:
    """Check that a token cannot be guessed.

    Parameters
    ----------
    token : str
        What a request must know to change anything.

    Returns
    -------
    str
        The same.

    Raises
    ------
    EnsembleKitError
        If it is shorter than 16 characters, or holds others than a header can.

    Examples
    --------
    >>> from ensemble_kit.live.security import check_token
    >>> check_token("secret")
    Traceback (most recent call last):
        ...
    ensemble_kit.exceptions.EnsembleKitError: `token` must be 16 or more printable ASCII characters without spaces;
    got 6 character(s). Take `python -c "import secrets; print(secrets.token_urlsafe(32))"`.
    """
    if len(token) < _SHORTEST or not all("!" <= letter <= "~" for letter in token):
        raise EnsembleKitError(
            f"`token` must be {_SHORTEST} or more printable ASCII characters without spaces; got {len(token)} "
            'character(s). Take `python -c "import secrets; print(secrets.token_urlsafe(32))"`.'
        )
    return token


class Bucket:
    """So many a second on average, and a few more at once.

    Parameters
    ----------
    rate : float
        A second.
    burst : int
        At once, after a pause.
    clock : callable, default=time.monotonic
        Seconds.
    """

    def __init__(self, rate: float, *, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._left, self._then = self._burst, clock()

    def take(self) -> float:
        """Take one; return 0.0, or the seconds until there is one again.

        Returns
        -------
        float
            Where it is above 0, nothing was taken.
        """
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._then) * self._rate)
        self._then = now
        if self._left < 1.0:
            return (1.0 - self._left) / self._rate
        self._left -= 1.0
        return 0.0


class Guard:
    """ASGI middleware that lets a request through, or answers it itself.

    A request must name a host that is known (a name that an attacker's DNS points here is not),
    must not come from another site's page, and must bring the token if it changes anything, or,
    where reads are not open, asks for anything but the page's empty sheet and `/health`. A
    WebSocket cannot bring a header from a browser: where reads are not open, its own handler asks.

    Parameters
    ----------
    app : ASGI application
        What is guarded.
    token : str
        For ``Authorization: Bearer``.
    hosts : iterable of str
        Names in `Host`; "*" for any.
    open_reads : bool
        Whether reads go without the token.
    changes_per_second : float
        How often anything may be changed, twice as often at once. `/halt` has a share of its own.
    """

    def __init__(
        self, app: ASGIApp, *, token: str, hosts: Iterable[str], open_reads: bool, changes_per_second: float
    ) -> None:
        self._hosts, self._inner, self._token, self._open_reads = [*hosts], app, token.encode(), open_reads
        self._bucket = Bucket(changes_per_second, burst=max(1, round(2 * changes_per_second)))
        self._halts = Bucket(_HALTS, burst=round(2 * _HALTS))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        known = False

        async def admit(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal known
            known = True
            await self._admit(scope, receive, send)

        async def hold(message: Message) -> None:
            if known:  # Starlette's own refusal is plain text
                await send_guarded(message)

        await TrustedHostMiddleware(admit, allowed_hosts=self._hosts, www_redirect=False)(scope, receive, hold)
        if not known:
            host = Headers(scope=scope).get("host", "")[:100]
            why = (
                f"`Host` must be a name of this service; got {host!r}. Call it by its address, or start it with --host."
            )
            await JSONResponse({"detail": why}, 400)(scope, receive, send_guarded)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        try:
            self._check(scope)
        except RefusedError as refused:
            if scope["type"] == "websocket":  # before it is accepted, this is HTTP's 403
                await send({"type": "websocket.close", "code": 1008})
                return
            await JSONResponse({"detail": str(refused)}, refused.status, refused.headers)(scope, receive, send)
            return
        await self._inner(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        # A browser names the page that asks; the scheme differs behind a proxy that ends TLS.
        if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise RefusedError(403, f"`Origin` must be this service's own; got {origin[:100]!r}. Use its own page.")
        if scope["type"] == "websocket":
            return
        reads = scope["method"] in _READS
        if reads and (self._open_reads or scope["path"] in _PUBLIC):
            return
        if not self.knows(headers.get("authorization", "")):
            raise RefusedError(
                401, "`Authorization` must be `Bearer <token>`, with this service's token.", WWW_Authenticate="Bearer"
            )
        bucket = self._halts if scope["path"] == "/halt" else self._bucket
        if not reads and (wait := bucket.take()):
            raise RefusedError(429, "Too many requests; send several bars in one.", Retry_After=str(math.ceil(wait)))

    def knows(self, authorization: str) -> bool:
        """Return whether a header brings the token, in a time that does not tell how much of it was right.

        Parameters
        ----------
        authorization : str
            As ``Bearer <token>``.

        Returns
        -------
        bool
            Whether it is the token.
        """
        scheme, _, given = authorization.partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)
        return same and scheme.lower() == "bearer"


async def read_body(request: Request, limit: int) -> bytes:
    """Read a request's body, as far as it is allowed.

    Parameters
    ----------
    request : Request
        Whose body has not been read.
    limit : int
        Bytes. They are counted as they come: a header may say anything.

    Returns
    -------
    bytes
        The body.

    Raises
    ------
    RefusedError
        413 if it is longer, 408 if it takes longer than 30 seconds.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise RefusedError(
                        413, f"The body must be of {limit:,} bytes at most; it is longer. Send fewer bars at once."
                    )
    except TimeoutError:
        raise RefusedError(408, f"The body must arrive within {_BODY_SECONDS:.0f} seconds.") from None
    return bytes(body)
