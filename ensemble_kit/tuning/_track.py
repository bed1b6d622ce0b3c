"""One MLflow run a trial, under one run a study; without a server, trials go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from optuna.exceptions import TrialPruned

__all__ = ["Run", "trial_run"]

#: Where a study keeps the id of its run, for all workers.
_OF_STUDY = "mlflow_run_id"


class Run(Protocol):
    """What is needed of `tracking.patient.PatientRun`."""

    run_id: str | None

    def start(
        self,
        experiment: str,
        run_name: str | None = None,
        *,
        parent_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Any:
        """Begin a run."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write parameters."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        """Write numbers."""

    def end(self, status: str = "FINISHED") -> None:
        """End it."""


def _new_run() -> Run:
    from ensemble_kit.tracking.patient import PatientRun  # MLflow is heavy: only who tracks loads it

    return PatientRun()


@contextmanager
def trial_run(experiment: str | None, trial: Any) -> Iterator[Run | None]:
    """Give a trial a run of its own, and end it as the trial ends.

    Parameters
    ----------
    experiment : str or None
        MLflow's experiment; None for no run.
    trial : Trial
        Optuna's.

    Yields
    ------
    Run or None
        Where to write.
    """
    if experiment is None:
        yield None
        return
    run, tags = _new_run(), {"optuna.trial": str(trial.number)}
    run.start(experiment, f"trial {trial.number}", parent_run_id=_study_run(experiment, trial), tags=tags)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except TrialPruned:
        status = "FINISHED"  # a decision, and no fault
        raise
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.end(status)


def _study_run(experiment: str, trial: Any) -> str | None:
    """Return the run of the study, made by the first worker that asks, and ended at once: it only holds others."""
    study = getattr(trial, "study", None)
    if study is None:
        return None
    if _OF_STUDY not in study.user_attrs:
        run = _new_run()
        run.start(experiment, study.study_name, tags={"optuna.study": study.study_name})
        run.end("FINISHED")
        if run.run_id is not None:
            study.set_user_attr(_OF_STUDY, run.run_id)
    known: str | None = study.user_attrs.get(_OF_STUDY)
    return known
