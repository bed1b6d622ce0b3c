"""From a couple of hundred columns to those that tell something, and not the same thing twice."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.features._relevance import anova_f, centred_ranks, mutual_information, spearman, target_correlation
from ensemble_kit.targets import Targets, check_row_weights

__all__ = ["RelevanceRedundancySelector"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SCORES = ("mutual_info", "f", "correlation")


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


_DOMAINS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "k": ("an integer of at least 1", _whole),
    "threshold": ("a number in [0, 1]", lambda v: _number(v) and 0 <= v <= 1),
    "redundancy": ("a number in (0, 1]", lambda v: _number(v) and 0 < v <= 1),
    "max_rows": ("an integer of at least 1", _whole),
    "block": ("an integer of at least 1", _whole),
    "n_threads": ("an integer of at least 1", _whole),
}


class RelevanceRedundancySelector(SelectorMixin, BaseEstimator):
    """Keep the columns that tell most of the classes, and none that repeats a better one.

    Each column gets several scores of relevance. Each score is divided by its largest over
    the columns, so that it lies in [0, 1] and 0 stays "tells nothing", and their mean is the
    column's relevance. Then, from the most relevant column down: those below `threshold` go,
    those whose absolute Spearman correlation with a kept one exceeds `redundancy` go, and so
    do all beyond the first `k`. Of equally relevant columns the first comes first.

    Parameters
    ----------
    k : int, default=80
        Keep at most so many columns.
    scores : sequence of str, default=("mutual_info", "f", "correlation")
        Which scores count, see Notes. May be empty where a `gain_estimator` is given.
    threshold : float, default=0.0
        The relevance, in [0, 1], below which a column goes.
    redundancy : float, default=0.95
        The absolute Spearman correlation, in (0, 1], above which the less relevant column
        goes. At 1 nothing goes.
    gain_estimator : estimator, default=None
        If given, its `feature_importances_` are one more score, ``gain``: for instance
        ``LGBMClassifier(importance_type="gain")``. It is cloned and fitted once a horizon on
        the rows that are scored, NaN and all, with class numbers for labels.
    max_rows : int, default=50000
        Score on no more rows than this. Of more, evenly spread blocks of consecutive rows are
        drawn, one at random from each of as many equal stretches of time.
    block : int, default=500
        Rows of such a block.
    n_threads : int, default=1
        Threads that share the columns. Any number gives the same bits.
    random_state : int, RandomState or None, default=None
        Draws the blocks; read only where there are more than `max_rows` rows.

    Attributes
    ----------
    scores_ : ndarray of float64, shape (n_scores, H, n_features)
        Scores as they were measured, by horizon: mutual information in nats, F, absolute
        correlation, and importance where there is a `gain_estimator`. Those below 0 are 0.
    relevance_ : ndarray of float64, shape (n_features,)
        Mean over scores and horizons, each divided by its largest over the columns.
    ranking_ : ndarray of int64, shape (n_features,)
        The columns from the most relevant to the least.
    support_ : ndarray of bool, shape (n_features,)
        Which columns are kept.
    reasons_ : ndarray of str, shape (n_features,)
        Why: ``kept``, ``below threshold``, ``redundant with MA5 (rho 0.98)``, ``beyond k``,
        ``constant`` or ``all NaN``.
    n_rows_ : int
        Rows that were scored.
    n_features_in_ : int
        Columns seen by `fit`.
    feature_names_in_ : ndarray of str
        Their names, where all are strings.

    See Also
    --------
    sklearn.feature_selection.SelectKBest : One score, and no eye for redundancy.
    sklearn.feature_selection.mutual_info_classif : Mutual information by nearest neighbours.

    Notes
    -----
    It learns from y: put it inside the folds, as a step of each member, and never before them.
    `fit` sees the rows it is given whose weight is above 0, all alike, and `transform` no row
    but the one it passes on.

    All three scores, like Spearman's correlation, read a column's ranks alone. Any increasing
    function of a column scores the same, so that a volume ratio of 1e12 does no harm. On
    Alpha158 and Peak / Slope / Bottom labels of SPY, BTC and EURUSD, F of ranks orders the
    columns alike in both halves of the bars (rho 0.97); F of the values does not (0.67 to 0.76).

    - ``mutual_info``: with the column cut into 16 bins of equal count, NaN being one more;
      the bias of counting is taken off.
    - ``f``: one-way analysis of variance of the ranks.
    - ``correlation``: of the ranks with one class against the rest; the largest over classes.

    In ``f``, ``correlation`` and redundancy an unknown value stands in the middle of its
    column. On known rows alone, a column known on 30 of 26,000 rows would win by chance.

    Several horizons count alike: relevance is their mean, and a horizon that has one class
    adds nothing. Scores compare columns; they are no test. Neighbouring rows of slow columns
    repeat each other, which flatters those, and the best of mere noise has relevance near 1:
    look at `scores_` for how much there is.

    Degenerate columns: constants (where known) and columns of NaN are never kept.
    `fit` refuses infinite values; `transform` reads none. The order of the columns decides
    nothing but which of two duplicates stays.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.features.selector import RelevanceRedundancySelector
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 500)
    >>> signal, noise = y + rng.normal(size=500), rng.normal(size=500)
    >>> X = np.column_stack([noise, signal, np.exp(signal), np.ones(500)])
    >>> selector = RelevanceRedundancySelector(threshold=0.1).fit(X, y)
    >>> selector.get_feature_names_out().tolist()
    ['x1']
    >>> print(selector.report_[["column", "score", "reason"]].round(2).to_string(index=False))
    column  score                       reason
        x1   1.00                         kept
        x2   1.00 redundant with x1 (rho 1.00)
        x0   0.01              below threshold
        x3   0.00                     constant
    """

    def __init__(
        self,
        k: int = 80,
        *,
        scores: tuple[str, ...] = _SCORES,
        threshold: float = 0.0,
        redundancy: float = 0.95,
        gain_estimator: Any = None,
        max_rows: int = 50_000,
        block: int = 500,
        n_threads: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.k = k
        self.scores = scores
        self.threshold = threshold
        self.redundancy = redundancy
        self.gain_estimator = gain_estimator
        self.max_rows = max_rows
        self.block = block
        self.n_threads = n_threads
        self.random_state = random_state

    @property
    def lookback(self) -> int:
        """Earlier rows that a row depends on: none."""
        return 0

    @property
    def report_(self) -> pd.DataFrame:
        """Why each column stayed or went, the most relevant first.

        One row a column: its name, each score as measured (mean over horizons), ``score`` (the
        relevance that decides), ``kept`` and ``reason``.
        """
        check_is_fitted(self)
        table = dict(zip(self._score_names(), self.scores_.mean(axis=1), strict=True))
        frame = pd.DataFrame(
            {"column": self._names(), **table, "score": self.relevance_, "kept": self.support_, "reason": self.reasons_}
        )
        return frame.iloc[self.ranking_].reset_index(drop=True)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Score the columns and choose.

        Parameters
        ----------
        X : DataFrame or array of shape (n, n_features)
            Columns in time order; NaN is unknown.
        y : array-like of shape (n,) or (n, H)
            Class labels, one column a horizon.
        sample_weight : array-like of shape (n,), default=None
            Rows of weight 0 are left out; all others count alike.

        Returns
        -------
        RelevanceRedundancySelector
            The selector itself.

        Raises
        ------
        EnsembleKitError
            If a parameter is outside its domain, no horizon has two classes, or no column
            can be kept.
        ValueError
            If X is no matrix of finite numbers and NaN.
        """
        self._check_parameters()
        X = validate_data(self, X, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan")
        targets = Targets.encode(y)
        check_consistent_length(X, targets.codes)
        rows = np.flatnonzero(check_row_weights(sample_weight, len(X)))
        rows = rows[_time_blocks(len(rows), self.max_rows, self.block, self.random_state)]
        columns, codes = np.ascontiguousarray(X[rows].T), targets.codes[rows]
        if not (codes != codes[0]).any():
            raise EnsembleKitError(
                f"`y` must have two classes or more among the {len(rows)} rows to score; got one class, "
                f"{targets.classes[codes[0]].tolist()}. Give more rows."
            )
        self.n_rows_ = len(rows)
        with threadpool_limits(self.n_threads, user_api="blas"):
            ranks = centred_ranks(columns, n_threads=self.n_threads)
            self.scores_ = np.maximum(self._score(columns, ranks, codes), 0.0)
            self._weigh(np.any(ranks, axis=1), np.any(codes != codes[0], axis=0))
            self._select(columns, ranks)
        return self

    def _score(self, columns: Any, ranks: FloatArray, codes: IntArray) -> FloatArray:
        """Return each score of each horizon and column, shape (n_scores, H, p)."""
        known = ~np.isnan(columns)
        table: dict[str, Callable[[], FloatArray]] = {
            "mutual_info": lambda: mutual_information(ranks, known, codes, n_threads=self.n_threads),
            "f": lambda: anova_f(ranks, codes),
            "correlation": lambda: target_correlation(ranks, codes),
            "gain": lambda: _importances(self.gain_estimator, columns.T, codes),
        }
        return np.stack([table[name]() for name in self._score_names()])

    def _weigh(self, varies: NDArray[np.bool_], live: NDArray[np.bool_]) -> None:
        """Bring the scores of live horizons to one scale: `relevance_` and `ranking_`."""
        scores = np.where(varies, self.scores_[:, live], 0.0)
        top = scores.max(axis=2, keepdims=True)
        self.relevance_ = np.divide(scores, top, out=np.zeros_like(scores), where=top > 0).mean(axis=(0, 1))
        self.ranking_ = np.argsort(-self.relevance_, kind="stable")

    def _select(self, columns: Any, ranks: FloatArray) -> None:
        """Choose from the most relevant column down: `support_` and `reasons_`."""
        varies, names = np.any(ranks, axis=1), self._names()
        reasons = np.where(varies, "below threshold", "constant").astype(object)
        reasons[np.isnan(columns).all(axis=1)] = "all NaN"
        candidates = self.ranking_[(varies & (self.relevance_ >= self.threshold))[self.ranking_]]
        if len(candidates) == 0:
            raise EnsembleKitError(
                f"`threshold` must leave a column; got {self.threshold:g}, where of {len(varies)} columns "
                f"{int(varies.sum())} vary and the highest relevance is {self.relevance_.max():.3g}. "
                "Lower it, or give columns that vary."
            )
        rho = spearman(ranks[candidates])
        kept: list[int] = []
        for i, column in enumerate(candidates):
            twin = max(kept, key=lambda j: abs(rho[i, j]), default=i)
            if len(kept) == self.k:
                reasons[column] = "beyond k"
            elif twin != i and abs(rho[i, twin]) > self.redundancy:
                reasons[column] = f"redundant with {names[candidates[twin]]} (rho {rho[i, twin]:.2f})"
            else:
                reasons[column] = "kept"
                kept.append(i)
        self.support_ = np.zeros(len(ranks), dtype=bool)
        self.support_[candidates[kept]] = True
        self.reasons_ = reasons.astype(str)

    def _score_names(self) -> list[str]:
        return [*self.scores, *(["gain"] if self.gain_estimator is not None else [])]

    def _names(self) -> NDArray[Any]:
        default = np.array([f"x{j}" for j in range(self.n_features_in_)], dtype=object)
        return getattr(self, "feature_names_in_", default)

    def _get_support_mask(self) -> NDArray[np.bool_]:
        check_is_fitted(self)
        return self.support_

    def _check_parameters(self) -> None:
        wrong = [
            f"`{name}` must be {domain}; got {getattr(self, name)!r}."
            for name, (domain, holds) in _DOMAINS.items()
            if not holds(getattr(self, name))
        ]
        named = isinstance(self.scores, list | tuple) and set(self.scores) <= set(_SCORES)
        if not named or len(set(self.scores)) < len(self.scores) or not self._score_names():
            wrong.append(
                f"`scores` must be some of {list(_SCORES)}, each once (none where a `gain_estimator` is given); "
                f"got {self.scores!r}."
            )
        if wrong:
            raise EnsembleKitError(" ".join([*wrong, "Mend with `set_params`."]))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _time_blocks(n: int, max_rows: int, block: int, random_state: int | np.random.RandomState | None) -> IntArray:
    """Return all of n rows, or blocks of consecutive ones, one from each of equal stretches."""
    if n <= max_rows:
        return np.arange(n)
    size = min(block, max_rows)
    edges = np.linspace(0, n, max_rows // size + 1).astype(np.int64)
    starts = edges[:-1] + check_random_state(random_state).randint(0, np.diff(edges) - size + 1)
    return (starts[:, None] + np.arange(size)).ravel()


def _importances(estimator: Any, X: Any, codes: IntArray) -> FloatArray:
    """Return the importances of each horizon and column, 0 where a horizon has one class."""
    out = np.zeros((codes.shape[1], X.shape[1]))
    for h, classes in enumerate(codes.T):
        if (classes != classes[0]).any():
            values: Any = getattr(clone(estimator).fit(X, classes), "feature_importances_", None)
            if np.shape(values) != (X.shape[1],):
                raise EnsembleKitError(
                    "`gain_estimator` must have `feature_importances_` once fitted, one a column; got "
                    f"{estimator!r}. Take trees, such as LGBMClassifier(importance_type='gain')."
                )
            out[h] = values
    return out
