"""Placeholder until the real module lands; its author overwrites this file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def checkpoints_in(folder: str | Path | None) -> Iterator[None]:
    """Keep long fits' states in a folder."""
    yield
