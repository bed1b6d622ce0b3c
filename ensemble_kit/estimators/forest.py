"""LightGBM's trees walked over lag columns: nothing is flattened, and no row is walked alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ensemble_kit.estimators.lags import LagColumns
from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["Forest"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Int32Array = NDArray[np.int32]
SingleArray = NDArray[np.float32]

# What LightGBM takes for 0: at most this in absolute value. A float32 number, as LightGBM's constant is.
_ZERO = np.float32(1e-35)
# Rows that a tree is walked over at once: their leaves and sums fit a core's first cache.
_ROWS_A_PASS = 1024
# Runs of fewer rows are followed row by row.
_SHORT_RUN = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class Forest:
    """LightGBM's trees as plain arrays, walked over lag columns.

    The trees of all horizons stand one after another, each horizon's in LightGBM's order.

    Attributes
    ----------
    n_columns : int
        Columns that the trees were grown on.
    n_scores : int
        Trees an iteration: S scores a row.
    first_tree : ndarray of int64, shape (H + 1,)
        Where each horizon's trees begin, and where the last one's end.
    first_split : ndarray of int64, shape (n_trees + 1,)
        Where each tree's splits begin. Its leaves begin at this plus the tree's number.
    column : ndarray of int32, shape (n_splits,)
        Column that each split looks at.
    threshold : ndarray of float32, shape (n_splits,)
        Largest value that goes left.
    missing : ndarray of float32, shape (n_splits,)
        Largest absolute value that is missing: 1e-35 where 0 is, -1 where NaN alone is.
    missing_right : ndarray of bool, shape (n_splits,)
        Whether missing values go right.
    leaf : ndarray of int32, shape (n_splits,)
        The split's leftmost leaf: a row is at a split when it carries this leaf.
    leaf_right : ndarray of int32, shape (n_splits,)
        Leftmost leaf of its right side, which a row that goes right carries from there on.
    value : ndarray of float64, shape (n_splits + n_trees,)
        What each leaf adds.

    Notes
    -----
    A split's values at consecutive rows lie side by side. So a tree is not walked row by
    row: its splits are applied one after another, parents first, to the leaves that a
    thousand rows carry, with one comparison for many rows an instruction and without
    branches. That is several times faster than following each row down.

    Decisions are LightGBM's to the bit: values are float32, so a threshold rounded down to
    float32 parts them as its float64 does; leaves are added in float64, in its order.

    Examples
    --------
    >>> import lightgbm as lgb
    >>> import numpy as np
    >>> from ensemble_kit.bars import row_keys
    >>> from ensemble_kit.estimators.forest import Forest
    >>> from ensemble_kit.estimators.lags import LagColumns, lag_blocks
    >>> X = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    >>> columns, rows = LagColumns(X, row_keys(X), 7, lag_blocks("all", 7)), np.arange(200)
    >>> data = lgb.Dataset(columns.table(rows), X[:, 0] > X[:, 1])
    >>> booster = lgb.train({"objective": "binary", "verbose": -1}, data, num_boost_round=5)
    >>> scores = Forest.of([booster.model_to_string()]).scores(columns, rows)
    >>> scores.shape
    (200, 1, 1)
    >>> (scores[:, 0, 0] == booster.predict(columns.table(rows), raw_score=True)).all()
    np.True_
    """

    n_columns: int
    n_scores: int
    first_tree: IntArray
    first_split: IntArray
    column: Int32Array
    threshold: SingleArray
    missing: SingleArray
    missing_right: NDArray[np.bool_]
    leaf: Int32Array
    leaf_right: Int32Array
    value: FloatArray

    @classmethod
    def of(cls, texts: Sequence[str]) -> Forest:
        """Read the trees of LightGBM models.

        Parameters
        ----------
        texts : sequence of str
            What ``Booster.model_to_string`` returned, one text a horizon.

        Returns
        -------
        Forest
            Their trees.

        Raises
        ------
        EnsembleKitError
            If a text is none of LightGBM's, models differ in columns or scores, or trees
            hold categorical splits or linear leaves.
        """
        read = [_read(text, h) for h, text in enumerate(texts)]
        shapes, arrays = zip(*read, strict=True)
        if len(set(shapes)) != 1:
            raise EnsembleKitError(
                f"`texts` must be models of as many columns and of as many scores a row; got {list(shapes)}. "
                "Fit all horizons on the same columns and classes."
            )
        joined = {name: np.concatenate([model[name] for model in arrays]) for name in arrays[0]}
        return cls(
            n_columns=shapes[0][0],
            n_scores=shapes[0][1],
            first_tree=_starts([len(model["n_leaves"]) for model in arrays]),
            first_split=_starts(joined.pop("n_leaves") - 1),
            **joined,
        )

    def scores(self, columns: LagColumns, rows: IntArray) -> FloatArray:
        """Return the raw scores of some rows.

        Parameters
        ----------
        columns : LagColumns
            The columns that the trees were grown on, of these or other rows.
        rows : ndarray of int64, shape (m,)
            Positions in the X of `columns`, in any order. Each row's scores are those it gets alone.

        Returns
        -------
        ndarray of float64, shape (m, H, S)
            What ``Booster.predict(..., raw_score=True)`` returns for each horizon.

        Raises
        ------
        EnsembleKitError
            If the columns are not as many as the trees were grown on.
        """
        offsets = columns.offsets
        if len(offsets) != self.n_columns:
            raise EnsembleKitError(
                f"`columns` must be the {self.n_columns} columns that the trees were grown on; got {len(offsets)}. "
                "Build them with the columns, the `seq_len` and the lags of the fit."
            )
        order = np.argsort(columns.position[rows], kind="stable")
        at = columns.position[rows][order]
        # Runs of consecutive rows, and where the last one ends.
        edges = np.append(np.flatnonzero(np.diff(at, prepend=-2) != 1), len(at))
        scores = np.empty((len(at), len(self.first_tree) - 1, self.n_scores))
        splits = self.column, self.threshold, self.missing, self.missing_right, self.leaf, self.leaf_right
        series = columns.series.reshape(-1)
        _add_leaves(series, offsets, at, edges, order, self.first_tree, self.first_split, splits, self.value, scores)
        return scores


# ---------------------------------------------------------------------- reading


def _starts(counts: Any) -> IntArray:
    return np.append(0, np.cumsum(counts)).astype(np.int64)


def _read(text: str, horizon: int) -> tuple[tuple[int, int], dict[str, NDArray[Any]]]:
    """Return columns and scores a row of one model, and its arrays as `Forest` names them."""
    head, *trees = text.partition("\nend of trees")[0].split("\nTree=")
    of_model = dict(line.partition("=")[::2] for line in head.split("\n"))
    lists: dict[str, list[str]] = {}
    for tree in trees:
        for line in tree.split("\n"):
            name, _, numbers = line.partition("=")
            lists.setdefault(name, []).append(numbers)

    def array(name: str, dtype: type) -> NDArray[Any]:
        return np.array(" ".join(lists.get(name, [])).split(), dtype=dtype)

    n_leaves, flags = array("num_leaves", np.int64), array("decision_type", np.int64)
    if (flags & 1).any() or array("is_linear", np.int64).any():
        kind = "categorical splits" if (flags & 1).any() else "linear leaves"
        raise EnsembleKitError(
            f"`texts` must be models of numerical splits and constant leaves; got {kind} at position {horizon}. "
            "Fit without `categorical_feature` and `linear_tree`."
        )
    column, left, right = (array(name, np.int64) for name in ("split_feature", "left_child", "right_child"))
    threshold, value = array("threshold", np.float64), array("leaf_value", np.float64)
    # Children below 0 are leaves; the others count from their tree's first split.
    first = np.repeat(_starts(n_leaves - 1)[:-1], n_leaves - 1)
    sizes = {len(each) for each in (first, column, threshold, flags, left, right, value[len(trees) :])}
    whole = len(of_model.get("tree_sizes", "").split()) == len(trees) == len(n_leaves) > 0 and len(sizes) == 1
    if not whole or not _hangs_together(column, left, right, n_leaves, int(of_model["max_feature_idx"]) + 1):
        raise EnsembleKitError(
            f"`texts` must be whole models as LightGBM's `model_to_string` returns them; got {text[:40]!r}... of "
            f"{len(trees)} trees at position {horizon}. Take the text from the booster again."
        )
    left, right = (np.where(child < 0, child, child + first) for child in (left, right))
    leftmost = left
    while (leftmost >= 0).any():
        leftmost = np.where(leftmost < 0, leftmost, leftmost[np.maximum(leftmost, 0)])
    n_scores = int(of_model["num_tree_per_iteration"])
    arrays = {
        "n_leaves": n_leaves,
        "column": column.astype(np.int32),
        **_decisions(threshold, flags),
        "leaf": ~leftmost.astype(np.int32),
        "leaf_right": ~np.where(right < 0, right, leftmost[np.maximum(right, 0)]).astype(np.int32),
        "value": value,
    }
    return (int(of_model["max_feature_idx"]) + 1, n_scores), arrays


def _hangs_together(column: IntArray, left: IntArray, right: IntArray, n_leaves: IntArray, n_columns: int) -> bool:
    """Return whether splits have columns that there are, and children that come after them: no walk may stray."""
    n_splits = np.repeat(n_leaves - 1, n_leaves - 1)
    own = np.arange(len(column)) - np.repeat(_starts(n_leaves - 1)[:-1], n_leaves - 1)
    children = [np.where(child < 0, ~child <= n_splits, (child > own) & (child < n_splits)) for child in (left, right)]
    return bool(np.all(children) and (column >= 0).all() and (column < n_columns).all())


def _decisions(threshold: FloatArray, flags: IntArray) -> dict[str, NDArray[Any]]:
    """Return LightGBM's thresholds and decision types as `Forest` keeps them."""
    left_if_missing = (flags & 2) > 0
    none, zero = ((flags >> 2) & 3 == kind for kind in (0, 1))  # 2: NaN alone is missing
    with np.errstate(over="ignore"):
        largest = threshold.astype(np.float32)
    largest = np.where(largest > threshold, np.nextafter(largest, np.float32(-np.inf)), largest)
    # LightGBM reads what is as small as `_ZERO` as 0: no threshold may part such values.
    largest[(threshold >= 0) & (threshold < _ZERO)] = _ZERO
    largest[(threshold < 0) & (threshold >= -_ZERO)] = np.nextafter(-_ZERO, np.float32(-np.inf))
    return {
        "threshold": largest,
        "missing": np.where(zero, _ZERO, np.float32(-1)),
        "missing_right": np.where(none, threshold < 0, ~left_if_missing),  # where nothing is missing, NaN is 0
    }


# ---------------------------------------------------------------------- walking


@numba.njit(cache=True, nogil=True)
def _add_leaves(
    series: SingleArray,
    offsets: IntArray,
    at: IntArray,
    edges: IntArray,
    order: IntArray,
    first_tree: IntArray,
    first_split: IntArray,
    splits: tuple[Int32Array, SingleArray, SingleArray, NDArray[np.bool_], Int32Array, Int32Array],
    value: FloatArray,
    out: FloatArray,
) -> None:
    """Add up the leaves of each run of consecutive rows, some rows at a time."""
    column, threshold, missing, missing_right, leaf, leaf_right = splits
    leaves, total = np.empty(_ROWS_A_PASS, np.int32), np.empty(_ROWS_A_PASS)
    for run in range(len(edges) - 1):
        for begin in range(edges[run], edges[run + 1], _ROWS_A_PASS):
            m = min(_ROWS_A_PASS, edges[run + 1] - begin)
            for h in range(out.shape[1]):
                for s in range(out.shape[2]):
                    total[:m] = 0.0
                    for tree in range(first_tree[h] + s, first_tree[h + 1], out.shape[2]):
                        first, end = first_split[tree], first_split[tree + 1]
                        leaves[:m] = 0
                        for j in range(first, end):
                            start = offsets[column[j]] + at[begin]
                            rule = threshold[j], missing[j], missing_right[j]
                            if m >= _SHORT_RUN:
                                _send_right(series[start : start + m], rule, leaf[j], leaf_right[j], leaves[:m])
                                continue
                            for r in range(m):
                                if leaves[r] == leaf[j] and _goes_right(series[start + r], *rule):
                                    leaves[r] = leaf_right[j]
                        _add_values(value[first + tree :], leaves[:m], total[:m])
                    for r in range(m):
                        out[order[begin + r], h, s] = total[r]


@numba.njit(cache=True, nogil=True)
def _goes_right(x: np.float32, threshold: np.float32, missing: np.float32, missing_right: bool) -> bool | np.bool_:
    # NaN is not above anything: it is missing.
    return x > threshold if abs(x) > missing else missing_right


@numba.njit(cache=True, nogil=True)
def _send_right(
    x: SingleArray, rule: tuple[np.float32, np.float32, bool], leaf: int, leaf_right: int, leaves: Int32Array
) -> None:
    """Give the right side's leaf to the rows that are at the split and go right."""
    # Without branches: a few vector instructions.
    for r in range(len(x)):
        moves = (leaves[r] == leaf) & _goes_right(x[r], *rule)
        leaves[r] = leaf_right if moves else leaves[r]


@numba.njit(cache=True, nogil=True)
def _add_values(value: FloatArray, leaves: Int32Array, total: FloatArray) -> None:
    for r in range(len(total)):
        total[r] += value[leaves[r]]
