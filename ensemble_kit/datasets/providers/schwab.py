"""Charles Schwab's market data through schwab-py: an account, an app's key, and a token that lives seven days."""

from __future__ import annotations

import logging
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from ensemble_kit.datasets.providers._answers import key_from, missing_client, refusal, unreadable
from ensemble_kit.datasets.providers.request import Request
from ensemble_kit.exceptions import ProviderError

__all__ = ["Schwab"]

_DAY = pd.Timedelta(days=1)
#: schwab-py's method for a bar.
_METHODS = {
    pd.Timedelta(minutes=1): "get_price_history_every_minute",
    pd.Timedelta(minutes=5): "get_price_history_every_five_minutes",
    pd.Timedelta(minutes=10): "get_price_history_every_ten_minutes",
    pd.Timedelta(minutes=15): "get_price_history_every_fifteen_minutes",
    pd.Timedelta(minutes=30): "get_price_history_every_thirty_minutes",
    _DAY: "get_price_history_every_day",
}
_KEYS = ("SCHWAB_API_KEY", "SCHWAB_APP_SECRET")
_TOKEN = "SCHWAB_TOKEN_PATH"  # noqa: S105 - a variable's name
_COLUMNS = ["open", "high", "low", "close", "volume"]
_LOG_IN = "Log in with schwab-py's `schwab.auth.client_from_login_flow`, or its `schwab-generate-token.py`."
_EXPIRED = (
    f"The token in the file of `{_TOKEN}` must be this app's and valid; Schwab refuses it (it lives 7 days). {_LOG_IN}"
)


class Schwab:
    """Bars of US stocks, funds and indices from Charles Schwab, by schwab-py.

    Prices are adjusted for splits, not for dividends. Extended hours are left out. An intraday bar is stamped with
    its open, a daily one with New York's date. A bar in which nothing was traded (a halt) is no row.

    Parameters
    ----------
    base_url : str, default=None
        Another address that answers as Schwab's does (a proxy, say); Schwab's own if None.

    See Also
    --------
    ensemble_kit.datasets.providers.fetch.fetch_bars : Waits, asks again, checks and caches.

    Notes
    -----
    ``SCHWAB_API_KEY`` and ``SCHWAB_APP_SECRET`` in the environment are those of an app at developer.schwab.com,
    ``SCHWAB_TOKEN_PATH`` the file that schwab-py's login wrote: a secret, too, which schwab-py writes anew whenever
    it refreshes the token. Bars are of 1min, 5min, 10min, 15min, 30min and one day; weekly ones are left out, since
    nothing says which day stamps them. Schwab has about 48 days of 1-minute bars and nine months of the other
    intraday ones, and gives what it has of a longer range.

    Examples
    --------
    >>> from ensemble_kit.datasets.providers.schwab import Schwab
    >>> Schwab().adjustment
    'splits'
    """

    name = "schwab"
    adjustment = "splits"

    def __init__(self, base_url: str | None = None) -> None:
        self.base_url = base_url

    def check(self, request: Request) -> None:
        """Refuse a bar that Schwab has not, missing keys, and a missing schwab-py.

        Parameters
        ----------
        request : Request
            What is wanted.

        Raises
        ------
        ProviderError
            In one line; no key stands in it.
        """
        _auth()
        if request.bar not in _METHODS:
            raise ProviderError(
                "`bar` must be one of 1min, 5min, 10min, 15min, 30min, 1D from Schwab; got "
                f"{pd.Timedelta(request.bar)}. Fetch a shorter bar and resample it."
            )
        for name in _KEYS:
            key_from(name, who="Schwab")
        if not Path(path := key_from(_TOKEN, who="Schwab")).is_file():
            raise ProviderError(f"`{_TOKEN}` must name the file that schwab-py's login wrote; got '{path}'. {_LOG_IN}")

    def fetch(self, request: Request) -> pd.DataFrame:
        """Return the bars of a request; Schwab gives them in one answer.

        Parameters
        ----------
        request : Request
            What is wanted.

        Returns
        -------
        DataFrame of shape (n, 5)
            Open, high, low, close and volume; empty where Schwab has none.

        Raises
        ------
        ProviderError
            If the key, the secret or the token is refused, or the symbol or range.
        TryAgainError
            If Schwab limits, fails, cuts the answer off or cannot be reached.
        """
        self.check(request)
        answer = self._ask(request)
        if answer.status_code == 401:
            raise ProviderError(_EXPIRED)
        if answer.status_code != 200:
            words = f"{request.symbol}, {request.start} to {request.end}"
            raise refusal(
                answer.status_code, words, *_KEYS, who="Schwab", retry_after=answer.headers.get("Retry-After")
            )
        try:
            candles = pd.DataFrame(answer.json()["candles"], columns=["datetime", *_COLUMNS])
            frame = candles[_COLUMNS].astype("float64")
            times = pd.DatetimeIndex(pd.to_datetime(candles["datetime"].astype("int64"), unit="ms", utc=True))
        except (ValueError, KeyError, TypeError) as error:
            raise unreadable(f"{type(error).__name__} about {request.symbol}", who="Schwab") from None
        if request.bar == _DAY:
            times = times.tz_convert("America/New_York").tz_localize(None).normalize()
        return frame.set_axis(times.rename("datetime"))

    def _ask(self, request: Request) -> Any:
        """Return the answer, whatever its status. Errors of the client hold tokens: none of them is chained."""
        import httpx
        from authlib.common.errors import AuthlibBaseError

        client = self._client()
        ask = getattr(client, _METHODS[request.bar])
        with closing(client.session):
            try:
                return ask(
                    request.symbol,
                    start_datetime=request.start.to_pydatetime(),
                    end_datetime=request.end.to_pydatetime(),
                    need_extended_hours_data=False,
                )
            except ProviderError:
                raise
            except httpx.TransportError as error:
                failed: ProviderError = unreadable(f"{type(error).__name__} about {request.symbol}", who="Schwab")
            except OSError as error:
                failed = ProviderError(f"`{_TOKEN}` must name a file that can be written; got: {error.strerror}.")
            except AuthlibBaseError:
                failed = ProviderError(_EXPIRED)
        raise failed

    def _client(self) -> Any:
        path = key_from(_TOKEN, who="Schwab")
        key, secret = (key_from(name, who="Schwab") for name in _KEYS)
        try:
            client = _auth().client_from_token_file(path, key, secret)
        except Exception:  # noqa: BLE001 - whatever decoders raise holds the token
            client = None
        if client is None:
            raise ProviderError(f"`{_TOKEN}` must name a file as schwab-py's login writes it; got '{path}'. {_LOG_IN}")
        # At DEBUG it logs whole answers, and who knows what they repeat. It knows the key and the token by itself.
        _redactor().register(secret, "APP_SECRET")
        client.logger.addFilter(_redact)
        ours = _Hooks(self.base_url)
        client.session.event_hooks = {"request": [ours.redirect], "response": [ours.check_token]}
        return client


class _Hooks:
    """What httpx calls before a request leaves, and when an answer's head has come."""

    def __init__(self, base_url: str | None) -> None:
        self.base = None if base_url is None else urlsplit(base_url)

    def redirect(self, request: Any) -> None:
        # schwab-py spells its address out in every call.
        if self.base is not None:
            request.url = request.url.copy_with(
                scheme=self.base.scheme, host=self.base.hostname or "", port=self.base.port
            )
            request.headers["Host"] = self.base.netloc

    @staticmethod
    def check_token(response: Any) -> None:
        """Let nothing but a token be taken for one: schwab-py would write it over the token file."""
        if not response.request.url.path.endswith("/oauth/token"):
            return
        status = response.status_code
        if status in {400, 401}:
            raise ProviderError(_EXPIRED)
        if status != 200:
            retry_after = response.headers.get("Retry-After")
            raise refusal(status, "asked for a token", *_KEYS, who="Schwab", retry_after=retry_after)
        response.read()
        try:
            token = response.json()["access_token"]
        except (ValueError, TypeError, KeyError):
            token = None
        if not token:
            raise unreadable("no token when asked for one", who="Schwab")
        _redactor().register(token, "access_token")


def _redact(record: logging.LogRecord) -> bool:
    """Blot out the secrets that schwab-py knows of."""
    record.msg, record.args = _redactor().redact(record.getMessage()), None
    return True


def _redactor() -> Any:
    import schwab

    return schwab.LOG_REDACTOR


def _auth() -> Any:
    try:
        with warnings.catch_warnings(record=True):  # authlib insists on its own about httpx; "ignore" would not do
            import schwab.auth
    except ImportError:
        raise missing_client("schwab-py", "schwab") from None
    return schwab.auth
