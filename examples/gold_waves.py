"""Waves of variable length on gold hours: how far bars compress, and what can be foretold of the next wave.

python examples/gold_waves.py                            # smoke: synthetic bars, small models, under a minute
python examples/gold_waves.py xauusd_1h.parquet          # in full: the better part of an hour on one core
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import talib
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler

from ensemble_kit import WalkForwardSplit, WaveTransformerRegressor, backtest, make_bars, read_bars, resample
from ensemble_kit.metrics import direction_of, random_walk_bars, slope_threshold, wave_scores
from ensemble_kit.reports import plot_equity, plot_wave_forecasts, save_figure
from ensemble_kit.sizing import Costs
from ensemble_kit.waves import extract_waves, fit_cut, wave_features, wave_targets

PRICES = ["open", "high", "low", "close"]
SHOWN = ["up_down_ratio", "loss_rate", "sideways_precision", "sideways_share", "r2", "directional_accuracy"]
LONGEST = 60  # rows that any view looks back
FIGURES = ["total_return", "buy_and_hold", "sharpe", "max_drawdown", "trades", "win_rate", "costs"]


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


def candles(bars: pd.DataFrame) -> pd.DataFrame:
    """Return each bar as a model of candles sees it: its shape and its close's change, in ATR."""
    atr = talib.ATR(bars["high"], bars["low"], bars["close"], 14)
    before = bars["close"].shift(1)
    return pd.DataFrame({name: (bars[name] - before) / atr for name in PRICES})


def views(bars: pd.DataFrame, cut: float):
    """Return what came of each wave, by the bar at which the wave before it was known, and four ways to see it.

    That bar is the first of the wave to come: who sees it has the first point of both lines.
    """
    waves = extract_waves(bars, cut=cut)
    labels = wave_targets(waves)
    X, y = labels.align(wave_features(bars, waves))
    shapes = candles(bars)
    seen = {"waves": X, "last bar": shapes.loc[X.index], "waves and last bar": X.join(shapes), "60 candles": shapes}
    return seen, y, labels, waves.loc[X.index]


def network(full: bool, **size: int):
    """Return the wave Transformer behind a scaler; the newest 15 % of its rows say when to stop."""
    known = {"d_model": 48 if full else 8, "max_epochs": 30 if full else 2, "patience": 5, "batch_size": 64}
    model = WaveTransformerRegressor(
        **known | size, learning_rate=1e-3, dropout=0.2, validation_fraction=0.15, validation_purge=1, random_state=0
    )
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), RobustScaler(), model)


def fitted(model, frame: pd.DataFrame, y: pd.DataFrame):
    """Fit on the rows of a frame that have targets; those between are history, those after are not given."""
    frame = frame.loc[: y.index[-1]]
    learned = frame.index.isin(y.index).astype(float)
    return model.fit(frame, y.reindex(frame.index).fillna(0.0), wavetransformerregressor__sample_weight=learned)


def foretold(model, frame: pd.DataFrame, index: pd.Index) -> np.ndarray:
    frame = frame.iloc[max(frame.index.get_loc(index[0]) - LONGEST, 0) :]
    return pd.DataFrame(model.predict(frame), index=frame.index).loc[index].to_numpy()


def scored(said: np.ndarray, came: pd.DataFrame, learned: pd.DataFrame, waves: pd.DataFrame) -> pd.DataFrame:
    last = waves.loc[came.index, ["slope_high", "slope_low"]]
    return wave_scores(came, said, y_train=learned, last_slopes=last)[SHOWN]


def chosen(waves: pd.DataFrame, learned: pd.DataFrame, valid: pd.DataFrame, full: bool) -> tuple[int, int, int]:
    """Return the heads, blocks and sequence that do best on the validation block; the test block is seen once."""
    grid = product((2, 8), (1, 3), (12, 24, 48)) if full else product((2,), (1,), (6, 12))
    tried = {}
    for heads, blocks, length in grid:
        model = fitted(network(full, n_heads=heads, n_layers=blocks, seq_len=length), waves, learned)
        scores = scored(foretold(model, waves, valid.index), valid, learned, waves)
        tried[heads, blocks, length] = scores.loc["model"]
    table = pd.DataFrame(tried).T.astype(float).rename_axis(["heads", "blocks", "seq_len"])
    print("\nOn the validation block:", table.round(3).to_string(), sep="\n")
    return table["r2"].idxmax()


def traded(bars: pd.DataFrame, index: pd.Index, directions: np.ndarray) -> pd.Series:
    """Hold each forecast's side from the close at which its wave is known until the next one is."""
    side = pd.Series(directions, index=index).map({"up": 1.0, "down": -1.0, "sideways": 0.0})
    return side.reindex(bars.index).ffill().fillna(0.0)


def main(file: str = "", out: str = "ensemble_kit_output/gold_waves") -> None:
    full, folder = bool(file), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    bars = (read_bars(file) if full else make_bars(6000, random_state=0))[PRICES]
    print("Bars a wave:", compression(bars, full).round(3).to_string(), sep="\n")

    cut = fit_cut(bars.iloc[: len(bars) // 2])  # on bars that no later figure is taken from
    seen, y, labels, waves = views(bars, cut)
    train, later = next(WalkForwardSplit(1, t1=labels.t1, test_size=0.4).split(y))
    valid, test = next(WalkForwardSplit(1, t1=labels.t1.iloc[later], test_size=0.5).split(y.iloc[later]))
    learned, test = y.iloc[np.concatenate([train, later[valid]])], y.iloc[later[test]]

    # Chosen for the waves alone: the other views take the same size.
    heads, blocks, length = chosen(seen["waves"], y.iloc[train], y.iloc[later[valid]], full)
    models, said, table = {}, {}, {}
    for name, frame in seen.items():
        size = {"n_heads": heads, "n_layers": blocks, "seq_len": {"last bar": 1, "60 candles": 60}.get(name, length)}
        models[name] = fitted(network(full, **size), frame, learned)
        said[name] = foretold(models[name], frame, test.index)
        scores = scored(said[name], test, learned, seen["waves"])
        table |= {row if row != "model" else name: scores.loc[row] for row in scores.index}
    # The same models on walks of the same bars: what a wave's first bar gives away where direction is a coin.
    on_walks = []
    for draw in range(19 if full else 1):
        fresh, came, *_ = views(random_walk_bars(bars, random_state=draw), cut)
        came = came.loc[test.index[0] :]
        for name, model in models.items():
            scores = scored(foretold(model, fresh[name], came.index), came, learned, fresh["waves"])
            on_walks.append(scores.loc["model"].rename(name))
    on_walks = pd.DataFrame(on_walks).astype(float).groupby(level=0)
    for end in ("min", "max"):
        table |= {f"{name}, {end} on walks": row for name, row in on_walks.agg(end).iterrows()}
    print(f"\nOn the test block, {len(test)} waves from {test.index[0]:%Y-%m-%d}:")
    print(pd.DataFrame(table).T.astype(float).round(3).to_string())

    tau, held = slope_threshold(learned), bars.loc[test.index[0] :]
    sides = said | {"foreseen": test.to_numpy()}
    positions = {name: traded(bars, test.index, direction_of(slopes, tau=tau)) for name, slopes in sides.items()}
    positions["MACD"] = pd.Series(np.sign(talib.MACD(bars["close"])[2]), index=bars.index).fillna(0.0)
    costs = Costs(spread_bps=2.0)  # some 25 cents on an ounce of 1,200
    results = {name: backtest(held, position.loc[held.index], costs=costs) for name, position in positions.items()}
    figures = pd.DataFrame({name: result.metrics for name, result in results.items()}).T[FIGURES]
    print("\nTraded on the test block:", figures.round(3).to_string(), sep="\n")

    drawn = plot_wave_forecasts(bars, waves.loc[test.index], said["60 candles"], y_true=test, last=150)
    save_figure(drawn, folder / "forecasts.png")
    save_figure(plot_equity(results["60 candles"]), folder / "equity.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
