"""The picture of lags shows each share in its column and at its age."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.estimators.lags import lag_blocks
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports import plot_lag_importance, save_figure


def frame(lags, seq_len, n_columns=30, seed=0):
    blocks = lag_blocks(lags, seq_len)
    names = [str(lag) if length == 1 else f"{lag}-{lag + length - 1}" for lag, length in blocks]
    values = np.random.default_rng(seed).exponential(size=(n_columns, len(names)))
    return pd.DataFrame(values, index=[f"c{f}" for f in range(n_columns)], columns=names)


def drawn(ax):
    ax.figure.draw_without_rendering()  # ticks, layout and insets are made here: their warnings, too
    return ax


def cells(ax):
    return np.asarray(ax.collections[0].get_array())


def names(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def ticks(ax, *, minor=False):
    shown = zip(ax.get_xticks(minor=minor), ax.get_xticklabels(minor=minor), strict=True)
    return {float(at): text.get_text() for at, text in shown}


def test_cells_and_margins_are_shares_of_all():
    importance = frame("blocks", 12, n_columns=6)
    importance.loc["c2"] *= 50
    importance.loc["c4"] *= 7
    given = Figure(figsize=(4, 3), layout="constrained").subplots()
    ax = drawn(plot_lag_importance(importance, top=3, ax=given))
    assert ax is given
    share = importance / importance.to_numpy().sum()
    order = share.sum(axis=1).sort_values(ascending=False).index[:3]
    assert names(ax) == [*order]
    assert ax.get_ylim() == (2.5, -0.5)  # the most important on top
    assert_allclose(cells(ax), share.loc[order])
    beside, above, _ = ax.child_axes
    assert_allclose([bar.get_width() for bar in beside.patches], share.loc[order].sum(axis=1))
    assert_allclose([bar.get_y() + bar.get_height() / 2 for bar in beside.patches], range(3))
    assert_allclose([bar.get_height() for bar in above.patches], share.sum(axis=0))  # of all columns
    assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in above.patches], range(importance.shape[1]))
    percent = round(100 * share.loc[order].to_numpy().sum())
    title = above.get_title(loc="left").replace("\n", " ")  # as many lines as small axes need
    assert title == f"Importance by column and age: the first 3 of 6 columns, {percent}%"
    assert_allclose(cells(plot_lag_importance(1000 * importance, top=3)), share.loc[order])


def test_blocks_are_marked_where_they_grow():
    ax = drawn(plot_lag_importance(frame("blocks", 205)))
    starts = {-0.5: "0", 4.5: "5", 9.5: "15", 14.5: "35", 19.5: "75", 24.5: "155", 26.5: "205"}
    assert ticks(ax) == starts
    assert ticks(ax, minor=True) == {2: "1", 7: "2", 12: "4", 17: "8", 22: "16", 25.5: "32"}
    assert [line.get_xdata()[0] for line in ax.lines] == [*starts][1:-1]
    assert ax.get_xlim() == (-0.5, 26.5)
    # The oldest block may be cut by the window's end.
    assert ticks(plot_lag_importance(frame("blocks", 10)), minor=True) == {2: "1", 6: "2"}


@pytest.mark.parametrize(
    ("lags", "seq_len", "expected"),
    [
        ("last", 48, {0: "0"}),
        ("all", 4, {0: "0", 1: "1", 2: "2", 3: "3"}),
        ("all", 205, {age: str(age) for age in range(0, 205, 20)}),
        ([0, 7, 100], 205, {0: "0", 1: "7", 2: "100"}),
        ([7], 205, {0: "7"}),
    ],
)
def test_single_lags_stand_at_their_age(lags, seq_len, expected):
    ax = drawn(plot_lag_importance(frame(lags, seq_len)))
    assert ticks(ax) == expected
    assert not ax.lines


def test_ages_rise_from_left_to_right_whatever_their_order():
    importance = pd.DataFrame([[1.0, 2.0, 3.0], [0.5, 0.0, 0.0]], columns=["40", "0", "5"])
    ax = plot_lag_importance(importance)
    assert_allclose(cells(ax)[0], np.array([2, 3, 1]) / 6.5)
    assert [*ticks(ax).values()] == ["0", "5", "40"]
    assert names(ax) == ["0", "1"]


@pytest.mark.parametrize("n_columns", [1, 3, 25])
def test_nothing_and_equal_importance(n_columns):
    importance = frame("blocks", 48, n_columns)
    ax = drawn(plot_lag_importance(0 * importance))
    assert not cells(ax).any()
    assert ax.child_axes[1].get_title(loc="left") == "Importance by column and age: none, no tree has split"
    ax = drawn(plot_lag_importance(0 * importance.astype(int) + 1))
    assert names(ax) == [*importance.index[:20]]  # of equals, the first
    assert_allclose(cells(ax), 1 / importance.size)


def test_names_what_does_not_fit():
    importance = frame("blocks", 12)
    with pytest.raises(EnsembleKitError, match=r"^`top` must be an integer of at least 1; got 0\. 20 columns are"):
        plot_lag_importance(importance, top=0)
    cure = r"Take it from `lag_importance\(\)` of a fitted model\.$"
    with pytest.raises(
        EnsembleKitError, match=rf"^`importance` must be a frame .*; got ndarray of shape \(2, 3\)\. {cure}"
    ):
        plot_lag_importance(np.ones((2, 3)))
    with pytest.raises(
        EnsembleKitError, match=rf"^`importance` must be a frame .*; got DataFrame of shape \(0, 9\)\. {cure}"
    ):
        plot_lag_importance(importance[:0])
    with pytest.raises(
        EnsembleKitError, match=rf"blocks of lags such as '0' and '5-6'; got \['mean5_6', '-1'\]\. {cure}"
    ):
        plot_lag_importance(importance.rename(columns={"5-6": "mean5_6", "0": "-1"})[["mean5_6", "-1", "1"]])
    for wrong in (-1.0, np.nan, np.inf, "much"):
        strange = importance.astype(object) if isinstance(wrong, str) else importance.copy()
        strange.iloc[2, 1] = wrong
        with pytest.raises(EnsembleKitError, match=rf"^`importance` must hold finite numbers .*; got others\. {cure}"):
            plot_lag_importance(strange)


def test_of_a_fitted_model(tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(600, 3)), columns=list("abc"))
    y = (X["b"].shift(4, fill_value=0) > 0).astype(int)
    for lags in ("blocks", "all", [4, 0]):
        model = LGBMWindowClassifier(9, lags=lags, n_estimators=5, random_state=0).fit(X, y)
        ax = plot_lag_importance(model.lag_importance())
        assert names(ax)[0] == "b"
        shown = cells(ax)
        assert shown.max() == shown[0, 1 if isinstance(lags, list) else 4] > 0.9
        assert save_figure(ax, tmp_path / "lags.png", dpi=50).stat().st_size > 0
    assert plt.get_fignums() == []


def test_loads_neither_pyplot_nor_a_model_library():
    code = (
        "import sys, pandas as pd; from ensemble_kit.reports import plot_lag_importance;"
        "plot_lag_importance(pd.DataFrame({'0': [1.0]})).figure.draw_without_rendering();"
        "print({'matplotlib.pyplot', 'torch', 'mlflow', 'lightgbm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_on_real_bars(shared_data, tmp_path):
    from ensemble_kit.datasets import read_bars
    from ensemble_kit.features import Alpha158
    from ensemble_kit.labels import peak_slope_bottom

    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")[:1500]
    columns = Alpha158().set_output(transform="pandas").fit_transform(bars).iloc[:, :30]
    X, y = peak_slope_bottom(bars, w=12).align(columns)
    model = LGBMWindowClassifier(48, n_estimators=5, random_state=0).fit(X, y)
    importance = model.lag_importance()
    ax = plot_lag_importance(importance)
    assert set(names(ax)) <= set(columns.columns)
    assert len(names(ax)) == 20
    assert_allclose(ax.child_axes[0].patches[0].get_width(), importance.sum(axis=1).max() / importance.to_numpy().sum())
    assert save_figure(ax, tmp_path / "lags.png").stat().st_size > 10_000
