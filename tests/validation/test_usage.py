"""Who saw what: the refused pairs, and how it is shown."""

import copy
import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.sizing import KellySizer, SizedClassifier
from ensemble_kit.validation import ALL_MEMBERS, REFIT, ROLES, RowUsage, WalkForwardSplit

FORBIDDEN = {("fit", role) for role in ROLES if role != "fit"} | {("stop", role) for role in ROLES[2:]}


def usage(*entries):
    record = RowUsage()
    for entry in entries:
        record.add(*entry)
    return record


@pytest.mark.parametrize("pair", [*itertools.combinations(ROLES, 2)])
@pytest.mark.parametrize("turned", [False, True])
def test_pairs(pair, turned):
    entries = [(0, "a", pair[0], [1, 2, 3]), (0, "a", pair[1], [3, 4])]
    record = usage(*(entries[::-1] if turned else entries))
    if pair in FORBIDDEN:
        with pytest.raises(
            LeakageError, match=f"'{pair[0]}' and '{pair[1]}' in one fold; fold 0 of member 'a' .*row 3"
        ):
            record.check()
    else:
        assert record.check() is record


def test_the_roles_in_order_of_use():
    assert ROLES == ("fit", "stop", "score", "calibrate", "weigh", "size")
    assert len(FORBIDDEN) == 9


@pytest.mark.parametrize("role", ROLES)
def test_twice_in_one_role_is_no_pair(role):
    assert usage((0, "a", role, [1, 2]), (0, "a", role, [2, 3])).check().rows(role).tolist() == [1, 2, 3]


def test_other_folds_and_other_members_may_share():
    usage((0, "a", "fit", [1]), (1, "a", "score", [1]), (0, "b", "score", [1])).check()
    usage((REFIT, "a", "fit", [1]), (0, "a", "score", [1])).check()


def test_a_use_for_all_members_is_each_members():
    with pytest.raises(LeakageError, match="fold 1 of member 'b' uses 2 row"):
        usage((1, "a", "fit", [1]), (1, "b", "fit", [2, 3]), (1, ALL_MEMBERS, "score", [4, 3, 2])).check()
    with pytest.raises(LeakageError, match="'stop' and 'size'"):
        usage((2, "a", "stop", [5]), (2, ALL_MEMBERS, "size", [5])).check()
    with pytest.raises(LeakageError, match=r"member '\*'"):
        usage((0, ALL_MEMBERS, "fit", [1]), (0, ALL_MEMBERS, "size", [1])).check()


def test_rows():
    record = usage(
        (0, "a", "fit", [3, 1]), (0, "b", "fit", np.array([2])), (1, "a", "fit", [9, 1]), (0, ALL_MEMBERS, "score", [7])
    )
    assert record.rows("fit").tolist() == [1, 2, 3, 9]
    assert record.rows("fit", fold=0).tolist() == [1, 2, 3]
    assert record.rows("fit", fold=0, member="a").tolist() == [1, 3]
    assert record.rows("score", member="b").tolist() == [7]
    assert record.rows("size").tolist() == []
    assert record.rows("fit", fold=5).dtype == np.int64


def test_unknown_role():
    with pytest.raises(EnsembleKitError, match=r"`role` must be one of fit, stop, score, .*; got 'test'"):
        usage((0, "a", "test", [1]))


def test_one_line_a_use():
    record = usage((0, "a", "fit", [4, 2, 3, 7, 9]), (REFIT, "a", "stop", []), (0, ALL_MEMBERS, "score", [8]))
    frame = record.to_frame()
    assert frame.columns.tolist() == ["fold", "member", "role", "n_rows", "first", "last", "gaps"]
    assert frame.iloc[0].tolist() == [0, "a", "fit", 5, 2, 9, 2]
    assert frame.iloc[1].tolist()[:4] == ["refit", "a", "stop", 0]
    assert frame["first"].isna().tolist() == frame["last"].isna().tolist() == [False, True, False]
    assert frame["gaps"].tolist() == [2, 0, 0]
    assert frame["first"].dtype == "Int64"


@pytest.mark.parametrize("tz", [None, "America/New_York"])
def test_with_an_index_edges_are_times(tz):
    times = pd.date_range("2024-03-08", periods=5, freq="D", tz=tz, name="datetime")
    record = RowUsage(5)
    record.add(0, "a", "fit", [0, 3, 1])
    record.add(0, "a", "stop", [])
    frame = record.to_frame(times)
    assert frame["first"].tolist() == [times[0], pd.NaT]
    assert frame["last"].tolist() == [times[3], pd.NaT]
    assert frame["first"].dtype == frame["last"].dtype == times.dtype
    panel = pd.MultiIndex.from_product([times[:2], ["A", "B"]]).append(pd.MultiIndex.from_tuples([(times[3], "A")]))
    assert record.to_frame(panel).loc[0, ["first", "last"]].tolist() == [times[0], times[1]]
    assert RowUsage(5).to_frame(times).empty
    with pytest.raises(EnsembleKitError, match=r"`index` must be that of the 5 rows of X; got 4\. Pass `X.index`"):
        record.to_frame(times[:4])
    with pytest.raises(EnsembleKitError, match="`index` must be that of the 4 rows of X; got 3"):
        usage((0, "a", "fit", [3])).to_frame(times[:3])


def test_printed_members_and_roles_with_the_same_rows_share_a_line():
    record = RowUsage(70)
    names = ["lstm", "informer", "tcn", "lightgbm", "logistic"]
    for fold in [*range(5), REFIT]:
        end = 70 if fold == REFIT else 10 * (fold + 1)
        for name in names:
            stops = name in names[:3]
            record.add(fold, name, "fit", np.arange(end - 2 if stops else end))
            if stops:
                record.add(fold, name, "stop", [end - 1])
    for fold in range(5):
        for role in ("calibrate", "score", "weigh", "size"):
            record.add(fold, ALL_MEMBERS, role, np.arange(10 * (fold + 1), 10 * (fold + 2)))
    assert len(record.check().to_frame()) == 6 * (5 + 3) + 20
    lines = repr(record).splitlines()
    assert lines[0] == "<RowUsage of 70 rows: 5 folds, 5 members, refit>"
    assert len(lines) == 2 + 6 * 3 + 5
    assert max(map(len, lines)) < 100
    assert [" ".join(line.split()) for line in lines[2:6]] == [
        "0 lstm, informer, tcn fit 8 0 7 0",
        "0 lightgbm, logistic fit 10 0 9 0",
        "0 lstm, informer, tcn stop 1 9 9 0",
        "0 * score, calibrate, weigh, size 10 10 19 0",
    ]
    assert lines[-1].split()[0] == "refit"
    html = record._repr_html_()
    assert html.startswith("<p>RowUsage of 70 rows")
    assert html.count("<tr") == len(lines) - 1


def test_printed_all_members_are_a_star():
    assert " * " in repr(usage((0, "a", "fit", [1]), (0, "b", "fit", [1])))
    assert "a, b" in repr(usage((0, "a", "fit", [1]), (0, "b", "fit", [1]), (1, "c", "fit", [1])))
    assert " * " not in repr(usage((0, "alone", "fit", [1])))
    # Other rows, of the same number and edges, are another line.
    assert len(repr(usage((0, "a", "fit", [1, 2, 4]), (0, "b", "fit", [1, 3, 4]))).splitlines()) == 4


# ----------------------------------------------------------------------- what is a record


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 5], "`rows` must be at least 0 and below 5; got 5. Count positions in X from 0"),
        ([-1, 3], "`rows` must be at least 0 and below 5; got -1"),
        ([3, 1, 3], r"`rows` must name each row once; got row 3 more often \(1 repeat"),
        ([True, False, True], "`rows` must be positions of rows, shape .*; got bool .* `numpy.flatnonzero`"),
        ([0.0, 1.5], "got float64"),
        (["a"], "`rows` must be positions"),
        ([[0, 1]], r"of shape \(1, 2\)"),
        (pd.Series([2, 7]), "got 7"),
    ],
)
def test_rows_that_are_none(rows, message):
    record = RowUsage(5)
    with pytest.raises(EnsembleKitError, match=message):
        record.add(0, "a", "fit", rows)
    assert record.entries == []


@pytest.mark.parametrize("fold", [-2, 0.5, "0", None])
def test_folds_that_are_none(fold):
    with pytest.raises(EnsembleKitError, match="`fold` must be a fold's number from 0 on, or -1 for the refit; got "):
        usage((fold, "a", "fit", [1]))


def test_without_a_number_of_rows_only_negative_ones_are_out_of_range():
    assert usage((0, "a", "fit", [10**6])).rows("fit").tolist() == [10**6]
    with pytest.raises(EnsembleKitError, match="`rows` must be at least 0; got -3"):
        usage((0, "a", "fit", [-3]))


def test_a_record_does_not_change_with_what_it_was_made_of():
    rows = np.array([3, 1, 2])
    record = usage((0, "a", "fit", rows), (0, "b", "fit", iter([5, 4])), (0, "c", "fit", range(2)))
    rows[:] = 0
    assert [entry["rows"].tolist() for entry in record.entries] == [[1, 2, 3], [4, 5], [0, 1]]
    for again in (pickle.loads(pickle.dumps(record)), copy.deepcopy(record)):
        pd.testing.assert_frame_equal(again.to_frame(), record.to_frame())
        assert repr(again) == repr(record)
    plain = {type(value) for entry in record.entries for value in entry.values()}
    assert plain == {int, str, np.ndarray}


def test_nothing_used():
    assert len(RowUsage().check().to_frame()) == 0
    assert "fold" in repr(RowUsage())
    assert "0 folds, 0 members" in RowUsage()._repr_html_()


# ------------------------------------------------------------- what fits really wrote down


@pytest.fixture(scope="module")
def fitted():
    """A sized ensemble of three members on a panel with irregular label times and weights of 0."""
    bars = make_bars(260, instruments=["A", "B"], random_state=3)
    late = bars.index.get_level_values(1) == "B"
    bars = bars[~late | (np.arange(len(bars)) > 120)]
    n, rng = len(bars), np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n, 2)), bars.index, columns=["a", "b"])
    y = pd.Series(np.select([X["a"] > 0.8, X["a"] < -0.8], ["bottom", "peak"], "slope"), X.index)
    times = X.index.get_level_values(0)
    every = times.unique()
    ahead = np.minimum(every.get_indexer(times) + rng.integers(0, 9, n), len(every) - 1)
    t1 = pd.Series(every[ahead], X.index)
    weight = np.where(rng.random(n) < 0.15, 0.0, rng.uniform(0.5, 2, n))
    stopping = {"validation_fraction": 0.2, "validation_purge": 8, "random_state": 0}
    vote = WalkForwardVotingClassifier(
        [
            ("linear", make_pipeline(StandardScaler(), LogisticRegression())),
            ("trees", LGBMWindowClassifier(3, n_estimators=8, patience=3, **stopping)),
            ("net", LSTMGRUClassifier(3, hidden_size=4, max_epochs=2, patience=1, **stopping)),
        ],
        cv=WalkForwardSplit(3, t1=t1),
    )
    model = SizedClassifier(make_pipeline(StandardScaler(), vote), KellySizer()).fit(X, y, sample_weight=weight)
    return model, times, t1, weight


def test_no_forbidden_pair_and_no_future_in_a_real_fit(fitted):
    """From first principles: Python sets over the plain entries, the times of bars and of labels."""
    model, times, t1, weight = fitted
    vote = model.model_[-1]
    entries = model.row_usage_.entries
    assert {entry["role"] for entry in entries} == set(ROLES)
    assert {entry["fold"] for entry in entries} == {0, 1, 2, REFIT}
    assert all(weight[row] > 0 for entry in entries for row in entry["rows"])
    for fold in range(3):
        tested = {row for row in range(len(times)) if vote.fold_[row] == fold}
        begin = min(times[row] for row in tested)
        scored = {row for row in tested if weight[row] > 0}
        learnable = {row for row in range(len(times)) if t1.iloc[row] < begin and weight[row] > 0}
        for member in ("linear", "trees", "net"):
            used = {role: set() for role in ROLES}
            for entry in entries:
                if entry["fold"] == fold and entry["member"] in (member, ALL_MEMBERS):
                    used[entry["role"]] |= set(entry["rows"].tolist())
            for role in ("score", "calibrate", "weigh", "size"):
                assert used[role] == scored
                assert not used[role] & (used["fit"] | used["stop"])
            assert not used["fit"] & used["stop"]
            # Whatever a model learned from was known before the first bar that judges it.
            assert used["fit"] | used["stop"] <= learnable
            if member == "linear":
                assert used["fit"] == learnable
                assert not used["stop"]
            else:
                first = min(times[row] for row in used["stop"])
                assert max(t1.iloc[row] for row in used["fit"]) < first
                assert {row for row in learnable if times[row] >= first} == used["stop"]
                assert len(used["fit"]) > len(used["stop"]) > 10


def test_the_last_fit_uses_all_rows_that_count(fitted):
    model, _, _, weight = fitted
    usage = model.row_usage_
    assert usage.rows("fit", fold=REFIT, member="linear").tolist() == np.flatnonzero(weight).tolist()
    for member in ("trees", "net"):
        both = [usage.rows(role, fold=REFIT, member=member) for role in ("fit", "stop")]
        assert min(map(len, both)) > 10
        assert both[0].max() < both[1].min()
    assert usage.rows("score", fold=REFIT).size == usage.rows("size", fold=REFIT).size == 0


def test_a_real_record_is_short_to_read(fitted):
    model, times, *_ = fitted
    vote = model.model_[-1]
    lines = repr(vote.row_usage_).splitlines()
    assert lines[0] == f"<RowUsage of {len(times)} rows: 3 folds, 3 members, refit>"
    assert len(lines) == 2 + 4 * 3 + 3  # linear, trees and net to fit, the two to stop; all to judge
    frame = vote.row_usage_.to_frame(times)
    judged = frame[frame["role"] == "score"]
    assert (judged["first"].iloc[1:].to_numpy() > judged["last"].iloc[:-1].to_numpy()).all()


def test_rows_of_an_unknown_role():
    with pytest.raises(EnsembleKitError, match=r"`role` must be one of fit, stop, .*; got 'train'"):
        RowUsage(5).rows("train")


@pytest.mark.parametrize("n_rows", [-1, 5.0, "5", True, [1, 2]])
def test_numbers_of_rows_that_are_none(n_rows):
    with pytest.raises(
        EnsembleKitError, match=r"^`n_rows` must be None or an integer of at least 0; got .* `len\(X\)`"
    ):
        RowUsage(n_rows)
    assert RowUsage(np.int64(0)).n_rows == 0
