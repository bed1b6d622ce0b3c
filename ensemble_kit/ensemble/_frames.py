"""What an ensemble learned, as labelled frames over its plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.bars import unpack_index
from ensemble_kit.ensemble.judgement import calibrated
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import compare_scores, score_interval
from ensemble_kit.targets import one_horizon
from ensemble_kit.validation import RowUsage

__all__ = ["MemberFrames"]

FloatArray = NDArray[np.float64]


class MemberFrames:
    """Labelled views of the arrays of a fitted `WalkForwardVotingClassifier`."""

    estimators: list[tuple[str, Any]]
    events: Any
    estimators_: list[Any]
    calibrators_: list[Any]
    fold_: NDArray[np.int64]
    _classes: NDArray[Any]
    _fitted_names: list[str]
    _weights: FloatArray
    _scores: FloatArray
    _fold_scores: FloatArray
    _oof: FloatArray
    _oof_codes: NDArray[np.int64]
    _oof_weights: FloatArray
    _index: dict[str, Any]
    _n_rows: int
    _usage: list[dict[str, Any]]
    recalibrated_: dict[str, Any] | None

    @property
    def named_estimators_(self) -> dict[str, Any]:
        """Fitted members by name; lists of one a fold after ``refit="fold_average"``."""
        return dict(zip(self._fitted_names, self.estimators_, strict=True))

    @property
    def weights_(self) -> pd.DataFrame:
        """Voting weights by member and horizon; each column sums to 1."""
        check_is_fitted(self, "estimators_")
        return self._frame(self._weights)

    @property
    def scores_(self) -> pd.DataFrame:
        """Scores after calibration, by member and horizon."""
        check_is_fitted(self, "estimators_")
        return self._frame(self._scores)

    @property
    def fold_scores_(self) -> pd.DataFrame:
        """Scores after calibration, by fold and member, one column a horizon."""
        check_is_fitted(self, "estimators_")
        frames = [self._frame(scores) for scores in self._fold_scores]
        folds = range(len(frames)) if self.recalibrated_ is None else ["later"]
        return pd.concat(frames, keys=folds, names=["fold", "member"])

    @property
    def temperatures_(self) -> pd.DataFrame:
        """Temperatures by member and horizon."""
        check_is_fitted(self, "estimators_")
        nothing = np.full(self._scores.shape[1], np.nan)
        rows = [getattr(calibrator, "temperature_", nothing) for calibrator in self.calibrators_]
        return self._frame(np.array(rows))

    @property
    def oof_log_proba_(self) -> pd.DataFrame:
        """Uncalibrated out-of-fold log-probabilities on the index of X."""
        check_is_fitted(self, "estimators_")
        index = unpack_index(self._index, self._n_rows)[self.fold_ >= 0]
        columns = pd.MultiIndex.from_product(
            [self._fitted_names, self._horizon_names, self._classes], names=["member", "horizon", "class"]
        )
        return pd.DataFrame(np.moveaxis(self._oof, 0, 1).reshape(len(index), -1), index=index, columns=columns)

    @property
    def row_usage_(self) -> RowUsage:
        """Which rows each stage saw."""
        check_is_fitted(self, "estimators_")
        usage = RowUsage(self._n_rows)
        usage.entries = list(self._usage)
        return usage

    def leave_one_member_out(
        self,
        *,
        horizon: int = 0,
        scorer: str = "auc_pr",
        block: int | None = None,
        n_resamples: int = 1000,
        random_state: Any = None,
    ) -> pd.DataFrame:
        """Score the out-of-fold vote with and without each member.

        Parameters
        ----------
        horizon : int, default=0
            Which horizon.
        scorer : {"auc_pr", "brier", "log_loss"}, default="auc_pr"
            Of AUC-PR, the mean over `events`; of a loss, smaller is better.
        block, n_resamples, random_state : see `metrics.compare_scores`
            Of its paired moving-block bootstrap.

        Returns
        -------
        DataFrame, one row a member
            Its `weight`, its score `alone`, the vote's score `without` it (the others'
            weights as they are among themselves), what it `adds` (the whole vote's score
            less that one) and the 95 % interval of that, `low` to `high`.

        Raises
        ------
        EnsembleKitError
            If there is one member only, or no such horizon.

        Notes
        -----
        Temperatures and weights were fitted on these same rows, two numbers a member on
        thousands of them: the vote is flattered a little, not much.
        """
        proba, y, about = self._judged(horizon)
        if len(proba) < 2:
            raise EnsembleKitError("`estimators` must name at least two members here; got one. A vote needs another.")
        about |= {"scorer": scorer, "block": block, "n_resamples": n_resamples, "random_state": random_state}
        about |= {} if scorer == "auc_pr" else {"events": None}
        weights = self._weights[:, horizon]
        whole = np.tensordot(weights, proba, 1)
        table = {}
        for m, name in enumerate(self._fitted_names):
            others = np.delete(weights, m)
            # Where nobody else had a weight, the others vote alike.
            others = others / others.sum() if others.any() else np.full(len(others), 1 / len(others))
            without = np.tensordot(others, np.delete(proba, m, axis=0), 1)
            alone, left = (score_interval(y, said, **about)[0] for said in (proba[m], without))
            table[name] = (weights[m], alone, left, *compare_scores(y, whole, without, **about))
        columns = ["weight", "alone", "without", "adds", "low", "high"]
        return pd.DataFrame.from_dict(table, orient="index", columns=columns)

    def member_correlation(self, *, horizon: int = 0) -> pd.DataFrame:
        """Correlate the ranks that members give to the out-of-fold rows.

        Parameters
        ----------
        horizon : int, default=0
            Which horizon.

        Returns
        -------
        DataFrame of shape (M, M)
            Spearman's correlation of calibrated probabilities, the mean over `events` (all
            classes if there are none). Members that answer alike add little to each other;
            NaN beside one whose answer never changes.

        Raises
        ------
        EnsembleKitError
            If there is no such horizon.
        """
        proba, _, about = self._judged(horizon)
        labels = self._classes.tolist()
        events = labels if self.events is None else np.atleast_1d(self.events).tolist()
        counted = proba[:, about["sample_weight"] > 0]
        of_event = [
            pd.DataFrame(counted[:, :, labels.index(event)].T, columns=self._fitted_names).corr("spearman")
            for event in events
        ]
        return sum(of_event[1:], of_event[0]) / len(of_event)

    def _judged(self, horizon: int) -> tuple[FloatArray, NDArray[Any], dict[str, Any]]:
        """Return calibrated probabilities (M, n, K), labels (n,) and how to score them."""
        check_is_fitted(self, "estimators_")
        said = zip(self.calibrators_, self._oof, strict=True)
        proba = np.stack([np.exp(one_horizon(calibrated(one, raw), horizon)) for one, raw in said])
        index = unpack_index(self._index, self._n_rows)[self.fold_ >= 0]
        times = index.get_level_values(0) if isinstance(index, pd.MultiIndex) else index
        return (
            proba,
            self._classes[self._oof_codes[:, horizon]],
            {"classes": self._classes, "events": self.events, "sample_weight": self._oof_weights, "times": times},
        )

    @property
    def _names(self) -> list[str]:
        return [name for name, _ in self.estimators]

    @property
    def _horizon_names(self) -> list[str]:
        return [f"H{h}" for h in range(self._scores.shape[1])]

    def _frame(self, values: FloatArray) -> pd.DataFrame:
        return pd.DataFrame(values, index=self._fitted_names, columns=self._horizon_names)
