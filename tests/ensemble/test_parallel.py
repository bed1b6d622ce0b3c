"""Wherever member-folds run, the bits are the same: here, in loky's processes, on a Dask cluster."""

import os
import threading
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import ProgressBar
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.validation import WalkForwardSplit

pytestmark = [
    # Five trees and one epoch know next to nothing.
    pytest.mark.filterwarnings("ignore:temperature on its bound"),
    # loky takes the import of torch in a worker that had other work before for a leak, and replaces the worker. Its
    # warning must not become an error: it is raised in the thread that manages the workers, and the fit would hang.
    pytest.mark.filterwarnings("ignore:A worker stopped while some jobs"),
]

CV = WalkForwardSplit(2, purge=0)
NETWORK = LSTMGRUClassifier(3, hidden_size=4, max_epochs=2, dropout=0.2, random_state=0)
MEMBERS = [
    ("net", make_pipeline(StandardScaler(), NETWORK)),
    ("trees", LGBMWindowClassifier(3, n_estimators=5, random_state=0)),
    ("lr", LogisticRegression()),
]
QUICK = [("lr", LogisticRegression()), ("nb", GaussianNB())]


def rows(kind, n=180, n_features=3):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n, n_features))
    y = np.array(["down", "flat", "up"])[np.digitize(values[:, 0] + rng.normal(size=n), [-0.8, 0.8])]
    if kind == "array":
        return values, y
    times = pd.date_range("2022", periods=n, freq="h", tz="UTC")
    if kind == "panel":
        times = pd.MultiIndex.from_product([times[: n // 2], ["A", "B"]], names=["datetime", "instrument"])
    return pd.DataFrame(values, index=times, columns=[f"x{j}" for j in range(n_features)]), pd.Series(y, index=times)


def ensemble(members=MEMBERS, **parameters):
    return WalkForwardVotingClassifier(members, cv=CV, **parameters)


def assert_same_bits(one, other, X):
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    pd.testing.assert_frame_equal(one.oof_log_proba_, other.oof_log_proba_, check_exact=True)
    for frame in ("weights_", "scores_", "fold_scores_", "temperatures_"):
        pd.testing.assert_frame_equal(getattr(one, frame), getattr(other, frame), check_exact=True)
    pd.testing.assert_frame_equal(one.row_usage_.to_frame(), other.row_usage_.to_frame())


def results(folder):
    """Return the files of finished member-folds, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.checkpoint")}


@pytest.mark.parametrize("refit", ["all", "fold_average"])
@pytest.mark.parametrize("kind", ["frame", "array", "panel"])
def test_two_processes_give_the_bits_of_one(kind, refit, tmp_path):
    X, y = rows(kind)
    alone = ensemble(refit=refit).fit(X, y)
    assert_same_bits(ensemble(refit=refit, n_jobs=2).fit(X, y), alone, X)
    # What processes kept is found again here.
    assert_same_bits(ensemble(refit=refit, n_jobs=2, memory=tmp_path).fit(X, y), alone, X)
    kept = results(tmp_path)
    assert len(kept) == (9 if refit == "all" else 6)
    assert_same_bits(ensemble(refit=refit, memory=tmp_path).fit(X, y), alone, X)
    assert results(tmp_path) == kept


def test_what_joblib_is_told_counts_where_n_jobs_says_nothing():
    X, y = rows("frame")
    alone = ensemble([("who", Who())]).fit(X, y)
    assert {model.process_ for model in alone.estimators_} == {os.getpid()}
    with joblib.parallel_config("loky", n_jobs=2):
        there = ensemble([("who", Who())]).fit(X, y)
        assert_same_bits(ensemble().fit(X, y), ensemble(n_jobs=1).fit(X, y), X)
    assert os.getpid() not in {model.process_ for model in there.estimators_}


def test_sample_weights_and_horizons_go_along():
    X, y = rows("frame")
    two = pd.DataFrame({"near": y, "far": np.roll(y, 5)}, index=X.index)
    members = MEMBERS[:2]
    weight = np.linspace(0, 2, len(X)).round()
    one, other = (ensemble(members, n_jobs=n).fit(X, two, sample_weight=weight) for n in (None, 2))
    assert [p.shape for p in one.predict_proba(X)] == [(180, 3), (180, 3)]
    assert_same_bits(one, other, X)


def test_within_a_search_that_has_processes_of_its_own():
    X, y = rows("frame")
    tables = []
    for n_jobs in (None, 2):
        search = GridSearchCV(ensemble(n_jobs=2), {"lr__C": [0.1, 10.0]}, cv=CV, n_jobs=n_jobs, error_score="raise")
        tables.append(search.fit(X, y).cv_results_["split1_test_score"])
    np.testing.assert_array_equal(*tables)


def test_an_ensemble_as_a_member():
    X, y = rows("frame")
    one, other = (ensemble([("inner", ensemble(QUICK, n_jobs=n)), *QUICK], n_jobs=n).fit(X, y) for n in (None, 2))
    assert_same_bits(one, other, X)


class Who(ClassifierMixin, BaseEstimator):
    """Writes down where it was fitted, and on what."""

    def __init__(self, *, changes=False):
        self.changes = changes

    def fit(self, X, y):
        self.process_, self.thread_ = os.getpid(), threading.get_ident()
        values = X.to_numpy() if isinstance(X, pd.DataFrame) else X
        self.writeable_, self.mapped_ = values.flags.writeable, False
        base = values
        while isinstance(base, np.ndarray):
            self.mapped_ |= isinstance(base, np.memmap)
            base = base.base
        if self.changes:
            values -= 1.0
        self.inner_ = GaussianNB().fit(np.asarray(X), y)
        self.classes_ = self.inner_.classes_
        return self

    def predict_proba(self, X):
        return self.inner_.predict_proba(np.asarray(X))

    def predict(self, X):
        return self.inner_.predict(np.asarray(X))


@pytest.mark.parametrize("kind", ["frame", "array", "panel"])
def test_large_columns_reach_processes_as_a_memory_map(kind):
    X, y = rows(kind, n=18_000, n_features=8)  # 1.15 MB
    (member,) = ensemble([("who", Who())], n_jobs=2).fit(X, y).estimators_
    assert member.process_ != os.getpid()
    assert member.mapped_
    assert not member.writeable_
    X, y = rows(kind, n=1_800, n_features=8)
    (member,) = ensemble([("who", Who())], n_jobs=2).fit(X, y).estimators_
    assert not member.mapped_


@pytest.mark.parametrize("kind", ["frame", "array"])
def test_members_take_columns_that_are_read_only(kind):
    X, y = rows(kind, n=18_000, n_features=8)
    network = LSTMGRUClassifier(2, hidden_size=2, max_epochs=1, batch_size=4096, random_state=0)
    members = [
        ("net", make_pipeline(StandardScaler(), network)),
        ("trees", LGBMWindowClassifier(2, n_estimators=2, random_state=0)),
        ("lr", make_pipeline(StandardScaler(), LogisticRegression())),
    ]
    assert_same_bits(ensemble(members, n_jobs=2).fit(X, y), ensemble(members).fit(X, y), X)


@pytest.mark.parametrize("scaler", [StandardScaler(copy=False)])
def test_a_member_that_writes_to_its_columns_changes_no_others(scaler):
    X, y = rows("array")
    before = X.copy()
    members = [("writes", make_pipeline(scaler, LogisticRegression())), *QUICK]
    alone = ensemble(members).fit(X, y)
    np.testing.assert_array_equal(X, before)
    assert_same_bits(alone, ensemble(members, n_jobs=2).fit(X, y), X)


def test_threads_are_not_used():
    X, y = rows("frame")
    with joblib.parallel_config("threading", n_jobs=2):
        vote = ensemble([("a", Who()), ("b", Who())], n_jobs=2, refit="fold_average").fit(X, y)
    assert {model.thread_ for models in vote.estimators_ for model in models} == {threading.get_ident()}


@pytest.mark.parametrize("said", [2, None])
def test_forks_are_refused(said):
    X, y = rows("frame")
    message = (
        r"^`n_jobs` must be 1 under joblib's 'multiprocessing' backend, whose forks hang once OpenMP was used; got 2\. "
        r"Use joblib\.parallel_config\('loky'\)\.$"
    )
    with joblib.parallel_config("multiprocessing", n_jobs=2), pytest.raises(EnsembleKitError, match=message):
        ensemble(QUICK, n_jobs=said).fit(X, y)


def test_one_process_under_a_backend_that_forks():
    X, y = rows("frame")
    with joblib.parallel_config("multiprocessing", n_jobs=1):
        assert_same_bits(ensemble(QUICK).fit(X, y), ensemble(QUICK).fit(X, y), X)


@pytest.mark.filterwarnings("ignore:.*does not support callbacks")
@pytest.mark.parametrize("depth", [0, 2])
def test_progress_is_drawn_from_processes(depth, capsys, tmp_path):
    X, y = rows("frame")
    members = [("net", make_pipeline(StandardScaler(), NETWORK)), *QUICK]
    vote = ensemble(members, n_jobs=2, memory=tmp_path).set_callbacks(ProgressBar(max_propagation_depth=depth))
    drawn = []
    for _ in range(2):  # the second time all is found in `memory`
        vote.fit(X, y)
        drawn.append(capsys.readouterr().out)
        for bar in ("fit", "fold 0", "fold 1", "refit"):
            (line,) = [line for line in drawn[-1].splitlines() if f"WalkForwardVotingClassifier - {bar} " in f"{line} "]
            assert "100%" in line
    assert ("Pipeline - fit" in drawn[0]) == (depth > 0)
    assert_same_bits(vote, ensemble(members).fit(X, y), X)


class OutOfInkError(RuntimeError):
    """An exception that only the member knows."""


class Breaks(Who):
    """Breaks down on all rows, as long as a file says so, and leaves a file for each fit."""

    def __init__(self, folder, n_rows):
        self.folder = folder
        self.n_rows = n_rows
        self.changes = False

    def fit(self, X, y):
        if len(X) == self.n_rows and Path(self.folder, "breaks").exists():
            time.sleep(0.2)
            raise OutOfInkError(f"{len(X)} rows are too many")
        Path(self.folder, f"fit-{len(X)}-{time.monotonic_ns()}").touch()
        return super().fit(X, y)


def test_what_a_member_raises_comes_back_and_finished_work_stays(tmp_path):
    X, y = rows("frame")
    (fits := tmp_path / "fits").mkdir()
    (fits / "breaks").touch()
    vote = ensemble([("lr", LogisticRegression()), ("m", Breaks(str(fits), 180))], n_jobs=2, memory=tmp_path / "memory")
    with pytest.raises(OutOfInkError, match=r"^180 rows are too many\nThis was member 'm', refitted"):
        vote.fit(X, y)
    # Both members on both folds, and the other one on all rows if it was as quick.
    assert len(results(tmp_path / "memory")) >= 4
    (fits / "breaks").unlink()
    vote.fit(X, y)
    assert (
        len(list(fits.glob("fit-60-*"))) == len(list(fits.glob("fit-120-*"))) == len(list(fits.glob("fit-180-*"))) == 1
    )
    other = [("lr", LogisticRegression()), ("m", Who())]
    np.testing.assert_array_equal(vote.predict_proba(X), ensemble(other).fit(X, y).predict_proba(X))


class Stops:
    """A callback that ends the fit at the end of one member on one fold, wherever that runs."""

    max_propagation_depth = 0

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "nb" and context.parent.task_name == "refit":
            raise RuntimeError("the log is full")

    def teardown(self, estimator, context):
        pass


@pytest.mark.slow  # workers are killed, and start again
def test_a_callback_that_raises_in_a_process_loses_nothing(tmp_path):
    X, y = rows("frame")
    vote = ensemble(QUICK, n_jobs=2, memory=tmp_path).set_callbacks(Stops())
    with pytest.raises(RuntimeError, match=r"^the log is full$"):
        vote.fit(X, y)
    kept = results(tmp_path)
    assert len(kept) >= 5  # the one whose end was told included
    vote.set_callbacks()
    assert_same_bits(vote.fit(X, y), ensemble(QUICK).fit(X, y), X)
    assert kept.items() <= results(tmp_path).items()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what distributed says of its own
def test_a_dask_cluster_gives_the_same_bits(tmp_path):
    distributed = pytest.importorskip("distributed", reason="pip install 'ensemble-kit[dask]'")
    X, y = rows("panel")
    large = rows("frame", n=18_000, n_features=8)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        there = [ensemble(refit=refit).fit(X, y) for refit in ("all", "fold_average")]
        kept = ensemble(memory=tmp_path).fit(X, y)
        who = ensemble([("who", Who())]).fit(X, y)
        scattered = ensemble(QUICK).fit(*large)
        (tmp_path / "breaks").touch()
        with pytest.raises(OutOfInkError, match=r"^180 rows are too many\nThis was member 'm', refitted"):
            ensemble([("m", Breaks(str(tmp_path), 180))]).fit(X, y)
    assert os.getpid() not in {model.process_ for model in who.estimators_}
    for refit, vote in zip(("all", "fold_average"), there, strict=True):
        assert_same_bits(vote, ensemble(refit=refit).fit(X, y), X)
    assert_same_bits(kept, there[0], X)
    assert_same_bits(scattered, ensemble(QUICK).fit(*large), large[0])


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_backend_like_rays_is_taken(n_jobs):
    """Ray's backend runs actors in processes of their own, under the interface of a pool of forks."""
    joblib.register_parallel_backend("like_ray", LikeRay)
    X, y = rows("frame")
    try:
        with joblib.parallel_config("like_ray"):
            vote = ensemble(QUICK, n_jobs=n_jobs).fit(X, y)
    finally:
        for pool in LikeRay.pools:
            pool.terminate()
            pool.join()
        LikeRay.pools.clear()
    assert_same_bits(vote, ensemble(QUICK).fit(X, y), X)


class LikeRay(joblib.parallel.MultiprocessingBackend):
    """A pool that is not forked: what Ray's backend looks like to joblib, without Ray."""

    supports_return_generator = False
    pools = []

    def effective_n_jobs(self, n_jobs):
        return 1 if n_jobs is None else n_jobs

    def configure(self, n_jobs=1, parallel=None, **_):
        self._pool = ThreadPool(1)
        self.pools.append(self._pool)
        self.parallel = parallel
        return n_jobs
