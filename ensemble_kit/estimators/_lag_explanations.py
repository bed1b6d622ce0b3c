"""What boosted trees on windows say of themselves: importances and contributions, by column and by lag."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.estimators._boosting import class_scores
from ensemble_kit.estimators.lags import LagColumns, lag_names
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import unstack_horizons

__all__ = ["LagExplanations"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# What one call for contributions may return, in float64: LightGBM gives one a row, class and derived column.
_CONTRIBUTIONS = 2**23


class LagExplanations:
    """Importances and contributions of an estimator that keeps LightGBM's models as text."""

    classes_: Any
    init_score_: FloatArray
    lag_blocks_: IntArray
    model_text_: list[str]
    n_features_in_: int
    n_threads: int

    def _lag_columns(self, X: Any) -> LagColumns:
        """Check X and return its derived columns."""
        raise NotImplementedError

    @property
    def lag_feature_names_(self) -> list[str]:
        """Names of the columns that the trees see, such as ``close_lag0`` and ``close_mean5_6``."""
        check_is_fitted(self)
        return lag_names(self._names(), self.lag_blocks_)

    @property
    def feature_importances_(self) -> FloatArray:
        """Gain of the splits on each column of X, all its lags and all horizons together, shape (F,)."""
        gain: FloatArray = self.lag_importance("gain").to_numpy().sum(axis=1)
        return gain

    def lag_importance(self, kind: str = "gain", *, horizon: int | None = None) -> pd.DataFrame:
        """Return how much the trees use each lag of each column.

        Parameters
        ----------
        kind : {"gain", "split"}, default="gain"
            Gain of the splits, or their number.
        horizon : int, default=None
            One horizon; None sums all.

        Returns
        -------
        DataFrame of shape (F, n_blocks)
            A row a column of X, a column a block of lags (``"0"``, ``"5-6"``).

        Raises
        ------
        EnsembleKitError
            If there is no such kind or horizon.
        """
        check_is_fitted(self)
        boosters = self._fitted_boosters()
        if kind not in ("gain", "split") or horizon not in (None, *range(len(boosters))):
            raise EnsembleKitError(
                f"`kind` must be 'gain' or 'split', and `horizon` None or one of 0 to {len(boosters) - 1}; "
                f"got {kind!r} and {horizon!r}. Leave `horizon` out for the sum."
            )
        chosen = boosters if horizon is None else [boosters[horizon]]
        used = np.sum([booster.feature_importance(kind) for booster in chosen], axis=0)
        lags = [str(lag) if length == 1 else f"{lag}-{lag + length - 1}" for lag, length in self.lag_blocks_]
        return pd.DataFrame(used.reshape(self.n_features_in_, -1), index=self._names(), columns=lags)

    def contributions(self, X: Any) -> Any:
        """Return what each column of X, all its lags together, adds to the scores.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            As in `predict_log_proba`.

        Returns
        -------
        ndarray of float64, shape (n, K, F + 1), or list of H such arrays
            Shapley values of each class's score, and last the score's expected value. Their
            sums are the scores, whose softmax are the probabilities. Of two classes, the
            first scores 0.

        References
        ----------
        .. [1] Lundberg, S. M. et al. (2020). "From local explanations to global understanding
               with explainable AI for trees." Nature Machine Intelligence 2.
        """
        columns = self._lag_columns(X)
        rows = columns.arrange(np.arange(len(columns.position)))
        n_columns = self.n_features_in_ * len(self.lag_blocks_)
        n_horizons, n_classes = self.init_score_.shape
        at_once = max(1, _CONTRIBUTIONS // (n_classes * (n_columns + 1)))
        folded = np.empty((len(rows), n_horizons, n_classes, self.n_features_in_ + 1))
        for some in np.split(rows, range(at_once, len(rows), at_once)):
            table = columns.table(some)
            for h, booster in enumerate(self._fitted_boosters()):
                each = booster.predict(table, pred_contrib=True, num_threads=self.n_threads)
                each = each.reshape(len(some), -1, n_columns + 1)
                by_column = each[:, :, :-1].reshape(*each.shape[:2], self.n_features_in_, -1).sum(axis=3)
                values = np.concatenate([by_column, each[:, :, -1:]], axis=2)
                folded[some, h] = class_scores(values.swapaxes(1, 2)).swapaxes(1, 2)
        folded[..., -1] += self.init_score_
        return unstack_horizons(folded, not isinstance(self.classes_, list))

    def _names(self) -> list[str]:
        return list(getattr(self, "feature_names_in_", [f"x{f}" for f in range(self.n_features_in_)]))

    def _fitted_boosters(self) -> list[Any]:
        if not hasattr(self, "_boosters"):
            self._boosters = [lgb.Booster(model_str=text) for text in self.model_text_]
        return self._boosters
