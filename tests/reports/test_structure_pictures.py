"""The picture of market structure: what is drawn is what the table says, from when it was known."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features import ICTFeatures
from ensemble_kit.features.structure import STRUCTURE_KINDS, market_structure
from ensemble_kit.reports._canvas import BLUE, GREEN, PURPLE, VERMILION
from ensemble_kit.reports.structure import plot_structure

BARS = make_bars(600, random_state=0)
FOUND = market_structure(BARS)


def drawn(ax):
    ax.figure.draw_without_rendering()  # ticks, layout and legends are made here: their warnings, too
    return ax


def rows(*kinds, first=0):
    """The table with bar numbers for times; what stands ends behind the newest bar."""
    found = FOUND[FOUND["kind"].isin(kinds)].copy()
    for name in ("start", "known", "end"):
        at = BARS.index.get_indexer(found[name])
        found[name] = np.where(at < 0, len(BARS), at)
    return found[found["end"] >= first]


def boxes(ax, *, filled):
    """Left, right, low, high and colour of the zones' boxes."""
    return sorted(
        (box.get_x(), box.get_x() + box.get_width(), box.get_y(), box.get_y() + box.get_height(), to_hex(edge))
        for box in ax.patches
        if isinstance(box, Rectangle) and box.get_fill() == filled
        for edge in [box.get_edgecolor()[:3]]
    )


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


@pytest.mark.parametrize("last", [None, 200])
def test_zones_are_filled_from_when_they_were_known(last):
    ax = drawn(plot_structure(BARS, last=last))
    colors = {("order_block", 1): GREEN, ("order_block", -1): VERMILION, ("gap", 1): BLUE, ("gap", -1): PURPLE}
    found = rows("order_block", "gap", first=600 - last if last else 0)
    assert set(zip(found["kind"], found["direction"], strict=True)) == set(colors)
    known, before = [], []
    for row in found.itertuples():
        edges = (row.low, row.high, colors[row.kind, row.direction].lower())
        known.append((row.known + 0.5, min(row.end, 599) + 0.5, *edges))
        before.append((row.start - 0.5, row.known + 0.5, *edges))
    for expected, filled in ((known, True), (before, False)):
        for one, other in zip(boxes(ax, filled=filled), sorted(expected), strict=True):
            assert one[:4] == pytest.approx(other[:4])
            assert one[4] == other[4]


def test_breaks_go_from_the_swing_to_the_close_that_broke_it():
    ax = drawn(plot_structure(BARS, FOUND, last=None, kinds=["bos", "choch"]))
    found = rows("bos", "choch")
    lines = {(*line.get_xdata(), line.get_ydata()[0], line.get_color()) for line in ax.lines if len(line.get_xdata())}
    expected = {(r.start, r.known, r.low, {1: GREEN, -1: VERMILION}[r.direction]) for r in found.itertuples()}
    assert lines >= expected
    long = found[found["known"] - found["start"] >= 12]
    labels = {(text.get_text(), text.xy[1]): text.xy[0] for text in ax.texts}
    names = {"bos": "BOS", "choch": "CHoCH"}
    assert {(names[r.kind], r.low) for r in long.itertuples()} <= set(labels)
    assert set(labels) <= {(names[r.kind], r.low) for r in found.itertuples()}
    inner = long[(long["start"] > 20) & (long["known"] < 580)]
    assert len(inner) > 5
    assert all(labels[names[r.kind], r.low] == (r.start + r.known) / 2 for r in inner.itertuples())
    assert legend(ax) == ["Break"]
    assert boxes(ax, filled=True) == []


def test_sweeps_stand_at_the_wick_and_swings_at_the_pivot():
    ax = drawn(plot_structure(BARS, FOUND, last=None, kinds=["sweep", "swing_high", "swing_low", "pool"]))
    marks = {line.get_marker(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}
    for sign, marker, column in ((1, "^", "low"), (-1, "v", "high")):
        found = rows("sweep")
        at = sorted(set(found.loc[found["direction"] == sign, "known"]))
        assert marks[marker] == (at, BARS[column].iloc[at].tolist())
        assert len(at) > 2
    swings = rows("swing_high", "swing_low")
    assert marks["o"] == (swings["start"].tolist(), swings["low"].tolist())
    segments = {
        tuple(segment.ravel())
        for lines in ax.collections
        if isinstance(lines, LineCollection)
        for segment in lines.get_segments()
    }
    assert {(r.start, r.low, r.known, r.low) for r in swings.itertuples()} <= segments
    assert {(r.start, r.low, min(r.end, 599.5), r.low) for r in rows("pool").itertuples()} <= segments
    assert {(max(r.start, r.known - 36.0), r.low, r.known, r.low) for r in rows("sweep").itertuples()} <= segments
    assert legend(ax) == ["Sweep", "Swing", "Pool"]


def test_a_table_and_parameters_are_drawn_alike():
    small = ICTFeatures(left=2, right=2)
    ax, same = (drawn(plot_structure(BARS, given)) for given in (small, market_structure(BARS, small)))
    assert boxes(ax, filled=True) == boxes(same, filled=True)
    assert boxes(ax, filled=True) != boxes(drawn(plot_structure(BARS)), filled=True)
    assert legend(ax) == ["Order block", "Fair value gap", "not known yet", "Break", "Sweep", "Swing"]
    assert ax.get_xlim() == (399.5, 599.5)
    assert ax.get_title(loc="left") == "Market structure, 200 bars, 2022-01-10 to 2022-01-12"


def test_axes_given_keep_the_scale_of_the_candles():
    given = Figure(figsize=(6, 3), layout="constrained").subplots()
    assert plot_structure(BARS, last=50, ax=given) is given
    shown = BARS.iloc[-50:]
    low, high = given.get_ylim()
    assert shown["low"].min() - low == pytest.approx(high - shown["high"].max())
    assert high - low < 1.2 * (shown["high"].max() - shown["low"].min())


@pytest.mark.parametrize("last", [100, 500])
def test_real_bars(shared_data, last):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet").iloc[-1500:]
    ax = drawn(plot_structure(bars, last=last, kinds=STRUCTURE_KINDS))
    assert len(ax.texts) > 3
    # A label that could run out of the picture is moved in.
    boxes = [text.get_window_extent() for text in ax.texts if text.xy[0] > ax.get_xlim()[0]]
    assert min(box.x0 for box in boxes) > ax.bbox.x0 - 3
    assert max(box.x1 for box in boxes) < ax.bbox.x1 + 3


def test_thousands_of_bars_stay_readable():
    bars = make_bars(3000, random_state=0)
    few, many = (drawn(plot_structure(bars, last=last)) for last in (100, 3000))
    breaks = market_structure(bars)["kind"].isin(["bos", "choch"]).sum()
    assert len(few.texts) > 2
    assert len(many.texts) < 0.3 * breaks
    size = [{line.get_marker(): line.get_markersize() for line in ax.lines} for ax in (few, many)]
    assert (size[0]["o"], size[0]["^"]) == (2.6, 4.5)
    assert size[1]["o"] < 1.5
    assert size[1]["^"] < 3


@pytest.mark.parametrize("n", [1, 2, 30])
def test_bars_without_anything(n):
    index = pd.date_range("2024-01-01", periods=n, tz="UTC")
    flat = pd.DataFrame({"open": 5.0, "high": 5.0, "low": 5.0, "close": 5.0}, index=index)
    for bars in (flat, flat * np.nan):
        ax = drawn(plot_structure(bars))
        assert legend(ax) == []
        assert boxes(ax, filled=True) == []


def test_names_what_does_not_fit():
    panel = make_bars(100, instruments=["A", "B"], random_state=0)
    with pytest.raises(BarsError, match=r"^`bars` must be of one instrument; got a panel\. Draw `bars.xs\("):
        plot_structure(panel)
    with pytest.raises(BarsError, match=r"^`bars` must have at least one row; got 0 x 5"):
        plot_structure(BARS[:0])
    with pytest.raises(
        EnsembleKitError,
        match=r"^`structure` must be the frame that `market_structure` returns, or an ICTFeatures; got DataFrame "
        r"without start, end\. Pass it as it is\.$",
    ):
        plot_structure(BARS, FOUND.drop(columns=["start", "end"]))
    with pytest.raises(EnsembleKitError, match=r"^`structure` must be the frame .* got dict without kind, direction"):
        plot_structure(BARS, {})
    with pytest.raises(
        EnsembleKitError, match=r"^`kinds` must be a list of swing_high, .*, pool; got blocks\. Leave it out for all"
    ):
        plot_structure(BARS, kinds=["gap", "blocks"])
    with pytest.raises(EnsembleKitError, match=r"^`kinds` must be a list of .*; got gap\."):
        plot_structure(BARS, kinds="gap")


def test_a_table_of_other_bars():
    with pytest.raises(
        EnsembleKitError,
        match=r"^`structure` must be made of `bars`; \w+ of 2022-\S+ \S+ is none of theirs \(\d+ such\)\. "
        r"Pass the very bars that it was made of, and choose with `last`\.$",
    ):
        plot_structure(BARS[300:], FOUND)
    with pytest.raises(EnsembleKitError, match=r"^`structure` must be made of `bars`; "):
        plot_structure(make_bars(600, random_state=1), FOUND)  # the same times, other prices


@pytest.mark.parametrize("last", [0, -5, 2.5])
def test_a_picture_of_no_bars(last):
    with pytest.raises(
        EnsembleKitError, match=rf"^`last` must be None or an integer of at least 1; got {last}\. Count it in bars\.$"
    ):
        plot_structure(BARS, last=last)
