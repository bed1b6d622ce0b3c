"""LightGBM on windows: gradient-boosted trees over lags and block means of every column."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ensemble_kit.bars import RowKeys, row_keys
from ensemble_kit.estimators._boosting import bin_rows, boost, class_scores
from ensemble_kit.estimators._lag_explanations import LagExplanations
from ensemble_kit.estimators._lightgbm_params import LIGHTGBM_PARAMS, expand_constraints, with_defaults
from ensemble_kit.estimators._parameters import (
    CLASS_WEIGHT,
    FRACTION,
    ONE_OF,
    POSITIVE,
    WHOLE,
    WHOLE_OR_0,
    Domain,
    check_parameters,
)
from ensemble_kit.estimators._rows import class_weights, newest_block
from ensemble_kit.estimators.costs import cost_table
from ensemble_kit.estimators.forest import Forest
from ensemble_kit.estimators.lags import LagColumns, lag_blocks
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import Targets, check_row_weights, unstack_horizons
from ensemble_kit.validation import check_panel_index

__all__ = ["LGBMWindowClassifier"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Made from `model_text_` when they are needed, LightGBM's with a pointer that no pickle carries; and what one run told.
_NOT_KEPT = ("_forest", "_boosters", "_skl_callbacks")


class LGBMWindowClassifier(LagExplanations, CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """LightGBM that sees, at each row, the last `seq_len` rows of every column.

    Row t of an answer depends on rows t - seq_len + 1 to t of its instrument only. The
    windows are never flattened: LightGBM reads slices of the columns as they are.

    Parameters
    ----------
    seq_len : int, default=48
        Rows a window, the row itself included. Rows with less history have missing lags.
    lags : {"blocks", "all", "last"} or sequence of int, default="blocks"
        Which lags become columns. ``"blocks"`` averages older lags over longer blocks (five
        blocks of 1 row, five of 2, five of 4, ...: 17 columns for 48 rows, 27 for 205), of
        values that are known;
        ``"all"`` takes every lag, ``"last"`` the newest row alone, a sequence single lags.
    n_estimators : int, default=200
        Boosting rounds; the most, with `validation_fraction`.
    num_leaves : int, default=15
        Leaves a tree.
    learning_rate : float, default=0.05
        What of each tree's answer is added.
    min_child_samples : int, default=20
        Fewest rows a leaf.
    class_weight : dict, "balanced" or None, default=None
        Weight of each label, times `sample_weight`. ``"balanced"`` is by horizon.
    loss : {"cross_entropy", "expected_cost"}, default="cross_entropy"
        The expected cost of a decision drawn from the probabilities trains decisions:
        probabilities need calibration.
    cost_matrix : dict, DataFrame or array-like of shape (K, K), default=None
        For the expected cost: what it costs to say the row's class where the column's comes
        true; by label (a dict of dicts, or a frame), or in sorted order of the labels. Only
        proportions matter. None is `costs.PEAK_SLOPE_BOTTOM`.
    validation_fraction : float, default=0.0
        What part of the weighted rows' distinct times, the newest, is held out to stop
        early; nothing where that is fewer than 10 times.
    validation_purge : int, default=0
        Distinct times (bars) left out between the rows to fit and those to stop: as many as
        a label looks ahead.
    patience : int, default=20
        Rounds without a better held-out loss before stopping.
    n_threads : int, default=1
        Threads of LightGBM. Another number may give other bits.
    random_state : int, RandomState or None, default=None
        Seed of the rows that bins are made from, and of bagging where `params` asks for it.
    verbose : bool, default=False
        Whether LightGBM writes its messages.
    params : dict or None, default=None
        Further parameters of LightGBM (``{"lambda_l2": 10, "feature_fraction": 0.2}``).
        Constraints are by column of X and hold for all its lags: `monotone_constraints`, F
        times -1, 0 or 1 or a dict of name to these, of the score of each class (of the second
        of two); `interaction_constraints`, lists of names or positions. A column in none of
        these lists meets only its own lags.

    Attributes
    ----------
    classes_ : ndarray of shape (K,), or list of H such arrays
        Labels among the rows of weight above 0, the same for all horizons.
    model_text_ : list of str
        LightGBM's models, one a horizon. All answers come from them.
    init_score_ : ndarray of float64, shape (H, K)
        Added to their scores. 0, but for classes that no row to fit of a horizon has under the
        expected cost, which start from the log-probability of the impossible.
    lag_blocks_ : ndarray of int64, shape (n_blocks, 2)
        Newest lag and length of each block.
    n_iter_ : list of int
        Rounds kept, one a horizon.
    row_usage_ : dict of str to ndarray of int64
        Positions in the X of `fit`: ``"fit"`` and ``"stop"``.
    panel_ : bool
        Whether X had an index (datetime, instrument).
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of str, shape (n_features,)
        Their names, where all are strings.

    See Also
    --------
    ensemble_kit.estimators.lags.lag_blocks : The lags of each derived column.
    ensemble_kit.estimators.ExpectedCostClassifier : Decides by cost, and keeps probabilities.

    Notes
    -----
    Unknown values (NaN) are LightGBM's missing. Several horizons share the binned data: its
    labels are swapped. Deterministic: same `random_state` and `n_threads`, same bits.

    References
    ----------
    .. [1] Ke, G. et al. (2017). "LightGBM: A Highly Efficient Gradient Boosting Decision Tree."
           Advances in Neural Information Processing Systems 30.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators.lightgbm_window import LGBMWindowClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2))
    >>> y = np.r_[0, (X[:-1, 0] > 0).astype(int)]  # known from the row before
    >>> model = LGBMWindowClassifier(seq_len=3, n_estimators=20, random_state=0).fit(X[:300], y[:300])
    >>> model.score(X[300:], y[300:]) > 0.95
    True
    >>> model.lag_feature_names_
    ['x0_lag0', 'x0_lag1', 'x0_lag2', 'x1_lag0', 'x1_lag1', 'x1_lag2']
    """

    _domains: ClassVar[dict[str, Domain]] = {
        "seq_len": WHOLE,
        "n_estimators": WHOLE,
        "num_leaves": ("an integer of at least 2", lambda v: WHOLE[1](v) and v >= 2),
        "learning_rate": POSITIVE,
        "min_child_samples": WHOLE,
        "class_weight": CLASS_WEIGHT,
        "loss": ONE_OF("cross_entropy", "expected_cost"),
        "validation_fraction": FRACTION,
        "validation_purge": WHOLE_OR_0,
        "patience": WHOLE,
        "n_threads": WHOLE,
        "params": LIGHTGBM_PARAMS,
    }

    def __init__(
        self,
        seq_len: int = 48,
        *,
        lags: str | Sequence[int] = "blocks",
        n_estimators: int = 200,
        num_leaves: int = 15,
        learning_rate: float = 0.05,
        min_child_samples: int = 20,
        class_weight: Mapping[Any, float] | str | None = None,
        loss: str = "cross_entropy",
        cost_matrix: Any = None,
        validation_fraction: float = 0.0,
        validation_purge: int = 0,
        patience: int = 20,
        n_threads: int = 1,
        random_state: Any = None,
        verbose: bool = False,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self.seq_len = seq_len
        self.lags = lags
        self.n_estimators = n_estimators
        self.num_leaves = num_leaves
        self.learning_rate = learning_rate
        self.min_child_samples = min_child_samples
        self.class_weight = class_weight
        self.loss = loss
        self.cost_matrix = cost_matrix
        self.validation_fraction = validation_fraction
        self.validation_purge = validation_purge
        self.patience = patience
        self.n_threads = n_threads
        self.random_state = random_state
        self.verbose = verbose
        self.params = params

    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit one booster a horizon.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            Columns, rows in time order; NaN where unknown. A panel comes with its index
            (datetime, instrument).
        y : array-like of shape (n,) or (n, H)
            Labels, one column a horizon.
        sample_weight : array-like of shape (n,), default=None
            Weight of each row. Rows of weight 0 are history only: they stand in later rows'
            windows, and their labels are not looked at. Keep their mean near 1: LightGBM grows
            no leaf of little weight (`min_sum_hessian_in_leaf`).

        Returns
        -------
        LGBMWindowClassifier
            Itself.

        Raises
        ------
        EnsembleKitError
            If a parameter is out of its domain, costs or constraints do not fit, a label is
            missing, weights do not fit, there is a single class, or a panel's index was lost.
        """
        context = self._init_callback_context().call_on_fit_task_begin(estimator=self, X=X, y=y)
        check_parameters(self)
        blocks = lag_blocks(self.lags, self.seq_len)
        check_panel_index(X, y, sample_weight=sample_weight)
        matrix, keys = self._columns(X, y=None if y is None else "no_validation")
        weights = check_row_weights(sample_weight, len(matrix))
        check_consistent_length(X, y)
        used = np.flatnonzero(weights)
        targets = Targets.encode(y.iloc[used] if isinstance(y, pd.DataFrame | pd.Series) else np.asarray(y)[used])
        if len(targets.classes) < 2:
            raise EnsembleKitError(
                f"`y` must hold at least 2 classes on rows of weight above 0; got 1 class, {targets.classes.tolist()}. "
                "Fit on more rows."
            )
        fit, stop = newest_block(keys.time, used, self.validation_fraction, self.validation_purge)
        if len(learned := np.unique(targets.codes[np.isin(used, fit)])) < 2:
            warnings.warn(
                f"Rows before those to stop have the class {targets.classes[learned].tolist()} only: the model says "
                "nothing else. Give more rows, or a smaller `validation_fraction`.",
                UserWarning,
                stacklevel=2,
            )
        self.lag_blocks_ = blocks
        self.panel_ = keys.panel
        self.row_usage_ = {"fit": fit, "stop": stop}
        self.classes_ = targets.classes if targets.single else [targets.classes] * targets.n_horizons

        # One row of X each, so that positions in X find them; nothing reads those of history.
        codes = np.zeros((len(matrix), targets.n_horizons), dtype=np.int64)
        codes[used] = targets.codes
        row_weights = np.zeros(codes.shape)
        fitted = weights[used] * np.isin(used, fit)
        row_weights[used] = weights[used, None] * class_weights(self.class_weight, targets, fitted)
        costs = cost_table(self.cost_matrix, targets.classes) if self.loss == "expected_cost" else None
        params = self._lightgbm_params(len(targets.classes))
        self.model_text_, self.init_score_, self.n_iter_ = boost(
            bin_rows(LagColumns(matrix, keys, self.seq_len, blocks), (fit, stop), params),
            codes,
            row_weights,
            costs,
            params,
            n_estimators=self.n_estimators,
            patience=self.patience,
            verbose=self.verbose,
        )
        self.__dict__.pop("_boosters", None)
        self._forest = Forest.of(self.model_text_)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    def predict_log_proba(self, X: Any) -> Any:
        """Return log-probabilities, from the boosters' raw scores.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            Columns, rows in time order. Windows reach back within X only, so put the last
            `lookback` rows before it in front.

        Returns
        -------
        ndarray of float64, shape (n, K), or list of H such arrays
            One column a class, in the order of `classes_`.

        Raises
        ------
        EnsembleKitError
            If the model was fitted on a panel and X has lost the panel's index.
        """
        columns = self._lag_columns(X)
        log_proba = self._log_proba(columns, np.arange(len(columns.position)))
        return unstack_horizons(log_proba, not isinstance(self.classes_, list))

    def newest_log_proba(self, window: Any) -> FloatArray:
        """Return the log-probabilities of the newest row only, as live use asks for them.

        Parameters
        ----------
        window : DataFrame or array-like of shape (m, F)
            The newest rows of one instrument in time order, columns in the order of `fit`;
            `lookback` + 1 of them, fewer where there are no more. Only the shape is checked.

        Returns
        -------
        ndarray of float64, shape (K,) or (H, K)
            The last row of `predict_log_proba`, bit by bit.

        Raises
        ------
        EnsembleKitError
            If `window` has another shape.
        """
        check_is_fitted(self)
        matrix = np.asarray(window, dtype=np.float32)[-self.seq_len :]
        if matrix.ndim != 2 or matrix.shape[1] != self.n_features_in_ or not len(matrix):
            raise EnsembleKitError(
                f"`window` must have shape (m, {self.n_features_in_}) with at least one row; got {np.shape(window)}. "
                "Give the newest rows, with the columns of `fit`."
            )
        columns = LagColumns(matrix, row_keys(matrix), self.seq_len, self.lag_blocks_)
        log_proba = self._log_proba(columns, np.array([len(matrix) - 1]))[0]
        return log_proba if isinstance(self.classes_, list) else log_proba[0]

    def predict_proba(self, X: Any) -> Any:
        """Return probabilities.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            As in `predict_log_proba`.

        Returns
        -------
        ndarray of float64, shape (n, K), or list of H such arrays
            One column a class, in the order of `classes_`.
        """
        log_proba = self.predict_log_proba(X)
        return [np.exp(p) for p in log_proba] if isinstance(log_proba, list) else np.exp(log_proba)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable labels.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            As in `predict_log_proba`.

        Returns
        -------
        ndarray of shape (n,) or (n, H)
            Labels.
        """
        log_proba = self.predict_log_proba(X)
        best = [p.argmax(axis=1) for p in log_proba] if isinstance(log_proba, list) else log_proba.argmax(axis=1)
        labels: NDArray[Any] = self._labels()[np.transpose(best)]
        return labels

    @property
    def lookback(self) -> int:
        """How many earlier rows an answer can depend on."""
        return self.seq_len - 1

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.multi_output = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if "model_text_" not in state or name not in _NOT_KEPT}

    # ------------------------------------------------------------------ private

    def _columns(self, X: Any, **options: Any) -> tuple[NDArray[np.float32], RowKeys]:
        matrix = validate_data(self, X, dtype=np.float32, ensure_all_finite="allow-nan", **options)
        return matrix, row_keys(X if isinstance(X, pd.DataFrame) else matrix)

    def _lag_columns(self, X: Any) -> LagColumns:
        check_is_fitted(self)
        check_panel_index(X, fitted_on_panel=self.panel_)
        matrix, keys = self._columns(X, reset=False)
        return LagColumns(matrix, keys, self.seq_len, self.lag_blocks_)

    def _log_proba(self, columns: LagColumns, rows: IntArray) -> FloatArray:
        if not hasattr(self, "_forest"):
            self._forest = Forest.of(self.model_text_)
        scores = class_scores(self._forest.scores(columns, rows)) + self.init_score_
        log_proba: FloatArray = log_softmax(scores, axis=2)
        return log_proba

    def _labels(self) -> NDArray[Any]:
        labels: NDArray[Any] = self.classes_[0] if isinstance(self.classes_, list) else self.classes_
        return labels

    def _lightgbm_params(self, n_classes: int) -> dict[str, Any]:
        objective = {"objective": "binary"} if n_classes == 2 else {"objective": "multiclass", "num_class": n_classes}
        if self.loss == "expected_cost":
            objective |= {"objective": "none", "metric": "none"}
        own = {
            "num_leaves": self.num_leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": self.min_child_samples,
            "num_threads": self.n_threads,
            "seed": int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max)),
            "verbosity": 1 if self.verbose else -1,
        }
        given = expand_constraints(self.params or {}, self._names(), len(self.lag_blocks_))
        return objective | own | with_defaults(given)
