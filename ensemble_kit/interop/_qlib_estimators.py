"""Estimators as a Qlib configuration names them, and whether their folds respect the label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.validation import WalkForwardSplit, final_estimator

__all__ = ["build_estimator", "check_purges"]


def build_estimator(config: Any) -> Any:
    """Return the estimator that ``{class, module_path, kwargs}`` names, nested ones included."""
    estimator = _build(config)
    if isinstance(estimator, str | type) or not (hasattr(estimator, "fit") and hasattr(estimator, "predict_proba")):
        raise EnsembleKitError(
            f"`estimator` must be a classifier with probabilities, or a configuration of one; got {estimator!r}. "
            "Pass {'class': ..., 'module_path': ..., 'kwargs': {...}}."
        )
    return estimator


def _names_class(config: Any) -> bool:
    return isinstance(config, dict) and "class" in config and config.keys() <= {"class", "module_path", "kwargs"}


def _build(config: Any) -> Any:
    if _names_class(config):
        from qlib.utils import init_instance_by_config

        try:
            return init_instance_by_config(config | {"kwargs": _build(config.get("kwargs") or {})})
        except (AttributeError, ImportError, TypeError) as error:
            name = ".".join(str(config[key]) for key in ("module_path", "class") if key in config)
            raise EnsembleKitError(
                f"`estimator` must name classes that can be built; got {name}: {error}. Mend the configuration."
            ) from error
    if isinstance(config, dict):
        return {key: _build(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        items = [_build(item) for item in config]
        # Steps and members are pairs (name, estimator); YAML has lists only.
        return tuple(items) if len(items) == 2 and isinstance(items[0], str) and _names_class(config[1]) else items
    return config


def check_purges(estimator: Any, horizon: int) -> None:
    """Refuse folds and early stopping within an estimator that purge less than the label looks ahead."""
    short = [f"{name}={value!r}" for name, value in _purges(estimator) if (value or 0) < horizon]
    if short:
        raise LeakageError(
            f"`estimator` must leave out the {horizon} bars that the label looks ahead wherever it splits its rows; "
            f"got {', '.join(short)}. Give WalkForwardSplit `purge={horizon}`, models that stop early "
            f"`validation_purge={horizon}`."
        )


def _purges(estimator: Any) -> Iterator[tuple[str, int | None]]:
    """Yield the purge of every splitter and early stopping; None for folds that know no purge."""
    for path, part in [("", estimator), *estimator.get_params().items()]:
        prefix = f"{path}__" if path else ""
        if isinstance(part, WalkForwardSplit):
            if part.t1 is None:
                yield f"{prefix}purge", part.purge
        elif not hasattr(part, "get_params") or isinstance(part, type):
            continue
        elif isinstance(cv := getattr(part, "cv", False), int | None) and not isinstance(cv, bool):
            # A sizer around an ensemble takes its out-of-fold probabilities, and needs no folds.
            model = getattr(part, "model", None)
            if model is None or not hasattr(final_estimator(model), "out_of_fold"):
                yield f"{prefix}cv", None
        if getattr(part, "validation_fraction", 0) and hasattr(part, "validation_purge"):
            yield f"{prefix}validation_purge", part.validation_purge
