"""Copies of the versions that trade, beside the journal: a service starts without the registry."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from ensemble_kit.exceptions import TrackingError
from ensemble_kit.tracking.model import read_card, read_model, write_model

__all__ = ["Kept"]

_INDEX = "versions.json"


class Kept:
    """The folder ``JOURNAL.model`` beside an SQLite journal; nothing is kept for one in PostgreSQL.

    Parameters
    ----------
    engine : Engine
        The journal's.

    Attributes
    ----------
    folder : Path or None
        Where copies are; None where none are.
    """

    def __init__(self, engine: Engine) -> None:
        file = engine.url.database if engine.dialect.name == "sqlite" else None
        named = file is not None and file not in {"", ":memory:"} and not file.startswith("file:")
        self.folder = Path(f"{os.path.realpath(str(file))}.model") if named else None

    def keep(self, version: str, model: Any, card: Mapping[str, Any], *, beside: str | None = None) -> None:
        """Keep a copy of a version, and of no other but `beside`.

        Parameters
        ----------
        version : str
            As ``<name>/<number>``.
        model : SizedClassifier
            Fitted.
        card : mapping
            Its card.
        beside : str, default=None
            Another version that stays: the one that may have to trade again.

        Notes
        -----
        The index is replaced last and at once: a kill leaves the copies that were there.
        """
        if self.folder is None:
            return
        self.folder.mkdir(exist_ok=True)
        known = self._known()
        place = Path(tempfile.mkdtemp(prefix="copy-", dir=self.folder))
        write_model(model, place, card)
        stays = {version: place.name} | {beside: known[beside] for beside in [beside] if beside in known}
        new = place / _INDEX
        new.write_text(json.dumps(stays))
        new.replace(self.folder / _INDEX)
        for old in self.folder.glob("copy-*"):
            if old.name not in stays.values():
                shutil.rmtree(old, ignore_errors=True)

    def read(self, version: str) -> tuple[Any, dict[str, Any]]:
        """Return a version's model and card.

        Parameters
        ----------
        version : str
            As ``<name>/<number>``.

        Returns
        -------
        model : SizedClassifier
            Fitted.
        card : dict
            Its card.

        Raises
        ------
        TrackingError
            If there is no copy of it, or it cannot be read.
        """
        place = self._known().get(version)
        if self.folder is None or place is None:
            raise TrackingError(f"`version` must be one that is kept beside the journal; {version} is not.")
        return read_model(self.folder / place), read_card(self.folder / place)

    def _known(self) -> dict[str, str]:
        try:
            found = json.loads((self.folder / _INDEX).read_text()) if self.folder is not None else {}
        except (OSError, ValueError):
            return {}
        # Names alone: nothing outside of the folder is read, or removed.
        return {version: Path(place).name for version, place in found.items()} if isinstance(found, dict) else {}
