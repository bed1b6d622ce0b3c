"""Finished member-folds are found again, whatever did not change; damaged ones are made again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.validation import WalkForwardSplit

COUNTER = "fits"


class Counted(ClassifierMixin, BaseEstimator):
    """A classifier that leaves a file for each fit."""

    def __init__(self, folder, c=1.0):
        self.folder = folder
        self.c = c

    def fit(self, X, y):
        Path(self.folder, f"{COUNTER}-{len(list(Path(self.folder).iterdir()))}").touch()
        self.inner_ = LogisticRegression(C=self.c).fit(X, y)
        self.classes_ = self.inner_.classes_
        return self

    def predict_proba(self, X):
        return self.inner_.predict_proba(X)

    def predict(self, X):
        return self.inner_.predict(X)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(120, 2)), columns=["a", "b"], index=pd.date_range("2022", periods=120, tz="UTC"))
    return X, (X["a"] + rng.normal(size=120) > 0).astype(int)


def fit(data, tmp_path, **parameters):
    fits, memory = tmp_path / "fits", tmp_path / "memory"
    fits.mkdir(exist_ok=True)
    member = Counted(str(fits), **parameters)
    vote = WalkForwardVotingClassifier([("m", member)], cv=WalkForwardSplit(2, purge=0), memory=memory).fit(*data)
    return vote.predict_proba(data[0]), len(list(fits.iterdir()))


def test_finished_work_is_not_done_again(data, tmp_path):
    first, n_fits = fit(data, tmp_path)
    assert n_fits == 3  # two folds and the last fit on all rows
    again, n_fits = fit(data, tmp_path)
    assert n_fits == 3
    np.testing.assert_array_equal(first, again)


def test_what_changed_is_done_again(data, tmp_path):
    fit(data, tmp_path)
    assert fit(data, tmp_path, c=2.0)[1] == 6
    X, y = data
    assert fit((X + 1e-9, y), tmp_path)[1] == 9
    assert fit((X, 1 - y), tmp_path)[1] == 12


def test_a_damaged_file_is_noticed_and_made_again(data, tmp_path):
    first, _ = fit(data, tmp_path)
    stored = sorted((tmp_path / "memory").glob("*.checkpoint"))
    assert len(stored) == 3
    whole = stored[0].read_bytes()
    flipped = bytearray(stored[1].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    stored[0].write_bytes(whole[: len(whole) // 2])
    stored[1].write_bytes(flipped)
    with pytest.warns(UserWarning, match="is torn, damaged or another fit's; its work is done again"):
        again, n_fits = fit(data, tmp_path)
    assert n_fits == 5
    np.testing.assert_array_equal(first, again)


def test_another_version_of_a_library_is_done_again(data, tmp_path, monkeypatch):
    fit(data, tmp_path)
    monkeypatch.setattr("ensemble_kit.ensemble.member_folds.versions", lambda: ("numpy=0.0",))
    assert fit(data, tmp_path)[1] == 6


def test_a_result_that_cannot_be_pickled_costs_its_keeping_only(data, tmp_path):
    class Local(LogisticRegression):
        pass

    with pytest.warns(UserWarning, match="a result cannot be kept, and would be made again"):
        vote = WalkForwardVotingClassifier([("m", Local())], cv=WalkForwardSplit(2, purge=0), memory=tmp_path).fit(
            *data
        )
    assert vote.predict_proba(data[0]).shape == (120, 2)


@pytest.mark.parametrize("memory", ["", 3])
def test_a_memory_that_is_no_folder_is_refused(data, memory):
    with pytest.raises(EnsembleKitError, match="`memory` must be None, a folder or"):
        WalkForwardVotingClassifier([("m", LogisticRegression())], memory=memory).fit(*data)


def test_a_file_in_place_of_a_folder_is_refused(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EnsembleKitError, match="`memory` must be None, a folder"):
        WalkForwardVotingClassifier([("m", LogisticRegression())], memory=tmp_path / "file").fit(*data)


def test_a_relative_folder_lies_where_the_fit_was_started(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    members = [("m", LogisticRegression())]
    WalkForwardVotingClassifier(members, cv=WalkForwardSplit(2, purge=0), memory="kept").fit(*data)
    assert len(list((tmp_path / "kept").glob("*.checkpoint"))) == 3
