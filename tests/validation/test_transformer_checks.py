"""Each check of bar transformers fails on the fault it is for, and on no other."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from ensemble_kit.bars import check_bars, instrument_codes
from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.features import Alpha158, SessionFeatures
from ensemble_kit.validation.transformer_checks import TransformerCheckError, check_bar_transformer

BARS = make_bars(120, random_state=3)


class Moves(TransformerMixin, BaseEstimator):
    """A user's own transformer, as it should be: two changes of the close."""

    steps = (1, 3)
    lookback = 3

    def __init__(self, scale=1.0):
        self.scale = scale

    def fit(self, X, y=None):
        check_bars(X)
        validate_data(self, X, skip_check_array=True)
        return self

    def transform(self, X):
        check_is_fitted(self, "n_features_in_")
        check_bars(X)
        return self.columns(X).astype(np.float32)

    def columns(self, X):
        close = X["close"].groupby(instrument_codes(X.index)[0])
        return self.scale * np.column_stack([close.pct_change(step, fill_method=None) for step in self.steps])

    def get_feature_names_out(self, input_features=None):
        return np.array([f"move_{step}" for step in self.steps], dtype=object)


class ChangesParameters(Moves):
    def fit(self, X, y=None):
        self.scale = 2.0 * self.scale
        return super().fit(X)


class DropsRows(Moves):
    def transform(self, X):
        return super().transform(X)[max(self.steps) :]


class Doubles(Moves):
    def transform(self, X):
        return super().transform(X).astype(np.float64)


class SameNames(Moves):
    def get_feature_names_out(self, input_features=None):
        return np.array(["move", "move"], dtype=object)


class NewIndex(Moves):
    def set_output(self, *, transform=None):
        self._frames = transform == "pandas"
        return self

    def transform(self, X):
        out = super().transform(X)
        out = out.to_numpy() if isinstance(out, pd.DataFrame) else out
        return pd.DataFrame(out, columns=self.get_feature_names_out()) if self._frames else out


class Counts(Moves):
    def transform(self, X):
        self.calls_ = getattr(self, "calls_", 0) + 1
        return super().transform(X) * self.calls_


class ForgetsWhenPickled(Moves):
    def fit(self, X, y=None):
        self.factor_ = 2.0
        return super().fit(X)

    def columns(self, X):
        return super().columns(X) * self.factor_

    def __getstate__(self):
        return {**super().__getstate__(), "factor_": 1.0}


class Writes(Moves):
    def columns(self, X):
        X["move"] = 0.0
        return super().columns(X)


class ReadyTooSoon(Moves):
    def transform(self, X):
        return self.columns(X).astype(np.float32)


class Mixes(Moves):
    def columns(self, X):
        return np.column_stack([X["close"].pct_change(step, fill_method=None) for step in self.steps])


class Peeks(Moves):
    def columns(self, X):
        close = X["close"].groupby(instrument_codes(X.index)[0])
        return np.column_stack([close.shift(-step) for step in self.steps])


class Short(Moves):
    lookback = 1


class NoGaps(Moves):
    def columns(self, X):
        if X["close"].isna().any():
            raise ValueError("NaN is not welcome")
        return super().columns(X)


class Silent(Moves):
    def fit(self, X, y=None):
        validate_data(self, X, skip_check_array=True)
        return self

    def transform(self, X):
        check_is_fitted(self, "n_features_in_")
        return self.columns(X if "close" in X else X.assign(close=X.iloc[:, 0])).astype(np.float32)


class Obscure(Moves):
    """Fails by a KeyError of pandas where a column is absent."""

    fit = Silent.fit

    def transform(self, X):
        check_is_fitted(self, "n_features_in_")
        return self.columns(X).astype(np.float32)


class Ranks(Moves):
    lookback = 0

    def columns(self, X):
        if isinstance(X.index, pd.MultiIndex):
            return X[["open", "close"]].groupby(level=0).rank(pct=True).to_numpy()
        return np.where(X[["open", "close"]].notna(), 1.0, np.nan)


class DeclaredRanks(Ranks):
    cross_sectional = True


@pytest.mark.parametrize(
    "transformer",
    [Moves(), Moves(2.0).fit(BARS), SessionFeatures(), Alpha158()],
    ids=["own", "fitted", "session", "alpha158"],
)
def test_sound_transformers_pass(transformer):
    passed = check_bar_transformer(transformer)
    assert len(passed) == 13
    assert {"rows", "panel", "no_lookahead", "lookback"} <= set(passed)


@pytest.mark.parametrize(
    ("faulty", "checks", "reason"),
    [
        (ChangesParameters, "parameters fit pickle", "`fit` must leave the parameters alone; it changes scale"),
        (DropsRows, "rows", "must return a row for a row; got 117 for 120"),
        (Doubles, "rows set_output", "must return one block of float32; got float64"),
        (SameNames, "names", "names must differ; got move more than once"),
        (NewIndex, "set_output", "must keep the index of the bars of one instrument"),
        (Counts, "fit pickle", "`transform` must answer alike twice"),
        (ForgetsWhenPickled, "pickle", "must answer alike after a pickle"),
        (Writes, "input", "`transform` must not touch the bars"),
        (ReadyTooSoon, "unfitted", "must raise NotFittedError"),
        (Mixes, "panel no_lookahead", "instruments must not mix; 'half' gets other numbers"),
        (Peeks, "no_lookahead", "changes with the bar 3 ahead"),
        (Short, "lookback", "lookback 1 is too short"),
        (NoGaps, "missing", "ValueError: NaN is not welcome"),
        (Silent, "wrong_columns", "must say that 'close' is missing; it answers something else"),
        (Obscure, "wrong_columns", "without 'close' a ValueError must name it; got KeyError"),
    ],
)
def test_each_fault_is_found(faulty, checks, reason):
    with pytest.raises(TransformerCheckError, match=re.escape(reason)) as caught:
        check_bar_transformer(faulty(), BARS)
    failing = re.findall(r"^  (\w+): ", str(caught.value), flags=re.MULTILINE)
    assert set(checks.split()) <= set(failing)
    assert failing[0] == checks.split()[0]


def test_the_error_is_an_assertion_and_one_of_ours():
    with pytest.raises(AssertionError, match="`transformer` must pass 13 checks; StandardScaler fails") as caught:
        check_bar_transformer(StandardScaler(), BARS)
    assert isinstance(caught.value, EnsembleKitError)
    assert "`fit` learns it" in str(caught.value)


def test_a_cross_section_is_not_asked_to_answer_instruments_alone():
    with pytest.raises(TransformerCheckError, match="panel: instruments must not mix"):
        check_bar_transformer(Ranks(), BARS)
    assert "panel" in check_bar_transformer(DeclaredRanks(), BARS)


def test_a_panel_may_be_given():
    panel = make_bars(60, instruments=["X", "Y"], random_state=0)
    assert check_bar_transformer(Moves(), panel)
    with pytest.raises(TransformerCheckError, match="instruments must not mix"):
        check_bar_transformer(Mixes(), panel)


def test_bars_and_instances_are_asked_for():
    with pytest.raises(EnsembleKitError, match="Pass an instance"):
        check_bar_transformer(Moves)
    with pytest.raises(EnsembleKitError, match="must have the columns"):
        check_bar_transformer(Moves(), BARS[["close"]])


def test_the_transformer_itself_is_not_fitted():
    transformer = Moves()
    check_bar_transformer(transformer, BARS)
    with pytest.raises(NotFittedError):
        transformer.transform(BARS)
