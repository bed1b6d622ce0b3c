"""What the commands share: options, the file of bars, MLflow's store, and whether a model belongs to the bars."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_kit.exceptions import EnsembleKitError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["bar_size", "check_against", "data_options", "known_columns", "output_options", "read", "use_store"]

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


def data_options() -> argparse.ArgumentParser:
    """Return the options of every command on a user's bars and a registered model."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--data", type=Path, required=True, help="parquet or CSV file of bars")
    options.add_argument("--name", required=True, help="name of the registered model")
    options.add_argument("--tz", help="time zone of naive times in the file")
    return options


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


def use_store(options: argparse.Namespace) -> None:
    """Point MLflow at the store, and find out whether it answers."""
    import mlflow

    from ensemble_kit.tracking import check_store, quiet

    quiet()
    if options.tracking_uri:
        mlflow.set_tracking_uri(options.tracking_uri)
    check_store(options.name)
