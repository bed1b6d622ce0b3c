"""Bars of US stocks from Alpaca, over its own client, alpaca-py."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ensemble_kit.datasets.providers._answers import key_from, missing_client, refusal, unreadable
from ensemble_kit.datasets.providers._patience import Pace, Pages
from ensemble_kit.datasets.providers.request import Request
from ensemble_kit.exceptions import ProviderError

__all__ = ["Alpaca"]

_WHO = "Alpaca"
_KEYS = ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY")
_COLUMNS = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "vw": "vwap"}
_DAY = pd.Timedelta(days=1)
#: Seconds to connect, and between two pieces of an answer; the client itself would wait for ever.
_TIMEOUT = (10.0, 30.0)


class Alpaca:
    """Bars of US stocks and funds, adjusted for splits and dividends.

    Keys stand in ``APCA_API_KEY_ID`` and ``APCA_API_SECRET_KEY``. Alpaca's own time of a bar is its open; extended
    hours are included. It makes no bar where nobody traded.

    Parameters
    ----------
    feed : {"iex", "sip", "delayed_sip", "boats", "overnight", "otc"}, default="iex"
        Whose trades bars are made of. "iex", which every plan has, is one exchange with a few percent of the volume;
        "sip" is all of them. `name` tells them apart.
    per_minute : int, default=200
        How many requests a minute the plan allows; each holds 10,000 bars.
    base_url : str, default=None
        Another address than Alpaca's own.

    See Also
    --------
    ensemble_kit.datasets.providers.fetch.fetch_bars : Fetches, checks and caches bars.

    Examples
    --------
    >>> from ensemble_kit.datasets.providers.alpaca import Alpaca
    >>> Alpaca(feed="sip").name, Alpaca().adjustment
    ('alpaca-sip', 'splits and dividends')
    """

    def __init__(self, *, feed: str = "iex", per_minute: int = 200, base_url: str | None = None) -> None:
        self.name = "alpaca" if feed == "iex" else f"alpaca-{feed}"
        self.adjustment = "splits and dividends"
        self.feed = feed
        self.base_url = base_url
        self._pace = Pace(per_minute)

    def check(self, request: Request) -> None:
        """Raise if the bar's length is none of Alpaca's, or a key or the client is missing.

        Parameters
        ----------
        request : Request
            What is wanted.

        Raises
        ------
        ProviderError
            If so.
        """
        _timeframe(request)
        for key in _KEYS:
            key_from(key, who=_WHO)
        feeds = [str(feed.value) for feed in _client_module("alpaca.data.enums").DataFeed]
        if self.feed not in feeds:
            raise ProviderError(f"`feed` must be one of {', '.join(feeds)}; got {self.feed!r}. Every plan has 'iex'.")

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
            If Alpaca refuses for good.
        TryAgainError
            If asking again may help.
        """
        amount, unit = _timeframe(request)
        frames = _client_module("alpaca.data.timeframe")
        wanted = _client_module("alpaca.data.requests").StockBarsRequest(
            symbol_or_symbols=request.symbol,
            timeframe=frames.TimeFrame(amount, frames.TimeFrameUnit(unit)),
            start=request.start.to_pydatetime(warn=False),
            end=request.end.to_pydatetime(warn=False),
            adjustment="all",
            feed=self.feed,
        )
        answer = self._answer(wanted, request)
        # Outside of the `except`: the client's error holds the request, and that the key.
        if isinstance(answer, ProviderError):
            raise answer
        return answer

    def _answer(self, wanted: Any, request: Request) -> pd.DataFrame | ProviderError:
        from requests import RequestException

        errors = _client_module("alpaca.common.exceptions")
        try:
            return _frame(self._client().get_stock_bars(wanted).get(request.symbol) or [], request)
        except ProviderError as error:
            return error.with_traceback(None)  # its frames hold the request, too
        except errors.APIError as error:
            response = error.response
            again = response.headers.get("Retry-After")
            return refusal(response.status_code, _message(response), *_KEYS, who=_WHO, retry_after=again)
        except RequestException as error:
            return unreadable(f"a {type(error).__name__}", *_KEYS, who=_WHO)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # What the client raises for an answer that has not the form it expects.
            return unreadable(f"an answer in another form ({error})", *_KEYS, who=_WHO)

    def _client(self) -> Any:
        from requests.adapters import HTTPAdapter

        pages = Pages(self._pace, _WHO)

        class Adapter(HTTPAdapter):
            def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
                pages.turn(request.url)
                return super().send(request, *args, **{**kwargs, "timeout": kwargs.get("timeout") or _TIMEOUT})

        client = _client_module("alpaca.data.historical.stock").StockHistoricalDataClient(
            *(key_from(key, who=_WHO) for key in _KEYS), raw_data=True, url_override=self.base_url
        )
        # It has no parameters for these. Its own retries know no Retry-After and cannot be bounded.
        client._retry_codes = []  # noqa: SLF001
        for scheme in ("https://", "http://"):
            client._session.mount(scheme, Adapter())  # noqa: SLF001
        return client


def _client_module(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise missing_client("alpaca-py", "alpaca") from None


def _timeframe(request: Request) -> tuple[int, str]:
    minutes = request.bar / pd.Timedelta(minutes=1)
    if request.bar == _DAY:
        return 1, "Day"
    if minutes in range(1, 60):
        return int(minutes), "Min"
    if minutes / 60 in range(1, 24):
        return int(minutes / 60), "Hour"
    raise ProviderError(
        f"`bar` must be 1 to 59 minutes, 1 to 23 hours or 1 day for Alpaca; got {request.bar}. "
        "Fetch minutes, and join them with `ensemble_kit.resampling.resample`."
    )


def _frame(rows: list[dict[str, Any]], request: Request) -> pd.DataFrame:
    times = pd.DatetimeIndex(pd.to_datetime([row["t"] for row in rows], utc=True), name="datetime")
    if request.bar == _DAY:
        # Midnight in New York, which is on the same date in UTC.
        times = times.tz_localize(None).normalize()
    values = {name: [row[short] for row in rows] for short, name in _COLUMNS.items()}
    return pd.DataFrame(values, index=times, dtype="float64")


def _message(response: Any) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return ""
