"""A trial at the start: whether a part needs no more rows than it says."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.streams.rows import Rows

__all__ = ["check_reach"]

# The newest rows, and the newest as one block: a day's first bar alone looks right where sums restart by day.
_TRIED = (1, 2, 3, 5, 8, 13, 21, 34, 55)
_BLOCK = 3
# Of a column's size: the order of sums moves last bits, a missing row moves more.
_RTOL = {np.dtype(np.float32): 1e-3}
_ATOL = 1e-9


def check_reach(step: Any, reach: int, history: Rows, batch: NDArray[Any], ask: Callable[[Rows], Any]) -> None:
    """Refuse a part whose rows depend on earlier ones than it says.

    Parameters
    ----------
    step : transformer or classifier
        Fitted.
    reach : int
        How many earlier rows its rows depend on, as far as it says.
    history : Rows
        Its input so far.
    batch : ndarray of shape (n, ...)
        What it says of the newest `n` rows of `history`, given all of them.
    ask : callable
        Returns what it says of some rows.

    Raises
    ------
    EnsembleKitError
        If it says something else of some of the newest rows as soon as it is given no more of
        the rows before them than it asks for. A history too short to leave a row out tells nothing.
    """
    values = _numbers(batch)
    scale = np.nanmax(np.abs(np.where(np.isfinite(values), values, 0.0)), axis=0, initial=0.0)
    tolerance = _RTOL.get(batch.dtype, 1e-5) * scale + _ATOL
    for newest, size in [(_BLOCK, _BLOCK), *((newest, 1) for newest in _TRIED)]:
        first = len(history) - newest - reach
        if first <= 0 or newest > len(values):
            continue
        last = first + reach + size
        given = Rows(history.values[first:last], history.index[first:last], history.layout)
        wanted = values[len(values) - newest : len(values) - newest + size]
        if not _agree(ask, given, wanted, tolerance):
            raise _refusal(step, reach, given.index[-1])


def _agree(ask: Callable[[Rows], Any], given: Rows, wanted: NDArray[np.float64], tolerance: NDArray[Any]) -> bool:
    # Of a mean over no row, of a division by zero: what matters is whether the batch says the same.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            said = _numbers(ask(given))[-len(wanted) :]
        except (ArithmeticError, LookupError, TypeError, ValueError):  # too few rows for it
            return False
        if said.shape != wanted.shape:
            return False
        same = (said == wanted) | (np.isnan(said) & np.isnan(wanted)) | (np.abs(said - wanted) <= tolerance)
    return bool(same.all())


def _numbers(said: Any) -> NDArray[np.float64]:
    return np.asarray(said).astype(np.float64)


def _refusal(step: Any, reach: int, time: pd.Timestamp) -> EnsembleKitError:
    stated = f"`lookback` {reach}" if reach or hasattr(step, "lookback") else "no `lookback`"
    before = f"more than {reach} rows" if reach else "the rows"
    return EnsembleKitError(
        f"`model` must have parts that state how many earlier rows they read to be streamed; {type(step).__name__} "
        f"states {stated}, and says something else of the bar at {time} without {before} before it. "
        "Give its class a `lookback`: so many rows, or None, which keeps everything."
    )
