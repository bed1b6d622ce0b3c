"""`read_bars`: formats, spellings, clocks, panels, and one line for each way to fail."""

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.bars import PRICES
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError

BARS = make_bars(100, random_state=0)
PANEL = make_bars(40, instruments=["A", "B"], random_state=0)
#: What a folder of real files holds besides bars.
NOT_BARS = ("lob_l1_btcusdt_spot_20240808", "trades_btcusdt_spot_20240808", "xauusd_tick_20140501")


def write(path, **columns):
    """Write BARS' prices as CSV with these columns in front, and return the path."""
    n = len(next(iter(columns.values())))
    pd.DataFrame({**columns, **{c: BARS[c].to_numpy()[:n] for c in BARS}}).to_csv(path, index=False)
    return path


def error_of(path, **parameters):
    with pytest.raises(BarsError) as caught:
        read_bars(path, **parameters)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --------------------------------------------------------------------- formats and layouts


@pytest.mark.parametrize(
    "suffix", [".parquet", ".pq", ".feather", ".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip", ".zip", ".CSV"]
)
@pytest.mark.parametrize("bars", [BARS, PANEL], ids=["one", "panel"])
def test_every_format_gives_the_same_bars(tmp_path, suffix, bars):
    path = tmp_path / f"bars{suffix}"
    flat = bars.reset_index()
    if "q" in suffix:
        flat.to_parquet(path)
    elif suffix == ".feather":
        flat.to_feather(path)
    else:
        flat.to_csv(path, index=False, compression="zip" if suffix == ".zip" else "infer")
    back = read_bars(path)
    pd.testing.assert_frame_equal(back, bars, check_index_type=False, check_freq=False, rtol=1e-12)
    assert back.index.names == bars.index.names
    pd.testing.assert_frame_equal(read_bars(str(path)), back)


@pytest.mark.parametrize("names", [None, ["when", "who"], ["timestamp", "symbol"]])
def test_an_index_stored_by_pandas_is_read_back(tmp_path, names):
    one, panel = tmp_path / "one.parquet", tmp_path / "panel.parquet"
    BARS.rename_axis(names and names[0]).to_parquet(one)
    PANEL.rename_axis(names or [None, None]).to_parquet(panel)
    if names == ["when", "who"]:
        assert "must have a time column; got when, open" in error_of(one)
        return
    assert read_bars(one).index.equals(BARS.index)
    assert read_bars(panel).index.equals(PANEL.index)
    BARS.rename_axis(names and names[0]).to_csv(tmp_path / "one.csv")
    assert read_bars(tmp_path / "one.csv").index.equals(BARS.index)


def test_row_numbers_in_front_are_not_times(tmp_path):
    BARS.reset_index().to_csv(tmp_path / "numbered.csv")
    BARS.reset_index().iloc[5:].to_parquet(tmp_path / "numbered.parquet")
    assert read_bars(tmp_path / "numbered.csv").index.equals(BARS.index)
    assert read_bars(tmp_path / "numbered.parquet").index.equals(BARS.index[5:])
    BARS.reset_index(drop=True).to_csv(tmp_path / "timeless.csv")
    assert "must have a time column; got unnamed_0, open" in error_of(tmp_path / "timeless.csv")


@pytest.mark.parametrize(
    "spelling",
    [
        ["Timestamp", "Open", "High", "Low", "Close", "Volume"],
        ["DATETIME", "O", "H", "L", "C", "V"],
        ["Date", "open_price", "high_price", "low_price", "close_price", "Vol"],
        ["Open Time", " Open ", "High", "LOW", "close", "<VOL>"],
    ],
)
def test_spellings(tmp_path, spelling):
    flat = BARS.reset_index().set_axis(spelling, axis=1).assign(**{"Adj Close": 1.0, "Bid": 2, "Note": "x"})
    flat.to_csv(tmp_path / "bars.csv", index=False)
    back = read_bars(tmp_path / "bars.csv")
    assert list(back) == [*PRICES, "volume", "adj_close", "bid", "note"]
    np.testing.assert_allclose(back["close"], BARS["close"])
    assert back["bid"].dtype == np.float64
    assert set(back["note"]) == {"x"}


def test_the_plain_spelling_wins(tmp_path):
    path = tmp_path / "bars.parquet"
    BARS.reset_index().assign(vol=1.0, symbol="A", ticker="B", date="x").to_parquet(path)
    back = read_bars(path)
    assert {"vol", "ticker", "date"} <= set(back)
    assert set(back.index.get_level_values(1)) == {"A"}
    np.testing.assert_allclose(back["volume"], BARS["volume"])


def test_whole_and_missing_numbers_become_floats(tmp_path):
    path = tmp_path / "bars.parquet"
    holes = BARS.round(0).astype("Int64").reset_index()
    holes.loc[3, list(BARS)] = pd.NA
    holes.to_parquet(path)
    back = read_bars(path)
    assert (back.dtypes == np.float64).all()
    assert back.isna().any(axis=1).to_numpy().nonzero()[0].tolist() == [3]


# ----------------------------------------------------------------------------------- times

UTC_TIMES = pd.DatetimeIndex(["2022-03-11 14:30", "2022-03-14 13:30", "2022-03-14 13:35"], tz="UTC")
NAIVE = ["2022-03-11 09:30", "2022-03-14 09:30", "2022-03-14 09:35"]  # New York, over a clock change


@pytest.mark.parametrize(
    ("times", "tz"),
    [
        (NAIVE, "America/New_York"),
        (["2022-03-11T09:30:00-05:00", "2022-03-14T09:30:00-04:00", "2022-03-14 13:35:00+0000"], None),
        (["2022-03-11 14:30Z", "2022-03-14 13:30Z", "2022-03-14 13:35:00.000Z"], "Asia/Tokyo"),
        (["2022-03-11 14:30", "2022-03-14 13:30:00", "2022-03-14 13:35"], None),
        (["03/11/2022 14:30", "03/14/2022 13:30", "03/14/2022 13:35"], None),
        (["13/03/2022 14:30", "14/03/2022 13:30", "14/03/2022 13:35"], None),
        (["11-Mar-2022 14:30", "14-Mar-2022 13:30", "14-Mar-2022 13:35"], None),
        (["2022.03.11 14:30", "2022.03.14 13:30", "2022.03.14 13:35"], None),
        ([202203111430, 202203141330, 202203141335], None),
        ([20220311093000, 20220314093000, 20220314093500], "America/New_York"),
    ],
)
def test_times_become_utc(tmp_path, times, tz):
    back = read_bars(write(tmp_path / "bars.csv", Time=times), tz=tz)
    assert str(back.index.tz) == "UTC"
    assert list(back.index[1:]) == list(UTC_TIMES[1:])
    assert back.index[0].day == (13 if times[0] == "13/03/2022 14:30" else 11)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("kind", ["int64", "float64", "Int64", "uint64"])
def test_epochs(tmp_path, unit, kind):
    path = tmp_path / "bars.parquet"
    epochs = BARS.index.as_unit(unit).asi8
    BARS.assign(ts=pd.array(epochs, dtype="int64").astype(kind)).to_parquet(path, index=False)
    np.testing.assert_allclose(read_bars(path).index.as_unit("s").asi8, BARS.index.as_unit("s").asi8)
    assert read_bars(path, tz="Asia/Tokyo").index.tz is not None


@pytest.mark.parametrize(
    "dates",
    [
        ["2022-01-03", "2022-01-04"],
        ["01/03/2022", "01/04/2022"],
        [20220103, 20220104],
        [dt.date(2022, 1, 3), dt.date(2022, 1, 4)],
        pd.DatetimeIndex(["2022-01-03", "2022-01-04"]),
    ],
)
def test_whole_dates_stay_naive(tmp_path, dates):
    path = tmp_path / "daily.parquet"
    pd.DataFrame({"Date": dates, **{c: BARS[c].to_numpy()[:2] for c in PRICES}}).to_parquet(path)
    back = read_bars(path)
    assert back.index.tz is None
    assert list(back.index) == [pd.Timestamp("2022-01-03"), pd.Timestamp("2022-01-04")]
    assert read_bars(path, tz="America/New_York").index[0] == pd.Timestamp("2022-01-03 05:00", tz="UTC")


@pytest.mark.parametrize(
    "clock", [["09:30", "09:35"], ["09:30:00", "09:35:00"], ["9:30", "9:35"], [930, 935], [93000, 93500]]
)
@pytest.mark.parametrize("date", ["2022-01-03", "01/03/2022", "2022.01.03", 20220103])
def test_date_and_time_in_two_columns(tmp_path, date, clock):
    back = read_bars(write(tmp_path / "bars.csv", **{"<DATE>": [date] * 2, "<TIME>": clock}), tz="America/New_York")
    assert list(back.index) == [pd.Timestamp("2022-01-03 14:30", tz="UTC"), pd.Timestamp("2022-01-03 14:35", tz="UTC")]
    assert list(back) == [*PRICES, "volume"]


def test_the_hour_that_comes_twice_is_told_by_order(tmp_path):
    times = ["2022-11-06 00:30", "2022-11-06 01:00", "2022-11-06 01:30", "2022-11-06 01:00", "2022-11-06 01:30"]
    path = write(tmp_path / "bars.csv", time=times)
    assert list(np.diff(read_bars(path, tz="America/New_York").index.as_unit("s").asi8)) == [1800] * 4
    message = error_of(write(tmp_path / "once.csv", time=times[:2]), tz="America/New_York")
    assert message.startswith("`tz` must be the zone of the times in `once.csv`")
    assert "got 'Mars/Base'" in error_of(path, tz="Mars/Base")
    assert "2022-03-13" in error_of(write(tmp_path / "gap.csv", time=["2022-03-13 02:30"]), tz="America/New_York")


# ---------------------------------------------------------------------------------- panels


@pytest.mark.parametrize("name", ["Symbol", "ticker", "instrument"])
def test_a_panel_may_come_one_instrument_after_another(tmp_path, name):
    path = tmp_path / "panel.csv"
    flat = PANEL.reset_index().rename(columns={"instrument": name})
    flat.sort_values([name, "datetime"], ascending=[False, True]).to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_bars(path), PANEL, check_index_type=False, rtol=1e-12)


def test_each_instrument_must_be_in_order(tmp_path):
    path = tmp_path / "panel.csv"
    flat = PANEL.reset_index().sort_values(["instrument", "datetime"], ignore_index=True)
    flat.iloc[[*range(40), 41, 40, *range(42, 80)]].to_csv(path, index=False)
    assert "must be sorted by time within each instrument; row 41 (B, 2022-01-03 14:30" in error_of(path)
    flat.assign(instrument=flat["instrument"].where(flat.index != 5)).to_csv(path, index=False)
    assert "must name an instrument on every row; row 5 has none" in error_of(path)
    pd.concat([flat, flat.tail(1)]).to_csv(path, index=False)
    assert "must have unique times" in error_of(path)


def test_numbers_as_instruments_become_text(tmp_path):
    path = tmp_path / "panel.csv"
    PANEL.rename({"A": 600000, "B": 5}, level=1).to_csv(path)
    assert set(read_bars(path).index.get_level_values(1)) == {"600000", "5"}


# ---------------------------------------------------------------------------------- errors


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "spy_5min.csv").touch()
    (tmp_path / "notes.txt").touch()
    assert error_of(tmp_path / "spy_5mn.csv").endswith("Nearest in its folder: spy_5min.csv.")
    assert error_of(tmp_path / "ZZ.parquet").endswith("Nearest in its folder: spy_5min.csv.")
    assert error_of(tmp_path / "none" / "spy.csv").endswith(f"There is no folder '{tmp_path / 'none'}', either.")
    (tmp_path / "empty").mkdir()
    assert error_of(tmp_path / "empty" / "spy.csv").endswith("Its folder holds no file of bars.")
    assert "`path` must end in .parquet, .pq" in error_of(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["x.parquet", "x.feather", "x.csv.gz", "x.zip", "x.csv"])
def test_a_broken_file_is_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"" if name == "x.csv" else b"PAR1 this is\nnot what it says")
    assert error_of(path).startswith(f"`{name}` must be a readable {path.suffix[1:]} file; got: ")


def test_a_torn_parquet_is_one_line(tmp_path):
    path = tmp_path / "torn.parquet"
    BARS.to_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert error_of(path).startswith("`torn.parquet` must be a readable parquet file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda flat: flat.iloc[:0], "must hold at least one bar; got 0 rows"),
        (
            lambda flat: flat.drop(columns="datetime"),
            "must have a time column; got open, high, low, close, volume. Name",
        ),
        (lambda flat: flat.drop(columns=["open", "low"]), "missing open, low, got datetime, high, close, volume"),
        (lambda flat: flat.assign(OPEN=1.0), "(open twice). Drop or rename one."),
        (lambda flat: flat.assign(datetime=["2022-01-03", "soon"] * 50), "got 'soon' at row 1 (50 such row(s))"),
        (lambda flat: flat.assign(datetime="soon"), "got 'soon' at row 0 (100 such row(s))"),
        (lambda flat: flat.assign(datetime=["13/01/2022", "01/13/2022"] * 50), "got '01/13/2022' at row 1"),
        (lambda flat: flat.assign(datetime=range(930, 1030)), "must have epoch times in s, ms, us or ns"),
        (lambda flat: flat.assign(datetime=[20220103] * 99 + [20220140]), "got '20220140' at row 99"),
        (lambda flat: flat.assign(datetime=flat["datetime"].where(flat.index != 4)), "row 4 has none"),
        (lambda flat: flat.assign(datetime=[1.6e9, np.nan] * 50), "row 1 has none"),
        (
            lambda flat: flat.assign(datetime=["2022-01-03 09:30Z"] * 99 + ["2022-01-03 09:35"]),
            "got '2022-01-03 09:35' at row 99 and '2022-01-03 09:30Z' at row 0",
        ),
        (lambda flat: flat.iloc[::-1], "must be sorted by time; row 1"),
        (lambda flat: flat.iloc[[0, 0, 1]], "must have unique times; 2022-01-03 14:30:00+00:00 stands 2 times"),
        (lambda flat: flat.assign(volume="many"), "got volume of"),
        (lambda flat: flat.assign(close="1,234"), "got close of"),
        (lambda flat: flat.assign(high=flat["low"] / 2), "must have high >= low"),
    ],
)
def test_errors(tmp_path, change, message):
    path = tmp_path / "bars.csv"
    change(BARS.reset_index()).to_csv(path, index=False)
    assert error_of(path).startswith("`bars.csv` must ")
    assert message in error_of(path)


# ------------------------------------------------------------------------------- real files


def test_every_real_file_of_bars_loads(shared_data):
    paths = [path for path in sorted(shared_data.glob("*.parquet")) if path.stem not in NOT_BARS]
    assert paths
    for path in paths:
        raw, bars = pd.read_parquet(path), read_bars(path)
        assert len(bars) == len(raw)
        assert set(bars) == set(raw) - {"timestamp", "symbol"}
        for column in PRICES:
            np.testing.assert_array_equal(bars[column], raw[column].astype(float))
        whole_dates = "daily" in path.stem
        assert isinstance(bars.index, pd.MultiIndex) == whole_dates
        assert (bars.index.get_level_values(0).tz is None) == whole_dates


def test_real_files_of_ticks_say_what_is_missing(shared_data):
    for stem in NOT_BARS:
        path = shared_data / f"{stem}.parquet"
        if path.exists():
            assert "missing open, high, low, close" in error_of(path)
