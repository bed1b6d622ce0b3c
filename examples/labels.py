"""Four labels of the same bars: what they say, how far ahead each had to look, and one week in a picture.

python examples/labels.py                       # synthetic bars
python examples/labels.py spy.parquet XNYS      # your bars, and their exchange
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ensemble_kit import make_bars, read_bars
from ensemble_kit.labels import Labels, buy_sell_hold, next_direction, peak_slope_bottom, triple_barrier
from ensemble_kit.reports import plot_labels, save_figure
from ensemble_kit.sessions import session_times


def bars_ahead(labels: Labels) -> pd.Series:
    """Describe how many bars lie between each bar to learn from and the last one its label looked at."""
    rows = np.flatnonzero(labels.sample_weight > 0)
    ahead = pd.Series(labels.labels.index.get_indexer(labels.t1.iloc[rows]) - rows)
    return ahead.describe(percentiles=[0.5, 0.95])[["count", "50%", "95%", "max"]].astype(int)


def main(file: str = "", session: str = "day", out: str = "ensemble_kit_output/labels_week.png") -> None:
    bars = read_bars(file) if file else make_bars(5000, random_state=0)
    if isinstance(bars.index, pd.MultiIndex):
        bars = bars.xs(bars.index[0][1], level=1)
    turns, trends = peak_slope_bottom(bars), buy_sell_hold(bars, session=session)
    every = [turns, trends, triple_barrier(bars, profit=5, stop=5, cusum=2), next_direction(bars)]
    for labels in every:
        print(labels, labels.summary().map("{:.2%}".format).to_string(), sep="\n", end="\n\n")
    print("Bars ahead that each label looked at, of rows to learn from\n")
    print(pd.DataFrame({labels.definition["label"]: bars_ahead(labels) for labels in every}).T.to_string(), end="\n\n")

    # The newest five sessions that are over, so that next to all of their labels are known.
    day = session_times(bars.index, session).day
    week = bars[np.isin(day, np.unique(day)[-6:-1])]
    figure = Figure(figsize=(11, 8), layout="constrained")
    for labels, ax in zip((turns, trends), figure.subplots(2, 1), strict=True):
        plot_labels(week, labels, ax=ax)
    print(save_figure(figure, Path(out), dpi=100))


if __name__ == "__main__":
    main(*sys.argv[1:])
