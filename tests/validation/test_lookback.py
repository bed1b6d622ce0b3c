"""Lookback of nested estimators, and the rows it asks for."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from ensemble_kit.bars import RowKeys
from ensemble_kit.validation import lookback, rows_with_history


class Reaching(BaseEstimator):
    def __init__(self, lookback=0):
        self.lookback = lookback

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X


three, five, ever = Reaching(3), Reaching(5), Reaching(None)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (LogisticRegression(), 0),
        (three, 3),
        (ever, None),
        ("passthrough", 0),
        (None, 0),
        (make_pipeline(three, StandardScaler(), five, LogisticRegression()), 8),
        (make_pipeline(make_pipeline(three, "passthrough"), make_pipeline(five, three)), 11),
        (make_pipeline(three, ever), None),
        (make_union(three, five), 5),
        (make_union(three, ever), None),
        (FeatureUnion([("a", three), ("b", "drop"), ("c", "passthrough")]), 3),
        (ColumnTransformer([("a", three, ["x"]), ("b", "drop", ["y"]), ("c", make_pipeline(five, three), ["z"])]), 8),
        (ColumnTransformer([("a", three, ["x"])], remainder=five), 5),
        (Pipeline([("union", make_union(three, five)), ("model", five)]), 10),
        (GridSearchCV(make_pipeline(three, five), {}), 8),
        (CalibratedClassifierCV(three), 3),
        (VotingClassifier([("a", three), ("b", "drop"), ("c", make_pipeline(five, three))]), 8),
        (VotingClassifier([("a", three), ("b", ever)]), None),
    ],
)
def test_lookback(estimator, expected):
    assert lookback(estimator) == expected


def test_a_search_has_the_lookback_of_its_best():
    search = GridSearchCV(three, {})
    search.best_estimator_ = five
    assert lookback(search) == 5


@pytest.mark.parametrize("n_instruments", [1, 3])
@pytest.mark.parametrize("reach", [0, 1, 4, None])
def test_rows_with_history_equal_brute_force(n_instruments, reach):
    rng = np.random.default_rng(n_instruments)
    for _ in range(20):
        instrument = rng.integers(0, n_instruments, size=30)
        keys = RowKeys(np.arange(30), instrument, None)
        rows = rng.choice(30, size=rng.integers(1, 12), replace=False)
        expected = []
        for name in range(n_instruments):
            mine = np.flatnonzero(instrument == name)
            places = [place for place, row in enumerate(mine) if row in rows]
            if places:
                first = 0 if reach is None else max(places[0] - reach, 0)
                expected.extend(mine[first : places[-1] + 1].tolist())
        assert rows_with_history(keys, rows, reach).tolist() == sorted(expected)


def test_no_rows_need_no_history():
    keys = RowKeys(np.arange(3), np.zeros(3, dtype=np.int64), pd.RangeIndex(3))
    assert rows_with_history(keys, np.arange(0), None).size == 0
