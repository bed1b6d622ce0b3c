"""``ensemble-kit init``: write an experiment file that explains itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["add_to", "run"]


def add_to(commands: Any) -> None:
    """Add the command and its options.

    Parameters
    ----------
    commands : subparsers
        Where commands are added.
    """
    command = commands.add_parser("init", help="write an experiment file that explains every key")
    command.add_argument("path", type=Path, nargs="?", default=Path("experiment.toml"), help="where it goes")
    command.add_argument("--preset", default="small", help="size of the model: smoke, small or full")
    command.add_argument("--force", action="store_true", help="write over a file that is there")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the file.

    Parameters
    ----------
    options : Namespace
        As parsed.
    """
    from ensemble_kit.experiments import PRESETS, Experiment

    if options.preset not in PRESETS:
        raise EnsembleKitError(f"`--preset` must be one of {', '.join(PRESETS)}; got {options.preset!r}.")
    if options.path.exists() and not options.force:
        raise EnsembleKitError(
            f"`PATH` must be a new file; {options.path} is there. Name another, or write over it with `--force`."
        )
    Experiment.default(options.preset).write(options.path)
    print(f"Wrote {options.path}: say in [bars] where yours are, then ensemble-kit train --config {options.path}")
