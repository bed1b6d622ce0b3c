"""Belief charts: one causal Transformer that labels every bar, for many markets and bar sizes at once.

python examples/beliefs.py                 # smoke: four synthetic markets, a tiny network, a minute
python examples/beliefs.py ../shared/data  # in full, on the folder of real bars: the better part of an hour
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import RobustScaler

from ensemble_kit import TransformerClassifier, make_bars, peak_slope_bottom, read_bars, resample
from ensemble_kit.features import IndicatorFeatures, SessionFeatures
from ensemble_kit.metrics import skill_test
from ensemble_kit.reports import plot_beliefs

COLUMNS = ["open", "high", "low", "close", "volume"]
HOURS = (4, 8, 16, 32, 64)
#: Half-window and least leg, in ATR, of the turns: small ones come often, large ones seldom.
TUNINGS = {"small turns": {"w": 6, "k": 1.0}, "turns": {"w": 12, "k": 2.0}, "large turns": {"w": 24, "k": 4.0}}


def markets(folder: str) -> tuple[dict, dict, str]:
    """Return markets to learn, markets never seen, and the day that ends what is learned."""
    if not folder:
        made = {f"M{seed}": make_bars(1500, bar="1h", random_state=seed) for seed in range(4)}
        return {"M0": made["M0"], "M1": made["M1"], "M2": made["M2"]}, {"M3": made["M3"]}, "2022-06-01"
    learned, unseen = {}, {}
    for name, file, session in (
        ("SPY", "spy_1h_1998_2021", "XNYS"),
        ("gold", "xauusd_1h_2006_2015", "day"),
        ("EURUSD", "eurusd_1h_2007_2013", "day"),
        ("VXX", "vxx_1h_2009_2021", "XNYS"),
        ("BTC", "btcusd_coinbase_1h_2017_2019", "day"),
    ):
        bars = read_bars(f"{folder}/{file}.parquet").reindex(columns=COLUMNS)
        if session == "XNYS":
            bars = without_splits(opened_at_half_past_nine(bars))
        for hours in HOURS:
            longer = resample(bars, f"{hours}h", session=session, clock="trading")
            (learned if name in {"SPY", "gold"} else unseen)[f"{name} {hours}h"] = longer
    daily = read_bars(f"{folder}/us_daily_panel_1998_2021.parquet")
    factor = daily["adj_close"] / daily["close"]
    daily = daily.assign(**{name: daily[name] * factor for name in ("open", "high", "low", "close")})[COLUMNS]
    for name in daily.index.get_level_values(1).unique():
        own = daily.xs(name, level=1).tz_localize("UTC")
        (unseen if name in {"FB", "WM", "BNO"} else learned)[f"{name} 1D"] = own
    return learned, unseen, "2012-01-01"


def opened_at_half_past_nine(bars: pd.DataFrame) -> pd.DataFrame:
    """Name the first bar of a New York day by when it opens: these files call it 09:00, which no session would take."""
    early = bars.index.tz_convert("America/New_York").hour == 9
    return bars.set_index(bars.index + pd.to_timedelta(np.where(early, 30, 0), unit="min"))


def without_splits(bars: pd.DataFrame) -> pd.DataFrame:
    """Undo reverse splits, which these files show as jumps to a multiple of the price."""
    split = (bars["open"] / bars["close"].shift()).round().where(lambda ratio: ratio >= 2, 1.0)
    later = split[::-1].cumprod()[::-1] / split
    prices = {name: bars[name] * later for name in COLUMNS[:4]}
    return bars.assign(**prices, volume=bars["volume"] / later)


def before(bars: pd.DataFrame, end: pd.Timestamp) -> pd.DataFrame:
    """Return the bars that are over by then."""
    known = bars["known_at"] if "known_at" in bars else bars.index.to_series()
    return bars[(bars.index < end) & (known <= end).to_numpy()]


def panel(series: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Stack markets of different bar sizes: each is an instrument of its own, and its windows never mix."""
    whole = pd.concat({name: bars[COLUMNS] for name, bars in series.items()}, names=["instrument", "datetime"])
    return whole.swaplevel().sort_index().astype(float)


def model(full: bool):
    """Price, volume and time of day alone; each bar of a window is labelled from those before it."""
    columns = make_union(IndicatorFeatures(("log_return", "volatility", "williams", "volume")), SessionFeatures())
    network = TransformerClassifier(
        seq_len=64 if full else 12,
        causal=True,
        d_model=48 if full else 8,
        n_heads=4,
        n_layers=3 if full else 1,
        max_epochs=6 if full else 2,
        batch_size=128,
        learning_rate=1e-3,
        validation_fraction=0.15,
        validation_purge=64 if full else 12,
        patience=3,
        random_state=0,
    )
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    return make_pipeline(columns, median, RobustScaler(), network).set_output(transform="pandas")


def stretches(bars: pd.DataFrame, length: int) -> dict[str, int]:
    """Return the last bar of the calmest, the bounciest and the worst stretch."""
    change = np.log(bars["close"]).diff()
    moved, swung = change.rolling(length).sum(), change.abs().rolling(length).sum()
    found = {"calm": swung.argmin(), "bouncy": (swung - 3 * moved.abs()).argmax(), "crash": moved.argmin()}
    return {name: int(at) for name, at in found.items()}


def main(folder: str = "", out: str = "ensemble_kit_output/beliefs") -> None:
    full, out = bool(folder), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    learned, unseen, end = markets(folder)
    end = pd.Timestamp(end, tz="UTC")
    past = panel({name: before(bars, end) for name, bars in learned.items() if len(before(bars, end)) > 200})
    later = {name: bars for name, bars in learned.items() if (bars.index >= end).sum() > 100}
    foreign = {name: bars for name, bars in unseen.items() if (bars.index >= end).sum() > 100}
    shown = "SPY 4h" if full else "M3"
    print(f"learned from {len(past)} bars of {past.index.get_level_values(1).nunique()} series before {end:%Y-%m-%d}")

    drawn = {}  # by tuning: beliefs, hindsight, and four times how often a turn comes
    for name, tuning in TUNINGS.items() if full else [("turns", TUNINGS["turns"])]:
        labels = peak_slope_bottom(past, **tuning)
        X, y = labels.align(past)  # labels that are not known by the last day are not learned
        weight = labels.sample_weight.loc[X.index].to_numpy()
        fitted = model(full).fit(X, y, transformerclassifier__sample_weight=weight)
        for title, series in (("their future", later), ("never seen", foreign)):
            report = skill_test(fitted, panel(series), start=end, label=labels.definition)
            print(f"\n{name} (w={tuning['w']}, k={tuning['k']:g}), {title}: {len(series)} series\n{report}")
        bars = (later | foreign)[shown]
        alone = pd.DataFrame(fitted.predict_proba(panel({shown: bars})), index=bars.index, columns=fitted.classes_)
        often = {event: round(4 * (y[weight > 0] == event).mean(), 2) for event in ("bottom", "peak")}
        drawn[name] = alone, peak_slope_bottom(bars, **tuning), often

    length = 120
    future = (later | foreign)[shown]
    offset = int((future.index < end).sum())
    for stretch, at in stretches(future.iloc[offset:], length).items():
        rows = slice(max(offset + at + 1 - length, 0), offset + at + 1)
        figure, axes = plt.subplots(len(drawn), 1, figsize=(11, 5 * len(drawn)), layout="constrained", squeeze=False)
        for ax, (name, (proba, labels, often)) in zip(axes[:, 0], drawn.items(), strict=True):
            seen = {"classes": list(proba), "threshold": often, "labels": labels.labels.iloc[rows]}
            plot_beliefs(future.iloc[rows], proba.iloc[rows], **seen, ax=ax).set_ylabel(f"Price, {name}")
        figure.suptitle(f"{shown}, {stretch}", x=0.01, ha="left")
        for kind in ("png", "pdf"):
            figure.savefig(out / f"{stretch}.{kind}", dpi=100)
        plt.close(figure)
        print(out / f"{stretch}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
