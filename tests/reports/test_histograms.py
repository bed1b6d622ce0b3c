"""Histograms hold every trade and every row, in the right colour; their figures are those of the account."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports import save_figure
from ensemble_kit.reports.confidence_histogram import plot_confidence
from ensemble_kit.reports.trades import plot_pnl
from ensemble_kit.sizing.backtest import backtest

CLASSES = ["bottom", "slope", "peak"]
SIZES = [(4, 3), (12, 7)]


def given_axes(size=(4, 3)):
    return Figure(figsize=size, layout="constrained").subplots()


def drawn(ax):
    ax.figure.draw_without_rendering()  # ticks, layout and legends are made here: their warnings, too
    return ax


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def title(ax):
    return ax.get_title(loc="left").replace("\n", " ")


def bars_of(ax, name):
    (found,) = [group for group in ax.containers if group.get_label().split(":")[0].endswith(name)]
    return found


def count(ax, name):
    return round(sum(bar.get_height() for bar in bars_of(ax, name)))


def trades(*returns):
    return pd.DataFrame({"return": returns, "pnl": 1e5 * np.array(returns)})


# --------------------------------------------------------------------------- trades


def account(costs=1.0, n=2000):
    bars = make_bars(n, random_state=0)
    held = np.sign(np.sin(np.arange(n) / 7)) * (np.arange(n) % 60 < 50)
    return backtest(bars, held, costs=costs)


def test_gains_and_losses_are_those_of_the_account():
    result = account()
    given = given_axes((12, 7))
    ax = drawn(plot_pnl(result, ax=given))
    assert ax is given
    returns, m = result.trades["return"], result.metrics
    assert (count(ax, "gains"), count(ax, "losses")) == ((returns > 0).sum(), (returns < 0).sum())
    assert all(bar.get_x() >= 0 for bar in bars_of(ax, "gains") if bar.get_height())
    assert all(bar.get_x() + bar.get_width() < 1e-12 for bar in bars_of(ax, "losses") if bar.get_height())
    won, factor = title(ax).split(": win rate ")[1].split("%, profit factor ")
    assert float(won) == pytest.approx(100 * m["win_rate"], abs=0.05)
    assert float(factor) == pytest.approx(m["profit_factor"], abs=0.005)
    mean, median = (next(line for line in ax.lines if line.get_label().startswith(n)) for n in ("mean", "median"))
    assert (mean.get_xdata()[0], median.get_xdata()[0]) == pytest.approx((returns.mean(), returns.median()))
    assert title(ax) == title(plot_pnl(result.trades, ax=given_axes((12, 7))))


def test_bars_are_drawn_where_equity_moved():
    result = account()
    ax = drawn(plot_pnl(result, of="bars"))
    moved = int((result.returns != 0).sum())
    assert title(ax).startswith(f"{moved:,} bars: win rate ")
    assert count(ax, "gains") + count(ax, "losses") == moved
    with pytest.raises(EnsembleKitError, match=r"^`result` must be a BacktestResult to draw bars; got DataFrame\."):
        plot_pnl(result.trades, of="bars")


def test_the_interval_of_the_mean_is_students():
    (label,) = [name for name in legend(plot_pnl(trades(0.01, 0.03))) if name.startswith("mean")]
    assert label == "mean +2% \N{PLUS-MINUS SIGN} 13%"  # 12.7 standard errors of 1 %


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([0.01], "1 trade: win rate 100%, profit factor none (no loss)"),
        ([-0.01], "1 trade: win rate 0%, profit factor 0.00"),
        ([0.01, 0.02, 0.4], "3 trades: win rate 100%, profit factor none (no loss)"),
        ([0.0, 0.0], "2 trades: win rate 0%, profit factor none (no loss)"),
        ([0.01] * 9, "9 trades: win rate 100%, profit factor none (no loss)"),
        ([1e-9, -3e-9, 2e-9], "3 trades: win rate 66.7%, profit factor 1.00"),
        ([-1.0, 5.0, 0.0], "3 trades: win rate 33.3%, profit factor 5.00"),
    ],
)
def test_few_trades(returns, expected, size):
    ax = drawn(plot_pnl(trades(*returns), ax=given_axes(size)))
    assert title(ax) == expected
    assert sum(bar.get_height() for group in ax.containers for bar in group) == len(returns)
    left, right = ax.get_xlim()
    assert left < 0 < right
    assert 2 <= len(ax.containers[0]) <= 130


def test_far_outliers_are_counted_in_the_end_bins():
    body = np.random.default_rng(0).normal(0, 0.001, 500)
    ax = drawn(plot_pnl(trades(*body, 0.9, -0.9, 0.7)))
    assert "3 farther out" in ax.get_xlabel()
    assert ax.get_xlim()[1] < 0.02
    assert count(ax, "gains") == (body > 0).sum() + 2
    assert bars_of(ax, "gains")[-1].get_height() >= 2


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ([-1.0, -1.0, -1.0], ["mean \N{MINUS SIGN}100% \N{PLUS-MINUS SIGN} 0%", "median \N{MINUS SIGN}100%"]),
        ([0.01], ["mean +1.0%", "median +1.0%"]),
        ([0.0, 0.0], ["mean 0% \N{PLUS-MINUS SIGN} 0%", "median 0%"]),
        (
            [0.00005, 0.0001, 0.0],
            ["mean +0.005% \N{PLUS-MINUS SIGN} 0.012%", "median +0.005%"],
        ),
    ],
)
def test_mean_interval_and_median_have_the_same_digits(returns, expected):
    assert [name for name in legend(plot_pnl(trades(*returns))) if name.startswith("me")] == expected


def test_a_mean_off_the_axis_is_said_to_be():
    names = legend(plot_pnl(trades(*np.tile([-0.001, 0.001, 0.002], 10), 50.0)))
    assert [name.endswith(" (off the axis)") for name in names if name.startswith(("mean", "median"))] == [True, False]


def test_pnl_names_what_does_not_fit():
    flat = backtest(make_bars(50, random_state=0), np.zeros(50))
    with pytest.raises(
        EnsembleKitError, match=r"^`result` must have at least one trade; got none\. Look at its positions"
    ):
        plot_pnl(flat)
    with pytest.raises(
        EnsembleKitError, match=r"^`result` must have at least one bar on which equity moved; got none\."
    ):
        plot_pnl(flat, of="bars")
    with pytest.raises(EnsembleKitError, match=r"^`of` must be 'trades' or 'bars'; got 'days'\."):
        plot_pnl(flat, of="days")
    with pytest.raises(EnsembleKitError, match=r"or a frame of trades with the column return; got ndarray\. Pass what"):
        plot_pnl(np.ones(3))
    with pytest.raises(EnsembleKitError, match=r"^`result` must hold finite returns; got others\."):
        plot_pnl(trades(0.1, np.nan))


# --------------------------------------------------------------------------- confidence


def forecast(n=2000, seed=0, alpha=(1.0, 4.0, 1.0)):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(alpha, n)
    y = np.array(CLASSES)[(proba.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 2)]
    return proba, y


def below_of(ax):
    return ax.figure.axes[-1]


def shares(below):
    """What the points say: probability and share, of the bins with enough rows and of the others."""
    full, hollow = [line.get_xydata() for line in below.lines if line.get_marker() == "o"]
    return full, hollow


def test_right_and_wrong_add_up_bin_by_bin():
    proba, y = forecast()
    given = given_axes((8, 5))
    ax = drawn(plot_confidence(proba, y, classes=CLASSES, n_bins=10, ax=given))
    assert ax is given
    right = np.array(CLASSES)[proba.argmax(axis=1)] == y
    edges = np.linspace(1 / 3, 1, 11)
    hits = np.histogram(proba.max(axis=1)[right], edges)[0]
    every = np.histogram(proba.max(axis=1), edges)[0]
    assert_allclose([bar.get_height() for bar in bars_of(ax, "right")], hits)
    assert_allclose([bar.get_y() for bar in bars_of(ax, "wrong")], hits)
    assert_allclose([bar.get_height() for bar in bars_of(ax, "wrong")], every - hits)
    full, hollow = shares(below_of(ax))
    middle = (edges[1:] + edges[:-1]) / 2
    assert_allclose(full, np.column_stack([middle, hits / np.maximum(every, 1)])[every >= 30])
    assert_allclose(hollow, np.column_stack([middle, hits / np.maximum(every, 1)])[(every > 0) & (every < 30)])
    frequent = (y == "slope").mean()
    assert title(ax) == f"Confidence of 2,000 rows: {right.mean():.1%} right, {frequent:.1%} without looking"
    assert [line.get_ydata()[0] for line in below_of(ax).lines if line.get_linestyle() == "--"] == [frequent]
    assert {"without looking", "as promised"} < set(legend(ax))


def test_of_an_event_right_is_where_it_came():
    proba, y = forecast(alpha=(0.2, 9.0, 0.2))
    ax = drawn(plot_confidence(proba, y, classes=CLASSES, event="peak"))
    assert legend(ax)[2:] == [f"peak came: {(y == 'peak').sum():,}", f"it did not: {(y != 'peak').sum():,}"]
    assert title(ax) == f"Probability of peak: came in {(y == 'peak').mean():.2%} of 2,000 rows"
    assert ax.get_ylabel() == "Rows, root scale"
    assert ax.get_xlim()[0] == 0


def test_rows_of_weight_0_are_left_out():
    proba, y = forecast(300)
    weight = np.arange(300) % 3 > 0
    unknown = np.where(weight[:, None], proba, np.nan)
    one = plot_confidence(unknown, y, classes=CLASSES, sample_weight=weight)
    two = plot_confidence(proba[weight], y[weight], classes=CLASSES)
    assert title(one) == title(two)
    assert legend(one) == legend(two)


@pytest.mark.parametrize("size", SIZES)
def test_a_class_never_predicted_one_row_and_one_probability(size):
    proba, y = forecast(200)
    sure = np.column_stack([0.3 * proba[:, 0], 1 - 0.3 * proba[:, 0], np.zeros(200)])
    for event in (None, "peak", "slope"):
        ax = drawn(plot_confidence(sure, y, classes=CLASSES, event=event, ax=given_axes(size)))
        assert sum(bar.get_height() for group in ax.containers for bar in group) == 200
    drawn(plot_confidence([[0.0, 1.0, 0.0]], ["peak"], classes=CLASSES, ax=given_axes(size)))
    drawn(plot_confidence(np.full((50, 2), 0.5), np.zeros(50), classes=[0, 1], ax=given_axes(size)))


def test_confidence_names_what_does_not_fit():
    proba, y = forecast(20)
    with pytest.raises(
        EnsembleKitError, match=r"^`proba`, `y` and `sample_weight` must have shapes \(n, 2\), .* Draw one"
    ):
        plot_confidence(proba, y, classes=["bottom", "peak"])
    with pytest.raises(EnsembleKitError, match=r"^`event` must be one of bottom, slope, peak; got 'buy'\."):
        plot_confidence(proba, y, classes=CLASSES, event="buy")
    with pytest.raises(EnsembleKitError, match=r"^`proba` must have at least one row of weight above 0; got none\."):
        plot_confidence(proba, y, classes=CLASSES, sample_weight=np.zeros(20))
    for wrong in (proba * 2, proba - 1, np.where(np.arange(20)[:, None] == 3, np.nan, proba)):
        with pytest.raises(
            EnsembleKitError, match=r"^`proba` must hold probabilities that sum to 1 on rows that count"
        ):
            plot_confidence(wrong, y, classes=CLASSES)
    with pytest.raises(
        EnsembleKitError, match=r"^`n_bins` must be an integer of at least 2; got 1\. 20 are readable\.$"
    ):
        plot_confidence(proba, y, classes=CLASSES, n_bins=1)


def test_on_real_bars_in_a_grid(shared_data, tmp_path):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")[:3000]
    result = backtest(bars, np.sign(bars["close"].diff(12).fillna(0)), costs=0.5)
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax, of in zip(axes.flat, ("trades", "bars", "trades", "bars"), strict=True):
        plot_pnl(result, of=of, ax=ax)
    assert save_figure(axes, tmp_path / "pnl.png", dpi=60).stat().st_size > 5_000
