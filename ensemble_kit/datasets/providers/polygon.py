"""Bars from Polygon.io, which is Massive now, over its own client, massive."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pandas as pd

from ensemble_kit.datasets.providers._answers import key_from, missing_client, refusal, unreadable
from ensemble_kit.datasets.providers._patience import Pace, Pages
from ensemble_kit.datasets.providers.request import Request
from ensemble_kit.exceptions import ProviderError

__all__ = ["Polygon"]

_WHO = "Polygon"
_KEYS = ("POLYGON_API_KEY", "MASSIVE_API_KEY")
_COLUMNS = ("open", "high", "low", "close", "volume", "vwap")
_DAY = pd.Timedelta(days=1)
#: As many of the base bars that longer ones are made of as one page may hold.
_PAGE = 50_000


class Polygon:
    """Bars of stocks, indices, currencies and coins, adjusted for splits, not for dividends.

    The key stands in ``POLYGON_API_KEY`` or ``MASSIVE_API_KEY``. Polygon's own time of a bar is its open; extended
    hours are included. It makes no bar where nobody traded.

    Parameters
    ----------
    per_minute : int, default=5
        How many requests (pages of 50,000 minutes) a minute the plan allows: 5 are the free one's.
    base_url : str, default=None
        Another address than Polygon's own.

    See Also
    --------
    ensemble_kit.datasets.providers.fetch.fetch_bars : Fetches, checks and caches bars.

    Examples
    --------
    >>> from ensemble_kit.datasets.providers.polygon import Polygon
    >>> Polygon().adjustment
    'splits'
    """

    def __init__(self, *, per_minute: int = 5, base_url: str | None = None) -> None:
        self.name = "polygon"
        self.adjustment = "splits"
        self.base_url = base_url
        self._pace = Pace(per_minute)

    def check(self, request: Request) -> None:
        """Raise if the bar's length is none of Polygon's, or the key or the client is missing.

        Parameters
        ----------
        request : Request
            What is wanted.

        Raises
        ------
        ProviderError
            If so.
        """
        _timespan(request)
        key_from(*_KEYS, who=_WHO)
        _client_class()

    def fetch(self, request: Request) -> pd.DataFrame:
        """Return the bars of a request, all pages of them, as they came.

        Parameters
        ----------
        request : Request
            What is wanted.

        Returns
        -------
        DataFrame of shape (n, 6)
            Columns ``open high low close volume vwap``.

        Raises
        ------
        ProviderError
            If Polygon refuses for good.
        TryAgainError
            If asking again may help.
        """
        answer = self._answer(request)
        # Outside of the `except`: the client's error may hold the request, and that the key.
        if isinstance(answer, ProviderError):
            raise answer
        return answer

    def _answer(self, request: Request) -> pd.DataFrame | ProviderError:
        from urllib3.exceptions import HTTPError

        multiplier, timespan = _timespan(request)
        span = [time.value // 1_000_000 for time in (request.start, request.end)]
        try:
            rows = self._client().list_aggs(
                quote(request.symbol, safe=":"), multiplier, timespan, *span, adjusted=True, sort="asc", limit=_PAGE
            )
            return _frame(list(rows), request)
        except _RefusedError as error:
            return error.refusal
        except HTTPError as error:
            return unreadable(f"a {type(error).__name__}", *_KEYS, who=_WHO)
        except (AttributeError, KeyError, TypeError, ValueError, _UnreadableError) as error:
            return unreadable(f"an answer in another form ({error})", *_KEYS, who=_WHO)

    def _client(self) -> Any:
        """Return the client, without its retries, and with a look at each answer before it.

        Its own errors lack the status, and it takes a page that is no JSON for the last one.
        """
        address = {} if self.base_url is None else {"base": self.base_url}
        client = _client_class()(
            key_from(*_KEYS, who=_WHO), connection_pool_kw={"retries": False}, custom_json=_Json, **address
        )
        request = client.client.request
        pages = Pages(self._pace, _WHO)

        def watched(method: str, url: str, **kwargs: Any) -> Any:
            try:
                pages.turn(url)
            except ProviderError as error:
                raise _RefusedError(error.with_traceback(None)) from None  # its frames hold the key
            answer = request(method, url, **kwargs)
            if answer.status != 200:
                again = answer.headers.get("Retry-After")
                raise _RefusedError(refusal(answer.status, _message(answer.data), *_KEYS, who=_WHO, retry_after=again))
            return answer

        client.client.request = watched
        return client


class _RefusedError(Exception):
    """Carries a refusal through the client, which swallows every ValueError."""

    def __init__(self, refusal: ProviderError) -> None:
        super().__init__()
        self.refusal = refusal


class _UnreadableError(Exception):
    """A page that cannot be read; no ValueError, since the client would swallow that and end the history there."""


class _Json:
    """What the client reads answers with."""

    @staticmethod
    def loads(text: str) -> dict[str, Any]:
        """Return a page, if it is whole."""
        try:
            page = json.loads(text)
        except ValueError as error:
            raise _UnreadableError(str(error)) from None
        if not isinstance(page, dict) or page.get("status") not in {"OK", "DELAYED"}:
            raise _UnreadableError(f"no page of bars: {text}")
        # A page without bars need not be the last.
        return {"results": [], **page}


def _client_class() -> Any:
    try:
        from massive import RESTClient
    except ImportError:
        raise missing_client("massive", "polygon") from None
    return RESTClient


def _timespan(request: Request) -> tuple[int, str]:
    minutes = request.bar / pd.Timedelta(minutes=1)
    if request.bar == _DAY:
        return 1, "day"
    if minutes >= 60 and minutes % 60 == 0:
        return int(minutes // 60), "hour"
    if minutes >= 1 and minutes % 1 == 0:
        return int(minutes), "minute"
    raise ProviderError(
        f"`bar` must be whole minutes, whole hours or 1 day for Polygon; got {request.bar}. "
        "Fetch minutes, and join them with `ensemble_kit.resampling.resample`."
    )


def _frame(rows: list[Any], request: Request) -> pd.DataFrame:
    for row in rows:
        if None in {row.timestamp, row.open, row.high, row.low, row.close}:
            raise ValueError(f"a bar without its time or a price, at {row.timestamp}")
    times = pd.DatetimeIndex(pd.to_datetime([row.timestamp for row in rows], unit="ms", utc=True), name="datetime")
    if request.bar == _DAY:
        # Midnight in New York (in UTC for coins), which is on the same date in UTC.
        times = times.tz_localize(None).normalize()
    return pd.DataFrame({name: [getattr(row, name) for row in rows] for name in _COLUMNS}, times, dtype="float64")


def _message(body: bytes) -> str:
    try:
        page = json.loads(body)
        return str(page.get("error") or page.get("message") or page.get("status"))
    except (ValueError, AttributeError):
        return ""
