"""The main job in a script: bars to a holdout report and its pictures, without MLflow.

python examples/holdout.py                       # synthetic bars with a planted future
python examples/holdout.py spy.parquet XNYS      # your bars, and their exchange
"""

import sys
from pathlib import Path

from ensemble_kit import make_bars, read_bars
from ensemble_kit.experiments import Experiment
from ensemble_kit.reports import evaluate_holdout, save_pictures


def main(file: str = "", session: str = "XNYS", out: str = "ensemble_kit_output/holdout") -> None:
    bars = read_bars(file) if file else make_bars(4000, signal=2.0, random_state=0)
    experiment = Experiment.default("smoke").replace({"session": session})
    labels = experiment.labels(bars)
    train, held = experiment.split(bars, labels)
    y, weight = labels.labels.iloc[train], labels.sample_weight.iloc[train]

    model = experiment.model(labels).fit(bars.iloc[train], y, sample_weight=weight)
    print(model.model_[-1].weights_, model.row_usage_, sep="\n\n", end="\n\n")

    report = evaluate_holdout(
        model,
        bars,
        start=bars.index[held[0]],
        definition=labels.definition,
        prior=y.value_counts(normalize=True).to_dict(),
        session=session,
    )
    print(report, *save_pictures(report, model, Path(out)), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
