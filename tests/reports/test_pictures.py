"""Every picture draws what it was given where it was told, degenerate data included; warnings are errors."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import reliability_curve
from ensemble_kit.reports import (
    plot_equity,
    plot_reliability,
    plot_signals,
    plot_weights,
    save_figure,
)
from ensemble_kit.reports._canvas import GREEN, VERMILION, date_ticks
from ensemble_kit.reports.trades import plot_pnl
from ensemble_kit.sizing.backtest import backtest

CLASSES = ["bottom", "slope", "peak"]


def frame(close, freq="D"):
    close = np.asarray(close, float)
    index = pd.date_range("2024-01-01", periods=len(close), freq=freq, tz="UTC")
    return pd.DataFrame({"open": close, "high": close + 1, "low": close - 1, "close": close}, index=index)


def walk(n, freq="D"):
    return frame(100 + np.cumsum(np.random.default_rng(0).normal(size=n)), freq)


def line(ax, label):
    found = [artist for artist in ax.lines if artist.get_label() == label]
    assert len(found) == 1, [artist.get_label() for artist in ax.lines]
    return found[0]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def given_axes():
    return Figure(figsize=(4, 3), layout="constrained").subplots()


def drawn(ax):
    ax.figure.draw_without_rendering()  # ticks, layout and legends are made here: their warnings, too
    return ax


def forecast(n, rare=0.05, seed=0):
    rng = np.random.default_rng(seed)
    event = rare * rng.uniform(0.1, 1.9, (n, 2))
    proba = np.column_stack([event[:, 0], 1 - event.sum(axis=1), event[:, 1]])
    y = np.array(CLASSES)[(proba.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 2)]
    return proba, y


# --------------------------------------------------------------------------- signals


def test_signals_marks_turns_where_they_are_decided():
    position = [0, 0.5, 1, 0, -1, -1, 1, np.nan, 1, 0]
    labels = pd.DataFrame({"H0": ["slope"] * 3 + ["Peak", "slope", "bottom"] + ["slope"] * 3 + [np.nan], "H1": "peak"})
    bars = frame(np.arange(10, 20))
    given = given_axes()
    ax = drawn(plot_signals(bars, position, labels=labels.set_axis(bars.index), ax=given))
    assert ax is given
    assert line(ax, "Turns long").get_xdata().tolist() == [1, 6, 8]
    assert line(ax, "Turns long").get_ydata().tolist() == [11, 16, 18]
    assert line(ax, "Turns short").get_xdata().tolist() == [4]
    assert line(ax, "Peak in hindsight").get_xdata().tolist() == [3]
    assert line(ax, "Bottom in hindsight").get_xdata().tolist() == [5]
    # Shaded from the open that fills: between the deciding bar and the next.
    shades = ax.collections[0]
    spans = [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in shades.get_paths()]
    assert spans == [(1.5, 2.5), (2.5, 3.5), (4.5, 6.5), (6.5, 7.5), (8.5, 9.5)]
    alpha = shades.get_facecolor()[:, 3]
    assert alpha[0] < alpha[1] == alpha[2]


def test_signals_draws_the_last_bars_only():
    bars = walk(300)
    position = np.sign(np.sin(np.arange(300) / 5))
    ax = drawn(plot_signals(bars, position, last=100))
    assert ax.get_xlim() == (199.5, 299.5)
    assert ax.lines[0].get_xdata().tolist() == list(range(200, 300))
    assert line(ax, "Turns long").get_xdata().min() >= 200
    assert "100 bars, 2024-07-19 to 2024-10-26" in ax.get_title(loc="left")
    assert "Peak in hindsight" not in legend(ax)
    assert drawn(plot_signals(bars, position, last=None)).get_xlim() == (-0.5, 299.5)


@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("weight", [0.0, 1.0, np.nan])
def test_signals_of_nothing_in_particular(n, weight):
    bars = frame(np.full(n, 50.0))
    drawn(plot_signals(bars, np.full(n, weight), labels=np.full(n, np.nan)))
    bars.iloc[0] = np.nan
    drawn(plot_signals(bars, np.full(n, weight)))


def test_signals_names_what_does_not_fit():
    bars = walk(5)
    with pytest.raises(EnsembleKitError, match=r"`position` must have one value a bar.*5 rows.*got shape of \(4,\)"):
        plot_signals(bars, np.ones(4))
    with pytest.raises(
        EnsembleKitError, match=r"^`position` must be finite, or NaN where flat; got -inf at row 2\. Cap"
    ):
        plot_signals(bars, [0, np.nan, -np.inf, 1, 0])
    with pytest.raises(EnsembleKitError, match=r"`labels` must have one value a bar.*got another index of 5"):
        plot_signals(bars, np.ones(5), labels=pd.Series(["peak"] * 5))
    with pytest.raises(EnsembleKitError, match="`bars` must be of one instrument; got a panel"):
        plot_signals(pd.concat({"A": bars}).swaplevel(), np.ones(5))


@pytest.mark.parametrize(
    ("freq", "n", "first", "expected"),
    [
        ("D", 1500, 0, {366: "2025", 731: "2026", 1461: "2028"}),
        ("D", 900, 0, {31: "Feb\n2024", 397: "Feb\n2025", 428: None}),  # two years begin: every fourth month is drawn
        ("D", 200, 0, {31: "Feb\n2024", 60: "Mar"}),
        ("D", 400, 300, {305: "Nov\n2024", 335: "Dec", 366: "Jan\n2025"}),
        ("h", 120, 0, {24: "02 Jan\n2024", 96: "05 Jan"}),
        ("min", 240, 0, {60: "01:00\n01 Jan 2024", 180: "03:00"}),
        ("min", 50, 0, {0: "00:00\n01 Jan 2024", 49: "00:49"}),
    ],
)
def test_ticks_stand_where_a_period_begins(freq, n, first, expected):
    ax = Figure(figsize=(10, 4)).subplots()
    date_ticks(ax, pd.date_range("2024-01-01", periods=n, freq=freq, tz="America/New_York"), first)
    at = ax.xaxis.get_majorticklocs().tolist()
    shown = dict(zip(at, ax.xaxis.get_major_formatter().format_ticks(at), strict=True))
    assert 2 <= len(at) <= 10
    assert {tick: shown.get(tick) for tick in expected} == expected


# --------------------------------------------------------------------------- reliability


def test_reliability_is_the_frequency_in_bins_of_equal_mass():
    p = np.repeat([0.02, 0.1, 0.5, 0.9], 10)
    hit = np.concatenate([np.arange(10) < k for k in (0, 2, 5, 10)])
    given = given_axes()
    ax = plot_reliability(np.column_stack([1 - p, p]), hit, classes=[False, True], events=[True], n_bins=4, ax=given)
    assert drawn(ax) is given
    points, _, (intervals,) = ax.containers[0]
    assert_allclose(points.get_xdata(), [0.02, 0.1, 0.5, 0.9])
    assert_allclose(points.get_ydata(), [0, 0.2, 0.5, 1])
    bounds = np.array([segment[:, 1] for segment in intervals.get_segments()])
    curve = reliability_curve(hit, np.column_stack([1 - p, p]), classes=[False, True], events=[True], n_bins=4)
    assert_allclose(bounds, curve[["low", "high"]])
    assert legend(ax) == ["True: 17 of 40 rows"]
    below = ax.figure.axes[-1]
    (counts,) = below.patches
    assert counts.get_data().values.sum() == 40


def test_reliability_before_and_after_in_one_picture():
    proba, y = forecast(3000)
    sharp = proba**2 / (proba**2).sum(axis=1, keepdims=True)
    ax = drawn(plot_reliability(proba, y, classes=CLASSES, before=sharp))
    assert legend(ax) == [*(f"{c}: {(y == c).sum():,} of 3,000 rows" for c in ("bottom", "peak")), "before calibration"]
    curve = reliability_curve(y, sharp, classes=CLASSES, events=["bottom", "peak"])
    dotted = [artist for artist in ax.lines if artist.get_linestyle() == ":"]
    for artist, (_, rows) in zip(dotted, curve.groupby("class"), strict=True):
        assert_allclose(artist.get_xydata(), rows[["probability", "frequency"]])
    assert len(ax.containers) == 2  # intervals of the calibrated only
    assert len(ax.figure.axes[-1].patches) == 4


def test_reliability_intervals_know_overlapping_labels():
    rng = np.random.default_rng(0)
    p = np.full(2000, 0.3)
    hit = np.repeat(rng.random(100) < 0.3, 20)
    index = pd.date_range("2024-01-01", periods=2000, freq="min")
    known = {"classes": [False, True], "events": [True]}
    runs = plot_reliability(np.column_stack([1 - p, p]), pd.Series(hit, index), **known, block=40)
    one = plot_reliability(np.column_stack([1 - p, p]), hit, **known, times=np.arange(2000) // 20)
    mixed = plot_reliability(np.column_stack([1 - p, p]), rng.permutation(hit), **known)
    widths = [np.diff(ax.containers[0][2][0].get_segments()[0][:, 1])[0] for ax in (runs, one, mixed)]
    assert widths[0] > 3 * widths[2]
    assert widths[1] > 3 * widths[2]


def test_reliability_weighs_rows():
    p, hit = np.array([0.3, 0.3, 0.3, 0.3]), np.array([1, 0, 1, 0])
    proba = np.column_stack([1 - p, p])
    ax = plot_reliability(proba, hit, classes=[0, 1], events=[1], sample_weight=[3, 1, 0, 0])
    assert ax.containers[0][0].get_ydata().tolist() == [0.75]
    assert legend(ax) == ["1: 1 of 2 rows"]
    p = np.array([0.1, 0.2, 0.3, 0.4])  # bins of half the weight each
    halves = plot_reliability(
        np.column_stack([1 - p, p]), hit, classes=[0, 1], events=[1], sample_weight=[3, 1, 1, 1], n_bins=2
    )
    assert_allclose(halves.containers[0][0].get_xdata(), [0.1, 0.3])
    equal = [
        plot_reliability(proba, hit, classes=[0, 1], events=[1], sample_weight=w).containers[0][2][0].get_segments()
        for w in (None, np.full(4, 7.0))
    ]
    assert_allclose(*equal)


def test_reliability_zooms_to_rare_events():
    proba, y = forecast(5000)
    skewed = proba.copy()
    skewed[:, 0] = 0.2 * np.linspace(0, 1, 5000) ** 8
    skewed[:, 1] = 1 - skewed[:, 0] - skewed[:, 2]
    rare, even = (drawn(plot_reliability(p, y, classes=CLASSES, events=["bottom"])) for p in (skewed, proba))
    assert (rare.get_xscale(), rare.get_yscale()) == ("function", "function")
    assert (even.get_xscale(), even.get_yscale()) == ("linear", "linear")
    assert even.get_xlim() == even.get_ylim()
    assert even.get_xlim()[1] < 0.2
    both = plot_reliability(proba, y, classes=CLASSES)  # all but the commonest
    assert [name.split(":")[0] for name in legend(both)] == ["bottom", "peak"]


@pytest.mark.parametrize(
    ("proba", "y"),
    [
        (forecast(200)[0], np.full(200, "slope")),  # no event came
        (forecast(200)[0], np.full(200, "peak")),
        (np.full((50, 3), 1 / 3), forecast(50)[1]),  # one prediction: one bin
        (np.tile([0.0, 1.0, 0.0], (50, 1)), np.full(50, "slope")),
        (forecast(1)[0], np.array(["peak"])),
        (np.empty((0, 3)), np.array([], dtype=str)),
    ],
)
def test_reliability_of_degenerate_data(proba, y):
    drawn(plot_reliability(proba, y, classes=CLASSES, events=["bottom", "peak"]))
    drawn(plot_reliability(proba, y, classes=CLASSES, sample_weight=np.zeros(len(y))))


def test_reliability_names_what_does_not_fit():
    proba, y = forecast(10)
    with pytest.raises(EnsembleKitError, match=r"must have shapes \(n, 2\), \(n,\) and \(n,\); got \(10, 3\)"):
        plot_reliability(proba, y, classes=["a", "b"])
    with pytest.raises(EnsembleKitError, match=r"`events` must be among .* got \['Peak'\]"):
        plot_reliability(proba, y, classes=CLASSES, events=["Peak"])
    proba[3, 1] = np.nan
    with pytest.raises(EnsembleKitError, match=r"`proba` must be finite where rows count; row 3 has"):
        plot_reliability(proba, y, classes=CLASSES)


def color_of(ax, event):
    (group,) = [group for group in ax.containers if group.get_label().startswith(f"{event}:")]
    return group[0].get_color()


@pytest.mark.parametrize("classes", [["bottom", "slope", "peak"], ["Bottom", "Slope", "Peak"], ["up", "flat", "down"]])
def test_reliability_has_the_colours_of_directions(classes):
    proba, y = forecast(500)
    y = np.array(classes)[[CLASSES.index(name) for name in y]]
    ax = plot_reliability(proba, y, classes=classes, events=classes[::-1])
    assert (color_of(ax, classes[0]), color_of(ax, classes[2])) == (GREEN, VERMILION)
    assert color_of(ax, classes[1]) not in (GREEN, VERMILION)


def test_classes_without_directions_have_neither_colour():
    proba, y = forecast(500)
    y = np.array(["a", "b", "c"])[[CLASSES.index(name) for name in y]]
    ax = plot_reliability(proba, y, classes=["a", "b", "c"], events=["a", "b", "c"])
    assert not {color_of(ax, event) for event in "abc"} & {GREEN, VERMILION}


def test_reliability_draws_the_only_class_that_came():
    proba, _ = forecast(3)
    assert legend(plot_reliability(proba, np.full(3, "slope"), classes=CLASSES)) == ["slope: 3 of 3 rows"]


@pytest.mark.parametrize("size", [(12, 8), (6.4, 4.8)])
@pytest.mark.parametrize("layout", [None, "constrained"])
def test_no_head_lies_outside_its_place_in_a_grid(size, layout):
    """With or without a layout of its own, a grid has room for each title, legend and label."""
    figure = Figure(figsize=size, layout=layout)
    grid = figure.subplots(2, 2)
    bars, (proba, y) = walk(300), forecast(300)
    position = np.sign(np.sin(np.arange(300) / 9))
    result = backtest(bars, position)
    drawn_in = [
        plot_equity(result, ax=grid[0, 0]),
        plot_pnl(result, ax=grid[0, 1]),
        plot_reliability(proba, y, classes=CLASSES, before=proba, ax=grid[1, 0]),
        plot_signals(bars, position, labels=y, ax=grid[1, 1]),
    ]
    figure.draw_without_rendering()
    figure.draw_without_rendering()
    whole, middle = figure.bbox, figure.bbox.height / 2
    for k, ax in enumerate(drawn_in):
        title, legend_box = ax._left_title.get_window_extent(), ax.get_legend().get_window_extent()
        assert title.y1 <= whole.y1
        assert legend_box.y1 <= title.y0 + 4
        assert max(title.x1, legend_box.x1) <= whole.x1
        assert k < 2 or title.y1 < min(one.get_tightbbox().y0 for one in drawn_in[:2]) < 1.4 * middle


def test_pictures_leave_given_layouts_alone():
    figure = Figure(layout="compressed")
    engine = figure.get_layout_engine()
    plot_signals(walk(20), np.ones(20), ax=figure.subplots())
    assert figure.get_layout_engine() is engine
    by_hand = Figure()
    plot_signals(walk(20), np.ones(20), ax=by_hand.add_axes((0.1, 0.1, 0.8, 0.6)))
    assert by_hand.get_layout_engine() is None


def test_many_turns_are_small():
    few, many = (
        plot_signals(frame(np.full(n, 50.0)), np.where(np.arange(n) % 2, 1, -1), last=None) for n in (30, 5000)
    )
    sizes = [line(ax, "Turns long").get_markersize() for ax in (few, many)]
    assert sizes[0] == 7
    assert sizes[1] < 3.5
    assert plot_signals(walk(1), [1]).get_title(loc="left").startswith("Close and position, 1 bar, ")


# --------------------------------------------------------------------------- weights


@pytest.mark.parametrize(("members", "horizons"), [(1, 1), (3, 2), (8, 6)])
def test_weights_and_temperatures_of_each_member(members, horizons):
    rng = np.random.default_rng(0)
    names = [f"member {m}" for m in range(members)]
    weights = pd.DataFrame(rng.random((members, horizons)), index=names).add_prefix("H")
    temperatures = np.exp(weights)
    given = Figure(layout="constrained").subplots(1, 2)
    left, right = plot_weights(weights, temperatures, axes=given)
    assert [left, right] == list(given)
    drawn(left)
    drawn(plot_weights(weights, temperatures)[0])
    widths = [[bar.get_width() for bar in container] for container in left.containers]
    assert_allclose(np.transpose(widths), weights)
    for name in weights:
        assert_allclose(line(right, name).get_xdata(), temperatures[name])
    marked = [artist.get_xdata() for artist in right.lines if artist.get_linestyle() == "--"]
    assert marked == [[1, 1]]
    assert [text.get_text() for text in left.get_yticklabels()] == names
    assert left.get_ylim() == (members - 0.5, -0.5)


def test_weights_unknown_or_extreme():
    weights = pd.DataFrame({"H0": [0.0, 1.0, np.nan]}, index=list("abc"))
    _, right = plot_weights(weights, pd.DataFrame({"H0": [0.1, 8.0, np.nan]}, index=list("abc")))
    low, high = drawn(right).get_xlim()
    assert low < 0.1
    assert high > 8
    drawn(plot_weights(weights, weights * np.nan)[0])
    with pytest.raises(EnsembleKitError, match=r"must have the same members and horizons; got .*'H0'.*'H1'"):
        plot_weights(weights, weights.rename(columns={"H0": "H1"}))


# --------------------------------------------------------------------------- equity


def test_equity_in_percent_with_drawdown_below():
    bars = walk(200)
    result = backtest(bars, np.sign(np.sin(np.arange(200) / 9)))
    given = given_axes()
    ax = drawn(plot_equity(result, ax=given))
    assert ax is given
    assert_allclose(ax.lines[0].get_ydata(), result.buy_and_hold / 100_000 - 1)
    assert_allclose(ax.lines[1].get_ydata(), result.equity / 100_000 - 1)
    below = ax.figure.axes[-1]
    assert below.get_ylabel() == "Drawdown"
    assert below.get_xlim() == ax.get_xlim()
    assert below.get_window_extent().y1 < ax.get_window_extent().y0
    lowest = below.collections[0].get_paths()[0].vertices[:, 1].min()
    assert lowest == pytest.approx(result.metrics["max_drawdown"])
    assert "Sharpe" in legend(ax)[1]


@pytest.mark.parametrize(
    ("bars", "weight", "title"),
    [
        (walk(50), 0, "Equity after costs, 0 trades"),
        (walk(1), 1, "Equity after costs, 0 trades"),
        (walk(2), 1, "Equity after costs, 1 trade"),
        (frame(np.full(20, 5.0)), 1, "Equity after costs, 1 trade"),
        (frame([10, 10, 3, 3, 3]), 2, "Equity after costs, 1 trade"),  # ruined
    ],
)
def test_equity_of_degenerate_runs(bars, weight, title):
    result = backtest(bars, np.full(len(bars), weight), max_leverage=2)
    assert drawn(plot_equity(result)).get_title(loc="left") == title
    drawn(plot_equity(result, ax=Figure().add_axes((0.1, 0.5, 0.8, 0.4))))  # no cell to part


def test_equity_names_what_is_no_result():
    with pytest.raises(
        EnsembleKitError, match=r"^`result` must be a BacktestResult; got ndarray\. Pass what `backtest`"
    ):
        plot_equity(np.ones(3))


# --------------------------------------------------------------------------- files and state


def test_save_figure_takes_axes_figures_and_lists(tmp_path):
    figure = Figure(figsize=(2, 1))
    axes = figure.subplots(1, 2)
    nested = Figure(figsize=(2, 1)).subfigures(1, 2)[0].subplots()
    for k, thing in enumerate([axes[0], axes, tuple(axes), figure, nested]):
        path = save_figure(thing, tmp_path / "pictures" / f"{k}.png", dpi=50)
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert int.from_bytes(data[16:20], "big") == 100  # width in pixels


def test_leaves_no_global_state():
    code = (
        "import sys; from ensemble_kit.reports import plot_weights; import pandas as pd;"
        "w = pd.DataFrame({'H0': [1.0]}); plot_weights(w, w)[0].figure.draw_without_rendering();"
        "print({'matplotlib.pyplot', 'torch', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert isinstance(plot_signals(walk(5), np.ones(5)), Axes)


@pytest.mark.parametrize(("n_events", "n_bins"), [(8, 3), (20, 5), (400, 10)])
def test_rare_events_get_as_many_bins_as_they_can_fill(n_events, n_bins):
    rng = np.random.default_rng(0)
    came = np.arange(20 * n_events) % 20 == 0
    p = np.clip(0.01 + came * rng.uniform(0.1, 0.9, len(came)) + rng.uniform(0, 0.01, len(came)), 0, 1)
    ax = plot_reliability(np.column_stack([1 - p, p]), came, classes=[False, True], events=[True])
    (drawn,) = (line for line in ax.get_lines() if line.get_marker() == "o" and len(line.get_xdata()) > 1)
    assert len(drawn.get_xdata()) <= n_bins
    assert len(drawn.get_xdata()) >= n_bins - 1
