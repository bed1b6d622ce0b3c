"""A key changes with what matters to a result, and with nothing else."""

import dateutil.tz
import numpy as np
import pandas as pd
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from ensemble_kit.bars import pack_index, unpack_index
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


def test_a_fingerprint_of_what_was_learned():
    X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), [0, 0, 1, 1]
    frozen = [FrozenEstimator(LogisticRegression().fit(sign * X, y)) for sign in (1, -1)]
    assert fingerprint(frozen[0]) != fingerprint(frozen[1])
    assert fingerprint(frozen[0]) == fingerprint(FrozenEstimator(LogisticRegression().fit(X, y)))


def test_a_fingerprint_of_functions_goes_by_what_they_do():
    def make(factor, twice=False):
        if twice:
            return lambda x: x * factor * 2
        return lambda x: x * factor

    assert fingerprint(make(2)) == fingerprint(make(2))
    assert len({fingerprint(make(2)), fingerprint(make(3)), fingerprint(make(2, twice=True))}) == 3
    steps = [make_pipeline(FunctionTransformer(make(factor)), LogisticRegression()) for factor in (2, 3)]
    assert fingerprint(steps[0]) != fingerprint(steps[1])


def test_zones_without_a_name_are_their_instants():
    local = FRAME.tz_convert(dateutil.tz.gettz("America/New_York"))
    assert fingerprint(local) == fingerprint(FRAME)
    assert unpack_index(pack_index(local.index), 2).equals(local.index.tz_convert("UTC"))
