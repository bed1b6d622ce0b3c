"""The picture of accuracy by confidence: the table's numbers, its nulls, and what no row reaches."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics.confidence import confidence_curve
from ensemble_kit.reports import save_figure
from ensemble_kit.reports.confidence import plot_confidence_curve

THRESHOLDS = [0.0, 0.4, 0.5, 0.6, 0.8, 1.0]
SIZES = [(4, 3), (12, 7)]


def curve(n=1500, thresholds=THRESHOLDS, seed=0, sharp=2.0):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.full(3, sharp), n)
    y = (proba.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 2)
    return confidence_curve(y, proba, classes=[0, 1, 2], thresholds=thresholds)


def drawn(ax):
    ax.figure.draw_without_rendering()  # ticks, layout and legends are made here: their warnings, too
    return ax


def line(ax, label):
    (found,) = [artist for artist in ax.lines if artist.get_label() == label]
    return found


def title(ax):
    return ax.get_title(loc="left").replace("\n", " ")


def test_what_is_drawn_is_the_table():
    table = curve()
    given = Figure(figsize=(4, 3), layout="constrained").subplots()
    ax = drawn(plot_confidence_curve(table, ax=given))
    assert ax is given
    some = table[table["n"] > 0]
    assert len(some) == len(table) - 1  # nobody is wholly sure
    for label, column in (
        ("accuracy", "accuracy"),
        ("promised", "mean_confidence"),
        ("base rate", "base_rate"),
        ("chance", "chance"),
    ):
        assert_allclose(line(ax, label).get_xydata(), some[column].reset_index())
    (band,) = [artist for artist in ax.collections if artist.get_label() == "95 % interval"]
    corners = band.get_paths()[0].vertices
    for at, row in some.iterrows():
        y = corners[np.isclose(corners[:, 0], at), 1]
        assert_allclose([y.min(), y.max()], row[["low", "high"]])
    below = ax.figure.axes[-1]
    assert_allclose(below.lines[0].get_xydata(), table["coverage"].reset_index())
    (nobody,) = [patch for patch in ax.patches if patch.get_label() == "no rows"]
    assert nobody.get_x() == 1.0


def test_the_title_names_the_surest_of_at_least_30():
    table = curve(thresholds=[0, 0.5, 0.85])
    assert 0 < table["n"].iloc[-1] < 30
    sure = table[table["n"] >= 30].iloc[-1]
    assert title(plot_confidence_curve(table)) == (
        f"Accuracy {table['accuracy'].iloc[0]:.1%} on 1,500 rows, {sure['accuracy']:.1%} on the surest "
        f"{sure['n']:.0f} (base rate {sure['base_rate']:.1%})"
    )


def test_the_title_says_what_it_counts():
    assert " on 1,500 event calls, " in title(plot_confidence_curve(curve(), calls="event calls"))


def test_few_of_all_are_seen_on_a_log_scale():
    few, many = curve(thresholds=[0, 0.85]), curve(thresholds=[0, 0.5])
    for table, scale in ((few, "log"), (many, "linear")):
        below = drawn(plot_confidence_curve(table)).figure.axes[-1]
        assert below.get_yscale() == scale
        assert below.get_ylim()[0] < table["coverage"].min() < table["coverage"].max() < below.get_ylim()[1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("thresholds", [[0.5], [0.0, 1.0], [0.5, 1.0], np.linspace(0, 1, 101)])
def test_any_thresholds(thresholds, size):
    table = curve(thresholds=thresholds)
    ax = drawn(plot_confidence_curve(table, ax=Figure(figsize=size, layout="constrained").subplots()))
    left, right = ax.get_xlim()
    assert left < min(thresholds) <= max(thresholds) < right
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert ("no rows" in names) == bool((table["n"] == 0).any())


def test_without_chance_and_all_right():
    table = curve().drop(columns="chance").assign(accuracy=1.0, high=1.0)
    ax = drawn(plot_confidence_curve(table))
    assert "chance" not in [text.get_text() for text in ax.get_legend().get_texts()]


def test_in_a_grid(tmp_path):
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax in axes.flat:
        plot_confidence_curve(curve(), ax=ax)
    assert save_figure(figure.axes, tmp_path / "confidence.pdf").stat().st_size > 0


def test_names_what_does_not_fit():
    table = curve()
    cure = r"Take it from `confidence_curve` of one horizon\.$"
    with pytest.raises(
        EnsembleKitError, match=rf"^`curve` must be a frame with the columns .*; got none of n, low\. {cure}"
    ):
        plot_confidence_curve(table.drop(columns=["low", "n"]))
    with pytest.raises(EnsembleKitError, match=rf"^`curve` must be a frame with the columns .*; got ndarray\. {cure}"):
        plot_confidence_curve(table.to_numpy())
    for wrong, got in (
        (table[::-1], r"\[1\.0, 0\.8, 0\.6, 0\.5\] \.\.\."),
        (table[:0], r"\[\]"),
        (table.set_axis(list("abcdef")), ".*"),
    ):
        with pytest.raises(
            EnsembleKitError, match=rf"^`curve` must have rising thresholds as its index; got {got}\. {cure}"
        ):
            plot_confidence_curve(wrong)
    with pytest.raises(
        EnsembleKitError, match=r"^`curve` must have a threshold that some row reaches; got 1 that none does\. Lower"
    ):
        plot_confidence_curve(table[-1:])
    horizons = pd.concat([table, table], keys=["H0", "H1"])
    with pytest.raises(EnsembleKitError, match=r"^`curve` must have rising thresholds as its index; got "):
        plot_confidence_curve(horizons)
