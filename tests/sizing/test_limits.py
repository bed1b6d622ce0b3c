"""Limits on positions: what they promise, and that neither later rows nor other instruments have a say."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.sessions import Session, session_times
from ensemble_kit.sizing.limits import flatten_before_close, limit_exposure, target_volatility

NEW_YORK = Session("09:30", "16:00", "America/New_York")


def panel_of(parts):
    return pd.concat(parts, names=["instrument", "datetime"]).swaplevel().sort_index()


@pytest.fixture(scope="module")
def parts():
    """Instruments of different times and lengths, one with holes."""
    a, b = make_bars(700, random_state=0), make_bars(500, random_state=1)
    b.iloc[40:47] = np.nan
    b = b.iloc[np.random.default_rng(0).random(500) < 0.7]
    return {"A": a, "B": b, "C": make_bars(3, random_state=2), "D": make_bars(1, random_state=3)}


@pytest.fixture(scope="module")
def panel(parts):
    return panel_of(parts)


def positions(bars, seed=0):
    return pd.Series(np.random.default_rng(seed).uniform(-1, 1, len(bars)), bars.index, name="w")


CAUSAL = {
    "volatility": lambda w, bars: target_volatility(w, bars, target=0.05, window=20),
    "volatility, periods given": lambda w, bars: target_volatility(
        w, bars, target=0.05, window=20, periods_per_year=2e4
    ),
    "close": lambda w, bars: flatten_before_close(w, session="XNYS"),
    "close, bar given": lambda w, bars: flatten_before_close(w, session=NEW_YORK, bar="5min"),
    "clip": lambda w, bars: limit_exposure(w, instrument=0.3),
}


@pytest.mark.parametrize("limit", CAUSAL.values(), ids=CAUSAL)
def test_a_panel_gives_each_instrument_what_it_gets_alone(parts, panel, limit):
    w = positions(panel)
    whole = limit(w, panel)
    assert whole.index.equals(panel.index)
    assert whole.name == "w"
    assert 0 < (whole != 0).mean() < 1 or limit is CAUSAL["clip"]
    for name, bars in parts.items():
        alone = limit(w.xs(name, level=1), bars)
        np.testing.assert_array_equal(whole.xs(name, level=1), alone)


CAUSAL_TOO = CAUSAL | {"gross and net": lambda w, bars: limit_exposure(w, gross=0.8, net=0.3, instrument={"A": 0.5})}


@pytest.mark.parametrize("limit", CAUSAL_TOO.values(), ids=CAUSAL_TOO)
def test_a_prefix_gives_what_the_whole_gives(panel, limit):
    w = positions(panel)
    whole = limit(w, panel)
    for k in (2, 3, 57, 400, 901):  # a panel's prefix ends at a time, not within one
        until = panel.index.get_level_values(0) <= panel.index[k][0]
        pd.testing.assert_series_equal(limit(w[until], panel[until]), whole[until], check_exact=True)


def test_positions_stay_as_they_came(panel):
    w = positions(panel)
    before = w.copy()
    for limit in CAUSAL_TOO.values():
        out = limit(w, panel)
        assert np.isfinite(out).all()
        assert not np.signbit(out[out == 0]).any()
    pd.testing.assert_series_equal(w, before)


# ------------------------------------------------------------------------------------ volatility


def test_volatility_by_hand():
    bars, window = make_bars(300, random_state=4), 30
    w = pd.Series(0.02, bars.index)
    out = target_volatility(w, bars, target=0.1, window=window, cap=1, periods_per_year=19_656)
    close = bars["close"].to_numpy()
    for t in range(300):
        returns = close[max(t - window, 0) + 1 : t + 1] / close[max(t - window, 0) : t] - 1
        wanted = 0.02 * 0.1 / (np.std(returns, ddof=1) * np.sqrt(19_656)) if t >= window else 0.0
        assert out.iloc[t] == pytest.approx(wanted, rel=1e-9)
    assert out.iloc[window] > 0


def test_returns_vary_as_targeted_on_real_bars(shared_data):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")
    scaled = target_volatility(pd.Series(1.0, bars.index), bars, target=0.10, window=780, cap=5)
    returns = (scaled.shift() * bars["close"].pct_change()).iloc[5000:]
    years = (returns.index[-1] - returns.index[0]) / pd.Timedelta(days=365.25)
    assert returns.std() * np.sqrt(len(returns) / years) == pytest.approx(0.10, rel=0.15)


def test_bars_a_year_are_counted_up_to_each_row():
    index = pd.date_range("2020-01-01", periods=400, freq="D")
    close = 100 * np.exp(np.cumsum(np.random.default_rng(5).normal(0, 0.01, 400)))
    bars = pd.DataFrame(dict.fromkeys(["open", "high", "low", "close"], close), index=index)
    w = pd.Series(1.0, index)
    counted = target_volatility(w, bars, target=0.1, window=20)
    np.testing.assert_allclose(counted, target_volatility(w, bars, target=0.1, window=20, periods_per_year=365.25))


def test_still_and_unknown_prices_are_not_traded():
    bars = make_bars(200, random_state=6)
    bars.iloc[80:120] = bars["close"].iloc[80]
    bars.iloc[150:153] = np.nan
    out = target_volatility(pd.Series(1.0, bars.index), bars, target=0.1, window=10)
    assert (out.iloc[:10] == 0).all()
    assert (out.iloc[91:120] == 0).all()
    assert (out.iloc[120:] > 0).all()
    assert target_volatility(pd.Series(1.0, bars.index), bars, target=1e9, cap=0.7).max() == 0.7
    unknown = bars.assign(open=np.nan, high=np.nan, low=np.nan, close=np.nan)
    assert (target_volatility(pd.Series(1.0, bars.index), unknown, target=0.1) == 0).all()


# -------------------------------------------------------------------------------------- exposure


def test_exposure_by_hand():
    index = pd.MultiIndex.from_product([pd.date_range("2024-01-01", periods=3), ["A", "B", "C"]])
    w = pd.Series([0.9, 0.6, -0.5, 0.1, 0.1, 0.1, 0.4, 0.4, 0.4], index)
    np.testing.assert_allclose(limit_exposure(w, instrument={"A": 0.5}), [0.5, 0.6, -0.5, 0.1, 0.1, 0.1, 0.4, 0.4, 0.4])
    np.testing.assert_allclose(limit_exposure(w, gross=1.0).iloc[:6], [0.45, 0.3, -0.25, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(limit_exposure(w, net=0.6).iloc[[0, 1, 2, 6]], [0.54, 0.36, -0.3, 0.2])
    np.testing.assert_allclose(
        limit_exposure(w, gross=1.5, net=0.8, instrument=0.5), w.clip(-0.5, 0.5) * np.repeat([1, 1, 2 / 3], 3)
    )
    pd.testing.assert_series_equal(limit_exposure(w), w)


def test_exposure_of_a_hundred_thousand_rows_is_within_limits():
    rng = np.random.default_rng(7)
    index = pd.MultiIndex.from_product([pd.date_range("2024-01-01", periods=10_000, freq="h"), list("ABCDEFGHIJ")])
    w = pd.Series(rng.normal(0, 0.3, 100_000), index)[rng.random(100_000) < 0.8]
    out = limit_exposure(w, gross=2.0, net=0.5, instrument=0.6)
    time = out.index.get_level_values(0)
    assert out.abs().max() <= 0.6
    assert out.abs().groupby(time).sum().max() <= 2 + 1e-12
    assert out.groupby(time).sum().abs().max() <= 0.5 + 1e-12
    assert (out * w >= 0).all()
    # A limit that is not reached changes nothing, and one factor holds at each time.
    factor = (out / w.clip(-0.6, 0.6)).groupby(time)
    assert (factor.max() - factor.min()).max() < 1e-12
    loose = (w.clip(-0.6, 0.6).abs().groupby(time).sum() <= 2) & (w.clip(-0.6, 0.6).groupby(time).sum().abs() <= 0.5)
    assert 0.05 < loose.mean() < 1
    assert (factor.min()[loose] == 1).all()


def test_one_instrument_is_its_own_gross_and_net():
    w = positions(make_bars(50, random_state=8))
    for limit in ("gross", "net", "instrument"):
        np.testing.assert_allclose(limit_exposure(w, **{limit: 0.4}), w.clip(-0.4, 0.4))


# --------------------------------------------------------------------------------- session's end


def held_over_the_close(w, session):
    """Whether a position decided on each row is on when its session's last known bar gives way to the next."""
    day = session_times(w.index, session).day
    last_of_session = np.append(day[1:] != day[:-1], False)
    return last_of_session[1:] & (w.to_numpy()[:-1] != 0)


def test_nothing_is_held_over_the_night_and_little_else_is_cut(shared_data):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")
    w = pd.Series(1.0, bars.index)
    assert held_over_the_close(w, "XNYS").sum() > 300
    out = flatten_before_close(w, session="XNYS", bar="5min")
    assert not held_over_the_close(out, "XNYS").any()
    times = session_times(bars.index, "XNYS")
    # Half days, too: the last two of each session, by its own length, and no other row.
    last_two = times.minute >= times.length - 10
    np.testing.assert_array_equal(out == 0, last_two)
    assert len(np.unique(times.length)) > 1
    np.testing.assert_array_equal(flatten_before_close(w, session="XNYS").iloc[1:], out.iloc[1:])


def test_rows_outside_the_session_are_flat():
    index = pd.date_range("2022-11-21", "2022-11-29", freq="5min", tz="UTC")  # Thanksgiving and its half day
    out = flatten_before_close(pd.Series(-1.0, index), session="XNYS", bar="5min")
    on = out.index[out != 0].tz_convert("America/New_York")
    # Filled at the open (decided on the bar before it) at the earliest, left at the last open.
    clock = pd.Series(on.strftime("%H:%M")).groupby(on.strftime("%m-%d"))
    days = {day: (rows.iloc[0], rows.iloc[-1]) for day, rows in clock}
    usual = ("09:25", "15:45")
    assert days == {"11-21": usual, "11-22": usual, "11-23": usual, "11-25": ("09:25", "12:45"), "11-28": usual}


def test_daily_bars_cannot_be_flat_at_night():
    w = pd.Series(1.0, pd.date_range("2024-01-01", periods=5, freq="D"))
    assert (flatten_before_close(w) == 0).all()


def test_calendar_days_are_sessions_unless_another_is_given():
    w = pd.Series(1.0, pd.date_range("2024-01-01", periods=48, freq="h"))
    hours = flatten_before_close(w, bar="1h")
    assert hours.index[hours == 0].hour.tolist() == [22, 23, 22, 23]
    # Without its length, the first bar's is unknown.
    assert (flatten_before_close(w) != hours).to_numpy().nonzero()[0].tolist() == [0]
    overnight = flatten_before_close(w.tz_localize("UTC"), session=Session("18:00", "17:00", "UTC"), bar="1h")
    assert overnight.index[overnight == 0].hour.tolist() == [15, 16, 17, 15, 16, 17]


# -------------------------------------------------------------------------------------- refusals


BARS = make_bars(10, random_state=9)
W = pd.Series(0.5, BARS.index)


def with_hole(value):
    return W.where(np.arange(10) != 3, value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: limit_exposure(W.to_numpy()), r"`position` must be a Series indexed by time.*got ndarray\. Write pd"),
        (lambda: limit_exposure(W.reset_index(drop=True)), "`position` must be a Series indexed by time"),
        (lambda: limit_exposure(with_hole(np.nan)), r"`position` must be finite; got nan at .* \(row 3; 1 such row"),
        (lambda: flatten_before_close(with_hole(-np.inf)), "`position` must be finite; got -inf"),
        (lambda: limit_exposure(W[::-1]), "`position` must be sorted by time"),
        (lambda: limit_exposure(W, gross=0, net=np.nan), "`gross` must be None, or above 0 and finite; got 0. `net`"),
        (lambda: limit_exposure(W, instrument=-1), "`instrument` must be None, or above 0 and finite; got -1"),
        (
            lambda: limit_exposure(W, instrument={"A": 1}),
            r"`instrument` must name .*got \['A'\], where it has no names",
        ),
        (lambda: flatten_before_close(W, bar="0min"), "`bar` must be a time above 0; got '0min'. Write '5min'"),
        (lambda: flatten_before_close(W, bar="soon"), "`bar` must be a time above 0; got 'soon'"),
        (lambda: flatten_before_close(W, session="NOWHERE"), "`session` must be 'day', an exchange code"),
        (lambda: target_volatility(W[:5], BARS, target=0.1), r"index of `bars` \(10 rows\); got another one of 5"),
        (lambda: target_volatility(W, BARS, target=0, window=1, cap=-1), "`target` .*`window` .*`cap` must be above 0"),
        (lambda: target_volatility(W, BARS, target=1, periods_per_year=0), "`periods_per_year` must be None, or above"),
        (lambda: target_volatility(W, BARS[["close"]], target=1), "`bars` must have the columns"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(EnsembleKitError, match=says):
        call()


def test_an_unknown_instrument_is_named(panel):
    with pytest.raises(EnsembleKitError, match=r"got \['A', 'Z'\], where it has \['A', 'B', 'C', 'D'\]"):
        limit_exposure(positions(panel), instrument={"A": 1.0, "Z": 1.0})
    with pytest.raises(BarsError, match="unique times"):
        limit_exposure(pd.concat([W, W]).sort_index())
