"""The fitted members of a registered version, judged anew: calibration, weights and sizer without a fit of theirs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ensemble_kit.exceptions import EnsembleKitError

if TYPE_CHECKING:
    import pandas as pd

    from ensemble_kit.experiments import Experiment

__all__ = ["judge_anew", "newest_members"]

#: What is judged, traded or only named: it may change while the members stay. Of the vote, `refit` says which are kept.
_FREE = ("name", "bars", "calibration", "sizing", "costs")


def newest_members(experiment: Experiment, X: pd.DataFrame, options: argparse.Namespace) -> tuple[Any, int]:
    """Return the newest registered model and its version.

    Refused unless its members were fitted on these very rows by these very settings.
    """
    import mlflow

    from ensemble_kit.fingerprint import fingerprint
    from ensemble_kit.tracking import load_card, load_model

    found = mlflow.MlflowClient().search_model_versions(f"name = '{options.name}'")
    if not found:
        raise EnsembleKitError(
            f"`--skip-base-models` must find fitted members; no version of {options.name} is registered. "
            "Train once without it."
        )
    version = max(int(one.version) for one in found)
    uri = f"models:/{options.name}/{version}"
    card = load_card(uri)
    then = card.get("experiment")
    if not isinstance(then, Mapping):
        raise EnsembleKitError(
            f"`--skip-base-models` must know what made the members; version {version} of {options.name} has no "
            "experiment in its card. Train once without it."
        )
    if changed := [*_changed(_fixed(then), _fixed(experiment.settings))]:
        raise EnsembleKitError(
            f"`--skip-base-models` must keep what the members were fitted with; since version {version} of "
            f"{options.name} {', '.join(changed)} changed. Change it back, or train without it."
        )
    if fingerprint(X) != card["bars_fingerprint"]:
        raise EnsembleKitError(
            f"`--skip-base-models` must have the training bars of version {version} of {options.name} "
            f"({card['n_training_bars']} from {card['first_training_bar']} to {card['last_training_bar']}); got others "
            f"({len(X)} from {X.index[0]} to {X.index[-1]}). Give those bars, or train without it."
        )
    return load_model(uri), version


def _fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that fitted members depend on: of members and columns, those that are on."""
    fixed = {key: value for key, value in settings.items() if key not in _FREE}
    fixed["vote"] = {"refit": settings.get("vote", {}).get("refit", "all")}
    for group in ("features", "members"):
        fixed[group] = {name: table for name, table in settings[group].items() if table["on"]}
    if "fusion" in fixed["members"]:
        fixed["networks"] = {name: settings["members"].get(name) for name in fixed["members"]["fusion"]["networks"]}
    if not settings["selector"]["on"]:
        fixed["selector"] = {"on": False}
    # A holdout is what it leaves to train on.
    return {key: value for key, value in fixed.items() if key != "holdout"}


def _changed(then: Mapping[str, Any], now: Mapping[str, Any], at: str = "") -> Iterator[str]:
    for key in dict.fromkeys([*then, *now]):
        one, other = then.get(key), now.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _changed(one, other, f"{at}{key}.")
        elif one != other:
            yield f"{at}{key}"


def judge_anew(fitted: Any, wanted: Any, X: pd.DataFrame, y: Any, sample_weight: Any) -> Any:
    """Calibrate, weigh and size what fitted members said out of fold, by the settings of an unfitted model."""
    from ensemble_kit.validation import final_estimator

    new = final_estimator(wanted.model)
    judging = ("calibrator", "weighting", "power", "scorer", "events")
    final_estimator(fitted.model_).set_params(**{name: getattr(new, name) for name in judging})
    fitted.sizer = wanted.sizer
    return fitted.recalibrate(X, y, sample_weight=sample_weight)
