"""What a study costs over calling its objective by hand.

    python benchmarks/tuning.py
    python benchmarks/tuning.py --quick
    python benchmarks/tuning.py --rows 50000 --trials 5 --repeats 5

LightGBM with its defaults on session features, three folds. A study draws parameters and scores them; then the same
objective is called by hand with the same parameters (`FixedTrial`). Studies in memory and in a sqlite
file with heartbeats take turns with the calls by hand. CPU seconds of all threads of the process are
medians over the turns, ratios medians of the ratios within a turn. Asserted first: both give the same
scores, bit for bit. Printed, too: what one trial of an objective that does nothing costs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import optuna
from optuna.trial import FixedTrial
from sklearn.pipeline import make_pipeline

from ensemble_kit.datasets import make_bars
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.tuning import WalkForwardObjective, create_study, space, tune
from ensemble_kit.validation import WalkForwardSplit

PRUNER = optuna.pruners.NopPruner()


def objective_on(rows: int) -> WalkForwardObjective:
    """Return the objective."""
    labels = peak_slope_bottom(make_bars(rows, random_state=0), w=12)
    X, y = labels.align(make_bars(rows, random_state=0))
    model = make_pipeline(SessionFeatures(), LGBMWindowClassifier())
    drawn = space(model, only=["*__num_leaves", "*__learning_rate", "*__min_child_samples"])
    cv = WalkForwardSplit(3, t1=labels.t1)
    return WalkForwardObjective(model, X, y, cv=cv, space=drawn, definition=labels.definition)


def study_seconds(objective, storage: str | None, n_trials: int) -> tuple[float, optuna.Study]:
    """Return the CPU seconds of a study, and the study."""
    study = create_study("bench", storage=storage, directions=["maximize"], pruner=PRUNER)
    start = time.process_time()
    tune(objective, study, n_trials=n_trials)
    return time.process_time() - start, study


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=15000)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1,500 rows, 2 trials, once")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.trials, args.repeats = 1500, 2, 1
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objective = objective_on(args.rows)
    study_seconds(objective, None, 1)  # everything is imported and compiled
    seconds: dict[str, list[float]] = {"by hand": [], "in memory": [], "sqlite": []}
    nothing: list[float] = []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            file = f"sqlite:///{Path(folder, 'study.db')}"
            for name, storage in (("in memory", None), ("sqlite", file)):
                spent, study = study_seconds(objective, storage, args.trials)
                seconds[name].append(spent)
            drawn = [trial.params for trial in study.trials]
            start = time.process_time()
            values = [objective(FixedTrial(params)) for params in drawn]
            seconds["by hand"].append(time.process_time() - start)
            assert values == [trial.value for trial in study.trials]
            empty = f"sqlite:///{Path(folder, 'empty.db')}"
            nothing.append(study_seconds(lambda trial: trial.suggest_float("x", 0, 1), empty, 20)[0] / 20)
    print(f"{args.rows:,} rows, {args.trials} trials, {args.repeats} turn(s); CPU seconds a trial")
    for name, spent in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(spent, seconds["by hand"], strict=True))
        print(f"{name:<10} {statistics.median(spent) / args.trials:8.3f} s   {ratio - 1:+7.2%} over by hand")
    print(f"a sqlite trial that does nothing: {1e3 * statistics.median(nothing):.1f} ms")


if __name__ == "__main__":
    main()
