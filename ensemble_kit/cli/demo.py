"""``ensemble-kit demo``: the whole way on synthetic bars."""

from __future__ import annotations

import argparse
from typing import Any

from ensemble_kit.cli import _shared

__all__ = ["add_to", "run"]

#: Bars and strength of the future that is planted: enough to be seen, far from a sure thing.
_BARS, _SIGNAL = 8000, 2.0


def add_to(commands: Any) -> None:
    """Add the command and its options.

    Parameters
    ----------
    commands : subparsers
        Where commands are added.
    """
    command = commands.add_parser(
        "demo", parents=[_shared.output_options()], help="the whole way on synthetic bars, in a few minutes"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Make bars, train, report, draw, and say where to look.

    Parameters
    ----------
    options : Namespace
        As parsed.
    """
    from ensemble_kit.cli import parse
    from ensemble_kit.datasets import make_bars

    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "demo_bars.parquet"
    make_bars(_BARS, signal=_SIGNAL, random_state=0).reset_index().to_parquet(file)
    print(f"Made {_BARS} synthetic 5-minute bars with a future planted in them (signal={_SIGNAL}): {file}\n")
    store = options.tracking_uri or f"sqlite:///{options.out / 'mlflow.db'}"
    shared = ["--data", str(file), "--name", "demo", "--out", str(options.out), "--tracking-uri", store]
    for command in (["train", "--preset", "smoke", "--session", "XNYS"], ["backtest"], ["chart", "--format", "png"]):
        chosen = parse([*command, *shared])
        chosen.run(chosen)
        print()
    print(
        "Where to look next\n"
        f"  the report {options.out / 'demo' / 'report.html'}\n"
        f"  the run    mlflow ui --backend-store-uri {store}\n"
        "  your bars  ensemble-kit train --data FILE --name NAME, then ensemble-kit backtest --data FILE --name NAME"
    )
