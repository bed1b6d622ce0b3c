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
    short = [f"{name}={shown!r}" for name, purge, shown in _purges(estimator) if (purge or 0) < horizon]
    if short:
        raise LeakageError(
            f"`estimator` must leave out the {horizon} bars that the label looks ahead wherever it splits its rows; "
            f"got {', '.join(short)}. Give `cv` a WalkForwardSplit with `purge={horizon}`, models of this package "
            f"that stop early `validation_purge={horizon}`, and let no other stop early."
        )


def _purges(estimator: Any) -> Iterator[tuple[str, int | None, Any]]:
    """Yield name, purge and value of every splitter and early stopping; the purge is None where none is known."""
    for path, part in [("", estimator), *estimator.get_params().items()]:
        prefix = f"{path}__" if path else ""
        if isinstance(part, WalkForwardSplit):
            if part.t1 is None:
                yield f"{prefix}purge", part.purge, part.purge
        elif hasattr(part, "get_params") and not isinstance(part, type):
            own = part.get_params(deep=False)
            if _splits_blindly(own):
                yield f"{prefix}cv", None, own["cv"]
            if own.get("validation_fraction"):
                yield from _stops_early(prefix, own)


def _splits_blindly(own: dict[str, Any]) -> bool:
    """Whether an estimator's folds are none of ours, which purge by bars: no other knows bars from rows."""
    cv = own.get("cv", False)
    if cv is False or isinstance(cv, WalkForwardSplit | str):  # "prefit" splits nothing
        return False
    # A sizer around an ensemble takes its out-of-fold probabilities, and needs no folds.
    return not (cv is None and "model" in own and hasattr(final_estimator(own["model"]), "out_of_fold"))


def _stops_early(prefix: str, own: dict[str, Any]) -> Iterator[tuple[str, int | None, Any]]:
    """Yield the rows that early stopping validates on: scikit-learn's own estimators draw theirs at random."""
    if "validation_purge" in own:
        yield f"{prefix}validation_purge", own["validation_purge"], own["validation_purge"]
        return
    switch = "early_stopping" if "early_stopping" in own else "n_iter_no_change"
    # "auto" stops early as soon as there are 10,000 rows.
    if own.get(switch) not in (None, False):
        yield f"{prefix}{switch}", None, own[switch]
