"""A key for what a result depends on: values, index, columns, parameters, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import lru_cache
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from ensemble_kit.bars import pack_index

__all__ = ["fingerprint", "versions"]

_VERSIONED = ("ensemble-kit", "numpy", "pandas", "scikit-learn", "torch", "skorch", "lightgbm")


def fingerprint(*objects: Any) -> str:
    """Return a key that changes with anything a result could depend on.

    Parameters
    ----------
    *objects : object
        Frames (values, index and columns), arrays, estimators (class and parameters,
        callbacks aside), containers of these, and plain values.

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
    if isinstance(value, pd.DataFrame):
        _feed(digest, [str(column) for column in value.columns])
        _feed(digest, pack_index(value.index))
        for j in range(value.shape[1]):
            _feed(digest, value.iloc[:, j].to_numpy())
    elif isinstance(value, pd.Series):
        _feed(digest, pack_index(value.index))
        _feed(digest, value.to_numpy())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data if value.dtype.kind not in "mM" else value.tobytes())
    elif isinstance(value, np.ndarray):
        _feed(digest, value.tolist())
    elif isinstance(value, BaseEstimator):
        _feed(digest, value.get_params(deep=False))
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            _feed(digest, str(key))
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(str(len(value)).encode())
        for item in value:
            _feed(digest, item)
    elif value is None or isinstance(value, str | bytes | bool | int | float | complex | np.generic):
        digest.update(repr(value).encode())
        digest.update(b";")
    else:
        digest.update(joblib.hash(value).encode())
