"""What threads and processes gain where four members are fitted: one or two of each.

    python benchmarks/parallel.py
    python benchmarks/parallel.py --quick
    python benchmarks/parallel.py --rows 10000 --repeats 5

LSTM-GRU, LuTransformer, LightGBM and a logistic regression, two folds and the last fit on all
rows, on columns of noise: one thread, two threads in one process (`n_threads=2` of the three
members that have it), two processes of one thread (`n_jobs=2`), two of two. Each way warms up
once (processes start and import), then all take turns; wall and CPU seconds (those of processes
included) are medians over the turns, ratios medians of the ratios within a turn, so that a busy
machine harms all alike. Asserted first: `n_jobs` changes no bit of any probability. Whether
`n_threads` does is printed.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier, LuTransformerClassifier
from ensemble_kit.validation import WalkForwardSplit

N_FEATURES = 20
#: Threads and processes, by name.
WAYS = {"1 process x 1 thread": (1, 1), "1 x 2": (2, 1), "2 x 1": (1, 2), "2 x 2": (2, 2)}


def ensemble(n_threads: int, n_jobs: int, seq_len: int) -> WalkForwardVotingClassifier:
    """Return the four members, unfitted."""
    network = {"max_epochs": 1, "validation_fraction": 0.0, "n_threads": n_threads, "random_state": 0}
    members = [
        ("lstm_gru", make_pipeline(StandardScaler(), LSTMGRUClassifier(seq_len, **network))),
        ("lu_transformer", make_pipeline(StandardScaler(), LuTransformerClassifier(seq_len, **network))),
        ("lightgbm", LGBMWindowClassifier(seq_len, n_threads=n_threads, random_state=0)),
        ("logistic", make_pipeline(StandardScaler(), LogisticRegression())),
    ]
    return WalkForwardVotingClassifier(members, cv=WalkForwardSplit(2, purge=0), n_jobs=n_jobs)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its workers, which live on between fits."""
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    return sum(sum(each.cpu_times()[:2]) for each in family)


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Fill a list with wall and CPU seconds."""
    seconds: list[float] = []
    wall, cpu = time.perf_counter(), cpu_seconds()
    yield seconds
    seconds += [time.perf_counter() - wall, cpu_seconds() - cpu]


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--seq-len", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="600 rows, windows of 16, once")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.seq_len, args.repeats = 600, 16, 1
    rng = np.random.default_rng(0)
    X = rng.normal(size=(args.rows, N_FEATURES))
    y = np.digitize(X[:, 0] + rng.normal(size=args.rows), [-1, 1])
    warnings.filterwarnings("ignore", message="temperature on its bound")

    models = {way: ensemble(*WAYS[way], args.seq_len).fit(X, y) for way in WAYS}
    said = {way: model.predict_proba(X) for way, model in models.items()}
    one, threads, processes, both = said.values()
    np.testing.assert_array_equal(one, processes)
    np.testing.assert_array_equal(threads, both)

    seconds = np.empty((args.repeats, len(WAYS), 2))
    load = []
    for turn in range(args.repeats):
        for w, model in enumerate(models.values()):
            with stopwatch() as measured:
                model.fit(X, y)
            seconds[turn, w] = measured
        load.append(os.getloadavg()[0])

    print(
        f"{args.rows:,} rows x {N_FEATURES}, windows of {args.seq_len}, {args.repeats} turns; {os.cpu_count()} cores,"
    )
    print(f"load average {min(load):.1f} to {max(load):.1f}; n_jobs=2 gives the bits of n_jobs=1, asserted;")
    print(f"n_threads=2 gives {'the same' if np.array_equal(one, threads) else 'other'} bits")
    print(f"{'':<22} {'wall, s':>8} {'CPU, s':>8}   one thread's wall / its wall")
    for w, way in enumerate(WAYS):
        gain = seconds[:, 0, 0] / seconds[:, w, 0]
        wall, cpu = np.median(seconds[:, w], axis=0)
        print(f"{way:<22} {wall:>8.1f} {cpu:>8.1f}   {np.median(gain):.2f} ({gain.min():.2f} to {gain.max():.2f})")
    gain = seconds[:, 2, 0] / seconds[:, 1, 0]
    print(f"two processes' wall / two threads': {np.median(gain):.2f} ({gain.min():.2f} to {gain.max():.2f})")


if __name__ == "__main__":
    main()
