"""What a run says of a fit before it begins: parameters, data, folds, versions, commit."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from mlflow.utils.mlflow_tags import MLFLOW_GIT_BRANCH, MLFLOW_GIT_COMMIT, MLFLOW_GIT_DIRTY

from ensemble_kit.bars import row_keys
from ensemble_kit.fingerprint import fingerprint
from ensemble_kit.validation import final_estimator

__all__ = [
    "data_tags",
    "flatten_parameters",
    "git_tags",
    "metric_name",
    "plain_parameters",
    "plain_tags",
    "split_definition",
    "version_tags",
]

#: What MLflow takes: characters of a parameter's value, of a tag, of a name.
_VALUE, _TAG, _NAME = 6000, 8000, 250
#: Values longer than this are told by their fingerprint.
_FEW = 50
_VERSIONED = (
    "ensemble-kit",
    "joblib",
    "lightgbm",
    "mlflow",
    "numba",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "skorch",
    "TA-Lib",
    "torch",
)


def flatten_parameters(estimator: Any) -> dict[str, str]:
    """Return all parameters of an estimator and of those inside, by the names of `set_params`.

    Parameters
    ----------
    estimator : estimator
        A Pipeline, an ensemble, a single one.

    Returns
    -------
    dict of str
        As ``model__lightgbm__n_estimators``. An estimator's own value is its class, a
        splitter's parameters follow its name, a frame or a long array is told by size and
        fingerprint. A value of more than 6,000 characters is cut, and says at its end how long
        it was.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from ensemble_kit.tracking.context import flatten_parameters
    >>> flat = flatten_parameters(make_pipeline(LogisticRegression(C=0.5)))
    >>> flat["steps"], flat["logisticregression"], flat["logisticregression__C"]
    ('logisticregression', 'LogisticRegression', '0.5')
    """
    flat: dict[str, Any] = {}
    for name, value in sorted(estimator.get_params(deep=True).items()):
        flat[name] = value
        if hasattr(value, "get_n_splits"):
            inside = {key: part for key, part in vars(value).items() if not key.startswith("_")}
            flat |= {f"{name}__{key}": part for key, part in inside.items()}
    return plain_parameters(flat)


def plain_parameters(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters as MLflow takes them.

    Parameters
    ----------
    parameters : mapping
        Any values by name.

    Returns
    -------
    dict of str
        Texts, cut as in `flatten_parameters`.
    """
    return {_safe_name(name): _cut(_describe(value), _VALUE) for name, value in parameters.items()}


def _describe(value: Any) -> str:
    if isinstance(value, joblib.Memory):
        value = str(value.location)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, pd.DataFrame | pd.Series | np.ndarray) and value.size > _FEW:
        plain = value
        if isinstance(value, pd.Series) and pd.api.types.is_datetime64_any_dtype(value.dtype):
            # The same times, whatever unit a pickle has left them in.
            plain = pd.Series(pd.DatetimeIndex(value).as_unit("ns").asi8, index=value.index)
        said = f"{type(value).__name__} of shape {value.shape}, fingerprint {fingerprint(plain)}"
    elif isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        said = f"{value.__module__}.{value.__qualname__}"
    elif hasattr(value, "get_params") or hasattr(value, "get_n_splits"):
        said = type(value).__name__
    elif isinstance(value, list | tuple) and value and all(_is_named(part) for part in value):
        said = ", ".join(part[0] for part in value)
    else:  # where an object lies in memory is no parameter
        said = str(value) if isinstance(value, str | Path) else re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return said


def _is_named(part: Any) -> bool:
    return isinstance(part, tuple) and len(part) >= 2 and isinstance(part[0], str) and not isinstance(part[1], str)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    said = f" ... [cut from {len(text):,} characters]"
    return text[: longest - len(said)] + said


def _safe_name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)[:_NAME]


def metric_name(*parts: Any) -> str:
    """Join words to a name that MLflow takes.

    Parameters
    ----------
    *parts : object
        Member, fold, horizon, quantity.

    Returns
    -------
    str
        As ``fold_0_train_loss``.

    Examples
    --------
    >>> from ensemble_kit.tracking.context import metric_name
    >>> metric_name("fold 0", "train_loss")
    'fold_0_train_loss'
    """
    return _safe_name("_".join(str(part) for part in parts)).replace(" ", "_")


def plain_tags(tags: Mapping[str, Any] | None) -> dict[str, str]:
    """Return tags as MLflow takes them.

    Parameters
    ----------
    tags : mapping or None
        Texts, numbers, or what JSON can say, such as ``labels.definition``.

    Returns
    -------
    dict of str
        Texts.
    """
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in (tags or {}).items()
    }
    return {_safe_name(str(key)): _cut(text, _TAG) for key, text in texts.items()}


def data_tags(X: Any, y: Any) -> dict[str, str]:
    """Say which rows a fit is given.

    Parameters
    ----------
    X : DataFrame or array of shape (n, n_columns)
        Bars or columns.
    y : Series, DataFrame or array of shape (n,) or (n, H)
        Labels.

    Returns
    -------
    dict of str
        ``data.fingerprint`` (values, index and columns; the one in a model's card), ``data.rows``,
        ``data.columns``, of rows with times ``data.first_bar`` and ``data.last_bar``, of a panel
        ``data.instruments``; ``labels.fingerprint``, ``labels.classes`` and ``labels.horizons``.
    """
    tags: dict[str, Any] = {}
    if X is not None:
        shape = np.shape(X)
        tags |= {"data.fingerprint": fingerprint(X), "data.rows": shape[0], "data.columns": (*shape, 0)[1]}
    index = getattr(X, "index", None)
    if isinstance(index, pd.Index) and len(index):  # a list has an `index`, too
        keys = row_keys(X)
        times = keys.axis()
        # Rows of a panel are in order of time, too.
        tags |= {"data.first_bar": str(times[0]), "data.last_bar": str(times[-1])}
        if isinstance(index, pd.MultiIndex):
            names = index.get_level_values(1).unique().astype(str)
            tags |= {"data.instruments": ", ".join(names)}
    if y is not None:
        values = np.asarray(y)
        classes = [str(label) for label in pd.unique(values.ravel())]
        tags |= {"labels.fingerprint": fingerprint(y), "labels.horizons": (*values.shape, 1)[1]}
        if len(classes) <= _FEW:  # more are quantities
            tags["labels.classes"] = ", ".join(sorted(classes))
    return plain_tags(tags)


def split_definition(estimator: Any, X: Any) -> dict[str, Any]:
    """Say how rows are split into folds.

    Parameters
    ----------
    estimator : estimator
        About to be fitted.
    X : DataFrame or array of shape (n, n_columns)
        Its rows.

    Returns
    -------
    dict
        The splitter's class and parameters, and its folds where it can tell them (`folds`);
        empty where there is no splitter.
    """
    inside = final_estimator(getattr(estimator, "model", estimator))
    found = (getattr(one, "cv", None) for one in (inside, estimator))
    cv = next((one for one in found if one is not None), None)
    if cv is None:
        return {}
    own = vars(cv) if hasattr(cv, "get_n_splits") else {"cv": cv}
    definition: dict[str, Any] = {"splitter": type(cv).__name__}
    definition |= {key: _cut(_describe(value), _VALUE) for key, value in own.items() if value is not None}
    if hasattr(cv, "folds"):
        with warnings.catch_warnings(), suppress(Exception):  # the fit itself says what is wrong with them
            warnings.simplefilter("ignore")
            definition["folds"] = json.loads(cv.folds(X).reset_index().to_json(orient="records", date_format="iso"))
    return definition


def version_tags() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute.

    Returns
    -------
    dict of str
        As ``version.numpy``; packages that are not installed are left out.
    """
    tags = {"version.python": platform.python_version()}
    for name in _VERSIONED:
        with suppress(importlib.metadata.PackageNotFoundError):
            tags[f"version.{name}"] = importlib.metadata.version(name)
    return tags


def git_tags(folder: str | Path | None = None) -> dict[str, str]:
    """Return what is checked out in a folder.

    Parameters
    ----------
    folder : str or Path, default=None
        None for the working directory.

    Returns
    -------
    dict of str
        MLflow's own tags of commit, branch and whether tracked files differ from it; empty
        where the folder is in no repository, or git is not installed.
    """
    commit, branch = _git(folder, "rev-parse", "HEAD"), _git(folder, "rev-parse", "--abbrev-ref", "HEAD")
    if not commit:
        return {}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    tags = {MLFLOW_GIT_COMMIT: commit, MLFLOW_GIT_DIRTY: str(bool(changed)).lower()}
    return tags | ({MLFLOW_GIT_BRANCH: branch} if branch else {})


def _git(folder: str | Path | None, *words: str) -> str:
    command = ["git", "--no-optional-locks", *words]
    try:
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()
