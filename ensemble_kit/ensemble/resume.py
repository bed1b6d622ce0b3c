"""Finished work is not done twice: where results lie, and how they are found again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib

from ensemble_kit.checkpoints import checkpoints_in

__all__ = ["Store"]


class Store:
    """Results of tasks, kept in a folder under a fingerprint of all that they depend on.

    Parameters
    ----------
    memory : Memory, path or None
        Where results are kept; None keeps nothing.
    """

    def __init__(self, memory: joblib.Memory | str | Path | None) -> None:
        self.location = memory.location if isinstance(memory, joblib.Memory) else memory

    def __bool__(self) -> bool:
        return self.location is not None

    def run(self, function: Callable[..., Any], key: str, task: Any) -> Any:
        """Return the kept result of a task, or do it and keep what comes out.

        Parameters
        ----------
        function : callable
            A function of a module, called as ``function(key, task)``.
        key : str
            A fingerprint: equal keys must mean equal results.
        task : object
            What to do.

        Returns
        -------
        object
            What the function returned, now or in an earlier process.

        Notes
        -----
        Long fits inside keep their epochs in a folder of this task's own, which goes when the
        result is there. A file that is torn or damaged is noticed, and its task done again.
        """
        if self.location is None:
            return function(key, task)
        # Compressed always: joblib loads an uncompressed array with a flipped bit without a word,
        # while a torn or flipped compressed file fails its checksum.
        memory = joblib.Memory(self.location, compress=3, verbose=0)
        epochs = Path(self.location) / "epochs" / key
        with checkpoints_in(epochs):
            result = memory.cache(function, ignore=["task"])(key, task)
        shutil.rmtree(epochs, ignore_errors=True)
        return result
