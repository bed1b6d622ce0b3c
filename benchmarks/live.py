"""One new bar through the `full` experiment: a stream against recomputing, in ms of CPU on one thread.

    python benchmarks/live.py --data ../shared/data/spy_5min_2022_2023.parquet
    python benchmarks/live.py --quick        # synthetic bars and small networks, to see that all runs

The model is ``Experiment.default("full")``: 223 columns, LSTM-GRU, LuTransformer and Informer (205 bars, width
128) and LightGBM, a selector of 80 columns in each. Networks are trained for one epoch and trees for `--trees`
rounds: what an answer costs depends on their sizes, not on what they learned (networks), or grows with the
trees, which are counted below.

Against the stream stand two ways to recompute: `predict_proba` of all bars so far (`--bars`), and of the fewest that
give the same answer. That number is searched among powers of two; recursive columns forget slowly, so it is
an experience with these bars, not a promise. Both answer for every row of what they are given: a batch has no
other way. "Newest row alone" is what somebody would write by hand without that waste: columns from the fewest bars,
scikit-learn's own selectors and scalers on the last 205 rows, and `newest_log_proba` of each member.

All are first seen to agree to 1e-6 on every bar that is timed, and then timed bar by bar in turns; medians.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.experiments import Experiment
from ensemble_kit.sizing import SizedClassifier

SAME = 1e-6
NETWORKS = ("lstm_gru", "lu_transformer", "informer")


def train(bars: pd.DataFrame, n_trees: int, width: int, seq_len: int, session: str) -> SizedClassifier:
    """Return the experiment, fitted on some bars."""
    changes: dict[str, Any] = {
        "session": session,
        "features.ict.on": True,
        "features.indicators.on": True,
        "folds.n_splits": 1,
        "members.lightgbm.n_estimators": n_trees,
        "members.lightgbm.seq_len": seq_len,
    }
    for name in NETWORKS:
        size = "hidden_size" if name == "lstm_gru" else "d_model"
        changes |= {f"members.{name}.max_epochs": 1, f"members.{name}.{size}": width}
        changes |= {f"members.{name}.seq_len": seq_len}
    experiment = Experiment.default("full").replace(changes)
    labels = experiment.labels(bars)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of temperatures of members that learned next to nothing
        return experiment.model(labels).fit(*labels.align(bars))


def newest_by_hand(model: SizedClassifier, bars: pd.DataFrame) -> np.ndarray:
    """Return the newest bar's probabilities, from columns of these bars and each member's newest window."""
    *features, ensemble = (step for _, step in model.model_.steps)
    for step in features:
        bars = step.transform(bars)
    said = []
    for member in ensemble.estimators_:
        window = bars.iloc[-member.steps[-1][1].seq_len :]
        for _, step in member.steps[:-1]:
            window = step.transform(window)
        said.append([member.steps[-1][1].newest_log_proba(window)[None]])
    proba = ensemble.vote_on(said)
    model.sizer_.transform(proba)
    return np.asarray(proba[0])


def batch(model: SizedClassifier, bars: pd.DataFrame) -> np.ndarray:
    """Return probabilities of all bars, shape (n, H, K), and size them."""
    proba = np.stack(model.predict_proba(bars), axis=1)
    model.sizer_.transform(proba)
    return proba


def seconds(function: Callable[[], Any], spent: list[float]) -> Any:
    """Call a function, and note its CPU seconds."""
    start = time.process_time()
    result = function()
    spent.append(time.process_time() - start)
    return result


def fewest_bars(model: SizedClassifier, bars: pd.DataFrame, ends: range, whole: np.ndarray) -> int:
    """Return the fewest bars, among powers of two, whose newest answer is that of all bars before."""
    n = 256
    while n < ends[0] and not all(same(newest_by_hand(model, bars.iloc[e - n : e]), whole[e - 1]) for e in ends):
        n *= 2
    return min(n, ends[0])


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether answers agree to 1e-6."""
    return float(np.abs(a - b).max()) <= SAME


def watch(stream: Any, model: SizedClassifier) -> dict[str, list[float]]:
    """Let the parts of a stream note their CPU seconds from here on."""
    spent: dict[str, list[float]] = {}

    def note(owner: Any, method: str, name: str) -> None:
        called = getattr(owner, method)
        spent[name] = []
        setattr(owner, method, lambda *args: seconds(lambda: called(*args), spent[name]))

    note(stream, "_checked", "checks of the bar")
    piped = stream._model
    union, (names, _) = piped._chain.steps[0], zip(*model.model_.steps[0][1].transformer_list, strict=True)
    for name, part in zip(names, union._parts, strict=True):
        note(part[2], "update", name)
    ensemble = model.model_.steps[-1][1]
    for name, (member,) in zip(ensemble.named_estimators_, piped._model._members, strict=True):
        note(member, "update", name)
    note(stream, "update", "all")
    return spent


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a file of bars of the NYSE; synthetic bars without")
    parser.add_argument("--bars", type=int, default=5000, help="history of the first new bar")
    parser.add_argument("--fit", type=int, default=2000, help="bars to fit on")
    parser.add_argument("--new", type=int, default=100, help="new bars")
    parser.add_argument("--trees", type=int, default=1000, help="rounds of LightGBM")
    parser.add_argument("--repeats", type=int, default=3, help="new bars that all are computed for again by batches")
    parser.add_argument("--quick", action="store_true", help="small networks and few bars")
    args = parser.parse_args()
    width, seq_len = 128, 205
    if args.quick:
        args.bars, args.fit, args.new, args.trees, args.repeats = 1200, 800, 10, 10, 1
        width, seq_len = 16, 32
    torch.set_num_threads(1)
    end = args.bars + args.new
    bars = read_bars(args.data) if args.data else make_bars(end, random_state=0)
    bars = bars.iloc[:end]
    model = train(bars.iloc[: args.fit], args.trees, width, seq_len, "XNYS" if args.data else "day")
    forest = model.model_.steps[-1][1].named_estimators_["lightgbm"].steps[-1][1]._forest
    print(
        f"{model.model_.steps[0][1].transform(bars.iloc[:5]).shape[1]} columns, width {width}, {seq_len} bars, "
        f"{len(forest.first_split) - 1:,} trees in LightGBM, {len(model.classes_)} horizons"
    )

    spent: dict[str, list[float]] = {name: [] for name in ("start", "stream", "whole", "fewest", "newest")}
    whole = seconds(lambda: batch(model, bars), spent["whole"])
    fewest = fewest_bars(model, bars, range(args.bars + 1, end + 1, max(1, args.new // 5)), whole)
    stream = seconds(lambda: model.stream(bars.iloc[: args.bars]), spent["start"])
    worst = {"stream": 0.0, "fewest": 0.0, "newest": 0.0}
    again = set(np.linspace(args.bars, end - 1, args.repeats, dtype=int).tolist())
    for i in range(args.bars, end):
        bar, window = bars.iloc[[i]], bars.iloc[i + 1 - fewest : i + 1]
        said = {"stream": seconds(lambda b=bar: stream.update(b), spent["stream"]).proba}
        said["newest"] = seconds(lambda w=window: newest_by_hand(model, w), spent["newest"])
        if i in again:
            said["fewest"] = seconds(lambda w=window: batch(model, w), spent["fewest"])[-1]
        for name, proba in said.items():
            worst[name] = max(worst[name], float(np.abs(proba - whole[i]).max()))
    if max(worst.values()) > SAME:
        raise SystemExit(f"answers differ: {worst}")
    print(f"largest difference of a probability from the batch of all bars: {worst}")

    ms = {name: 1e3 * median(times) for name, times in spent.items()}
    print(f"\n{'ms of CPU per new bar':34} {'':>10} {'ratio':>8}")
    for label, name in (
        ("stream", "stream"),
        (f"recompute, {end:,} bars", "whole"),
        (f"recompute, {fewest:,} bars", "fewest"),
        (f"newest row alone, {fewest:,} bars", "newest"),
    ):
        print(f"  {label:32} {ms[name]:10.2f} {ms[name] / ms['stream']:8.1f}")
    print(f"  start on {args.bars:,} bars: {ms['start'] / 1e3:.2f} s")
    print(f"  wanted: below 12 ms {'yes' if ms['stream'] < 12 else 'NO'}", end="; ")
    print(f"at most half of recomputing {'yes' if 2 * ms['stream'] <= min(ms['whole'], ms['fewest']) else 'NO'}")

    parts = watch(stream := model.stream(bars.iloc[: args.bars]), model)
    for i in range(args.bars, end):
        stream.update(bars.iloc[[i]])
    print("\nby part, ms of CPU")
    total = 1e3 * median(parts.pop("all"))
    for name, times in parts.items():
        print(f"  {name:32} {1e3 * median(times):10.2f}")
    print(f"  {'vote, sizer and the way between':32} {total - sum(1e3 * median(t) for t in parts.values()):10.2f}")
    print(f"  {'all, with the clocks':32} {total:10.2f}")


if __name__ == "__main__":
    main()
