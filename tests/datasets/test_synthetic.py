"""`make_bars`: valid, reproducible, a martingale without signal, learnable with it."""

import lightgbm
import numpy as np
import pandas as pd
import pytest

from ensemble_kit.bars import check_bars
from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError
from ensemble_kit.sessions import Session, session_times

NEW_YORK = Session("09:30", "16:00", "America/New_York")


def next_return(bars):
    """What a position taken at the next open earns until the open after it."""
    return (bars["open"].shift(-2) / bars["open"].shift(-1) - 1).to_numpy()


def wick_asymmetry(bars):
    top, bottom = bars[["open", "close"]].max(axis=1), bars[["open", "close"]].min(axis=1)
    return ((bars["high"] - top) - (bottom - bars["low"])) / (bars["high"] - bars["low"])


def t_of(values):
    return values.mean() / values.std() * np.sqrt(len(values))


# ------------------------------------------------------------------------- the frame


@pytest.mark.parametrize(
    ("bar", "session", "per_session"),
    [
        ("5min", NEW_YORK, 78),
        ("1h", NEW_YORK, 7),
        ("1D", NEW_YORK, 1),
        (pd.Timedelta("15min"), Session("18:00", "17:00", "America/New_York"), 92),
        ("30min", Session(), 48),
    ],
)
@pytest.mark.parametrize("signal", [0.0, 3.0])
def test_valid_bars(bar, session, per_session, signal):
    bars = check_bars(make_bars(3000, bar=bar, session=session, signal=signal, random_state=0), require=["volume"])
    assert bars.shape == (3000, 5)
    assert (bars.dtypes == "float64").all()
    assert str(bars.index.tz) == "UTC"
    assert bars.index.name == "datetime"
    assert np.isfinite(bars.to_numpy()).all()
    assert (bars["volume"] >= 1).all()
    times = session_times(bars.index, session)
    assert set(times.minute[::per_session]) == {0.0}
    assert (times.minute < session.minutes).all()
    assert set(np.bincount(np.unique(times.day, return_inverse=True)[1])[:-1]) == {per_session}
    assert set(times.weekday) == {0, 1, 2, 3, 4}


def test_sessions_open_by_the_wall_clock_all_year():
    local = make_bars(78 * 260, random_state=0).index.tz_convert("America/New_York")
    assert set(local[::78].strftime("%H:%M")) == {"09:30"}
    assert set(local[77::78].strftime("%H:%M")) == {"15:55"}
    assert len(set(local.tz_convert("UTC")[::78].strftime("%H:%M"))) == 2  # winter and summer


def test_start_on_a_weekend_moves_to_monday():
    assert make_bars(1, start="2022-01-08").index[0] == pd.Timestamp("2022-01-10 14:30", tz="UTC")
    assert make_bars(1, start=pd.Timestamp("2022-01-07 23:00", tz="UTC")).index[0].day == 7


# -------------------------------------------------------------------- reproducibility


def test_same_seed_same_bars_and_more_bars_leave_the_earlier_ones():
    bars = make_bars(500, signal=1, random_state=7)
    pd.testing.assert_frame_equal(bars, make_bars(500, signal=1, random_state=7), check_exact=True)
    pd.testing.assert_frame_equal(bars, make_bars(2000, signal=1, random_state=7).iloc[:500], check_exact=True)
    for other in (8, None):
        assert not np.isclose(bars["close"], make_bars(500, signal=1, random_state=other)["close"]).all()


def test_an_instrument_of_a_panel_is_what_its_position_says():
    panel = check_bars(make_bars(300, instruments=["B", "A", "C"], random_state=3))
    assert panel.index.names == ["datetime", "instrument"]
    assert panel.index.is_monotonic_increasing
    single = make_bars(300, random_state=3)
    pd.testing.assert_frame_equal(panel.xs("B", level=1), single, check_exact=True)
    pd.testing.assert_frame_equal(
        panel.xs("A", level=1),
        make_bars(300, instruments=["x", "y"], random_state=3).xs("y", level=1),
        check_exact=True,
    )


def test_instruments_are_independent():
    closes = make_bars(20_000, instruments=list("ABC"), random_state=0)["close"].to_numpy().reshape(-1, 3)
    correlation = np.corrcoef(np.diff(np.log(closes), axis=0).T)
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.03


# ----------------------------------------------------------------------- what it is like


def test_volatility_clusters_volume_smiles_and_nights_gap():
    bars = make_bars(78 * 500, random_state=0)
    body = np.log(bars["close"] / bars["open"])
    size = body.abs() / body.abs().groupby(np.arange(len(bars)) % 78).transform("mean")
    assert size.autocorr(1) > 0.1
    assert size.autocorr(400) > 0.02  # regimes outlive the day
    assert body.kurt() > 1
    volume = bars["volume"].to_numpy().reshape(-1, 78).mean(axis=0)
    assert volume[[0, -1]].min() > 2 * volume[39]
    gap = np.log(bars["open"] / bars["close"].shift()).iloc[1:]
    night = np.arange(1, len(bars)) % 78 == 0
    assert gap[night].std() > 10 * gap[~night].std()


def test_shape_tells_the_latent_alike_with_and_without_signal():
    # It swings once in 80 bars: what a wick says now, the one 40 bars on denies.
    for signal in (0.0, 1.0):
        asymmetry = wick_asymmetry(make_bars(40_000, signal=signal, random_state=0))
        assert asymmetry.autocorr(2) > 0.03
        assert asymmetry.autocorr(40) < -0.01
    apart = asymmetry - wick_asymmetry(make_bars(40_000, random_state=0))
    assert abs(apart.mean()) < 0.01


def test_signal_moves_bodies_in_proportion_and_nothing_else():
    none, one, two = (make_bars(5000, signal=signal, random_state=1) for signal in (0.0, 1.0, 2.0))
    body = [np.log(bars["close"] / bars["open"]) for bars in (none, one, two)]
    gap = [np.log(bars["open"] / bars["close"].shift()).iloc[1:] for bars in (none, two)]
    np.testing.assert_allclose(body[2] - body[0], 2 * (body[1] - body[0]), atol=1e-12)
    np.testing.assert_allclose(gap[0], gap[1], atol=1e-12)
    drift = body[1] - body[0]
    assert 0.15 < drift.std() / body[0].std() < 0.35
    # Each observable alone tells the side, three bars ahead, where nothing else could.
    side = np.sign(drift.shift(-3))
    upper = np.log(none["high"] / none[["open", "close"]].max(axis=1))
    lower = np.log(none[["open", "close"]].min(axis=1) / none["low"])
    lean = np.sign(body[0]) * np.log(none["volume"])
    assert side.corr(upper) < -0.08
    assert side.corr(lower) > 0.08
    assert side.corr(lean - np.sign(body[0]) * np.log(none["volume"]).mean()) > 0.1


# -------------------------------------------------------------------------- the promise


@pytest.mark.parametrize("rule", ["always", "wick", "body", "volume"])
def test_no_rule_earns_without_signal(rule):
    earned = []
    for seed in range(20):
        bars = make_bars(5000, random_state=seed)
        body = bars["close"] - bars["open"]
        position = {
            "always": pd.Series(1.0, bars.index),
            "wick": -wick_asymmetry(bars).rolling(10).mean(),
            "body": body.rolling(5).mean(),
            "volume": (np.sign(body) * np.log(bars["volume"] / bars["volume"].rolling(78).mean())).rolling(10).mean(),
        }[rule]
        returns = (np.sign(position) * next_return(bars)).dropna()
        earned.append(returns.mean() / returns.std())
    half = 1.96 * np.std(earned, ddof=1) / np.sqrt(20)
    assert abs(np.mean(earned)) < half < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_the_wick_rule_earns_with_signal(seed):
    bars = make_bars(5000, signal=1.0, random_state=seed)
    position = np.sign(-wick_asymmetry(bars).rolling(10).mean())
    assert t_of((position * next_return(bars)).dropna()) > 3


def test_simple_returns_have_mean_zero_not_log_returns(monkeypatch):
    # Ten times the usual volatility, so that a missing correction would be 5 standard errors.
    monkeypatch.setattr("ensemble_kit.datasets.synthetic._SESSION_VOL", 0.1)
    bars = make_bars(20_000, bar="1D", random_state=0)
    body, gap = bars["close"] / bars["open"], (bars["open"] / bars["close"].shift()).iloc[1:]
    for ratio in (body, gap):
        assert abs(t_of(ratio - 1)) < 2.5
    assert t_of(np.log(body)) < -4


def candle_columns(bars):
    """A few causal columns of shape, direction and volume, with their means."""
    spread = bars["high"] - bars["low"]
    body = (bars["close"] - bars["open"]) / spread
    log_volume = np.log(bars["volume"])
    volume_z = (log_volume - log_volume.rolling(78).mean()) / log_volume.rolling(78).std()
    base = {
        "body": body,
        "wick": wick_asymmetry(bars),
        "location": (2 * bars["close"] - bars["high"] - bars["low"]) / spread,
        "lean": volume_z * np.sign(body),
    }
    means = {f"{name}{k}": column.rolling(k).mean() for name, column in base.items() for k in (5, 10, 20)}
    return pd.DataFrame({**base, **means, "volume": volume_z}).to_numpy(np.float32)


def learned_t(signal, seed):
    """Return the t-value of sign(prediction) x next return on 2,000 bars after 8,000 to learn from."""
    bars = make_bars(10_000, signal=signal, random_state=seed)
    X, returns = candle_columns(bars), next_return(bars)
    train, test = slice(100, 7_998), slice(8_000, 9_998)
    model = lightgbm.train(
        {"objective": "binary", "num_leaves": 15, "min_data_in_leaf": 50, "learning_rate": 0.05}
        | {"verbosity": -1, "num_threads": 1, "seed": 0},
        lightgbm.Dataset(X[train], (returns[train] > 0).astype(float)),
        num_boost_round=100,
    )
    return t_of(np.sign(model.predict(X[test]) - 0.5) * returns[test])


def test_signal_is_learned():
    assert min(learned_t(1.0, seed) for seed in range(3)) > 3


def test_nothing_is_learned_without_signal():
    t = np.array([learned_t(0.0, seed) for seed in range(20)])
    assert abs(t.mean()) < 1.96 * t.std(ddof=1) / np.sqrt(20)
    assert (np.abs(t) < 2).mean() >= 0.85


# --------------------------------------------------------------------------- its errors


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_bars": 0}, r"`n_bars` must be an integer of at least 1; got 0\."),
        ({"n_bars": 10.0}, r"`n_bars` must be an integer .* got 10\.0\."),
        ({"signal": -1}, r"`signal` must be a finite number of at least 0; got -1\."),
        ({"signal": np.nan}, r"`signal` must be a finite number of at least 0; got nan\."),
        ({"bar": "soon"}, r"`bar` must be a duration of at least a second; got 'soon'\."),
        ({"bar": "-5min"}, r"`bar` must be a duration"),
        ({"session": "XNYS"}, r"`session` must be a Session; got 'XNYS'\."),
        ({"start": "someday"}, r"`start` must be a date; got 'someday'\."),
        ({"start": None}, r"`start` must be a date; got None\."),
        ({"random_state": -1}, r"`random_state` must be an integer of at least 0 or None; got -1\."),
        ({"instruments": []}, r"`instruments` must be a list of at least one name, each once; got \[\]\."),
        ({"instruments": "SPY"}, r"`instruments` must be a list .* got 'SPY'\."),
        ({"instruments": ["A", "A"]}, r"`instruments` must be a list .* got \['A', 'A'\]\."),
        ({"instruments": [1, 2]}, r"`instruments` must be a list"),
    ],
)
def test_errors(parameters, message):
    with pytest.raises(BarsError, match=message):
        make_bars(**parameters)
