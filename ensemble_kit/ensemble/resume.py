"""Finished work is not done twice: where results lie, and how they are found again."""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib

from ensemble_kit.checkpoints import Checkpoint, checkpoints_in
from ensemble_kit.exceptions import EnsembleKitError

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

    Raises
    ------
    EnsembleKitError
        If it is no folder.
    """
    location = memory.location if isinstance(memory, joblib.Memory) else memory
    if location is None:
        return None
    folder = Path(location).expanduser() if isinstance(location, str | Path) and str(location) else None
    if folder is None or (folder.exists() and not folder.is_dir()):
        raise EnsembleKitError(
            f"`memory` must be None, a folder or a `joblib.Memory`; got {memory!r}. "
            "Name a folder; it is made where there is none."
        )
    # Other processes may have been started elsewhere.
    return folder.resolve()


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
        try:
            kept.save(result)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            warnings.warn(f"a result cannot be kept, and would be made again: {error}", UserWarning, stacklevel=2)
        if kept.path.exists():
            shutil.rmtree(epochs, ignore_errors=True)
    return result
