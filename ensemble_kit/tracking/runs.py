"""Runs and registered models: what was fitted on what, and how to get it back."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature

from ensemble_kit.exceptions import TrackingError
from ensemble_kit.tracking.model import read_card, read_model, write_model
from ensemble_kit.tracking.served import ServedModel, to_table
from ensemble_kit.validation import final_estimator

__all__ = [
    "CHAMPION",
    "check_store",
    "load_card",
    "load_model",
    "log_and_register",
    "log_holdout",
    "quiet",
    "tracked_run",
]

#: The alias that names the version in use.
CHAMPION = "champion"
#: What `log_model` calls the files' folder, under its own `data`.
_FOLDER = "sized_model"
_REQUIREMENTS = ("ensemble-kit", "scikit-learn", "skops", "torch", "skorch", "lightgbm", "numba", "numpy", "pandas")


def check_store(name: str) -> None:
    """Find out, before any work is done, whether models can be registered under a name.

    Parameters
    ----------
    name : str
        The registered model's name.

    Raises
    ------
    TrackingError
        If the name cannot be a model's, or the store does not answer.
    """
    if not re.fullmatch(r"[^/:\s][^/:]*", name):
        raise TrackingError(f"`name` must be a model's name, without / and :; got {name!r}. Name it 'SPY', say.")
    # MLflow would try a server that is down for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    for patience in (1.0, 3.0, 0.0):
        try:
            mlflow.MlflowClient().search_registered_models(max_results=1)
        except Exception as error:  # the store's own library fails in its own way
            # Two processes that make the same new database: the second one waits and finds it made.
            if patience and "sqlite" in mlflow.get_tracking_uri():
                time.sleep(patience)
                continue
            raise TrackingError(
                f"`tracking_uri` must be a store that answers; got {mlflow.get_tracking_uri()} "
                f"({type(error).__name__}: {str(error).splitlines()[0][:200]}). "
                "Take sqlite:///mlflow.db, or start the server."
            ) from error
        return


@contextmanager
def tracked_run(experiment: str, run_name: str, parameters: Mapping[str, Any]) -> Iterator[Any]:
    """Open a run; whatever goes wrong inside ends it as failed, with nothing registered.

    Parameters
    ----------
    experiment : str
        The experiment's name, made if it is not there.
    run_name : str
        The run's name.
    parameters : mapping
        Logged at once.

    Yields
    ------
    Run
        MLflow's active run.
    """
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name=run_name) as run:
        # MLflow refuses values longer than 6,000 characters.
        mlflow.log_params({name: str(value)[:6000] for name, value in parameters.items()})
        yield run


def log_and_register(model: Any, bars: pd.DataFrame, *, name: str, card: Mapping[str, Any]) -> int:
    """Log a fitted model in the active run, register it, and make it the champion.

    Parameters
    ----------
    model : SizedClassifier
        Fitted.
    bars : DataFrame
        Its training bars; the last ones become the input example.
    name : str
        The registered model's name.
    card : mapping
        Goes with the model.

    Returns
    -------
    int
        The version.

    Raises
    ------
    TrackingError
        If the model cannot be stored safely.
    """
    _log_ensemble(model)
    table = to_table(bars.iloc[-((model.lookback or 0) + 5) :])
    signature = infer_signature(table, ServedModel(model).predict(table))
    with tempfile.TemporaryDirectory() as folder:
        data = write_model(model, Path(folder) / _FOLDER, card)
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="ensemble_kit.tracking.served",
            data_path=str(data),
            signature=signature,
            input_example=table,
            pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in _REQUIREMENTS],
        )
    # Registered last: a version exists only for a model that is wholly there.
    version = mlflow.register_model(logged.model_uri, name)
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(name, CHAMPION, version.version)
    return int(version.version)


def _log_ensemble(model: Any) -> None:
    """Log what the ensemble measured: scores by fold, weights and temperatures by member."""
    ensemble = final_estimator(getattr(model, "model_", model))
    if not hasattr(ensemble, "fold_scores_"):
        return
    for (fold, member), row in ensemble.fold_scores_.iterrows():
        values = {f"auc_pr_{member}_{h}": float(value) for h, value in row.items() if value == value}  # noqa: PLR0124
        mlflow.log_metrics(values, step=int(fold))
    for label, frame in (("weight", ensemble.weights_), ("temperature", ensemble.temperatures_)):
        values = {f"{label}_{member}_{h}": frame.loc[member, h] for member in frame.index for h in frame.columns}
        mlflow.log_metrics({key: float(value) for key, value in values.items() if pd.notna(value)})


def load_model(uri: str) -> Any:
    """Load a registered (or logged) model without executing anything that its files say.

    Parameters
    ----------
    uri : str
        As ``models:/SPY@champion`` or ``models:/SPY/3``; a plain name means its champion.

    Returns
    -------
    SizedClassifier
        Fitted.

    Raises
    ------
    TrackingError
        If there is no such model, or it was not written by this toolkit.
    """
    return read_model(_fetch(uri))


def load_card(uri: str) -> dict[str, Any]:
    """Load what was written down with a model: labels, class shares, holdout.

    Parameters
    ----------
    uri : str
        As for `load_model`.

    Returns
    -------
    dict
        The card.

    Raises
    ------
    TrackingError
        If there is no such model, or it has none.
    """
    return read_card(_fetch(uri))


def _address(uri: str) -> str:
    return uri if "/" in uri else f"models:/{uri}@{CHAMPION}"


def _fetch(uri: str) -> Path:
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=_address(uri)))
    except MlflowException as error:
        known = sorted(model.name for model in mlflow.MlflowClient().search_registered_models())
        raise TrackingError(
            f"`name` must be a registered model; got {uri!r} ({str(error).splitlines()[0]}). "
            f"Registered at {mlflow.get_tracking_uri()}: {', '.join(known) or 'none'}. "
            "Train it with `ensemble-kit train`, or name another place with `--tracking-uri`."
        ) from None
    return folder / "data" / _FOLDER


def log_holdout(uri: str, metrics: Mapping[str, float], pictures: Iterable[Path]) -> None:
    """Add holdout figures and pictures to the run that made a registered model.

    Parameters
    ----------
    uri : str
        As for `load_model`.
    metrics : mapping
        Numbers by name; logged as ``holdout_<name>``.
    pictures : iterable of Path
        Files, logged under ``holdout``.
    """
    run_id = mlflow.models.get_model_info(_address(uri)).run_id
    client = mlflow.MlflowClient()
    for name, value in metrics.items():
        client.log_metric(run_id, f"holdout_{name}", value)
    for picture in pictures:
        client.log_artifact(run_id, str(picture), "holdout")


def quiet() -> None:
    """Keep MLflow's and its database's own news out of a command's output."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
