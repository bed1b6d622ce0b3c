"""The picture of labels: marks where the labels say, nothing where they say nothing."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels import Labels, buy_sell_hold, peak_slope_bottom
from ensemble_kit.reports import plot_labels

BARS = make_bars(600, random_state=0)
TURNS = peak_slope_bottom(BARS, w=12, horizons=2)
TRENDS = buy_sell_hold(BARS, session="XNYS", min_price=float(BARS["close"].median()), gate_window=20)


def drawn(ax):
    ax.figure.draw_without_rendering()  # ticks, layout and legends are made here: their warnings, too
    return ax


def marks(ax, name):
    (found,) = [line for line in ax.lines if line.get_label() == name]
    return found.get_xdata().tolist(), found.get_ydata().tolist()


def rows_shaded(ax, name, n):
    """Rows whose middle lies in a shade of that name."""
    paths = [path for shade in ax.collections if shade.get_label() == name for path in shade.get_paths()]
    spans = [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in paths]
    return [x for x in range(n) if any(left < x < right for left, right in spans)]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def hatched(ax, n):
    (hatch,) = [shade for shade in ax.collections if shade.get_hatch()]
    return rows_shaded(ax, hatch.get_label(), n)


def rows_of(labels, name):
    return np.flatnonzero(labels == name).tolist()


def test_turns_stand_at_their_extremes():
    given = Figure(figsize=(6, 3), layout="constrained").subplots()
    ax = drawn(plot_labels(BARS, TURNS, ax=given))
    assert ax is given
    for name, column in (("Peak", "high"), ("Bottom", "low")):
        at, price = marks(ax, name)
        assert at == rows_of(TURNS.labels["H0"], name.lower())
        assert price == BARS[column].iloc[at].tolist()
        assert len(at) > 3
    assert legend(ax) == ["Peak", "Bottom"]
    assert ax.lines[0].get_ydata().tolist() == BARS["close"].tolist()
    ranges = np.array([segment[:, 1] for segment in ax.collections[0].get_segments()])
    np.testing.assert_array_equal(ranges, BARS[["low", "high"]])
    assert hatched(ax, 600) == list(range(587, 600))
    assert "600 bars, 2022-01-03 to 2022-01-12 (hatched: not known yet)" in ax.get_title(loc="left").replace("\n", " ")


def test_trends_are_shaded_from_the_turn_on():
    ax = drawn(plot_labels(BARS, TRENDS))
    assert legend(ax) == ["Peak", "Bottom", "Buy", "Sell"]
    assert ax.get_title(loc="left").startswith("Buy sell hold, in hindsight: 600 bars")
    for name in ("Buy", "Sell"):
        rows = rows_of(TRENDS.labels, name.lower())
        assert rows_shaded(ax, name, 600) == rows
        assert len(rows) > 30
    assert marks(ax, "Peak")[0] == rows_of(TRENDS.details["turn"], 1)
    assert marks(ax, "Bottom")[0] == rows_of(TRENDS.details["turn"], -1)
    assert hatched(ax, 600) == rows_of(TRENDS.labels.isna(), True)


@pytest.mark.parametrize("labels", [TURNS, TRENDS])
def test_a_part_is_drawn_as_in_the_whole(labels):
    whole, newest = drawn(plot_labels(BARS, labels)), drawn(plot_labels(BARS, labels, last=200))
    part = drawn(plot_labels(BARS.iloc[300:500], labels))
    for first, ax in ((400, newest), (300, part)):
        assert ax.get_xlim() == (-0.5, 199.5)
        for name in ("Peak", "Bottom"):
            assert marks(ax, name)[0] == [x - first for x in marks(whole, name)[0] if first <= x < first + 200]
        assert rows_shaded(ax, "Buy", 200) == [
            x - first for x in rows_shaded(whole, "Buy", 600) if 0 <= x - first < 200
        ]
    assert "200 bars, 2022-01-06 to 2022-01-11" in part.get_title(loc="left")
    assert "hatched" not in part.get_title(loc="left")
    assert hatched(part, 200) == []


def test_many_turns_have_small_marks():
    few, many = plot_labels(BARS, TRENDS, last=50), plot_labels(BARS, peak_slope_bottom(BARS, w=1, k=0.0))
    size = [next(line for line in ax.lines if line.get_label() == "Peak").get_markersize() for ax in (few, many)]
    assert size[0] == 7
    assert size[1] < 4


def test_one_instrument_of_a_panel():
    panel = make_bars(300, instruments=["A", "B"], random_state=0)
    labels = buy_sell_hold(panel, session="XNYS")
    one = panel.xs("B", level=1, drop_level=False)
    ax = drawn(plot_labels(one, labels))
    assert rows_shaded(ax, "Buy", 300) == rows_of(labels.labels.xs("B", level=1), "buy")
    with pytest.raises(EnsembleKitError, match=r"`bars` must be of one instrument; got several. Draw `bars.xs\("):
        plot_labels(panel, labels)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_bars_without_anything(n):
    index = pd.date_range("2024-01-01", periods=n, tz="UTC")
    bars = pd.DataFrame({"open": 5.0, "high": 5.0, "low": 5.0, "close": 5.0}, index=index)
    for classes in ("hold", "slope", None):
        labels = pd.Series([classes] * n, index=index, dtype="str")
        details = pd.DataFrame({"turn": 0.0}, index=index)
        nothing = Labels(labels, pd.Series(index, index=index), pd.Series(1.0, index=index), {}, details)
        assert isinstance(drawn(plot_labels(bars, nothing)), Axes)
        drawn(plot_labels(bars * np.nan, nothing))


def test_names_what_does_not_fit():
    with pytest.raises(EnsembleKitError, match=r"`labels` must be a Labels object; got Series. Pass what"):
        plot_labels(BARS, TURNS.labels["H0"])
    with pytest.raises(EnsembleKitError, match="among the 600 bars that `labels` are of; 1 of 600 are not, first 2022"):
        plot_labels(make_bars(601, random_state=0).iloc[1:], TURNS)
    numbers = Labels(pd.Series(1.0, index=BARS.index), TURNS.t1, TURNS.sample_weight)
    with pytest.raises(
        EnsembleKitError,
        match=r"must be of classes peak, slope, bottom, or buy, hold, sell; got 1.0. Draw those of `peak_slope_bottom`",
    ):
        plot_labels(BARS, numbers)


@pytest.mark.parametrize("last", [0, -5, 2.5])
def test_a_picture_of_no_bars(last):
    with pytest.raises(
        EnsembleKitError, match=rf"^`last` must be None or an integer of at least 1; got {last}\. Count"
    ):
        plot_labels(BARS, TURNS, last=last)
