"""A key changes with what matters to a result, and with nothing else."""

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from ensemble_kit.fingerprint import fingerprint

FRAME = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, index=pd.date_range("2022", periods=2, tz="UTC"))


@pytest.mark.parametrize(
    "other",
    [
        FRAME.rename(columns={"a": "c"}),
        FRAME.shift(1, freq="D"),
        FRAME[["b", "a"]],
        FRAME.astype("float32"),
        FRAME.tz_convert("Asia/Tokyo"),
        FRAME.to_numpy(),
        FRAME * (1 + 1e-15),
    ],
)
def test_a_fingerprint_changes_with_anything_that_matters(other):
    assert fingerprint(FRAME) != fingerprint(other)


def test_a_fingerprint_does_not_change_with_layout_or_lookups():
    built = pd.concat([FRAME[["a"]], FRAME[["b"]]], axis=1)
    built.index.get_loc(built.index[1])
    assert fingerprint(FRAME) == fingerprint(built) == fingerprint(FRAME.copy())


def test_a_fingerprint_of_estimators_goes_by_parameters():
    assert fingerprint(LogisticRegression()) == fingerprint(LogisticRegression())
    assert fingerprint(LogisticRegression()) != fingerprint(LogisticRegression(C=2.0))
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint([[1], 2]) != fingerprint([[1, 2]])
