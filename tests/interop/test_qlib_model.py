"""The Qlib model over frames in memory: what it learns from, what it answers, what it refuses."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from qlib_folder import N_INSTRUMENTS, daily_panel
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, TimeSeriesSplit
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.interop.qlib import ClassifierModel
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.validation import WalkForwardSplit

SEGMENTS = {
    "train": ("2022-01-10", "2022-07-29"),
    "valid": ("2022-08-15", "2022-09-30"),
    "test": ("2022-10-03", "2023-02-24"),
}


@pytest.fixture(scope="module")
def frame():
    """Columns and Qlib's usual label of a panel with signal; the newest two labels are not known."""
    close = daily_panel("signal")["close"].astype(float)
    by_name = close.groupby(level=1)
    columns = pd.DataFrame({"week": by_name.pct_change(5).fillna(0.0), "day": by_name.pct_change()})
    label = (by_name.shift(-2) / by_name.shift(-1) - 1).to_frame("LABEL0")
    return pd.concat({"feature": columns, "label": label}, axis=1)


def dataset_of(frame, segments=SEGMENTS, learn=("DropnaLabel",)):
    from qlib.data.dataset import DatasetH
    from qlib.data.dataset.handler import DataHandlerLP
    from qlib.data.dataset.loader import StaticDataLoader

    handler = DataHandlerLP(data_loader=StaticDataLoader(frame), learn_processors=[{"class": name} for name in learn])
    return DatasetH(handler, segments)


def window_model(**changes):
    return ClassifierModel(LGBMWindowClassifier(8, n_estimators=15, random_state=0), **({"horizon": 2} | changes))


def scores(model, dataset, segment="test"):
    model.fit(dataset)
    return model.predict(dataset, segment)


class Witness(ClassifierMixin, BaseEstimator):
    """Remembers what it was fitted on."""

    lookback = 3

    def fit(self, X, y, sample_weight=None):
        self.seen_ = pd.DataFrame({"y": y, "weight": 1.0 if sample_weight is None else sample_weight}, index=X.index)
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))

    def predict(self, X):
        return np.zeros(len(X))


def seen(frame, *, learn=("DropnaLabel",), reweighter=None, **parameters):
    model = ClassifierModel(Witness(), **({"horizon": 2} | parameters))
    model.fit(dataset_of(frame, learn=learn), reweighter=reweighter)
    return model.estimator_.seen_


# --- what is learned -------------------------------------------------------------------------------------------------


def test_rows_that_teach_and_rows_of_history(frame):
    holes = frame.copy()
    holes.loc[("2022-03-07", "S03"), ("label", "LABEL0")] = np.nan
    rows = seen(holes)
    days = rows.index.get_level_values(0)
    taught = rows[rows["weight"] > 0].index
    # Train and valid without the gap between them, and without two days whose labels end after the last one.
    expected = holes.index[
        ((days_of(holes) >= "2022-01-10") & (days_of(holes) <= "2022-07-29"))
        | ((days_of(holes) >= "2022-08-15") & (days_of(holes) <= "2022-09-28"))
    ].drop(("2022-03-07", "S03"))
    assert taught.equals(expected)
    # The hole and the gap stay as history: every row between the first and the last that teach.
    between = days_of(holes)[(days_of(holes) >= "2022-01-10") & (days_of(holes) <= "2022-09-28")]
    assert days.equals(between)


def days_of(frame):
    return frame.index.get_level_values(0)


# Of a pandas option that Qlib's processor sets, without effect since pandas 3.
@pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated")
def test_classes_by_rank_within_the_date(frame):
    rows = seen(frame)
    day = frame.loc["2022-05-04", ("label", "LABEL0")].sort_values()
    classes = rows.loc["2022-05-04", "y"].reindex(day.index)
    assert classes.tolist() == [-1] * 4 + [0] * 4 + [1] * 4
    # Normalising the label within its date, as Qlib's handlers do, changes no class.
    pd.testing.assert_frame_equal(seen(frame, learn=("DropnaLabel", "CSZScoreNorm")), rows)


def test_classes_by_sign(frame):
    flat = frame.copy()
    flat.loc[("2022-05-04", "S01"), ("label", "LABEL0")] = 0.0
    rows = seen(flat, tail=None)
    assert rows.loc[("2022-05-04", "S01"), "weight"] == 0
    taught = rows[rows["weight"] > 0]
    assert taught["y"].equals(np.sign(frame["label"]["LABEL0"]).loc[taught.index].astype(np.int64).rename("y"))


def test_labels_that_end_after_the_learned_span_teach_nothing(frame):
    other = frame.copy()
    late = (days_of(frame) >= "2022-09-29") & (days_of(frame) <= "2022-09-30")
    other.loc[late, ("label", "LABEL0")] *= -1
    pd.testing.assert_series_equal(scores(window_model(), dataset_of(other)), scores(window_model(), dataset_of(frame)))


def test_a_reweighter_weighs_the_rows_that_teach(frame):
    class Recent:
        def reweight(self, rows):
            return np.where(rows.index.get_level_values(0) < "2022-06-01", 0.0, 2.0)

    rows = seen(frame, reweighter=Recent())
    taught = rows[rows["weight"] > 0]
    assert (taught["weight"] == 2).all()
    assert taught.index[0][0] == pd.Timestamp("2022-06-01")


# --- what is answered ------------------------------------------------------------------------------------------------


def test_scores_are_those_of_predicting_everything_and_cutting(frame):
    dataset = dataset_of(frame)
    model = window_model()
    model.fit(dataset)
    score = model.predict(dataset)
    whole = frame["feature"]
    proba = model.estimator_.predict_proba(whole)
    expected = pd.Series(proba[:, 2] - proba[:, 0], index=whole.index, name="score")
    test = expected[days_of(frame) >= "2022-10-03"]
    pd.testing.assert_series_equal(score, test, check_exact=True)
    assert score.index.names == ["datetime", "instrument"]
    # On the segment alone, windows of its first days would be padded.
    alone = model.estimator_.predict_proba(whole.loc["2022-10-03":])
    first = slice(0, 7 * N_INSTRUMENTS)
    assert (np.abs(alone[first, 2] - alone[first, 0] - test[first]) > 1e-3).any()


def test_a_slice_of_times_scores_as_the_segment_and_as_if_nothing_came_after(frame):
    model = window_model()
    score = scores(model, dataset_of(frame))
    part = model.predict(dataset_of(frame), slice("2022-11-01", "2022-11-30"))
    pd.testing.assert_series_equal(part, score.loc["2022-11-01":"2022-11-30"], check_exact=True)
    cut = dataset_of(frame[days_of(frame) <= "2022-11-30"], SEGMENTS | {"test": ("2022-10-03", "2022-11-30")})
    pd.testing.assert_series_equal(model.predict(cut), score.loc[:"2022-11-30"], check_exact=True)


def test_the_order_of_the_handlers_index_does_not_matter(frame):
    expected = scores(window_model(), dataset_of(frame))
    swapped = frame.swaplevel().sort_index()
    pd.testing.assert_series_equal(scores(window_model(), dataset_of(swapped)), expected, check_exact=True)


def test_a_pickled_model_goes_on(frame):
    dataset = dataset_of(frame)
    model = window_model()
    score = scores(model, dataset)
    again = pickle.loads(pickle.dumps(model))
    pd.testing.assert_series_equal(again.predict(dataset), score, check_exact=True)
    assert again.horizon_ == 2


def test_a_sized_ensemble_scores_by_its_probabilities(frame):
    cv = WalkForwardSplit(2, purge=2)
    tree = LGBMWindowClassifier(4, n_estimators=5, random_state=0)
    member = make_pipeline(StandardScaler(), LogisticRegression())
    vote = WalkForwardVotingClassifier([("trees", tree), ("linear", member)], cv=cv)
    score = scores(ClassifierModel(SizedClassifier(vote), horizon=2), dataset_of(frame))
    expected = scores(ClassifierModel(vote, horizon=2), dataset_of(frame))
    pd.testing.assert_series_equal(score, expected)


def test_a_configuration_builds_what_python_would(frame):
    split = {"class": "WalkForwardSplit", "module_path": "ensemble_kit", "kwargs": {"n_splits": 2, "purge": 2}}
    pipeline = {
        "class": "sklearn.pipeline.Pipeline",
        "kwargs": {
            "steps": [
                ["scale", {"class": "sklearn.preprocessing.StandardScaler"}],
                ["model", {"class": "LogisticRegression", "module_path": "sklearn.linear_model", "kwargs": {"C": 0.1}}],
            ]
        },
    }
    ensemble = {
        "class": "WalkForwardVotingClassifier",
        "module_path": "ensemble_kit",
        "kwargs": {"cv": split, "estimators": [["linear", pipeline]], "events": [-1, 1]},
    }
    member = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    same = WalkForwardVotingClassifier([("linear", member)], cv=WalkForwardSplit(2, purge=2), events=[-1, 1])
    named, built = ClassifierModel(ensemble, horizon=2), ClassifierModel(same, horizon=2)
    pd.testing.assert_series_equal(scores(named, dataset_of(frame)), scores(built, dataset_of(frame)))


# --- what is refused -------------------------------------------------------------------------------------------------

PURGE = (
    "`estimator` must leave out the 2 bars that the label looks ahead wherever it splits its rows; got {}. "
    "Give `cv` a WalkForwardSplit with `purge=2`, models of this package that stop early `validation_purge=2`, and let "
    "no other stop early."
)
TREE = LGBMWindowClassifier(2, n_estimators=2)


def voting(**parameters):
    return WalkForwardVotingClassifier([("trees", TREE)], **parameters)


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (voting(cv=WalkForwardSplit(2, purge=1)), "cv__purge=1"),
        (voting(cv=WalkForwardSplit(2)), "cv__purge=None"),
        (voting(), "cv=None"),
        (SizedClassifier(TREE, cv=WalkForwardSplit(2, purge=0)), "cv__purge=0"),
        (SizedClassifier(TREE), "cv=None"),
        (make_pipeline(StandardScaler(), voting()), "walkforwardvotingclassifier__cv=None"),
        (GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=3), "cv=3"),
        (
            GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=KFold(3, shuffle=True)),
            "cv=KFold(n_splits=3, random_state=None, shuffle=True)",
        ),
        (
            make_pipeline(CalibratedClassifierCV(LogisticRegression(), cv=TimeSeriesSplit(3, gap=2))),
            "calibratedclassifiercv__cv=TimeSeriesSplit(gap=2, max_train_size=None, n_splits=3, test_size=None)",
        ),
        (CalibratedClassifierCV(LogisticRegression(), cv=[([0, 1], [2])]), "cv=[([0, 1], [2])]"),
        (
            LogisticRegressionCV(cv=StratifiedKFold(shuffle=True, random_state=0)),
            "cv=StratifiedKFold(n_splits=5, random_state=0, shuffle=True)",
        ),
        (SizedClassifier(voting(cv=WalkForwardSplit(2, purge=2)), cv=4), "cv=4"),
        (HistGradientBoostingClassifier(early_stopping=True), "early_stopping=True"),
        (HistGradientBoostingClassifier(), "early_stopping='auto'"),
        (make_pipeline(MLPClassifier(early_stopping=True)), "mlpclassifier__early_stopping=True"),
        (SGDClassifier("log_loss", early_stopping=True), "early_stopping=True"),
        (GradientBoostingClassifier(n_iter_no_change=5), "n_iter_no_change=5"),
        (LGBMWindowClassifier(2, validation_fraction=0.2, validation_purge=1), "validation_purge=1"),
        (
            WalkForwardVotingClassifier(
                [("stops", LGBMWindowClassifier(2, validation_fraction=0.2))], cv=WalkForwardSplit(2)
            ),
            "cv__purge=None, stops__validation_purge=0",
        ),
    ],
)
def test_estimators_that_purge_less_than_the_label_looks_ahead(frame, estimator, told):
    with pytest.raises(LeakageError) as raised:
        ClassifierModel(estimator, horizon=2).fit(dataset_of(frame))
    assert str(raised.value) == PURGE.format(told)


@pytest.mark.parametrize(
    "estimator",
    [
        GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=WalkForwardSplit(2, purge=2)),
        SizedClassifier(voting(cv=WalkForwardSplit(2, purge=2))),
        HistGradientBoostingClassifier(early_stopping=False, max_iter=2),
        # It stops early by the loss of what it learns from: no row is set aside.
        HistGradientBoostingClassifier(early_stopping=True, validation_fraction=None, max_iter=2),
        GradientBoostingClassifier(n_estimators=2),
        LGBMWindowClassifier(2, n_estimators=2, validation_fraction=0.2, validation_purge=2),
    ],
)
def test_estimators_that_split_no_row_or_purge_enough(frame, estimator):
    filled = frame.fillna({column: 0.0 for column in frame if column[0] == "feature"})
    assert scores(ClassifierModel(estimator, horizon=2), dataset_of(filled)).between(-1, 1).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"test": ("2022-07-01", "2022-07-04")}, "2 of test in train, from 2022-07-01 00:00:00 to 2022-07-04 00:00:00"),
        ({"test": SEGMENTS["valid"]}, "35 of test in valid, from 2022-08-15 00:00:00 to 2022-09-30 00:00:00"),
        (
            {"valid": ("2022-07-29", "2022-09-30")},
            "1 of valid in train, from 2022-07-29 00:00:00 to 2022-07-29 00:00:00",
        ),
        ({"train": (None, None)}, "35 of valid in train, from 2022-08-15 00:00:00 to 2022-09-30 00:00:00"),
    ],
)
def test_segments_that_share_a_time(frame, change, told):
    with pytest.raises(LeakageError) as raised:
        window_model().fit(dataset_of(frame, SEGMENTS | change))
    assert str(raised.value) == (
        f"`dataset` must have segments that share no time; got {told}. Let each begin after the one before it."
    )


def test_a_test_segment_may_be_still_to_come(frame):
    window_model().fit(dataset_of(frame, SEGMENTS | {"test": ("2030-01-01", "2030-12-31")}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": None}, "`horizon` must be given where the handler's label is no expression; got None. Count how"),
        ({"tail": 0.5}, "`tail` must be a share between 0 and 0.5, or None; got 0.5. None takes the label's sign."),
        ({"horizon": -1}, "`horizon` must be an integer of at least 0, or None; got -1. Count the bars the label"),
        ({"horizon": 500}, "`dataset` must have more than 500 times to learn from; got 190. Widen its segments train"),
    ],
)
def test_parameters_out_of_their_domain(frame, change, message):
    with pytest.raises(EnsembleKitError) as raised:
        window_model(**change).fit(dataset_of(frame))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("trees", "`estimator` must be a classifier with probabilities, or a configuration of one; got 'trees'. Pass"),
        (StandardScaler(), "`estimator` must be a classifier with probabilities, or a configuration of one; got Stand"),
        (
            {"class": "ensemble_kit.LGBMWindow"},
            "`estimator` must name classes that can be built; got ensemble_kit.LGBM",
        ),
        (
            {"class": "LGBMWindowClassifier", "module_path": "ensemble_kit", "kwargs": {"seqlen": 3}},
            "`estimator` must name classes that can be built; got ensemble_kit.LGBMWindowClassifier: LGBMWindowClassi",
        ),
    ],
)
def test_configurations_that_cannot_be_built(config, message):
    with pytest.raises(EnsembleKitError) as raised:
        ClassifierModel(config)
    assert str(raised.value).startswith(message)


def test_datasets_that_cannot_be_learned_from(frame):
    one = frame[frame.index.get_level_values(1) == "S01"]
    two = pd.concat([frame, frame[[("label", "LABEL0")]].set_axis([("label", "LABEL1")], axis=1)], axis=1)
    two.columns = pd.MultiIndex.from_tuples(two.columns)
    for dataset, message in (
        (dataset_of(one), "`dataset` must have labels of two classes at least; got [0] on "),
        (dataset_of(two), "`dataset` must have one label; got ['LABEL0', 'LABEL1']. Name one to the handler."),
        (dataset_of(frame, {"test": SEGMENTS["test"]}), "`dataset` must have a segment train; got test. Name one, and"),
        (dataset_of(frame, {"train": ("2030-01-01", "2031-01-01")}), "`dataset` must have rows in 'train'; got none."),
    ):
        with pytest.raises(EnsembleKitError) as raised:
            window_model().fit(dataset)
        assert str(raised.value).startswith(message)
    with pytest.raises(EnsembleKitError, match=r"`model` must be fitted before it predicts; got one that is not\."):
        window_model().predict(dataset_of(frame))


def test_a_single_instrument_learns_the_sign(frame):
    one = frame[frame.index.get_level_values(1) == "S01"]
    score = scores(window_model(tail=None), dataset_of(one))
    assert score.between(-1, 1).all()
    assert score.std() > 0


def test_qlib_is_an_extra():
    code = "import sys; sys.modules['qlib'] = None\nimport ensemble_kit.interop\nimport ensemble_kit.interop.qlib"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: `ensemble_kit.interop.qlib` must have Qlib installed; got none. "
        "Run: pip install 'ensemble-kit[qlib]'."
    )


def test_importing_starts_nothing_and_silences_nothing():
    code = (
        "import numpy, ensemble_kit.interop.qlib, qlib.config\n"
        "import sys; print(numpy.geterr()['invalid'], qlib.config.C.registered, 'mlflow' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["warn", "False", "False"]
