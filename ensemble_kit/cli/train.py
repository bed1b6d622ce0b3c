"""``ensemble-kit train``: fit an experiment up to its holdout, and register the model."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ensemble_kit.cli import _shared
from ensemble_kit.exceptions import EnsembleKitError, TrackingError

if TYPE_CHECKING:
    import pandas as pd

    from ensemble_kit.experiments import Experiment

__all__ = ["add_to", "run"]

#: How long the holdout of `--auto-update-holdout` is.
_NEWEST = "30D"


def add_to(commands: Any) -> None:
    """Add the command and its options.

    Parameters
    ----------
    commands : subparsers
        Where commands are added.
    """
    command = commands.add_parser(
        "train",
        parents=[_shared.experiment_options(), _shared.data_options(required=False), _shared.output_options()],
        help="train an experiment up to its holdout, and register the model",
    )
    command.add_argument("--version", metavar="TAG", help="a label of the run and the version, such as v2-more-trees")
    command.add_argument("--from-scratch", action="store_true", help="forget what this experiment has fitted before")
    command.add_argument(
        "--skip-base-models",
        action="store_true",
        help="take the members of the newest version as they are: fit calibration, weights and sizer only",
    )
    command.add_argument(
        "--select-features",
        action="store_true",
        help="choose columns on the training rows first, and write those kept into the experiment file",
    )
    command.add_argument(
        "--auto-update-holdout", action="store_true", help="begin the holdout 30 days before the newest bar"
    )
    command.add_argument("--deployment", action="store_true", help="train on all bars: nothing is held back to judge")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train on all bars but the newest, and register the model.

    Parameters
    ----------
    options : Namespace
        As parsed.
    """
    from mlflow.exceptions import MlflowException

    from ensemble_kit.tracking import log_and_register
    from ensemble_kit.tracking.card import model_card
    from ensemble_kit.tracking.model import check_storable

    # All that can be wrong with the input is found before a run is opened.
    _check(options)
    experiment = _held_back(_shared.experiment(options), options)
    bars = _shared.read(options)
    labels = experiment.labels(bars)
    train, held = experiment.split(bars, labels)
    X, y, weight = bars.iloc[train], labels.labels.iloc[train], labels.sample_weight.iloc[train].to_numpy()
    list(experiment.model(labels).model[-1].cv.split(X))
    if labels.horizon(0).iloc[train].nunique() < 2:
        raise EnsembleKitError(
            "`--data` must hold prices that turn; got labels of one class (no peak and no bottom, say). Check the file."
        )
    _shared.use_store(options)
    if options.select_features:
        experiment = _select(experiment, options, X, y, weight)
    experiment.check_columns(X)
    model = experiment.model(labels, memory=_shared.memory(options))
    check_storable(model)
    if options.from_scratch:
        shutil.rmtree(_shared.memory(options), ignore_errors=True)
    more = _about(options, experiment, bars, held)
    fitted = None
    if options.skip_base_models:
        from ensemble_kit.cli._members import newest_members

        fitted, more["members_of"] = newest_members(experiment, X, options)
    _say(options, X, held, more)
    try:
        with _fitted(options, model, fitted, (X, y, weight), labels.definition) as model:
            _log(options, experiment, more)
            card = model_card(model, X, labels=labels, session=experiment.session, **more)
            version = log_and_register(model, X, name=options.name, card=card)
        _label(options, version)
    except MlflowException as error:
        raise TrackingError(
            f"`--tracking-uri` must be a store that answers; it did not take the trained model "
            f"({str(error).splitlines()[0][:200]}). What is fitted is kept: the same command registers it when the "
            "store is back."
        ) from error
    _report(options, model, version)


@contextmanager
def _fitted(options: argparse.Namespace, model: Any, members: Any, data: Any, definition: Any) -> Iterator[Any]:
    """Give the fitted model, with its run as MLflow's active one."""
    import mlflow

    from ensemble_kit.tracking import MLflowCallback, tracked_run

    X, y, weight = data
    if members is not None:
        from ensemble_kit.cli._members import judge_anew

        parameters = {name: value for name, value in model.get_params().items() if not hasattr(value, "get_params")}
        with tracked_run(options.name, _run_name(options), parameters):
            yield judge_anew(members, model, X, y, weight)
        return
    callback = MLflowCallback(options.name, run_name=_run_name(options), tags={"labels": definition})
    with warnings.catch_warnings():
        # scikit-learn's own scalers have no epochs to tell of, which it says at every fit.
        warnings.filterwarnings("ignore", message=r"The estimator \w+ does not support callbacks")
        model.set_callbacks(*_progress(), callback).fit(X, y, sample_weight=weight)
    model.set_callbacks()
    # Without an id (the store was away as the fit began, and is back) a run is made now.
    mlflow.set_experiment(options.name)
    with mlflow.start_run(run_id=callback.run_id, run_name=None if callback.run_id else _run_name(options)):
        yield model


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot be meant at once."""
    for one, other in (
        ("deployment", "auto_update_holdout"),
        ("deployment", "holdout"),
        ("auto_update_holdout", "holdout"),
        ("skip_base_models", "from_scratch"),
        ("skip_base_models", "select_features"),
    ):
        if getattr(options, one) and getattr(options, other):
            names = [f"`--{name.replace('_', '-')}`" for name in (one, other)]
            raise EnsembleKitError(f"{names[0]} must be given without {names[1]}; got both. Leave one out.")
    if options.select_features and options.config is None:
        raise EnsembleKitError(
            "`--select-features` must have an experiment file to write the kept columns into; got none. "
            "`ensemble-kit init` writes one for `--config`."
        )
    tag = options.version
    if tag is not None and (not re.fullmatch(r"\w[\w. -]*", tag) or tag.isdigit() or tag in _TAKEN):
        raise EnsembleKitError(
            f"`--version` must be a label that is no number and no alias; got {tag!r}. MLflow counts versions by "
            "itself: label this one 'v2-more-trees', say."
        )


_TAKEN = ("champion", "challenger", "previous_champion")


def _held_back(experiment: Experiment, options: argparse.Namespace) -> Experiment:
    """Return the experiment with the holdout that the flags ask for."""
    if options.deployment:
        return experiment.replace({"holdout": "none"})
    return experiment.replace({"holdout": _NEWEST}) if options.auto_update_holdout else experiment


def _select(experiment: Experiment, options: argparse.Namespace, X: Any, y: Any, weight: Any) -> Experiment:
    """Choose columns on the training rows, and write them into the file."""
    from ensemble_kit.experiments import Experiment

    features, selector = experiment.columns()
    columns = features.set_output(transform="pandas").fit_transform(X)
    selector.fit(columns, y, sample_weight=weight)
    kept = [str(name) for name in selector.get_feature_names_out()]
    chosen = {"selector.on": True, "selector.columns": kept}
    # The file as it is, not as flags have changed it for this run.
    Experiment.read(options.config).replace(chosen).write(options.config)
    why = selector.report_["reason"].str.replace(r" with .*", "", regex=True).value_counts()
    print(f"Kept {len(kept)} of {columns.shape[1]} columns on {selector.n_rows_} training rows, by relevance:")
    print("  " + ", ".join(str(name) for name in selector.report_.query("kept")["column"]))
    print("  " + ", ".join(f"{count} {reason}" for reason, count in why.items()))
    print(
        f"  They stand in {options.config}. All training rows chose them, those that judge members out of fold among "
        "them: figures out of fold are flattered, figures of the holdout are not.\n"
    )
    return experiment.replace(chosen)


def _about(options: argparse.Namespace, experiment: Experiment, bars: pd.DataFrame, held: Any) -> dict[str, Any]:
    """Return what the card says besides what the model and its bars say themselves."""
    return {
        "preset": options.preset or ("small" if options.config is None else options.config.name),
        "seed": experiment.settings["seed"],
        "experiment": experiment.settings,
        "version": options.version,
        "deployment": len(held) == 0,
        "holdout_start": str(bars.index[held[0]]) if len(held) else None,
        "holdout_end": str(bars.index[held[-1]]) if len(held) else None,
    }


def _run_name(options: argparse.Namespace) -> str:
    return " ".join(
        ["train", options.version or options.preset or (options.config.stem if options.config else "small")]
    )


def _say(options: argparse.Namespace, X: pd.DataFrame, held: Any, more: dict[str, Any]) -> None:
    how = f"on the members of version {more['members_of']}" if "members_of" in more else f"({more['preset']})"
    print(f"Training {options.name} {how} on {len(X)} bars, {X.index[0]} to {X.index[-1]};")
    if len(held):
        print(f"the newest {len(held)} bars from {more['holdout_start']} on stay unseen.")
    else:
        print("nothing is held back: no bars are left to judge this model on but those still to come.")


def _log(options: argparse.Namespace, experiment: Experiment, more: dict[str, Any]) -> None:
    """Put the experiment as it is run, and its label, on the active run."""
    import mlflow

    mlflow.log_text(experiment.complete_text, "experiment.toml")
    tags = {"version": options.version, "members_of": more.get("members_of")}
    mlflow.set_tags({name: str(value) for name, value in tags.items() if value is not None})
    mlflow.set_tag("deployment", str(more["deployment"]).lower())


def _label(options: argparse.Namespace, version: int) -> None:
    import mlflow

    if options.version is not None:
        mlflow.MlflowClient().set_model_version_tag(options.name, str(version), _shared.LABEL, options.version)


def _report(options: argparse.Namespace, model: Any, version: int) -> None:
    import mlflow

    vote = model.model_[-1]
    print("\nOut of fold: AUC-PR (mean of the events), temperature and weight of each member")
    columns = {"auc_pr": vote.scores_["H0"], "temperature": vote.temperatures_["H0"], "weight": vote.weights_["H0"]}
    print(vote.scores_.assign(**columns)[list(columns)].to_string(float_format=lambda value: f"{value:.3f}"))
    aliases = mlflow.MlflowClient().get_registered_model(options.name).aliases
    named = [f"@{alias}" for alias, number in aliases.items() if int(number) == version]
    print(f"\nRegistered {options.name} version {version}{' as ' if named else ''}{', '.join(named)}.")
    if "@challenger" in named:
        how = "--force REASON" if options.deployment else "--data FILE"
        then = "(no bars are left to compare it on)" if options.deployment else "if it is better"
        print(f"ensemble-kit models promote {options.name} {how} makes it champion {then}.")


def _progress() -> list[Any]:
    """Return a progress bar where someone is watching."""
    from sklearn.callback import ProgressBar

    return [ProgressBar(max_propagation_depth=None)] if sys.stderr.isatty() or sys.stdout.isatty() else []
