"""Alpha158 against pyqlib's own engine: same bars, one process, interleaved, CPU time.

    python benchmarks/alpha158.py --bars 100000 --instruments 1 --repeats 5
    python benchmarks/alpha158.py --bars 2500 --instruments 100 --repeats 5

Equality of every bit is asserted before any ratio is printed. pyqlib runs with one kernel
and from its own binary files in the page cache; ours starts from the data frame.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "features"))

from qlib_oracle import columns_by_qlib, init_qlib, write_provider

from ensemble_kit.features.alpha158 import Alpha158


def make_panel(n_bars: int, n_instruments: int) -> list[pd.DataFrame]:
    """Return seeded random walks, one frame an instrument."""
    rng = np.random.default_rng(0)
    times = pd.date_range("2000-01-03", periods=n_bars, freq="5min")
    frames = []
    for _ in range(n_instruments):
        close = 100 * np.exp(np.cumsum(rng.normal(0, 2e-3, n_bars)))
        opens = close * np.exp(rng.normal(0, 1e-3, n_bars))
        high = np.maximum(opens, close) * np.exp(np.abs(rng.normal(0, 1e-3, n_bars)))
        low = np.minimum(opens, close) * np.exp(-np.abs(rng.normal(0, 1e-3, n_bars)))
        volume = rng.integers(0, 10_000, n_bars).astype(float)
        table = {"open": opens, "high": high, "low": low, "close": close, "volume": volume, "vwap": (high + low) / 2}
        frames.append(pd.DataFrame(table, index=times))
    return frames


def clear_qlib() -> None:
    """Empty pyqlib's cache of expressions, so that each repeat computes them."""
    from qlib.data.cache import H

    H.clear()


def timed(function: Callable[[], object]) -> tuple[float, object]:
    """Return CPU seconds of the process and the result."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def assert_equal(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Stop unless both hold the same bits, NaN for NaN."""
    right = theirs.swaplevel().sort_index().to_numpy(np.float32) if ours.index.nlevels == 2 else theirs.to_numpy()
    left = ours.to_numpy()
    different = (left != right) & ~(np.isnan(left) & np.isnan(right))
    if left.shape != right.shape or different.any():
        raise SystemExit(f"{int(different.sum())} of {left.size} cells differ: no ratio.")


def run(n_bars: int, n_instruments: int, repeats: int) -> None:
    """Time both and print medians and their ratio."""
    frames = make_panel(n_bars, n_instruments)
    names = [f"s{i:04d}" for i in range(n_instruments)]
    bars = frames[0]
    if n_instruments > 1:
        bars = pd.concat(dict(zip(names, frames, strict=True))).swaplevel().sort_index()
    features = Alpha158().set_output(transform="pandas").fit(bars)
    first, ours = timed(lambda: features.transform(bars))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_provider(Path(folder), frames, names)
        init_qlib(Path(folder))
        columns_by_qlib()
        times: dict[str, list[float]] = {"ours": [], "pyqlib": []}
        for _ in range(repeats):
            clear_qlib()
            seconds, theirs = timed(columns_by_qlib)
            times["pyqlib"].append(seconds)
            seconds, ours = timed(lambda: features.transform(bars))
            times["ours"].append(seconds)
        assert_equal(ours, theirs)
    ratios = [b / a for a, b in zip(times["ours"], times["pyqlib"], strict=True)]
    print(f"{n_instruments} x {n_bars:,} bars, bit-equal; first call {first:.1f} s (compiles when not cached)")
    print(f"pyqlib {median(times['pyqlib']):.3f} s, ours {median(times['ours']):.4f} s (CPU, median of {repeats})")
    print(f"ratio {median(ratios):.1f} (from {min(ratios):.1f} to {max(ratios):.1f})")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=100_000, help="bars an instrument")
    parser.add_argument("--instruments", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    run(args.bars, args.instruments, args.repeats)


if __name__ == "__main__":
    main()
