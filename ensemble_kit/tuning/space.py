"""Search spaces of whole pipelines, put together from one table a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.tuning._tables import OWN_TRAINING, TABLES

__all__ = ["space", "suggest"]


def space(
    estimator: Any,
    *,
    prefix: str = "",
    only: str | Sequence[str] | None = None,
    overrides: Mapping[str, BaseDistribution] | None = None,
) -> dict[str, BaseDistribution]:
    """Return what may be tuned of an estimator and of all estimators within it.

    Parameters
    ----------
    estimator : estimator, transformer, sizer or a composition of them
        Pipelines, unions, ensembles, `SizedClassifier` and any other composition whose
        `get_params` names its parts. A part that is None (a `SizedClassifier` without a sizer) or
        a word (``calibrator="temperature"``) has no parameters to set.
    prefix : str, default=""
        Put before every name, for an estimator that will be part of something: ``"model__"``.
    only : str or sequence of str, default=None
        Names or patterns (``"*__learning_rate"``) of what to keep; None for all.
    overrides : mapping of str to Distribution, default=None
        Other ranges, or ranges of parameters that have none here (other people's steps). With
        `only`, these are kept, too.

    Returns
    -------
    dict of str to Distribution
        Optuna's distributions by parameter name, as `set_params` takes them.

    Raises
    ------
    EnsembleKitError
        If a pattern of `only` keeps nothing, an override is no distribution, or the estimator
        has no such parameter.

    See Also
    --------
    suggest : Draw from it.
    WalkForwardObjective : Does so by itself.

    Notes
    -----
    Ranges and where they come from stand in one table, ``ensemble_kit/tuning/_tables.py``. They
    hold on their own: any combination of values is accepted by the estimators, so that
    `optuna_integration.OptunaSearchCV` can take them as they are. Subclasses inherit.

    Parameters that ask another question (losses, cost matrices, horizons), and those that only
    cost time (`max_epochs`, which early stopping decides), are not among them.

    Examples
    --------
    >>> from ensemble_kit.estimators import LGBMWindowClassifier
    >>> from ensemble_kit.features import RelevanceRedundancySelector
    >>> from ensemble_kit.tuning import space
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(RelevanceRedundancySelector(), LGBMWindowClassifier())
    >>> list(space(model, only=["*__k", "*__learning_rate"]))
    ['relevanceredundancyselector__k', 'lgbmwindowclassifier__learning_rate']
    """
    found = {path + name: given for path, part in _parts(estimator) for name, given in _rows_of(part).items()}
    found = {name: given for name, given in found.items() if not _lent(estimator, name)}
    if only is not None:
        found = _kept(found, [only] if isinstance(only, str) else list(only))
    found |= _checked(overrides or {}, estimator)
    return {prefix + name: given for name, given in found.items()}


def suggest(trial: Any, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Draw the parameters of a trial.

    Parameters
    ----------
    trial : Trial or FixedTrial
        Optuna's.
    space : mapping of str to Distribution
        As `space` makes it.

    Returns
    -------
    dict
        Values by name, for `set_params`.

    Raises
    ------
    EnsembleKitError
        If a distribution is not one of Optuna's three.

    Examples
    --------
    >>> import optuna
    >>> from ensemble_kit.sizing import KellySizer
    >>> from ensemble_kit.tuning import space, suggest
    >>> trial = optuna.trial.FixedTrial({"fraction": 0.5, "conservatism": 1.0})
    >>> KellySizer().set_params(**suggest(trial, space(KellySizer())))
    KellySizer()
    """
    return {name: _draw(trial, name, given) for name, given in space.items()}


def _draw(trial: Any, name: str, given: Any) -> Any:
    if isinstance(given, CategoricalDistribution):
        return trial.suggest_categorical(name, given.choices)
    if isinstance(given, IntDistribution):
        return trial.suggest_int(name, given.low, given.high, step=given.step, log=given.log)
    if isinstance(given, FloatDistribution):
        return trial.suggest_float(name, given.low, given.high, step=given.step, log=given.log)
    raise EnsembleKitError(
        f"`space` must hold Optuna's Categorical-, Int- or FloatDistribution; got {given!r} for {name!r}. "
        "Take one from `optuna.distributions`."
    )


def _parts(estimator: Any) -> Iterator[tuple[str, Any]]:
    """Yield an estimator and all within it, each with the prefix of its parameters."""
    yield "", estimator
    for name, value in estimator.get_params(deep=True).items():
        if hasattr(value, "get_params") and not isinstance(value, type):
            yield f"{name}__", value


def _rows_of(estimator: Any) -> dict[str, BaseDistribution]:
    """Return the rows of an estimator's own class and of its bases, those alone that it has as parameters."""
    rows: dict[str, BaseDistribution] = {}
    for cls in reversed(type(estimator).__mro__):
        if cls.__module__.startswith("ensemble_kit."):
            rows |= TABLES.get(cls.__name__, {})
    own = estimator.get_params(deep=False)
    return {name: given for name, given in rows.items() if name in own}


def _lent(estimator: Any, name: str) -> bool:
    """Whether a parameter is of a network's training that a fusion around it does itself."""
    path, _, own = name.rpartition("__")
    holder = path.rpartition("__")[0]
    around = estimator.get_params(deep=True).get(holder) if holder else estimator
    fused = any(cls.__name__ == "FusionClassifier" for cls in type(around).__mro__)
    return bool(path) and fused and own in OWN_TRAINING


def _kept(found: dict[str, BaseDistribution], patterns: list[str]) -> dict[str, BaseDistribution]:
    if idle := [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in found)]:
        raise EnsembleKitError(
            f"`only` must name what can be tuned; got {', '.join(map(repr, idle))}, which is none of "
            f"{', '.join(found) or 'nothing'}. Give ranges of others as `overrides`."
        )
    return {name: given for name, given in found.items() if any(fnmatchcase(name, each) for each in patterns)}


def _checked(overrides: Mapping[str, BaseDistribution], estimator: Any) -> dict[str, BaseDistribution]:
    known = estimator.get_params(deep=True)
    if unknown := [name for name in overrides if name not in known]:
        raise EnsembleKitError(
            f"`overrides` must name parameters of the estimator; got {', '.join(map(repr, unknown))}. "
            "`estimator.get_params()` lists them."
        )
    if wrong := [name for name, given in overrides.items() if not isinstance(given, BaseDistribution)]:
        raise EnsembleKitError(
            f"`overrides` must hold distributions; got {overrides[wrong[0]]!r} for {wrong[0]!r}. "
            "Take one from `optuna.distributions`."
        )
    return dict(overrides)
