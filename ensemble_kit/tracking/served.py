"""What MLflow loads: a model that takes bars as a table and answers with probabilities and positions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema
from mlflow.utils.yaml_utils import read_yaml

from ensemble_kit.bars import PRICES, instrument_codes
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import predict_log_proba
from ensemble_kit.tracking.intake import admit, check_terms
from ensemble_kit.tracking.model import MODEL_FILE, read_card, read_model

__all__ = ["ServedModel", "example_of", "signature_of", "to_table"]


def to_table(bars: pd.DataFrame) -> pd.DataFrame:
    """Turn bars into a table that survives being served: times as a column.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Indexed by time or (datetime, instrument).

    Returns
    -------
    DataFrame
        Columns `timestamp` (ISO 8601 text, with the offset of its zone where it has one),
        `instrument` for a panel, then the bars'.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.tracking.served import to_table
    >>> to_table(make_bars(2, random_state=0))["timestamp"].tolist()
    ['2022-01-03T14:30:00+00:00', '2022-01-03T14:35:00+00:00']
    """
    table = bars.reset_index(drop=True)
    if isinstance(bars.index, pd.MultiIndex):
        table.insert(0, "instrument", bars.index.get_level_values(1).astype(str))
    table.insert(0, "timestamp", [time.isoformat() for time in bars.index.get_level_values(0)])
    return table


class ServedModel:
    """A registered model behind MLflow's generic interface.

    Parameters
    ----------
    model : SizedClassifier
        Fitted.
    card : mapping
        Its card, which says what bars it takes.
    version : str, default="unregistered"
        What answers call it.
    """

    def __init__(self, model: Any, card: Mapping[str, Any], *, version: str = "unregistered") -> None:
        check_terms(card)
        self.model = model
        self.card = card
        self.version = version

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Predict probabilities of the horizon that trades, and positions.

        Parameters
        ----------
        model_input : DataFrame of shape (n, n_columns)
            Bars as a table, as `intake.admit` takes them.
        params : dict, default=None
            Not used; MLflow's signature.

        Returns
        -------
        DataFrame of shape (n, n_answers)
            One row a bar: `timestamp` and, if given, `instrument` as they were sent; one column
            ``p_<class>`` a class; `position`; `model_version`; `in_training`, whether the model
            was trained on that bar or its labels looked at it, so that the row is no forecast; and
            `warm_up`, whether fewer earlier bars were sent than the row depends on.

        Raises
        ------
        MlflowException
            If the table is refused (what `intake.admit` says), with the code that a server
            answers as 400.
        """
        try:
            bars = admit(model_input, self.card)
        except EnsembleKitError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        sizer = self.model.sizer_
        proba = np.exp(predict_log_proba(self.model.model_, bars, sizer.classes_))
        answer = model_input[[name for name in ("timestamp", "instrument") if name in model_input]].copy()
        for k, label in enumerate(sizer.classes_):
            answer[f"p_{label}"] = proba[:, sizer.horizon, k]
        answer["position"] = sizer.transform(proba)
        answer["model_version"] = self.version
        answer["in_training"] = bars.index.get_level_values(0) <= pd.Timestamp(self.card["seen_until"])
        earlier = answer.groupby(instrument_codes(bars.index)[0]).cumcount()
        answer["warm_up"] = earlier.to_numpy() < self.card["min_history"] - 1
        return answer


def signature_of(model: Any, card: Mapping[str, Any]) -> ModelSignature:
    """Return the columns that a served model takes and gives.

    Parameters
    ----------
    model : SizedClassifier
        Fitted.
    card : mapping
        Its card.

    Returns
    -------
    ModelSignature
        MLflow's. Times may be of any type: as `datetime`, MLflow would refuse those with a zone.
    """
    asked = [
        ColSpec(AnyType(), "timestamp"),
        ColSpec(DataType.string, "instrument", required=card["panel"]),
        *(ColSpec(DataType.double, name) for name in card["columns"]),
    ]
    given = [
        ColSpec(AnyType(), "timestamp"),
        ColSpec(DataType.string, "instrument", required=card["panel"]),
        *(ColSpec(DataType.double, f"p_{label}") for label in model.sizer_.classes_),
        ColSpec(DataType.double, "position"),
        ColSpec(DataType.string, "model_version"),
        ColSpec(DataType.boolean, "in_training"),
        ColSpec(DataType.boolean, "warm_up"),
    ]
    return ModelSignature(inputs=Schema(asked), outputs=Schema(given))


def example_of(bars: pd.DataFrame, card: Mapping[str, Any]) -> pd.DataFrame:
    """Return the newest bars as a table that the model takes.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Training bars.
    card : mapping
        The model's card.

    Returns
    -------
    DataFrame
        As many rows of the fullest instrument (two of a panel) as one new row needs, and four more.
    """
    known = bars[card["columns"]].dropna(subset=list(PRICES))
    if not card["panel"]:
        return to_table(known.iloc[-card["min_history"] - 4 :])
    instruments = known.index.get_level_values(1)
    fullest = instruments.value_counts().index[:2]
    return to_table(known[instruments.isin(fullest)].groupby(level=1).tail(card["min_history"] + 4))


def _version(folder: Path) -> str:
    """Return the registered version, which MLflow writes beside a model that it fetches, or else the file's digest.

    The card cannot hold it: a version is given out only after all files are stored.
    """
    try:
        known = read_yaml(str(folder.parents[1]), "registered_model_meta")
        return f"{known['model_name']}/{known['model_version']}"
    except Exception:  # noqa: BLE001 - not there, or damaged: the model is the same without
        return "sha256:" + hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()[:16]


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's hook: read the model from the folder it was logged with."""
    folder = Path(path)
    return ServedModel(read_model(folder), read_card(folder), version=_version(folder))
