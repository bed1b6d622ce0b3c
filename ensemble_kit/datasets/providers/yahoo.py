"""Yahoo Finance through yfinance: no key, few intraday days, adjusted prices that change with every dividend."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd

from ensemble_kit.datasets.providers._answers import missing_client, refusal, unreadable
from ensemble_kit.datasets.providers.request import Request
from ensemble_kit.exceptions import ProviderError

__all__ = ["Yahoo"]

_DAY = pd.Timedelta(days=1)
#: yfinance's name of a bar, and how many days back Yahoo has it (None: as far back as the listing).
_BARS: dict[pd.Timedelta, tuple[str, int | None]] = {
    pd.Timedelta(minutes=1): ("1m", 30),
    pd.Timedelta(minutes=2): ("2m", 60),
    pd.Timedelta(minutes=5): ("5m", 60),
    pd.Timedelta(minutes=15): ("15m", 60),
    pd.Timedelta(minutes=30): ("30m", 60),
    pd.Timedelta(minutes=90): ("90m", 60),
    pd.Timedelta(hours=1): ("60m", 730),
    _DAY: ("1d", None),
}
#: Days of 1-minute bars that one request may span.
_MINUTE_PAGE = pd.Timedelta(days=7)
_CHART = "/v8/finance/chart/"
_COLUMNS = {"Open": "open", "High": "high", "Low": "low", "Close": "close", "Volume": "volume"}
# yfinance holds its session and its settings once a process: one request at a time may change them.
_ONE_AT_A_TIME = threading.Lock()


class Yahoo:
    """Bars from Yahoo Finance, by yfinance. Free and unofficial: no promise of anything.

    Daily prices are adjusted for splits and dividends (``auto_adjust=True``), so that all earlier prices change
    with the next dividend. Intraday prices are adjusted for splits alone: `adjustment` is that of the bars last
    asked for. Extended hours are left out. An intraday
    bar is stamped with its open, a daily one with the exchange's date. A bar in which nothing was traded (a halt)
    is no row.

    Parameters
    ----------
    base_url : str, default=None
        Another address that answers in Yahoo's format (a proxy, say); Yahoo's own if None.

    See Also
    --------
    ensemble_kit.datasets.providers.fetch.fetch_bars : Waits, asks again, checks and caches.

    Notes
    -----
    Yahoo has bars of 1min (7 days a request, of the last 30), of 2min, 5min, 15min, 30min and 90min (the last 60 days),
    of 1h (the last 730) and of one day. yfinance keeps time zones and cookies in the user's cache folder.

    Examples
    --------
    >>> from ensemble_kit.datasets.providers.yahoo import Yahoo
    >>> Yahoo().adjustment
    'splits and dividends'
    """

    name = "yahoo"

    def __init__(self, base_url: str | None = None) -> None:
        self.base_url = base_url
        self.adjustment = "splits and dividends"
        self._session: Any = None

    def check(self, request: Request) -> None:
        """Refuse a bar that Yahoo has not, a start too long ago, and a missing yfinance.

        Parameters
        ----------
        request : Request
            What is wanted.

        Raises
        ------
        ProviderError
            In one line, naming the earliest day possible.
        """
        # Intraday answers have no adjusted close that yfinance could go by.
        self.adjustment = "splits and dividends" if request.bar == _DAY else "splits"
        _client()
        if request.bar not in _BARS:
            raise ProviderError(
                "`bar` must be one of 1min, 2min, 5min, 15min, 30min, 1h, 90min, 1D from Yahoo; got "
                f"{_said(request.bar)}. Fetch a shorter bar and resample it."
            )
        reach = _BARS[request.bar][1]
        if reach is not None and request.start < (oldest := _now() - reach * _DAY):
            raise ProviderError(
                f"`start` must be within the last {reach} days for bars of {_said(request.bar)} from Yahoo; got "
                f"{request.start:%Y-%m-%d}. The earliest whole day is {oldest.ceil('D'):%Y-%m-%d}; daily bars go "
                "further back."
            )

    def fetch(self, request: Request) -> pd.DataFrame:
        """Return the bars of a request, all pages of them.

        Parameters
        ----------
        request : Request
            What is wanted.

        Returns
        -------
        DataFrame of shape (n, 5)
            Open, high, low, close and volume; empty where Yahoo has none.

        Raises
        ------
        ProviderError
            If Yahoo does not know the symbol, or refuses the range.
        TryAgainError
            If Yahoo limits, fails, cuts the answer off or cannot be reached.
        """
        self.check(request)
        pages = [self._page(request, start, end) for start, end in _spans(request)]
        return pd.concat(pages) if len(pages) > 1 else pages[0]

    def _page(self, request: Request, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
        yf = _client()
        daily = request.bar == _DAY
        # A date is the exchange's own to yfinance; an instant in UTC would move days east of it.
        first, last = (start.date(), end.ceil("D").date()) if daily else (start.to_pydatetime(), end.to_pydatetime())
        with _ONE_AT_A_TIME, _raising(yf):
            # One for all requests: the cookies that Yahoo gave belong to it.
            self._session = self._session or _session(self.base_url)
            ticker = yf.Ticker(request.symbol, session=self._session)
            try:
                table = ticker.history(
                    interval=_BARS[request.bar][0], start=first, end=last, auto_adjust=True, actions=False
                )
            except ProviderError:
                raise
            except yf.exceptions.YFRateLimitError:
                raise refusal(429, "", who="Yahoo", retry_after=self._session.retry_after) from None
            except yf.exceptions.YFPricesMissingError as error:
                return _none_there(request, self._session.status, error.yahoo_reason)
            except Exception as error:
                # A cut connection, half an answer, none: whatever its decoders raise.
                raise unreadable(f"{type(error).__name__} about {request.symbol}", who="Yahoo") from error
        index = pd.DatetimeIndex(table.index)
        index = index.tz_localize(None).normalize() if daily else index.tz_convert("UTC")
        frame = table[list(_COLUMNS)].rename(columns=_COLUMNS).astype("float64")
        frame = frame.set_axis(index.rename("datetime"))
        # The newest quote of an open market comes as a row of its own, stamped with its second.
        return frame if daily else frame[index == index.floor("min")]


def _client() -> Any:
    try:
        import yfinance
    except ImportError:
        raise missing_client("yfinance", "yahoo") from None
    return yfinance


def _session(base_url: str | None) -> Any:
    """Return a session as yfinance makes them, that lets no refusal pass for an empty answer."""
    from curl_cffi.requests import Session

    class ChartSession(Session[Any]):
        status = 0  # of the newest answer about bars
        retry_after: str | None = None

        def request(self, method: Any, url: str, *args: Any, **options: Any) -> Any:
            asked = urlsplit(url)
            if base_url is not None:
                url = base_url.rstrip("/") + url.removeprefix(f"{asked.scheme}://{asked.netloc}")
            response = super().request(method, url, *args, **options)
            if asked.path.startswith(_CHART):
                self.status, self.retry_after = response.status_code, response.headers.get("Retry-After")
                # yfinance mends 401 and 429 with another cookie if it can; nothing mends these.
                if self.status >= 500:
                    raise refusal(self.status, "", who="Yahoo", retry_after=self.retry_after)
                if self.status == 404:
                    raise _unknown(unquote(asked.path.removeprefix(_CHART)))
            return response

    return ChartSession(impersonate="chrome")


@contextmanager
def _raising(yf: Any) -> Iterator[None]:
    """Let yfinance raise instead of logging and returning nothing."""
    debug = yf.config.debug
    quiet = debug.hide_exceptions
    debug.hide_exceptions = False
    # It keeps answers about the past, bad ones too: asking again would read the same one.
    yf.data.YfData.cache_get.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what pandas deprecates inside yfinance
            yield
    finally:
        debug.hide_exceptions = quiet


def _unknown(symbol: str) -> ProviderError:
    return ProviderError(
        f"`symbols` must be known to Yahoo; got {symbol}. Look it up at finance.yahoo.com: it may be delisted, or "
        "spelt otherwise (BRK-B, ^GSPC, EURUSD=X)."
    )


def _none_there(request: Request, status: int, reason: str | None) -> pd.DataFrame:
    """Return no bars where Yahoo has none in the range; raise where it only would not give them."""
    if status in {401, 403}:
        # There is no key that could be wrong: its cookie was refused, and the next may do.
        raise unreadable(f"HTTP {status} about {request.symbol}", who="Yahoo")
    if status == 200 or (reason is not None and "exist" in reason):
        empty = pd.DatetimeIndex([], tz=None if request.bar == _DAY else "UTC", name="datetime")
        return pd.DataFrame({column: pd.Series(dtype="float64") for column in _COLUMNS.values()}, index=empty)
    raise refusal(status, reason or "", who="Yahoo")


def _spans(request: Request) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    if request.bar != pd.Timedelta(minutes=1):
        return [(request.start, request.end)]
    starts = pd.date_range(request.start, request.end, freq=_MINUTE_PAGE, inclusive="left")
    return [(start, min(start + _MINUTE_PAGE, request.end)) for start in starts]


def _now() -> pd.Timestamp:
    return pd.Timestamp.now("UTC")


def _said(bar: pd.Timedelta) -> str:
    return f"{bar.seconds // 60}min" if bar < _DAY else f"{bar / _DAY:g}D"
