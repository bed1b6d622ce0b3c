"""Sequence models of classes: windows to log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.base import ClassifierMixin

from ensemble_kit.estimators._parameters import CLASS_WEIGHT, MAPPING_OR_NONE, ONE_OF, Domain
from ensemble_kit.estimators._rows import class_weights
from ensemble_kit.estimators._torch import resolve_device, torch_threads
from ensemble_kit.estimators._training import output_of_window
from ensemble_kit.estimators.costs import cost_table
from ensemble_kit.estimators.networks.losses import CrossEntropy, ExpectedCost, Focal, LabelMargin, Loss
from ensemble_kit.estimators.sequence import SequenceEstimator
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import Targets, unstack_horizons

__all__ = ["SequenceClassifier"]

FloatArray = NDArray[np.float64]


class SequenceClassifier(ClassifierMixin, SequenceEstimator):
    """Base of classifiers that see the last `seq_len` rows of every row.

    Parameters
    ----------
    seq_len : int, default=48
        Rows a window, the row itself included.
    class_weight : dict, "balanced" or None, default=None
        Weight of each label (1 where the dict has none), or weights that give every class of a
        horizon the same total on the rows that are fitted.
    loss : {"cross_entropy", "focal", "ldam", "expected_cost"}, default="cross_entropy"
        Focal fades where the answer is right; LDAM widens the margins of rare classes and
        re-weights them late; the expected cost trains decisions, not probabilities.
        Probabilities of all but the first need calibration.
    loss_params : dict or None, default=None
        Parameters of the loss: `gamma`; `max_margin`, `beta`, `defer`.
    cost_matrix : dict, DataFrame or array-like of shape (K, K), default=None
        For the expected cost: what it costs to say the row's class where the column's comes
        true; by label (a dict of dicts, or a frame), or in sorted order of the labels. None is
        `costs.PEAK_SLOPE_BOTTOM`.
    **shared : dict
        The other parameters of `SequenceEstimator`.

    Attributes
    ----------
    classes_ : ndarray of shape (K,), or list of H such arrays
        The labels on rows of weight above 0; a list where `y` had several horizons.
    class_mass_ : ndarray of shape (H, K)
        The weight of each class on the rows that were fitted.

    See Also
    --------
    ensemble_kit.estimators.sequence.SequenceEstimator : Parameters, attributes and rules of
        time that all sequence models share.
    """

    _domains: ClassVar[dict[str, Domain]] = {
        "class_weight": CLASS_WEIGHT,
        "loss": ONE_OF("cross_entropy", "focal", "ldam", "expected_cost"),
        "loss_params": MAPPING_OR_NONE,
    }

    def __init__(
        self,
        seq_len: int = 48,
        *,
        class_weight: Mapping[Any, float] | str | None = None,
        loss: str = "cross_entropy",
        loss_params: Mapping[str, float] | None = None,
        cost_matrix: Any = None,
        **shared: Any,
    ) -> None:
        super().__init__(seq_len, **shared)
        self.class_weight = class_weight
        self.loss = loss
        self.loss_params = loss_params
        self.cost_matrix = cost_matrix

    def _encode(self, y: Any, counted: FloatArray, *, again: bool) -> tuple[NDArray[Any], FloatArray]:
        known = self._labels() if again else None
        targets = Targets.encode(y, classes=known)
        if len(targets.classes) < 2:
            raise EnsembleKitError(
                f"`y` must hold at least two classes on rows of weight above 0; got one class, "
                f"{targets.classes.tolist()}. Fit on more rows."
            )
        if again and self._answers() != (targets.n_horizons, len(targets.classes)):
            raise EnsembleKitError(
                f"`y` must have the {self._answers()[0]} horizon(s) of the fit that `warm_start` goes on from; got "
                f"{targets.n_horizons}. Set `warm_start=False`."
            )
        self.classes_: Any = targets.classes if targets.single else [targets.classes] * targets.n_horizons
        weights = class_weights(self.class_weight, targets, counted)
        self.class_mass_ = np.stack(
            [np.bincount(codes, counted, minlength=len(targets.classes)) for codes in targets.codes.T]
        )
        return targets.codes, weights

    def _labels(self) -> NDArray[Any]:
        labels: NDArray[Any] = self.classes_[0] if isinstance(self.classes_, list) else self.classes_
        return labels

    def _answers(self) -> tuple[int, int]:
        return len(self.classes_) if isinstance(self.classes_, list) else 1, len(self._labels())

    def _loss(self) -> Loss:
        parameters = dict(self.loss_params or {})
        made: dict[str, Any] = {
            "cross_entropy": CrossEntropy,
            "focal": Focal,
            "ldam": lambda **p: LabelMargin(torch.from_numpy(self.class_mass_.astype(np.float32)), **p),
            "expected_cost": lambda **p: ExpectedCost(
                torch.from_numpy(cost_table(self.cost_matrix, self._labels()).astype(np.float32)), **p
            ),
        }
        try:
            loss: Loss = made[self.loss](**parameters)
        except TypeError:
            raise EnsembleKitError(
                f"`loss_params` must be parameters of loss={self.loss!r}; got {parameters}. "
                "Focal has `gamma`; ldam has `max_margin`, `beta` and `defer`."
            ) from None
        return loss

    def predict_log_proba(self, X: Any) -> Any:
        """Return log-probabilities of the labels.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            Columns as in `fit`, the rows of history in front (`lookback` of them).

        Returns
        -------
        ndarray of float64, shape (n, K), or list of H such arrays
            In the order of `classes_`.
        """
        return self._unstack(self._log_proba(X))

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
            The last row of `predict_log_proba`, up to the rounding of float32 (products of one
            window are summed in another order than those of many).

        Raises
        ------
        EnsembleKitError
            If `window` has another shape.
        """
        rows = self._window(window)
        with torch_threads(self.n_threads):
            return self._newest(output_of_window(self.net_.module_, rows, device=resolve_device(self.device)))

    def _newest(self, outputs: torch.Tensor) -> FloatArray:
        """Turn the outputs (H, K) of one row into log-probabilities, shape (K,) or (H, K)."""
        log_proba: FloatArray = torch.log_softmax(outputs.double(), dim=1).cpu().numpy()
        return log_proba if isinstance(self.classes_, list) else log_proba[0]

    def predict_proba(self, X: Any) -> Any:
        """Return probabilities of the labels.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            Columns as in `fit`.

        Returns
        -------
        ndarray of float64, shape (n, K), or list of H such arrays
            In the order of `classes_`.
        """
        return self._unstack(np.exp(self._log_proba(X)))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable labels.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            Columns as in `fit`.

        Returns
        -------
        ndarray of shape (n,) or (n, H)
            Labels.
        """
        codes = self._log_proba(X).argmax(axis=2)
        return Targets(codes, self._labels(), not isinstance(self.classes_, list)).decode(codes)

    def _unstack(self, answer: FloatArray) -> Any:
        return unstack_horizons(answer, not isinstance(self.classes_, list))

    def _log_proba(self, X: Any) -> FloatArray:
        answer: FloatArray = log_softmax(self._outputs(X), axis=2)
        return answer

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
