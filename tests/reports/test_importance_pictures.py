"""The picture of importance: every number where it belongs, 0 marked, luck counted."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import permutation_importance
from ensemble_kit.reports import save_figure
from ensemble_kit.reports.importance import plot_importance
from ensemble_kit.validation import WalkForwardSplit


def table(n=8, seed=0):
    rng = np.random.default_rng(seed)
    mean = np.sort(rng.normal(0, 0.02, n))[::-1]
    rows = {"mean": mean, "std": 0.01, "low": mean - 0.01, "high": mean + 0.01, "score": 0.4}
    folds = {f"fold_{k}": mean + rng.normal(0, 0.005, n) for k in range(3)}
    return pd.DataFrame(rows | folds, index=pd.Index([f"c{k}" for k in range(n)], name="feature"))


def drawn(ax):
    ax.figure.draw_without_rendering()  # ticks, layout and legends are made here: their warnings, too
    return ax


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def title(ax):
    return ax.get_title(loc="left").replace("\n", " ")


def test_means_intervals_and_folds_stand_in_their_rows():
    importance = table().sample(frac=1, random_state=0)
    given = Figure(figsize=(4, 3), layout="constrained").subplots()
    ax = drawn(plot_importance(importance, top=5, ax=given))
    assert ax is given
    order = importance.sort_values("mean", ascending=False)[:5]
    assert [label.get_text() for label in ax.get_yticklabels()] == [*order.index]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the largest on top
    means, bounds = {}, {}
    for points, _, (lines,) in ax.containers:
        means |= dict(zip(points.get_ydata().tolist(), points.get_xdata().tolist(), strict=True))
        bounds |= {segment[0, 1]: segment[:, 0] for segment in lines.get_segments()}
    assert_allclose([means[row] for row in range(5)], order["mean"])
    assert_allclose([bounds[row] for row in range(5)], order[["low", "high"]])
    ticks = [line for line in ax.lines if line.get_marker() == "|" and line.get_label().startswith("_")]
    folds = np.concatenate([line.get_xydata() for line in ticks])
    assert_allclose(np.sort(folds[folds[:, 1] == 2, 0]), np.sort(order.filter(like="fold_").iloc[2]))
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata() for line in dashed] == [[0, 0]]


def test_all_columns_are_counted_beside_luck():
    importance = table(223)
    above, below = int((importance["low"] > 0).sum()), int((importance["high"] < 0).sum())
    ax = drawn(plot_importance(importance))
    assert title(ax) == f"Permutation importance: the first 20 of 223; {above} of 223 above 0 (luck alone: 5.6)"
    assert legend(ax) == [
        "each fold",
        f"above 0: {above}",
        f"0 within: {223 - above - below}",
        f"below 0: {below}",
    ]
    assert "from 0.4 when permuted" in ax.get_xlabel().replace("\n", " ")


def test_a_series_of_gains_is_drawn_as_bars_without_a_null():
    ax = drawn(plot_importance(pd.Series({"a": 1, "b": 5, "c": 0, "d": 5})))
    assert [bar.get_width() for bar in ax.patches] == [5, 5, 1, 0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "d", "a", "c"]  # of equals, the first
    assert title(ax) == "Importance: all 4"
    assert ax.get_legend() is None


@pytest.mark.parametrize("size", [(4, 3), (12, 7)])
@pytest.mark.parametrize("n", [1, 20, 223])
def test_names_neither_overlap_nor_fill_the_picture(n, size):
    importance = table(n).rename(
        index=lambda name: f"multi_resolution_{name}_of_the_volume_weighted_price_over_20_bars"
    )
    ax = drawn(plot_importance(importance, top=n, ax=Figure(figsize=size, layout="constrained").subplots()))
    labels = ax.get_yticklabels()
    assert len({label.get_text() for label in labels}) == len(labels)
    boxes = [label.get_window_extent() for label in labels]
    assert all(one.y0 > two.y0 + 0.6 * two.height for one, two in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0
    assert ax.bbox.width > 0.5 * ax.figure.bbox.width


def test_names_what_does_not_fit():
    with pytest.raises(
        EnsembleKitError, match=r"^`top` must be an integer of at least 1; got 0\. 20 columns are readable\.$"
    ):
        plot_importance(table(), top=0)
    cure = r"Take what `permutation_importance` returned, or a Series of one number a column\.$"
    for wrong, got in (
        (table().drop(columns=["low", "score"]), r"DataFrame of shape \(8, 6\) without low, score"),
        (table()[:0], r"DataFrame of shape \(0, 8\)"),
        (pd.Series(dtype=float), r"Series of shape \(0,\)"),
        (np.ones(3), r"ndarray of shape \(3,\) without mean, low, high, score"),
    ):
        with pytest.raises(
            EnsembleKitError, match=rf"^`importance` must be a Series, or a frame .*; got {got}\. {cure}"
        ):
            plot_importance(wrong)
    for strange in (table().assign(low=np.nan), pd.Series({"a": "much"}), pd.Series({"a": np.inf})):
        with pytest.raises(EnsembleKitError, match=rf"^`importance` must hold finite numbers; got others\. {cure}"):
            plot_importance(strange)


def test_of_a_measured_table(tmp_path):
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(400, 3)), columns=["noise", "signal", "more"])
    given = {"cv": WalkForwardSplit(3, purge=0), "scoring": "accuracy", "random_state": 0}
    found = permutation_importance(
        LogisticRegression(), X, X["signal"] > 0, groups={"b": ["noise", "more"], "a": "signal"}, **given
    )
    figure = Figure(layout="constrained")
    axes = figure.subplots(2, 2)
    for ax in axes.flat:
        plot_importance(found, ax=ax)
    assert legend(axes[0, 0])[1:] == ["above 0: 1", "0 within: 1"]
    assert save_figure(axes, tmp_path / "importance.svg").stat().st_size > 0
