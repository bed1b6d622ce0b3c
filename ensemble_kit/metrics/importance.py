"""What a column adds to an out-of-fold score: permute it, and see how much of the score goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student_t
from sklearn.metrics import get_scorer
from sklearn.utils import check_random_state

from ensemble_kit.bars import PRICES
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.validation import FoldData, checked_folds, lookback, rows_with_history, take_rows

__all__ = ["permutation_importance"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Of the interval.
_LEVEL = 0.95
#: Fewer blocks than these have too few orders to tell luck from skill.
_MIN_BLOCKS = 5


def permutation_importance(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    cv: Any,
    scoring: Any,
    groups: Mapping[str, Any] | None = None,
    n_repeats: int = 5,
    block: int | None = None,
    sample_weight: Any = None,
    random_state: Any = None,
) -> pd.DataFrame:
    """Measure how much of the out-of-fold score goes when a column is permuted in time.

    The model of each fold is fitted once, on the rows before its test block. A column is
    then permuted over the test block and the history in front of it, in blocks within each
    instrument, and the test rows are predicted and scored again.

    Parameters
    ----------
    estimator : classifier, regressor or Pipeline
        Cloned for each fold.
    X : DataFrame or array of shape (n, n_features)
        Columns in time order: what the model learns from, not bars.
    y : array-like of shape (n,) or (n, H)
        Targets, one column a horizon.
    cv : splitter or iterable of (train, test)
        Usually `WalkForwardSplit`.
    scoring : str or callable
        A scorer ``(estimator, X, y) -> float``, greater is better, such as `AUCPRScorer`, or
        a name that scikit-learn knows. It may ask the model for predictions only.
    groups : mapping of str to columns, default=None
        Columns (names, or positions for an array) to permute together, and nothing else;
        None for every column on its own.
    n_repeats : int, default=5
        Permutations a fold, at least 2.
    block : int, default=None
        Rows that stay together, so that a permuted column keeps its autocorrelation. None
        for twice the cube root of an instrument's rows and no less than the model's window,
        within a fifth of the rows.
    sample_weight : array-like of shape (n,), default=None
        0 for rows that are history only, and not scored. Others reach fit and scorer.
    random_state : int, RandomState or None, default=None
        Seed of the permutations, which all columns share.

    Returns
    -------
    DataFrame of shape (n_features or n_groups, 5 + n_folds)
        Indexed by feature, the largest drop first. Columns `mean` and `std` of the drop over
        folds and repeats, `low` and `high` (see Notes), `score` (the mean over folds with
        nothing permuted: what there is to lose), and the mean drop of each fold, `fold_0`, ...

    Raises
    ------
    LeakageError
        If a fold's training rows do not all precede its test rows.
    EnsembleKitError
        If X are bars (a permuted price is no bar), if columns, scorer, folds, blocks or
        weights cannot be used as they are.

    See Also
    --------
    ensemble_kit.validation.walk_forward_predict : The predictions that are scored here.

    Notes
    -----
    **The null.** If a column has nothing to do with target and other columns, its own order
    is one among its permutations, and the fold's score one draw among the permuted ones. So
    its mean drop lies about 0 with the variance of the permuted scores, times
    1 + 1 / n_repeats in each fold; `low` and `high` are the mean drop plus and minus
    Student's t (95 %) of that. They contain 0 for about 95 of 100 such columns (91 to 95 in
    trials, fewest for autocorrelated ones): of a hundred, expect two to four with `low`
    above 0 by luck alone. The spread of the drops themselves would not do: they all share
    one score of the fold. What the interval does not know is another period; the folds' own
    columns show that.

    **Correlated columns share importance**: the model reads from one what is hidden in the
    other, and each alone seems to matter little. Permute them together with `groups`.

    A column that the model leans on for noise has a drop below 0. A model without skill
    (compare `score` with its null) has nothing to tell about its columns. Costs folds x
    (1 + columns x n_repeats) predictions.

    References
    ----------
    L. Breiman, Random Forests, 2001.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from sklearn.linear_model import LogisticRegression
    >>> from ensemble_kit.metrics import permutation_importance
    >>> from ensemble_kit.validation import WalkForwardSplit
    >>> X = pd.DataFrame(np.random.default_rng(0).normal(size=(400, 2)), columns=["noise", "signal"])
    >>> cv = WalkForwardSplit(3, purge=0)
    >>> found = permutation_importance(
    ...     LogisticRegression(), X, X["signal"] > 0, cv=cv, scoring="accuracy", random_state=0
    ... )
    >>> found[["mean", "low", "high", "score"]].round(2)
             mean   low  high  score
    feature
    signal   0.49  0.41  0.57    1.0
    noise    0.00 -0.01  0.01    1.0
    """
    scorer = _scorer(scoring)
    if not isinstance(n_repeats, Integral) or n_repeats < 2:
        raise EnsembleKitError(f"`n_repeats` must be an integer of at least 2; got {n_repeats!r}. Take 5, say.")
    if block is not None and (not isinstance(block, Integral) or block < 1):
        raise EnsembleKitError(f"`block` must be an integer of at least 1, or None; got {block!r}. Count it in rows.")
    data = FoldData.of(estimator, X, y, sample_weight)
    features = _features(data.X, groups)
    rng = check_random_state(random_state)
    folds = checked_folds(cv, data.X, y, data.keys)
    scores = []
    for fold, (fitted, _) in enumerate(data.fits(estimator, folds)):
        one = _Fold.of(data, y, fitted, folds[fold][1], scorer)
        orders = one.orders(n_repeats, block, rng)
        permuted = [[one.score(one.permuted(columns, order)) for order in orders] for columns in features.values()]
        scores.append(np.column_stack([np.full(len(features), one.score(one.X)), permuted]))
    return _table(list(features), np.stack(scores))


@dataclass(frozen=True)
class _Fold:
    """A fitted model, the rows it is asked about, and the history in front of them."""

    fitted: Any
    X: Any  # of test rows and history
    instrument: IntArray
    at: IntArray  # the places of the scored rows in X
    y: Any
    weights: dict[str, FloatArray]
    scorer: Callable[..., float]

    @classmethod
    def of(cls, data: FoldData, y: Any, fitted: Any, test: IntArray, scorer: Callable[..., float]) -> _Fold:
        rows = test[data.weights[test] > 0]
        if len(rows) == 0:
            raise EnsembleKitError(
                "`sample_weight` must be above 0 on some test rows of every fold; one fold has none. Give larger folds."
            )
        span = rows_with_history(data.keys, rows, lookback(fitted))
        given = data.weights[rows]
        weights = {"sample_weight": given} if (given != given[0]).any() else {}
        truth = take_rows(y if isinstance(y, pd.DataFrame | pd.Series) else np.asarray(y), rows)
        at = np.searchsorted(span, rows)
        return cls(fitted, take_rows(data.X, span), data.keys.instrument[span], at, truth, weights, scorer)

    def orders(self, n_repeats: int, block: int | None, rng: np.random.RandomState) -> list[IntArray]:
        """Return permutations of the rows, each a new order of every instrument's blocks."""
        longest = int(np.bincount(self.instrument).max())
        if block is not None and block > longest // 2:
            raise EnsembleKitError(
                f"`block` must leave two blocks of the {longest} rows that an instrument has in a fold; got {block}. "
                f"Take {longest // 2} or less, or leave it None."
            )
        if block is None:
            window = (lookback(self.fitted) or 0) + 1
            block = max(1, min(max(window, round(2 * longest ** (1 / 3))), longest // _MIN_BLOCKS))
        return [_block_order(self.instrument, int(block), rng) for _ in range(n_repeats)]

    def permuted(self, columns: IntArray, order: IntArray) -> Any:
        if isinstance(self.X, pd.DataFrame):
            X = self.X.copy(deep=False)
            for j in columns.tolist():
                X.isetitem(j, self.X.iloc[order, j].array)
        else:
            X = self.X.copy()
            X[:, columns] = self.X[np.ix_(order, columns)]
        return X

    def score(self, X: Any) -> float:
        """Score the test rows, predicted with these columns."""
        return float(self.scorer(_Answers(self.fitted, X, self.at), take_rows(self.X, self.at), self.y, **self.weights))


class _Answers:
    """What a scorer takes for the model: it knows the answers to the test rows, history and all."""

    def __init__(self, fitted: Any, X: Any, at: IntArray) -> None:
        self._fitted, self._X, self._at = fitted, X, at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._fitted, name)
        if name.endswith("_"):  # classes_, and what scikit-learn asks for tags
            return found
        if not name.startswith("predict") and name != "decision_function":
            raise AttributeError(f"a scorer of `permutation_importance` may ask for predictions only, not `{name}`")

        @wraps(found)
        def answer(X: Any) -> Any:
            if len(X) != len(self._at):
                raise EnsembleKitError(
                    f"`scoring` must ask for all {len(self._at)} test rows at once; it asked for {len(X)}."
                )
            whole = found(self._X)
            several = isinstance(whole, list)
            parts = [np.asarray(part)[self._at] for part in (whole if several else [whole])]
            return parts if several else parts[0]

        return answer


def _block_order(instrument: IntArray, block: int, rng: np.random.RandomState) -> IntArray:
    """Return which row takes each row's place: of its instrument, in blocks cut from a random start."""
    source = np.arange(len(instrument))
    for number in np.unique(instrument):
        mine = np.flatnonzero(instrument == number)
        pieces = np.split(mine, np.arange(rng.randint(1, block + 1), len(mine), block))
        source[mine] = np.concatenate([pieces[k] for k in rng.permutation(len(pieces))])
    return source


def _table(names: list[str], scores: FloatArray) -> pd.DataFrame:
    """Turn scores (fold, feature, 1 + n_repeats), the unpermuted first, into drops and their interval."""
    n_folds, n_repeats = len(scores), scores.shape[2] - 1
    drops = scores[:, :, :1] - scores[:, :, 1:]
    mean = drops.mean(axis=(0, 2))
    variance = drops.var(axis=2, ddof=1).sum(axis=0) / n_folds**2
    half = student_t.ppf((1 + _LEVEL) / 2, n_folds * (n_repeats - 1)) * np.sqrt(variance * (1 + 1 / n_repeats))
    table = pd.DataFrame(
        {
            "mean": mean,
            "std": drops.std(axis=(0, 2), ddof=1),
            "low": mean - half,
            "high": mean + half,
            "score": scores[:, :, 0].mean(axis=0),
        },
        index=pd.Index(names, name="feature"),
    )
    by_fold = {f"fold_{fold}": drop for fold, drop in enumerate(drops.mean(axis=2))}
    return table.assign(**by_fold).sort_values("mean", ascending=False, kind="stable")


def _scorer(scoring: Any) -> Callable[..., float]:
    scorer = get_scorer(scoring) if isinstance(scoring, str) else scoring
    if not callable(scorer):
        raise EnsembleKitError(
            f"`scoring` must be one scorer, or a name that scikit-learn knows; got {scoring!r}. "
            "Pass `AUCPRScorer(events=...)`, say."
        )
    return scorer


def _features(X: Any, groups: Mapping[str, Any] | None) -> dict[str, IntArray]:
    """Return the positions of the columns to permute together, by name."""
    names = list(X.columns) if isinstance(X, pd.DataFrame) else list(range(X.shape[1]))
    counts = pd.Index(names).map(str).value_counts()
    if twice := counts.index[counts > 1].tolist():
        raise EnsembleKitError(f"`X` must have each column once; got {', '.join(twice)} more often. Rename one.")
    if groups is None:
        features = {str(name): np.array([j]) for j, name in enumerate(names)}
    else:
        features = {str(group): _positions(names, str(group), columns) for group, columns in groups.items()}
    if not features:
        raise EnsembleKitError("`groups` must name at least one group of columns; got none. Leave it None for all.")
    moved = {names[j] for columns in features.values() for j in columns}
    if set(PRICES) <= set(names) and moved & set(PRICES):
        raise EnsembleKitError(
            "`X` must hold the columns a model learns from; got bars, and a permuted price is no bar. Permute what is "
            "made of them: `features.fit_transform(bars)` as X, and the rest of the Pipeline as `estimator`."
        )
    return features


def _positions(names: Sequence[Any], group: str, columns: Any) -> IntArray:
    wanted = [columns] if isinstance(columns, str) or np.isscalar(columns) else list(columns)
    unknown = [column for column in wanted if column not in names]
    if unknown or not wanted:
        raise EnsembleKitError(
            f"`groups` must name columns of X; {group!r} has {unknown or 'none'}. "
            f"Choose from {', '.join(map(str, names))}."
        )
    return np.array([names.index(column) for column in wanted])
