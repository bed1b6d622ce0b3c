"""``ensemble-kit models``: the versions of a registered model, compared, promoted and rolled back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_kit.cli import _shared
from ensemble_kit.exceptions import EnsembleKitError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_to", "run"]


def add_to(commands: Any) -> None:
    """Add the command, its actions and their options."""
    command = commands.add_parser("models", help="list, compare, promote and roll back the versions of a model")
    actions = command.add_subparsers(required=True, metavar="action")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("name", metavar="NAME", help="name of the registered model")
    shared.add_argument(
        "--tracking-uri", help="MLflow's store; MLflow's own default (sqlite:///mlflow.db) if not given"
    )
    judged = argparse.ArgumentParser(add_help=False)
    judged.add_argument(
        "--data", type=Path, help="parquet or CSV file of bars, the newest of which no version has seen"
    )
    judged.add_argument("--tz", help="time zone of naive times in the file")
    judged.add_argument("--cost-bps", type=float, default=1.0, help="commission, in basis points of the notional")

    actions.add_parser("list", parents=[shared], help="list the versions and what was decided of them").set_defaults(
        run=run, action=_list
    )
    compare = actions.add_parser(
        "compare", parents=[shared, judged], help="compare two versions on bars unseen by both"
    )
    compare.add_argument(
        "--versions", type=int, nargs=2, metavar="N", help="two versions; champion and challenger if not given"
    )
    compare.set_defaults(run=run, action=_compare)
    promote = actions.add_parser("promote", parents=[shared, judged], help="make a version champion if it is better")
    promote.add_argument("--version", type=int, metavar="N", help="the challenger if not given")
    promote.add_argument("--margin", type=float, default=0.0, help="what the interval's lower end must exceed")
    promote.add_argument("--metric", default="auc_pr", help="what decides: auc_pr or log_loss")
    promote.add_argument("--force", metavar="REASON", help="promote whatever the comparison says; recorded")
    promote.set_defaults(run=run, action=_promote)
    back = actions.add_parser("rollback", parents=[shared], help="make the champion before this one champion again")
    back.add_argument("--why", default="", help="the reason, for the record")
    back.set_defaults(run=run, action=_roll_back)


def run(options: argparse.Namespace) -> int:
    """Do what was asked; return 1 where a promotion was refused, and 0 otherwise."""
    _shared.use_store(options)
    status: int = options.action(options)
    return status


def _list(options: argparse.Namespace) -> int:
    from ensemble_kit.tracking.registry import history, list_versions

    versions = list_versions(options.name)
    # What no version has takes no column; ids are for programs.
    shown = versions.drop(columns="run_id").dropna(axis=1, how="all")
    shown["created"] = shown["created"].dt.strftime("%Y-%m-%d %H:%M")
    print(shown.to_string(float_format=lambda value: f"{value:.3f}", na_rep="-"))
    past = history(options.name)
    if len(past):
        print("\nHistory")
    for at, event, version, over, by, why in past[["at", "event", "version", "over", "by", "why"]].itertuples(
        index=False
    ):
        before = "" if _unknown(over) else f" over {over}"
        reason = f": {why}" if why else ""
        print(f"{at:%Y-%m-%d %H:%M} version {version} {event}{before} by {by}{reason}")
    return 0


def _unknown(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def _bars(options: argparse.Namespace) -> pd.DataFrame:
    if options.data is None:
        raise EnsembleKitError("`--data` must be a file of bars to judge on; got none. Only `--force` goes without.")
    return _shared.read(options)


def _compare(options: argparse.Namespace) -> int:
    from ensemble_kit.tracking.registry import compare

    print(compare(options.name, _bars(options), versions=options.versions, costs=options.cost_bps))
    return 0


def _promote(options: argparse.Namespace) -> int:
    from ensemble_kit.tracking.registry import promote

    promotion = promote(
        options.name,
        None if options.data is None and options.force is not None else _bars(options),
        version=options.version,
        margin=options.margin,
        metric=options.metric,
        force=options.force,
        costs=options.cost_bps,
    )
    if promotion.comparison is not None:
        print(f"{promotion.comparison}\n")
    print(promotion)
    return 0 if promotion.promoted else 1


def _roll_back(options: argparse.Namespace) -> int:
    from ensemble_kit.tracking.registry import roll_back

    print(f"{options.name} version {roll_back(options.name, why=options.why)} is champion again.")
    return 0
