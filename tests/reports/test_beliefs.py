"""The belief chart shows what was believed, from the close on that it was known at."""

import time

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.reports import save_figure
from ensemble_kit.reports.beliefs import plot_beliefs

CLASSES = ["buy", "hold", "sell"]
GREEN, VERMILION = "#009E73", "#D55E00"


def beliefs(n, seed=0, span=8):
    """Smooth random beliefs (n, 3): often sure, often of two minds."""
    logits = pd.DataFrame(np.random.default_rng(seed).normal(size=(n, 3))).ewm(span=span).mean() * 6
    proba = np.exp(logits.to_numpy())
    return proba / proba.sum(axis=1, keepdims=True)


def draw(ax):
    ax.figure.draw_without_rendering()  # ticks, layout and legends are made here: their warnings, too
    return ax


def lower(ax):
    return ax.figure.axes[-1]


def shade(ax):
    (image,) = ax.images
    return image


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def verticals(ax, color):
    """Return where the vertical lines of a colour stand."""
    found = [c for c in ax.collections if c.get_zorder() == 1 and np.allclose(c.get_colors()[:, :3], to_rgb(color))]
    return [float(path.vertices[0, 0]) for collection in found for path in collection.get_paths()]


def marked(ax, label):
    (line,) = (line for line in ax.lines if line.get_label() == label)
    return line.get_xdata().tolist()


def test_a_column_a_bar_from_its_close_on():
    bars, proba = make_bars(120, random_state=0), beliefs(120)
    proba[[0, 1, 50]] = [[1, 0, 0], [0, 1, 0], [0.5, 0.2, 0.3]]
    ax = draw(plot_beliefs(bars, proba, classes=CLASSES))
    rgba = shade(ax).get_array()
    assert rgba.shape == (1, 120, 4)
    assert list(shade(ax).get_extent()) == [0.5, 120.5, 0, 1]  # a bar's column begins where its own place ends
    half_white = [0.5 + 0.5 * np.array(to_rgb(color)) for color in (GREEN, VERMILION)]
    assert_allclose(rgba[0, 0], [*half_white[0], 1])
    assert rgba[0, 1, :3].tolist() == pytest.approx([0.955] * 3)
    assert_allclose(rgba[0, 50, :3], 0.5 * half_white[0] + 0.3 * half_white[1] + 0.2 * 0.955)
    mix = np.array([half_white[0], [0.955] * 3, half_white[1]])
    assert_allclose(rgba[0, :, :3], proba @ mix)
    steps = [line for line in lower(ax).lines if len(line.get_xdata()) == 121]
    assert [line.get_color() for line in steps] == ["#999999", VERMILION, GREEN]
    for line, column in zip(steps, (1, 2, 0), strict=True):
        assert line.get_drawstyle() == "steps-post"
        assert line.get_xdata()[0] == 0.5
        assert_allclose(line.get_ydata()[:-1], proba[:, column])
    assert ax.get_xlim() == lower(ax).get_xlim() == (-0.5, 120.5)


def test_the_shade_is_seen_where_it_stands():
    bars = make_bars(4, random_state=0)
    proba = np.array([[1.0, 0, 0], [0, 0, 1], [np.nan, 0, 0], [0, 1, 0]])
    ax = draw(plot_beliefs(bars, proba, classes=CLASSES))
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3] / 255.0
    seen = []
    for x in (0.25, 0.8, 1.8, 2.8, 3.8):  # right of the bodies
        column, row = ax.transData.transform((x, ax.get_ylim()[1])).round().astype(int)
        seen.append(pixels[-(row - 3), column])
    half_white = [0.5 + 0.5 * np.array(to_rgb(color)) for color in (GREEN, VERMILION)]
    assert_allclose(seen, [[1] * 3, half_white[0], half_white[1], [1] * 3, [0.955] * 3], atol=0.01)


@pytest.mark.parametrize("threshold", [0.3, 0.6, {"buy": 0.7, "sell": 0.5}, {"buy": 0.4}])
def test_crossings_are_those_of_a_loop(threshold):
    bars, proba = make_bars(300, random_state=0), beliefs(300)
    proba[100:110] = np.nan
    least = threshold if isinstance(threshold, dict) else dict.fromkeys(CLASSES, threshold)
    ax = draw(plot_beliefs(bars, proba, classes=CLASSES, threshold=threshold, last=250))
    for label, side, color in (("buy", "Long", GREEN), ("sell", "Short", VERMILION)):
        p, expected = proba[:, CLASSES.index(label)], []
        for t in range(50, 300):
            if label in least and p[t] >= least[label] and p[t - 1] < least[label]:
                expected.append(t + 0.5)
        apart, kept = 8 * 250 / (ax.figure.get_figwidth() * 0.775 * 72), []
        for x in expected:
            if not kept or x - kept[-1] >= apart:
                kept.append(x)
        assert verticals(ax, color) == verticals(lower(ax), color) == kept
        count = f": {len(expected)} crossings" if label in least else ""
        assert f"{side} ({label}){count}" in texts(ax)
    levels = [line.get_ydata()[0] for line in lower(ax).lines if line.get_linestyle() == "--"]
    assert levels == sorted({least[label] for label in ("buy", "sell") if label in least}, reverse=True)


def test_hundreds_of_crossings_are_thinned_out():
    bars = make_bars(4000, random_state=0)
    up = np.where(np.arange(4000) % 4 < 2, 0.2, 0.9)
    ax = plot_beliefs(bars, np.column_stack([1 - up, up]), classes=["down", "up"], threshold=0.8, last=None)
    assert "Long (up): 1,000 crossings" in texts(ax)
    assert "Neither" not in texts(ax)
    at = np.array(verticals(ax, GREEN))
    assert 50 < len(at) < 150
    assert at[0] == 2.5


def test_a_prefix_of_the_bars_gives_a_prefix_of_the_shade_and_the_crossings():
    bars, proba = make_bars(300, random_state=0), beliefs(300)
    known = {"classes": CLASSES, "threshold": 0.6, "last": None}
    whole, part = plot_beliefs(bars, proba, **known), plot_beliefs(bars[:200], proba[:200], **known)
    assert_array_equal(shade(whole).get_array()[:, :200], shade(part).get_array())
    reaching = np.flatnonzero((proba[1:200, 0] >= 0.6) & (proba[:199, 0] < 0.6)) + 1.5
    assert verticals(part, GREEN) == [x for x in verticals(whole, GREEN) if x < 200]
    assert set(verticals(part, GREEN)) <= set(reaching)


def test_turns_are_marked_in_hindsight():
    bars, proba = make_bars(12, random_state=0), beliefs(12)[:, [0, 2, 1]]
    turns = ["slope", "Peak", "peak", "slope", "bottom", *["slope"] * 5, "peak", np.nan]
    ax = draw(plot_beliefs(bars, proba, classes=["bottom", "peak", "slope"], labels=turns, last=10))
    assert (marked(ax, "Peak in hindsight"), marked(ax, "Bottom in hindsight")) == ([2, 10], [4])
    trends = pd.DataFrame({"H0": ["buy"] * 3 + ["hold"] + ["sell"] * 4 + ["buy"] * 3 + [np.nan], "H1": "sell"})
    ax = draw(plot_beliefs(bars, proba, classes=["buy", "sell", "hold"], labels=trends.set_axis(bars.index)))
    assert (marked(ax, "Buy begins, in hindsight"), marked(ax, "Sell begins, in hindsight")) == ([0, 8], [4])
    # Turns beside the beliefs of a model of directions; numbers as classes.
    ax = draw(plot_beliefs(bars, proba, classes=["up", "down", "flat"], labels=turns))
    assert marked(ax, "Peak in hindsight") == [1, 2, 10]
    ax = draw(plot_beliefs(bars, proba, classes=[1, -1, 0], labels=np.r_[np.zeros(5), 1, 1, -1.0, np.zeros(4)]))
    assert (marked(ax, "1 begins, in hindsight"), marked(ax, "-1 begins, in hindsight")) == ([5], [7])


def test_columns_go_by_class_and_directions_by_name_or_word():
    bars, proba = make_bars(30, random_state=0), beliefs(30)
    frame = pd.DataFrame(proba, bars.index, CLASSES)
    mixed = [
        plot_beliefs(bars, p, classes=CLASSES) for p in (proba, frame, frame[["sell", "buy", "hold"]], [proba] * 2)
    ]
    assert len({shade(ax).get_array().tobytes() for ax in mixed}) == 1
    named = plot_beliefs(bars, proba, classes=["a", "b", "c"], long="a", short="c")
    assert_array_equal(shade(named).get_array(), shade(mixed[0]).get_array())
    assert texts(named) == ["Long (a)", "Short (c)", "Neither"]
    turned = plot_beliefs(bars, proba, classes=CLASSES, long="sell", short="buy")
    assert_array_equal(
        shade(turned).get_array(), shade(plot_beliefs(bars, proba[:, ::-1], classes=CLASSES)).get_array()
    )


@pytest.mark.parametrize("last", [1, 20, None])
def test_what_is_not_known_is_left_blank(last):
    bars, proba = make_bars(40, random_state=0), beliefs(40)
    bars.iloc[[0, 5, 6, 30]] = np.nan
    proba[:10] = np.nan
    proba[35, 1] = np.nan
    ax = draw(plot_beliefs(bars, proba, classes=CLASSES, threshold=0.5, labels=["buy"] * 40, last=last))
    rgba = shade(ax).get_array()[0]
    blank = np.isnan(proba).any(axis=1)[-len(rgba) :]
    assert_array_equal(rgba[:, 3] == 0, blank)
    assert (rgba[blank, :3] == 1).all()
    draw(plot_beliefs(bars * np.nan, proba * np.nan, classes=CLASSES, threshold=0.5, last=last))


def test_one_bar():
    bars = make_bars(1, random_state=0)
    ax = draw(plot_beliefs(bars, np.array([[0.7, 0.2, 0.1]]), classes=CLASSES, threshold=0.5, labels=["buy"]))
    assert ax.get_title(loc="left") == "Beliefs at the close, 1 bar, 2022-01-03 to 2022-01-03"
    assert texts(ax)[0] == "Long (buy): 0 crossings"


def test_draws_where_it_is_told():
    bars, proba = make_bars(60, random_state=0), beliefs(60)
    figure = Figure(figsize=(9, 6), layout="constrained")
    grid = figure.subplots(2, 2)
    for cell in grid.flat:
        assert plot_beliefs(bars, proba, classes=CLASSES, threshold=0.6, labels=["buy"] * 60, ax=cell) is cell
    draw(grid[0, 0])
    assert len(figure.axes) == 8
    boxes = [ax.get_window_extent() for ax in figure.axes]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert min(box.height for box in boxes[:4]) > 80  # pixels: heads leave room for candles
    by_hand = Figure().add_axes((0.1, 0.5, 0.8, 0.4))
    assert isinstance(draw(plot_beliefs(bars, proba, classes=CLASSES, ax=by_hand)), Axes)


def test_five_thousand_real_bars(shared_data, tmp_path):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")[-5000:]
    labels = peak_slope_bottom(bars)
    drawn = {"classes": ["bottom", "slope", "peak"], "threshold": 0.6, "labels": labels, "last": None}
    start = time.perf_counter()
    ax = plot_beliefs(bars, beliefs(5000), **drawn)
    png = save_figure(ax, tmp_path / "chart.png")
    assert time.perf_counter() - start < 10  # 0.5 s where nothing else runs
    pdf = save_figure(ax, tmp_path / "chart.pdf").read_bytes()
    assert len(pdf) < 2_000_000
    assert pdf.count(b"/Subtype /Image") <= 2  # the shade and its mask, and nothing else
    assert int.from_bytes(png.read_bytes()[16:20], "big") == 1500
    y = labels.labels.to_numpy()
    assert marked(ax, "Peak in hindsight") == np.flatnonzero(y == "peak").tolist()


def refusals():
    bars, proba = make_bars(5, random_state=0), beliefs(5)
    three = "['buy', 'hold', 'sell']"
    wrong = proba.copy()
    wrong[3] = [0.5, 0.5, 0.5]
    panel = pd.concat({"A": bars}).swaplevel()
    frame = pd.DataFrame(proba, bars.index)
    return {
        "panel": (
            (panel, proba, {}),
            "`bars` must be of one instrument; got a panel. Draw `bars.xs(instrument, level=1)`.",
        ),
        "no probabilities": (
            (bars, wrong, {}),
            (
                "`proba` must hold probabilities that sum to 1; row 3 has [0.5, 0.5, 0.5]. "
                "Pass `predict_proba`, not logits or log-probabilities."
            ),
        ),
        "rows": (
            (bars, proba[:4], {}),
            (
                "`proba` must have one row a bar, 5 in all; got 4. "
                "Predict the very bars to draw, with NaN where nothing is known."
            ),
        ),
        "columns": (
            (bars, proba[:, :2], {}),
            (
                "`proba` must have horizon 0 and 3 classes; got 1 horizon(s) and 2 classes. "
                "Pass what the fitted model's `predict_proba` returns."
            ),
        ),
        "index": (
            (bars, frame.set_axis(frame.index + pd.Timedelta("1D")), {}),
            (
                "`proba` must be on the index of `bars` (5 rows); got another index of 5. "
                "Align it first: `proba.reindex(bars.index)`."
            ),
        ),
        "directions": (
            (bars, proba, {"classes": ["a", "b", "c"]}),
            (
                "`long` and `short` must be two of the 3 class(es) ['a', 'b', 'c']; got None and None. "
                "Say which class means a rise and which a fall: long=..., short=...."
            ),
        ),
        "threshold": (
            (bars, proba, {"threshold": 1.5}),
            (
                "`threshold` must be in (0, 1], a number or one by class; got 1.5. "
                "Take some multiple of the class's share in the training rows."
            ),
        ),
        "last": (
            (bars, proba, {"last": 0}),
            "`last` must be None or an integer of at least 1; got 0. Count it in bars.",
        ),
        "labels of other rows": (
            (bars, proba, {"labels": pd.Series(["buy"] * 5)}),
            (
                "`labels` must have one value a bar, on the index of `bars` (5 rows); got another index of 5. "
                "Align it first."
            ),
        ),
        "labels of other classes": (
            (bars, proba, {"labels": ["loss", "gain", "loss", "loss", "gain"]}),
            (
                f"`labels` must be of the classes {three}, or of turns or trends; got ['gain', 'loss']. "
                "Pass what the beliefs are to be compared with."
            ),
        ),
    }


@pytest.mark.parametrize("case", refusals())
def test_says_what_does_not_fit(case):
    (bars, proba, other), message = refusals()[case]
    with pytest.raises(EnsembleKitError) as caught:
        plot_beliefs(bars, proba, **({"classes": CLASSES} | other))
    assert str(caught.value) == message


def test_bars_of_nothing_are_refused():
    with pytest.raises(BarsError, match="`bars` must have at least one row; got 0 x 5"):
        plot_beliefs(make_bars(3, random_state=0)[:0], np.empty((0, 3)), classes=CLASSES)


def test_classes_count_in_any_case_and_triangles_have_room():
    bars, n = make_bars(300, random_state=0), 300
    proba = np.random.default_rng(0).dirichlet([1, 1, 3], n)
    turns = np.full(n, "Slope", dtype=object)
    turns[[bars["low"].argmin(), bars["high"].argmax()]] = "Bottom", "Peak"
    grid = Figure(figsize=(8, 5.5), layout="constrained").subplots(2, 2)
    ax = plot_beliefs(bars, proba, classes=["Bottom", "Peak", "Slope"], labels=turns, ax=grid[0, 0])
    ax.figure.draw_without_rendering()
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"Long (Bottom)", "Short (Peak)"} < set(names)
    panel = ax.get_window_extent()
    marks = [line for line in ax.lines if line.get_label().endswith("in hindsight")]
    assert len(marks) == 2
    for line in marks:
        y = line.get_transform().transform(line.get_xydata())[:, 1]
        half = line.get_markersize() / 2 * ax.figure.dpi / 72
        assert panel.y0 < y.min() - half
        assert y.max() + half < panel.y1
