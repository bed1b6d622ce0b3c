"""The pictures of waves: lines that are those of the bars, and forecasts in the unit of the targets."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.reports.waves import plot_wave_forecasts, plot_waves
from ensemble_kit.waves import extract_waves, wave_features, wave_targets

BARS = make_bars(1000, random_state=0)
WAVES = extract_waves(BARS)
TRUE = wave_targets(WAVES).labels
FORECAST, ACTUAL = "Forecast (length: hindsight)", "Came true (hindsight)"


def drawn(ax):
    ax.figure.draw_without_rendering()  # ticks, layout and legends are made here: their warnings, too
    return ax


def lines(ax, name):
    """Points of the lines of a name, (points, 2) each."""
    (found,) = [collection for collection in ax.collections if collection.get_label() == name]
    return found.get_segments()


def diamonds(ax):
    (marks,) = [line for line in ax.lines if line.get_marker() == "D"]
    return list(marks.get_xdata()), list(marks.get_ydata())


def holed(bars):
    rng = np.random.default_rng(0)
    bars = bars.copy()
    bars.iloc[rng.random(len(bars)) < 0.1, :4] = np.nan
    return bars


@pytest.mark.parametrize("make", [lambda bars: bars, holed])
def test_lines_are_the_least_squares_of_each_wave(make):
    bars = make(BARS)
    waves = extract_waves(bars)
    ax = drawn(plot_waves(bars, waves, last=None))
    for side in ("high", "low"):
        drawn_lines = lines(ax, f"Line through {side}s")
        assert len(drawn_lines) == len(waves)
        for line, first, last in zip(drawn_lines, waves["first"], waves["last"], strict=True):
            prices = bars[side].iloc[first : last + 1].dropna()
            k = np.arange(len(prices))
            fitted = np.polynomial.Polynomial.fit(k, prices, 1)(k)
            np.testing.assert_array_equal(line[:, 0], bars.index.get_indexer(prices.index))
            np.testing.assert_allclose(line[:, 1], fitted, rtol=1e-9)
    known = bars.index.get_indexer(waves.index)
    assert diamonds(ax) == (known.tolist(), bars["close"].iloc[known].tolist())


def test_every_other_wave_is_shaded_in_any_part():
    ax, newest = drawn(plot_waves(BARS, WAVES, last=None)), drawn(plot_waves(BARS, WAVES, last=250))
    odd = [row for first, last in WAVES[["first", "last"]].iloc[1::2].to_numpy() for row in range(first, last + 1)]
    for picture, first in ((ax, 0), (newest, 750)):
        shades = [one for one in picture.collections if one.get_zorder() == 0]
        spans = [path.vertices[:, 0] for shade in shades for path in shade.get_paths()]
        shaded = [x for x in range(1000) if any(span.min() < x < span.max() for span in spans)]
        assert [x for x in shaded if x >= first] == [x for x in odd if x >= first]
    assert newest.get_xlim() == (749.5, 999.5)
    count = int((WAVES["last"] >= 750).sum())
    assert newest.get_title(loc="left").startswith(f"Waves: {count} in 250 bars, 2022-01-")
    assert len(lines(newest, "Line through highs")) == count


def test_forecasts_are_in_the_unit_of_the_targets():
    """What came true has, in prices, the slopes of the waves that followed."""
    y_pred = -2.0 * TRUE
    ax = drawn(plot_wave_forecasts(BARS, WAVES, y_pred, y_true=TRUE, last=None))
    following = WAVES.iloc[1:]
    known = BARS.index.get_indexer(WAVES.index[:-1])
    assert diamonds(ax)[0] == known.tolist()  # the last wave has no target, so here no forecast either
    for name, factor in ((ACTUAL, 1.0), (FORECAST, -2.0)):
        both = lines(ax, name)
        for k, side in enumerate(("high", "low")):
            for line, t, slope, n in zip(both[k::2], known, following[f"slope_{side}"], following["n"], strict=True):
                np.testing.assert_allclose(line[:, 1], BARS[side].iloc[t] + factor * slope * np.arange(n), rtol=1e-9)
                np.testing.assert_array_equal(line[:, 0], t + np.arange(n))


def test_the_newest_forecast_goes_past_the_newest_bar():
    bars = BARS[: BARS.index.get_loc(WAVES.index[20]) + 1]  # the bar at which the 21st wave is known is the newest
    waves = extract_waves(bars)
    assert len(waves) == 21
    y_pred = wave_features(bars, waves)[["slope_high", "slope_low"]]
    ax = drawn(plot_wave_forecasts(bars, waves, y_pred, y_true=wave_targets(waves).labels))
    usual = int(waves["n"].median())
    assert lines(ax, FORECAST)[-1][:, 0].tolist() == list(range(len(bars) - 1, len(bars) - 1 + usual))
    assert np.isnan(lines(ax, ACTUAL)[-1]).all() or len(lines(ax, ACTUAL)[-1]) == 0
    assert ax.get_xlim()[1] == len(bars) + usual - 1.5


def test_forecasts_of_some_waves():
    part = TRUE.iloc[30:40]
    ax = drawn(plot_wave_forecasts(BARS, WAVES, part, last=None))
    assert diamonds(ax)[0] == BARS.index.get_indexer(part.index).tolist()
    assert len(lines(ax, FORECAST)) == 20
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [FORECAST, "Wave known to have ended"]
    whole = np.full((len(WAVES), 2), np.nan)
    whole[30:40] = part
    same = drawn(plot_wave_forecasts(BARS, WAVES, whole, last=None))
    for one, other in zip(lines(ax, FORECAST), lines(same, FORECAST), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_instrument_of_a_panel():
    panel = make_bars(400, instruments=["A", "B"], random_state=0)
    waves = extract_waves(panel)
    bars, own = panel.xs("B", level=1), waves.xs("B", level=1, drop_level=False)
    ax = drawn(plot_waves(bars, own, last=None))
    assert diamonds(ax)[0] == bars.index.get_indexer(own.index.get_level_values(0)).tolist()
    alone = drawn(plot_waves(bars, extract_waves(bars), last=None))
    for one, other in zip(lines(ax, "Line through lows"), lines(alone, "Line through lows"), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(
        EnsembleKitError, match=r"^`waves` must be of one instrument; got a panel's\. Draw `waves.xs\(instrument, level"
    ):
        plot_waves(bars, waves)
    with pytest.raises(BarsError, match=r"^`bars` must be of one instrument; got a panel\. Draw `bars.xs\("):
        plot_waves(panel, waves)


def test_real_bars(shared_data):
    bars = read_bars(shared_data / "btcusdt_5min_2023.parquet").iloc[:2500]
    waves = extract_waves(bars)
    labels = wave_targets(waves).labels
    given = Figure(figsize=(5, 3), layout="constrained").subplots()
    assert drawn(plot_waves(bars, waves, ax=given)) is given
    ax = drawn(plot_wave_forecasts(bars, waves, labels, y_true=labels, last=100))
    shown = bars.iloc[-100:]
    low, high = ax.get_ylim()
    assert high - low < 1.2 * (shown["high"].max() - shown["low"].min())  # candles set the scale, not forecasts


@pytest.mark.parametrize("n", [1, 3, 30])
def test_bars_without_waves(n):
    bars = BARS[:n]
    for quiet in (bars, bars.assign(open=5.0, high=5.0, low=5.0, close=5.0), bars.assign(open=np.nan) * np.nan):
        waves = extract_waves(quiet).iloc[:0]
        assert drawn(plot_waves(quiet, waves)).get_title(loc="left").startswith(f"Waves: 0 in {n} bar")
        drawn(plot_wave_forecasts(quiet, waves, np.empty((0, 2)), y_true=np.empty((0, 2))))


@pytest.mark.parametrize("draw", [plot_waves, lambda *args, **more: plot_wave_forecasts(*args, TRUE, **more)])
def test_names_what_does_not_fit(draw):
    theirs = r"^`waves` must be made of `bars`; 2022-\S+ \S+ is no wave of theirs\. Pass the very bars that `extract_"
    for other in (make_bars(1000, random_state=1), BARS[200:], BARS[:900]):
        with pytest.raises(EnsembleKitError, match=theirs):
            draw(other, WAVES)
    with pytest.raises(
        EnsembleKitError, match=r"^`waves` must be the frame that `extract_waves` returns; got DataFrame"
    ):
        draw(BARS, WAVES.drop(columns="atr"))
    with pytest.raises(BarsError, match=r"^`bars` must have at least one row; got 0 x 5"):
        draw(BARS[:0], WAVES)
    for last in (0, -5, 2.5):
        with pytest.raises(
            EnsembleKitError,
            match=rf"^`last` must be None or an integer of at least 1; got {last}\. Count it in bars\.$",
        ):
            draw(BARS, WAVES, last=last)


def test_slopes_that_do_not_fit():
    with pytest.raises(
        EnsembleKitError,
        match=r"^`y_pred` must have shape \(48, 2\), a row a wave, its slopes of highs and lows, NaN where unknown; "
        r"got shape \(47, 2\)\. Pass a frame, whose index says of which waves it is\.$",
    ):
        plot_wave_forecasts(BARS, WAVES, TRUE.to_numpy()[1:])
    with pytest.raises(EnsembleKitError, match=r"^`y_true` must have shape \(48, 2\), .* got infinite ones\."):
        plot_wave_forecasts(BARS, WAVES, TRUE, y_true=TRUE.fillna(np.inf))
    with pytest.raises(
        EnsembleKitError,
        match=r"^`y_pred` must have the columns slope_high and slope_low and rows of `waves`; got no slope_low\. Index",
    ):
        plot_wave_forecasts(BARS, WAVES, TRUE[["slope_high"]])
    other = TRUE.set_axis(TRUE.index + pd.Timedelta("1min"))
    with pytest.raises(EnsembleKitError, match=r"^`y_pred` must have .*; got other rows, such as 2022-\S+ \S+\. Index"):
        plot_wave_forecasts(BARS, WAVES, other)
    with pytest.raises(EnsembleKitError, match=r"^`y_pred` must have .*; got other rows, such as one twice\. Index"):
        plot_wave_forecasts(BARS, WAVES, pd.concat([TRUE, TRUE]))
