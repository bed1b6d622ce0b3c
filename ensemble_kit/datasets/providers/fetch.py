"""Bars from a provider: asked for with patience, cached, checked, and never silently mended."""

from __future__ import annotations

import contextlib
import datetime as dt
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble_kit.bars import PRICES, check_bars
from ensemble_kit.datasets.providers._cache import BarCache, make_folder
from ensemble_kit.datasets.providers._patience import Patience
from ensemble_kit.datasets.providers.report import bar_length, drop_repeated, report_bars
from ensemble_kit.datasets.providers.request import Provider, Request
from ensemble_kit.exceptions import ProviderError
from ensemble_kit.sessions import Session

__all__ = ["SOURCES", "Patience", "fetch_bars"]

#: Name -> module here and its class, which is made without arguments.
SOURCES = {
    "alpaca": ("alpaca", "Alpaca"),
    "polygon": ("polygon", "Polygon"),
    "qlib": ("qlib_folder", "QlibFolder"),
    "schwab": ("schwab", "Schwab"),
    "yahoo": ("yahoo", "Yahoo"),
}

_DAY = pd.Timedelta(days=1)
_COLUMNS = (*PRICES, "volume")


def fetch_bars(
    source: str | Provider,
    symbols: str | Sequence[str],
    bar: str | pd.Timedelta,
    start: str | pd.Timestamp,
    end: str | pd.Timestamp | None = None,
    *,
    session: str | Session | None = None,
    cache: str | Path | None = None,
    patience: Patience | None = None,
) -> pd.DataFrame:
    """Fetch bars from a provider: all pages, with retries, from a local cache as far as that has them.

    Keys come from the environment alone: ``APCA_API_KEY_ID`` and ``APCA_API_SECRET_KEY`` for Alpaca,
    ``POLYGON_API_KEY`` or ``MASSIVE_API_KEY`` for Polygon; Schwab's and the others' stand in their modules.

    Parameters
    ----------
    source : {"yahoo", "alpaca", "polygon", "schwab", "qlib"} or Provider
        A provider by name, as it is by default, or one made with other settings: ``Alpaca(feed="sip")``.
    symbols : str or sequence of str
        One symbol gives a single instrument's frame, a sequence a panel, even if it holds only one.
    bar : str or Timedelta
        The bar's length, up to one day: ``"5min"``, ``"1h"``, ``"1d"``.
    start, end : str or Timestamp
        The first instant wanted, and the first that is not; ISO 8601, naive ones are UTC. Daily bars are wanted
        if midnight of their date lies between. `end` is now unless given.
    session : str or Session, default=None
        When the instruments trade, as in `session_times`: ``"XNYS"``, say. With it, holes in the
        sessions are looked for and told.
    cache : str or Path, default=None
        A folder, made if need be: one Parquet file for each provider, adjustment, bar and symbol. Only what it
        lacks is asked for, and again what may have been corrected since: the newest day when it was
        asked for, and ten bars beside each seam. If those have other prices now (a split or a
        dividend restates all history), the symbol is fetched anew, and said so. A file holds one unbroken
        span, so what lies between two requests is fetched with the second. What is wholly cached is
        returned as it was adjusted when it was fetched, without a key or a connection.
    patience : Patience, default=None
        How often and how long to ask for one symbol; 6 tries in 300 seconds.

    Returns
    -------
    DataFrame of shape (n, n_columns)
        A bar frame: float64 columns ``open high low close volume`` (and ``vwap`` where the provider has it),
        the index named ``datetime``, each bar's open in UTC, or naive dates for daily bars; for several
        symbols (``datetime``, ``instrument``). ``attrs["provider"]`` and ``attrs["adjustment"]`` say whose
        prices these are, and what they are adjusted for: "splits and dividends", "splits" or
        "none", or "not stated" where nothing says so, or not the same of all symbols. Adjusted prices of the past
        know of later splits and dividends: ratios of them may be used, their level may not. A bar whose close
        lies in the future is left out (a daily bar closes when its date ends in UTC).

    Raises
    ------
    ProviderError
        If an argument is not as above, a key is missing or refused, the provider has no bar of any symbol,
        or does not answer in time. No key ever stands in an error, a log or the cache.
    BarsError
        If `bar` is no time of a second to a day, or what it gave is no bar frame: a high under a low, a price of 0.

    Warns
    -----
    UserWarning
        Once a call, naming every symbol with repeated rows (exact copies are dropped; of rows with
        the same time and other values the one given last is kept), holes in its sessions, a
        restated history, an unreadable cache file, or no bars at all.

    See Also
    --------
    ensemble_kit.datasets.providers.report.report_bars : Gaps, splits and halts of any bar frame, in full.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.datasets.providers.fetch import fetch_bars
    >>> class Synthetic:
    ...     name, adjustment = "synthetic", "none"
    ...
    ...     def check(self, request): ...
    ...
    ...     def fetch(self, request):
    ...         return make_bars(1000, random_state=0)
    >>> bars = fetch_bars(Synthetic(), ["A", "B"], "5min", "2000-01-01", "2024-01-01")
    >>> bars.shape, bars.attrs["adjustment"]
    ((2000, 5), 'none')
    """
    provider = _provider(source)
    names = [symbols] if isinstance(symbols, str) else list(symbols)
    if not names or len(set(names)) < len(names) or not all(isinstance(n, str) and n.strip() for n in names):
        raise ProviderError(f"`symbols` must be one name, or several that differ; got {symbols!r}. Write 'SPY', say.")
    now = pd.Timestamp.now("UTC")
    requests = [_request(name, bar, start, end, now) for name in names]
    # What lies on this machine anyway needs no second copy.
    cache = None if getattr(provider, "local", False) else cache
    for request in requests:
        try:
            provider.check(request)
        except ProviderError:
            # A cache may hold what the provider no longer has, and needs no key.
            if cache is None:
                raise

    if cache is not None:
        make_folder(cache)
    patience = patience or Patience()
    adjusted: set[str] = set()
    notes: list[str] = []
    frames: dict[str, pd.DataFrame] = {}
    for request in requests:
        ask = partial(_ask, provider, patience, now, notes)
        frame = ask(request) if cache is None else BarCache(cache, provider, request, notes).bars(ask, now)
        if frame.empty:
            notes.append(f"{request.symbol}: no bars")
            continue
        frames[request.symbol] = frame
        adjusted.add(provider.adjustment)
        if session is not None:
            notes.extend(_gap_notes(frame, request, session))
    if not frames:
        raise ProviderError(
            f"`symbols` must have bars at {provider.name} from {requests[0].start} to {requests[0].end}; got none of "
            f"{', '.join(names)}. Check their spelling and the dates."
        )
    if notes:
        warnings.warn(f"Bars from {provider.name}: {'; '.join(notes)}.", UserWarning, stacklevel=2)
    bars = frames[symbols] if isinstance(symbols, str) else _panel(frames)
    bars.attrs = {"provider": provider.name, "adjustment": adjusted.pop() if len(adjusted) == 1 else "not stated"}
    return bars


def _provider(source: str | Provider) -> Provider:
    if not isinstance(source, str):
        return source
    if source not in SOURCES:
        raise ProviderError(
            f"`source` must be one of {', '.join(SOURCES)}, or a provider; got {source!r}. "
            "Bars of your own are read by `ensemble_kit.datasets.read_bars`."
        )
    module, name = SOURCES[source]
    provider: Provider = getattr(import_module(f"ensemble_kit.datasets.providers.{module}"), name)()
    return provider


def _request(
    symbol: str,
    bar: str | pd.Timedelta,
    start: str | pd.Timestamp,
    end: str | pd.Timestamp | None,
    now: pd.Timestamp,
) -> Request:
    first, last = _utc(start, "start"), now if end is None else _utc(end, "end")
    if not first < last:
        raise ProviderError(f"`start` must lie before `end`; got {first} and {last}. Swap them, or widen the span.")
    return Request(symbol, bar_length(bar), first, last)


def _utc(time: str | pd.Timestamp, name: str) -> pd.Timestamp:
    stamp = None
    # Neither "01/02/2022", which is two days, nor a number, which would be nanoseconds.
    if isinstance(time, str | dt.date | np.datetime64):
        with contextlib.suppress(ValueError, TypeError):
            stamp = pd.to_datetime(time, format="ISO8601" if isinstance(time, str) else None)
    if stamp is None or pd.isna(stamp):
        raise ProviderError(f"`{name}` must be a time; got {time!r}. Write '2022-01-03', say.")
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")


def _ask(provider: Provider, patience: Patience, now: pd.Timestamp, notes: list[str], request: Request) -> pd.DataFrame:
    """Return the closed bars of a request in order, each time once; say what was repeated."""
    provider.check(request)
    raw = patience.ask(partial(provider.fetch, request), provider.name)
    daily = request.bar == _DAY
    if not isinstance(raw, pd.DataFrame):
        raise ProviderError(
            f"{provider.name} must give a DataFrame; got {type(raw).__name__}. Mend the provider's `fetch`."
        )
    if raw.empty:
        index = pd.DatetimeIndex([], tz=None if daily else "UTC", name="datetime").as_unit("ns")
        return pd.DataFrame(columns=list(_COLUMNS), index=index, dtype=np.float64)
    known = [column for column in (*_COLUMNS, "vwap") if column in raw.columns]
    if missing := [column for column in _COLUMNS if column not in raw.columns]:
        raise ProviderError(
            f"{provider.name} must give {', '.join(_COLUMNS)}; missing {', '.join(missing)}. "
            "Mend the provider's `fetch`."
        )
    bars = raw[known].astype(np.float64).rename_axis("datetime")
    times = pd.DatetimeIndex(bars.index)
    if (times.tz is None) != daily:
        raise ProviderError(
            f"{provider.name} must give {'naive dates' if daily else 'times in UTC'} for bars of {request.bar}; "
            f"got {times[0]}. Mend the provider's `fetch`."
        )
    times = times if daily else times.tz_convert("UTC")
    opened = times.tz_localize("UTC") if daily else times
    # Nanoseconds throughout: a cached frame and a fresh one must join to the same index.
    bars.index = times.as_unit("ns").rename("datetime")
    wanted = (opened >= request.start) & (opened < request.end) & (opened + request.bar <= now)
    bars, copies, conflicts = drop_repeated(bars[wanted])
    if copies or conflicts:
        notes.append(f"{request.symbol}: {copies} copied rows dropped, {conflicts} rows replaced by a later one")
    # Before it is cached: a bad print that is kept would be refused for ever.
    return check_bars(bars, name=f"{request.symbol} from {provider.name}") if len(bars) else bars


def _gap_notes(bars: pd.DataFrame, request: Request, session: str | Session) -> list[str]:
    gaps = report_bars(bars, request.bar, session=session).gaps
    if not gaps:
        return []
    first = gaps[0]
    return [
        f"{request.symbol}: {sum(gap.bars for gap in gaps)} bars missing in {len(gaps)} gaps, the first {first.start}"
    ]


def _panel(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    joined = pd.concat(frames, names=["instrument", "datetime"])
    return joined.swaplevel().sort_index()
