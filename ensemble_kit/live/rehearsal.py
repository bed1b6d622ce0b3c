"""What a new version is asked before it may trade: the bars of the service, and answers that make sense."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import predict_log_proba
from ensemble_kit.tracking.intake import check_terms

__all__ = ["Rehearsal", "rehearse"]

#: Rows that are judged, and those of them that are streamed, one by one.
_JUDGED, _STREAMED = 200, 8
#: Of a stream's answer from the batch's: float32 networks in batches of other sizes, and path-dependent columns.
_APART = 1e-4
#: Of a model that says the same whatever happens.
_CONSTANT = 1e-9
#: Must be the same, or the bars in the journal are of another kind.
_TERMS = ("columns", "layout", "panel", "tz", "bar", "session")

FloatArray = NDArray[np.float64]


class Rehearsal(NamedTuple):
    """How it went.

    Attributes
    ----------
    seconds : float
        That a bar took, in the median; 0.0 where there were too few bars.
    most : float
        What a position may be either way: the limit, or what the old version took beyond it,
        since limits cut what is asked for, and it is no fault to ask.
    """

    seconds: float
    most: float


def rehearse(
    model: Any,
    card: Mapping[str, Any],
    bars: pd.DataFrame,
    *,
    old: Any,
    old_card: Mapping[str, Any],
    max_position: float | None,
    max_seconds: float,
) -> Rehearsal:
    """Let a model answer for the newest bars before it may trade.

    Parameters
    ----------
    model : SizedClassifier
        The new one.
    card : mapping
        Its card.
    bars : DataFrame of shape (n, n_columns)
        From the journal: in UTC, the oldest first. Of fewer than 16, only the cards are compared.
    old : SizedClassifier
        The one that trades.
    old_card : mapping
        Its card.
    max_position : float or None
        What a position may be either way; None for 1.
    max_seconds : float
        What one bar may take, in the median of eight.

    Returns
    -------
    Rehearsal
        Of a model that has passed.

    Raises
    ------
    EnsembleKitError
        With the reason why it must not trade.

    Notes
    -----
    What is asked: that it takes the same bars; that probabilities are finite, at least 0 and sum
    to 1, positions finite and within bounds, on the newest 200 bars; that they are not all the
    same there, unless the old model's are; that its stream says of the newest 8 what the batch
    says; and that this is fast enough.
    """
    check_terms(card)
    if other := [name for name in _TERMS if card[name] != old_card[name]]:
        shown = "; ".join(f"{name} {card[name]!r} instead of {old_card[name]!r}" for name in other)
        raise EnsembleKitError(f"it takes other bars: {shown}")
    if len(bars) < 2 * _STREAMED:
        return Rehearsal(0.0, max_position or 1.0)
    rows = _as_trained(bars, card)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a part is slow is measured here
        proba, position = _answer(model, rows)
        old_proba, old_position = _answer(old, rows)
        most = max(max_position or 1.0, float(np.nan_to_num(np.abs(old_position)).max()))
        _judge(proba, position, old_proba, most)
        seconds = _stream(model, rows, proba, position)
    if seconds > max_seconds:
        raise EnsembleKitError(f"it takes {seconds:.3f} s a bar; {max_seconds:g} s are allowed")
    return Rehearsal(seconds, most)


def _as_trained(bars: pd.DataFrame, card: Mapping[str, Any]) -> pd.DataFrame:
    rows = bars.reindex(columns=card["layout"])
    index = pd.DatetimeIndex(rows.index)
    rows.index = index.tz_localize(None) if card["tz"] is None else index.tz_convert(card["tz"])
    return rows


def _answer(model: Any, rows: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """Return probabilities of the horizon that trades (m, K), and positions (m,), of the newest rows."""
    sizer = model.sizer_
    proba = np.exp(predict_log_proba(model.model_, rows, sizer.classes_))
    position = np.asarray(sizer.transform(proba), dtype=np.float64)
    return np.asarray(proba[-_JUDGED:, sizer.horizon], dtype=np.float64), position[-_JUDGED:]


def _judge(proba: FloatArray, position: FloatArray, old: FloatArray, most: float) -> None:
    wrong = ~np.isfinite(proba).all(axis=1) | (proba < 0).any(axis=1) | (np.abs(proba.sum(axis=1) - 1.0) > _APART)
    if wrong.any():
        raise EnsembleKitError(f"{int(wrong.sum())} of its newest {len(proba)} predictions are no probabilities")
    beyond = ~(np.abs(position) <= most + _CONSTANT)
    if beyond.any():
        raise EnsembleKitError(
            f"{int(beyond.sum())} of its newest {len(position)} positions lie beyond {most:g}, "
            f"the first of them {position[beyond][0]:g}"
        )
    if _is_constant(proba) and not _is_constant(old):
        raise EnsembleKitError(f"its newest {len(proba)} predictions are all the same, and the old version's are not")


def _is_constant(proba: FloatArray) -> bool:
    return bool(np.ptp(proba, axis=0).max() <= _CONSTANT)


def _stream(model: Any, rows: pd.DataFrame, proba: FloatArray, position: FloatArray) -> float:
    stream = model.stream(rows.iloc[:-_STREAMED])
    took = []
    for k in range(-_STREAMED, 0):
        began = time.perf_counter()
        said = stream.update(rows.iloc[[k]])
        took.append(time.perf_counter() - began)
        one = np.asarray(said.proba, dtype=np.float64)
        one = one if one.ndim == 1 else one[model.sizer_.horizon]
        apart = max(float(np.abs(one - proba[k]).max()), abs(float(said.position) - float(position[k])))
        if not apart <= _APART:
            raise EnsembleKitError(f"bar by bar it says something else than at once: {apart:g} apart at {said.time}")
    return float(np.median(took))
