"""ICT columns against `smartmoneyconcepts`: the same concepts, one process, interleaved, CPU time.

    python benchmarks/ict.py --bars 100000 --repeats 1

Compared is the time for swings, BOS and CHoCH, order blocks, fair value gaps, liquidity and the
previous day's high and low of the same bars, swings of 5 bars on each side. The outputs cannot be
equal: the peer marks past bars with what later bars show. How often, is measured beside the time, on
bars that arrive one by one: the share of arrivals after which the output for the bars before is
another one, for any of them and for those that are older than the 5 bars that confirm a swing.
Ours must be unchanged after every arrival before anything is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.features.ict import ICTFeatures

os.environ.setdefault("SMC_CREDIT", "0")  # the peer greets on import
with contextlib.redirect_stdout(io.StringIO()):
    from smartmoneyconcepts import smc

SWING = 5


def by_peer(bars: pd.DataFrame) -> dict[str, tuple[float, pd.DataFrame]]:
    """Return CPU seconds and output of each of the peer's concepts."""
    results = {}

    def take(name: str, function: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        start = time.process_time()
        output = function()
        results[name] = time.process_time() - start, output
        return output

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        swings = take("swings", lambda: smc.swing_highs_lows(bars, swing_length=SWING))
        take("BOS, CHoCH", lambda: smc.bos_choch(bars, swings))
        take("order blocks", lambda: smc.ob(bars, swings))
        take("fair value gaps", lambda: smc.fvg(bars))
        take("liquidity", lambda: smc.liquidity(bars, swings))
        take("previous day", lambda: smc.previous_high_low(bars, time_frame="1D"))
    return results


def same(before: np.ndarray, after: np.ndarray, young: int) -> bool:
    """Return whether a bar's arrival left the rows before it as they were, but for the ``young`` last."""
    n = max(len(before) - young, 0)
    return np.array_equal(before[:n], after[:n], equal_nan=True)


def check_ours(bars: pd.DataFrame) -> None:
    """Stop unless no arrival changes a row of ours."""
    features = ICTFeatures(left=SWING, right=SWING).fit(bars)
    whole = features.transform(bars)
    wrong = sum(not same(features.transform(bars.iloc[:n]), whole, 0) for n in range(1, len(bars)))
    if wrong:
        raise SystemExit(f"{wrong} of {len(bars):,} prefixes differ from the whole: no ratio.")


def repainting_of_peer(bars: pd.DataFrame, arrivals: int) -> dict[str, tuple[float, float]]:
    """Return, of each of the peer's outputs, the share of arrivals that changed a past row, and an old one."""
    ends = np.random.default_rng(0).choice(np.arange(len(bars) // 5, len(bars)), arrivals, replace=False)
    changes: dict[str, list[tuple[bool, bool]]] = {}
    for n in ends:
        before, after = by_peer(bars.iloc[:n]), by_peer(bars.iloc[: n + 1])
        for name in before:
            a, b = (output[name][1].to_numpy(np.float64) for output in (before, after))
            changes.setdefault(name, []).append((not same(a, b, 0), not same(a, b, SWING)))
    return {name: tuple(np.mean(flags, axis=0)) for name, flags in changes.items()}


def run(bars: pd.DataFrame, repeats: int) -> None:
    """Time both, interleaved, and print medians and ratios."""
    features = ICTFeatures(left=SWING, right=SWING).fit(bars)
    features.transform(bars)  # compiles where not cached
    ours, theirs = [], []
    for _ in range(repeats):
        for _ in range(5):  # ours is over before a clock tick of the peer's
            start = time.process_time()
            features.transform(bars)
            ours.append(time.process_time() - start)
        theirs.append({name: seconds for name, (seconds, _) in by_peer(bars).items()})
    mine = median(ours)
    print(f"{len(bars):,} bars, CPU seconds, medians of {len(ours)} (ours) and {repeats} (peer) runs")
    for name in theirs[0]:
        print(f"  {name:16s} {median(run[name] for run in theirs):9.3f}")
    total = median(sum(run.values()) for run in theirs)
    print(f"  peer, all        {total:9.3f}\n  ours, 48 columns {mine:9.3f}\nratio {total / mine:.0f}")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=1, help="of the peer; ours runs five times as often")
    parser.add_argument("--repaint-bars", type=int, default=2_500)
    parser.add_argument("--arrivals", type=int, default=200, help="of the peer's bars, drawn among these")
    parser.add_argument("--file", type=Path, help="bars for the repainting; synthetic ones otherwise")
    args = parser.parse_args()
    sample = (read_bars(args.file) if args.file else make_bars(args.repaint_bars, random_state=0))[: args.repaint_bars]
    check_ours(sample)
    run(make_bars(args.bars, random_state=0), args.repeats)
    print(f"share of bars whose arrival changes past rows, and rows older than {SWING} bars ({len(sample):,} bars)")
    for name, (past, old) in repainting_of_peer(sample, args.arrivals).items():
        print(f"  {name:16s} {past:9.1%} {old:9.1%}")
    print(f"  {'ours':16s} {0:9.1%} {0:9.1%}")


if __name__ == "__main__":
    main()
