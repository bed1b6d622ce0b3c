"""Does tuning help? LightGBM and LSTM-GRU, tuned out of fold on SPY 5-minute bars, against their defaults.

    python benchmarks/tuned_pair.py --data spy_5min_2022_2023.parquet --trials 30 12 --storage sqlite:///tuned.db

Each member has a study of its own over the training rows (AUC-PR less the causal rule's, three purged folds). The
holdout is the newest fifth, which no trial sees. Two ensembles are fitted on the training rows, of the defaults and of
the winners, and compared once on the holdout: differences with paired block-bootstrap intervals, skill beside random
walks, and the deflated Sharpe ratio for as many trials as there were. Several of these commands may share a storage.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
import optuna
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import RobustScaler

from ensemble_kit import (
    Alpha158,
    KellySizer,
    LGBMWindowClassifier,
    LSTMGRUClassifier,
    SessionFeatures,
    SizedClassifier,
    WalkForwardSplit,
    WalkForwardVotingClassifier,
    backtest,
    peak_slope_bottom,
    read_bars,
    skill_test,
    tuning,
)
from ensemble_kit.metrics import compare_scores, deflated_sharpe_ratio

EVENTS = ["peak", "bottom"]


def members(purge: int) -> dict[str, Any]:
    """Return the members as the `small` preset has them."""
    shared: dict[str, Any] = {"validation_fraction": 0.15, "validation_purge": purge, "random_state": 0}
    network = LSTMGRUClassifier(seq_len=48, hidden_size=32, max_epochs=8, batch_size=64, learning_rate=3e-3, **shared)
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    return {
        "lightgbm": make_pipeline(LGBMWindowClassifier(seq_len=1, n_estimators=200, **shared)),
        "lstm_gru": make_pipeline(median, RobustScaler(), network),
    }


def tuned(name: str, member: Any, X: Any, y: Any, weight: Any, labels: Any, options: argparse.Namespace) -> Any:
    """Return the study of a member."""
    model = make_pipeline(make_union(Alpha158(), SessionFeatures("XNYS")), *[step for _, step in member.steps])
    # Widths and windows stay: what is tuned costs no more to fit than the default.
    left_out = ("seq_len", "hidden_size", "n_layers", "lags", "batch_size")
    space = {key: value for key, value in tuning.space(model).items() if not key.endswith(left_out)}
    objective = tuning.WalkForwardObjective(
        model,
        X,
        y,
        cv=WalkForwardSplit(3, t1=labels.t1.loc[X.index]),
        space=space,
        scoring="auc_pr_excess",
        definition=labels.definition,
        sample_weight=weight,
        memory=options.cache,
    )
    study = tuning.create_study(f"{name}_pair", objective=objective, storage=options.storage)
    defaults = {key: value for key, value in model.get_params().items() if key in space}
    if not study.trials:
        study.enqueue_trial(defaults)
    n = options.trials[0 if name == "lightgbm" else 1]
    tuning.tune(objective, study, n_trials=n)
    by_default = next(t.value for t in study.trials if t.number == 0)
    states = pd.Series([t.state.name for t in study.trials]).value_counts().to_dict()
    print(
        f"{name}: {states}, out of fold by default {by_default:+.4f}, best {study.best_value:+.4f} {study.best_params}"
    )
    return tuning.best_estimator(study, objective)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--trials", type=int, nargs=2, default=(30, 12), help="of LightGBM, and of the network")
    parser.add_argument("--storage")
    parser.add_argument("--cache")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")

    bars = read_bars(options.data)
    labels = peak_slope_bottom(bars)
    train, held = next(WalkForwardSplit(1, t1=labels.t1, test_size=0.2).split(bars))
    X, y, weight = bars.iloc[train], labels.horizon(0).iloc[train], labels.sample_weight.iloc[train].to_numpy()
    default = members(int(labels.definition["w"]))
    best = {
        name: make_pipeline(*[step for _, step in tuned(name, member, X, y, weight, labels, options).steps[1:]])
        for name, member in default.items()
    }

    known = held[np.asarray(labels.known)[held]]
    proba, positions = {}, {}
    for name, pair in (("default", default), ("tuned", best)):
        vote = WalkForwardVotingClassifier(
            list(pair.items()), cv=WalkForwardSplit(3, t1=labels.t1), events=EVENTS, memory=options.cache
        )
        features = make_union(Alpha158(), SessionFeatures("XNYS"))
        model = SizedClassifier(make_pipeline(features, vote), KellySizer()).fit(X, y, sample_weight=weight)
        proba[name], positions[name] = model.predict_proba(bars)[known], model.predict_position(bars)[held]
        print(f"\n{name}: weights {model.model_[-1].weights_['H0'].round(3).to_dict()}")
        print(*skill_test(model, bars, start=bars.index[held[0]], label=labels.definition).sentences(), sep="\n")
    classes, came = model.classes_, labels.horizon(0).iloc[known]
    print(f"\nTuned less default on {len(known)} holdout rows, paired 95 % intervals")
    for scorer in ("auc_pr", "log_loss"):
        of = {"classes": classes, "scorer": scorer, "random_state": 0, "block": 2 * int(labels.definition["w"])}
        of |= {"events": EVENTS} if scorer == "auc_pr" else {}
        difference, low, high = compare_scores(came, proba["tuned"], proba["default"], **of)
        print(f"  {scorer:9} {difference:+.4f} [{low:+.4f}, {high:+.4f}]")
    n_trials = sum(options.trials)
    for name, position in positions.items():
        result = backtest(bars.iloc[held], position)
        returns = result.returns.iloc[1:]
        # Of trials without skill, Sharpe ratios vary by one over the number of bars.
        deflated = deflated_sharpe_ratio(returns, n_trials=n_trials, sharpe_variance=1 / len(returns))
        m = result.metrics
        print(
            f"  {name:8} after costs {m['total_return']:+.3%}, Sharpe {m['sharpe']:+.2f}, "
            f"deflated for {n_trials} trials: {deflated:.3f}; {m['trades']:.0f} trades"
        )


if __name__ == "__main__":
    main()
