"""LightGBM on windows: gradient-boosted trees over lags and block means of every column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ensemble_kit.bars import RowKeys, row_keys
from ensemble_kit.estimators._parameters import (
    CLASS_WEIGHT,
    FRACTION,
    POSITIVE,
    WHOLE,
    WHOLE_OR_0,
    Domain,
    check_parameters,
)
from ensemble_kit.estimators._rows import class_weights, newest_block
from ensemble_kit.estimators.lags import LagColumns, lag_blocks, lag_names
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import Targets, check_row_weights, unstack_horizons
from ensemble_kit.validation import check_panel_index

__all__ = ["LGBMWindowClassifier"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Bins from this many rows instead of LightGBM's 200,000: most of the time that binning 16,400 columns takes.
_BIN_ROWS = 5000
# What LightGBM calls our own parameters, and what the answer's meaning hangs on.
_OWN = {
    "objective", "application", "loss", "num_class", "num_classes", "sigmoid", "num_iterations", "n_iter",
    "n_estimators", "num_boost_round", "num_leaves", "max_leaves", "learning_rate", "eta", "shrinkage_rate",
    "min_data_in_leaf", "min_child_samples", "num_threads", "n_jobs", "nthread", "seed", "random_state",
    "early_stopping_round", "early_stopping_rounds", "verbosity", "verbose",
}  # fmt: skip


class LGBMWindowClassifier(ClassifierMixin, BaseEstimator):
    """LightGBM that sees, at each row, the last `seq_len` rows of every column.

    Row t of an answer depends on rows t - seq_len + 1 to t of its instrument only. The
    windows are never flattened: LightGBM reads slices of the columns as they are.

    Parameters
    ----------
    seq_len : int, default=48
        Rows a window, the row itself included. Rows with less history have missing lags.
    lags : {"blocks", "all", "last"} or sequence of int, default="blocks"
        Which lags become columns. ``"blocks"`` averages older lags over longer blocks (five
        blocks of 1 row, five of 2, five of 4, ...: 17 columns for 48 rows, 27 for 205);
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
    validation_fraction : float, default=0.0
        What part of the weighted rows' distinct times, the newest, is held out to stop
        early; nothing where that is fewer than 10 times.
    validation_purge : int, default=0
        Distinct times (bars) left out between the rows to fit and those to stop: as many as
        a label looks ahead.
    patience : int, default=20
        Rounds without a better held-out log-loss before stopping.
    n_threads : int, default=1
        Threads of LightGBM. Another number may give other bits.
    random_state : int, RandomState or None, default=None
        Seed of the rows that bins are made from, and of bagging where `params` asks for it.
    verbose : bool, default=False
        Whether LightGBM writes its messages.
    params : dict or None, default=None
        Further parameters of LightGBM (``{"lambda_l2": 10, "feature_fraction": 0.2}``).

    Attributes
    ----------
    classes_ : ndarray of shape (K,), or list of H such arrays
        Labels among the rows of weight above 0, the same for all horizons.
    model_text_ : list of str
        LightGBM's models, one a horizon. All answers come from them.
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
    feature_names_in_ : ndarray of str, shape (n_features_in_,)
        Their names, where all are strings.

    See Also
    --------
    ensemble_kit.estimators.lags.lag_blocks : The lags of each derived column.

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
        "validation_fraction": FRACTION,
        "validation_purge": WHOLE_OR_0,
        "patience": WHOLE,
        "n_threads": WHOLE,
        "params": (
            "None or a dict of LightGBM's parameters, without the objective and those that are the estimator's own",
            lambda v: v is None or (isinstance(v, Mapping) and not _OWN & set(v)),
        ),
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
        self.validation_fraction = validation_fraction
        self.validation_purge = validation_purge
        self.patience = patience
        self.n_threads = n_threads
        self.random_state = random_state
        self.verbose = verbose
        self.params = params

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
            windows, and their labels are not looked at.

        Returns
        -------
        LGBMWindowClassifier
            Itself.

        Raises
        ------
        EnsembleKitError
            If a parameter is out of its domain, a label is missing, weights do not fit, there
            is a single class, or a panel's index was lost.
        """
        check_parameters(self)
        blocks = lag_blocks(self.lags, self.seq_len)
        check_panel_index(X, y)
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
        params = self._lightgbm_params(len(targets.classes))
        self.model_text_, self.n_iter_ = self._boost(self._bin(matrix, keys, params), codes, row_weights, params)
        self._boosters = _load(self.model_text_)
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
        check_is_fitted(self)
        check_panel_index(X, fitted_on_panel=self.panel_)
        matrix, keys = self._columns(X, reset=False)
        columns = LagColumns(matrix, keys, self.seq_len, self.lag_blocks_)
        rows = columns.arrange(np.arange(len(matrix)))
        table = columns.table(rows)
        log_proba = np.empty((len(rows), len(self.model_text_), len(self._labels())))
        for h, booster in enumerate(self._fitted_boosters()):
            raw = booster.predict(table, raw_score=True, num_threads=self.n_threads)
            # Two classes have one score: that of the second, against 0.
            scores = raw if raw.ndim == 2 else np.column_stack([np.zeros_like(raw), raw])
            log_proba[rows, h] = log_softmax(scores, axis=1)
        return unstack_horizons(log_proba, not isinstance(self.classes_, list))

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

    @property
    def lag_feature_names_(self) -> list[str]:
        """Names of the columns that the trees see, such as ``close_lag0`` and ``close_mean5_6``."""
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", [f"x{f}" for f in range(self.n_features_in_)])
        return lag_names(names, self.lag_blocks_)

    @property
    def feature_importances_(self) -> FloatArray:
        """Gain of the splits on each column of X, all its lags and all horizons together, shape (F,)."""
        check_is_fitted(self)
        gains = [booster.feature_importance("gain") for booster in self._fitted_boosters()]
        folded: FloatArray = np.sum(gains, axis=0).reshape(self.n_features_in_, -1).sum(axis=1)
        return folded

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.multi_output = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # Boosters hold a pointer; they are read from `model_text_` again when they are needed.
        return {name: value for name, value in super().__getstate__().items() if name != "_boosters"}

    # ------------------------------------------------------------------ private

    def _columns(self, X: Any, **options: Any) -> tuple[NDArray[np.float32], RowKeys]:
        matrix = validate_data(self, X, dtype=np.float32, ensure_all_finite="allow-nan", **options)
        return matrix, row_keys(X if isinstance(X, pd.DataFrame) else matrix)

    def _labels(self) -> NDArray[Any]:
        labels: NDArray[Any] = self.classes_[0] if isinstance(self.classes_, list) else self.classes_
        return labels

    def _fitted_boosters(self) -> list[Any]:
        if not hasattr(self, "_boosters"):
            self._boosters = _load(self.model_text_)
        return self._boosters

    def _lightgbm_params(self, n_classes: int) -> dict[str, Any]:
        objective = {"objective": "binary"} if n_classes == 2 else {"objective": "multiclass", "num_class": n_classes}
        return {
            **objective,
            "num_leaves": self.num_leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": self.min_child_samples,
            "num_threads": self.n_threads,
            "seed": int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max)),
            "verbosity": 1 if self.verbose else -1,
            "deterministic": True,
            "force_row_wise": True,
            "bin_construct_sample_cnt": _BIN_ROWS,
            **(self.params or {}),
        }

    def _bin(self, matrix: NDArray[np.float32], keys: RowKeys, params: dict[str, Any]) -> list[tuple[Any, IntArray]]:
        """Bin the rows to fit and, with their bins, those to stop; return them with the rows they hold, in order."""
        columns = LagColumns(matrix, keys, self.seq_len, self.lag_blocks_)
        sets: list[tuple[Any, IntArray]] = []
        for role in ("fit", "stop"):
            rows = columns.arrange(self.row_usage_[role])
            if len(rows):
                reference = sets[0][0] if sets else None
                data = lgb.Dataset(columns.table(rows), reference=reference, params=params)
                sets.append((data.construct(), rows))
        return sets

    def _boost(
        self, sets: list[tuple[Any, IntArray]], codes: IntArray, weights: FloatArray, params: dict[str, Any]
    ) -> tuple[list[str], list[int]]:
        """Grow one booster a horizon on the same bins; return their texts and rounds."""
        (data, _), *others = sets
        held = [other for other, _ in others]
        texts, rounds = [], []
        for horizon in range(codes.shape[1]):
            for each, rows in sets:
                each.set_label(codes[rows, horizon])
                # `set_weight` would skip weights that are all 1, and leave the last horizon's in place.
                each.set_field("weight", weights[rows, horizon])
            callbacks = [lgb.early_stopping(self.patience, verbose=self.verbose)] if held else []
            if self.verbose:
                callbacks.append(lgb.log_evaluation(10))
            booster = lgb.train(params, data, num_boost_round=self.n_estimators, valid_sets=held, callbacks=callbacks)
            texts.append(booster.model_to_string())
            rounds.append(int(booster.best_iteration if held else booster.current_iteration()))
        return texts, rounds


def _load(texts: Sequence[str]) -> list[Any]:
    return [lgb.Booster(model_str=text) for text in texts]
