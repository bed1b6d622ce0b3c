"""What the toolkit says where there is nothing to know, and where there is: whole pipelines, many seeds.

    python benchmarks/nulls.py                  # 50 seeds: five to ten minutes on two cores
    python benchmarks/nulls.py --seeds 3 --quick
    python benchmarks/nulls.py --bars ../shared/data/spy_5min_2022_2023.parquet

Every model here is features -> selector and scaler -> two small members -> walk-forward vote ->
temperature -> Kelly -> positions. Four questions:

A  Trained and scored out of fold on labels that were shifted by more than they reach, is a score
   inside its permutation distribution (shifts by whole sessions)? p-values must be uniform.
B  On random walks, does the 95 % interval of position x next-open return contain 0? It must in
   about 95 % of the worlds.
C  With purging switched off, a label that looks ahead and a column that tells old bars from new
   ones, does B notice? And is all well again with the labels' own t1?
D  How often does `skill_test` say "skill" where there is none (at most 5 %), and where a future
   was planted (at least 90 %)?

Random walks are synthetic bars with a planted future, or the bars given, each bar turned upside down or
not by a coin. Shares stand with their exact binomial 95 % interval.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.stats import binomtest, kstest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, RobustScaler

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.features import Alpha158, RelevanceRedundancySelector, SessionFeatures
from ensemble_kit.labels import Labels, label_bars
from ensemble_kit.metrics import (
    auc_pr,
    block_bootstrap_mean,
    next_open_return,
    random_walk_bars,
    shift_labels,
)
from ensemble_kit.metrics.skill import skill_test
from ensemble_kit.sizing import KellySizer, SizedClassifier
from ensemble_kit.validation import WalkForwardSplit, walk_forward_predict

SESSION, BARS_A_SESSION = "XNYS", 78
SIGNAL = 2.0
TURNS = {"label": "peak_slope_bottom", "w": 12}
#: A label of every bar: turns alone are too few for returns to be told from chance in one holdout.
TRENDS = {"label": "buy_sell_hold", "w": 12, "session": SESSION}
#: Overlapping labels of 36 bars, in three classes of like size.
BETS = {"label": "triple_barrier", "horizon": 36, "profit": 5.0, "stop": 5.0}
#: Bars a session of `make_bars`, and sessions scored in A.
DAY, DAYS = 78, 32


class Size(NamedTuple):
    """How much of everything."""

    bars: int  # a world
    leak_bars: int
    leak_blocks: int  # test blocks of 10 bars


FULL, QUICK = Size(5000, 2000, 60), Size(3500, 2000, 60)


# --------------------------------------------------------------------------------------- pipeline


def vote(cv: Any) -> WalkForwardVotingClassifier:
    """Return two small members and their walk-forward vote."""
    linear = make_pipeline(
        RelevanceRedundancySelector(k=20),
        SimpleImputer(strategy="median", keep_empty_features=True),
        RobustScaler(),
        LogisticRegression(C=0.01, max_iter=300),
    )
    # Leaves of few rows: what leaks can be learned by heart.
    trees = LGBMWindowClassifier(1, n_estimators=20, min_child_samples=5, random_state=0)
    return WalkForwardVotingClassifier(
        [("linear", linear), ("trees", make_pipeline(RelevanceRedundancySelector(k=20), trees))], cv=cv
    )


def pipeline(cv: Any, *columns: Any, conservatism: float = 1.0) -> SizedClassifier:
    """Return the whole pipeline, unfitted, on 161 columns unless others are given."""
    features = make_union(*(columns or (Alpha158(), SessionFeatures(SESSION))))
    return SizedClassifier(make_pipeline(features, vote(cv)), KellySizer(conservatism=conservatism))


def clock(bars: pd.DataFrame) -> pd.DataFrame:
    """Return the date as a number: no use for the future, but it tells which training bars are nearest."""
    return pd.DataFrame({"time": bars.index.as_unit("s").asi8 / 86400.0}, index=bars.index)


def fitted(bars: pd.DataFrame, labels: Labels, **parameters: Any) -> tuple[SizedClassifier, np.ndarray]:
    """Fit on the first three fifths, purged, and return the model and the holdout's rows."""
    train, held = next(WalkForwardSplit(1, t1=labels.t1, test_size=0.4).split(bars))
    model = pipeline(WalkForwardSplit(2, t1=labels.t1), **parameters)
    weight = labels.sample_weight.iloc[train]
    return model.fit(bars.iloc[train], labels.labels.iloc[train], sample_weight=weight), held


def walk(seed: int, n: int, file: Path | None) -> pd.DataFrame:
    """Return a random walk, of synthetic bars with a planted future or of some of those in a file."""
    if file is None:
        bars = make_bars(n, signal=SIGNAL, random_state=seed)
    else:
        real = read_bars(file)[["open", "high", "low", "close", "volume"]]
        first = int(np.random.default_rng(seed).integers(max(len(real) - n, 0) + 1))
        bars = real.iloc[first : first + n]
    return random_walk_bars(bars, random_state=seed)


# ------------------------------------------------------------------------------------ experiments


def shifted(seed: int, n: int) -> dict[str, float]:
    """A: the p-value of an out-of-fold score of shifted labels.

    The null shifts them on by whole sessions. A model learns at what time of day labels are
    frequent, which is true knowledge, if of little use: against shifts by any number of bars it
    shows, as p-values of 0.46 on average (300 seeds).
    """
    bars = make_bars(n, signal=SIGNAL, random_state=seed)
    X, y = label_bars(bars, TURNS).align(bars)
    w = TURNS["w"]
    y = shift_labels(y, min_shift=w + 60, random_state=seed)  # Alpha158 looks back 60 bars
    model, cv = pipeline(WalkForwardSplit(2, purge=w)), WalkForwardSplit(1, purge=w, test_size=DAY * DAYS)
    out = walk_forward_predict(model, X, y, cv=cv, method="predict_proba")
    came = y[out.covered].to_numpy()
    scores = np.array(
        [
            auc_pr(np.roll(came, DAY * day), out.predictions, classes=out.classes, events=["peak", "bottom"])[0]
            for day in range(DAYS)
        ]
    )
    above, tied = (scores > scores[0]).sum(), (scores == scores[0]).sum()
    # Within its step of 1/32 by chance, so that it is uniform and not on a grid.
    return {"p": (above + np.random.default_rng(seed).uniform() * tied) / DAYS}


def walked(seed: int, n: int, file: Path | None) -> dict[str, float]:
    """B: what positions earn on a random walk, with the usual sizer."""
    bars = walk(seed, n, file)
    model, held = fitted(bars, label_bars(bars, TURNS))
    position = model.predict_position(bars)[held]
    earned = position * next_open_return(bars).to_numpy()[held]
    _, low, high = block_bootstrap_mean(earned, random_state=seed)
    return {"active": np.mean(position != 0), "inside": low <= 0 <= high}


def leaked(seed: int, size: Size, file: Path | None) -> dict[str, float]:
    """C: what out-of-fold positions earn on a random walk, with and without a purge."""
    bars = walk(seed, size.leak_bars, file)
    labels = label_bars(bars, BETS)
    X, y = labels.align(bars)
    ahead = next_open_return(bars)
    found = {}
    for name, purge in (("unpurged", {"purge": 0}), ("purged", {"t1": labels.t1})):
        cv = WalkForwardSplit(size.leak_blocks, test_size=10, **purge)
        model = pipeline(cv, SessionFeatures(SESSION), FunctionTransformer(clock), conservatism=0.0)
        model.fit(X, y)
        rows, proba = model.model_[-1].out_of_fold()
        earned = model.sizer_.transform(proba) * ahead.iloc[rows].to_numpy()
        found[name] = block_bootstrap_mean(earned, random_state=seed)[1] > 0
    return found


def judged(seed: int, n: int, file: Path | None) -> dict[str, Any]:
    """D: verdicts on two null worlds and on one with a planted future."""
    worlds = {
        "martingale": make_bars(n, signal=0.0, random_state=seed),
        "random walk": walk(seed, n, file),
        "planted": make_bars(n, signal=SIGNAL, random_state=seed),
    }
    found: dict[str, Any] = {}
    for name, bars in worlds.items():
        model, held = fitted(bars, label_bars(bars, TRENDS), conservatism=0.0)
        report = skill_test(model, bars, start=bars.index[held[0]], label=TRENDS, session=SESSION, random_state=seed)
        _, low, high = report.edge.loc["position"]
        found[name] = {
            "skill": report.verdict == "skill",
            "finds": report.finds,
            "earns": report.earns,
            "inside": low <= 0 <= high,
            "p": report.scores["p_value"]["mean"],
        }
    return found


def one_seed(seed: int, size: Size, file: Path | None) -> dict[str, Any]:
    """Run all four experiments with one seed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fold without an event, and of few days a time of day
        started = time.perf_counter()
        found: dict[str, Any] = {}
        for name, run in (
            ("A", partial(shifted, seed, size.bars)),
            ("B", partial(walked, seed, size.bars, file)),
            ("C", partial(leaked, seed, size, file)),
            ("D", partial(judged, seed, size.bars, file)),
        ):
            found[name] = run()
            found[f"{name} seconds"] = time.perf_counter() - started
            started = time.perf_counter()
    return found


# ------------------------------------------------------------------------------------------ table


class Line(NamedTuple):
    """A line of the table: how many worlds of how many, and what it should be."""

    question: str
    world: str
    hits: pd.Series
    wanted: str
    low: float  # the share's domain; where it is one number, the interval must hold it
    high: float

    def __str__(self) -> str:
        k, n = int(self.hits.sum()), len(self.hits)
        interval = binomtest(k, n).proportion_ci()
        exact = self.low == self.high
        met = interval.low <= self.low <= interval.high if exact else self.low <= k / n <= self.high
        return (
            f"{self.question:<34}  {self.world:<22}  {k:>3} of {n:<3}  {k / n:>5.0%}  "
            f"[{interval.low:>4.0%}, {interval.high:>4.0%}]  {self.wanted:<14}  {'yes' if met else 'NO'}"
        )


def lines(found: pd.DataFrame) -> list[Line]:
    """Count what the experiments found, one row a seed and one column a figure."""
    null = ("martingale", "random walk")
    return [
        Line("A  p at most 0.05", "shifted labels", found["A.p"] <= 0.05, "about 5 %", 0.05, 0.05),
        Line("B  interval contains 0, turns", "random walk", found["B.inside"], "about 95 %", 0.95, 0.95),
        *(Line("B  interval contains 0, trends", w, found[f"D.{w}.inside"], "about 95 %", 0.95, 0.95) for w in null),
        Line("C  earns where nothing can", "random walk, unpurged", found["C.unpurged"], "most", 0.5, 1.0),
        Line("C  earns where nothing can", "random walk, t1", found["C.purged"], "about 2.5 %", 0.025, 0.025),
        *(Line('D  "skill"', w, found[f"D.{w}.skill"], "at most 5 %", 0.0, 0.05) for w in null),
        Line('D  "skill"', f"signal={SIGNAL:g}", found["D.planted.skill"], "at least 90 %", 0.9, 1.0),
        *(Line("D  classification above its null", w, found[f"D.{w}.finds"], "about 5 %", 0.05, 0.05) for w in null),
        *(Line("D  timing above 0", w, found[f"D.{w}.earns"], "about 2.5 %", 0.025, 0.025) for w in null),
    ]


def main() -> None:
    """Read the arguments, run the worlds two at a time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="smaller worlds, to see that all runs")
    parser.add_argument("--bars", type=Path, help="a file of bars to make the random walks of")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    started = time.perf_counter()
    worlds = Parallel(args.jobs)(delayed(one_seed)(seed, size, args.bars) for seed in range(args.seeds))
    found = pd.json_normalize(worlds).astype(np.float64)

    print(f"{args.seeds} seeds, worlds of {size.bars} bars (C: {size.leak_bars}), the last 40 % held out")
    print(f"A, B {TURNS}, A scored on {DAYS} sessions")
    print(f"C    {BETS}, {size.leak_blocks} test blocks of 10 bars")
    print(f"D    {TRENDS}, 19 random walks")
    print(f"random walks of {args.bars or f'make_bars(signal={SIGNAL:g})'}\n")
    print(f"{'question':<34}  {'world':<22}  {'worlds':<10}  share  exact 95 %    should be       is")
    print(*lines(found), sep="\n")
    p = found["A.p"]
    print(f"\nA: uniform p-values, Kolmogorov-Smirnov p = {kstest(p, 'uniform').pvalue:.3f}; mean {p.mean():.2f}")
    print(f"B: positions on {found['B.active'].mean():.0%} of the bars")
    spent = {name: found[f"{name} seconds"].mean() for name in "ABCD"}
    print(
        f"{time.perf_counter() - started:.0f} s in {args.jobs} processes; a seed: "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in spent.items())
    )


if __name__ == "__main__":
    main()
