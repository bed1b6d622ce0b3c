"""Member-folds: one member on one fold, run here or in other processes, and found again."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from joblib.parallel import MultiprocessingBackend, ThreadingBackend, get_active_backend
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_limits

from ensemble_kit.bars import row_keys
from ensemble_kit.ensemble._tasks import Callbacks
from ensemble_kit.ensemble.resume import memory_folder, remembered
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.fingerprint import fingerprint, versions
from ensemble_kit.validation import REFIT, FoldData, fit_on_rows, predict_on_rows

__all__ = ["MemberFold", "read_only", "run_member_folds"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(eq=False)
class MemberFold:
    """One member on one fold.

    Attributes
    ----------
    fold : int
        The fold's number, `REFIT` for the last fit on all rows.
    name : str
        The member's name.
    member : classifier
        Unfitted.
    train, test : ndarray of int64
        Positions of the rows to fit on and of those to predict, none for the last fit.
    keep : bool
        Whether the fitted model is wanted.
    callbacks : Callbacks
        Whom to tell.
    """

    fold: int
    name: str
    member: Any
    train: IntArray
    test: IntArray
    keep: bool
    callbacks: Callbacks = field(repr=False)


def read_only(X: Any) -> Any:
    """Return columns that a member cannot write into, as those of a memory map: others look at them, too.

    Parameters
    ----------
    X : DataFrame or ndarray
        Columns. Frames copy what is written to, anyway.

    Returns
    -------
    as given
        A view.
    """
    if isinstance(X, np.ndarray):
        X = X.view()
        X.flags.writeable = False
    return X


def run_member_folds(
    jobs: Iterable[MemberFold], data: FoldData, *, memory: Any, n_jobs: int | None
) -> Generator[dict[str, Any]]:
    """Fit each member-fold's model and predict its test rows.

    Parameters
    ----------
    jobs : iterable of MemberFold
        What to do: one after another, or all at hand before processes start.
    data : FoldData
        All rows.
    memory : Memory, path or None
        Where results are kept.
    n_jobs : int or None
        Processes.

    Yields
    ------
    dict
        In the order of the jobs: `usage` (positions by role), `log_proba` of the test rows,
        shape (m, H, K), where there are any, and `fitted` where it is wanted.

    Notes
    -----
    Workers get the columns as a memory map (by loky) or scattered once (by Dask), and are
    new processes: a fork after OpenMP was used hangs. The linear algebra of a member has one
    thread, here as there, so that the bits do not depend on where it ran; networks and trees
    have their own `n_threads`.
    """
    folder = memory_folder(memory)
    seen = "" if folder is None else fingerprint(versions(), data.X, data.y, data.weights)
    classes = None if data.targets is None else data.targets.classes
    # Columns, targets and weights are arguments of their own: so they are mapped or scattered, not pickled.
    run = _workers(n_jobs)
    jobs = jobs if run.n_jobs == 1 else list(jobs)
    yield from run(delayed(_run)(folder, seen, job, data.X, data.y, data.weights, classes) for job in jobs)


def _workers(n_jobs: int | None) -> Parallel:
    backend, active = get_active_backend()
    if isinstance(backend, ThreadingBackend):
        # Two networks in one process would share torch's threads and random state.
        return Parallel(n_jobs=1, return_as="generator")
    # Ray's backend derives from that of forks, and forks nothing.
    at_once = active if n_jobs is None else n_jobs
    if type(backend) is MultiprocessingBackend and joblib.effective_n_jobs(at_once) > 1:
        raise EnsembleKitError(
            "`n_jobs` must be 1 under joblib's 'multiprocessing' backend, whose forks hang once OpenMP was used; got "
            f"{at_once}. Use joblib.parallel_config('loky')."
        )
    return Parallel(n_jobs=n_jobs, return_as="generator" if backend.supports_return_generator else "list")


def _run(
    folder: Path | None, seen: str, job: MemberFold, X: Any, y: NDArray[Any], weights: FloatArray, classes: NDArray[Any]
) -> dict[str, Any]:
    # A clone: what a fitted member has learned is not what its member-fold depends on.
    key = "" if folder is None else fingerprint(seen, clone(job.member), job.train, job.test, job.keep)
    try:
        with threadpool_limits(1, user_api="blas"):
            result = remembered(folder, key, lambda: _fit_and_predict(job, X, y, weights, classes))
    except Exception as error:
        where = "refitted on all rows" if job.fold == REFIT else f"in fold {job.fold}"
        error.add_note(f"This was member {job.name!r}, {where}.")
        raise
    # After the result is kept: a callback that raises loses nothing that is finished.
    job.callbacks.end()
    return result


def _fit_and_predict(
    job: MemberFold, X: Any, y: NDArray[Any], weights: FloatArray, classes: NDArray[Any]
) -> dict[str, Any]:
    X, keys = read_only(X), row_keys(X)
    fitted, usage = fit_on_rows(job.member, X, y, weights, job.train, keys, around=job.callbacks.around)
    result: dict[str, Any] = {"usage": usage}
    if job.keep:
        result["fitted"] = fitted
    if len(job.test):
        result["log_proba"] = predict_on_rows(fitted, X, job.test, keys, classes)
    return result
