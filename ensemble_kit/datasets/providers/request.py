"""What is asked of a provider, and what it says of itself: the contract between `fetch_bars` and each module here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pandas as pd

__all__ = ["Provider", "Request"]


@dataclass(frozen=True)
class Request:
    """Bars of one symbol.

    Attributes
    ----------
    symbol : str
        As the provider spells it.
    bar : Timedelta
        The bar's length; one day for daily bars, which have a session's date and no time.
    start, end : Timestamp
        In UTC; the first instant wanted, and the first that is not.
    """

    symbol: str
    bar: pd.Timedelta
    start: pd.Timestamp
    end: pd.Timestamp


class Provider(Protocol):
    """A source of bars. It asks once and lets errors out; `fetch_bars` waits, asks again, checks and caches.

    Attributes
    ----------
    name : str
        As `fetch_bars` takes it.
    adjustment : str
        What its prices are adjusted for: "splits and dividends", "splits", "none", or "not stated" where
        nothing says so. It may depend on the request, and is right once that was checked.

    Notes
    -----
    Answers are cached by `name` and `adjustment`: where they depend on a setting, `name` shows it.
    A provider with ``local = True`` is a folder on this machine, and never cached. `check` is
    called before each fetch.
    """

    name: str
    adjustment: str

    def check(self, request: Request) -> None:
        """Raise a `ProviderError` for what this provider never has (a bar's length, say) or for a missing key.

        Parameters
        ----------
        request : Request
            What is wanted.
        """

    def fetch(self, request: Request) -> pd.DataFrame:
        """Return the bars of a request, all pages of them.

        Parameters
        ----------
        request : Request
            What is wanted.

        Returns
        -------
        DataFrame of shape (n, n_columns)
            Float columns `open high low close volume` (and `vwap` where known), the index a
            ``DatetimeIndex`` named ``datetime``: each bar's open in UTC, or naive dates of daily
            bars. As they came: `fetch_bars` sorts, reports repeated rows and checks. Empty where the
            provider has none.

        Raises
        ------
        ProviderError
            If it refuses for good: no key, a wrong key, an unknown symbol. The key never stands in it.
        TryAgainError
            If asking again later may help: too many requests, a server's fault, a cut connection.
        """
