"""The base of all sequence models: a 2-D matrix in, answers out, windows built inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from ensemble_kit.bars import RowKeys, row_keys
from ensemble_kit.estimators._epochs import CALLBACK_STATE, FitTasks, fit_checkpoint, run_epochs
from ensemble_kit.estimators._parameters import (
    AT_LEAST_0,
    FLAG,
    FRACTION,
    MAPPING_OR_NONE,
    ONE_OF,
    POSITIVE,
    POSITIVE_OR_NONE,
    WHOLE,
    WHOLE_OR_0,
    Domain,
    check_parameters,
)
from ensemble_kit.estimators._rows import newest_block
from ensemble_kit.estimators._signature import join_signatures
from ensemble_kit.estimators._torch import build_seeded, resolve_device, torch_threads
from ensemble_kit.estimators._training import OPTIMIZERS, Net, WindowDataset, make_net, outputs_of_windows
from ensemble_kit.estimators.networks.dropout import seed_dropout
from ensemble_kit.estimators.networks.head import WithHead
from ensemble_kit.estimators.networks.losses import Loss
from ensemble_kit.estimators.windows import Windows
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import check_row_weights
from ensemble_kit.validation import check_panel_index

__all__ = ["SequenceEstimator"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_OPTIMIZER: Domain = (
    f"one of {', '.join(map(repr, OPTIMIZERS))}, or a class of `torch.optim`",
    lambda v: (
        (isinstance(v, str) and v in OPTIMIZERS) or (isinstance(v, type) and issubclass(v, torch.optim.Optimizer))
    ),
)


class SequenceEstimator(CallbackSupportMixin, BaseEstimator):
    """Base of models that see the last `seq_len` rows of every row.

    The matrix stays two-dimensional and windows are built inside, batch by batch. Row t is
    answered from rows t - seq_len + 1 to t of its own instrument; rows with less history see
    zeros in front. Training ends by the loss on the newest rows.

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
    optimizer : {"adamw", "adam", "sgd", "rmsprop"} or class, default="adamw"
        Or any other class of `torch.optim`; its further parameters go into `net_params` as
        ``optimizer__<name>``.
    learning_rate : float, default=1e-3
        Its step size.
    weight_decay : float, default=0.01
        Its weight decay (AdamW's is decoupled).
    schedule : {"cosine", "plateau"} or None, default=None
        How the step size falls: to 0 over `max_epochs`, or by half after two epochs without
        a better loss on the newest block.
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
    device : str, default="auto"
        "cpu", "cuda", "cuda:1", ..., or "auto" for a GPU where there is one. May be set anew
        on a fitted model.
    precision : {"float32", "bf16"}, default="float32"
        "bf16" lets the network multiply in bfloat16, where the hardware is faster at it. One
        window alone is always answered in float32.
    n_threads : int, default=1
        Threads of torch while this model fits or predicts. Another number gives other bits.
    random_state : int, RandomState instance or None, default=None
        First weights, shuffling and dropout. The same number gives the same bits on a CPU.
    warm_start : bool, default=False
        Whether `fit` goes on from the weights that the last one ended with.
    verbose : int, default=0
        1 logs one line an epoch at level INFO (seen after ``logging.basicConfig(level="INFO")``);
        2 shows a progress bar, too.
    net_params : dict or None, default=None
        Further parameters of the `skorch.NeuralNet`.

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The trained net; ``net_.module_`` is the torch network.
    n_parameters_ : int
        Trainable numbers in the network.
    epochs_ : list of dict
        What `history_` shows as a frame.
    n_iter_ : int
        Epochs run.
    panel_ : bool
        Whether the model was fitted on several instruments' rows (datetime, instrument).
    row_usage_ : dict of ndarray
        Positions in the fitted `X` used to "fit" and to "stop".

    Notes
    -----
    A family supplies `_build_trunk`, its own parameters in `__init__` (the shared ones pass
    through ``**shared`` and join the signature) and their domains in `_domains`.

    In a pickle, and in safer formats, the network is a dict of numpy arrays; a fitted model's
    callbacks are left out.

    scikit-learn's callbacks (`set_callbacks`) see each epoch as a task, and may end training by
    returning True. Inside `checkpoints.checkpoints_in` a fit that was killed goes on from its
    last whole epoch and ends with the same bits; not so with ``random_state=None``, or where
    `net_params` hold anything but numbers and texts.
    """

    _domains: ClassVar[dict[str, Domain]] = {
        "seq_len": WHOLE,
        "dropout": FRACTION,
        "max_epochs": WHOLE,
        "batch_size": WHOLE,
        "optimizer": _OPTIMIZER,
        "learning_rate": POSITIVE,
        "weight_decay": AT_LEAST_0,
        "schedule": ONE_OF(None, "cosine", "plateau"),
        "validation_fraction": FRACTION,
        "validation_purge": WHOLE_OR_0,
        "patience": WHOLE,
        "clip": POSITIVE_OR_NONE,
        "gradient_clip": POSITIVE_OR_NONE,
        "precision": ONE_OF("float32", "bf16"),
        "n_threads": WHOLE,
        "warm_start": FLAG,
        "net_params": MAPPING_OR_NONE,
    }

    def __init__(
        self,
        seq_len: int = 48,
        *,
        dropout: float = 0.1,
        max_epochs: int = 10,
        batch_size: int = 128,
        optimizer: str | type[torch.optim.Optimizer] = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        schedule: str | None = None,
        validation_fraction: float = 0.1,
        validation_purge: int = 0,
        patience: int = 3,
        clip: float | None = 10.0,
        gradient_clip: float | None = 1.0,
        device: str = "auto",
        precision: str = "float32",
        n_threads: int = 1,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        net_params: Mapping[str, Any] | None = None,
    ) -> None:
        self.seq_len = seq_len
        self.dropout = dropout
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.validation_fraction = validation_fraction
        self.validation_purge = validation_purge
        self.patience = patience
        self.clip = clip
        self.gradient_clip = gradient_clip
        self.device = device
        self.precision = precision
        self.n_threads = n_threads
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.net_params = net_params

    def __init_subclass__(cls, **kwargs: Any) -> None:
        join_signatures(cls)
        super().__init_subclass__(**kwargs)

    net_: Net

    #: Whether a network in training answers for every bar of the window, (B, L, H, K).
    _every_bar = False

    def _build_trunk(self, n_features: int) -> torch.nn.Module:
        """Return the untrained trunk: windows (B, seq_len, F) to states (B, D), D its `n_outputs`.

        Dropout must be `networks.dropout.Dropout`, which has a generator of its own.
        """
        raise NotImplementedError(f"{type(self).__name__} must supply `_build_trunk`.")

    def _encode(self, y: Any, counted: FloatArray, *, again: bool) -> tuple[NDArray[Any], FloatArray]:
        """Learn what `y` is, and return it as the loss takes it, with the weights of its cells.

        `y` holds the rows of weight above 0; `counted` their weights, 0 on stop rows; `again`
        says that training goes on from an earlier fit.
        """
        raise NotImplementedError

    def _loss(self) -> Loss:
        """Return what is minimised."""
        raise NotImplementedError

    def _answers(self) -> tuple[int, int]:
        """Return how many horizons there are, and outputs of each."""
        raise NotImplementedError

    @property
    def lookback(self) -> int:
        """How many earlier rows an answer depends on."""
        return self.seq_len - 1

    @property
    def history_(self) -> pd.DataFrame:
        """Return the training, one row an epoch.

        Columns `train_loss`, `valid_loss` (NaN without a block), `learning_rate` (that of the
        next epoch) and `duration` in s.
        """
        check_is_fitted(self)
        return pd.DataFrame(self.epochs_).set_index("epoch").astype(np.float64)

    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on the rows of weight above 0, the newest of which say when to stop.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            Scaled columns in time order; NaN counts as 0. A panel is indexed by (datetime,
            instrument).
        y : array-like of shape (n,) or (n, H)
            Targets, one column a horizon.
        sample_weight : array-like of shape (n,), default=None
            Row weights. A row of 0 is history only: it stands in later rows' windows, its
            target is never read.

        Returns
        -------
        SequenceEstimator
            The model itself.

        Raises
        ------
        EnsembleKitError
            If a parameter, a target, a weight or the index is wrong, or if the loss is not
            finite.
        """
        check_parameters(self)
        check_panel_index(X, y, sample_weight=sample_weight)
        device = resolve_device(self.device)
        again = self.warm_start and hasattr(self, "net_")
        windows, keys = self._windows(X, y, reset=not again)
        weights = check_row_weights(sample_weight, len(windows))
        check_consistent_length(X, y)
        used = np.flatnonzero(weights)
        fit, stop = newest_block(keys.time, used, self.validation_fraction, self.validation_purge)
        learned = y.iloc[used] if isinstance(y, pd.DataFrame | pd.Series) else np.asarray(y)[used]
        targets, cells = self._encode(learned, weights[used] * np.isin(used, fit), again=again)
        self.panel_ = keys.panel
        self.row_usage_ = {"fit": fit, "stop": stop}
        train, block = (
            WindowDataset(
                windows, rows, targets[at], weights[rows, None] * cells[at], every_bar=self._every_bar and rows is fit
            )
            for rows, at in ((rows, np.searchsorted(used, rows)) for rows in (fit, stop))
        )
        tasks = FitTasks(self, X, y, sample_weight)
        with torch_threads(self.n_threads):
            self._train(train, block, device, tasks, again=again)
        tasks.close()
        return self

    def _train(
        self, train: WindowDataset, stop: WindowDataset, device: torch.device, tasks: FitTasks, *, again: bool
    ) -> None:
        first, shuffle, dropout = check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=3).tolist()
        module = self.net_.module_ if again else build_seeded(self._build_module, first)
        seed_dropout(module.to(device), device, dropout)
        self.net_ = self._wrap(module, device, shuffle)
        self.n_parameters_ = sum(p.numel() for p in module.parameters() if p.requires_grad)
        kept = fit_checkpoint(self, self.net_, train, stop, (shuffle, dropout))
        limits = {"max_epochs": self.max_epochs, "patience": self.patience}
        self.epochs_ = run_epochs(self.net_, train, stop, tasks, kept, **limits, verbose=self.verbose)
        self.n_iter_ = len(self.epochs_)

    def _build_module(self) -> torch.nn.Module:
        return WithHead(self._build_trunk(self.n_features_in_), *self._answers(), dropout=self.dropout)

    def _wrap(self, module: torch.nn.Module, device: torch.device, seed: int = 0) -> Net:
        return make_net(
            module,
            self._loss(),
            device=device,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            max_epochs=self.max_epochs,
            gradient_clip=self.gradient_clip,
            precision=self.precision,
            bar=self.verbose > 1,
            seed=seed,
            net_params=self.net_params,
        )

    def _outputs(self, X: Any) -> FloatArray:
        """Return what the network says of each row, shape (n, H, K)."""
        check_is_fitted(self)
        device = resolve_device(self.device)
        check_panel_index(X, fitted_on_panel=self.panel_)
        windows, _ = self._windows(X, reset=False)
        with torch_threads(self.n_threads):
            return outputs_of_windows(
                self.net_.module_, windows, batch_size=self.batch_size, device=device, precision=self.precision
            )

    def _window(self, window: Any) -> NDArray[np.float32]:
        """Return the newest rows of one instrument as the network sees them, shape (seq_len, F)."""
        check_is_fitted(self)
        matrix = np.asarray(window, dtype=np.float32)[-self.seq_len :]
        if matrix.ndim != 2 or matrix.shape[1] != self.n_features_in_ or not len(matrix):
            raise EnsembleKitError(
                f"`window` must have shape (m, {self.n_features_in_}) with at least one row; got {np.shape(window)}. "
                "Give the newest rows, with the columns of `fit`."
            )
        padded = np.zeros((self.seq_len, matrix.shape[1]), dtype=np.float32)
        padded[-len(matrix) :] = self._within_bounds(matrix)
        return padded

    def _within_bounds(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        bound = np.inf if self.clip is None else self.clip
        return np.nan_to_num(np.clip(matrix, -bound, bound), copy=False)

    def _windows(self, X: Any, y: Any = "no_validation", *, reset: bool) -> tuple[Windows, RowKeys]:
        # `_encode` checks targets; scikit-learn only says that there must be some.
        y = None if y is None else "no_validation"
        matrix = validate_data(self, X, y, dtype=np.float32, ensure_all_finite="allow-nan", reset=reset)
        keys = row_keys(X if isinstance(X, pd.DataFrame) else matrix)
        return Windows(self._within_bounds(matrix), keys, self.seq_len), keys

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.multi_output = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "net_" in state:
            state = {name: value for name, value in state.items() if name not in CALLBACK_STATE}
            state["net_"] = {name: value.cpu().numpy() for name, value in self.net_.module_.state_dict().items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        weights = state.pop("net_", None)
        super().__setstate__(state)
        if weights is not None:
            module = build_seeded(self._build_module, 0)
            module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
            # On the CPU: the machine that loads a model need not have the device that trained it.
            self.net_ = self._wrap(module, torch.device("cpu"))
