"""Ask anything for its answer on some rows: transformers, models and functions, one table each time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.validation.fold import take_rows

__all__ = ["CUT", "NAN", "TIMES_1000", "Answer", "Run", "is_cross_sectional", "is_fitted", "other_labels", "spoil"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Ways to take rows away: leave them out, or make them unknown or absurd.
CUT, NAN, TIMES_1000 = "cut", "NaN", "x1000"
#: A classifier that also transforms is asked for probabilities.
_METHODS = ("predict_proba", "transform", "predict")


@dataclass(frozen=True)
class Answer:
    """Values of shape (n, k), float64 or object, and the names of the k columns."""

    values: NDArray[Any]
    names: list[str]

    def change(self, other: Answer) -> FloatArray:
        """Return by cell how far `other` is from this, shape (n, k); infinite where it lacks the column."""
        if self.names == other.names:
            return relative_change(self.values, other.values)
        out = np.full(self.values.shape, np.inf)
        at = {name: place for place, name in enumerate(other.names)}
        mine = [place for place, name in enumerate(self.names) if name in at]
        theirs = [at[self.names[place]] for place in mine]
        out[:, mine] = relative_change(self.values[:, mine], other.values[:, theirs])
        return out

    def take(self, rows: Any) -> Answer:
        """Return the answer on some of the rows."""
        return Answer(self.values[rows], self.names)


@dataclass(frozen=True)
class Run:
    """How to ask one estimator or function: fitted anew on the rows it is given, or used as it is."""

    estimator: Any
    method: str  # "" for a function
    refit: bool

    @classmethod
    def of(cls, estimator: Any, method: str | None, fit: bool | None) -> Self:
        """Choose method and mode; None leaves the choice to what the estimator is."""
        is_estimator = any(hasattr(estimator, name) for name in ("fit", *_METHODS))
        if isinstance(estimator, type) or not (is_estimator or callable(estimator)):
            raise EnsembleKitError(
                f"`estimator` must be a transformer, a model or a function of the bars; got {estimator!r:.60}. "
                "Pass an instance first, and the bars second."
            )
        if not is_estimator:
            return cls(estimator, "", refit=False)
        refit = not is_fitted(estimator) if fit is None else fit
        known = [method] if method is not None else _METHODS
        found = next((name for name in known if hasattr(estimator, name)), None)
        if found is None:
            raise EnsembleKitError(
                f"`method` must be a method of the estimator; got {method!r}, and {type(estimator).__name__} has no "
                f"{' or '.join(known)}. Name the one that answers a row for a row."
            )
        return cls(estimator, found, refit)

    def __call__(self, X: Any, y: Any = None) -> Answer:
        """Return the answer on these rows."""
        asked = self.fitted(X, y).estimator if self.refit else self.estimator
        raw = getattr(asked, self.method)(X) if self.method else asked(X)
        answer = _as_table(raw, asked, self.method)
        if len(answer.values) != len(X):
            raise EnsembleKitError(
                f"`estimator` must answer a row for a row; got {len(answer.values)} rows for {len(X)}. "
                "Keep warm-up rows as NaN, or `reindex` the answer to the bars."
            )
        return answer

    def fitted(self, X: Any, y: Any = None) -> Run:
        """Return the same, fitted once on these rows and used as it is from then on."""
        if not self.refit:
            return self
        fresh = clone(self.estimator, safe=False)
        fresh = fresh.fit(X) if y is None else fresh.fit(X, y)
        return Run(fresh, self.method, refit=False)


def is_fitted(estimator: Any) -> bool:
    """Whether an estimator can be used as it is; stateless ones always can."""
    if isinstance(estimator, Pipeline):
        return all(is_fitted(step) for _, step in estimator.steps)
    if estimator is None or isinstance(estimator, str) or not hasattr(estimator, "fit"):
        return True
    if not hasattr(estimator, "__sklearn_tags__"):  # it follows scikit-learn's names, not its classes
        return any(name.endswith("_") and not name.startswith("_") for name in vars(estimator))
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def is_cross_sectional(estimator: Any) -> bool:
    """Whether an estimator, or a part of it, says that it reads the same time of all instruments."""
    nested = estimator.get_params().values() if hasattr(estimator, "get_params") else ()
    return any(bool(getattr(part, "cross_sectional", False)) for part in (estimator, *nested))


def relative_change(a: NDArray[Any], b: NDArray[Any]) -> FloatArray:
    """Return |a - b| / max(|a|, |b|) by cell: 0 where equal or both missing, infinite where one is."""
    if object in (a.dtype, b.dtype):
        same = np.asarray((a == b) | (pd.isna(a) & pd.isna(b)), dtype=bool)
        return np.where(same, 0.0, np.inf)
    with np.errstate(all="ignore"):
        change: FloatArray = np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))
    change[np.isnan(change)] = np.inf
    change[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    return change


def _as_table(raw: Any, asked: Any, method: str) -> Answer:
    if hasattr(raw, "toarray"):
        raw = raw.toarray()
    if isinstance(raw, pd.Series):
        raw = raw.to_frame(method or "0" if raw.name is None else raw.name)
    if isinstance(raw, pd.DataFrame):
        numeric = all(pd.api.types.is_numeric_dtype(dtype) for dtype in raw.dtypes)
        values = raw.to_numpy(np.float64, na_value=np.nan) if numeric else raw.to_numpy(object)
        return Answer(values, [str(column) for column in raw.columns])
    if isinstance(raw, list | tuple):  # one block of probabilities a horizon
        blocks = [np.asarray(block) for block in raw]
        names = [f"H{h}_{name}" for h, block in enumerate(blocks) for name in _names(block, asked, method, h)]
        return Answer(np.concatenate(blocks, axis=1).astype(np.float64), names)
    array = np.asarray(raw)
    array = array.reshape(len(array), -1)
    values = array.astype(np.float64 if array.dtype.kind in "fiub" else object)
    return Answer(values, _names(array, asked, method, None))


def _names(block: NDArray[Any], asked: Any, method: str, horizon: int | None) -> list[str]:
    names: Any = None
    if method == "transform" and hasattr(asked, "get_feature_names_out"):
        try:
            names = asked.get_feature_names_out()
        except (ValueError, AttributeError, NotFittedError):  # a step in between that has no names
            names = None
    elif method.endswith("_proba"):
        classes = getattr(asked, "classes_", None)
        names = classes[horizon] if horizon is not None and isinstance(classes, list) else classes
    if names is None or len(names) != block.shape[1]:
        names = [f"{method or 'column'}{place}" for place in range(block.shape[1])]
    return [str(name) for name in names]


def spoil(data: Any, hidden: BoolArray, how: str) -> Any:
    """Return a copy without the hidden rows, or with their numbers made unknown or absurd.

    Types stay as they are, for another type may be computed otherwise: integers cannot be
    NaN and stay, flags are turned round, and what is neither number nor flag is left.
    """
    if data is None:
        return None
    if how == CUT:
        return take_rows(data, np.flatnonzero(~hidden))
    out = data.copy()
    rows = np.flatnonzero(hidden)
    if not isinstance(data, pd.DataFrame):
        out[rows] = _spoilt(out[rows], how)
        return out
    for dtype in set(data.dtypes):
        if isinstance(dtype, np.dtype) and dtype.kind in "fiub":
            at = np.flatnonzero([kind == dtype for kind in data.dtypes])
            out.iloc[rows, at] = _spoilt(data.iloc[rows, at].to_numpy(), how)
    return out


def _spoilt(values: NDArray[Any], how: str) -> NDArray[Any]:
    if values.dtype.kind == "b":
        return ~values
    if values.dtype.kind == "f":
        return values * values.dtype.type(np.nan if how == NAN else 1000)
    return values * values.dtype.type(1000) if how == TIMES_1000 and values.dtype.itemsize > 2 else values


def other_labels(y: Any, hidden: BoolArray, how: str) -> Any:
    """Return labels without the hidden rows, or with every hidden label changed to the next one there is."""
    if y is None or how == CUT:
        return spoil(y, hidden, how)
    values = np.asarray(y)
    labels, codes = np.unique(values, return_inverse=True)
    turned = labels[(codes.reshape(values.shape) + 1) % len(labels)]
    mask = hidden if values.ndim == 1 else hidden[:, None]
    mixed = np.where(mask, turned, values)
    if isinstance(y, pd.Series):
        return pd.Series(mixed, y.index, name=y.name)
    return pd.DataFrame(mixed, y.index, y.columns) if isinstance(y, pd.DataFrame) else mixed
