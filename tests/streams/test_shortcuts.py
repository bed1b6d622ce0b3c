"""Shortcuts give the bits of `transform`, or are not taken."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from ensemble_kit.features import RelevanceRedundancySelector
from ensemble_kit.streams.rows import Layout, Rows
from ensemble_kit.streams.shortcuts import shortcut


class Shifted(RobustScaler):
    """A subclass that does something else."""

    def transform(self, X):
        return super().transform(X) + 1


def rows(dtype, names):
    values = np.random.default_rng(0).normal(size=(200, 6)).astype(dtype)
    values[:, 5] = 1e-3 * values[:, 5]
    index = pd.date_range("2024-01-01", periods=200, freq="h")
    frame = pd.DataFrame(values, index=index, columns=list("abcdef"))
    return Rows(values, index, Layout(frame if names else values, None))


Y = np.random.default_rng(1).integers(0, 2, 200)
TAKEN = [
    SimpleImputer(strategy="median", keep_empty_features=True),
    SimpleImputer(strategy="constant", fill_value=3.5),
    RobustScaler(),
    RobustScaler(with_centering=False),
    StandardScaler(),
    StandardScaler(with_std=False),
    VarianceThreshold(0.1),
    RelevanceRedundancySelector(2),
]
NOT_TAKEN = [Shifted(), MinMaxScaler(), SimpleImputer(missing_values=-1.0), SimpleImputer(add_indicator=True)]


@pytest.mark.parametrize("step", TAKEN, ids=str)
@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits(step, names, dtype):
    given = rows(dtype, names)
    step.set_output(transform="pandas" if names else "default").fit(given.table(), Y)
    quick = shortcut(step, given)
    unseen = given.become(given.values[::-1] * 7, given.layout)
    unseen.values[::3, 1] = np.nan
    assert quick is not None
    assert_array_equal(quick(unseen.values), np.asarray(step.transform(unseen.table())))


@pytest.mark.parametrize("step", NOT_TAKEN, ids=str)
def test_others_are_asked_themselves(step):
    given = rows(np.float64, names=True)
    if getattr(step, "add_indicator", False):
        given.values[3, 2] = np.nan
    step.fit(given.table(), Y)
    assert shortcut(step, given) is None
