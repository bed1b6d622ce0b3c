"""Fusion: a Transformer, an LSTM with attention and a CNN as one network, tuned by walk-forward folds, on bitcoin.

python examples/fusion.py                                          # smoke: synthetic bars, two trials, a minute
python examples/fusion.py btcusdt_5min.parquet btcusd_1h.parquet   # in full: an hour; the same line goes on
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution, FloatDistribution
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import RobustScaler

from ensemble_kit import WalkForwardSplit, make_bars, next_direction, read_bars, tuning
from ensemble_kit.estimators import CNNClassifier, FusionClassifier, LSTMAttentionClassifier, TransformerClassifier
from ensemble_kit.features import IndicatorFeatures, SessionFeatures
from ensemble_kit.metrics import compare_scores, random_walk_bars
from ensemble_kit.reports import plot_equity
from ensemble_kit.sizing import KellySizer, SizedClassifier, backtest
from ensemble_kit.tracking import load_saved, save_model

INCLUDE = ("momentum", "rsi", "macd", "volatility", "bollinger", "volume")


def fusion(full: bool, labels):
    """Return bars to position: columns, one network of three, Kelly's sizes."""
    width = 32 if full else 8
    parts = [
        ("transformer", TransformerClassifier(d_model=width, n_heads=4, n_layers=2)),
        ("lstm_attention", LSTMAttentionClassifier(hidden_size=width)),
        ("cnn", CNNClassifier(n_filters=width)),
    ]
    network = FusionClassifier(
        parts,
        seq_len=32 if full else 8,
        hidden_size=width,
        max_epochs=6 if full else 1,
        batch_size=256,
        validation_fraction=0.15,
        validation_purge=1,
        patience=2,
        random_state=0,
    )
    columns = make_union(IndicatorFeatures(INCLUDE), SessionFeatures())
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    model = make_pipeline(columns, median, RobustScaler(), network)
    cv = WalkForwardSplit(3 if full else 2, t1=labels.t1)
    return SizedClassifier(model, KellySizer(penalty="reliability", fraction=0.5), cv=cv)


def tuned(model, X, y, full: bool, folder: Path):
    """Draw learning rate, dropout and width; each trial is a walk-forward over the training bars."""
    network = "model__fusionclassifier__"
    space = {
        f"{network}learning_rate": FloatDistribution(3e-4, 1e-2, log=True),
        f"{network}dropout": FloatDistribution(0.0, 0.5),
        f"{network}hidden_size": CategoricalDistribution([16, 32, 64] if full else [8, 16]),
    }
    objective = tuning.WalkForwardObjective(model, X, y, cv=model.cv, space=space, scoring="log_loss")
    study = tuning.create_study("fusion", storage=f"sqlite:///{folder / 'study.db'}", objective=objective)
    tuning.tune(objective, study, n_trials=12 if full else 2)
    print(study.trials_dataframe(attrs=("number", "value", "params", "state")).round(4).to_string())
    return tuning.best_estimator(study, objective)


def run(bars: pd.DataFrame, full: bool, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    labels = next_direction(bars)
    X, y = labels.align(bars)
    y = y.astype(int)
    train, test = next(WalkForwardSplit(1, t1=labels.t1.loc[X.index], test_size=0.25).split(X))
    print(f"\n{folder.name}: {len(train)} bars learned, {len(test)} foretold")
    model = tuned(fusion(full, labels), X.iloc[train], y.iloc[train], full, folder)
    model.fit(X.iloc[train], y.iloc[train])

    came, proba, position = y.iloc[test], model.predict_proba(X)[test], model.predict_position(X)[test]
    prior = np.full(len(test), y.iloc[train].mean())
    settings = {"classes": [0, 1], "scorer": "log_loss", "random_state": 0}
    gain = compare_scores(came, np.column_stack([1 - prior, prior]), proba, **settings)
    up = came.mean()
    right = np.mean((proba[:, 1] > 0.5) == came)
    opposite = np.where(X["close"].diff().iloc[test] < 0, 1.0, -1.0)  # anyone's rule: prices bounce
    walked = []  # the same model on the same bars turned by coins: its score where there is nothing to know
    for draw in range(9 if full else 1):
        walk = random_walk_bars(X.iloc[test], random_state=draw)
        went = next_direction(walk).labels.iloc[:-1]
        walked.append(np.mean((model.predict_proba(walk)[:-1, 1] > 0.5) == went))
    print(
        f"directional accuracy {right:.4f}, the commoner side {max(up, 1 - up):.4f}, the opposite of the last move "
        f"{np.mean((opposite > 0) == came):.4f}, on {len(walked)} walks {min(walked):.4f} to {max(walked):.4f}"
    )
    print("log-loss: prior's less the model's {:+.5f} [{:+.5f}, {:+.5f}]".format(*gain))

    sides = {"Kelly": position, "always a side": np.where(proba[:, 1] > 0.5, 1.0, -1.0), "opposite": opposite}
    results = {
        f"{n}{', no costs' * (costs == 0)}": backtest(X.iloc[test], side, costs=costs)
        for n, side in sides.items()
        for costs in (1.0, 0.0)  # basis points of what is traded
    }
    shown = ["total_return", "buy_and_hold", "sharpe", "sortino", "max_drawdown", "win_rate", "trades"]
    print(pd.DataFrame({n: r.metrics for n, r in results.items()}).T[shown].round(4).to_string())
    plot_equity(results["always a side"]).figure.savefig(folder / "equity.png", dpi=110)

    # One file: the network's weights, scaler, column names, parameters, and what it was worth.
    card = {"trained_on": [str(X.index[train[0]]), str(X.index[train[-1]])], "directional_accuracy": float(right)}
    file = save_model(model, folder / "fusion.model", card=card | {"backtest": results["Kelly"].metrics})
    again, about = load_saved(file)
    same = np.array_equal(again.predict_position(X)[test], position)
    print(
        f"{file.name}: {file.stat().st_size / 1024:.0f} KiB, loaded without unpickling, the same positions: {same}; "
        f"accuracy on its card {about['directional_accuracy']:.4f}"
    )


def main(five: str = "", hourly: str = "", out: str = "ensemble_kit_output/fusion") -> None:
    full = bool(five)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("once", category=UserWarning)
    series = {"synthetic": make_bars(2000, signal=2.0, random_state=0)}
    if full:
        series = {"5 minutes": read_bars(five).iloc[-30_000:], "1 hour": read_bars(hourly)}
    for name, bars in series.items():
        run(bars[["open", "high", "low", "close", "volume"]], full, Path(out) / name.replace(" ", "_"))


if __name__ == "__main__":
    main(*sys.argv[1:])
