"""Which rows came after all that a fit has seen, its labels included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import RowKeys
from ensemble_kit.validation import FoldData

__all__ = ["last_time_seen", "unseen"]


def last_time_seen(data: FoldData, cv: Any) -> int | None:
    """Return the last time that a fit, or a label of its rows, looked at.

    Parameters
    ----------
    data : FoldData
        The rows of the fit.
    cv : splitter or None
        Its `t1`, where it has one, says how far labels looked.

    Returns
    -------
    int or None
        Nanoseconds; None for rows without times.
    """
    if data.keys.index is None:
        return None
    last = int(data.keys.time[data.weights > 0].max())
    ends = getattr(cv, "t1", None)
    if isinstance(ends, pd.Series):
        known = ends.reindex(data.keys.index)[data.weights > 0].max()
        last = max(last, 0 if pd.isna(known) else pd.Timestamp(known).as_unit("ns").value)
    return last


def unseen(keys: RowKeys, until: int, cv: Any) -> NDArray[np.bool_]:
    """Return which rows are later than that.

    Parameters
    ----------
    keys : RowKeys
        Time and instrument of the rows.
    until : int
        What `last_time_seen` returned.
    cv : splitter or None
        Its `purge`, where it has one, says how many later bars of each instrument labels
        have seen.

    Returns
    -------
    ndarray of bool, shape (n,)
        Whether a row may judge.
    """
    later: NDArray[np.bool_] = keys.time > until
    since = pd.Series(later).groupby(keys.instrument).cumsum().to_numpy()
    return later & (since > (getattr(cv, "purge", None) or 0))
