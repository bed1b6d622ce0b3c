"""What MLflow loads: a model that takes bars as a table and answers with probabilities and positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import BarsError
from ensemble_kit.targets import stack_horizons
from ensemble_kit.tracking.model import read_model

__all__ = ["ServedModel", "from_table", "to_table"]


def to_table(bars: pd.DataFrame) -> pd.DataFrame:
    """Turn bars into a table that survives being served: times as a column.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Indexed by time or (datetime, instrument).

    Returns
    -------
    DataFrame
        Columns `timestamp` (UTC), `instrument` for a panel, then the bars'.
    """
    table = bars.copy()
    times = pd.DatetimeIndex(bars.index.get_level_values(0))
    if isinstance(bars.index, pd.MultiIndex):
        table.insert(0, "instrument", bars.index.get_level_values(1).astype(str))
    # Naive in UTC: MLflow's schema knows no time zones.
    table.insert(0, "timestamp", times if times.tz is None else times.tz_convert("UTC").tz_localize(None))
    return table.reset_index(drop=True)


def from_table(table: pd.DataFrame) -> pd.DataFrame:
    """Turn a served table back into checked bars.

    Parameters
    ----------
    table : DataFrame
        Columns `timestamp` (naive times are UTC), `instrument` for a panel, prices, and
        `volume` where known.

    Returns
    -------
    DataFrame
        Bars, in order of time.

    Raises
    ------
    BarsError
        If there is no time, or the bars are no bars.
    """
    if "timestamp" not in table:
        raise BarsError(
            f"`bars` must have a column 'timestamp'; got {', '.join(map(str, table.columns))}. Add it, in UTC."
        )
    times = pd.to_datetime(table["timestamp"], utc=True)
    columns = table.drop(columns=["timestamp", "instrument"], errors="ignore")
    keys = [times] if "instrument" not in table else [times, table["instrument"].astype(str)]
    bars = columns.set_index(keys)
    bars.index.names = ["datetime", "instrument"][: len(keys)]
    return check_bars(bars.astype(np.float64))


class ServedModel:
    """A registered model behind MLflow's generic interface.

    Parameters
    ----------
    model : SizedClassifier
        Fitted.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Predict probabilities of the horizon that trades, and positions.

        Parameters
        ----------
        model_input : DataFrame
            Bars as a table; the first `lookback` rows of an instrument are history.
        params : dict, default=None
            Not used; MLflow's signature.

        Returns
        -------
        DataFrame
            `timestamp`, `instrument` for a panel, one column a class, and `position`.
        """
        bars = from_table(model_input)
        proba = stack_horizons(self.model.predict_proba(bars))
        classes = self.model.classes_[0] if isinstance(self.model.classes_, list) else self.model.classes_
        answer = to_table(bars)[[name for name in ("timestamp", "instrument") if name in to_table(bars)]]
        horizon = self.model.sizer_.horizon
        for k, label in enumerate(classes):
            answer[f"p_{label}"] = proba[:, horizon, k]
        answer["position"] = self.model.sizer_.transform(proba)
        return answer


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's hook: read the model from the folder it was logged with."""
    return ServedModel(read_model(Path(path)))
