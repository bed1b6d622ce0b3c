"""A regime ensemble on 5-minute bars: four kinds of members, what each part adds, and what is left after nulls.

python examples/regime.py                     # smoke: synthetic bars without a future, tiny members, a minute
python examples/regime.py spy.parquet XNYS    # in full: an hour or two of two cores; goes on where it was stopped
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble_kit import KellySizer, TemperatureScaling, backtest, make_bars, read_bars
from ensemble_kit.experiments import Experiment
from ensemble_kit.metrics import auc_pr_by_class, brier_score
from ensemble_kit.reports import evaluate_holdout, save_pictures

EVENTS = ["peak", "bottom"]
NETWORKS = ("lstm_gru", "lu_transformer", "informer")
FEATURES = ("alpha158", "ict", "indicators", "session")  # 158 + 48 + 14 + 3 = 223 columns
#: Bars of the source system's holdout; the whole one is the newest fifth.
NEWEST = 1900
#: Earlier bars that an answer can depend on to float precision (measured by `benchmarks/live.py`).
HISTORY = 2048
#: Saying "slope" where a turn comes costs four times what a false turn does, and the wrong turn six times.
COST = {
    "peak": {"peak": 0.0, "slope": 1.0, "bottom": 6.0},
    "slope": {"peak": 4.0, "slope": 0.0, "bottom": 4.0},
    "bottom": {"peak": 6.0, "slope": 1.0, "bottom": 0.0},
}


def settings(session: str, full: bool) -> dict:
    """Return what the experiment has other than the preset."""
    size = {"seq_len": 205 if full else 12, "max_epochs": 4 if full else 1, "batch_size": 128}
    width = {"lstm_gru": "hidden_size", "lu_transformer": "d_model", "informer": "d_model"}
    changes = {f"members.{name}.{key}": value for name in NETWORKS for key, value in size.items()}
    changes |= {f"members.{name}.{width[name]}": 32 if full else 8 for name in NETWORKS}
    changes |= {f"members.{name}.on": True for name in NETWORKS} | {f"features.{name}.on": True for name in FEATURES}
    changes |= {"members.lightgbm.seq_len": size["seq_len"], "members.lightgbm.n_estimators": 200 if full else 20}
    changes |= {"members.lightgbm.params": {"feature_fraction": 0.2}}  # of 80 columns times 27 blocks of lags
    changes |= {"labels.horizons": 6, "selector.on": True, "selector.k": 80, "folds.n_splits": 3}
    return changes | {"session": session, "threads": 2 if full else 1, "sizing.fraction": 1.0}


def of_trees(experiment: Experiment, **loss) -> Experiment:
    """Return the same without the networks, and perhaps with another loss: hours less, and comparable by themselves."""
    changes = {f"members.{name}.on": False for name in NETWORKS}
    return experiment.replace(changes | {f"members.lightgbm.{name}": value for name, value in loss.items()})


def judge(said, position, classes, bars, came, windows: dict[str, slice]) -> dict[str, dict[str, float]]:
    """Score what is said of the first horizon on windows of the holdout, and trade the positions there."""
    scores, a_year = {}, (len(bars) - 1) / ((bars.index[-1] - bars.index[0]) / pd.Timedelta(days=365.25))
    for name, rows in windows.items():
        known = came.iloc[rows].notna().to_numpy()
        truth, proba = came.iloc[rows][known], said[rows][known]
        traded = backtest(bars.iloc[rows], position[rows], costs=1.0, periods_per_year=a_year).metrics
        scores[name] = {
            "AUC-PR": np.mean(auc_pr_by_class(truth, proba, classes=classes, events=EVENTS)),
            "Brier": float(np.ravel(brier_score(truth, proba, classes=classes))[0]),
            "accuracy": float(np.mean(classes[proba.argmax(axis=1)] == truth.to_numpy())),
            "return %": 100 * traded["total_return"],
            "held %": 100 * traded["buy_and_hold"],
            "Sharpe": traded["sharpe"],
            "drawdown %": 100 * traded["max_drawdown"],
            "trades": traded["trades"],
        }
    return scores


def variants(model, X, y, weight, *judged_on) -> pd.DataFrame:
    """Leave one part out at a time; members stay as they were fitted, calibration, vote and sizer are judged anew."""
    (bars, *_), classes = judged_on, model.classes_[0]
    vote, whole = model.model_[-1], {"calibrator": TemperatureScaling(), "weighting": "squared_auc_pr"}
    sizer = KellySizer(fraction=1.0)
    parts = {
        "everything": ({}, sizer),
        "Kelly at half": ({}, KellySizer(fraction=0.5)),
        "class biases, too": ({"calibrator": TemperatureScaling(bias=True)}, sizer),
        "no temperature": ({"calibrator": None}, sizer),
        "uniform vote": ({"weighting": "uniform"}, sizer),
        "no penalty for error": ({}, KellySizer(fraction=1.0, conservatism=0.0)),
    }
    learned = y.iloc[:, 0][weight > 0]
    prior = np.broadcast_to([np.mean(learned == one) for one in classes], (len(bars), len(classes)))
    said = {"no model: the prior": (prior, np.zeros(len(bars)))}
    for name, (changed, sizing) in parts.items():
        vote.set_params(**whole | changed)
        model.set_params(sizer=sizing).recalibrate(X, y, weight)
        said[name] = model.predict_proba(bars)[0], model.predict_position(bars)
    rows = {
        (window, name): score
        for name, answer in said.items()
        for window, score in judge(*answer, classes, *judged_on).items()
    }
    vote.set_params(**whole)
    model.set_params(sizer=sizer).recalibrate(X, y, weight)
    return pd.DataFrame.from_dict(rows, orient="index").sort_index(level=0, sort_remaining=False)


def run(experiment: Experiment, bars: pd.DataFrame, out: Path) -> None:
    labels = experiment.labels(bars)
    train, held = experiment.split(bars, labels)
    X, y, weight = bars.iloc[train], labels.labels.iloc[train], labels.sample_weight.iloc[train].to_numpy()
    model = experiment.model(labels, memory=out / "memory").fit(X, y, sample_weight=weight)
    print(f"\n{out.name}: trained on {len(train)} bars, {len(held)} held out\n", flush=True)

    # No answer reaches further back than HISTORY bars, so what lies before need not be asked about again.
    first = max(held[0] - HISTORY, 0)
    recent, came = bars.iloc[first:], labels.horizon(0).where(labels.sample_weight > 0).iloc[first:]
    newest = min(NEWEST, len(held) // 2)
    windows = {"whole holdout": slice(held[0] - first, None), f"newest {newest}": slice(-newest, None)}
    print(variants(model, X, y, weight, recent, came, windows).round(4).to_string())
    vote = model.model_[-1]
    if len(vote.estimators) > 1:
        print("\nout of fold, with and without each member:")
        print(vote.leave_one_member_out(random_state=0).round(4).to_string(), flush=True)
    report = evaluate_holdout(
        model,
        recent,
        start=bars.index[held[0]],
        definition=labels.definition,
        prior=labels.horizon(0).iloc[train].value_counts(normalize=True).to_dict(),
        session=experiment.session,
    )
    print("", report, *save_pictures(report, model, out), sep="\n")


def main(file: str = "", session: str = "XNYS", out: str = "ensemble_kit_output/regime") -> None:
    full, folder = bool(file), Path(out)
    if not full:  # members of one epoch have nothing to calibrate, and say so with every judgement
        warnings.filterwarnings("ignore", "temperature on its bound")
    bars = read_bars(file) if full else make_bars(1800, random_state=0)
    plain = Experiment.default("full").replace(settings(session, full))
    run(plain, bars, folder / "plain")
    run(of_trees(plain), bars, folder / "trees")
    run(of_trees(plain, loss="expected_cost", cost_matrix=COST), bars, folder / "trees_cost_weighted")


if __name__ == "__main__":
    main(*sys.argv[1:])
