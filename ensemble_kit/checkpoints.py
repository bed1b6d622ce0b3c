"""Where long fits keep what they have done, so that a killed one goes on from there."""

from __future__ import annotations

import hashlib
import hmac
import pickle
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

__all__ = ["Checkpoint", "checkpoint", "checkpoints_in"]

_FOLDER: ContextVar[Path | None] = ContextVar("checkpoint_folder", default=None)
#: Name of the format and its version; another version is another first line.
_MAGIC = b"ensemble_kit checkpoint 1\n"
_DIGEST = 32
#: Writing takes milliseconds: a temporary file this old, in s, is what a killed process left.
_STALE = 3600.0


@contextmanager
def checkpoints_in(folder: str | Path | None) -> Iterator[None]:
    """Let every long fit inside keep its state in a folder, and go on from what it finds there.

    Parameters
    ----------
    folder : str, Path or None
        The folder, made where it is needed. None switches checkpoints off.

    Notes
    -----
    It holds for the calling thread (a context variable): Pipelines inside follow it, workers in
    other threads or processes set their own. Files stay when a fit ends, so that nothing is lost
    before its result is stored; whoever chose the folder removes it. As with any cache of
    pickles, nobody else should be able to write there.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from ensemble_kit.checkpoints import checkpoint, checkpoints_in
    >>> with TemporaryDirectory() as folder, checkpoints_in(folder):
    ...     checkpoint("a-fit").save({"epoch": 3})
    ...     checkpoint("a-fit").load()
    {'epoch': 3}
    >>> checkpoint("a-fit") is None
    True
    """
    token = _FOLDER.set(None if folder is None else Path(folder))
    try:
        yield
    finally:
        _FOLDER.reset(token)


def checkpoint(key: str | Callable[[], str]) -> Checkpoint | None:
    """Return the place of one fit's state.

    Parameters
    ----------
    key : str or callable
        A fingerprint of all that the fit depends on; it becomes a file name. A callable returns
        it, and is asked only where a folder is in force.

    Returns
    -------
    Checkpoint or None
        None where no folder is in force.
    """
    folder = _FOLDER.get()
    if folder is None:
        return None
    return Checkpoint(folder, key() if callable(key) else key)


class Checkpoint:
    """One fit's state in one file: the old one or the new one, never half of one.

    Parameters
    ----------
    folder : Path
        Where the file lies.
    key : str
        A fingerprint of all that the fit depends on.

    Notes
    -----
    A file is a first line, a BLAKE2b checksum of key and content, and the content, uncompressed:
    zlib takes 80 ms to save 7 % of a megabyte of weights. The checksum is looked at before
    anything is unpickled. Writing does not wait for the disk: after a power cut a file may be
    torn, which is noticed, and the work is done again.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.key = key
        self.path = folder / f"{key}.checkpoint"
        self._failed = False

    def load(self) -> dict[str, Any] | None:
        """Return what was saved last.

        Returns
        -------
        dict or None
            None, with a warning, where the file is torn, damaged, another's or of another
            version; None without one where there is no file.
        """
        try:
            content = memoryview(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"cannot be read ({error})")
            return None
        if content[: len(_MAGIC)] != _MAGIC:
            self._warn("is of another format or version")
            return None
        digest, body = content[len(_MAGIC) : len(_MAGIC) + _DIGEST], content[len(_MAGIC) + _DIGEST :]
        if not hmac.compare_digest(digest, self._digest(body)):
            self._warn("is torn, damaged or another fit's")
            return None
        state: dict[str, Any] = pickle.loads(body)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state in place of the last one.

        Parameters
        ----------
        state : dict
            Plain values, arrays and bytes.

        Notes
        -----
        Where the disk is full, or the folder cannot be written, the last state stays and a
        warning says so, once a fit; the fit itself goes on.
        """
        body = pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL)
        # A name of its own: processes that save the same fit do not meet before the rename.
        temporary = self.path.with_name(f"{self.key}.{uuid.uuid4().hex}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._sweep(_STALE)
            with temporary.open("xb") as file:
                file.writelines([_MAGIC, self._digest(body), body])
            temporary.replace(self.path)
        except OSError as error:
            if not self._failed:
                warnings.warn(
                    f"A checkpoint cannot be written to {self.path.parent} ({error}); training goes on, and starts "
                    "from an earlier epoch if it is killed.",
                    stacklevel=2,
                )
            self._failed = True
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the file, and whatever killed processes left of it."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self._sweep(0.0)

    def _sweep(self, age: float) -> None:
        """Remove temporary files that are older than `age` s."""
        for file in self.path.parent.glob(f"{self.key}.*.tmp"):
            with suppress(OSError):
                if time.time() - file.stat().st_mtime >= age:
                    file.unlink()

    def _digest(self, body: bytes | memoryview) -> bytes:
        digest = hashlib.blake2b(self.key.encode(), digest_size=_DIGEST)
        digest.update(body)
        return digest.digest()

    def _warn(self, why: str) -> None:
        warnings.warn(f"The checkpoint {self.path} {why}; its work is done again.", stacklevel=3)
