"""A model's card: all that must be known of a model besides the model."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ensemble_kit.fingerprint import fingerprint, versions
from ensemble_kit.labels import Labels
from ensemble_kit.sessions import Session
from ensemble_kit.tracking.intake import intake_terms
from ensemble_kit.validation import final_estimator

__all__ = ["model_card"]


def model_card(
    model: Any, bars: pd.DataFrame, *, labels: Labels, session: str | Session = "day", **more: Any
) -> dict[str, Any]:
    """Write down what a fitted model is, what it was trained on, and what bars it takes.

    Parameters
    ----------
    model : SizedClassifier
        Fitted on `bars`.
    bars : DataFrame of shape (n, n_columns)
        The training bars.
    labels : Labels
        Of these bars, or of more.
    session : "day", exchange code or Session, default="day"
        When the market is open.
    **more : object
        Plain values that go with them: the preset, the seed, the holdout.

    Returns
    -------
    dict
        Plain values, as JSON holds them. Besides `more`: what `intake_terms` says, with
        `seen_until` as far as the labels looked; `ensemble_kit` (version) and `versions` of the
        libraries; `labels` (definition), `class_shares` of the horizon that trades;
        `first_training_bar`, `last_training_bar`, `n_training_bars`, `bars_fingerprint`;
        `classes`, `features` (names of the columns that the members saw, None where they had none),
        `lookback`, `seq_len` by member, `weights` and `temperatures` by member and horizon, and the
        `sizer` with its parameters and what it measured.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features import SessionFeatures
    >>> from ensemble_kit.labels import peak_slope_bottom
    >>> from ensemble_kit.sizing import SizedClassifier
    >>> from ensemble_kit.tracking.card import model_card
    >>> from ensemble_kit.validation import WalkForwardSplit
    >>> labels = peak_slope_bottom(bars := make_bars(1000, random_state=0), w=12)
    >>> X, y = labels.align(bars)
    >>> folds = WalkForwardSplit(3, t1=labels.t1)
    >>> model = SizedClassifier(make_pipeline(SessionFeatures(), LogisticRegression()), cv=folds).fit(X, y)
    >>> card = model_card(model, X, labels=labels, session="XNYS", seed=0)
    >>> card["classes"], card["lookback"], card["labels"]["w"], card["bar"], card["seed"]
    (['bottom', 'peak', 'slope'], 0, 12, '0 days 00:05:00', 0)
    """
    vote = final_estimator(model.model_)
    horizon = getattr(model.sizer_, "horizon", 0)
    truth = labels.horizon(horizon).loc[bars.index].dropna()
    first, last = pd.DatetimeIndex(bars.index.get_level_values(0))[[0, -1]]
    looked = labels.t1.loc[bars.index].max()
    card = {
        **intake_terms(model, bars, session=session),
        "ensemble_kit": importlib.metadata.version("ensemble-kit"),
        "versions": list(versions()),
        "labels": labels.definition,
        "class_shares": truth.value_counts(normalize=True),
        "first_training_bar": str(first),
        "last_training_bar": str(last),
        "n_training_bars": len(bars),
        "bars_fingerprint": fingerprint(bars),
        "classes": model.sizer_.classes_,
        "features": getattr(vote, "feature_names_in_", None),
        "lookback": model.lookback,
        "seq_len": _window_lengths(vote),
        "weights": getattr(vote, "weights_", None),
        "temperatures": getattr(vote, "temperatures_", None),
        "sizer": _sizer(model.sizer_),
    }
    if isinstance(looked, pd.Timestamp) and looked > last:
        card["seen_until"] = str(looked)
    plain: dict[str, Any] = _plain(card | more)
    return plain


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it: no arrays, and null where a number is not known."""
    if isinstance(value, pd.DataFrame | pd.Series):
        value = value.to_dict("index") if isinstance(value, pd.DataFrame) else value.to_dict()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and np.isnan(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _window_lengths(vote: Any) -> dict[str, int]:
    found = {name: value for name, value in vote.get_params().items() if name.split("__")[-1] == "seq_len"}
    return {name.split("__")[0]: int(value) for name, value in found.items()}


def _sizer(sizer: Any) -> dict[str, Any]:
    measured = {name: value for name, value in vars(sizer).items() if name.endswith("_") and name != "classes_"}
    return {"class": type(sizer).__name__} | sizer.get_params() | measured
