"""LightGBM on windows of 205 bars x 80 columns: from the matrix, against 16,400 flattened columns.

    python benchmarks/lightgbm_windows.py           # ten minutes on one core
    python benchmarks/lightgbm_windows.py --quick
    python benchmarks/lightgbm_windows.py --large   # 100,000 bars, six horizons, two threads; alone

1  Data sets of all lags: ours against `lightgbm.Dataset` of the flattened float32 matrix with
   LightGBM's default settings. Each is made in fresh processes, in turns; CPU seconds, and peak
   memory above the libraries and the base matrix. Flattening is not in the peer's seconds, but its
   matrix is in its memory.
2  At equal settings the trees are the same, asserted.
3  Lags as columns, "last", "blocks" and "all": what a fit costs and its held-out log-loss, in one
   world whose classes hang on means of old lags and one where they hang on a single old lag, the worst
   for blocks.
4  Prediction: the estimator against flattening and `Booster.predict`, asserted equal to 1e-6 first.
   The peer of "blocks" gets its means from our own code, copied into one matrix.
5  Real bars: 80 of the 223 columns (chosen on the training rows), Peak / Slope / Bottom labels,
   fitted on 20,000 rows and scored on the later ones, the labels' reach left out between. AUC-PR stands
   beside what the causal rule has, and what the same model has on return-shuffled bars and on random
   walks of the same holdout (`metrics.skill_test`).

One thread but in `--large`. Needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import log_softmax
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline, make_union
from threadpoolctl import threadpool_limits

from ensemble_kit.bars import row_keys
from ensemble_kit.datasets import read_bars
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.estimators.lags import LagColumns, lag_blocks
from ensemble_kit.features import (
    Alpha158,
    ICTFeatures,
    IndicatorFeatures,
    RelevanceRedundancySelector,
    SessionFeatures,
)
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.metrics import skill_test

SEQ_LEN, N_FEATURES = 205, 80
SESSION = "XNYS"
MIB = 2**20
LAGS = ("last", "blocks", "all")


class Size(NamedTuple):
    """How much of everything."""

    dataset_rows: int
    repeats: int  # of data sets and predictions
    world_rows: int  # to fit, and half as many to score
    world_rounds: int
    train_rows: int  # of real bars
    rounds: int
    surrogates: int
    level: float


FULL = Size(20_000, 2, 5_000, 10, 20_000, 20, 19, 0.95)
QUICK = Size(1_000, 2, 1_500, 3, 2_000, 3, 2, 0.5)


# ------------------------------------------------------------------------------------ measuring


class Cost(NamedTuple):
    """What some work came to, in CPU seconds of the process and bytes at the most above those before."""

    result: Any
    seconds: float
    peak: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.peak / MIB:,.0f} MiB"


def memory(field: str) -> int:
    """Return a line of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def cost(work: Callable[[], Any]) -> Cost:
    """Do some work and say what it came to."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before, start = memory("VmRSS"), time.process_time()
    result = work()
    return Cost(result, time.process_time() - start, memory("VmHWM") - before)


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a process of its own, not forked: a fork after OpenMP's threads hangs."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def spread(ratios: np.ndarray) -> str:
    return f"{np.median(ratios):.1f} (from {ratios.min():.1f} to {ratios.max():.1f})"


# ------------------------------------------------------------------------------------- the peer


def flatten(X: np.ndarray) -> np.ndarray:
    """Return every row's window as one row of float32: column after column, the newest lag first."""
    padded = np.full((len(X) + SEQ_LEN - 1, X.shape[1]), np.nan, dtype=np.float32)
    padded[SEQ_LEN - 1 :] = X
    return np.ascontiguousarray(sliding_window_view(padded, SEQ_LEN, axis=0)[:, :, ::-1]).reshape(len(X), -1)


def flatten_blocks(X: np.ndarray) -> np.ndarray:
    """Return the same of the blocks' means."""
    table = LagColumns(X, row_keys(X), SEQ_LEN, lag_blocks("blocks", SEQ_LEN)).table(np.arange(len(X)))
    return np.column_stack([column.to_numpy() for column in table.columns])


def settings_of(model: LGBMWindowClassifier) -> dict[str, Any]:
    """Return LightGBM's settings that a model was fitted with."""
    return lgb.Booster(model_str=model.model_text_[0]).params


def make_columns(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return seeded columns, and three classes that their newest and older rows tell of."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, N_FEATURES)).astype(np.float32)
    score = X[:, 0] + np.roll(X[:, 1], 3) + rng.normal(size=n_rows)
    return X, np.digitize(score, [-1.0, 1.0])


# ---------------------------------------------------------------------------- 1, 2: data sets


def bin_ours(X: np.ndarray, y: np.ndarray, params: dict[str, Any], lags: str = "all") -> Any:
    """Bin as the estimator does, with its settings."""
    columns = LagColumns(X, row_keys(X), SEQ_LEN, lag_blocks(lags, SEQ_LEN))
    return lgb.Dataset(columns.table(np.arange(len(X))), y, params=params).construct()


def bin_flattened(X: np.ndarray, y: np.ndarray) -> tuple[float, Any]:
    """Return CPU seconds to flatten, and the data set of LightGBM's default settings."""
    start = time.process_time()
    matrix = flatten(X)
    to_flatten = time.process_time() - start
    return to_flatten, lgb.Dataset(matrix, y, params={"num_threads": 1, "verbosity": -1}).construct()


def made(kind: str, n_rows: int) -> tuple[float, float, int]:
    """Return CPU seconds to flatten and to bin, and peak memory, of one data set."""
    X, y = make_columns(n_rows)
    tiny = LGBMWindowClassifier(2, n_estimators=1, random_state=0).fit(X[:100], y[:100])  # what is loaded late
    if kind != "flattened":
        ours = cost(partial(bin_ours, X, y, settings_of(tiny), kind))
        return 0.0, ours.seconds, ours.peak
    theirs = cost(partial(bin_flattened, X, y))
    to_flatten, _ = theirs.result
    return to_flatten, theirs.seconds - to_flatten, theirs.peak


def compare_datasets(size: Size) -> None:
    """Print what data sets of all lags cost, theirs and ours in turns."""
    kinds = ("flattened", "all", "blocks")
    costs = [[in_fresh_process(made, kind, size.dataset_rows) for kind in kinds] for _ in range(size.repeats)]
    array = np.array(costs)  # (repeats, kinds, figures)
    seconds, peak = array[:, :, 1], array[:, :, 2]
    flat = size.dataset_rows * SEQ_LEN * N_FEATURES * np.float32().nbytes
    print(f"1  data set, {size.dataset_rows:,} rows; CPU seconds and peak MiB, medians of {size.repeats} processes")
    print(
        f"   flattened, default settings  {np.median(seconds[:, 0]):7.1f} s {np.median(peak[:, 0]) / MIB:7,.0f} MiB; "
        f"{flat / MIB:,.0f} of them the matrix, flattened in {np.median(array[:, 0, 0]):.1f} s more"
    )
    for k, name in ((1, 'ours, lags="all"'), (2, 'ours, lags="blocks"')):
        print(
            f"   {name:<27}  {np.median(seconds[:, k]):7.1f} s {np.median(peak[:, k]) / MIB:7,.0f} MiB: "
            f"ratio {spread(seconds[:, 0] / seconds[:, k])}, "
            f"memory {np.median(peak[:, k] / peak[:, 0]):.0%}"
        )


def trees_of(text: str) -> str:
    """Return the trees of a model, without the names of its columns and its parameters."""
    return text[text.index("Tree=0") : text.index("end of trees")]


def assert_same_trees(n_rows: int, rounds: int) -> None:
    """Stop unless the flattened matrix gives the same trees at equal settings."""
    X, y = make_columns(n_rows)
    X[np.random.default_rng(1).random(X.shape) < 0.01] = np.nan
    for lags, flat in (("all", flatten), ("blocks", flatten_blocks)):
        ours = LGBMWindowClassifier(SEQ_LEN, lags=lags, n_estimators=rounds, random_state=0).fit(X, y)
        params = settings_of(ours)
        theirs = lgb.train(params, lgb.Dataset(flat(X), y, params=params), num_boost_round=rounds)
        mine, other = trees_of(ours.model_text_[0]), trees_of(theirs.model_to_string())
        if mine != other:
            raise SystemExit(f'lags="{lags}": trees differ at equal settings.')
        print(f'2  lags="{lags}", {n_rows:,} rows: {mine.count("Tree=")} trees, the same as of the flattened matrix')


# ------------------------------------------------------------------------ 3: blocks against all


def make_world(kind: str, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return seeded columns and two classes: they hang on the newest row of one and on old rows of others."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows + SEQ_LEN, N_FEATURES)).astype(np.float32)
    if kind == "means of lags 60-99":
        old = sum(np.roll(X[:, 1], lag) for lag in range(60, 100)) / np.sqrt(40)
    else:  # "lag 150 alone"
        old = np.roll(X[:, 1], 150)
    score = X[:, 0] + 1.5 * old
    y = rng.random(len(X)) < 1 / (1 + np.exp(-1.5 * score))
    return X[SEQ_LEN:], y[SEQ_LEN:].astype(int)


def compare_lags(size: Size) -> None:
    """Print what fits on each set of lags cost, and their held-out log-loss."""
    n = size.world_rows
    print(
        f"3  fit, {n:,} rows, {size.world_rounds} rounds of 15 leaves, two classes; log-loss of {n // 2:,} later rows"
    )
    ratios = []
    for kind in ("means of lags 60-99", "lag 150 alone"):
        X, y = make_world(kind, n + n // 2)
        found = {}
        for lags in LAGS:
            model = LGBMWindowClassifier(
                SEQ_LEN, lags=lags, n_estimators=size.world_rounds, learning_rate=0.3, random_state=0
            )
            fitted = cost(partial(model.fit, X[:n], y[:n]))
            found[lags] = fitted.seconds, log_loss(y[n:], model.predict_proba(X)[n:])
        prior = log_loss(y[n:], np.full(n // 2, y[:n].mean()))
        each = ", ".join(f"{lags} {loss:.4f} in {seconds:.1f} s" for lags, (seconds, loss) in found.items())
        ratios.append(found["all"][0] / found["blocks"][0])
        gap = found["blocks"][1] - found["all"][1]
        print(f"   {kind}: prior {prior:.4f}, {each}; all / blocks {ratios[-1]:.1f}, blocks less all {gap:+.4f}")


# ------------------------------------------------------------------------------- 4: prediction


def compare_prediction(size: Size, n_rows: int = 1_900) -> None:
    """Print what predictions cost, of many rows and of one."""
    X, y = make_columns(2_000 + SEQ_LEN - 1 + n_rows)
    train, asked = X[:2_000], X[2_000:]
    print(f"4  prediction, {n_rows:,} rows, 100 rounds of three classes, 15 leaves; medians of {5 * size.repeats}")
    for lags, flat in (("all", flatten), ("blocks", flatten_blocks)):
        # Few bins: the fit is not what is measured.
        model = LGBMWindowClassifier(SEQ_LEN, lags=lags, n_estimators=100, random_state=0, params={"max_bin": 15})
        model.fit(train, y[:2_000])
        booster = lgb.Booster(model_str=model.model_text_[0])

        def peer(rows: np.ndarray, flat: Any = flat, booster: Any = booster) -> np.ndarray:
            windows = flat(rows)[SEQ_LEN - 1 :]
            return log_softmax(booster.predict(windows, raw_score=True, num_threads=1), axis=1)

        def ours(rows: np.ndarray, model: Any = model) -> np.ndarray:
            return model.predict_log_proba(rows)[SEQ_LEN - 1 :]

        one = asked[-SEQ_LEN:]
        pairs = [
            (partial(peer, asked), partial(ours, asked)),
            (partial(peer, one), lambda model=model, one=one: model.newest_log_proba(one)[None]),
        ]
        for (theirs, mine), what in zip(pairs, (f"{n_rows:,} rows", "one row"), strict=True):
            np.testing.assert_allclose(mine(), theirs(), rtol=0, atol=1e-6)
            seconds = np.array([(cost(theirs).seconds, cost(mine).seconds) for _ in range(5 * size.repeats)])
            them, us = 1000 * np.median(seconds, axis=0)
            print(
                f'   lags="{lags}", {what}: flatten + predict {them:.2f} ms, ours {us:.2f} ms, '
                f"ratio {spread(seconds[:, 0] / seconds[:, 1])}"
            )


# -------------------------------------------------------------------------------- 5: real bars


def fit_real(X: np.ndarray, y: np.ndarray, weight: np.ndarray, lags: str, rounds: int) -> Cost:
    """Fit in this process."""
    LGBMWindowClassifier(2, n_estimators=1, random_state=0).fit(X[:500], np.arange(500) % 3)  # what is loaded late
    model = LGBMWindowClassifier(SEQ_LEN, lags=lags, n_estimators=rounds, learning_rate=0.15, random_state=0)
    return cost(partial(model.fit, X, y, sample_weight=weight))


def compare_real(path: Path, size: Size) -> None:
    """Print one column for each set of lags."""
    if not path.exists():
        print(f"5  left out: {path} is not there")
        return
    bars = read_bars(path)
    labels = peak_slope_bottom(bars)
    known = labels.t1.iloc[: size.train_rows]
    start = bars.index[bars.index > known.max()][0]
    features = make_union(Alpha158(), ICTFeatures(), IndicatorFeatures(), SessionFeatures(SESSION)).fit(bars)
    train = features.transform(bars.iloc[: size.train_rows])
    y, weight = labels.labels.iloc[: size.train_rows].to_numpy(), labels.sample_weight.iloc[: size.train_rows]
    selector = RelevanceRedundancySelector(k=N_FEATURES).fit(train, y)
    X = selector.transform(train).astype(np.float32)
    print(
        f"5  {path.name}: {X.shape[1]} of {train.shape[1]} columns, fitted on {len(X):,} rows, "
        f"{size.rounds} rounds at 0.15, scored from {start:%Y-%m-%d %H:%M}"
    )
    lines = {}
    for lags in LAGS:
        fitted = in_fresh_process(fit_real, X, y, weight.to_numpy(), lags, size.rounds)
        model = make_pipeline(features, selector, fitted.result)
        report = skill_test(
            model,
            bars,
            start=start,
            label=labels.definition,
            n_surrogates=size.surrogates,
            level=size.level,
            session=SESSION,
        )
        scores, truth = report.scores, report.labels.iloc[report.rows]
        lines[lags] = {
            **{f"AUC-PR {event}": scores.loc[event, "auc_pr"] for event in ("peak", "bottom", "mean")},
            "causal rule": scores.loc["mean", "auc_pr_causal_rule"],
            "shuffled": scores.loc["mean", "auc_pr_surrogate"],
            "random walk": scores.loc["mean", "auc_pr_random_walk"],
            "excess": "{excess:+.3f} [{excess_low:+.3f}, {excess_high:+.3f}]".format_map(scores.loc["mean"]),
            "p": scores.loc["mean", "p_value"],
            "log-loss": log_loss(truth, report.proba[report.rows, 0], labels=list(report.classes)),
            "fit CPU s": f"{fitted.seconds:.1f}",
            "peak MiB": f"{fitted.peak / MIB:,.0f}",
        }
    counted = ", ".join(f"{int(row.n_events)} of {event}" for event, row in scores.drop(index="mean").iterrows())
    shares = np.array([(truth == label).mean() for label in report.classes])
    prior = -(shares * np.log([(y[weight > 0] == label).mean() for label in report.classes])).sum()
    print(
        f"   {len(report.rows):,} rows scored: {counted}; prevalence {scores.loc['mean', 'prevalence']:.4f} "
        f"a turn, log-loss of the training rows' shares {prior:.4f}; {size.surrogates} random walks"
    )
    print(pd.DataFrame(lines).map(lambda v: v if isinstance(v, str) else f"{v:.4f}").to_string())


# -------------------------------------------------------------------------------- many of all


def fit_large(n_rows: int, rounds: int, n_threads: int) -> tuple[float, float, int]:
    """Return CPU and wall seconds of a fit, and the most memory the whole process held."""
    rng = np.random.default_rng(0)
    X, _ = make_columns(n_rows)
    y = np.digitize(X[:, :6] + rng.normal(size=(n_rows, 6)), [-1.5, 1.5])
    model = LGBMWindowClassifier(SEQ_LEN, n_estimators=rounds, n_threads=n_threads, random_state=0)
    start, wall = time.process_time(), time.perf_counter()
    model.fit(X, y)
    return time.process_time() - start, time.perf_counter() - wall, memory("VmHWM")


def run_large(rounds: int, n_rows: int = 100_000, n_threads: int = 2) -> None:
    """Print what a large fit costs."""
    seconds, wall, peak = in_fresh_process(fit_large, n_rows, rounds, n_threads)
    print(
        f'{n_rows:,} bars x {N_FEATURES} columns x {SEQ_LEN} lags, lags="blocks", {rounds} rounds, 6 horizons of three '
        f"classes, {n_threads} threads: {wall:,.0f} s, {seconds:,.0f} CPU seconds; peak of the whole process "
        f"{peak / MIB:,.0f} MiB"
    )


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--bars", type=Path, default=data / "spy_5min_2022_2023.parquet", help="a file of bars for 5")
    parser.add_argument("--quick", action="store_true", help="few rows and rounds, to see that all runs")
    parser.add_argument("--parts", default="12345", help="which of the parts, such as 14")
    parser.add_argument("--large", action="store_true", help="the large fit alone")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    started = time.perf_counter()
    if args.large:
        run_large(2 if args.quick else 100)
        return
    print(f"LightGBM {lgb.__version__}, windows of {SEQ_LEN} x {N_FEATURES}, one thread", flush=True)
    with threadpool_limits(1):
        parts: dict[str, Callable[[], None]] = {
            "1": partial(compare_datasets, size),
            "2": partial(assert_same_trees, 1_000, 2),
            "3": partial(compare_lags, size),
            "4": partial(compare_prediction, size),
            "5": partial(compare_real, args.bars, size),
        }
        for number in args.parts:
            parts[number]()
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
