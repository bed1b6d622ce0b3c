"""What the commands share: options, the experiment, bars, MLflow's store, and whether a model belongs to the bars."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_kit.exceptions import EnsembleKitError

if TYPE_CHECKING:
    import pandas as pd

    from ensemble_kit.experiments import Experiment
    from ensemble_kit.sizing import Costs

__all__ = [
    "LABEL",
    "account_options",
    "bar_size",
    "check_against",
    "costs",
    "data_options",
    "experiment",
    "experiment_options",
    "find_version",
    "known_columns",
    "memory",
    "output_options",
    "read",
    "use_store",
]

#: The tag of a version that holds what `train --version` called it.
LABEL = "label"
#: A bar that moves further than this is a split or a bad print before it is a return.
_JUMP = 0.5


def output_options() -> argparse.ArgumentParser:
    """Return the options of every command that writes."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--out", type=Path, default=Path("ensemble_kit_output"), help="folder for pictures, reports and cache"
    )
    options.add_argument(
        "--tracking-uri", help="MLflow's store; MLflow's own default (sqlite:///mlflow.db) if not given"
    )
    return options


def data_options(*, required: bool = True) -> argparse.ArgumentParser:
    """Return the options of every command on a user's bars and a registered model."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--data", type=Path, required=required, help="parquet or CSV file of bars")
    options.add_argument("--name", required=required, help="name of the registered model")
    options.add_argument("--tz", help="time zone of naive times in the file")
    return options


def account_options() -> argparse.ArgumentParser:
    """Return the options of every command that trades; costs that are not given are the experiment's."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--cost-bps", type=float, help="commission, in basis points of the notional")
    options.add_argument("--spread-bps", type=float, help="quoted spread; a fill pays half of it")
    options.add_argument("--slippage-bps", type=float, help="how much worse than that a fill is")
    options.add_argument("--borrow-rate", type=float, help="yearly, on what is sold short or borrowed")
    options.add_argument("--cash", type=float, default=100_000.0, help="what the account starts with")
    options.add_argument("--lot-size", type=float, default=0.0, help="units are multiples of it; 0 takes fractions")
    return options


def experiment_options() -> argparse.ArgumentParser:
    """Return the options of every command that runs an experiment; each of them overrides its file."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--config", type=Path, help="experiment file; `ensemble-kit init` writes one")
    options.add_argument("--preset", help="without a file: size of the model, smoke, small (the default) or full")
    options.add_argument(
        "--holdout", help="newest bars never trained on: a share, a length such as 30D, or a first day"
    )
    options.add_argument("--session", help="'day' or an exchange code such as XNYS")
    options.add_argument("--seed", type=int, help="of everything random")
    options.add_argument("--threads", type=int, help="threads a member; another number gives other bits")
    return options


def experiment(options: argparse.Namespace) -> Experiment:
    """Return the experiment that the options ask for, and let them say where its bars are and what it is called."""
    from ensemble_kit.experiments import PRESETS, Experiment

    if options.config is None and (options.data is None or options.name is None):
        raise EnsembleKitError(
            "`--config` must name an experiment file, or `--data` and `--name` must be given; got neither. "
            "`ensemble-kit init` writes a file."
        )
    if options.config is not None and options.preset is not None:
        raise EnsembleKitError(
            "`--preset` must not be given beside `--config`, which says all; got both. Leave it out."
        )
    if options.preset not in {None, *PRESETS}:
        raise EnsembleKitError(f"`--preset` must be one of {', '.join(PRESETS)}; got {options.preset!r}.")
    if options.threads is not None and options.threads < 1:
        raise EnsembleKitError(f"`--threads` must be at least 1; got {options.threads}.")
    said = {name: getattr(options, name) for name in ("name", "session", "seed", "threads")}
    said |= {"bars.tz": options.tz, "holdout": None if options.holdout is None else _holdout(options.holdout)}
    said |= {"bars.file": None if options.data is None else str(options.data.resolve())}
    start = Experiment.default(options.preset or "small") if options.config is None else Experiment.read(options.config)
    found = start.replace({key: value for key, value in said.items() if value is not None})
    if options.data is None:
        options.data = found.file
    options.tz, options.name = found.tz, found.name
    return found


def _holdout(text: str) -> float | str:
    try:
        share = float(text)
    except ValueError:
        return text
    if not 0 < share < 1:
        raise EnsembleKitError(f"`--holdout` must be a share between 0 and 1; got {text}. Take 0.2, say.")
    return share


def memory(options: argparse.Namespace) -> Path:
    """Return the folder that keeps what an experiment has fitted."""
    folder: Path = options.out / "memory" / options.name
    return folder


def read(options: argparse.Namespace) -> pd.DataFrame:
    """Read the bars of one instrument, and say aloud what in them would fool a reader of the report."""
    import pandas as pd

    from ensemble_kit.datasets import read_bars

    bars = read_bars(options.data, tz=options.tz)
    if isinstance(bars.index, pd.MultiIndex):
        names = bars.index.get_level_values(1).unique()
        raise EnsembleKitError(
            f"`--data` must hold one instrument; {options.data.name} holds {len(names)} ({', '.join(names[:5])}, ...). "
            "Write one to a file of its own, or train on the panel in Python."
        )
    moves = (bars["close"].ffill().pct_change(fill_method=None).abs() > _JUMP).to_numpy()
    if moves.any():
        warnings.warn(
            f"{int(moves.sum())} bar(s) move by more than {_JUMP:.0%}, the first at {bars.index[int(moves.argmax())]}: "
            "unadjusted splits, or bad prints? They count as returns.",
            UserWarning,
            stacklevel=2,
        )
    unknown = int(bars["close"].isna().sum())
    if unknown:
        warnings.warn(f"{unknown} of {len(bars)} bars have no price: they are not traded.", UserWarning, stacklevel=2)
    return bars


def bar_size(bars: pd.DataFrame) -> str:
    """Return the commonest distance between bars."""
    return str(bars.index.to_series().diff().mode().iloc[0])


def known_columns(bars: pd.DataFrame) -> list[str]:
    """Return the columns that hold anything."""
    return [str(column) for column in bars.columns if bars[column].notna().any()]


def check_against(card: dict[str, Any], bars: pd.DataFrame) -> bool:
    """Refuse bars of another kind than the model's; return whether they are the very bars it was trained beside."""
    from ensemble_kit.fingerprint import fingerprint

    if card["bar"] != bar_size(bars):
        raise EnsembleKitError(
            f"`--data` must hold bars of {card['bar']}, as in training; got bars of {bar_size(bars)}."
        )
    inputs = [column for column in ("volume", "vwap") if column in card["columns"]]
    if missing := [column for column in inputs if column not in known_columns(bars)]:
        raise EnsembleKitError(
            f"`--data` must have {', '.join(missing)}, as in training; the model's columns would mean something else."
        )
    trained = bars.loc[card["first_training_bar"] : card["last_training_bar"]]
    same = len(trained) == card["n_training_bars"] and fingerprint(trained) == card["bars_fingerprint"]
    if not same:
        warnings.warn(
            "these are not the bars that the model was trained on: nothing is logged to its run.",
            UserWarning,
            stacklevel=2,
        )
    return same


def costs(options: argparse.Namespace, card: Mapping[str, Any]) -> Costs:
    """Return the costs that are given, and those of the experiment where none are."""
    from ensemble_kit.sizing import Costs

    given = {
        "commission_bps": options.cost_bps,
        "spread_bps": options.spread_bps,
        "slippage_bps": options.slippage_bps,
        "borrow_rate": options.borrow_rate,
    }
    known = card.get("experiment")
    known = known["costs"] if isinstance(known, Mapping) else {"commission_bps": 1.0}
    return Costs(**known | {name: value for name, value in given.items() if value is not None})


def use_store(options: argparse.Namespace) -> None:
    """Point MLflow at the store, and find out whether it answers."""
    import mlflow

    from ensemble_kit.tracking import check_store, quiet

    quiet()
    if options.tracking_uri:
        mlflow.set_tracking_uri(options.tracking_uri)
    check_store(options.name)


def find_version(options: argparse.Namespace) -> tuple[int, str]:
    """Return number and address of the version asked for: by number, label or alias; the champion's where none is.

    The address is by number: an alias may move before the command ends.
    """
    from ensemble_kit.tracking import CHAMPION
    from ensemble_kit.tracking._aliases import known_version, known_versions

    name, wanted = options.name, CHAMPION if options.version is None else options.version
    labelled = [number for number, one in known_versions(name).items() if one.tags.get(LABEL) == wanted]
    if labelled and not wanted.isdecimal():
        number = max(labelled)
    else:
        number = known_version(name, int(wanted) if wanted.isdecimal() else wanted)
    return number, f"models:/{name}/{number}"
