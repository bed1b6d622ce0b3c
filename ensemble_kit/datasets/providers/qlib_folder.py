"""A Qlib data folder as it lies on disk: calendars of text, one file of float32 a field. Qlib itself is not needed."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import PRICES
from ensemble_kit.datasets.providers.request import Request
from ensemble_kit.exceptions import ProviderError

__all__ = ["QlibFolder"]

_DAY = pd.Timedelta(days=1)
#: Qlib's regions, and the clock that their calendars of minutes are written by.
_ZONES = {"cn": "Asia/Shanghai", "tw": "Asia/Taipei", "us": "America/New_York"}
#: Devices of Windows, which Qlib does not let a folder be called by.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}


class QlibFolder:
    """Bars from a Qlib data folder, the values that Qlib's own ``D.features`` gives, bit for bit.

    Qlib folders hold prices multiplied by ``$factor`` and volumes divided by it: adjusted for splits and dividends
    (an instrument without a `$factor` says nothing of that: "not stated"), and in the folders that Qlib's own scripts
    make scaled so that each instrument's first close is 1. Divide by `$factor` for what was paid. A day
    without trading stands there as NaN, and stays.

    Parameters
    ----------
    path : str or Path, default=None
        The folder with ``calendars``, ``instruments`` and ``features``; what ``QLIB_PROVIDER_URI`` in the
        environment names if None.
    region : {"cn", "tw", "us"}, default=None
        Whose clock the times of intraday bars are; ``QLIB_REGION`` in the environment if None. Daily bars need none.

    See Also
    --------
    ensemble_kit.datasets.providers.fetch.fetch_bars : Sorts, checks and makes the panel.

    Notes
    -----
    A calendar is a text of times, a bar's open each (naive dates for ``day``). ``features/<symbol>/<field>.<freq>.bin``
    is little-endian float32: the calendar position of the first value, then the values.

    Examples
    --------
    >>> from ensemble_kit.datasets.providers.qlib_folder import QlibFolder
    >>> QlibFolder("qlib_data/cn_data", region="cn").adjustment  # of nothing, so far
    'not stated'
    """

    name = "qlib"
    #: It lies on this machine: `fetch_bars` keeps no second copy, which might be another folder's.
    local = True

    def __init__(self, path: str | Path | None = None, *, region: str | None = None) -> None:
        self.path = path
        self.region = region
        self.adjustment = "not stated"

    def check(self, request: Request) -> None:
        """Refuse a folder that is none, a bar or a symbol that it has not, and minutes without a region.

        Parameters
        ----------
        request : Request
            What is wanted.

        Raises
        ------
        ProviderError
            In one line, naming what is there instead.
        """
        folder = self._folder()
        freq = _freq(request.bar)
        if not (folder / "calendars" / f"{freq}.txt").is_file():
            known = sorted(file.stem for file in (folder / "calendars").glob("*.txt"))
            raise ProviderError(
                f"`bar` must be one that the Qlib folder has; got {freq}. It has {', '.join(known) or 'no calendar'}."
            )
        if request.bar != _DAY:
            self._zone()
        home = folder / "features" / _home(request.symbol)
        # ".." and "a/b" are folders, too.
        if home.name != _home(request.symbol) or home.name == ".." or not home.is_dir():
            names = sorted(each.name for each in (folder / "features").glob("*"))
            near = difflib.get_close_matches(_home(request.symbol), names, n=3, cutoff=0.5) or names[:3]
            raise ProviderError(
                f"`symbols` must be in the Qlib folder; got {request.symbol}. Nearest of {len(names)}: "
                f"{', '.join(near)}."
            )
        stated = (home / f"factor.{freq}.bin").is_file()
        self.adjustment = "splits and dividends" if stated else "not stated"

    def fetch(self, request: Request) -> pd.DataFrame:
        """Return the bars of a request.

        Parameters
        ----------
        request : Request
            What is wanted.

        Returns
        -------
        DataFrame of shape (n, 5) or (n, 6)
            Open, high, low, close, volume, and vwap where the folder has it; NaN where nothing was traded.

        Raises
        ------
        ProviderError
            If `check` refuses, or a file is missing, torn, or does not fit the calendar.
        """
        self.check(request)
        freq = _freq(request.bar)
        calendar = self._calendar(request)
        home = self._folder() / "features" / _home(request.symbol)
        fields = [*PRICES, *(field for field in ("volume", "vwap") if (home / f"{field}.{freq}.bin").is_file())]
        held = {field: _read(home / f"{field}.{freq}.bin", len(calendar)) for field in fields}
        naive = calendar.tz is None
        first, last = (time.tz_localize(None) if naive else time for time in (request.start, request.end))
        low = max(int(calendar.searchsorted(first)), min(start for start, _ in held.values()))
        high = min(int(calendar.searchsorted(last)), max(start + len(values) for start, values in held.values()))
        rows = slice(low, max(low, high))
        whole = {field: _place(start, values, len(calendar))[rows] for field, (start, values) in held.items()}
        whole.setdefault("volume", np.full(max(low, high) - low, np.nan))
        return pd.DataFrame(whole, index=calendar[rows].rename("datetime"))

    def _folder(self) -> Path:
        named = self.path or os.environ.get("QLIB_PROVIDER_URI")
        if not named:
            raise ProviderError(
                "`QLIB_PROVIDER_URI` must be set in the environment to the Qlib data folder; got none. Set it, or give "
                "QlibFolder(path) as the source."
            )
        folder = Path(named).expanduser()
        if not (folder / "calendars").is_dir() or not (folder / "features").is_dir():
            raise ProviderError(
                f"`path` must be a Qlib data folder, with calendars and features in it; got '{folder}'."
            )
        return folder

    def _zone(self) -> str:
        region = self.region or os.environ.get("QLIB_REGION")
        if region not in _ZONES:
            raise ProviderError(
                f"`region` must be one of {', '.join(_ZONES)} for intraday bars, whose calendar has no zone; got "
                f"{region!r}. Set QLIB_REGION in the environment, or give QlibFolder(path, region=...)."
            )
        return _ZONES[region]

    def _calendar(self, request: Request) -> pd.DatetimeIndex:
        file = self._folder() / "calendars" / f"{_freq(request.bar)}.txt"
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        try:
            times = pd.DatetimeIndex(lines)
            if request.bar == _DAY:
                return times.normalize()
            return times.tz_localize(self._zone()).tz_convert("UTC")
        except ValueError as error:
            raise ProviderError(
                f"`{file.name}` must hold a time on every line; got: {' '.join(str(error).split())}"
            ) from None


def _freq(bar: pd.Timedelta) -> str:
    if bar == _DAY:
        return "day"
    minutes, rest = divmod(bar, pd.Timedelta(minutes=1))
    if rest or not 0 < minutes < 24 * 60:
        raise ProviderError(f"`bar` must be whole minutes or one day from a Qlib folder; got {bar}.")
    return f"{minutes}min"


def _home(symbol: str) -> str:
    name = symbol.lower()
    return f"_qlib_{name}" if name in _DEVICES else name


def _read(file: Path, n: int) -> tuple[int, NDArray[np.float32]]:
    """Return the calendar position of the first value, and the values."""
    if not file.is_file():
        raise ProviderError(f"`{file.parent.name}` must have {file.name} in the Qlib folder; got none. Dump it anew.")
    if file.stat().st_size % 4:
        raise ProviderError(
            f"`{file.parent.name}/{file.name}` must hold whole float32 values; it is torn. Dump it anew."
        )
    raw = np.fromfile(file, dtype="<f4")
    if not len(raw):
        return 0, raw
    if not raw[0] >= 0 or raw[0] % 1 or raw[0] + len(raw) - 1 > n:
        raise ProviderError(
            f"`{file.parent.name}/{file.name}` must lie on the calendar of {n} bars; got {len(raw) - 1} values from "
            f"position {raw[0]:g}. Dump it anew, together with the calendar."
        )
    return int(raw[0]), raw[1:]


def _place(start: int, values: NDArray[np.float32], n: int) -> NDArray[np.float64]:
    placed = np.full(n, np.nan)
    placed[start : start + len(values)] = values
    return placed
