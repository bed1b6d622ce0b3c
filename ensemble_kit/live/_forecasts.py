"""What a model says of a bar, checked before it is believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.live.journal import Journal
from ensemble_kit.tracking.intake import check_terms

__all__ = ["Forecast", "Forecaster", "check_card", "in_zone"]

_SUM = 1e-4  # float32 networks


@dataclass(frozen=True)
class Forecast:
    """Probabilities of the horizon that trades, and the position; or why there are none."""

    proba: dict[str, float] | None
    wanted: float | None
    failure: str | None = None


class Forecaster:
    """A model, its card and its stream, which is started on the journal's bars and nothing else.

    Parameters
    ----------
    model : SizedClassifier
        Fitted.
    card : mapping
        Its card.
    version : str
        What decisions call it.
    """

    def __init__(self, model: Any, card: Mapping[str, Any], version: str) -> None:
        check_card(card)
        self.model = model
        self.card = card
        self.version = version
        self._stream: Any = None

    def start(self, journal: Journal, before: pd.Timestamp | None = None) -> None:
        """Start the stream on the journal's bars, those from `before` on left out."""
        bars = journal.bars()
        if before is not None:
            bars = bars[bars.index < before]
        self._stream = self.model.stream(self._as_trained(bars)) if len(bars) else None

    def forget(self) -> None:
        """Start anew at the next bar."""
        self._stream = None

    def forecast(self, bar: pd.DataFrame, journal: Journal) -> Forecast:
        """Return what the model says of the next bar. A model that fails is an answer, too."""
        try:
            if self._stream is None:
                self.start(journal, before=bar.index[0])
            answer = self._stream.update(self._as_trained(bar))
            return self._checked(answer)
        except Exception as error:  # noqa: BLE001 - whatever a model raises, trading must go on without it
            self.forget()
            return Forecast(None, None, f"the model failed: {type(error).__name__}: {error}"[:500])

    def _checked(self, answer: Any) -> Forecast:
        sizer = self.model.sizer_
        proba = np.asarray(answer.proba, dtype=np.float64)
        if proba.ndim > 1:
            proba = proba.reshape(-1, proba.shape[-1])[sizer.horizon]
        wanted = float(np.asarray(answer.position).item())
        said = {str(label): float(value) for label, value in zip(sizer.classes_, proba, strict=True)}
        fine = np.isfinite(proba).all() and (proba >= 0).all() and abs(proba.sum() - 1) <= _SUM and np.isfinite(wanted)
        if not fine:
            return Forecast(None, None, f"the model failed: it said {said}, position {wanted:g}")
        return Forecast(said, wanted)

    def _as_trained(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Return bars in the zone and with the columns of training."""
        bars = bars.reindex(columns=self.card["layout"])
        bars.index = in_zone(pd.DatetimeIndex(bars.index), self.card)
        return bars


def in_zone(times: pd.DatetimeIndex, card: Mapping[str, Any]) -> pd.DatetimeIndex:
    """Return times of the journal in the zone of training, without one where training had none."""
    return times.tz_localize(None) if card["tz"] is None else times.tz_convert(card["tz"])


def check_card(card: Mapping[str, Any]) -> None:
    """Check that a card is of a model that can trade one instrument.

    Raises
    ------
    TrackingError
        If it does not say what bars the model takes.
    EnsembleKitError
        If the model was trained on a panel.
    """
    check_terms(card)
    if card["panel"]:
        raise EnsembleKitError(
            "`card` must be of a model of one instrument; got one that was trained on a panel. "
            "Train on one instrument's bars."
        )
