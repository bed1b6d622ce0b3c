"""The command line: a thin layer over the parts, from a file of bars to a registered model and back."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from ensemble_kit.cli import backtest, chart, demo, fetch, init, models, serve, trade, train, tune
from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["main", "parse"]

_COMMANDS = (demo, fetch, init, train, tune, backtest, chart, models, serve, trade)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, default=None
        Those of the process if None.

    Returns
    -------
    int
        0, or what the command says (1 where a promotion was refused), 2 where the input cannot be
        used as it is, 130 where it was interrupted.
    """
    options = parse(arguments)
    try:
        with warnings.catch_warnings():
            # What a model thinks of its data is worth a line; where in the code it thought so is not.
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
            status: int | None = options.run(options)
    except (EnsembleKitError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    return status or 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command and its options.

    Parameters
    ----------
    arguments : sequence of str, default=None
        Those of the process if None.

    Returns
    -------
    Namespace
        The options; `run` is the command's function.
    """
    parser = argparse.ArgumentParser(prog="ensemble-kit", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in _COMMANDS:
        command.add_to(commands)
    return parser.parse_args(arguments)
