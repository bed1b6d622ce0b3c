"""The base of all sequence models: a 2-D matrix in, log-probabilities out, windows built inside."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from ensemble_kit.bars import RowKeys, row_keys
from ensemble_kit.estimators._parameters import (
    AT_LEAST_0,
    CLASS_WEIGHT,
    FRACTION,
    MAPPING_OR_NONE,
    POSITIVE,
    POSITIVE_OR_NONE,
    WHOLE,
    WHOLE_OR_0,
    Domain,
    check_parameters,
)
from ensemble_kit.estimators._rows import class_weights, newest_block
from ensemble_kit.estimators._training import (
    WindowDataset,
    build_seeded,
    log_softmax_of_windows,
    make_net,
    resolve_device,
    run_epochs,
    torch_threads,
)
from ensemble_kit.estimators.networks.dropout import seed_dropout
from ensemble_kit.estimators.windows import Windows
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import Targets, check_row_weights, unstack_horizons
from ensemble_kit.validation import check_panel_index

__all__ = ["SequenceClassifier"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class SequenceClassifier(ClassifierMixin, BaseEstimator):
    """Base of classifiers that see the last `seq_len` rows of every row.

    The matrix stays two-dimensional and windows are built inside, batch by batch. Row t is
    answered from rows t - seq_len + 1 to t of its own instrument; rows with less history see
    zeros in front. Training is weighted cross-entropy over all horizons with AdamW, stopped on
    the newest rows.

    Parameters
    ----------
    seq_len : int, default=48
        Rows a window, the row itself included.
    dropout : float, default=0.1
        Dropout probability in the network.
    max_epochs : int, default=10
        Epochs at most.
    batch_size : int, default=128
        Windows a batch, in training and in prediction.
    learning_rate : float, default=1e-3
        Step size of AdamW.
    weight_decay : float, default=0.01
        Decoupled weight decay of AdamW.
    class_weight : dict, "balanced" or None, default=None
        Weight of each label (1 where the dict has none), or weights that give every class of a
        horizon the same total on the rows that are fitted.
    validation_fraction : float, default=0.1
        The newest part of the distinct times, held out to stop early and to choose the best
        epoch. 0, or a block of fewer than ten distinct times: no block; all rows are fitted
        for `max_epochs`.
    validation_purge : int, default=0
        Distinct times left out before that block: as many bars as a label looks ahead.
    patience : int, default=3
        Epochs without a better loss on the block before training ends.
    clip : float or None, default=10.0
        Columns are cut to +-clip. They should arrive scaled; a single bar without volume can
        otherwise make a ratio of volumes 1e12. None turns it off.
    gradient_clip : float or None, default=1.0
        Largest norm of the gradient of a step.
    device : str, default="cpu"
        "cpu", "cuda", "cuda:1", ..., or "auto" for a GPU where there is one. May be set anew
        on a fitted model.
    n_threads : int, default=1
        Threads of torch while this model fits or predicts. Another number gives other bits.
    random_state : int, RandomState instance or None, default=None
        First weights, shuffling and dropout. The same number gives the same bits on a CPU.
    verbose : bool, default=False
        Log one line an epoch at level INFO (seen after ``logging.basicConfig(level="INFO")``).
    net_params : dict or None, default=None
        Further parameters of the `skorch.NeuralNet`.

    Attributes
    ----------
    classes_ : ndarray of shape (K,), or list of H such arrays
        The labels on rows of weight above 0; a list where `y` had several horizons.
    net_ : skorch.NeuralNet
        The trained net; ``net_.module_`` is the torch network.
    n_parameters_ : int
        Trainable numbers in the network.
    history_ : list of dict
        Per epoch: `epoch`, `train_loss`, `valid_loss` (None without a block), `duration` in s.
    n_iter_ : int
        Epochs run.
    panel_ : bool
        Whether the model was fitted on several instruments' rows (datetime, instrument).
    row_usage_ : dict of ndarray
        Positions in the fitted `X` used to "fit" and to "stop".

    Notes
    -----
    A subclass supplies `_build_module`, its own parameters in `__init__` (the shared ones pass
    through ``**shared`` and join the signature) and their domains in `_domains`.

    In a pickle, and in safer formats, the network is a dict of numpy arrays.
    """

    _domains: ClassVar[dict[str, Domain]] = {
        "seq_len": WHOLE,
        "dropout": FRACTION,
        "max_epochs": WHOLE,
        "batch_size": WHOLE,
        "learning_rate": POSITIVE,
        "weight_decay": AT_LEAST_0,
        "class_weight": CLASS_WEIGHT,
        "validation_fraction": FRACTION,
        "validation_purge": WHOLE_OR_0,
        "patience": WHOLE,
        "clip": POSITIVE_OR_NONE,
        "gradient_clip": POSITIVE_OR_NONE,
        "n_threads": WHOLE,
        "net_params": MAPPING_OR_NONE,
    }

    def __init__(
        self,
        seq_len: int = 48,
        *,
        dropout: float = 0.1,
        max_epochs: int = 10,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        class_weight: Mapping[Any, float] | str | None = None,
        validation_fraction: float = 0.1,
        validation_purge: int = 0,
        patience: int = 3,
        clip: float | None = 10.0,
        gradient_clip: float | None = 1.0,
        device: str = "cpu",
        n_threads: int = 1,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        net_params: Mapping[str, Any] | None = None,
    ) -> None:
        self.seq_len = seq_len
        self.dropout = dropout
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.validation_purge = validation_purge
        self.patience = patience
        self.clip = clip
        self.gradient_clip = gradient_clip
        self.device = device
        self.n_threads = n_threads
        self.random_state = random_state
        self.verbose = verbose
        self.net_params = net_params

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # scikit-learn reads parameters off the signature: write the shared ones into it, so that
        # a family lists only its own.
        init = cls.__dict__.get("__init__")
        own = {} if init is None else dict(inspect.signature(init).parameters)
        passing = [name for name, p in own.items() if p.kind is p.VAR_KEYWORD]
        if passing:
            del own[passing[0]]
            inherited = inspect.signature(super(cls, cls).__init__).parameters
            shared = {name: p for name, p in inherited.items() if p.kind is p.KEYWORD_ONLY and name not in own}
            init.__signature__ = inspect.Signature([*own.values(), *shared.values()])  # type: ignore[union-attr]
        super().__init_subclass__(**kwargs)

    def _build_module(self, n_features: int, n_horizons: int, n_classes: int) -> torch.nn.Module:
        """Return the untrained network: windows (B, seq_len, F) to logits (B, H, K).

        Dropout must be `networks.dropout.Dropout`, which has a generator of its own.
        """
        raise NotImplementedError(f"{type(self).__name__} must supply `_build_module`.")

    @property
    def lookback(self) -> int:
        """How many earlier rows an answer depends on."""
        return self.seq_len - 1

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on the rows of weight above 0, the newest of which say when to stop.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            Scaled columns in time order; NaN counts as 0. A panel is indexed by (datetime,
            instrument).
        y : array-like of shape (n,) or (n, H)
            Labels, one column a horizon.
        sample_weight : array-like of shape (n,), default=None
            Row weights. A row of 0 is history only: it stands in later rows' windows, its
            label is never read.

        Returns
        -------
        SequenceClassifier
            The model itself.

        Raises
        ------
        EnsembleKitError
            If a parameter, a label, a weight or the index is wrong, if fewer than two classes
            are left, or if the loss is not finite.
        """
        check_parameters(self)
        check_panel_index(X, y)
        device = resolve_device(self.device)
        windows, keys = self._windows(X, y, reset=True)
        weights = check_row_weights(sample_weight, len(windows))
        check_consistent_length(X, y)
        used = np.flatnonzero(weights)
        targets = Targets.encode(y.iloc[used] if isinstance(y, pd.DataFrame | pd.Series) else np.asarray(y)[used])
        if len(targets.classes) < 2:
            raise EnsembleKitError(
                f"`y` must hold at least two classes on rows of weight above 0; got one class, "
                f"{targets.classes.tolist()}. Fit on more rows."
            )
        fit, stop = newest_block(keys.time, used, self.validation_fraction, self.validation_purge)
        self.panel_ = keys.panel
        self.row_usage_ = {"fit": fit, "stop": stop}
        self.classes_: Any = targets.classes if targets.single else [targets.classes] * targets.n_horizons

        counted = weights[used] * np.isin(used, fit)
        loss_weights = weights[used, None] * class_weights(self.class_weight, targets, counted)
        train, block = (
            WindowDataset(windows, rows, targets.codes[chosen], loss_weights[chosen])
            for rows, chosen in ((rows, np.searchsorted(used, rows)) for rows in (fit, stop))
        )
        with torch_threads(self.n_threads):
            self._train(train, block, device)
        return self

    def _train(self, train: WindowDataset, stop: WindowDataset, device: torch.device) -> None:
        first, shuffle, dropout = check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=3).tolist()
        module = build_seeded(lambda: self._build_module(*self._shape()), first)
        seed_dropout(module, device, dropout)
        self.net_ = self._wrap(module, device, shuffle)
        self.n_parameters_ = sum(p.numel() for p in module.parameters() if p.requires_grad)
        self.history_ = run_epochs(
            self.net_, train, stop, max_epochs=self.max_epochs, patience=self.patience, verbose=self.verbose
        )
        self.n_iter_ = len(self.history_)

    def _wrap(self, module: torch.nn.Module, device: torch.device, seed: int = 0) -> Any:
        return make_net(
            module,
            device=device,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            seed=seed,
            net_params=self.net_params,
        )

    def _shape(self) -> tuple[int, int, int]:
        single = not isinstance(self.classes_, list)
        n_horizons, classes = (1, self.classes_) if single else (len(self.classes_), self.classes_[0])
        return self.n_features_in_, n_horizons, len(classes)

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
        single = not isinstance(self.classes_, list)
        return Targets(codes, self.classes_ if single else self.classes_[0], single).decode(codes)

    def _unstack(self, answer: FloatArray) -> Any:
        return unstack_horizons(answer, not isinstance(self.classes_, list))

    def _log_proba(self, X: Any) -> FloatArray:
        check_is_fitted(self)
        device = resolve_device(self.device)
        check_panel_index(X, fitted_on_panel=self.panel_)
        windows, _ = self._windows(X, reset=False)
        with torch_threads(self.n_threads):
            return log_softmax_of_windows(self.net_.module_, windows, batch_size=self.batch_size, device=device)

    def _windows(self, X: Any, y: Any = "no_validation", *, reset: bool) -> tuple[Windows, RowKeys]:
        # `Targets` checks labels; scikit-learn only says that there must be some.
        y = None if y is None else "no_validation"
        matrix = validate_data(self, X, y, dtype=np.float32, ensure_all_finite="allow-nan", reset=reset)
        keys = row_keys(X if isinstance(X, pd.DataFrame) else matrix)
        bound = np.inf if self.clip is None else self.clip
        matrix = np.nan_to_num(np.clip(matrix, -bound, bound), copy=False)
        return Windows(matrix, keys, self.seq_len), keys

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "net_" in state:
            state["net_"] = {name: value.cpu().numpy() for name, value in self.net_.module_.state_dict().items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        weights = state.pop("net_", None)
        super().__setstate__(state)
        if weights is not None:
            module = build_seeded(lambda: self._build_module(*self._shape()), 0)
            module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
            # On the CPU: the machine that loads a model need not have the device that trained it.
            self.net_ = self._wrap(module, torch.device("cpu"))
