"""The selector against scikit-learn's scores on the same columns: one process, CPU time.

    python benchmarks/selector.py --rows 26000 --repeats 3
    python benchmarks/selector.py --bars ../shared/data/spy_5min_2022_2023.parquet

223 columns: without `--bars` random ones, a third telling and a third repeating; with it, the
159 or more that `Alpha158` and `SessionFeatures` make of real bars, repeated smoothed to 223.
scikit-learn runs its scores only: nothing of it drops redundant columns, and its F and its
nearest neighbours refuse NaN, which is filled with the median beforehand.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.feature_selection import f_classif, mutual_info_classif
from sklearn.impute import SimpleImputer
from threadpoolctl import threadpool_limits

from ensemble_kit.datasets import read_bars
from ensemble_kit.features import Alpha158, SessionFeatures
from ensemble_kit.features.selector import RelevanceRedundancySelector
from ensemble_kit.labels import peak_slope_bottom

N_COLUMNS = 223


def make_columns(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return seeded columns of three kinds, and classes with 2 % events."""
    rng = np.random.default_rng(0)
    y = rng.choice(3, n_rows, p=[0.98, 0.01, 0.01])
    third = N_COLUMNS // 3
    signal = rng.normal(size=(n_rows, third)) + np.outer(np.array([0, 1, -1])[y], rng.random(third))
    repeat = signal + 0.1 * rng.normal(size=signal.shape)
    X = np.hstack([signal, repeat, rng.standard_t(3, size=(n_rows, N_COLUMNS - 2 * third))])
    X[:60] = np.nan
    return X.astype(np.float32), y


def columns_of_bars(path: Path, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and classes of the first rows of real bars whose label counts."""
    bars = read_bars(path)
    labels = peak_slope_bottom(bars)
    rows = np.flatnonzero(labels.known & (labels.sample_weight > 0).to_numpy())[:n_rows]
    block = np.hstack([part.fit(bars).transform(bars) for part in (Alpha158(), SessionFeatures())])
    more = (block + np.roll(block, 1, axis=0))[:, : N_COLUMNS - block.shape[1]]
    return np.hstack([block, more])[rows], np.asarray(labels.labels)[rows].astype(str)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds of the process and the result."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def run(X: np.ndarray, y: np.ndarray, repeats: int) -> None:
    """Time both, interleaved, and print medians, their ratio and how far the orders agree."""
    varies = ~np.isnan(X).all(axis=0)  # scikit-learn's imputer refuses columns of NaN
    filled = SimpleImputer(strategy="median").fit_transform(X[:, varies])
    selector = RelevanceRedundancySelector()
    times: dict[str, list[float]] = {"ours": [], "mutual_info_classif": [], "f_classif": []}
    for _ in range(repeats):
        times["ours"].append(timed(lambda: selector.fit(X, y))[0])
        seconds, information = timed(lambda: mutual_info_classif(filled, y, random_state=0))
        times["mutual_info_classif"].append(seconds)
        seconds, (f, _) = timed(lambda: f_classif(filled, y))
        times["f_classif"].append(seconds)
    ours, theirs = median(times["ours"]), median(times["mutual_info_classif"]) + median(times["f_classif"])
    print(f"{X.shape[1]} columns x {X.shape[0]:,} rows, CPU seconds, median of {repeats}, one thread")
    for name, seconds in times.items():
        print(f"  {name:<20} {median(seconds):8.3f}  (from {min(seconds):.3f} to {max(seconds):.3f})")
    print(f"  ratio {theirs / ours:.0f}; kept {selector.support_.sum()}")
    for name, mine, other in (("mutual information", 0, information), ("F", 1, f)):
        rho = spearmanr(selector.scores_[mine, 0][varies], other, nan_policy="omit").statistic
        print(f"  order of {name}: rho {rho:.3f} with scikit-learn's")
    for max_rows in (20_000, 10_000, 5_000):
        if max_rows < len(X):
            some = RelevanceRedundancySelector(max_rows=max_rows, random_state=0)
            seconds, _ = timed(lambda some=some: some.fit(X, y))
            shared = (some.support_ & selector.support_).sum() / selector.support_.sum()
            print(
                f"  max_rows={max_rows:,}: {seconds:.3f} s, {shared:.0%} of the columns that all rows keep (twins swap)"
            )


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=26_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bars", type=Path, help="a file of bars to make the columns of")
    args = parser.parse_args()
    with threadpool_limits(1):
        run(*(columns_of_bars(args.bars, args.rows) if args.bars else make_columns(args.rows)), args.repeats)


if __name__ == "__main__":
    main()
