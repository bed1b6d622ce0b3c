"""Ticks: a bidirectional LSTM with attention against a Transformer, with and without a future, and on bitcoin.

python examples/ticks.py                                  # smoke: 4,000 synthetic ticks, under a minute
python examples/ticks.py lob_l1_btcusdt_spot.parquet      # in full: three books, some ten minutes of one core
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler

from ensemble_kit import LSTMAttentionClassifier, TransformerClassifier, WalkForwardSplit, next_direction
from ensemble_kit.datasets import make_ticks
from ensemble_kit.features import MicrostructureFeatures
from ensemble_kit.metrics import confidence_curve, random_walk_bars
from ensemble_kit.reports import plot_confidence_curve
from ensemble_kit.sizing import Costs, backtest, trade_at_thresholds

THRESHOLDS = [0.5, 0.55, 0.6, 0.7, 0.8]


def real_quotes(file: str) -> pd.DataFrame:
    """Read a level-1 book; of updates at one instant, the last one stands."""
    quotes = pd.read_parquet(file).set_index("timestamp").rename_axis("datetime")
    return quotes[~quotes.index.duplicated(keep="last")]


def on_moves(quotes: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows at which the mid price has just moved, as bars without a range.

    Between them nothing happens that could be traded, and "unchanged" would be most labels.
    """
    middle = ((quotes["bid"] + quotes["ask"]) / 2).round(9)  # or a wider spread would move it by the last bit
    moved = middle.diff() != 0
    prices = dict.fromkeys(("open", "high", "low", "close"), middle)
    return quotes.assign(price=middle, **prices)[moved]


def models(full: bool) -> dict:
    shared = {"seq_len": 32 if full else 8, "max_epochs": 8 if full else 1, "batch_size": 64, "learning_rate": 2e-3}
    shared |= {"validation_fraction": 0.15, "validation_purge": 1, "patience": 3, "random_state": 0}
    width = 32 if full else 8
    return {
        "logistic regression": LogisticRegression(max_iter=1000),
        "boosted trees": HistGradientBoostingClassifier(max_iter=60, learning_rate=0.05, random_state=0),
        "bidirectional LSTM": LSTMAttentionClassifier(hidden_size=width, bidirectional=True, **shared),
        "Transformer": TransformerClassifier(d_model=width, n_heads=4, n_layers=2, **shared),
    }


def pipeline(model):
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    return make_pipeline(MicrostructureFeatures(), median, RobustScaler(), model)


def rules(ticks: pd.DataFrame, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What anyone can say without a model: that the heavier side wins, and that the last move goes on."""
    lean = (ticks["bid_size"] - ticks["ask_size"]) / (ticks["bid_size"] + ticks["ask_size"])
    moved = np.sign(ticks["close"].diff().fillna(0.0))
    return {"rule: heavier side": lean.to_numpy()[rows], "rule: last move goes on": moved.to_numpy()[rows]}


def judge(name: str, ticks: pd.DataFrame, full: bool, folder: Path) -> None:
    labels = next_direction(ticks)
    X, y = labels.align(ticks)
    y = y.astype(int)
    train, test = next(WalkForwardSplit(1, t1=labels.t1.loc[X.index], test_size=0.3).split(X))
    came = y.iloc[test]
    scores, said = {}, {}
    for label, model in models(full).items():
        fitted = pipeline(model).fit(X.iloc[train], y.iloc[train])
        said[label] = fitted.predict_proba(X)[test]
        sure = confidence_curve(came, said[label], classes=[0, 1], thresholds=[0.0, 0.6, 0.8])
        scores[label] = {
            "accuracy": sure["accuracy"].iloc[0],
            "AUC": roc_auc_score(came, said[label][:, 1]),
            "above 0.6": sure["accuracy"].iloc[1],
            "of moves": sure["coverage"].iloc[1],
            "above 0.8": sure["accuracy"].iloc[2],
            "of moves ": sure["coverage"].iloc[2],
        }
        # The same model on the same ticks turned up or down by coins: its score where there is nothing to know.
        walks = [random_walk_bars(X.iloc[test], random_state=draw) for draw in range(5 if full else 1)]
        null = []
        for walk in walks:
            fresh = next_direction(walk)
            Z, z = fresh.align(walk.assign(price=walk["close"]))
            null.append(roc_auc_score(z.astype(int), fitted.predict_proba(Z)[:, 1]))
        scores[label]["AUC, random walk"] = np.mean(null)
    for label, score in rules(X, test).items():
        scores[label] = {"accuracy": np.mean((score > 0) == came), "AUC": roc_auc_score(came, score)}
    up = float(np.mean(came))
    span = (X.index[test[-1]] - X.index[test[0]]).total_seconds()
    print(f"\n{name}: {len(train)} moves learned, {len(test)} in {span:.0f} seconds foretold, {100 * up:.1f} % up")
    print(pd.DataFrame(scores).T.round(3).to_string(na_rep="-"))

    # Everyone's sides, decided at a move and filled at the next one's price, before and after the spread.
    spread = 1e4 * float(((X["ask"] - X["bid"]) / X["close"]).iloc[test].mean())
    sides = {label: np.sign(proba[:, 1] - 0.5) for label, proba in said.items()} | {
        label: np.sign(score) for label, score in rules(X, test).items()
    }
    traded = {}
    for label, side in sides.items():
        free, paid = (backtest(X.iloc[test], side, costs=c).metrics for c in (0.0, Costs(spread_bps=spread)))
        traded[label] = {"before %": 100 * free["total_return"], "after %": 100 * paid["total_return"]}
        traded[label] |= {"trades": paid["trades"], "held %": 100 * free["buy_and_hold"]}
    print(f"\nalways a side, before and after a mean spread of {spread:.3f} basis points:")
    print(pd.DataFrame(traded).T.round(3).to_string())

    best = max(said, key=lambda label: scores[label]["AUC"])
    print(f"\n{best}, which did best on these moves, at thresholds:")
    kept = ["coverage", "edge", "low", "high", "trades", "total_return"]
    settings = {"classes": [0, 1], "thresholds": THRESHOLDS, "long": 1, "short": 0, "random_state": 0}
    tables = {
        title: trade_at_thresholds(X.iloc[test], said[best], costs=costs, **settings)[kept]
        for title, costs in (("no costs", 0.0), ("spread", Costs(spread_bps=spread)))
    }
    print(pd.concat(tables).to_string(float_format=lambda value: f"{value:.3g}"))
    ax = plot_confidence_curve(confidence_curve(came, said[best], classes=[0, 1]))
    ax.figure.suptitle(f"{name}: {best}", y=1.04)
    ax.figure.savefig(folder / f"{name.replace(' ', '_').replace(',', '')}.png", dpi=110, bbox_inches="tight")
    plt.close(ax.figure)


def main(file: str = "", out: str = "ensemble_kit_output/ticks") -> None:
    full, folder = bool(file), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    n_ticks = 60_000 if full else 4000
    books = {
        f"synthetic, signal {s:g}": make_ticks(n_ticks, signal=s, random_state=1)
        for s in ((0.0, 0.5) if full else (0.5,))
    }
    if full:
        books["bitcoin"] = real_quotes(file)
    for name, quotes in books.items():
        judge(name, on_moves(quotes), full, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
