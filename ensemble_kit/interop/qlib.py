"""Our classifiers as models of Qlib's workflows, and Qlib's data as bars and columns of ours."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

try:
    # Qlib silences numpy's warnings of invalid numbers for the whole process when it is imported.
    with np.errstate():
        from qlib.model.base import Model
except ImportError as error:
    raise ImportError(
        "`ensemble_kit.interop.qlib` must have Qlib installed; got none. Run: pip install 'ensemble-kit[qlib]'."
    ) from error

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.interop._qlib_data import QlibFeatures, qlib_bars
from ensemble_kit.interop._qlib_estimators import build_estimator, check_purges
from ensemble_kit.interop._qlib_expressions import bars_ahead, check_causal
from ensemble_kit.validation import fit_on_rows, predict_on_rows

__all__ = ["ClassifierModel", "QlibFeatures", "qlib_bars"]

_LEARN, _INFER = "learn", "infer"  # DataHandlerLP.DK_L, DK_I


class ClassifierModel(Model):
    """Any classifier as a Qlib model: it learns who rises most, and scores by what it believes.

    Parameters
    ----------
    estimator : classifier, Pipeline or dict
        Not fitted. In a workflow file ``{class, module_path, kwargs}``, nested as deep as
        needed: steps and members are lists ``[name, {class, ...}]``.
    tail : float or None, default=1/3
        What share of a date's instruments is class 1 (the highest labels) and class -1 (the
        lowest), below 0.5; the rest is class 0. None for the label's sign, where 0 teaches
        nothing: what is meant for a single instrument.
    horizon : int, default=None
        How many bars after its own the label looks at; None reads it off the label's
        expression in a handler that loads expressions (2 for Qlib's usual
        ``Ref($close, -2) / Ref($close, -1) - 1``).

    Attributes
    ----------
    estimator_ : classifier
        The fitted one.
    classes_ : ndarray of int
        The classes learned.
    horizon_ : int
        How far the label looked ahead.

    Notes
    -----
    **Rows.** Segments ``train`` and ``valid`` (where there is one) are learned from together: our
    ensembles split their rows themselves, forward in time. Columns are those of inference
    (``DK_I``), so windows see every bar; a row that the label's processors drop (``DK_L``) has
    weight 0, which is history only, and so have rows between the segments.

    **What the label may see.** The last `horizon` bars of the learned span are not learned
    from, since their labels are not known there. Every `WalkForwardSplit` within the estimator
    must purge as many bars, and whatever stops early must have as large a `validation_purge`;
    less is refused, and so is any other `cv` or early stopping, which knows rows and no bars.
    Classes within a date compare labels of that date alone, so
    ``CSZScoreNorm`` of the label changes nothing but with ``tail=None``: it would then make the
    sign one against the date's mean.

    **Score.** The probability of class 1 less that of class -1, at rows <= t of the same
    instrument. Windows at the first rows of a segment reach back into the rows before it.

    **Storage.** Qlib's recorder pickles the model: load no recorder that you do not trust.

    Examples
    --------
    >>> import pandas as pd
    >>> from qlib.data.dataset import DatasetH
    >>> from qlib.data.dataset.handler import DataHandler
    >>> from qlib.data.dataset.loader import StaticDataLoader
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.estimators import LGBMWindowClassifier
    >>> bars = make_bars(120, instruments=["A", "B", "C"], bar="390min", random_state=0)
    >>> bars.index = bars.index.set_levels(bars.index.levels[0].tz_localize(None).normalize(), level=0)
    >>> close = bars["close"].unstack()
    >>> columns = (close / close.shift(5) - 1).stack(future_stack=True).to_frame("week")
    >>> label = (close.shift(-2) / close.shift(-1) - 1).stack(future_stack=True).to_frame("label")
    >>> loader = StaticDataLoader(pd.concat({"feature": columns, "label": label}, axis=1))
    >>> spans = {"train": ("2022-01-03", "2022-05-13"), "test": ("2022-05-16", "2022-06-17")}
    >>> dataset = DatasetH(DataHandler(data_loader=loader), spans)
    >>> model = ClassifierModel(LGBMWindowClassifier(5, n_estimators=5), horizon=2)
    >>> model.fit(dataset)
    >>> model.predict(dataset).shape
    (75,)
    """

    def __init__(self, estimator: Any, *, tail: float | None = 1 / 3, horizon: int | None = None) -> None:
        super().__init__()
        if tail is not None and not (isinstance(tail, Real) and 0 < tail < 0.5):
            raise EnsembleKitError(
                f"`tail` must be a share between 0 and 0.5, or None; got {tail!r}. None takes the label's sign."
            )
        if horizon is not None and not (isinstance(horizon, Integral) and horizon >= 0):
            raise EnsembleKitError(
                f"`horizon` must be an integer of at least 0, or None; got {horizon!r}. Count the bars the label needs."
            )
        self.estimator = build_estimator(estimator)
        self.tail = tail
        self.horizon = horizon

    def fit(self, dataset: Any, reweighter: Any = None) -> None:
        """Fit the estimator on a dataset's segments ``train`` and ``valid``.

        Parameters
        ----------
        dataset : DatasetH
            With one column of labels.
        reweighter : Reweighter, default=None
            Qlib's weights of learned rows.

        Raises
        ------
        LeakageError
            If the estimator purges less than the label looks ahead, the label looks further than
            `horizon` says, a column's expression looks ahead, or segments share a time.
        EnsembleKitError
            If `horizon` is not known, or no row, no label or one class only is left to learn.
        """
        self.horizon_ = self._look_ahead(dataset)
        check_purges(self.estimator, self.horizon_)
        check_causal(_expressions(dataset, "feature"), "`dataset` features")
        segments = [name for name in ("train", "valid") if name in dataset.segments]
        X = _span(dataset, segments)
        _check_apart(dataset)
        label, weight = _learned(dataset, segments, reweighter)
        times = X.index.get_level_values(0)
        distinct = times.unique()
        if len(distinct) <= self.horizon_:
            raise EnsembleKitError(
                f"`dataset` must have more than {self.horizon_} times to learn from; got {len(distinct)}. "
                "Widen its segments train and valid."
            )
        label = label[label.index.isin(X.index[times <= distinct[len(distinct) - 1 - self.horizon_]])]
        target = self._classes(label)
        rows = X.index.get_indexer(target.index)
        y, weights = np.zeros(len(X), dtype=np.int64), np.zeros(len(X))
        y[rows], weights[rows] = target.to_numpy(), weight[target.index].to_numpy()
        self.classes_ = np.unique(target.to_numpy())
        if len(self.classes_) < 2:
            raise EnsembleKitError(
                f"`dataset` must have labels of two classes at least; got {self.classes_.tolist()} on {len(target)} "
                "row(s). Of a few instruments take their sign, `tail=None`; else widen the segments."
            )
        self.estimator_, _ = fit_on_rows(self.estimator, X, y, weights, np.sort(rows), row_keys(X))

    def predict(self, dataset: Any, segment: Any = "test") -> pd.Series[Any]:
        """Score the rows of a segment.

        Parameters
        ----------
        dataset : DatasetH
            With the columns of `fit`; its rows before the segment are the history of its first ones.
        segment : str or slice, default="test"
            A segment's name, or a slice of times.

        Returns
        -------
        Series of float64
            ``score`` in [-1, 1], indexed by (datetime, instrument), sorted.

        Raises
        ------
        LeakageError
            If a column's expression looks ahead.
        EnsembleKitError
            If the model is not fitted, or the segment has no row.
        """
        if not hasattr(self, "estimator_"):
            raise EnsembleKitError(
                "`model` must be fitted before it predicts; got one that is not. Call `fit(dataset)`."
            )
        check_causal(_expressions(dataset, "feature"), "`dataset` features")
        wanted = _columns(dataset, segment).index
        X = _columns(dataset, slice(None, wanted[-1][0]))
        rows = X.index.get_indexer(wanted)
        proba = predict_on_rows(self.estimator_, X, rows, row_keys(X), self.classes_, method="predict_proba")
        return pd.Series(proba[:, 0] @ self.classes_.astype(np.float64), index=wanted, name="score")

    def _look_ahead(self, dataset: Any) -> int:
        """Return the label's horizon: as given, or as the handler's expressions say."""
        expressions = _expressions(dataset, "label")
        told = max(map(bars_ahead, expressions), default=None)
        if self.horizon is not None and told is not None and self.horizon < told:
            raise LeakageError(
                f"`horizon` must be at least {told}, as far as the label {expressions[0]} looks; got {self.horizon}. "
                "Leave it out: it is read off the label."
            )
        horizon = told if self.horizon is None else self.horizon
        if horizon is None:
            raise EnsembleKitError(
                "`horizon` must be given where the handler's label is no expression; got None. "
                "Count how many bars after its own the label looks at: 2 for Ref($close, -2)/Ref($close, -1) - 1."
            )
        return int(horizon)

    def _classes(self, label: pd.Series[Any]) -> pd.Series[int]:
        """Return the class of every row that teaches one."""
        if self.tail is None:
            return np.sign(label[label != 0]).astype(np.int64)
        by_date = label.groupby(level=0)
        place = (by_date.rank() - 0.5) / by_date.transform("count")
        return (place > 1 - self.tail).astype(np.int64) - (place < self.tail).astype(np.int64)


def _expressions(dataset: Any, group: str) -> list[str]:
    """Return the expressions of a handler's columns or labels; none where its loader has no expressions."""
    return [
        str(expression)
        for loader in _loaders(getattr(dataset.handler, "data_loader", None))
        if isinstance(fields := getattr(loader, "fields", None), dict) and group in fields
        for expression in fields[group][0]
    ]


def _loaders(loader: Any) -> Iterator[Any]:
    yield loader
    for inner in getattr(loader, "data_loader_l", ()):  # of Qlib's NestedDataLoader
        yield from _loaders(inner)


def _check_apart(dataset: Any) -> None:
    """Refuse segments that share a time: a score on rows that were learned from is none."""
    names = [name for name in ("train", "valid", "test") if name in dataset.segments]
    times = {
        name: _panel(dataset.prepare(name, col_set="feature", data_key=_INFER)).index.unique(level=0) for name in names
    }
    for i, later in enumerate(names):
        for name in names[:i]:
            if len(shared := times[name].intersection(times[later])):
                raise LeakageError(
                    f"`dataset` must have segments that share no time; got {len(shared)} of {later} in {name}, from "
                    f"{shared.min()} to {shared.max()}. Let each begin after the one before it."
                )


def _columns(dataset: Any, segment: Any) -> pd.DataFrame:
    """Return the columns of inference of a segment, as a sorted panel."""
    frame = dataset.prepare(segment, col_set="feature", data_key=_INFER)
    if not isinstance(frame, pd.DataFrame):
        raise EnsembleKitError(
            f"`dataset` must give frames; got {type(frame).__name__}. "
            "Take DatasetH: estimators build their windows (`seq_len`) themselves."
        )
    if frame.empty:
        raise EnsembleKitError(f"`dataset` must have rows in {segment!r}; got none. Widen the handler's span.")
    return _panel(frame)


def _panel(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows by (datetime, instrument), sorted: handlers may keep them the other way round."""
    if frame.index.names[0] == "instrument":
        frame = frame.swaplevel()
    frame = frame if frame.index.is_monotonic_increasing else frame.sort_index()
    return frame.rename_axis(index=["datetime", "instrument"])


def _span(dataset: Any, segments: list[str]) -> pd.DataFrame:
    """Return the columns of all rows from the first segment's first to the last one's last."""
    parts = [_columns(dataset, name) for name in segments]
    if not parts:
        raise EnsembleKitError(
            f"`dataset` must have a segment train; got {', '.join(dataset.segments)}. Name one, and valid if you like."
        )
    if len(parts) == 1:
        return parts[0]
    times = pd.DatetimeIndex([part.index[end][0] for part in parts for end in (0, -1)])
    return _columns(dataset, slice(times.min(), times.max()))


def _learned(dataset: Any, segments: list[str], reweighter: Any) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """Return label and weight of the rows that the handler lets learn from."""
    frame = pd.concat([dataset.prepare(name, col_set=["feature", "label"], data_key=_LEARN) for name in segments])
    frame = _panel(frame[~frame.index.duplicated()])
    if frame["label"].shape[1] != 1:
        raise EnsembleKitError(
            f"`dataset` must have one label; got {frame['label'].columns.tolist()}. Name one to the handler."
        )
    label = frame["label"].set_axis(["label"], axis=1)["label"]
    weight: NDArray[Any] = np.ones(len(frame)) if reweighter is None else np.asarray(reweighter.reweight(frame))
    return label[np.isfinite(label)], pd.Series(weight.ravel(), index=frame.index)
