"""Finished work is not done twice: where results lie, and how they are found again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib

from ensemble_kit.checkpoints import Checkpoint, checkpoints_in

__all__ = ["memory_folder", "remembered"]


def memory_folder(memory: joblib.Memory | str | Path | None) -> Path | None:
    """Return the folder that a `memory` means.

    Parameters
    ----------
    memory : Memory, str, Path or None
        As scikit-learn's estimators take it.

    Returns
    -------
    Path or None
        None where nothing is to be kept.
    """
    location = memory.location if isinstance(memory, joblib.Memory) else memory
    return None if location is None else Path(location)


def remembered(folder: Path | None, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the kept result of some work, or do it and keep what comes out.

    Parameters
    ----------
    folder : Path or None
        Where results are kept; None keeps nothing.
    key : str
        A fingerprint of all that the result depends on.
    work : callable
        What to do.

    Returns
    -------
    dict
        What it returned, now or in an earlier process.

    Notes
    -----
    Not `joblib.Memory`, which fails where the disk is full, forgets every result when a line of
    code moves, and checks files by Adler-32 only. Long fits inside keep their epochs in a folder
    of their own, which goes when the result is there.
    """
    if folder is None:
        return work()
    kept = Checkpoint(folder, key)
    result = kept.load()
    if result is None:
        epochs = folder / key
        with checkpoints_in(epochs):
            result = work()
        kept.save(result)
        if kept.path.exists():
            shutil.rmtree(epochs, ignore_errors=True)
    return result
