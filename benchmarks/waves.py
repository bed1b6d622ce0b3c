"""Wave extraction against two lines fitted anew by `numpy.polyfit` at every bar: one process, CPU time.

    python benchmarks/waves.py --bars 1000000 --naive-bars 20000

On the shorter series both must give the same waves, and slopes within 1e-9 of the price, before
anything is printed; both are timed on it, and ours on the longer one, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from ensemble_kit.atr import average_true_range
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.waves import extract_waves, fit_cut, wave_features
from ensemble_kit.waves.extraction import _Places

CUT = 0.504


def fitted(y: np.ndarray) -> tuple[float, float]:
    """Return slope and sum of squared errors."""
    x = np.arange(len(y))
    slope, intercept = np.polyfit(x, y, 1)
    return slope, ((y - slope * x - intercept) ** 2).sum()


def naive_waves(bars: pd.DataFrame) -> list[tuple[int, int, float, float]]:
    """Return first and last row and both slopes of each wave, every line fitted anew at every bar."""
    high, low, atr = bars["high"].to_numpy(), bars["low"].to_numpy(), average_true_range(bars)
    waves = []
    start = int(np.argmax(~np.isnan(atr)))
    for t in range(start, len(bars)):
        n = t - start + 1
        if n <= 3:
            continue
        errors = fitted(high[start : t + 1])[1] + fitted(low[start : t + 1])[1]
        if np.sqrt(errors / (2 * n)) / atr[start] - 1 / n > CUT:
            waves.append((start, t - 1, fitted(high[start:t])[0], fitted(low[start:t])[0]))
            start = t
    return waves


def timed(function: Callable[[], object], repeats: int = 5) -> float:
    """Return median CPU seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return median(seconds)


def check_equal(bars: pd.DataFrame, naive: list[tuple[int, int, float, float]]) -> None:
    """Stop unless both have found the same waves and slopes."""
    ours, theirs = extract_waves(bars), np.array(naive)
    same = len(ours) == len(theirs) and (ours[["first", "last"]].to_numpy() == theirs[:, :2]).all()
    apart = np.abs(ours[["slope_high", "slope_low"]].to_numpy() - theirs[:, 2:]).max() if same else np.inf
    if not apart < 1e-9 * bars["close"].min():
        raise SystemExit(f"waves differ ({len(ours)} and {len(theirs)}; slopes by {apart:g}): no ratio.")
    print(f"{len(bars):,} bars, {len(ours):,} waves, the same; slopes within {apart:.1e}")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=1_000_000)
    parser.add_argument("--naive-bars", type=int, default=20_000)
    parser.add_argument("--file", type=Path, help="bars whose compression is printed too")
    args = parser.parse_args()

    short = make_bars(args.naive_bars, random_state=0)
    start = time.process_time()
    naive = naive_waves(short)
    by_polyfit = time.process_time() - start
    check_equal(short, naive)
    by_kernel = timed(lambda: extract_waves(short))
    print(f"polyfit at every bar {by_polyfit:.2f} s, ours {by_kernel:.4f} s, ratio {by_polyfit / by_kernel:,.0f}")

    bars = make_bars(args.bars, random_state=0)
    places = _Places.of(bars)
    seconds = {
        "lines and cuts alone": timed(lambda: places.waves(CUT, 1.0, 1.0)),
        "extract_waves": timed(lambda: extract_waves(bars)),
        "fit_cut": timed(lambda: fit_cut(bars), 1),
        "wave_features": timed(lambda: wave_features(bars, extract_waves(bars)), 1),
    }
    print(f"{len(bars):,} bars, CPU time")
    for name, taken in seconds.items():
        print(f"  {name:20s} {taken:7.3f} s {len(bars) / taken / 1e6:6.1f} million bars/s")

    if args.file:
        real = read_bars(args.file)
        half = len(real) // 2
        cut = fit_cut(real[:half])
        waves = extract_waves(real, cut=cut)
        first = int((waves.index.get_level_values(0) < real.index.get_level_values(0)[half]).sum())
        print(f"{args.file.name}: {len(real) / len(extract_waves(real)):.2f} bars a wave with cut {CUT}")
        print(
            f"  cut {cut:.3f} of the first half: {half / first:.2f} there, "
            f"{(len(real) - half) / (len(waves) - first):.2f} in the second"
        )


if __name__ == "__main__":
    main()
