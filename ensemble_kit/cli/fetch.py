"""``ensemble-kit fetch``: bars of a provider into one file, and what is odd about them on the screen."""

from __future__ import annotations

import argparse
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_kit.exceptions import EnsembleKitError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_to", "run"]

_SUFFIXES = (".parquet", ".csv")


def add_to(commands: Any) -> None:
    """Add the command and its options.

    Parameters
    ----------
    commands : subparsers
        Where commands are added.
    """
    command = commands.add_parser("fetch", help="fetch bars from a provider into a file")
    command.add_argument(
        "--source", required=True, help="yahoo, alpaca, polygon, schwab or qlib; keys come from the environment"
    )
    command.add_argument("--symbols", required=True, help="one, or several with commas between, which make a panel")
    command.add_argument("--bar", required=True, help="length of a bar: 1min, 5min, 1h, 1D")
    command.add_argument("--start", required=True, help="first day or instant wanted, in UTC")
    command.add_argument("--end", help="first day or instant not wanted, in UTC; now if not given")
    command.add_argument("--out", type=Path, required=True, help="file to write: .parquet or .csv")
    command.add_argument("--cache", type=Path, help="folder of what was fetched; only what it lacks is asked for")
    command.add_argument("--session", default="day", help="'day' or an exchange code such as XNYS, to find gaps by")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Fetch bars, write them, and print the report.

    Parameters
    ----------
    options : Namespace
        As parsed.
    """
    out: Path = options.out
    if out.suffix not in _SUFFIXES:
        raise EnsembleKitError(f"`--out` must end in {' or '.join(_SUFFIXES)}; got '{out.name}'. Rename it.")
    if out.is_dir():
        raise EnsembleKitError(f"`--out` must be a file; got '{out}', which is a folder. Name a file in it.")
    if options.session != "day":
        _check_exchange(options.session)
    # Found out before an hour of pages, not after.
    out.parent.mkdir(parents=True, exist_ok=True)

    from ensemble_kit.datasets.providers.fetch import fetch_bars
    from ensemble_kit.datasets.providers.report import report_bars

    symbols = [symbol.strip() for symbol in options.symbols.split(",")]
    bars = fetch_bars(
        options.source,
        symbols[0] if len(symbols) == 1 else symbols,
        options.bar,
        options.start,
        options.end,
        cache=options.cache,
    )
    _write(bars, out)
    print(report_bars(bars, options.bar, session=options.session))
    print(f"\nBars: {out}")


def _check_exchange(code: str) -> None:
    """Let an unknown exchange be an error before anything is fetched."""
    import pandas as pd

    from ensemble_kit.sessions import session_times

    session_times(pd.DatetimeIndex(["2024-01-02 15:00"], tz="UTC"), code)


def _write(bars: pd.DataFrame, out: Path) -> None:
    """Write beside, then rename: whoever reads the file sees the old bars or the new ones, never half."""
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
    try:
        table = bars.reset_index()
        if out.suffix == ".csv":
            table.to_csv(part, index=False)
        else:
            table.to_parquet(part, index=False)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
