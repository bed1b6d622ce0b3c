"""The picture of folds shows each row's use, to the row."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.model_selection import TimeSeriesSplit

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports import save_figure
from ensemble_kit.reports.folds import plot_folds
from ensemble_kit.validation import WalkForwardSplit


def areas(ax):
    """What each colour covers in each lane, in lane heights times bars, by name."""
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    out = {}
    for k, collection in enumerate(ax.collections):
        corners = [path.vertices[:4] for path in collection.get_paths()]
        out[k // 3, names[k % 3]] = sum(np.prod(np.ptp(block, axis=0)) for block in corners) / 0.7
    return out


def test_areas_are_shares_of_rows():
    rng = np.random.default_rng(0)
    times = pd.date_range("2024-01-01", periods=60, freq="D")
    index = pd.MultiIndex.from_product([times, ["A", "B", "C"]], names=["datetime", "instrument"])
    index = index[(index.get_level_values(1) == "A") | (rng.random(len(index)) < 0.4)]
    X = pd.DataFrame({"x": 0.0}, index=index)
    cv = WalkForwardSplit(3, purge=4, train_size=20)
    ax = plot_folds(cv, X)
    rows_at = pd.Series(1, index=index).groupby(level=0).transform("sum").to_numpy()
    found = areas(ax)
    for fold, (train, test) in enumerate(cv.split(X)):
        left = np.setdiff1d(np.arange(train[0], test[0]), train)
        for name, rows in (("Train", train), ("Purged", left), ("Test", test)):
            assert found[fold, name] == pytest.approx((1 / rows_at[rows]).sum())
        assert ax.get_yticklabels()[fold].get_text() == f"Fold {fold}\n{len(train)} | {len(left)} | {len(test)}"
    assert ax.get_title(loc="left") == f"Folds of {len(X)} rows, 2024-01-01 to 2024-02-29"


def test_blocks_lie_where_the_rows_are():
    ax = plot_folds(WalkForwardSplit(1, t1=pd.Series([0, 1, 9, 3, 4, 5, 6, 7, 8, 9.0]), test_size=4), np.zeros((10, 1)))
    lefts = [sorted(path.vertices[:, 0].min() for path in collection.get_paths()) for collection in ax.collections]
    assert lefts == [[-0.5, 2.5], [1.5], [5.5]]
    top, bottom = ax.get_ylim()[1], ax.get_ylim()[0]
    assert (top, bottom) == (-0.5, 0.5)  # the first fold on top
    assert ax.get_title(loc="left") == "Folds of 10 rows"


def test_uses_of_one_time_are_stacked():
    # On the second day A trains and B does not: B had one bar since.
    days = pd.date_range("2024-01-01", periods=4)
    rows = [(days[0], "A"), (days[0], "B"), (days[1], "A"), (days[1], "B"), (days[2], "A"), (days[3], "A")]
    X = pd.DataFrame({"x": 0.0}, index=pd.MultiIndex.from_tuples(rows))
    ax = plot_folds(WalkForwardSplit(1, purge=1, test_size=1), X)
    blocks = [[path.vertices[:4] for path in collection.get_paths()] for collection in ax.collections]
    spans = [[(*np.round([b[:, 1].min(), b[:, 1].max()], 2), *b[[0, 1], 0]) for b in lane] for lane in blocks]
    assert spans == [
        [(-0.35, 0.35, -0.5, 0.5), (0.0, 0.35, 0.5, 1.5)],
        [(-0.35, 0.0, 0.5, 1.5), (-0.35, 0.35, 1.5, 2.5)],
        [(-0.35, 0.35, 2.5, 3.5)],
    ]


def test_any_splitter_and_given_axes(tmp_path):
    figure = Figure()
    axes = figure.subplots(2)
    assert plot_folds(TimeSeriesSplit(3, gap=2), np.zeros((30, 1)), ax=axes[0]) is axes[0]
    assert areas(axes[0])[2, "Purged"] == pytest.approx(2)
    hours = pd.date_range("2024-03-10", periods=30, freq="h", tz="America/New_York")
    plot_folds(WalkForwardSplit(2, purge=1, train_size="6h", test_size="5h"), pd.Series(0.0, index=hours), ax=axes[1])
    assert save_figure(axes, tmp_path / "folds.png").stat().st_size > 0
    assert plt.get_fignums() == []
    with pytest.raises(EnsembleKitError, match=r"`cv` must be a splitter; got 3. Pass a `WalkForwardSplit`"):
        plot_folds(3, np.zeros((9, 1)))


def test_on_real_bars(shared_data, tmp_path):
    from ensemble_kit.datasets import read_bars
    from ensemble_kit.labels import peak_slope_bottom

    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")
    cv = WalkForwardSplit(4, t1=peak_slope_bottom(bars).t1, train_size="180D", test_size="60D")
    ax = plot_folds(cv, bars)
    assert [label.get_text().split("\n")[1].split(" | ")[1] for label in ax.get_yticklabels()] == ["36"] * 4
    assert cv.folds(bars)["n_purged"].tolist() == [36] * 4
    assert save_figure(ax, tmp_path / "folds.png").stat().st_size > 10_000
