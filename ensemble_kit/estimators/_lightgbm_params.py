"""What LightGBM may be told by users of windows, and constraints by base column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble_kit.estimators._parameters import Domain
from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["LIGHTGBM_PARAMS", "expand_constraints", "with_defaults"]

IntArray = NDArray[np.int64]

# By all their names: the estimator's own parameters, and what its answers could not follow (forests that average or
# drop trees, linear leaves, splits by category) or would be changed by (other metrics, files, modes of prediction).
_TAKEN = {
    "app", "application", "loss", "objective", "objective_type", "num_class", "num_classes", "sigmoid", "metric",
    "metric_types", "metrics", "first_metric_only", "num_iterations", "max_iter", "n_estimators", "n_iter",
    "nrounds", "num_boost_round", "num_iteration", "num_round", "num_rounds", "num_tree", "num_trees", "num_leaves",
    "max_leaf", "max_leaf_nodes", "max_leaves", "num_leaf", "learning_rate", "eta", "shrinkage_rate",
    "min_data_in_leaf", "min_child_samples", "min_data", "min_data_per_leaf", "min_samples_leaf", "num_threads",
    "n_jobs", "nthread", "nthreads", "num_thread", "seed", "random_seed", "random_state", "early_stopping_round",
    "early_stopping", "early_stopping_rounds", "n_iter_no_change", "verbosity", "verbose", "boosting", "boost",
    "boosting_type", "linear_tree", "linear_trees", "categorical_feature", "cat_column", "cat_feature",
    "categorical_column", "categorical_features", "input_model", "model_in", "model_input", "output_model",
    "model_out", "model_output", "raw_score", "contrib", "leaf_index", "start_iteration_predict",
    "num_iteration_predict", "mc", "monotone_constraint", "monotonic_cst",
}  # fmt: skip
_FOR_PREDICTION = ("predict_", "pred_", "is_predict_")

#: What `params` may be.
LIGHTGBM_PARAMS: Domain = (
    (
        "None or a dict of LightGBM's parameters without those that are the estimator's own, `objective`, `metric`, "
        "`boosting`, `linear_tree`, `categorical_feature`, other names of `monotone_constraints`, and those of model "
        "files and of prediction"
    ),
    lambda v: (
        v is None
        or (
            isinstance(v, Mapping)
            and all(isinstance(name, str) and not name.startswith(_FOR_PREDICTION) for name in v)
            and not _TAKEN & set(v)
        )
    ),
)


def with_defaults(params: Mapping[str, Any]) -> dict[str, Any]:
    """Add what makes wide data cheap, where the user has not said otherwise.

    Parameters
    ----------
    params : mapping
        LightGBM's parameters.

    Returns
    -------
    dict
        The same and more.
    """
    defaults: dict[str, Any] = {"deterministic": True}
    # The same trees column by column as row by row: at 2,160 columns of 100,000 rows a third of the time, and less
    # memory by a second copy of the bins.
    if "force_row_wise" not in params:
        defaults["force_col_wise"] = True
    # Instead of 200,000: most of the time that binning 16,400 columns takes.
    if "subsample_for_bin" not in params:
        defaults["bin_construct_sample_cnt"] = 5000
    return defaults | dict(params)


def expand_constraints(params: Mapping[str, Any], names: Sequence[str], n_blocks: int) -> dict[str, Any]:
    """Give every derived column the constraints of its base column.

    Parameters
    ----------
    params : mapping
        LightGBM's parameters, `monotone_constraints` (F directions, or a dict of name to
        direction) and `interaction_constraints` (lists of names or positions) by base column.
    names : sequence of str
        The F base columns.
    n_blocks : int
        Derived columns of each.

    Returns
    -------
    dict
        The parameters by derived column.

    Raises
    ------
    EnsembleKitError
        If a constraint names no base column, or a direction is none of -1, 0 and 1.
    """
    expanded = dict(params)
    if (monotone := expanded.pop("monotone_constraints", None)) is not None:
        expanded["monotone_constraints"] = np.repeat(_directions(monotone, names), n_blocks).tolist()
    if (groups := expanded.pop("interaction_constraints", None)) is not None:
        columns = np.arange(len(names) * n_blocks).reshape(len(names), n_blocks)
        expanded["interaction_constraints"] = [columns[group].ravel().tolist() for group in _groups(groups, names)]
    return expanded


def _directions(given: Any, names: Sequence[str]) -> IntArray:
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise EnsembleKitError(
                f"`monotone_constraints` must name columns of X; got {unknown} besides. "
                f"They are {_shown(names)}; those left out are not constrained."
            )
        given = [given.get(name, 0) for name in names]
    if isinstance(given, str) or np.shape(given) != (len(names),) or not set(given) <= {-1, 0, 1}:
        raise EnsembleKitError(
            f"`monotone_constraints` must be -1, 0 or 1 for each of the {len(names)} columns of X, or a dict of name "
            f"to one of these; got {given!r}. All lags of a column share its direction."
        )
    return np.asarray(given, dtype=np.int64)


def _groups(given: Any, names: Sequence[str]) -> list[list[int]]:
    at = {name: position for position, name in enumerate(names)} | {p: p for p in range(len(names))}
    if not (_is_list(given) and all(_is_list(group) and all(map(_is_column, group)) for group in given)):
        raise EnsembleKitError(
            f"`interaction_constraints` must be lists of columns of X, by name or position; got {given!r}. "
            'Write [["close", "volume"], ["high"]].'
        )
    unknown = [one for group in given for one in group if one not in at]
    if unknown:
        raise EnsembleKitError(
            f"`interaction_constraints` must name columns of X; got {unknown} besides. "
            f"They are {_shown(names)}, or 0 to {len(names) - 1}."
        )
    groups = [sorted({at[one] for one in group}) for group in given]
    # LightGBM would never split on a column that is in no group; alone, it breaks no constraint.
    return groups + [[f] for f in sorted(set(range(len(names))).difference(*groups))]


def _is_list(given: Any) -> bool:
    return isinstance(given, Iterable) and not isinstance(given, str)


def _is_column(one: Any) -> bool:
    return isinstance(one, str | Integral) and not isinstance(one, bool)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
