"""The interactive twins hold what the pictures show, in a file that needs nothing else."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose, assert_array_equal

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports.beliefs import plot_beliefs
from ensemble_kit.reports.interactive import interactive_beliefs, interactive_equity
from ensemble_kit.sizing.backtest import BacktestResult, backtest

CLASSES = ["buy", "hold", "sell"]
GREEN, VERMILION = "#009E73", "#D55E00"


def beliefs(n, seed=0):
    logits = pd.DataFrame(np.random.default_rng(seed).normal(size=(n, 3))).ewm(span=8).mean() * 6
    proba = np.exp(logits.to_numpy())
    return proba / proba.sum(axis=1, keepdims=True)


def traces(figure, **wanted):
    return [trace for trace in figure.data if all(getattr(trace, key) == value for key, value in wanted.items())]


def equity_like(equity):
    """What `interactive_equity` asks of a result, of any length."""
    rng = np.random.default_rng(1)
    series = pd.Series(equity, pd.date_range("2020-01-01", periods=len(equity), freq="min"))
    net = rng.uniform(-1, 1, len(equity))
    return BacktestResult(
        returns=series.pct_change(),
        traded=0.0 * series,
        position=0.0 * series,
        fills=pd.DataFrame(),
        trades=pd.DataFrame(),
        equity=series,
        buy_and_hold=series.iloc[::-1].set_axis(series.index),
        exposure=pd.DataFrame({"gross": np.abs(net), "net": net}, series.index),
        metrics={"trades": 3, "total_return": 0.1, "buy_and_hold": -0.1, "sharpe": 1.0, "buy_and_hold_sharpe": np.nan},
    )


def test_shade_lines_and_crossings_are_those_of_the_picture():
    bars, proba = make_bars(200, random_state=0), beliefs(200)
    proba[:15] = np.nan
    proba[20] = [1, 0, 0]
    known = {"classes": CLASSES, "threshold": {"buy": 0.6, "sell": 0.7}, "last": 190}
    figure, ax = interactive_beliefs(bars, proba, **known), plot_beliefs(bars, proba, **known)
    (shade,) = traces(figure, type="heatmap")
    z = np.asarray(shade.z)
    assert z.shape == (1, 190)
    assert shade.x0 - shade.dx / 2 == 10.5  # from the first bar's close on
    stops, colors = zip(*shade.colorscale, strict=True)
    at = np.rint(z[0] / shade.zmax * (len(stops) - 1))
    blank = np.isnan(at)
    assert_array_equal(blank, np.isnan(proba[10:, 0]))
    rgb = np.array([[int(part) for part in re.findall(r"\d+", color)] for color in colors]) / 255
    drawn = rgb[at[~blank].astype(int)]
    assert_allclose(drawn, ax.images[0].get_array()[0, ~blank, :3], atol=0.02)  # beliefs to the nearest 1/50
    assert_allclose(drawn[20 - 15], 0.5 + 0.5 * np.array(to_rgb(GREEN)), atol=0.002)
    for column, label, side, least in ((0, "buy", "Long", 0.6), (2, "sell", "Short", 0.7)):
        p = proba[:, column]
        rows = [t for t in range(10, 200) if p[t] >= least and p[t - 1] < least]
        name = f"{side} ({label}): {len(rows)} crossings"
        line, *verticals = traces(figure, legendgroup=name)
        assert line.name == name
        assert (line.x[0], line.line.shape) == (10.5, "hv")
        assert_array_equal(line.y[:-1], p[10:])
        assert [trace.yaxis for trace in verticals] == ["y", "y2"]
        for trace in verticals:
            assert_array_equal(trace.x[::3], np.array(rows) + 0.5)
    assert [shape.y0 for shape in figure.layout.shapes] == [0.7, 0.6]


@pytest.mark.parametrize(("last", "kinds"), [(2000, 1), (2001, 0)])
def test_candles_give_way_to_ranges(last, kinds):
    bars = make_bars(2400, random_state=0)
    figure = interactive_beliefs(bars, beliefs(2400), classes=CLASSES, last=last)
    assert len(traces(figure, type="candlestick")) == kinds
    (closes,) = traces(figure, name="Close")
    assert_array_equal(closes.x, np.arange(2400 - last, 2400))
    assert_array_equal(closes.y, bars["close"].to_numpy()[-last:])
    for trace in traces(figure, type="candlestick"):
        for price in ("open", "high", "low", "close"):
            assert_array_equal(trace[price], bars[price].to_numpy()[-last:])


def test_pointing_shows_time_prices_and_beliefs():
    bars = make_bars(5, random_state=0)
    proba = np.array([[0.5, 0.3, 0.2]] * 5)
    proba[1] = np.nan
    bars.iloc[:] = [10.0, 12, 9, 11, 100]
    (closes,) = traces(interactive_beliefs(bars, proba, classes=CLASSES), name="Close")
    assert closes.text[0] == "03 Jan 2022, 14:30<br>O 10 H 12 L 9 C 11<br>buy: 0.500<br>sell: 0.200<br>neither: 0.300"
    assert closes.text[1] == "03 Jan 2022, 14:35<br>O 10 H 12 L 9 C 11<br>belief not known"


def test_ticks_are_times_at_any_zoom():
    bars = make_bars(300, random_state=0)
    axis = interactive_beliefs(bars, beliefs(300), classes=CLASSES, last=100).layout.xaxis
    assert axis.labelalias["200"] == f"{bars.index[200]:%d %b %Y<br>%H:%M}"
    assert set(axis.labelalias) == {str(row) for row in range(200, 301)}
    assert axis.labelalias["300"] == " "
    assert tuple(axis.range) == (199.5, 300.5)
    assert axis.rangeslider.visible is False
    daily = bars[:100].set_axis(pd.date_range("2024-01-01", periods=100))
    axis = interactive_beliefs(daily, beliefs(100), classes=CLASSES).layout.xaxis
    assert axis.labelalias["1"] == "02 Jan 2024"


def test_turns_are_marked_in_hindsight():
    bars = make_bars(12, random_state=0)
    turns = ["slope", "peak", "slope", "bottom", *["slope"] * 7, np.nan]
    figure = interactive_beliefs(bars, beliefs(12), classes=["bottom", "slope", "peak"], labels=turns)
    for name, at, price in (("Peak", 1, "high"), ("Bottom", 3, "low")):
        drawn, in_legend = traces(figure, name=f"{name} in hindsight")
        assert (drawn.x.tolist(), drawn.y.tolist()) == ([at], [bars[price].iloc[at]])
        assert (drawn.showlegend, in_legend.showlegend) == (False, None)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_beliefs_of_nothing_in_particular(n):
    bars = make_bars(n, random_state=0)
    for proba in (np.full((n, 3), np.nan), np.full((n, 3), 1 / 3)):
        for frame in (bars, bars * np.nan):
            figure = interactive_beliefs(frame, proba, classes=CLASSES, threshold=0.5, labels=["buy"] * n)
            json.loads(figure.to_json())


def test_says_what_does_not_fit():
    bars = make_bars(5, random_state=0)
    with pytest.raises(EnsembleKitError) as caught:
        interactive_beliefs(bars, np.full((5, 3), 0.5), classes=CLASSES)
    assert str(caught.value) == (
        "`proba` must hold probabilities that sum to 1; row 0 has [0.5, 0.5, 0.5]. "
        "Pass `predict_proba`, not logits or log-probabilities."
    )


def test_equity_is_drawn_whole_while_it_is_short():
    result = backtest(make_bars(400, random_state=0), np.sign(np.sin(np.arange(400) / 20)))
    hold, own, _, fall, gross, net = interactive_equity(result).data
    assert_array_equal(own.y, result.equity)
    assert_array_equal(hold.y, result.buy_and_hold)
    assert_array_equal(fall.y, result.drawdown)
    assert_array_equal(gross.y, result.exposure["gross"])
    assert_array_equal(net.y, result.exposure["net"])
    assert own.text[0].startswith(
        "03 Jan 2022, 14:30<br>Position 100,000.00, drawdown 0.00%<br>Buy and hold 100,000.00"
    )
    assert own.name.startswith("Position: ")


@pytest.mark.parametrize("n", [1, 2, 4200, 4201, 100_000])
def test_thinned_equity_keeps_its_extremes(n):
    rng = np.random.default_rng(0)
    result = equity_like(1e5 * np.exp(np.cumsum(rng.normal(scale=1e-3, size=n))))
    figure = interactive_equity(result)
    own, fall, net = figure.data[1], figure.data[3], figure.data[5]
    rows = np.asarray(own.x)
    assert rows[0] == 0
    assert rows[-1] == n - 1
    assert (np.diff(rows) > 0).all()
    assert len(rows) <= min(n, 9000)
    equity, drawdown = result.equity.to_numpy(), result.drawdown.to_numpy()
    assert_array_equal(own.y, equity[rows])
    assert_array_equal(fall.y, drawdown[rows])
    size = -(-n // 700)
    if n > 4200:
        starts = np.arange(0, n, size)
        assert set(starts) | set(np.minimum(starts + size, n) - 1) <= set(rows)
    for drawn, whole in ((own, equity), (fall, drawdown), (net, result.exposure["net"].to_numpy())):
        for start in range(0, n, max(size, 1)):
            inside = (rows >= start) & (rows < start + size)
            assert np.asarray(drawn.y)[inside].min() == whole[start : start + size].min()
            assert np.asarray(drawn.y)[inside].max() == whole[start : start + size].max()
    assert len(figure.to_json()) < 3_000_000
    assert figure.data[0].name == "Buy and hold: \N{MINUS SIGN}10.0%"


def test_equity_of_ruin_and_of_a_panel():
    bars = make_bars(50, random_state=0)
    ruined = equity_like(np.r_[100.0, 50, np.zeros(20)])
    ruined = dataclasses.replace(ruined, buy_and_hold=ruined.equity * 0)
    json.loads(interactive_equity(ruined).to_json())
    panel = pd.concat({"A": bars, "B": bars[10:]}).swaplevel().sort_index()
    figure = interactive_equity(backtest(panel, np.full(90, 0.5)))
    assert len(figure.data[1].x) == 50


def test_a_file_needs_nothing_else(shared_data, tmp_path):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")[-5000:]
    figure = interactive_beliefs(bars, beliefs(5000), classes=CLASSES, threshold=0.6, last=None)
    assert len(figure.to_json()) < 4_000_000
    figure.write_html(tmp_path / "chart.html", include_plotlyjs=True)
    text = (tmp_path / "chart.html").read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", text[:5000] + text[-5000:])
    assert "plotly.js v" in text


def test_title_and_legend_leave_each_other_alone_on_a_phone():
    figure = interactive_beliefs(make_bars(200, random_state=0), beliefs(200), classes=CLASSES)
    assert figure.layout.title.text == "Beliefs at the close, 200 bars"
    assert figure.layout.title.subtitle.text == "2022-01-03 to 2022-01-05"
    assert figure.layout.legend.y < 0


def test_equity_names_what_is_no_result():
    with pytest.raises(
        EnsembleKitError, match=r"^`result` must be a BacktestResult; got Series\. Pass what `backtest`"
    ):
        interactive_equity(pd.Series([1.0, 2.0]))
