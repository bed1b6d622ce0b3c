"""Finished work is not done twice: where results lie, and how they are found again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib

__all__ = ["cached"]


def cached(function: Callable[..., Any], memory: joblib.Memory | str | Path | None) -> Callable[..., Any]:
    """Let a function of `(key, task)` keep its results, found again by `key` alone.

    Parameters
    ----------
    function : callable
        Called with a fingerprint and the task itself.
    memory : Memory, path or None
        Where results are kept; None keeps nothing.

    Returns
    -------
    callable
        The function, remembering.
    """
    location = memory.location if isinstance(memory, joblib.Memory) else memory
    if location is None:
        return function
    # Compressed always: joblib loads an uncompressed array with a flipped bit without a word,
    # while a torn or flipped compressed file fails its checksum and the task is done again.
    store = joblib.Memory(location, compress=3, verbose=0)
    remembering: Callable[..., Any] = store.cache(function, ignore=["task"])
    return remembering
