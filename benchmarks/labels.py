"""A million bars through each label function: CPU seconds, and where they go.

    python benchmarks/labels.py
    python benchmarks/labels.py --bars 100000 --repeats 5

The same number of bars as one instrument and as a panel of a hundred; medians of a few calls after
one that compiles. Functions that are not there are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib import import_module
from statistics import median
from typing import Any

import pandas as pd

from ensemble_kit.datasets import make_bars

#: Module, function and parameters; first the functions, then what all or some of them call.
LABELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "peak_slope_bottom": ("labels.turns", "peak_slope_bottom", {}),
    "  six horizons": ("labels.turns", "peak_slope_bottom", {"horizons": 6}),
    "  clipped to XNYS": ("labels.turns", "peak_slope_bottom", {"clip_session": "XNYS"}),
    "buy_sell_hold": ("labels.buy_sell_hold", "buy_sell_hold", {}),
    "  of XNYS": ("labels.buy_sell_hold", "buy_sell_hold", {"session": "XNYS"}),
    "  with both floors": ("labels.buy_sell_hold", "buy_sell_hold", {"min_price": 1.0, "min_dollar_volume": 1.0}),
    "triple_barrier": ("labels.triple_barrier", "triple_barrier", {}),
    "  CUSUM events": ("labels.triple_barrier", "triple_barrier", {"profit": 5, "stop": 5, "cusum": 2.0}),
    "next_direction": ("labels.next_direction", "next_direction", {}),
}
PARTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "check_bars": ("bars", "check_bars", {}),
    "row_keys": ("bars", "row_keys", {}),
    "average_true_range": ("atr", "average_true_range", {}),
    "Blocks, no session": ("labels._blocks", "Blocks.of", {}),
    "Blocks, day": ("labels._blocks", "Blocks.of", {"session": "day"}),
    "Blocks, XNYS": ("labels._blocks", "Blocks.of", {"session": "XNYS"}),
}


def find(module: str, path: str) -> Callable[..., object] | None:
    """Return the function, None if this version has none."""
    try:
        found = import_module(f"ensemble_kit.{module}")
    except ModuleNotFoundError:
        return None
    for name in path.split("."):
        found = getattr(found, name)
    return found


def seconds(function: Callable[..., object], bars: pd.DataFrame, parameters: dict[str, Any], repeats: int) -> float:
    """Return the median CPU time of calls after the first."""
    took = []
    for _ in range(repeats + 1):
        # A frame's index remembers what it was asked once; bars that have just been read know nothing.
        fresh = bars.set_axis(bars.index.copy(deep=True))
        start = time.process_time()
        function(fresh, **parameters)
        took.append(time.process_time() - start)
    return median(took[1:])


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=1_000_000, help="bars in all")
    parser.add_argument("--instruments", type=int, default=100, help="of the panel")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    names = [f"s{i:03d}" for i in range(args.instruments)]
    sets = {
        f"1 x {args.bars:,}": make_bars(args.bars, random_state=0),
        f"{len(names)} x {args.bars // len(names):,}": make_bars(
            args.bars // len(names), instruments=names, random_state=0
        ),
    }
    for title, table in (("labels", LABELS), ("of which", PARTS)):
        rows = {
            name: [seconds(function, bars, parameters, args.repeats) for bars in sets.values()]
            for name, (module, path, parameters) in table.items()
            if (function := find(module, path)) is not None
        }
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(sets)).rename_axis(f"{title}, CPU s")
        print(frame.round(3).to_string(), end="\n\n")


if __name__ == "__main__":
    main()
