"""Folds: exactly the rows whose labels were known, in every shape an index can have."""

import copy
import pickle
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, clone
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit, cross_validate

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.validation import WalkForwardSplit, check_fold

DAYS = pd.date_range("2022-01-03", periods=8, tz="America/New_York", name="datetime")


def folds(splitter, X):
    return [(train.tolist(), test.tolist()) for train, test in splitter.split(X)]


def frame(index):
    return pd.DataFrame({"x": np.arange(len(index), dtype=float)}, index=index)


def panel(*pairs):
    return pd.MultiIndex.from_tuples(pairs, names=["datetime", "instrument"])


# ------------------------------------------------------------------------- which rows


@st.composite
def panels(draw):
    """Irregular times, instruments that start and pause when they like, labels known whenever, or never."""
    steps = draw(st.lists(st.integers(1, 500), min_size=6, max_size=18))
    times = pd.Timestamp("2022-01-03", tz="UTC") + pd.to_timedelta(np.cumsum(steps), unit="min")
    rows = [
        (time, name)
        for name in draw(st.sampled_from([["A"], ["B", "A"], ["C", "A", "B"]]))
        for time in times[draw(st.integers(0, 3)) :]
        if draw(st.integers(0, 4)) or name == "A"
    ]
    rows = sorted(rows)
    ahead = draw(st.lists(st.integers(0, 1500) | st.none(), min_size=len(rows), max_size=len(rows)))
    index = panel(*rows)
    t1 = [pd.NaT if a is None else row[0] + pd.Timedelta(minutes=a) for a, row in zip(ahead, rows, strict=True)]
    return pd.Series(pd.DatetimeIndex(t1, tz="UTC"), index=index, name="t1")


@settings(max_examples=80, deadline=None)
@given(t1=panels(), n_splits=st.integers(1, 3), test_size=st.sampled_from([None, 1, 2, 0.2]))
def test_folds_equal_brute_force(t1, n_splits, test_size):
    index = t1.index
    times = sorted({time for time, _ in index})
    size = {None: len(times) // (n_splits + 1), 0.2: int(0.2 * len(times))}.get(test_size, test_size)
    expected = []
    for fold in range(n_splits):
        block = times[len(times) - (n_splits - fold) * size :][:size]
        train = [i for i, (time, _) in enumerate(index) if time < block[0] and t1.iloc[i] < block[0]] if block else []
        expected.append((train, [i for i, (time, _) in enumerate(index) if time in block]))
    splitter = WalkForwardSplit(n_splits, t1=t1, test_size=test_size)
    if size < 1 or n_splits * size >= len(times) or not all(train for train, _ in expected):
        with pytest.raises(EnsembleKitError):
            folds(splitter, frame(index))
        return
    assert folds(splitter, frame(index)) == expected
    blocks = [test for _, test in expected]
    assert [i for block in blocks for i in block] == list(range(len(index) - sum(map(len, blocks)), len(index)))


def test_a_table_of_dates():
    # The label of Monday the 3rd is known two days later, Thursday's only after the weekend, the last is not.
    t1 = pd.Series(DAYS + pd.to_timedelta([2, 0, 0, 4, 0, 0, 0, np.nan], unit="D"), index=DAYS)
    table = [
        (" ".join(DAYS[train].strftime("%d")), " ".join(DAYS[test].strftime("%d")))
        for train, test in WalkForwardSplit(3, t1=t1, test_size=2).split(frame(DAYS))
    ]
    assert table == [
        ("04", "05 06"),
        ("03 04 05", "07 08"),
        ("03 04 05 07 08", "09 10"),
    ]


def test_slices_are_looked_up_by_index():
    t1 = pd.Series(DAYS[[3, 1, 2, 6, 4, 5, 6, 7]], index=DAYS)
    X = frame(DAYS)
    whole = folds(WalkForwardSplit(1, t1=t1, test_size=2), X)
    assert whole == [([0, 1, 2, 4, 5], [6, 7])]  # the label of row 3 looks at row 6
    assert folds(WalkForwardSplit(1, t1=t1, test_size=2), X.iloc[2:]) == [([0, 2, 3], [4, 5])]
    assert folds(WalkForwardSplit(1, t1=t1, test_size=2), X.iloc[2:7]) == [([0, 2], [3, 4])]
    shuffled = t1.sample(frac=1, random_state=0)
    assert folds(WalkForwardSplit(1, t1=shuffled, test_size=2), X) == whole


@pytest.mark.parametrize(
    ("test_size", "expected"),
    [(None, [[4, 5], [6, 7]]), (1, [[6], [7]]), (np.int64(3), [[2, 3, 4], [5, 6, 7]]), (0.25, [[4, 5], [6, 7]])],
)
def test_test_size(test_size, expected):
    splitter = WalkForwardSplit(2, purge=0, test_size=test_size)
    found = folds(splitter, np.zeros((8, 1)))
    assert [test for _, test in found] == expected
    assert [train for train, _ in found] == [list(range(test[0])) for test in expected]
    assert splitter.get_n_splits() == 2


def test_purge_counts_each_instruments_own_bars():
    t = pd.date_range("2022", periods=5)
    rows = [(t[0], "A"), (t[1], "A"), (t[1], "B"), (t[2], "B"), (t[3], "A"), (t[3], "B"), (t[4], "A"), (t[4], "B")]
    # Two bars of A reach back to t1, two of B to t2 only.
    assert folds(WalkForwardSplit(1, purge=2, test_size=1), frame(panel(*rows))) == [([0, 2], [6, 7])]
    assert folds(WalkForwardSplit(1, purge=0, test_size=2), frame(panel(*rows))) == [([0, 1, 2, 3], [4, 5, 6, 7])]
    # Bars, not those of the window: an instrument that stopped long ago still has its last two left out.
    gone = [(t[0], "B"), (t[1], "B"), (t[2], "B"), *((time, "A") for time in pd.date_range("2023", periods=6))]
    assert folds(WalkForwardSplit(1, purge=2, test_size=1), frame(panel(*gone))) == [([0, 3, 4, 5], [8])]


@pytest.mark.parametrize("train_size", [None, 12])
def test_t1_of_a_constant_reach_is_purge(train_size):
    X = np.zeros((30, 1))
    t1 = pd.Series(np.arange(30.0) + 4)
    t1[26:] = np.nan
    by_t1, by_bars = (WalkForwardSplit(3, train_size=train_size, **how) for how in ({"t1": t1}, {"purge": 4}))
    assert folds(by_t1, X) == folds(by_bars, X)
    assert [len(train) for train, _ in folds(by_bars, X)] == ([5, 12, 19] if train_size is None else [8, 8, 8])


@settings(max_examples=60, deadline=None)
@given(t1=panels(), w=st.integers(0, 4))
def test_purge_is_exact_for_labels_that_look_at_their_own_bars(t1, w):
    X = frame(t1.index)
    own = pd.Series(t1.index.get_level_values(0), index=t1.index).groupby(level=1).shift(-w)
    by_t1, by_bars = WalkForwardSplit(2, t1=own, test_size=2), WalkForwardSplit(2, purge=w, test_size=2)
    try:
        expected = folds(by_t1, X)
    except EnsembleKitError:
        with pytest.raises(EnsembleKitError):
            folds(by_bars, X)
        return
    assert folds(by_bars, X) == expected
    for train, test in expected:  # no row that the newest w distinct times hold, and perhaps more
        assert len(set(t1.index.get_level_values(0)[train[-1] : test[0]])) > w


# ------------------------------------------------------------------------------- sizes

HOURS = pd.date_range("2022-03-10", periods=96, freq="h", tz="America/New_York")  # the 13th has 23 hours


@pytest.mark.parametrize(
    ("train_size", "test_size", "expected"),
    [
        (2, 2, [([2, 3], [4, 5]), ([4, 5], [6, 7])]),
        (np.int64(1), 3, [([1], [2, 3, 4]), ([4], [5, 6, 7])]),
        (0.25, 0.25, [([2, 3], [4, 5]), ([4, 5], [6, 7])]),
        (4, None, [([0, 1, 2, 3], [4, 5]), ([2, 3, 4, 5], [6, 7])]),  # None: what the first window leaves
        (3, None, [([1, 2, 3], [4, 5]), ([3, 4, 5], [6, 7])]),
        ("3D", "2D", [([1, 2, 3], [4, 5]), ([3, 4, 5], [6, 7])]),
        ("3D", None, [([1, 2, 3], [4, 5]), ([3, 4, 5], [6, 7])]),
        (pd.Timedelta(days=3), timedelta(days=2), [([1, 2, 3], [4, 5]), ([3, 4, 5], [6, 7])]),
        (np.timedelta64(36, "h"), "47h", [([3], [4, 5]), ([5], [6, 7])]),
        (None, "49h", [([0, 1, 2], [3, 4]), ([0, 1, 2, 3, 4], [5, 6, 7])]),
    ],
)
def test_sizes(train_size, test_size, expected):
    splitter = WalkForwardSplit(2, purge=0, train_size=train_size, test_size=test_size)
    assert folds(splitter, frame(DAYS)) == expected
    assert folds(pickle.loads(pickle.dumps(splitter)), frame(DAYS)) == expected
    assert folds(through_skops(splitter), frame(DAYS)) == expected


def test_a_day_has_24_hours_and_folds_are_the_same_in_every_zone():
    cv = WalkForwardSplit(2, purge=0, train_size="1D", test_size="1D")
    expected = [(list(range(24, 48)), list(range(48, 72))), (list(range(48, 72)), list(range(72, 96)))]
    assert folds(cv, frame(HOURS)) == expected
    assert folds(cv, frame(HOURS.tz_convert("UTC"))) == expected
    assert folds(cv, frame(HOURS.tz_convert("UTC").tz_localize(None).as_unit("s"))) == expected


def test_calendar_sizes_are_half_open():
    index = pd.to_datetime(["2022-01-01", "2022-01-02", "2022-01-03", "2022-01-09", "2022-01-10"])
    # A bar seven days before the last belongs to the block before; one seven days before the first test bar trains.
    cv = WalkForwardSplit(1, purge=0, train_size="7D", test_size="7D")
    assert folds(cv, frame(index)) == [([1, 2], [3, 4])]
    cv = WalkForwardSplit(1, purge=0, train_size="7D", test_size="7D1ns")
    with pytest.raises(EnsembleKitError, match="fold 0 has 2 times before its first, 2022-01-03"):
        folds(cv, frame(index))


def test_purge_takes_from_the_window():
    X = np.zeros((12, 1))
    assert folds(WalkForwardSplit(2, purge=2, train_size=4, test_size=3), X) == [
        ([2, 3], [6, 7, 8]),
        ([5, 6], [9, 10, 11]),
    ]
    t1 = pd.Series([0.0, 1, 11, 3, 9, 5, 6, 7, 8, np.nan, 10, 11])
    assert folds(WalkForwardSplit(2, t1=t1, train_size=4, test_size=3), X) == [
        ([3, 5], [6, 7, 8]),
        ([5, 6, 7, 8], [9, 10, 11]),
    ]


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ({"test_size": "3MS"}, "`test_size` must be a number of distinct times .* got '3MS'. A month .* give days"),
        ({"test_size": "3M"}, "got '3M'"),
        ({"test_size": "soon"}, "got 'soon'"),
        ({"test_size": "-2D"}, "got '-2D'"),
        ({"test_size": pd.NaT}, "`test_size` must be"),
        ({"test_size": "NaT"}, "`test_size` must be"),
        ({"test_size": "999999999D"}, "`test_size` must be"),
        ({"test_size": np.timedelta64(3, "M")}, "got np.timedelta64"),
        ({"test_size": [2]}, r"got \[2\]"),
        ({"train_size": 1.0}, "`train_size` must be a number of distinct times of at least 1, a share .* got 1.0"),
        ({"train_size": float("nan")}, "got nan"),
        ({"train_size": 0}, "got 0"),
        ({"train_size": 0.01, "test_size": 1}, "`train_size` must be at least one time and fit .* got 0"),
        ({"train_size": 3, "test_size": 2}, "got 3, and fold 0 has 2 times before its first, 2022-01-05 .* the oldest"),
        ({"train_size": "3D", "test_size": 2}, "got 3 days 00:00:00, and fold 0 has 2 times before"),
        ({"train_size": 7}, "more times than 3 test blocks of 1 behind a window of 7; got 8"),
        ({"train_size": 50}, "more times than 3 test blocks of 1 behind a window of 50; got 8"),
        ({"train_size": "90D"}, "3 test blocks of 1 behind a window of 90 days 00:00:00; got 8"),
        ({"test_size": "90D"}, "more times than 3 test blocks of 90 days 00:00:00; got 8. Give more bars"),
        ({"test_size": "100000D"}, "more times than 3 test blocks of 100000 days"),
        ({"test_size": "12h"}, "every test block a bar; got 0 days 12:00:00, and fold 1 has none .* 2022-01-09"),
        ({"train_size": "1h", "test_size": 1}, "fold 0 has none after purging its 0 rows before 2022-01-08"),
    ],
)
def test_sizes_refused(sizes, match):
    with pytest.raises(EnsembleKitError, match=match):
        folds(WalkForwardSplit(3, purge=0, **sizes), frame(DAYS))


@pytest.mark.parametrize("name", ["train_size", "test_size"])
def test_calendar_sizes_need_times(name):
    for X in (np.zeros((9, 1)), pd.DataFrame({"x": np.zeros(9)})):
        with pytest.raises(EnsembleKitError, match=f"`{name}` must be a number of rows .* X has no times; got '2D'"):
            folds(WalkForwardSplit(2, purge=0, **{name: "2D"}), X)


def test_nothing_is_yielded_before_all_folds_are_seen_to_be_filled():
    # Fold 0 could be filled, fold 1 not: its window's labels are all known late.
    t1 = pd.Series([0.0, 1, 2, 9, 9, 5, 6])
    splits = WalkForwardSplit(2, t1=t1, train_size=2, test_size=2).split(np.zeros((7, 1)))
    with pytest.raises(EnsembleKitError, match=r"fold 1 has none after purging its 2 rows before 5\. Give"):
        next(splits)


# ------------------------------------------------------------------------------ lookup


@pytest.mark.parametrize("shape", ["single", "panel"])
def test_equal_instants_are_found_in_any_unit_and_zone(shape):
    index = DAYS if shape == "single" else pd.MultiIndex.from_product([DAYS, ["SPY", "QQQ"]]).sort_values()
    times = index.get_level_values(0)
    t1 = pd.Series(times + pd.to_timedelta(np.arange(len(times)) % 3, unit="D"), index=index)
    expected = folds(WalkForwardSplit(2, t1=t1, test_size=2), frame(index))
    elsewhere = times.tz_convert("UTC").as_unit("s")
    if shape == "panel":
        elsewhere = pd.MultiIndex.from_arrays([elsewhere, pd.Categorical(index.get_level_values(1))])
    assert folds(WalkForwardSplit(2, t1=t1, test_size=2), frame(elsewhere)) == expected
    abroad = t1.dt.tz_convert("Asia/Tokyo").set_axis(elsewhere)
    assert folds(WalkForwardSplit(2, t1=abroad, test_size=2), frame(index)) == expected


def test_rows_are_found_wherever_they_stand():
    rng = np.random.default_rng(0)
    t1 = pd.Series(PANEL.get_level_values(0) + pd.to_timedelta(rng.integers(0, 3, len(PANEL)), unit="D"), index=PANEL)
    cv = WalkForwardSplit(1, t1=t1.sample(frac=1, random_state=1), test_size=2)
    X = pd.DataFrame(rng.normal(size=(len(PANEL), 3)), columns=[*"abc"], index=PANEL)
    assert folds(cv, X[[*"cab"]]) == folds(cv, X) == folds(cv, X["a"])
    for _ in range(10):
        kept = np.flatnonzero(rng.random(len(X)) < 0.8)
        mine = WalkForwardSplit(1, t1=t1.iloc[kept], test_size=2)
        assert folds(cv, X.iloc[kept]) == folds(mine, X.iloc[kept])


# ---------------------------------------------------------------------------- refused


def test_neither_warns():
    with pytest.warns(UserWarning, match="neither `t1` nor `purge`") as record:
        assert len(folds(WalkForwardSplit(2), np.zeros((9, 1)))) == 2
    assert [warning.filename for warning in record] == [__file__]


T1 = pd.Series(DAYS, index=DAYS)


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ({"n_splits": 0}, EnsembleKitError, "`n_splits` must be an integer of at least 1; got 0"),
        ({"n_splits": 2.0}, EnsembleKitError, "`n_splits` must be an integer"),
        ({"t1": T1, "purge": 1}, EnsembleKitError, "must not both be given"),
        ({"purge": -1}, EnsembleKitError, "`purge` must be an integer of at least 0; got -1"),
        ({"purge": 1.5}, EnsembleKitError, "`purge` must be"),
        ({"purge": 0, "test_size": 0}, EnsembleKitError, "`test_size` must be"),
        ({"purge": 0, "test_size": 1.5}, EnsembleKitError, "`test_size` must be"),
        ({"purge": 0, "test_size": 0.01}, EnsembleKitError, "more times than 3 test blocks"),
        ({"purge": 0, "test_size": 4}, EnsembleKitError, "3 test blocks of 4; got 8"),
        ({"purge": 0, "n_splits": 8}, EnsembleKitError, "Give more bars"),
        ({"purge": 2, "test_size": 2}, EnsembleKitError, "fold 0 has none after purging"),
        ({"t1": DAYS}, EnsembleKitError, "`t1` must be a pandas Series .* got DatetimeIndex"),
        (
            {"t1": T1.where(T1.index != DAYS[2], DAYS[1])},
            LeakageError,
            r"must not lie before its own row; row 2 has 2022-01-04 .* at 2022-01-05 00:00:00-05:00, 1 such row\(s\)",
        ),
        ({"t1": T1.iloc[:5]}, LeakageError, r"2022-01-08.* \(row 5\) is not in it, 3 row\(s\)"),
        ({"t1": T1.set_axis(DAYS + pd.Timedelta(hours=1))}, LeakageError, r"\(row 0\) is not in it, 8"),
        ({"t1": T1.reset_index(drop=True)}, LeakageError, "must be on the index of X"),
        ({"t1": pd.concat([T1, T1[2:4]])}, LeakageError, "each row of its index once; got .* 2 in all, .* 2022-01-05"),
        ({"t1": T1.tz_localize(None)}, LeakageError, r"1 level\(s\) of .*New_York\], its .* got datetime64\[us\] on 1"),
        ({"t1": T1.dt.tz_localize(None)}, LeakageError, r"got datetime64\[us\] on 1 level\(s\)\. Pass the `t1` of"),
        ({"t1": T1.set_axis(DAYS.astype(str))}, LeakageError, r"its times naive .* got str on 1 level\(s\)"),
        ({"t1": T1.astype(str)}, LeakageError, "must hold times .* got str"),
        ({"t1": T1.to_frame()}, EnsembleKitError, "`t1` must be a pandas Series .* got DataFrame"),
        ({"t1": pd.Series(np.arange(8), index=DAYS)}, LeakageError, "must hold times"),
    ],
)
def test_refused(parameters, error, match):
    with pytest.raises(error, match=match):
        folds(WalkForwardSplit(**parameters), frame(DAYS))


def test_refused_for_arrays():
    with pytest.raises(LeakageError, match="each of the 8 rows of an array; got 7"):
        folds(WalkForwardSplit(t1=pd.Series(np.arange(7))), np.zeros((8, 1)))
    with pytest.raises(LeakageError, match="positions where it has none; got datetime64"):
        folds(WalkForwardSplit(t1=T1), np.zeros((8, 1)))
    with pytest.raises(LeakageError, match=r"must be on the index of X, 2 level\(s\) .* on 1 level\(s\)"):
        folds(WalkForwardSplit(t1=T1), frame(panel(*((day, "A") for day in DAYS))))
    for t1 in (pd.Series(["a"] * 8), pd.Series([True] * 8)):
        with pytest.raises(LeakageError, match=f"positions where it has none; got {t1.dtype}"):
            folds(WalkForwardSplit(t1=t1), np.zeros((8, 1)))
    for value in (2.5, np.inf):
        with pytest.raises(LeakageError, match=f"whole positions, NaN where .* row 1 has {value}. Count rows from 0"):
            folds(WalkForwardSplit(t1=pd.Series([1, value, 2, 3])), np.zeros((4, 1)))
    with pytest.raises(LeakageError, match="must not lie before its own row; row 1 has 0 at 1, 2 such"):
        folds(WalkForwardSplit(1, t1=pd.Series([0, 0, 1, 3])), np.zeros((4, 1)))
    rows = pd.DataFrame({"x": np.zeros(10)}).iloc[2:]
    for t1, X in ((pd.Series(np.arange(8), index=rows.index), rows), (pd.Series(np.arange(8)), rows)):
        with pytest.raises(
            LeakageError, match=r"on positions counted from 0, and X too, .* got an index of int64 from 2"
        ):
            folds(WalkForwardSplit(t1=t1), X)
    unknown = pd.Series([0, 1, 2, pd.NA], dtype="Int64")
    assert folds(WalkForwardSplit(1, t1=unknown, test_size=1), np.zeros((4, 1))) == [([0, 1, 2], [3])]


def test_refused_rows():
    for X, match in (
        (frame(DAYS[::-1]), "`X` must be sorted by time; row 1"),
        (frame(panel((DAYS[1], "A"), (DAYS[0], "B"))), "`X` must be sorted by time; row 1"),
        (frame(panel((DAYS[0], "A"), (DAYS[0], "A"))), "`X` must have unique times"),
        (frame(DAYS[:0]), "more times than 2 test blocks of 1; got 0"),
        (np.zeros((0, 1)), "more times than 2 test blocks of 1; got 0"),
    ):
        with pytest.raises(EnsembleKitError, match=match):
            folds(WalkForwardSplit(2, purge=0), X)
    with pytest.raises(
        EnsembleKitError, match=r"more times than 2 test blocks of 2 days 00:00:00 behind a window of 1 days .*; got 0"
    ):
        folds(WalkForwardSplit(2, purge=0, train_size="1D", test_size="2D"), frame(DAYS[:0]))


@pytest.mark.parametrize("cv", [KFold(3), KFold(3, shuffle=True, random_state=0), ShuffleSplit(2, random_state=0)])
def test_check_fold_refuses_training_on_the_future(cv):
    X = frame(DAYS)
    train, test = next(cv.split(X))
    with pytest.raises(LeakageError, match=r"fold 7 trains on row \d, which is not before its first test row \d"):
        check_fold(row_keys(X), train, test, 7)


def test_check_fold():
    keys = row_keys(frame(panel((DAYS[0], "A"), (DAYS[0], "B"), (DAYS[1], "A"))))
    check_fold(keys, np.array([0, 1]), np.array([2]), 0)
    with pytest.raises(LeakageError, match=r"trains on row 0, .* first test row 1"):  # another instrument, same time
        check_fold(keys, np.array([0]), np.array([1, 2]), 0)
    for train, test in ([], [2]), ([0], []):
        with pytest.raises(EnsembleKitError, match=f"fold 4 has {len(train)} training rows and {len(test)} test rows"):
            check_fold(keys, np.array(train, dtype=int), np.array(test, dtype=int), 4)


# ----------------------------------------------------------------- inside scikit-learn


def test_in_cross_validate_and_grid_search():
    X, y = frame(DAYS), np.array([0, 1] * 4)
    t1 = pd.Series(DAYS[[1, 2, 3, 4, 5, 6, 7, 7]], index=DAYS)
    cv = WalkForwardSplit(2, t1=t1, test_size=2)
    scores = cross_validate(DummyClassifier(), X, y, cv=cv, return_indices=True, scoring="accuracy")
    assert [i.tolist() for i in scores["indices"]["train"]] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    search = GridSearchCV(DummyClassifier(), {"strategy": ["prior", "uniform"]}, cv=cv, scoring="accuracy").fit(X, y)
    assert search.n_splits_ == 2
    assert clone(search).cv is not cv
    assert folds(clone(search).cv, X) == folds(cv, X)


class Holder(BaseEstimator):
    """An estimator with a splitter among its parameters, as the ensemble has."""

    def __init__(self, cv=None):
        self.cv = cv


def through_skops(splitter):
    trusted = ["ensemble_kit.validation.split.WalkForwardSplit"]
    return skops.io.loads(skops.io.dumps(splitter), trusted=trusted)


PANEL = panel(*((day, name) for day in DAYS for name in ("QQQ", "SPY") if (day, name) != (DAYS[0], "QQQ")))
STORED = {
    "naive": DAYS.tz_localize(None),
    "tz": DAYS,
    "offset": DAYS.tz_convert("+05:30").rename("when"),
    "nameless": DAYS.rename(None),
    "panel": PANEL,
    "numbered": PANEL.set_levels([7, 11], level=1),
    "positions": None,
}


@pytest.mark.parametrize("how", [lambda s: pickle.loads(pickle.dumps(s)), through_skops, copy.deepcopy])
@pytest.mark.parametrize("kind", STORED)
def test_storing_keeps_t1(how, kind):
    index = STORED[kind]
    if index is None:
        X, t1 = np.zeros((8, 1)), pd.Series([3.0, 1, 2, 6, 4, 5, np.nan, np.nan])
    else:
        X, times = frame(index), index.get_level_values(0)
        t1 = pd.Series(times + pd.to_timedelta(np.arange(len(index)) % 3, unit="D"), index=index)
        t1.iloc[-2:] = pd.NaT
    splitter = WalkForwardSplit(2, t1=t1, test_size=2)
    stored = how(splitter)
    assert folds(stored, X) == folds(splitter, X)
    assert stored.t1.index.equals(t1.index)
    assert stored.t1.index.names == t1.index.names
    assert stored.t1.equals(t1.astype(stored.t1.dtype))
    assert getattr(stored.t1.dt, "tz", None) == t1.dt.tz if index is not None else stored.t1.dtype == t1.dtype
    assert (stored.n_splits, stored.purge, stored.test_size) == (2, None, 2)
    assert splitter.t1 is t1


def test_clone_and_stored_without_t1():
    splitter = WalkForwardSplit(3, purge=2)
    assert folds(through_skops(splitter), np.zeros((12, 1))) == folds(splitter, np.zeros((12, 1)))
    holder = clone(Holder(WalkForwardSplit(2, t1=T1, test_size=2)))
    assert folds(holder.cv, frame(DAYS)) == folds(WalkForwardSplit(2, t1=T1, test_size=2), frame(DAYS))


def test_repr_is_one_line():
    assert repr(WalkForwardSplit(3, t1=T1)) == "WalkForwardSplit(3, t1=<8 rows>)"
    assert repr(WalkForwardSplit(2, purge=5, train_size="90D", test_size=0.1)) == (
        "WalkForwardSplit(2, purge=5, train_size='90D', test_size=0.1)"
    )


def test_folds_print():
    hours = pd.date_range("2022-01-03 09:30", periods=60, freq="h", tz="America/New_York")
    X = frame(pd.MultiIndex.from_product([hours, ["A", "B"]], names=["datetime", "instrument"]))
    cv = WalkForwardSplit(2, purge=3, train_size=20, test_size="10h")
    table = cv.folds(X)
    expected = folds(cv, X)
    assert table.index.tolist() == [0, 1]
    assert table.index.name == "fold"
    for (train, test), (_, row) in zip(expected, table.iterrows(), strict=True):
        times = X.index.get_level_values(0)
        assert row[["train_start", "train_end"]].tolist() == [times[train[0]], times[train[-1]]]
        assert row[["test_start", "test_end"]].tolist() == [times[test[0]], times[test[-1]]]
        assert row[["n_train", "n_purged", "n_test"]].tolist() == [34, 6, 20] == [len(train), 6, len(test)]
    # Every column shows, however narrow the terminal, and what is made of the table is a plain frame.
    with pd.option_context("display.max_columns", 0, "display.width", 80):
        assert all(name in repr(table) for name in table.columns)
        assert max(map(len, repr(table).splitlines())) <= 80
    assert type(table[["n_train"]]) is pd.DataFrame
    positions = WalkForwardSplit(2, purge=1).folds(np.zeros((9, 1)))
    assert positions.to_numpy().tolist() == [[0, 1, 2, 1, 3, 5, 3], [0, 4, 5, 1, 6, 8, 3]]
    late = pd.Series([8, 8, 2, 3, 4, 5, 6, 7, 8])  # purged are rows of the window, wherever they lie in it
    positions = WalkForwardSplit(1, t1=late, train_size=4, test_size=4).folds(np.zeros((9, 1)))
    assert positions.to_numpy().tolist() == [[2, 4, 3, 1, 5, 8, 4]]
    with pytest.warns(UserWarning, match="neither") as record:
        WalkForwardSplit(2).folds(np.zeros((9, 1)))
    assert [warning.filename for warning in record] == [__file__]
