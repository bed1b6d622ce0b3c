"""LightGBM beneath the windows: bins that horizons share, the expected cost, one booster a horizon."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ensemble_kit.estimators.lags import LagColumns
from ensemble_kit.targets import LOG_FLOOR

__all__ = ["ExpectedCost", "bin_rows", "boost", "class_scores"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# ----------------------------------------------------------------- expected cost


def class_scores(raw: FloatArray) -> FloatArray:
    """Return one score a class.

    Parameters
    ----------
    raw : ndarray of float64, shape (..., S)
        LightGBM's scores: one of S = K a class, or the one, S = 1, of the second of two.

    Returns
    -------
    ndarray of float64, shape (..., K)
        The first of two classes scores 0.
    """
    return np.concatenate([np.zeros_like(raw), raw], axis=-1) if raw.shape[-1] == 1 else raw


class ExpectedCost:
    """What a decision drawn from softmax(scores) costs, as an objective and a metric of LightGBM.

    Parameters
    ----------
    costs : ndarray of float64, shape (K, K)
        Rows are what is said, columns what comes true. Only proportions matter: the largest is
        made 1.
    mass : ndarray of float64, shape (K,)
        Weight of each class among the rows to fit.
    """

    def __init__(self, costs: FloatArray, mass: FloatArray) -> None:
        self._of_truth = (costs / costs.max()).T
        self._range = np.ptp(self._of_truth, axis=1)
        # Not the log prior: a gradient is in proportion to the class's probability, and classes of 1 % hardly leave it
        # in 200 rounds. A class that no row to fit has starts, and stays, improbable.
        self.init = np.where(mass > 0, 0.0, LOG_FLOOR)
        if len(mass) == 2:
            self.init -= self.init[0]

    def cost(self, scores: FloatArray, codes: IntArray) -> FloatArray:
        """Return the expected cost (n,) of scores (n, K) where classes (n,) come true."""
        cost: FloatArray = (softmax(scores, axis=1) * self._of_truth[codes]).sum(axis=1)
        return cost

    def gradients(self, scores: FloatArray, codes: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return the gradients and the curvatures, both (n, K), of the cost."""
        p = softmax(scores, axis=1)
        costs = self._of_truth[codes]
        above = costs - (p * costs).sum(axis=1, keepdims=True)
        # The Hessian is indefinite: v'Hv = sum_k p_k above_k (v_k - p'v)^2, at most r Var_p(v) with r the range of the
        # row's costs. Var_p(v) = v'(diag(p) - pp')v is at most v' diag(2 p (1 - p)) v, by diagonal dominance. So
        # 2 r p (1 - p) bounds it from above, and as |above_k| <= r (1 - p_k), a gradient is at most half of it:
        # no leaf moves a score by more than learning_rate / 2 in a round, however wrong or sure the rows are.
        curvature = 2 * self._range[codes, None] * p * (1 - p)
        return p * above, curvature

    def objective(self, raw: FloatArray, data: Any) -> tuple[FloatArray, FloatArray]:
        """Return LightGBM's gradients and curvatures; it leaves the weights to us."""
        raw, codes, weights = _of(raw, data)
        n_scores = raw.shape[1]
        both = [weights[:, None] * each[:, -n_scores:] for each in self.gradients(class_scores(raw), codes)]
        return (both[0], both[1]) if n_scores > 1 else (both[0][:, 0], both[1][:, 0])

    def metric(self, raw: FloatArray, data: Any) -> tuple[str, float, bool]:
        """Return the weighted mean cost, by name; less is better."""
        raw, codes, weights = _of(raw, data)
        total = weights.sum() or 1.0  # `class_weight` may leave a horizon nothing
        return "expected_cost", float(weights @ self.cost(class_scores(raw), codes) / total), False


def _of(raw: FloatArray, data: Any) -> tuple[FloatArray, IntArray, FloatArray]:
    codes = data.get_field("label").astype(np.int64)
    return raw.reshape(len(codes), -1), codes, data.get_field("weight").astype(np.float64)


# ---------------------------------------------------------------------- boosting


def bin_rows(columns: LagColumns, roles: Iterable[IntArray], params: Mapping[str, Any]) -> list[tuple[Any, IntArray]]:
    """Bin rows once for all horizons; those of later roles share the bins of the first.

    Parameters
    ----------
    columns : LagColumns
        The derived columns.
    roles : iterable of ndarray of int64
        Rows to fit, then rows to stop. Empty ones are left out.
    params : mapping
        LightGBM's parameters.

    Returns
    -------
    list of (Dataset, ndarray of int64)
        The binned data, and the rows it holds in their order.
    """
    sets: list[tuple[Any, IntArray]] = []
    for rows in map(columns.arrange, roles):
        if len(rows):
            reference = sets[0][0] if sets else None
            # The columns are let go of once they are binned (`free_raw_data`).
            sets.append((lgb.Dataset(columns.table(rows), reference=reference, params=dict(params)).construct(), rows))
    return sets


def boost(
    sets: Sequence[tuple[Any, IntArray]],
    codes: IntArray,
    weights: FloatArray,
    costs: FloatArray | None,
    params: Mapping[str, Any],
    *,
    n_estimators: int,
    patience: int,
    verbose: bool,
) -> tuple[list[str], FloatArray, list[int]]:
    """Grow one booster a horizon on the same bins.

    Parameters
    ----------
    sets : sequence of (Dataset, ndarray of int64)
        What `bin_rows` returned.
    codes, weights : ndarray of shape (n, H)
        Class and weight of each row and horizon.
    costs : ndarray of float64, shape (K, K), or None
        For the expected cost; None trains LightGBM's own objective.
    params : mapping
        LightGBM's parameters.
    n_estimators, patience : int
        Rounds, and rounds without a better score on the rows to stop.
    verbose : bool
        Whether to write scores.

    Returns
    -------
    texts : list of str
        The models.
    init_score : ndarray of float64, shape (H, K)
        What to add to their scores.
    rounds : list of int
        Trees kept, of each class.
    """
    (data, fitted), *others = sets
    held = [other for other, _ in others]
    n_classes = params.get("num_class", 2)
    texts, rounds = [], []
    init_score = np.zeros((codes.shape[1], n_classes))
    for horizon in range(codes.shape[1]):
        for each, rows in sets:
            each.set_field("label", codes[rows, horizon])
            # `set_weight` would skip weights that are all 1, and leave the last horizon's in place.
            each.set_field("weight", weights[rows, horizon])
        task: dict[str, Any] = {"params": dict(params)}
        if costs is not None:
            mass = np.bincount(codes[fitted, horizon], weights[fitted, horizon], minlength=n_classes)
            loss = ExpectedCost(costs, mass.astype(np.float64))
            init_score[horizon] = loss.init
            for each, rows in sets:
                # Class after class, as LightGBM has them.
                each.set_field("init_score", np.repeat(loss.init if n_classes > 2 else loss.init[1:], len(rows)))
            task = {"params": {**params, "objective": loss.objective}, "feval": loss.metric}
        callbacks = [lgb.early_stopping(patience, verbose=verbose)] if held else []
        if verbose:
            callbacks.append(lgb.log_evaluation(10))
        booster = lgb.train(train_set=data, num_boost_round=n_estimators, valid_sets=held, callbacks=callbacks, **task)
        texts.append(booster.model_to_string())
        rounds.append(int(booster.best_iteration if held else booster.current_iteration()))
    return texts, init_score, rounds
