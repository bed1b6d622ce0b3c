"""The ground floor: bar frames, row keys and stored indexes."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.bars import check_bars, instrument_codes, pack_index, row_keys, unpack_index
from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError

BARS = make_bars(100, random_state=0)
PANEL = make_bars(20, instruments=["A", "B"], random_state=0)


def at(*times, tz="UTC"):
    return pd.DatetimeIndex(times, tz=tz)


# -------------------------------------------------------------------------------- check_bars


@pytest.mark.parametrize(
    "bars", [BARS, PANEL, BARS.tz_localize(None), BARS.drop(columns="volume"), BARS.astype("float32")]
)
def test_good_bars_come_back_untouched(bars):
    before = bars.copy()
    assert check_bars(bars) is bars
    pd.testing.assert_frame_equal(bars, before)


def test_a_row_without_prices_is_allowed():
    bars = BARS.copy()
    bars.iloc[3] = np.nan
    assert check_bars(bars) is bars


def spoil(row, **values):
    bars = BARS.copy()
    for column, value in values.items():
        bars.loc[bars.index[row], column] = value
    return bars


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        (BARS.to_numpy(), "`bars` must be a pandas DataFrame .* got ndarray. Read a file with"),
        (BARS.drop(columns=["open", "low"]), "missing open, low, got high, close, volume"),
        (BARS.rename(columns=str.title), "Rename 'Open' to 'open', 'High' to 'high'"),
        (BARS.astype({"open": str}), "must have numeric prices and volumes; got open of"),
        (BARS.reset_index(drop=True), "must be indexed by time .* got RangeIndex"),
        (PANEL.swaplevel(), "must be indexed by time .* got MultiIndex"),
        (BARS.set_axis(BARS.index.where(np.arange(100) != 4)), "must have a time on every row; row 4 has none"),
        (
            BARS.iloc[[0, 1, 1, 2]],
            r"2022-01-03 14:35:00\+00:00 stands 2 times \(1 repeated rows in all, first at row 2\)",
        ),
        (PANEL.iloc[[0, 1, 1, 2]], r"'B'\) stands 2 times"),
        (BARS.iloc[::-1], "must be sorted by time; row 1 "),
        (PANEL.sort_index(level=1), "must be sorted by time; row 20 "),
        (spoil(7, close=np.inf), r"must have finite prices; got .*close=inf at .* \(row 7; 1 such row"),
        (spoil(7, low=0.0), r"must have prices above 0; got .*low=0"),
        (spoil(7, high=1.0), "must have high >= low; got .*high=1"),
        (spoil(7, open=1e9), "must have open and close between low and high; got open=1e"),
        (spoil(7, volume=-1.0), r"must have finite volume of at least 0; got volume=-1 at"),
    ],
)
def test_bad_bars_say_what_where_and_how(bars, message):
    with pytest.raises(BarsError, match=message) as caught:
        check_bars(bars)
    assert "\n" not in str(caught.value)


def test_required_columns_and_name():
    with pytest.raises(BarsError, match=r"`mine` must have the columns open, high, low, close, vwap; missing vwap"):
        check_bars(BARS, require=["vwap"], name="mine")


# ------------------------------------------------------------------- keys, codes, stored index


def test_row_keys():
    keys = row_keys(PANEL)
    assert keys.panel
    assert keys.instrument.tolist() == [0, 1] * 20
    np.testing.assert_array_equal(keys.time, PANEL.index.get_level_values(0).as_unit("ns").asi8)
    assert keys.axis().equals(PANEL.index.get_level_values(0))
    single = row_keys(BARS["close"])
    assert not single.panel
    assert single.axis().equals(BARS.index)
    for plain in (np.zeros((5, 2)), [[1], [2], [3], [4], [5]], pd.DataFrame({"x": range(5)})):
        keys = row_keys(plain)
        assert keys.time.tolist() == keys.axis().tolist() == [0, 1, 2, 3, 4]
        assert keys.index is None
    with pytest.raises(BarsError, match="`features` must be sorted by time"):
        row_keys(BARS.iloc[::-1], name="features")


def test_row_keys_are_nanoseconds_whatever_the_unit():
    times = [row_keys(BARS.set_axis(BARS.index.as_unit(unit))).time for unit in ("s", "us", "ns")]
    assert (times[0] == times[1]).all()
    assert (times[1] == times[2]).all()


def test_instrument_codes_go_by_name():
    index = pd.MultiIndex.from_tuples([(1, "C"), (1, "A"), (2, "B"), (2, "C")])
    codes, names = instrument_codes(index)
    assert codes.tolist() == [2, 0, 1, 2]
    assert names == ["A", "B", "C"]
    assert instrument_codes(BARS.index)[1] == [None]


@pytest.mark.parametrize(
    "index",
    [BARS.index, PANEL.index, BARS.index.tz_localize(None), BARS.index.tz_convert("America/New_York").rename(None)],
)
def test_a_packed_index_is_plain_and_comes_back(index):
    packed = pack_index(index)
    for value in packed.values():
        assert isinstance(value, np.ndarray | list | str | None)
    back = unpack_index(packed, len(index))
    assert back.equals(index)
    assert back.names == index.names
    assert unpack_index(pack_index(None), 3).equals(pd.RangeIndex(3))


def refuses(call):
    with pytest.raises(BarsError):
        call()


def test_a_column_twice():
    refuses(lambda: check_bars(pd.concat([BARS, BARS[["open"]]], axis=1)))


def test_volume_as_text():
    refuses(lambda: check_bars(BARS.assign(volume="many")))


def test_an_instrument_without_a_name():
    names = PANEL.index.get_level_values(1).where(np.arange(40) != 3)
    refuses(lambda: check_bars(PANEL.set_axis(pd.MultiIndex.from_arrays([PANEL.index.get_level_values(0), names]))))


def test_numbers_as_instruments_come_back():
    index = PANEL.rename({"A": 5, "B": 600000}, level=1).index
    assert unpack_index(pack_index(index), len(index)).equals(index)
