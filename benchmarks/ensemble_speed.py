"""What the ensemble itself costs, beside its members: CPU seconds of judging and voting, memory of a fit.

    python benchmarks/ensemble_speed.py
    python benchmarks/ensemble_speed.py --quick      # fewer bars, to see that all runs

CPU seconds are of temperatures, scores, weights and the vote of 50,000 out-of-fold rows x 6 horizons
x 4 members x 3 classes in 3 folds, one thread. The members are overconfident by known temperatures,
printed beside those found.

Memory is of a fit of 4 members on 3 folds and once on all rows of 100,000 bars x 80 columns (float64),
in a fresh process after a small fit has loaded what is loaded late. Peaks stand above that, the matrix
included. A member's own need is what its fit on all rows and its prediction of the newest quarter take
above libraries and matrix, measured alike. In one process the peak is the kernel's (VmHWM), exact; with
two more it is the sum of all processes' PSS (shared pages counted once), read every 50 ms: which members
meet in the workers is chance, and peaks differ from run to run by a tenth. Linux only.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib.externals.loky import get_reusable_executor
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.ensemble.judgement import Evidence, calibrated, judge, vote
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.metrics import auc_pr
from ensemble_kit.validation import WalkForwardSplit

MIB = 2**20
HORIZONS, CLASSES, FOLDS, COLUMNS = 6, 3, 3, 80
TEMPERATURES = [0.7, 1.5, 2.5, 4.0]
NAMES = ["a", "b", "c", "d"]


# ------------------------------------------------------------------------------------------- time


def overconfident(n_rows: int) -> Evidence:
    """Return what members of known overconfidence say of rows with two rare classes."""
    rng = np.random.default_rng(0)
    usual = np.array([-2.0, 2.0, -2.0])
    true = log_softmax(usual + rng.normal(size=(n_rows, HORIZONS, CLASSES)), axis=2)
    codes = (np.exp(true).cumsum(axis=2) < rng.uniform(size=(n_rows, HORIZONS, 1))).sum(axis=2)
    said = np.stack([log_softmax(temperature * true, axis=2) for temperature in TEMPERATURES])
    fold = np.arange(n_rows) * FOLDS // n_rows
    return Evidence(said, np.minimum(codes, CLASSES - 1), np.ones(n_rows), fold, np.array(["bottom", "peak", "slope"]))


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Return the median CPU seconds of a function, after one call that loads what it needs."""
    spent = []
    for _ in range(repeats + 1):
        start = time.process_time()
        function()
        spent.append(time.process_time() - start)
    return float(np.median(spent[1:]))


def time_judging(n_rows: int, repeats: int) -> None:
    """Print CPU seconds of judging and voting, all together and part by part."""
    evidence = overconfident(n_rows)
    classes, weights, members = evidence.classes, evidence.weights, evidence.log_proba
    y = classes[evidence.codes]
    how = {"names": NAMES, "weighting": "squared_auc_pr", "power": 2.0, "scorer": auc_pr, "events": None}
    judged = partial(judge, evidence, [TemperatureScaling() for _ in NAMES], **how)
    fitted = [TemperatureScaling().fit(raw, y, sample_weight=weights, classes=classes) for raw in members]
    proba = [np.exp(calibrated(one, raw)) for one, raw in zip(fitted, members, strict=True)]
    blocks = [evidence.fold == k for k in range(FOLDS)]

    def whole() -> None:
        found = judged()
        vote(found.weights, found.calibrators, members)

    def score() -> None:
        for p in proba:
            auc_pr(y, p, classes=classes, sample_weight=weights)

    def fold_scores() -> None:
        for p in proba:
            for rows in blocks:
                auc_pr(y[rows], p[rows], classes=classes, sample_weight=weights[rows])

    parts: dict[str, Callable[[], Any]] = {
        "temperatures": lambda: [
            TemperatureScaling().fit(raw, y, sample_weight=weights, classes=classes) for raw in members
        ],
        "their probabilities": lambda: [np.exp(calibrated(one, raw)) for one, raw in zip(fitted, members, strict=True)],
        "scores": score,
        "scores by fold": fold_scores,
        "vote": lambda: vote(np.full((len(NAMES), HORIZONS), 0.25), fitted, members),
    }
    total = seconds(whole, repeats)
    print(
        f"CPU seconds, median of {repeats}: {n_rows:,} rows x {HORIZONS} horizons x {len(NAMES)} members x {CLASSES} "
        f"classes, {FOLDS} folds"
    )
    print(f"  {'judge and vote':20} {total:6.3f}   (wanted: below 1) {'yes' if total < 1 else 'NO'}")
    for name, part in parts.items():
        print(f"    {name:18} {seconds(part, repeats):6.3f}")
    shown = ", ".join(
        f"{true:g} as {one.temperature_.min():.3f} to {one.temperature_.max():.3f}"
        for true, one in zip(TEMPERATURES, fitted, strict=True)
    )
    print(f"  overconfident by {shown}")


# ----------------------------------------------------------------------------------------- memory


def members() -> dict[str, Any]:
    """Return four members that cost little time."""
    return {
        "logistic": LogisticRegression(max_iter=20),
        "naive_bayes": GaussianNB(),
        "lightgbm": LGBMWindowClassifier(1, n_estimators=20, random_state=0),
        "lstm_gru": LSTMGRUClassifier(
            16, hidden_size=8, n_layers=1, max_epochs=1, batch_size=1024, device="cpu", random_state=0
        ),
    }


def make_columns(n_bars: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Return seeded columns and classes."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_bars, COLUMNS))
    y = np.digitize(X[:, 0] + rng.normal(size=n_bars), [-2.0, 2.0])
    times = pd.date_range("2020-01-01", periods=n_bars, freq="5min")
    return pd.DataFrame(X, index=times, columns=[f"x{j}" for j in range(COLUMNS)]), y


def fit_alone(name: str, X: pd.DataFrame, y: np.ndarray) -> None:
    """Fit a member on all rows and let it predict the newest quarter."""
    members()[name].fit(X, y).predict_log_proba(X.iloc[-(len(X) // 4) :])


def fit_together(n_jobs: int | None, X: pd.DataFrame, y: np.ndarray) -> None:
    """Fit the ensemble."""
    cv = WalkForwardSplit(FOLDS, purge=36)
    WalkForwardVotingClassifier(list(members().items()), cv=cv, n_jobs=n_jobs).fit(X, y)


def kilobytes(path: str, field: str) -> int:
    """Return a line of a file of the kernel's in bytes, 0 if the process is gone."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def shared_once() -> int:
    """Return the PSS of this process and all that it started, in bytes."""
    parent = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it is gone
            parent[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = {os.getpid()}
    while more := {one for one, above in parent.items() if above in family} - family:
        family |= more
    return sum(kilobytes(f"/proc/{one}/smaps_rollup", "Pss:") for one in family)


def peak(fit: Callable[[pd.DataFrame, np.ndarray], None], n_bars: int, by_pss: bool) -> tuple[int, float]:
    """Return the most memory above libraries that a matrix and a fit on it take, in bytes, and CPU seconds."""
    warnings.simplefilter("ignore")  # of temperatures of members that learned next to nothing
    torch.set_num_threads(1)
    fit(*make_columns(2000))
    before = shared_once() if by_pss else kilobytes("/proc/self/status", "VmRSS")
    X, y = make_columns(n_bars)
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], shared_once())

    if by_pss:
        watcher = threading.Thread(target=watch)
        watcher.start()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    start = time.process_time()
    fit(X, y)
    spent = time.process_time() - start
    if by_pss:
        done.set()
        watcher.join()
        get_reusable_executor().shutdown()  # idle workers would be waited for
        return most[0] - before, spent
    return kilobytes("/proc/self/status", "VmHWM") - before, spent


def measure_memory(n_bars: int) -> None:
    """Print what each member needs alone, and what the ensemble needs beside what it may."""
    matrix = n_bars * COLUMNS * 8
    # A process each. Not forked: a fork after torch's threads hangs.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:

        def run(fit: Any, by_pss: bool) -> Any:
            return pool.submit(peak, fit, n_bars, by_pss).result()

        print(f"\npeak memory above libraries, {n_bars:,} bars x {COLUMNS}: the matrix is {matrix / MIB:.0f} MiB")
        own = {}
        for name in members():
            most, spent = run(partial(fit_alone, name), False)
            own[name] = most - matrix
            print(f"  {name:14} alone, beside the matrix {own[name] / MIB:6.0f} MiB   {spent:5.1f} s", flush=True)
        neediest = sorted(own.values(), reverse=True)
        for n_jobs, at_a_time in ((None, 1), (2, 2)):
            most, spent = run(partial(fit_together, n_jobs), n_jobs is not None)
            needed = sum(neediest[:at_a_time])
            allowed = 3 * matrix + needed
            print(
                f"  ensemble, n_jobs={n_jobs}: {most / MIB:6.0f} MiB: {(most - needed) / matrix:.2f} matrices and the "
                f"need of {at_a_time}; wanted: below {allowed / MIB:.0f} {'yes' if most < allowed else 'NO'}   "
                f"{spent:5.1f} s in the first process",
                flush=True,
            )


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--bars", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows and bars, one repeat")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.bars, args.repeats = args.rows // 10, args.bars // 10, 1
    torch.set_num_threads(1)
    time_judging(args.rows, args.repeats)
    measure_memory(args.bars)


if __name__ == "__main__":
    main()
