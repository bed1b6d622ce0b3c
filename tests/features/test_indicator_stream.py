"""Streams of one instrument: bar after bar, killed and resumed, every bit is the batch's."""

import io

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.bars import check_bars
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features._indicators import INDICATORS
from ensemble_kit.features.alpha158 import Alpha158
from ensemble_kit.features.ict import ICTFeatures
from ensemble_kit.features.indicators import IndicatorFeatures
from ensemble_kit.sessions import Session

ALL = tuple(INDICATORS)
PRICES = ["open", "high", "low", "close"]
NEW_YORK = Session("09:30", "16:00", "America/New_York")
REAL = {
    "spy_5min_2022_2023": "XNYS",
    "xauusd_1h_2006_2015": Session("18:00", "17:00", "America/New_York"),
    "btcusdt_5min_2023": "day",
    "vxx_1h_2009_2021": "XNYS",
    "spy_1min_bidask": "XNYS",
}


def same_bits(one, other):
    np.testing.assert_array_equal(one, other)
    assert one.dtype == other.dtype == np.float32


def stored(state):
    """The state as a file gives it back."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def in_parts(features, bars, cuts, *, restart=False):
    """The rows of a stream that gets the bars in parts, and is stored and resumed after each."""
    stream, rows = features.stream(), []
    for begin, end in zip([0, *cuts], [*cuts, len(bars)], strict=True):
        rows.append(stream.update(bars.iloc[begin:end]))
        if restart:
            stream = features.stream(stored(stream.state))
    return np.concatenate(rows)


def walk(seed=0):
    return make_bars(1500, bar="15min", session=NEW_YORK, start="2022-02-28", random_state=seed)  # the clocks change


def standing_still():
    """Prices that stand still for 4,000 bars, and move again."""
    bars = make_bars(5000, bar="5min", session=NEW_YORK, random_state=1)
    bars.loc[bars.index[400:4400], PRICES] = bars["close"].iloc[399]
    return bars


def with_holes():
    """Rows without prices, volume that is 0 or not known, and times that are not there."""
    rng = np.random.default_rng(0)
    bars = walk(2)
    bars.iloc[:3, :4] = np.nan
    bars.iloc[rng.choice(1500, 60, replace=False), :4] = np.nan
    bars.iloc[700:900, :4] = np.nan
    bars.iloc[640, 2] = np.nan
    bars.iloc[rng.choice(1500, 300, replace=False), 4] = 0.0
    bars.iloc[rng.choice(1500, 100, replace=False), 4] = np.nan
    return bars.drop(bars.index[rng.choice(1500, 100, replace=False)])


CASES = {
    "walk": walk,
    "standing still": standing_still,
    "holes": with_holes,
    # No move is too small for TA-Lib.
    "tiny prices": lambda: walk().mul([3e-15] * 4 + [1.0], axis=1),
    "no volume": lambda: walk().drop(columns="volume"),
    "vwap": lambda: walk().assign(vwap=lambda x: x["close"].where(np.arange(1500) % 3 > 0)),
    "3 bars": lambda: walk().iloc[:3],
    "1 bar": lambda: walk().iloc[:1],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("restart", [False, True])
def test_parts_are_the_whole(case, restart):
    bars = CASES[case]()
    features = IndicatorFeatures(ALL, session=NEW_YORK).fit(bars)
    first = min(len(bars), 60)
    later = np.random.default_rng(1).choice(np.arange(first, len(bars)), min(len(bars) - first, 60), replace=False)
    cuts = [*range(1, first), *np.sort(later)]
    same_bits(in_parts(features, bars, cuts, restart=restart), features.transform(bars))


@pytest.mark.parametrize("group", [None, *ALL])
def test_each_group_alone(group):
    bars = with_holes().iloc[:400]
    features = IndicatorFeatures(group and (group,), session=NEW_YORK)
    same_bits(in_parts(features, bars, range(1, 400)), features.transform(bars))


@pytest.mark.parametrize(("file", "session"), REAL.items())
def test_real_bars_one_by_one(shared_data, file, session):
    bars = read_bars(shared_data / f"{file}.parquet").iloc[-12_000:]
    features = IndicatorFeatures(ALL, session=session).fit(bars)
    whole = features.transform(bars)
    middle = len(bars) // 2
    rows = in_parts(features, bars, [3, middle, *range(middle + 1, middle + 120)])
    same_bits(rows, whole)
    same_bits(in_parts(features, bars.iloc[:200], range(1, 200)), whole[:200])
    same_bits(in_parts(features, bars, [middle, middle + 1], restart=True), whole)


def test_the_state_does_not_grow():
    bars = make_bars(4000, bar="5min", session=NEW_YORK, random_state=0)
    stream = IndicatorFeatures(ALL, session=NEW_YORK).stream()
    sizes = []
    for begin in (0, 1000):
        stream.update(bars.iloc[begin : begin + 1000 if begin == 0 else None])
        sizes.append({name: value.nbytes for name, value in stream.state.items()})
    assert sizes[0] == sizes[1]
    assert sum(sizes[1].values()) < 16_384


def test_state_is_a_copy():
    bars = walk()
    stream = IndicatorFeatures(ALL).stream()
    stream.update(bars.iloc[:500])
    before = stream.state
    rows = stream.update(bars.iloc[500:])
    same_bits(IndicatorFeatures(ALL).stream(before).update(bars.iloc[500:]), rows)


def test_a_state_of_other_parameters_is_refused():
    stream = IndicatorFeatures(("rsi", "vwap")).stream()
    stream.update(walk())
    message = (
        r"^`state` must be one left by the same parameters; got another\. "
        r"Build `IndicatorFeatures` as it was when the state was stored\.$"
    )
    others = [
        IndicatorFeatures(("rsi",)),
        IndicatorFeatures(("vwap", "rsi")),
        IndicatorFeatures(("rsi", "vwap"), session="XNYS"),
        IndicatorFeatures(("rsi", "vwap"), session=NEW_YORK),
    ]
    for other in others:
        with pytest.raises(EnsembleKitError, match=message):
            other.stream(stream.state)
    state = stream.state
    for broken in (
        {},
        ICTFeatures().stream().state,
        {**state, "macd": np.zeros(3)},
        {**state, "slots": np.zeros((5, 2))},
    ):
        with pytest.raises(EnsembleKitError, match=message):
            IndicatorFeatures(("rsi", "vwap")).stream(broken)


def test_unknown_groups():
    with pytest.raises(EnsembleKitError, match="`include` must be None or a tuple of different groups"):
        IndicatorFeatures(("rsy",)).stream()


# What every stream of bars refuses. The short way of reading must not take what `check_bars` refuses.

STREAMS = {"indicators": IndicatorFeatures, "alpha158": Alpha158, "ict": ICTFeatures}


@pytest.mark.parametrize("name", STREAMS)
def test_bars_that_do_not_follow(name):
    bars = walk()
    stream = STREAMS[name]().stream()
    stream.update(bars.iloc[:50])
    with pytest.raises(BarsError, match=r"^`bars` must follow those before; got .* Drop the bars already taken\.$"):
        stream.update(bars.iloc[[49]])
    with pytest.raises(BarsError, match=r"^`bars` must be of one instrument; got a panel\. Keep one stream an"):
        stream.update(make_bars(5, instruments=["A"], random_state=0))


def faulty():
    bars = walk().iloc[:4]

    def put(column, value, dtype=None):
        frame = bars.astype({column: dtype}) if dtype else bars.copy()
        frame.loc[frame.index[2], column] = value
        return frame

    high = bars["high"].max()
    return {
        "NaT": bars.set_axis([*bars.index[:3], pd.NaT]),
        "NaT first": bars.set_axis([pd.NaT, *bars.index[1:]]),
        "unsorted": bars.iloc[[0, 2, 1, 3]],
        "repeated": bars.iloc[[0, 1, 1, 2]],
        "no times": bars.reset_index(drop=True),
        "empty": bars.iloc[:0],
        "no close": bars.drop(columns="close"),
        "close twice": pd.concat([bars, bars[["close"]]], axis=1),
        "Close": bars.rename(columns={"close": "Close"}),
        "text": bars.assign(close="1.0"),
        "text volume": bars.assign(volume="1.0"),
        "not a frame": bars.to_numpy(),
        "infinite": put("open", np.inf),
        "minus infinite": put("low", -np.inf),
        "zero": put("low", 0.0),
        "negative": put("low", -1.0),
        "high < low": put("high", bars["low"].iloc[2] * 0.99),
        "open above": put("open", high * 2),
        "open below": put("open", 1e-9),
        "close above": put("close", high * 2),
        "close below": put("close", 1e-9),
        "open alone above": put("open", high * 2).assign(close=np.nan),
        "volume < 0": put("volume", -1.0),
        "volume infinite": put("volume", np.inf),
    }


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("fault", faulty())
def test_what_check_bars_refuses(name, fault):
    bars = faulty()[fault]
    with pytest.raises(BarsError) as expected:
        check_bars(bars)
    stream = STREAMS[name]().stream()
    before = stored(stream.state)
    with pytest.raises(BarsError) as error:
        stream.update(bars)
    assert str(error.value) == str(expected.value)
    for key, value in stored(stream.state).items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize(
    "variant",
    [
        lambda bars: bars.astype({"volume": "int64"}),
        lambda bars: bars.astype(np.float32).assign(
            high=lambda x: x[PRICES].max(axis=1), low=lambda x: x[PRICES].min(axis=1)
        ),
        lambda bars: bars.assign(name="SPY"),
        lambda bars: bars[["volume", *PRICES[::-1]]],
        lambda bars: bars.astype("Float64"),
        lambda bars: bars.tz_convert("UTC").tz_localize(None),
        lambda bars: bars.set_axis(bars.index.as_unit("s")),
    ],
)
def test_frames_of_other_kinds(name, variant):
    bars = variant(walk().round(0).iloc[:300])
    features = STREAMS[name]().fit(bars)
    same_bits(in_parts(features, bars, [1, 100, 101]), features.transform(bars))


def test_a_vwap_that_is_no_number():
    with pytest.raises(BarsError, match="`bars` must have numeric prices and volumes; got vwap of"):
        IndicatorFeatures().stream().update(walk().assign(vwap="1.0"))


@pytest.mark.parametrize("make", [IndicatorFeatures, ICTFeatures])
def test_dates_of_an_exchange(make):
    bars = make_bars(300, bar="1D", random_state=0)
    bars.index = pd.bdate_range("2022-01-03", periods=300)
    features = make(session="XNYS").fit(bars)
    same_bits(in_parts(features, bars, range(1, 300, 7), restart=True), features.transform(bars))


def test_daily_bars_that_are_instants_are_refused():
    bars = make_bars(300, bar="1D", random_state=0)
    bars.index = pd.bdate_range("2022-01-03", periods=300, tz="UTC")
    with pytest.raises(BarsError, match="`bars` of a day must be given as dates for session='XNYS'"):
        IndicatorFeatures(session="XNYS").fit(bars)
    IndicatorFeatures(("rsi",), session="XNYS").fit(bars)  # which knows no sessions
