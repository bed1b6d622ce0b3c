"""Folds: exactly the rows whose labels were known, in every shape an index can have."""

import copy
import pickle
import re

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


def test_purge_counts_distinct_times():
    t = pd.date_range("2022", periods=5)
    rows = [(t[0], "A"), (t[1], "A"), (t[1], "B"), (t[2], "B"), (t[3], "A"), (t[3], "B"), (t[4], "A"), (t[4], "B")]
    assert folds(WalkForwardSplit(1, purge=2, test_size=1), frame(panel(*rows))) == [([0, 1, 2], [6, 7])]
    assert folds(WalkForwardSplit(1, purge=0, test_size=2), frame(panel(*rows))) == [([0, 1, 2, 3], [4, 5, 6, 7])]


def test_t1_of_a_constant_reach_is_purge():
    X = np.zeros((30, 1))
    t1 = pd.Series(np.arange(30.0) + 4)
    t1[26:] = np.nan
    assert folds(WalkForwardSplit(3, t1=t1), X) == folds(WalkForwardSplit(3, purge=4), X)


def test_other_units_and_zones_of_the_same_times():
    t1 = pd.Series(DAYS[[3, 1, 2, 6, 4, 5, 6, 7]], index=DAYS)
    expected = folds(WalkForwardSplit(2, t1=t1, test_size=2), frame(DAYS))
    elsewhere = DAYS.tz_convert("UTC").as_unit("s")
    assert folds(WalkForwardSplit(2, t1=t1, test_size=2), frame(elsewhere)) == expected


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
        ({"t1": T1 - pd.Timedelta(days=1)}, LeakageError, "must not lie before its own row; row 0 has 2022-01-02"),
        ({"t1": T1.iloc[:5]}, LeakageError, r"2022-01-08.* \(row 5\) is not in it, 3 row\(s\)"),
        ({"t1": T1.set_axis(DAYS + pd.Timedelta(hours=1))}, LeakageError, r"\(row 0\) is not in it, 8"),
        ({"t1": T1.reset_index(drop=True)}, LeakageError, "must be on the index of X"),
        ({"t1": pd.concat([T1, T1])}, LeakageError, "each row of its index once"),
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
    with pytest.raises(LeakageError, match="must be on the index of X"):
        folds(WalkForwardSplit(t1=T1), frame(panel(*((day, "A") for day in DAYS))))


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
    assert repr(WalkForwardSplit(3, t1=T1)) == "WalkForwardSplit(3, t1=<8 rows>, purge=None, test_size=None)"
    assert re.fullmatch(r"WalkForwardSplit\(2, t1=None, purge=5, .*\)", repr(WalkForwardSplit(2, purge=5)))
