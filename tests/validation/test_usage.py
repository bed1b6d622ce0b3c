"""Who saw what: the refused pairs, and how it is shown."""

import itertools

import numpy as np
import pytest

from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.validation import ALL_MEMBERS, REFIT, ROLES, RowUsage

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


def test_shown():
    record = usage((0, "a", "fit", [4, 2, 3]), (REFIT, "a", "stop", []), (0, ALL_MEMBERS, "score", [8]))
    frame = record.to_frame()
    assert frame.columns.tolist() == ["fold", "member", "role", "n_rows", "first", "last"]
    assert frame.iloc[0].tolist() == [0, "a", "fit", 3, 2, 4]
    assert frame.iloc[1].tolist()[:4] == ["refit", "a", "stop", 0]
    assert frame["first"].isna().tolist() == [False, True, False]
    assert repr(record).splitlines()[1].split() == ["0", "a", "fit", "3", "2", "4"]
    html = record._repr_html_()
    assert html.count("<tr") == 4
    assert "<td>refit</td>" in html


def test_nothing_used():
    assert len(RowUsage().check().to_frame()) == 0
    assert "fold" in repr(RowUsage())
