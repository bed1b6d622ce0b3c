"""A key for what a result depends on: values, index, columns, parameters, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import lru_cache, singledispatch
from types import CodeType, FunctionType
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from ensemble_kit.bars import pack_index

__all__ = ["fingerprint", "versions"]

#: What an estimator's state may hold besides: what it was made with, and who listened.
_NO_PART_OF_IT = {"_sklearn_version", "_skl_callbacks"}
_VERSIONED = ("ensemble-kit", "numpy", "pandas", "scikit-learn", "torch", "skorch", "lightgbm")


def fingerprint(*objects: Any) -> str:
    """Return a key that changes with anything a result could depend on.

    Parameters
    ----------
    *objects : object
        Frames (values, index and columns), arrays, estimators (class, parameters and what
        they have learned; callbacks aside), functions (their code, defaults and closures, not
        what they call), containers of these, and plain values.

    Returns
    -------
    str
        A hexadecimal digest, the same under any version of any library.

    Notes
    -----
    A frame's pickle would not do: it changes with lookups and with the layout of its blocks.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.fingerprint import fingerprint
    >>> frame = pd.DataFrame({"a": [1.0], "b": [2.0]})
    >>> fingerprint(frame) == fingerprint(frame[["a", "b"]].copy())
    True
    """
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, objects)
    return digest.hexdigest()


@lru_cache
def versions() -> tuple[str, ...]:
    """Return the versions of the libraries that compute: another one may give other bits.

    Returns
    -------
    tuple of str
        ``name=version`` of each.
    """
    return tuple(f"{name}={importlib.metadata.version(name)}" for name in _VERSIONED)


def _feed(digest: Any, value: Any) -> None:
    # Each kind starts with its name, so that a list of two is not a tuple of two, and so on.
    digest.update(f"<{type(value).__module__}.{type(value).__qualname__}>".encode())
    parts = _parts(value)
    if parts is not None:
        digest.update(str(len(parts)).encode())
        for part in parts:
            _feed(digest, part)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data if value.dtype.kind not in "mM" else value.tobytes())
    elif value is None or isinstance(value, str | bytes | bool | int | float | complex | np.generic):
        digest.update(repr(value).encode())
        digest.update(b";")
    else:
        digest.update(joblib.hash(value).encode())


@singledispatch
def _parts(value: Any) -> list[Any] | None:
    """Return what a value is made of; None for one that has no parts."""
    if isinstance(value, list | tuple):
        return list(value)
    return value.tolist() if isinstance(value, np.ndarray) and value.dtype == object else None


@_parts.register
def _(value: pd.DataFrame) -> list[Any]:
    columns = [value.iloc[:, j].to_numpy() for j in range(value.shape[1])]
    return [[str(column) for column in value.columns], pack_index(value.index), *columns]


@_parts.register
def _(value: pd.Series) -> list[Any]:
    return [pack_index(value.index), value.to_numpy()]


@_parts.register
def _(value: dict) -> list[Any]:  # type: ignore[type-arg]
    return [part for key in sorted(value, key=str) for part in (str(key), value[key])]


@_parts.register
def _(value: BaseEstimator) -> list[Any]:
    # Parameters of an unfitted one, and all that a fitted one has learned (in a `FrozenEstimator`, say).
    return [{name: v for name, v in value.__getstate__().items() if name not in _NO_PART_OF_IT}]


@_parts.register
def _(value: FunctionType) -> list[Any]:
    closure = [cell.cell_contents for cell in value.__closure__ or ()]
    return [value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, closure]


@_parts.register
def _(value: CodeType) -> list[Any]:
    # Not its line numbers: a function that moved within its file does the same.
    return [value.co_code, value.co_names, value.co_varnames, value.co_consts]
