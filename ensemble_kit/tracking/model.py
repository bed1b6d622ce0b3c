"""A fitted model as files that execute nothing when they are read."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import joblib
import numpy as np
import pandas as pd
import skops.io
from skops.io.exceptions import UntrustedTypesFoundException

from ensemble_kit.exceptions import TrackingError

__all__ = ["CARD_FILE", "MODEL_FILE", "read_card", "read_model", "write_model"]

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
    folder.mkdir(parents=True, exist_ok=True)
    data = skops.io.dumps(_plain_copy(model))
    unknown = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED))
    if unknown:
        raise TrackingError(
            f"`model` must be made of this toolkit's and scikit-learn's classes to be registered; got "
            f"{', '.join(unknown)}. "
            "Replace that member, or save the model yourself with joblib."
        )
    (folder / MODEL_FILE).write_bytes(data)
    (folder / CARD_FILE).write_text(json.dumps(dict(card), indent=2, sort_keys=True, default=str) + "\n")
    return folder


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
        return skops.io.load(path, trusted=TRUSTED)
    except UntrustedTypesFoundException as error:
        raise TrackingError(
            f"`{path.name}` must hold this toolkit's classes only; {error}. "
            "It was not written by ensemble_kit: do not use it."
        ) from None
    except Exception as error:  # a damaged archive fails in as many ways as there are bytes
        raise TrackingError(
            f"`{path}` cannot be read as a model ({type(error).__name__}: {error}). Train it again."
        ) from error


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
        card: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise TrackingError(f"`{path}` cannot be read as a model card ({error}). Train the model again.") from None
    return card
