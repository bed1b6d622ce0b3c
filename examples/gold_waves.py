"""Waves of variable length on gold hours: how far bars compress, and what can be foretold of the next wave.

python examples/gold_waves.py                            # smoke: synthetic bars, small models, under a minute
python examples/gold_waves.py xauusd_1h.parquet          # in full: the better part of an hour on one core
"""

import sys
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import talib
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler

from ensemble_kit import (
    WalkForwardSplit,
    WaveTransformerRegressor,
    backtest,
    extract_waves,
    make_bars,
    read_bars,
    resample,
    wave_features,
    wave_targets,
)
from ensemble_kit.metrics import direction_of, random_walk_bars, slope_threshold, wave_scores
from ensemble_kit.reports import plot_equity, plot_wave_forecasts
from ensemble_kit.sizing import Costs
from ensemble_kit.waves import fit_cut

SLOPES = ["slope_high", "slope_low"]
SHOWN = ["up_down_ratio", "loss_rate", "sideways_precision", "sideways_share", "r2", "directional_accuracy"]


def compression(bars: pd.DataFrame, full: bool) -> pd.DataFrame:
    """Bars a wave, by the bar's length and the cut."""
    sizes = {"1h": bars} | {size: resample(bars, size) for size in (("2h", "4h", "8h", "1D") if full else ("4h",))}
    cuts = (0.3, 0.4, 0.504, 0.7, 1.0)
    rows = {
        size: {f"cut {cut}": len(these) / len(extract_waves(these, cut=cut)) for cut in cuts}
        | {"cut of 14.46 bars a wave": fit_cut(these)}
        for size, these in sizes.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def network(full: bool, **size: int):
    """Return the wave Transformer behind a scaler; the newest 15 % of its rows say when to stop."""
    known = {"d_model": 48 if full else 8, "max_epochs": 30 if full else 2, "patience": 5, "batch_size": 64}
    model = WaveTransformerRegressor(
        **known | size, learning_rate=1e-3, dropout=0.2, validation_fraction=0.15, random_state=0
    )
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), RobustScaler(), model)


def fitted(model, X, y, rows):
    """Fit on some rows; those before them are history, those after are not given."""
    end = rows[-1] + 1
    weight = np.isin(np.arange(end), rows).astype(float)
    return model.fit(X.iloc[:end], y.iloc[:end], **{f"{model.steps[-1][0]}__sample_weight": weight})


def scored(predicted, X, y, train, test) -> pd.DataFrame:
    return wave_scores(y.iloc[test], predicted[test], y_train=y.iloc[train], last_slopes=X[SLOPES].iloc[test])[SHOWN]


def candles(bars: pd.DataFrame) -> pd.DataFrame:
    """Return each bar as a model of candles sees it: its shape and its close's change, in ATR."""
    atr = talib.ATR(bars["high"], bars["low"], bars["close"], 14)
    before = bars["close"].shift(1)
    return pd.DataFrame({name: (bars[name] - before) / atr for name in ("open", "high", "low", "close")})


def of_candles(bars: pd.DataFrame, y: pd.DataFrame, train, full: bool) -> np.ndarray:
    """Foretell the same slopes at the same bars from the last 60 candles instead of the last waves."""
    at = bars.index.get_indexer(y.index)
    slopes = pd.DataFrame(0.0, index=bars.index, columns=y.columns)
    slopes.iloc[at] = y.to_numpy()
    model = fitted(network(full, seq_len=60 if full else 12, n_heads=4, n_layers=2), candles(bars), slopes, at[train])
    return model.predict(candles(bars))[at]


def traded(bars: pd.DataFrame, index: pd.Index, directions: np.ndarray) -> pd.Series:
    """Hold each forecast's side from the close at which its wave is known until the next one is."""
    side = pd.Series(directions, index=index).map({"up": 1.0, "down": -1.0, "sideways": 0.0})
    return side.reindex(bars.index).ffill().fillna(0.0)


def main(file: str = "", out: str = "ensemble_kit_output/gold_waves") -> None:
    full, folder = bool(file), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    bars = read_bars(file) if full else make_bars(6000, random_state=0)
    bars = bars[["open", "high", "low", "close"]]
    print("Bars a wave:", compression(bars, full).round(3).to_string(), sep="\n")

    cut = fit_cut(bars.iloc[: int(0.6 * len(bars))])  # on bars that no later figure is taken from
    waves = extract_waves(bars, cut=cut)
    labels = wave_targets(waves)
    X, y = labels.align(wave_features(bars, waves))
    train, later = next(WalkForwardSplit(1, t1=labels.t1, test_size=0.4).split(X))
    valid, test = next(WalkForwardSplit(1, t1=labels.t1.iloc[later], test_size=0.5).split(X.iloc[later]))
    valid, test = later[valid], later[test]

    # Heads, blocks and sequence are chosen on the validation block; the test block is looked at once.
    grid = product((2, 4, 8), (1, 2, 4), (12, 24, 48)) if full else product((2,), (1,), (6, 12))
    tried = {}
    for heads, blocks, length in grid:
        model = fitted(network(full, n_heads=heads, n_layers=blocks, seq_len=length), X, y, train)
        tried[heads, blocks, length] = scored(model.predict(X), X, y, train, valid).loc["model"]
    tried = pd.DataFrame(tried).T.rename_axis(["heads", "blocks", "seq_len"])
    print("\nOn the validation block:", tried.round(3).to_string(), sep="\n")
    heads, blocks, length = tried["r2"].idxmax()
    learned = np.concatenate([train, valid])
    model = fitted(network(full, n_heads=heads, n_layers=blocks, seq_len=length), X, y, learned)

    said = {"waves": model.predict(X), "60 candles": of_candles(bars, y, learned, full)}
    # A mean-squared forecast keeps to the middle: stretched to the slopes' own spread, it takes a side.
    stretch = y.iloc[learned].std().to_numpy() / said["waves"][learned].std(axis=0)
    table = pd.concat({"waves": scored(said["waves"], X, y, learned, test)})
    table.loc[("60 candles", "model"), :] = scored(said["60 candles"], X, y, learned, test).loc["model"]
    table.loc[("waves, stretched", "model"), :] = scored(stretch * said["waves"], X, y, learned, test).loc["model"]
    for draw in range(5 if full else 1):
        walk = random_walk_bars(bars, random_state=draw)
        of_walk = extract_waves(walk, cut=cut)
        fresh = wave_targets(of_walk)
        Z, z = fresh.align(wave_features(walk, of_walk))
        rows = np.flatnonzero(Z.index >= X.index[test[0]])
        foretold = stretch * model.predict(Z)[rows]
        scores = wave_scores(z.iloc[rows], foretold, y_train=y.iloc[learned], last_slopes=Z[SLOPES].iloc[rows])
        table.loc[(f"random walk {draw}, stretched", "model"), :] = scores.loc["model", SHOWN]
    print(
        f"\nOn the test block, {len(test)} waves from {X.index[test[0]]:%Y-%m-%d}:",
        table.round(3).to_string(),
        sep="\n",
    )

    tau, held = slope_threshold(y.iloc[learned]), bars.loc[X.index[test[0]] :]
    foretold = {name: stretch * said["waves"] if name == "waves" else slopes for name, slopes in said.items()}
    foretold["foreseen"] = y.to_numpy()
    positions = {n: traded(bars, X.index[test], direction_of(v[test], tau=tau)) for n, v in foretold.items()}
    positions["MACD"] = pd.Series(np.sign(talib.MACD(bars["close"])[2]), index=bars.index).fillna(0.0)
    costs = Costs(spread_bps=2.0)  # some 25 cents on an ounce of 1,200
    results = {name: backtest(held, position.loc[held.index], costs=costs) for name, position in positions.items()}
    figures = pd.DataFrame({name: result.metrics for name, result in results.items()}).T
    named = ["total_return", "buy_and_hold", "sharpe", "max_drawdown", "trades", "win_rate", "costs"]
    print("\nTraded on the test block:", figures[named].round(3).to_string(), sep="\n")

    figure, axes = plt.subplots(2, 1, figsize=(10, 8), layout="constrained")
    plot_wave_forecasts(bars, waves.loc[X.index], said["waves"], y_true=y, last=150, ax=axes[0])
    plot_equity(results["waves"], ax=axes[1])
    figure.savefig(folder / "gold_waves.png", dpi=110)
    print(f"\n{folder / 'gold_waves.png'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
