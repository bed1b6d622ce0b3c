"""Parts that read more rows than they state are refused at the start; others are not."""

import copy
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features import IndicatorFeatures, SessionFeatures
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.validation import WalkForwardSplit

# Functions as people write them, without names of columns.
pytestmark = pytest.mark.filterwarnings("ignore:When `set_output` is configured to be 'pandas', `func` should")

N = 700
START = N - 8


@pytest.fixture(scope="module")
def bars():
    return make_bars(N, random_state=3)


def fitted(bars, *steps):
    y = np.where(bars["close"].diff(5).shift(-5) > 0, "up", "down")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models that learned next to nothing
        return SizedClassifier(make_pipeline(*steps), cv=WalkForwardSplit(2, purge=5)).fit(bars, y)


def changes(X):
    close = pd.DataFrame(X).iloc[:, 3]
    return np.c_[close.pct_change(), close.pct_change(12)]


def changes_filled(X):
    return np.nan_to_num(changes(X))


def since_the_open(X):
    """Sums that restart every day."""
    return X.groupby(X.index.normalize()).cumsum().to_numpy()


def single(X):
    return np.asarray(X, np.float32)


def twelfth_row(X):
    """A function that cannot do with one row."""
    return np.asarray(X)[[*range(12), *range(len(X) - 12)]]


class Stated(TransformerMixin, BaseEstimator):
    """Changes over twelve rows that says how many rows it reads."""

    def __init__(self, lookback=12):
        self.lookback = lookback

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return changes_filled(X)

    def get_feature_names_out(self, names=None):
        return np.array(["one", "twelve"], dtype=object)


class Voter(ClassifierMixin, BaseEstimator):
    """Probabilities of the change since the row before, which it does not state."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        up = np.diff(np.asarray(X)[:, 3], prepend=np.asarray(X)[0, 3]) > 0
        return np.c_[np.where(up, 0.3, 0.7), np.where(up, 0.7, 0.3)]

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def refusal(name, stated, time, before):
    return (
        f"`model` must have parts that state how many earlier rows they read to be streamed; {name} states {stated}, "
        f"and says something else of the bar at {time} without {before} before it. "
        "Give its class a `lookback`: so many rows, or None, which keeps everything."
    )


TREES = LGBMWindowClassifier(4, n_estimators=3, random_state=0)


@pytest.mark.parametrize("function", [changes, changes_filled, since_the_open, twelfth_row])
def test_history_that_is_not_stated(bars, function):
    model = fitted(bars, FunctionTransformer(function), TREES)
    message = refusal("FunctionTransformer", "no `lookback`", bars.index[START - 1], "the rows")
    with pytest.raises(EnsembleKitError, match=f"^{re.escape(message)}$"):
        model.stream(bars.iloc[:START])


@pytest.mark.parametrize("begun", [1, 3])
def test_sums_of_a_day_that_has_just_begun(bars, begun):
    first = int(np.flatnonzero(np.diff(bars.index.normalize().asi8))[-1]) + 1
    model = fitted(bars, FunctionTransformer(since_the_open), TREES)
    with pytest.raises(EnsembleKitError, match="FunctionTransformer states no `lookback`"):
        model.stream(bars.iloc[: first + begun])


@pytest.mark.parametrize(("stated", "told"), [(0, "the rows"), (11, "more than 11 rows")])
def test_a_lookback_that_is_too_short(bars, stated, told):
    model = fitted(bars, make_union(SessionFeatures(), Stated(stated)), TREES)
    message = refusal("Stated", f"`lookback` {stated}", bars.index[START - 1], told)
    with pytest.raises(EnsembleKitError, match=f"^{re.escape(message)}$"):
        model.stream(bars.iloc[:START])


def test_steps_of_an_ensembles_members(bars):
    member = make_pipeline(FunctionTransformer(changes_filled), LogisticRegression())
    vote = WalkForwardVotingClassifier([("a", member)], cv=WalkForwardSplit(2, purge=5))
    with pytest.raises(EnsembleKitError, match="FunctionTransformer states no `lookback`"):
        fitted(bars, vote).stream(bars.iloc[:START])


def test_a_classifier_that_reads_rows_before(bars):
    vote = WalkForwardVotingClassifier([("a", Voter())], cv=WalkForwardSplit(2, purge=5))
    for model in (Voter(), vote):
        with pytest.raises(EnsembleKitError, match="Voter states no `lookback`, and says something else of the bar"):
            fitted(bars, model).stream(bars.iloc[:START])


def test_one_row_of_history_tells_nothing(bars):
    model = fitted(bars, FunctionTransformer(changes), TREES)
    assert model.stream(bars.iloc[:1]).last.time == bars.index[0]


ALONE = {
    "functions of a row": (FunctionTransformer(np.log1p), StandardScaler(), PCA(4), GaussianNB()),
    "noise of a component": (make_union(StandardScaler(), StandardScaler()), PCA(9), GaussianNB()),
    "single precision": (
        IndicatorFeatures(("momentum",)),
        SimpleImputer(),
        FunctionTransformer(single),
        PCA(3),
        MLPClassifier((8,), max_iter=400, tol=0.1),
    ),
    "neighbours": (IndicatorFeatures(("momentum",)), KNNImputer(), KNeighborsClassifier()),
    "bins": (StandardScaler(), HistGradientBoostingClassifier(max_iter=5)),
    "stated": (Stated(12), TREES),
    "more than needed": (Stated(30), TREES),
}


@pytest.mark.parametrize("name", ALONE)
def test_parts_that_keep_their_word_are_not_refused(bars, name):
    model = fitted(bars, *ALONE[name])
    stream = model.stream(bars.iloc[:START])
    said = [stream.update(bars.iloc[[i]]).proba for i in range(START, N)]
    assert_allclose(said, model.predict_proba(bars)[START:], rtol=0, atol=1e-6)


def test_columns_that_are_no_numbers_are_named(bars):
    text = bars.assign(kind=np.where(np.arange(N) % 2, "odd", "even"), open_hours=True)
    columns = ColumnTransformer(
        [("kind", OneHotEncoder(sparse_output=False), ["kind"]), ("prices", StandardScaler(), ["close"])]
    )
    model = fitted(text, columns, LogisticRegression())
    message = (
        "`history` must hold numbers to be streamed; got columns 'kind' (str), 'open_hours' (bool). Encode them "
        "before the bars reach the model, or fit it without them."
    )
    with pytest.raises(BarsError, match=f"^{re.escape(message)}$"):
        model.stream(text)


def test_a_bar_with_text_leaves_the_stream_as_it_was(bars):
    wider = bars.assign(spread=1.0)
    stream = fitted(wider, StandardScaler(), LogisticRegression()).stream(wider.iloc[:START])
    bar = wider.iloc[[START]]
    message = (
        "`bar` must hold numbers to be streamed; got columns 'spread' (str). Encode them before the bars reach the "
        "model, or fit it without them."
    )
    with pytest.raises(BarsError, match=f"^{re.escape(message)}$"):
        stream.update(bar.assign(spread="wide"))
    assert stream.update(bar).time == bar.index[0]


def test_a_step_that_hands_on_text_is_named_in_one_line(bars):
    text = FunctionTransformer(lambda X: X[["close"]].assign(kind="a"))
    model = fitted(bars, text, ColumnTransformer([("close", "passthrough", ["close"])]), LogisticRegression())
    message = (
        "`model` must hand on dense tables of numbers from step to step to be streamed; FunctionTransformer hands on "
        f"DataFrame of shape ({START}, 2) with 'kind' (str). Let it return numbers."
    )
    with pytest.raises(EnsembleKitError, match=f"^{re.escape(message)}$"):
        model.stream(bars.iloc[:START])


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("front", [StandardScaler(), SimpleImputer()])
def test_a_stream_is_begun_and_not_stored(bars, duplicate, front):
    stream = fitted(bars, front, LogisticRegression()).stream(bars)
    message = (
        f"`stream` must be begun on history, not copied or pickled; got the one at {bars.index[-1]}. "
        "Store the model and the bars, and call `model.stream(bars)`."
    )
    with pytest.raises(EnsembleKitError, match=f"^{re.escape(message)}$"):
        duplicate(stream)
