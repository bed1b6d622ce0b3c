"""Waves: against a re-fit of both lines at every bar, and never another wave when later bars arrive."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.sessions import session_times
from ensemble_kit.waves import extract_waves, fit_cut

PRICES = ["open", "high", "low", "close"]
LINES = ["slope_high", "intercept_high", "slope_low", "intercept_low", "error", "atr"]


def random_bars(n=400, *, seed=0, instruments=None, holes=0.0, level=100.0):
    rng = np.random.default_rng(seed)
    bars = make_bars(n, instruments=instruments, bar="30min", random_state=seed)
    if instruments is not None:  # instruments come and go
        name = bars.index.get_level_values(1)
        row = bars.groupby(name).cumcount()
        bars = bars[(name == instruments[0]) | ((row >= 25) & (row < n - 10) & (rng.random(len(bars)) > 0.1))]
    bars[PRICES] *= level / 100
    bars.loc[rng.random(len(bars)) < holes, PRICES] = np.nan
    return bars


def flat_bars(close, *, reach=0.0):
    close = np.asarray(close, dtype=float)
    index = pd.date_range("2024-01-01", periods=len(close), freq="h", tz="UTC", name="datetime")
    return pd.DataFrame({"open": close, "high": close + reach, "low": close - reach, "close": close}, index=index)


def one_at_a_time(bars):
    if isinstance(bars.index, pd.MultiIndex):
        return [(name, part.droplevel(1)) for name, part in bars.groupby(level=1)]
    return [(None, bars)]


def wilder(high, low, close):
    out, ranges, atr = [np.nan], [], np.nan
    for t in range(1, len(close)):
        ranges.append(max(high[t] - low[t], abs(high[t] - close[t - 1]), abs(low[t] - close[t - 1])))
        atr = np.mean(ranges) if len(ranges) <= 14 else atr + (ranges[-1] - atr) / 14
        out.append(atr if len(ranges) >= 14 else np.nan)
    return np.array(out)


def residuals(y):
    """Slope, intercept and sum of squared errors of the line through y by numpy."""
    x = np.arange(len(y))
    slope, intercept = np.polyfit(x, y, 1)
    return slope, intercept, ((y - slope * x - intercept) ** 2).sum()


def oracle(bars, *, cut=0.504, w_e=1.0, w_n=1.0):
    """Waves by the letter of the definition, one instrument, both lines fitted anew at every bar."""
    bars = bars.dropna(subset=PRICES)
    high, low, close = (bars[name].to_numpy() for name in ("high", "low", "close"))
    atr, waves = wilder(high, low, close), []
    known = np.flatnonzero(~np.isnan(atr))
    start = known[0] if len(known) else len(bars)
    for t in range(start, len(bars)):
        n = t - start + 1
        if n <= 3:
            continue
        sse = residuals(high[start : t + 1])[2] + residuals(low[start : t + 1])[2]
        if w_e * np.sqrt(sse / (2 * n)) / atr[start] - w_n / n > cut:
            top, floor = residuals(high[start:t]), residuals(low[start:t])
            error = np.sqrt((top[2] + floor[2]) / (2 * (t - start))) / atr[start]
            lines = (*top[:2], *floor[:2], error, atr[start])
            waves.append((bars.index[t], bars.index[start], bars.index[t - 1], t - start, *lines))
            start = t
    return pd.DataFrame(waves, columns=["known_at", "start", "end", "n", *LINES])


@pytest.mark.parametrize(("cut", "w_e", "w_n"), [(0.504, 1.0, 1.0), (0.2, 1.0, 1.0), (0.8, 2.0, 0.0), (-0.1, 0.5, 3.0)])
@pytest.mark.parametrize(("instruments", "holes"), [(None, 0.0), (None, 0.2), (["B", "A", "C"], 0.05)])
def test_equal_to_a_fit_at_every_bar(cut, w_e, w_n, instruments, holes):
    bars = random_bars(seed=3, instruments=instruments, holes=holes)
    waves = extract_waves(bars, cut=cut, w_e=w_e, w_n=w_n)
    for name, part in one_at_a_time(bars):
        found = waves if name is None else waves.xs(name, level=1)
        expected = oracle(part, cut=cut, w_e=w_e, w_n=w_n)
        assert len(expected) > 4
        assert found.index.tolist() == expected["known_at"].tolist()
        assert found[["start", "end", "n"]].to_numpy().tolist() == expected[["start", "end", "n"]].to_numpy().tolist()
        np.testing.assert_allclose(found[LINES], expected[LINES], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", [1e-5, 1.0, 100.0, 1e6])
def test_slopes_of_long_waves_meet_polyfit_at_every_price_level(level):
    rng = np.random.default_rng(0)
    drift = np.concatenate([np.full(n, d) for n, d in [(4000, 2e-5), (3000, -3e-5), (5000, 1e-5), (500, -1e-3)]])
    close = level * np.exp(np.cumsum(drift) + 1e-4 * rng.standard_normal(len(drift)))
    bars = flat_bars(close, reach=level * 1e-5)
    waves = extract_waves(bars, cut=8.0)
    assert (waves["n"] > 2500).sum() >= 3
    for wave in waves.itertuples():
        for column in ("high", "low"):
            y = bars[column].iloc[wave.first : wave.last + 1].to_numpy()
            # About the wave's first value, or numpy's own rounding is what is compared.
            slope, intercept, _ = residuals(y - y[0])
            assert abs(getattr(wave, f"slope_{column}") - slope) * len(y) < 1e-9 * level
            assert abs(getattr(wave, f"slope_{column}") - slope) < 1e-9 * abs(slope)
            assert abs(getattr(wave, f"intercept_{column}") - intercept - y[0]) < 1e-9 * level


@pytest.mark.parametrize("holes", [0.0, 0.1])
def test_waves_follow_each_other_from_the_first_atr_on(holes):
    bars = random_bars(2000, seed=1, holes=holes)
    waves = extract_waves(bars)
    priced = np.flatnonzero(bars["high"].notna())
    assert waves["first"].iloc[0] == priced[14]
    assert waves["start"].iloc[1:].tolist() == waves.index[:-1].tolist()
    assert (waves["start"] == bars.index[waves["first"]]).all()
    assert (waves["end"] == bars.index[waves["last"]]).all()
    place = np.searchsorted(priced, waves[["first", "last"]].to_numpy())
    assert (place[:, 1] - place[:, 0] + 1 == waves["n"]).all()
    assert (place[1:, 0] == place[:-1, 1] + 1).all()
    assert waves["n"].min() >= 3
    assert (waves.index == bars.index[priced[place[:, 1] + 1]]).all()  # known one bar after the end


@pytest.mark.parametrize("instruments", [None, ["A", "B", "C"]])
def test_what_a_prefix_knows_stays(instruments):
    bars = random_bars(500, seed=2, instruments=instruments, holes=0.03)
    whole = extract_waves(bars)
    time = bars.index.get_level_values(0)
    for end in [*time.unique()[20:120:9], *whole.index.get_level_values(0)[5:40:4]]:
        prefix = extract_waves(bars[time <= end])
        pd.testing.assert_frame_equal(prefix, whole[whole.index.get_level_values(0) <= end], check_exact=True)


def test_bars_after_a_wave_is_known_do_not_matter():
    bars = random_bars(500, seed=4)
    whole = extract_waves(bars)
    for known_at in whole.index[::5]:
        other = bars.copy()
        other.loc[other.index > known_at, PRICES] *= 1000
        pd.testing.assert_frame_equal(extract_waves(other)[:known_at], whole[:known_at], check_exact=True)


def test_a_panel_gives_each_instrument_what_it_gets_alone():
    bars = random_bars(seed=5, instruments=["B", "A", "C"], holes=0.02)
    waves = extract_waves(bars)
    assert waves.index.is_monotonic_increasing
    assert waves.index.names == ["known_at", "instrument"]
    for name, part in one_at_a_time(bars):
        alone, among = extract_waves(part), waves.xs(name, level=1)
        rows = np.flatnonzero(bars.index.get_level_values(1) == name)
        assert among["first"].tolist() == rows[alone["first"]].tolist()
        assert among["last"].tolist() == rows[alone["last"]].tolist()
        pd.testing.assert_frame_equal(
            among.drop(columns=["first", "last"]), alone.drop(columns=["first", "last"]), check_exact=True
        )


def test_bars_without_prices_are_as_if_they_were_not_there():
    bars = random_bars(600, seed=6)
    holes = bars.copy()
    holes.loc[holes.index[np.random.default_rng(0).random(600) < 0.2], ["high"]] = np.nan
    with_holes, without = extract_waves(holes), extract_waves(holes.dropna())
    pd.testing.assert_frame_equal(
        with_holes.drop(columns=["first", "last"]), without.drop(columns=["first", "last"]), check_exact=True
    )


def test_the_scale_of_prices_changes_nothing():
    bars = random_bars(seed=7)
    waves, larger = extract_waves(bars), extract_waves(bars * 4)
    pd.testing.assert_frame_equal(larger[["start", "end", "n", "error"]], waves[["start", "end", "n", "error"]])
    assert (larger[["slope_high", "slope_low", "atr"]] == 4 * waves[["slope_high", "slope_low", "atr"]]).all(axis=None)


def test_constant_prices_have_no_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(extract_waves(flat_bars(np.full(200, 7.1)))) == 0
        # Prices that move only now, of an ATR of 0, end the wave; the next one has an ATR.
        moved = extract_waves(flat_bars([*[7.1] * 50, *[7.2] * 50, 9.0, 5.0, 9.0, 5.0]))
        assert moved["n"].iloc[0] == 50 - 14
        assert moved[["slope_high", "slope_low", "error", "atr"]].iloc[0].tolist() == [0, 0, 0, 0]
        assert (moved["atr"].iloc[1:] > 0).all()
        assert np.isfinite(moved[LINES]).all(axis=None)
        # Of an error in units of 0, nothing is known.
        late = extract_waves(flat_bars([*[7.0] * 15, 8.0, 7.0, 8.0, 9.0, 7.0, 8.0]))
        assert late["n"].iloc[0] == 3
        assert late["error"].isna().tolist()[0]
        # By their length alone: -1 / n > -0.1 from the 11th bar on.
        assert extract_waves(flat_bars(np.full(100, 7.1)), cut=-0.1)["n"].tolist() == [10] * 8


def test_instruments_of_few_bars_have_no_wave():
    long = random_bars(200, instruments=["A", "B", "C"])
    name = long.index.get_level_values(1)
    row = long.groupby(level=1).cumcount()
    bars = long[(name == "A") | ((name == "B") & (row < 1)) | ((name == "C") & (row < 3))]
    assert set(extract_waves(bars).index.get_level_values(1)) == {"A"}
    for part in (bars.iloc[:1], bars.iloc[:40:2], long.xs("A", level=1).iloc[:3]):
        none = extract_waves(part)
        assert none.shape == (0, 11)
        assert none.index.nlevels == part.index.nlevels
        assert none.dtypes.tolist() == extract_waves(long).dtypes.tolist()


def test_a_cut_is_fitted_to_the_compression_wanted():
    bars = random_bars(6000, seed=8)
    for wanted in (4.0, 10.0, 14.46, 40.0):
        waves = extract_waves(bars, cut=fit_cut(bars, bars_per_wave=wanted))
        assert abs((len(bars) - 14) / wanted - len(waves)) <= 2
    panel = random_bars(1500, seed=9, instruments=["A", "B"], holes=0.02)
    cut = fit_cut(panel, w_e=3.0, w_n=0.5)
    assert isinstance(cut, float)
    usable = panel["high"].notna().sum() - 28
    assert abs(usable / 14.46 - len(extract_waves(panel, cut=cut, w_e=3.0, w_n=0.5))) <= 2
    # Longer waves take a higher cut.
    cuts = [fit_cut(bars, bars_per_wave=wanted) for wanted in (5, 10, 20, 40)]
    assert cuts == sorted(cuts)


def test_a_cut_of_constant_prices_is_one_of_length_alone():
    bars = flat_bars(np.full(500, 3.0))
    assert extract_waves(bars, cut=fit_cut(bars, bars_per_wave=20))["n"].isin([19, 20]).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cut": np.nan}, r"`cut` must be a finite number; got nan\. Fit one with `fit_cut`\."),
        ({"cut": "0.5"}, r"`cut` must be a finite number; got '0\.5'\. Fit one with `fit_cut`\."),
        ({"w_e": 0.0}, r"`w_e` must be a finite number above 0; got 0\.0\. Take 1\."),
        ({"w_n": -1}, r"`w_n` must be a finite number of at least 0; got -1\. Take 1\."),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(EnsembleKitError, match=f"^{message}$"):
        extract_waves(random_bars(50), **parameters)


def test_bad_fits():
    bars = random_bars(60)
    with pytest.raises(EnsembleKitError, match=r"^`bars_per_wave` must be a number above 3; got 3\. Take the default"):
        fit_cut(bars, bars_per_wave=3)
    unreachable = (
        r"^`bars_per_wave` must be what a cut can make of `bars`; got {} for {} bars with an ATR\. "
        r"Give more bars, or take another length\.$"
    )
    with pytest.raises(EnsembleKitError, match=unreachable.format(60, 46)):
        fit_cut(bars, bars_per_wave=60)
    with pytest.raises(EnsembleKitError, match=unreachable.format(r"14\.46", 0)):
        fit_cut(bars[:14])
    with pytest.raises(EnsembleKitError, match=unreachable.format(r"3\.01", 46)):
        fit_cut(bars, bars_per_wave=3.01)
    with pytest.raises(EnsembleKitError, match=r"^`w_e` must be a finite number above 0; got -1\. Take 1\.$"):
        fit_cut(bars, w_e=-1)
    with pytest.raises(BarsError, match="must be sorted by time"):
        fit_cut(bars[::-1])
    with pytest.raises(BarsError, match="must be sorted by time"):
        extract_waves(bars[::-1])


@pytest.mark.parametrize(
    ("file", "n_waves", "later"),
    [("xauusd_1h_2006_2015.parquet", 3317, 15.14), ("spy_5min_2022_2023.parquet", 1404, 14.99)],
)
def test_real_bars(shared_data, file, n_waves, later):
    bars = read_bars(shared_data / file)
    assert len(extract_waves(bars)) == n_waves
    half = len(bars) // 2
    waves = extract_waves(bars, cut=fit_cut(bars[:half]))
    first = int((waves.index < bars.index[half]).sum())
    assert half / first == pytest.approx(14.46, abs=0.01)
    assert (len(bars) - half) / (len(waves) - first) == pytest.approx(later, abs=0.01)


def spoilt_bars(n, *, at=300):
    """Bars with one print far too wide."""
    bars = random_bars(n, seed=3)
    bars.iloc[at, bars.columns.get_loc("high")] *= 3
    bars.iloc[at, bars.columns.get_loc("low")] /= 3
    return bars


def test_a_bad_print_that_makes_one_wave_of_most_bars_is_named():
    bars = spoilt_bars(1500)
    with pytest.warns(UserWarning, match=r"One wave holds \d+ of 1486 bars: it begins at 2022") as caught:
        waves = extract_waves(bars)
    assert [warning.filename for warning in caught] == [__file__]
    row = int(re.search(r"\(row (\d+)\), where ATR", str(caught[0].message))[1])
    assert 300 <= row < 320
    assert "clean it or drop the bars outside the session" in str(caught[0].message)
    assert row == (waves["last"].max() + 1 if waves["n"].max() < 743 else waves.loc[waves["n"].idxmax(), "first"])
    with pytest.warns(UserWarning, match="One wave holds"):
        fit_cut(bars, bars_per_wave=40)
    # Of few bars one wave may well hold most; other instruments have their own.
    extract_waves(spoilt_bars(490))
    panel = pd.concat({"B": bars, "A": random_bars(1500, seed=4)}, names=["instrument"]).swaplevel().sort_index()
    with pytest.warns(UserWarning, match=r"One wave holds \d+ of 1486 bars: it begins at \(.*'B'\)"):
        extract_waves(panel.rename_axis(["datetime", "instrument"]))


def test_a_bad_print_on_real_bars(shared_data):
    bars = read_bars(shared_data / "spy_ext_5min_2025.parquet")
    with pytest.warns(
        UserWarning, match=r"holds 9051 of 11287 bars: .* 2025-06-20 22:30:00\+00:00 .* is 14\.82; the med"
    ):
        assert len(extract_waves(bars)) == 13
    times = session_times(bars.index, "XNYS")
    regular = bars[(times.minute >= 0) & (times.minute < times.length) & ~times.holiday]
    assert len(extract_waves(regular)) > len(regular) / 30
