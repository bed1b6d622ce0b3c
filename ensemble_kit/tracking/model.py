"""A fitted model as files that execute nothing when they are read."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import joblib
import numpy as np
import pandas as pd
import skops.io
from sklearn.base import BaseEstimator, clone, is_classifier
from skops.io.exceptions import UntrustedTypesFoundException

from ensemble_kit.exceptions import TrackingError

__all__ = ["CARD_FILE", "MODEL_FILE", "check_archive", "check_storable", "read_card", "read_model", "write_model"]

MODEL_FILE = "model.skops"
CARD_FILE = "card.json"

#: Besides what skops trusts (scikit-learn's classes): our own, whose state is plain, and a dtype.
TRUSTED = [
    "numpy.dtype",
    "ensemble_kit.sessions.Session",
    "ensemble_kit.calibration.temperature.TemperatureScaling",
    "ensemble_kit.ensemble.voting.WalkForwardVotingClassifier",
    "ensemble_kit.estimators.cnn.CNNClassifier",
    "ensemble_kit.estimators.expected_cost.ExpectedCostClassifier",
    "ensemble_kit.estimators.fusion.FusionClassifier",
    "ensemble_kit.estimators.informer.InformerClassifier",
    "ensemble_kit.estimators.lightgbm_window.LGBMWindowClassifier",
    "ensemble_kit.estimators.lstm_attention.LSTMAttentionClassifier",
    "ensemble_kit.estimators.lstm_gru.LSTMGRUClassifier",
    "ensemble_kit.estimators.lu_transformer.LuTransformerClassifier",
    "ensemble_kit.estimators.transformer.TransformerClassifier",
    "ensemble_kit.estimators.wave_transformer.WaveTransformerRegressor",
    "ensemble_kit.metrics.classification.auc_pr",
    "ensemble_kit.features.alpha158.Alpha158",
    "ensemble_kit.features.cross_sectional.CrossSectionalScaler",
    "ensemble_kit.features.external.ExternalFeatures",
    "ensemble_kit.features.ict.ICTFeatures",
    "ensemble_kit.features.indicators.IndicatorFeatures",
    "ensemble_kit.features.microstructure.MicrostructureFeatures",
    "ensemble_kit.features.selector.RelevanceRedundancySelector",
    "ensemble_kit.features.session.SessionFeatures",
    "ensemble_kit.sizing.kelly.KellySizer",
    "ensemble_kit.sizing.sized.SizedClassifier",
    "ensemble_kit.sizing.threshold.ThresholdSizer",
    "ensemble_kit.validation.split.WalkForwardSplit",
]


def write_model(model: Any, folder: Path, card: Mapping[str, Any]) -> Path:
    """Write a fitted model and its card into a folder.

    Parameters
    ----------
    model : estimator
        Fitted; of this toolkit's and scikit-learn's classes.
    folder : Path
        Made if it is not there.
    card : mapping
        What goes with the model: label definition, class shares, bars it was trained on.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    TrackingError
        If the model holds something that could not be read back safely.
    """
    data, unknown = _dump(model)
    if unknown:
        raise TrackingError(_FOREIGN.format(", ".join(unknown)))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(data)
    (folder / CARD_FILE).write_text(json.dumps(dict(card), indent=2, sort_keys=True, default=str) + "\n")
    return folder


def check_storable(model: Any) -> None:
    """Find out before a model is trained whether it could be stored.

    Parameters
    ----------
    model : estimator
        Not fitted yet; composed of others or not.

    Raises
    ------
    TrackingError
        Naming each part that could not be read back safely, and why.

    Notes
    -----
    A part's own class and parameters are seen without fitting it. What an estimator of
    scikit-learn's will hold once it is fitted (trees, say, which are memory that nothing checks
    when it is read) is seen by fitting a copy to eight rows.

    Examples
    --------
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from ensemble_kit.tracking.model import check_storable
    >>> check_storable(make_pipeline(StandardScaler(), RandomForestClassifier()))
    Traceback (most recent call last):
        ...
    ensemble_kit.exceptions.TrackingError: `model` must be made of ... got RandomForestClassifier
    (sklearn.tree._tree.Tree). Replace that part, or save the model yourself with joblib.
    """
    _, unknown = _dump(model)
    faults = dict.fromkeys(unknown)
    parts = {id(part): part for part in _parts(model)}
    for part in parts.values():
        if type(part).__module__.startswith("sklearn.") and (held := _held_once_fitted(part)):
            faults[f"{type(part).__name__} ({', '.join(held)})"] = None
    if faults:
        raise TrackingError(_FOREIGN.format(", ".join(faults)))


def _parts(model: Any) -> list[Any]:
    """Return the estimators that hold no others."""
    if not hasattr(model, "get_params") or isinstance(model, type):
        return []
    inner = [value for value in model.get_params().values() if isinstance(value, BaseEstimator)]
    return [part for one in inner for part in _parts(one)] if inner else [model]


def _held_once_fitted(part: Any) -> list[str]:
    small = {name: 1 for name in ("n_estimators", "n_jobs") if name in part.get_params()}
    X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [3.0, 2.0]] * 2)
    y = np.array(["a", "b"] * 4) if is_classifier(part) else X.sum(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fitted = clone(part).set_params(**small).fit(X, y)
        except Exception:  # noqa: BLE001 - it wants other data (text, more columns): `write_model` will see it
            return []
        return _dump(fitted)[1]


_FOREIGN = (
    "`model` must be made of this toolkit's and scikit-learn's classes that can be read back safely, to be registered; "
    "got {}. Replace that part, or save the model yourself with joblib."
)


def _dump(model: Any) -> tuple[bytes, list[str]]:
    """Return a model's bytes, and the types in it that would not be read back."""
    try:
        data = skops.io.dumps(_plain_copy(model))
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # functions without a name, say
        return b"", [" ".join(str(error).split())]
    return data, sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED))


class _PlainPickler(pickle.Pickler):
    """Makes a model's state plain, and leaves behind what belongs to the machine it was fitted on."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, joblib.Memory | PurePath):
            return type(None), ()
        # scikit-learn's union keeps the columns of its parts, and skops refuses pandas' classes.
        if isinstance(value, pd.Index):
            return np.array, (value.tolist(), object)
        # Parameters by label (costs, weights) may come as frames, or as the dicts that they mean.
        if isinstance(value, pd.DataFrame | pd.Series):
            by_label = value.to_dict("index") if isinstance(value, pd.DataFrame) else value.to_dict()
            return dict, (list(by_label.items()),)
        return NotImplemented


def _plain_copy(model: Any) -> Any:
    buffer = io.BytesIO()
    _PlainPickler(buffer).dump(model)
    return pickle.loads(buffer.getvalue())


def read_model(folder: str | Path) -> Any:
    """Read a model back; nothing but the known classes is ever built.

    Parameters
    ----------
    folder : str or Path
        As written by `write_model`.

    Returns
    -------
    estimator
        The fitted model.

    Raises
    ------
    TrackingError
        If the file is missing, damaged, or holds other classes.
    """
    path = Path(folder) / MODEL_FILE
    try:
        check_archive(path)
        return skops.io.load(path, trusted=TRUSTED)
    except UntrustedTypesFoundException as error:
        # Only what it found: the rest is advice to trust it.
        found = " ".join(str(error).split("\n\n")[0].split()).rstrip(".")
        raise TrackingError(
            f"`{path.name}` must hold this toolkit's classes only; {found}. "
            "It was not written by ensemble_kit: do not use it."
        ) from None
    except Exception as error:  # a damaged archive fails in as many ways as there are bytes
        raise TrackingError(
            f"`{path}` cannot be read as a model ({type(error).__name__}: {error}). Train it again."
        ) from error


def _check_own_file(path: Path) -> None:
    """Refuse links, and pipes and devices, which have no end."""
    if path.is_symlink() or not path.is_file():
        raise OSError(f"{path.name} is no file of this folder")


def check_archive(path: Path) -> None:
    """Refuse what would fill the memory before any class is looked at: what is written here is not compressed.

    Parameters
    ----------
    path : Path
        A zip archive.

    Raises
    ------
    OSError
        If it is no file of its own, or no such archive.
    """
    _check_own_file(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise zipfile.BadZipFile("it holds compressed members")
    # Several members may lie on the same bytes.
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise zipfile.BadZipFile("its members are larger than itself")


def read_card(folder: str | Path) -> dict[str, Any]:
    """Read what was written down with a model.

    Parameters
    ----------
    folder : str or Path
        As written by `write_model`.

    Returns
    -------
    dict
        The card.

    Raises
    ------
    TrackingError
        If there is none.
    """
    path = Path(folder) / CARD_FILE
    try:
        _check_own_file(path)
        card: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise TrackingError(f"`{path}` cannot be read as a model card ({error}). Train the model again.") from None
    return card
