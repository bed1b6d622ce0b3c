"""``ensemble-kit tune``: look for better parameters of an experiment on its training rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_kit.cli import _shared
from ensemble_kit.exceptions import EnsembleKitError

if TYPE_CHECKING:
    from ensemble_kit.experiments import Experiment
    from ensemble_kit.labels import Labels

__all__ = ["add_to", "run"]

#: Scores that positions decide: only these know what a sizer does.
_OF_POSITIONS = {"total_return", "max_drawdown"}


def add_to(commands: Any) -> None:
    """Add the command and its options.

    Parameters
    ----------
    commands : subparsers
        Where commands are added.
    """
    command = commands.add_parser(
        "tune",
        parents=[_shared.experiment_options(), _shared.data_options(required=False), _shared.output_options()],
        help="tune an experiment on its training rows; run several at once on one storage",
    )
    command.add_argument("--trials", type=int, help="how many, those of all workers together")
    command.add_argument("--timeout", type=float, help="seconds after which no trial begins")
    command.add_argument("--storage", help="sqlite:///FILE or a database's address; tuning.db in --out if not given")
    command.add_argument("--study", help="name of the study; the experiment's name if not given")
    command.add_argument(
        "--metric", nargs="+", default=["auc_pr_excess"], help="what is judged, one or several: auc_pr_excess, ..."
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run trials, and write the experiment with the best parameters.

    Parameters
    ----------
    options : Namespace
        As parsed.
    """
    try:
        import optuna
    except ImportError as error:
        raise EnsembleKitError(
            "`ensemble-kit tune` needs Optuna. Install it: pip install 'ensemble-kit[tune]'."
        ) from error
    from ensemble_kit.tuning import WalkForwardObjective, create_study, space, tune

    _check(options)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # of an interrupted trial it would print the way there
    experiment = _shared.experiment(options)
    bars = _shared.read(options)
    labels = experiment.labels(bars)
    train, held = experiment.split(bars, labels)
    X = bars.iloc[train]
    experiment.check_columns(X)
    _shared.use_store(options)
    model, keys = experiment.model(labels), _tuned_keys(experiment, labels, options.metric)
    objective = WalkForwardObjective(
        model,
        X,
        labels.labels.iloc[train],
        cv=model.model[-1].cv,
        space={name: given for name, given in space(model).items() if name in keys},
        scoring=options.metric if len(options.metric) > 1 else options.metric[0],
        sample_weight=labels.sample_weight.iloc[train].to_numpy(),
        definition=labels.definition,
        random_state=experiment.settings["seed"],
        memory=_shared.memory(options),
        track=experiment.name,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    storage = options.storage or f"sqlite:///{options.out / 'tuning.db'}"
    study = create_study(options.study or experiment.name, storage=storage, objective=objective)
    print(
        f"Tuning {len(objective.space)} parameters of {experiment.name} on {len(X)} bars, "
        f"{X.index[0]} to {X.index[-1]};"
    )
    print(f"no trial sees the {len(held)} bars of the holdout. Study {study.study_name!r} at {storage}.")
    tune(_Told(objective), study, n_trials=options.trials, timeout=options.timeout)
    _write(experiment, options, study, objective, keys)


def _check(options: argparse.Namespace) -> None:
    if options.trials is None and options.timeout is None:
        raise EnsembleKitError("`--trials` or `--timeout` must say when to stop; got neither. Take --trials 100, say.")
    for name in ("trials", "timeout"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise EnsembleKitError(f"`--{name}` must be above 0; got {value}.")


def _tuned_keys(experiment: Experiment, labels: Labels, metrics: list[str]) -> dict[str, str]:
    """Return the keys of the parameters that the file can set and that a score can tell apart."""
    keys = experiment.keys(labels)
    if _OF_POSITIONS & set(metrics):
        return keys
    return {name: key for name, key in keys.items() if not key.startswith("sizing.")}


class _Told:
    """An objective that says what came of each trial of this worker."""

    def __init__(self, objective: Any) -> None:
        self.objective, self.key, self.names = objective, objective.key, objective.names

    def __call__(self, trial: Any) -> Any:
        from optuna import TrialPruned

        try:
            values = self.objective(trial)
        except TrialPruned as why:
            print(f"trial {trial.number}: pruned, {why}", flush=True)
            raise
        except self.objective.catch as error:
            print(f"trial {trial.number}: failed, {' '.join(str(error).split())}", flush=True)
            raise
        each = values if isinstance(values, tuple) else (values,)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, each, strict=True))
        print(f"trial {trial.number}: {shown}", flush=True)
        return values


def _write(
    experiment: Experiment, options: argparse.Namespace, study: Any, objective: Any, keys: dict[str, str]
) -> None:
    """Write the experiment with the best parameters beside the one that was tuned."""
    from ensemble_kit.tuning import best_estimator

    best = best_estimator(study, objective).get_params()
    # TOML has no null.
    changes = {keys[name]: "none" if best[name] is None else best[name] for name in objective.space}
    config = options.config or Path(f"{experiment.name}.toml")
    path = config.with_name(f"{config.name.removesuffix('.toml')}.best.toml")
    experiment.replace(changes).write(path)
    finished = sum(trial.state.name == "COMPLETE" for trial in study.trials)
    score = f"; {objective.names[0]} {study.best_value:.4g}" if len(objective.names) == 1 else ""
    print(f"\nBest of {finished} finished trials{score}:")
    print("\n".join(f"  {key} = {value}" for key, value in sorted(changes.items())))
    print("The best of many is flattered by its being the best: train it, and judge it on the holdout.")
    print(f"\nWrote {path}: ensemble-kit train --config {path}")
