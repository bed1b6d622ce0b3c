"""Folds and members as scikit-learn's callbacks see them: tasks that begin and end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ensemble_kit.validation import REFIT

__all__ = ["Callbacks", "FoldTasks"]


@dataclass
class Callbacks:
    """Whom a member-fold tells that it begins and ends.

    Attributes
    ----------
    context : CallbackContext
        The task's place in scikit-learn's tree of tasks.
    owner : estimator
        Whose task it is.
    begun : bool
        Whether its begin was told.
    """

    context: Any
    owner: Any
    begun: bool = False

    @contextmanager
    def around(self, model: Any) -> Iterator[None]:
        """Hand the callbacks on to a model while it is fitted.

        Parameters
        ----------
        model : estimator
            About to be fitted.

        Yields
        ------
        None
        """
        with self.context.propagate_callback_context(model):
            self.begin()
            yield

    def begin(self) -> None:
        """Tell the begin."""
        self.begun = True
        self.context.call_on_fit_task_begin(estimator=self.owner)

    def end(self) -> None:
        """Tell the end, and the begin first where nothing was fitted: the result was there."""
        if not self.begun:
            self.begin()
        self.context.call_on_fit_task_end(estimator=self.owner)


class FoldTasks:
    """The tasks of a fit: one a fold, and within it one a member.

    Parameters
    ----------
    owner : WalkForwardVotingClassifier
        Whose fit it is.
    root : CallbackContext
        The fit's place in scikit-learn's tree of tasks.
    folds : list of int
        The folds' numbers, `REFIT` among them.
    names : list of str
        The members.
    """

    def __init__(self, owner: Any, root: Any, folds: list[int], names: list[str]) -> None:
        self._owner, self._names = owner, names
        self._folds = [
            root.subcontext(
                task_name="refit" if fold == REFIT else f"fold {fold}",
                max_subtasks=len(names),
                sequential_subtasks=False,
            )
            for fold in folds
        ]

    def of_member(self, at: int, m: int) -> Callbacks:
        """Return whom member `m` tells in the fold at a place in the list."""
        context = self._folds[at].subcontext(task_name=self._names[m], task_id=m)
        # Whoever listens may ask the ensemble; otherwise it need not travel to other processes.
        return Callbacks(context, self._owner if hasattr(self._owner, "_skl_callbacks") else None)

    def begun(self, jobs: list[Any]) -> Iterator[Any]:
        """Yield jobs, fold after fold, each fold's first when it was told that the fold begins."""
        for at, job in enumerate(jobs):
            fold, m = divmod(at, len(self._names))
            if m == 0:
                self._folds[fold].call_on_fit_task_begin(estimator=self._owner)
            yield job

    def end(self, at: int) -> None:
        """Tell that the fold at a place in the list has ended."""
        self._folds[at].call_on_fit_task_end(estimator=self._owner)
