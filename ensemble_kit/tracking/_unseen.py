"""What two registered versions have not seen, and what they say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import RowKeys, row_keys
from ensemble_kit.exceptions import BarsError, TrackingError
from ensemble_kit.labels import Labels, label_bars
from ensemble_kit.metrics import causal_rule
from ensemble_kit.targets import place_columns, predict_log_proba
from ensemble_kit.tracking.intake import check_terms, intake_terms, session_of
from ensemble_kit.tracking.runs import load_card, load_model
from ensemble_kit.validation import rows_with_history

__all__ = ["Answer", "Candidate", "UnseenRows", "check_same_question"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Answer:
    """What a model says of the holdout's rows: probabilities (n, K) of the horizon that trades, and positions (n,)."""

    proba: FloatArray
    position: FloatArray


@dataclass(frozen=True)
class Candidate:
    """A version, with all that judging it takes."""

    version: int
    model: Any
    card: Mapping[str, Any]
    labels: Labels

    @classmethod
    def of(cls, name: str, version: int, bars: pd.DataFrame) -> Self:
        card = load_card(f"models:/{name}/{version}")
        check_terms(card)
        if missing := [key for key in ("labels", "class_shares", "last_training_bar") if key not in card]:
            raise TrackingError(
                f"`card` of version {version} must say what it was trained on; it lacks {', '.join(missing)}. "
                "Register the model again, with a `model_card`."
            )
        model = load_model(f"models:/{name}/{version}")
        _check_bars_as_trained(model, card, bars, version)
        return cls(version, model, card, label_bars(bars, card["labels"]))

    @property
    def horizon(self) -> int:
        return int(getattr(self.model.sizer_, "horizon", 0))

    @property
    def classes(self) -> NDArray[Any]:
        return np.asarray(self.model.sizer_.classes_)

    def seen_until(self, keys: RowKeys) -> pd.Timestamp:
        """Return the last bar that the model, or a label that it was trained on, can have looked at."""
        last = pd.Timestamp(self.card["last_training_bar"])
        trained = keys.axis() <= last
        looked = self.labels.t1[trained].max() if trained.any() else last
        known = [last, pd.Timestamp(self.card["seen_until"]), *([] if pd.isna(looked) else [looked])]
        seen: pd.Timestamp = max(known)
        return seen

    def ask(self, bars: pd.DataFrame, rows: UnseenRows, classes: NDArray[Any]) -> Answer:
        """Return probabilities of the scored rows, and positions of all of the holdout."""
        span = rows_with_history(rows.keys, rows.held, self.model.lookback)
        said = predict_log_proba(self.model.model_, bars.iloc[span], self.classes)
        position = np.asarray(self.model.sizer_.transform(np.exp(said)), np.float64)
        judged = said[np.searchsorted(span, rows.scored), self.horizon]
        return Answer(np.exp(place_columns(judged, self.classes, classes)), position[np.searchsorted(span, rows.held)])


@dataclass(frozen=True)
class UnseenRows:
    """The rows that neither model has seen (`held`), and those of them that are scored."""

    keys: RowKeys
    seen_until: pd.Timestamp
    held: IntArray
    scored: IntArray
    truth: pd.Series[Any]
    rule: pd.DataFrame
    events: dict[Any, int]

    @classmethod
    def of(cls, name: str, bars: pd.DataFrame, one: Candidate, other: Candidate, min_events: int) -> Self:
        keys = row_keys(bars, name="bars")
        seen = max(one.seen_until(keys), other.seen_until(keys))
        unseen = np.asarray(keys.axis() > seen)
        truth = one.labels.horizon(one.horizon)
        known = truth.notna().to_numpy() & (one.labels.sample_weight > 0).to_numpy()
        scored = np.flatnonzero(unseen & known)
        rule = causal_rule(bars, one.card["labels"]).iloc[scored]
        truth = truth.iloc[scored]
        events = {event: int((truth == event).sum()) for event in rule}
        if min(events.values()) < min_events:
            counted = ", ".join(f"{n} of {event}" for event, n in events.items())
            raise TrackingError(
                f"`bars` must hold at least {min_events} events of each class that neither version {one.version} nor "
                f"{other.version} of {name} has seen; got {counted} in {len(scored)} labelled bars after {seen}. "
                "With fewer, the interval of a difference says nothing: give newer bars."
            )
        return cls(keys, seen, np.flatnonzero(unseen), scored, truth, rule, events)

    def block(self, labels: Labels) -> int:
        """Return the length of bootstrap blocks: the usual one, or the labels' reach where that is longer."""
        t1 = labels.t1.iloc[self.scored]
        times, own = np.unique(self.keys.time), self.keys.time[self.scored]
        looked = np.searchsorted(times, pd.DatetimeIndex(t1).as_unit("ns").asi8) - np.searchsorted(times, own)
        reach = int(looked[t1.notna().to_numpy()].max(initial=1))
        n = len(np.unique(own))
        return min(max(reach, round(2 * n ** (1 / 3))), n // 2)


def _check_bars_as_trained(model: Any, card: Mapping[str, Any], bars: pd.DataFrame, version: int) -> None:
    """Refuse bars of another kind: the model's columns would mean something else."""
    terms = intake_terms(model, bars, session=session_of(card))
    kinds = {True: "a panel", False: "one instrument"}
    for key, what in (("bar", "be of length"), ("tz", "be in the zone"), ("panel", "be of")):
        if terms[key] != card[key]:
            wanted, given = (kinds[value] if isinstance(value, bool) else value for value in (card[key], terms[key]))
            raise BarsError(
                f"`bars` must {what} {wanted}, as in the training of version {version}; got {given}. "
                "Give such bars as it was trained on."
            )
    if missing := [column for column in card["columns"] if column not in terms["columns"]]:
        raise BarsError(
            f"`bars` must have values in {', '.join(missing)}, as in the training of version {version}; got none. "
            "Its columns would mean something else without."
        )


def check_same_question(one: Candidate, other: Candidate) -> None:
    """Refuse models of other labels: one of them would be judged on what it was never asked."""
    # How many horizons are learned beside it changes nothing in the one that trades.
    asked = [
        {key: value for key, value in each.card["labels"].items() if key != "horizons"} | {"horizon": each.horizon}
        for each in (one, other)
    ]
    differing = [key for key in sorted(asked[0] | asked[1]) if asked[0].get(key) != asked[1].get(key)]
    if differing:
        shown = "; ".join(f"{key}: {asked[0].get(key)} and {asked[1].get(key)}" for key in differing)
        raise TrackingError(
            f"`versions` must be trained on the same labels; those of {one.version} and {other.version} differ in "
            f"{shown}. Promote by `force`, with the reason, or train on the champion's labels."
        )
