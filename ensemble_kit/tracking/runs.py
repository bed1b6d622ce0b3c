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

from ensemble_kit.exceptions import TrackingError
from ensemble_kit.tracking._aliases import ABOUT, CHAMPION, check_alias, welcome
from ensemble_kit.tracking.callback import ensemble_figures
from ensemble_kit.tracking.context import git_tags, metric_name, plain_parameters, version_tags
from ensemble_kit.tracking.intake import intake_terms, session_of
from ensemble_kit.tracking.model import read_card, read_model, write_model
from ensemble_kit.tracking.served import example_of, signature_of
from ensemble_kit.validation import final_estimator

__all__ = [
    "CHAMPION",
    "check_store",
    "load_card",
    "load_model",
    "log_and_register",
    "log_holdout",
    "log_report",
    "quiet",
    "tracked_run",
]

#: What `log_model` calls the files' folder, under its own `data`.
_FOLDER = "sized_model"


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
    with mlflow.start_run(run_name=run_name, tags=version_tags() | git_tags()) as run:
        mlflow.log_params(plain_parameters(parameters))
        yield run


def log_and_register(
    model: Any, bars: pd.DataFrame, *, name: str, card: Mapping[str, Any], alias: str | None = None
) -> int:
    """Log a fitted model in the active run, and register it.

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
    alias : str, default=None
        `champion` or `challenger`. None for the former where there is none, and for the latter
        where there is one: `registry.promote` makes it champion if it is better.

    Returns
    -------
    int
        The version.

    Raises
    ------
    TrackingError
        If the model cannot be stored safely, or a version cannot be called so.
    """
    check_alias(alias)
    _log_ensemble(model)
    # What bars the model takes, unless the card says so already (`model_card` does).
    card = {**intake_terms(model, bars, session=session_of(card)), **card}
    with tempfile.TemporaryDirectory() as folder:
        data = write_model(model, Path(folder) / _FOLDER, card)
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="ensemble_kit.tracking.served",
            data_path=str(data),
            signature=signature_of(model, card),
            input_example=example_of(bars, card),
            pip_requirements=_requirements(),
        )
    # Registered last: a version exists only for a model that is wholly there.
    about = {key: card[key] for key in ABOUT if isinstance(card.get(key), str)}
    version = mlflow.register_model(logged.model_uri, name, tags=about)
    welcome(name, int(version.version), alias)
    return int(version.version)


def _requirements() -> list[str]:
    """Pin this package and what it needs, optional things aside, as they are here."""
    needed = [line for line in importlib.metadata.requires("ensemble-kit") or () if "extra ==" not in line]
    names = ["ensemble-kit", *(re.split(r"[^\w.-]", line)[0] for line in needed)]
    return [f"{name}=={importlib.metadata.version(name)}" for name in names]


def _log_ensemble(model: Any) -> None:
    """Log what the ensemble measured: scores by fold, weights and temperatures by member."""
    ensemble = final_estimator(getattr(model, "model_", model))
    run = mlflow.active_run()
    if run is None or not hasattr(ensemble, "fold_scores_"):
        return
    # A run of `MLflowCallback` has them already.
    there = mlflow.MlflowClient().get_run(run.info.run_id).data.metrics
    for member, label, horizon, value, step in ensemble_figures(ensemble):
        name = metric_name(label, member, horizon)
        if name not in there:
            mlflow.log_metric(name, value, step=step)


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
    log_report(run_id, pictures, folder="holdout")


def log_report(run: str, files: str | Path | Iterable[str | Path], *, folder: str = "report") -> None:
    """Add files to a run after the fact: the report, pictures, tables.

    Parameters
    ----------
    run : str
        The run's id, as `MLflowCallback.run_id` has it.
    files : path or iterable of paths
        Files that exist.
    folder : str, default="report"
        Where they go among the run's files.

    Raises
    ------
    TrackingError
        If there is no such run, a file is missing, or the store does not take one.
    """
    paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise TrackingError(f"`files` must be files that exist; got {', '.join(missing)}. Write them first.")
    client = mlflow.MlflowClient()
    try:
        client.get_run(run)
        for path in paths:
            client.log_artifact(run, str(path), folder)
    except Exception as error:  # the store's own library fails in its own way
        raise TrackingError(
            f"`run` must be the id of a run at {mlflow.get_tracking_uri()} that takes files; got {run!r} "
            f"({type(error).__name__}: {str(error)[:200]}). Take `MLflowCallback.run_id`."
        ) from error


def quiet() -> None:
    """Keep MLflow's and its database's own news out of a command's output."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
