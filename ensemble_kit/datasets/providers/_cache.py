"""Bars kept in Parquet files: written whole or not at all, and never joined to bars adjusted otherwise."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble_kit.bars import PRICES, check_bars
from ensemble_kit.datasets.providers.request import Provider, Request
from ensemble_kit.exceptions import ProviderError

__all__ = ["BarCache", "make_folder"]

_NOTE = b"ensemble_kit.bars"
_FORMAT = 1
_DAY = pd.Timedelta(days=1)
#: Trades are corrected, and late ones come in, until a day or so after; such bars are asked for again.
_SETTLED_AFTER = _DAY
#: Bars beside a seam that are asked for again, to see whether history is still the same.
_OVERLAP = 10
#: Finer than any dividend, coarser than the noise of prices that a client adjusts itself.
_SAME = 1e-5
#: Late trades change a volume by less; another scale (a split, lots for shares) changes all of them by more.
_SAME_SCALE = 0.1

Ask = Callable[[Request], pd.DataFrame]


class BarCache:
    """The file of one symbol's bars: one unbroken span of time, which grows at both ends.

    A file is replaced in one step (written beside, flushed to the disk, then renamed), so a reader never sees half of
    one; of two processes that fetch at once, the later one's file stays, whole. A hash covers bars and span.

    Parameters
    ----------
    folder : str or Path
        Where files lie.
    provider : Provider
        Its name and adjustment are part of the path.
    request : Request
        What is wanted.
    notes : list of str
        Where it says what happened.
    """

    def __init__(self, folder: str | Path, provider: Provider, request: Request, notes: list[str]) -> None:
        self.request = request
        self.notes = notes
        seconds = request.bar.total_seconds()
        what = [provider.name, provider.adjustment.replace(" ", "-"), f"{seconds:g}s"]
        self.path = Path(folder).joinpath(
            *(quote(part, safe="") for part in what), f"{quote(request.symbol, '')}.parquet"
        )
        self._identity: dict[str, str | int] = {
            "format": _FORMAT,
            "provider": provider.name,
            "adjustment": provider.adjustment,
            "symbol": request.symbol,
            "bar": request.bar.value,
        }

    def bars(self, ask: Ask, now: pd.Timestamp) -> pd.DataFrame:
        """Return the bars of the request, asking for what the file lacks.

        Parameters
        ----------
        ask : callable
            Takes a `Request`, returns its closed bars, checked, sorted, each time once.
        now : Timestamp
            In UTC.

        Returns
        -------
        DataFrame
            The bars.
        """
        wanted = self.request
        held = self._read()
        if held is None:
            known, span = ask(wanted), (wanted.start, wanted.end)
        else:
            known, span = held
            if wanted.start >= span[0] and wanted.end <= span[1]:
                return self._cut(known)
            known, span = self._extend(known, span, ask)
        settled = min(span[1], now - _SETTLED_AFTER)
        if len(known) and settled > span[0]:
            self._write(known, (span[0], settled))
        return self._cut(known)

    def _extend(
        self, known: pd.DataFrame, span: tuple[pd.Timestamp, pd.Timestamp], ask: Ask
    ) -> tuple[pd.DataFrame, tuple[pd.Timestamp, pd.Timestamp]]:
        wanted = self.request
        both = min(span[0], wanted.start), max(span[1], wanted.end)
        opened = _utc(known)
        if wanted.start < span[0]:
            first = opened[opened >= span[0]][:_OVERLAP]
            until = max(span[0], first[-1] + wanted.bar if len(first) else span[0])
            earlier = ask(replace(wanted, start=both[0], end=until))
            if not self._same(known, earlier, span[0], until):
                return self._anew(ask, both), both
            known = pd.concat([earlier, known[opened >= until]])
            opened = _utc(known)
        if wanted.end > span[1]:
            last = opened[opened < span[1]][-_OVERLAP:]
            since = min(span[1], last[0]) if len(last) else span[1]
            later = ask(replace(wanted, start=since, end=both[1]))
            if not self._same(known, later, since, span[1]):
                return self._anew(ask, both), both
            known = pd.concat([known[opened < since], later])
        return known, both

    def _anew(self, ask: Ask, span: tuple[pd.Timestamp, pd.Timestamp]) -> pd.DataFrame:
        self.notes.append(f"{self.request.symbol}: its cached history was restated, so it was fetched anew")
        return ask(replace(self.request, start=span[0], end=span[1]))

    @staticmethod
    def _same(old: pd.DataFrame, new: pd.DataFrame, start: pd.Timestamp, end: pd.Timestamp) -> bool:
        """Return whether settled bars of two answers have the same times and prices, and volumes of one scale."""
        one, other = (bars[(_utc(bars) >= start) & (_utc(bars) < end)] for bars in (old, new))
        prices = list(PRICES)
        if not one.index.equals(other.index):
            return False
        traded = ((one["volume"] > 0) & (other["volume"] > 0)).to_numpy()
        scale = (other["volume"] / one["volume"])[traded].median() if traded.any() else 1.0
        same = np.allclose(one[prices], other[prices], rtol=_SAME, atol=0.0, equal_nan=True)
        return bool(same and abs(scale - 1.0) <= _SAME_SCALE)

    def _cut(self, bars: pd.DataFrame) -> pd.DataFrame:
        opened = _utc(bars)
        return bars[(opened >= self.request.start) & (opened < self.request.end)]

    def _read(self) -> tuple[pd.DataFrame, tuple[pd.Timestamp, pd.Timestamp]] | None:
        if not self.path.exists():
            return None
        try:
            # By itself: `read_table` would take a folder called a=b for a column.
            with pq.ParquetFile(self.path) as file:
                table = file.read()
            note = json.loads((table.schema.metadata or {})[_NOTE])
            opened = pd.DatetimeIndex(table["datetime"].to_numpy(), name="datetime")
            columns = {name: table[name].to_numpy() for name in table.column_names if name != "datetime"}
            bars = pd.DataFrame(columns, opened if self.request.bar == _DAY else opened.tz_localize("UTC"))
            whole = note.pop("digest") == _digest(bars, note)
            span = pd.Timestamp(note.pop("from")), pd.Timestamp(note.pop("to"))
            whole = whole and note == self._identity
            check_bars(bars)
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            self.notes.append(
                f"{self.request.symbol}: its cache file {self.path} could not be used, so it was fetched anew"
            )
            return None
        return bars, span

    def _write(self, bars: pd.DataFrame, span: tuple[pd.Timestamp, pd.Timestamp]) -> None:
        # A plain table, which `read_bars` and other tools read as it is.
        time = pa.array(_utc(bars).tz_localize(None).to_numpy(), pa.timestamp("ns"))
        time = time if self.request.bar == _DAY else time.cast(pa.timestamp("ns", "UTC"))
        table = pa.table({"datetime": time, **{str(name): bars[name].to_numpy() for name in bars.columns}})
        note = self._identity | {"from": span[0].isoformat(), "to": span[1].isoformat()}
        note["digest"] = _digest(bars, note)
        table = table.replace_schema_metadata({_NOTE: json.dumps(note).encode()})
        folder = self.path.parent
        part = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
                part = Path(file.name)
                pq.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
            _flush_folder(folder)
        except OSError as error:
            if part is not None:
                part.unlink(missing_ok=True)
            raise _not_writable(folder, error) from None


def make_folder(folder: str | Path) -> None:
    """Make the cache's folder if need be, before anything is asked for.

    Parameters
    ----------
    folder : str or Path
        Where files will lie.

    Raises
    ------
    ProviderError
        If it is a file, or cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(Path(folder), error) from None


def _not_writable(folder: Path, error: OSError) -> ProviderError:
    return ProviderError(
        f"`cache` must be a folder that can be written to; got '{folder}': {error.strerror}. "
        "Name another one, or make room."
    )


def _digest(bars: pd.DataFrame, note: Mapping[str, object]) -> str:
    """Return a hash of values, times and note; Parquet's own checksums do not cover the note."""
    digest = hashlib.blake2b(json.dumps(note, sort_keys=True).encode(), digest_size=16)
    digest.update(_utc(bars).as_unit("ns").asi8.tobytes())
    for name in bars.columns:
        digest.update(str(name).encode())
        digest.update(bars[name].to_numpy(np.float64).tobytes())
    return digest.hexdigest()


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _utc(bars: pd.DataFrame) -> pd.DatetimeIndex:
    times = pd.DatetimeIndex(bars.index)
    return times.tz_localize("UTC") if times.tz is None else times
