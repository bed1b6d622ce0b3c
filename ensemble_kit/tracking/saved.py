"""A fitted model and its card in one file, without a registry."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble_kit.exceptions import TrackingError
from ensemble_kit.tracking.model import CARD_FILE, MODEL_FILE, check_archive, read_card, read_model, write_model

__all__ = ["load_saved", "save_model"]

_PARTS = {MODEL_FILE, CARD_FILE}


def save_model(model: Any, path: str | Path, *, card: Mapping[str, Any] | None = None) -> Path:
    """Write a fitted model into one file that executes nothing when it is read.

    Parameters
    ----------
    model : estimator
        Fitted; of this toolkit's and scikit-learn's classes. Scaler, selector, column names and
        parameters are parts of it.
    path : str or Path
        The file; one that is there is replaced once the new one is whole.
    card : mapping, default=None
        What goes with the model as plain values: what it was trained on, and its figures. See
        `model_card`.

    Returns
    -------
    Path
        The file: a zip archive of ``model.skops`` and ``card.json``.

    Raises
    ------
    TrackingError
        If the model holds something that could not be read back safely.

    See Also
    --------
    ensemble_kit.tracking.log_and_register : Versions with a history, in MLflow.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.linear_model import LogisticRegression
    >>> from ensemble_kit.tracking import load_saved, save_model
    >>> model = LogisticRegression().fit([[0.0], [1.0]], ["down", "up"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = save_model(model, Path(folder) / "first.model", card={"accuracy": 0.51})
    ...     again, about = load_saved(file)
    >>> again.predict([[2.0]]).tolist(), about
    (['up'], {'accuracy': 0.51})
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving") as folder:
        parts = write_model(model, Path(folder), card or {})
        whole = Path(folder) / "whole"
        # Compressed, it could not be told from what unpacks to fill a disk.
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(_PARTS):
                archive.write(parts / name, name)
        os.replace(whole, path)  # noqa: PTH105 - says what it does
    return path


def load_saved(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """Read a model and its card back; nothing but the known classes is ever built.

    Parameters
    ----------
    path : str or Path
        As written by `save_model`.

    Returns
    -------
    model : estimator
        The fitted model.
    card : dict
        What was written with it.

    Raises
    ------
    TrackingError
        If the file is missing, damaged, or holds other things or classes.
    """
    path = Path(path)
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
            if names != sorted(_PARTS):
                raise TrackingError(
                    f"`{path.name}` must hold {MODEL_FILE} and {CARD_FILE}; got {', '.join(names[:5]) or 'nothing'}."
                    " It was not written by `save_model`: do not use it."
                )
            with tempfile.TemporaryDirectory() as folder:
                archive.extractall(folder)
                return read_model(folder), read_card(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise TrackingError(f"`{path}` cannot be read as a saved model ({error}). Save it again.") from None
