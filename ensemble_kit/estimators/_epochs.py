"""Training epoch by epoch: stopped early, told to callbacks, and resumed where it was broken off."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import LRScheduler
from skorch.helper import predefined_split
from torch import Tensor, nn

from ensemble_kit.checkpoints import Checkpoint, checkpoint
from ensemble_kit.estimators._training import WindowDataset
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.fingerprint import fingerprint, versions

__all__ = ["CALLBACK_STATE", "FitTasks", "fit_checkpoint", "run_epochs"]

_LOG = logging.getLogger(__name__)

#: Parameters that change nothing, or whose effect stands in the key itself (seeds, first weights, device).
_NOT_IN_KEY = {"verbose", "random_state", "warm_start", "device"}

#: What scikit-learn's callbacks leave on an estimator: no part of a stored model.
CALLBACK_STATE = {"_skl_callbacks", "_skl_callbacks_to_teardown", "_callback_fit_ctx", "_parent_callback_ctx"}


class FitTasks:
    """A fit and its epochs as scikit-learn's callbacks see them.

    Parameters
    ----------
    estimator : SequenceEstimator
        Its `epochs_` grow by the epochs that callbacks are told of.
    X, y, sample_weight : object
        What it is fitted on.

    Notes
    -----
    An epoch's losses are in ``estimator.epochs_[-1]``. They are not in the hooks' `metadata`,
    all of which scikit-learn's `ScoringMonitor` hands to its scorer. A hook's `fitted_estimator`
    answers as the epoch left the network; the best epoch is chosen in the end.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> None:
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._told: dict[str, Any] = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._estimator = estimator
        self._fit = estimator._init_callback_context(max_subtasks=estimator.max_epochs)  # noqa: SLF001 - its protocol
        self._fit.call_on_fit_task_begin(**self._told)
        estimator.epochs_ = []

    def begin(self, epoch: int) -> None:
        """Tell that an epoch begins, unless it was told of before.

        Parameters
        ----------
        epoch : int
            From 1.
        """
        if epoch > len(self._estimator.epochs_):
            self._epoch = self._fit.subcontext(task_name="epoch").call_on_fit_task_begin(**self._told)

    def end(self, entry: dict[str, Any], *, done_before: bool = False) -> bool:
        """Tell that an epoch has ended, unless it was told of before.

        Parameters
        ----------
        entry : dict
            The epoch's losses.
        done_before : bool, default=False
            Whether an earlier process trained it, so that its network is not at hand.

        Returns
        -------
        bool
            Whether a callback wants training to end here.
        """
        epochs = self._estimator.epochs_
        if entry["epoch"] <= len(epochs):
            return False
        epochs.append(entry)
        fitted = None if done_before else {"epochs_": list(epochs), "n_iter_": len(epochs)}
        return bool(self._epoch.call_on_fit_task_end(**self._told, reconstruction_attributes=fitted))

    def close(self) -> None:
        """Tell that the fit has ended."""
        self._fit.call_on_fit_task_end(**self._told, reconstruction_attributes={})


def fit_checkpoint(
    estimator: Any, net: NeuralNet, train: WindowDataset, stop: WindowDataset, seeds: tuple[int, ...]
) -> Checkpoint | None:
    """Return where a fit keeps its epochs: under a fingerprint of all that they depend on.

    Parameters
    ----------
    estimator : SequenceEstimator
        Its class and parameters.
    net : skorch.NeuralNet
        With the first weights, on the device where it trains.
    train, stop : WindowDataset
        What is learned from, and what says when to stop.
    seeds : tuple of int
        Of shuffling and dropout.

    Returns
    -------
    Checkpoint or None
        None where no folder is in force, and for a fit that cannot be repeated or restored:
        `random_state` None, or `net_params` that are not all numbers and texts (a callback, a
        sampler or a generator has a state that nobody can put back).
    """
    if estimator.random_state is None or not all(map(_is_plain, (estimator.net_params or {}).values())):
        return None

    def key() -> str:
        parameters = {name: v for name, v in estimator.get_params(deep=False).items() if name not in _NOT_IN_KEY}
        modules = (net.module_, net.criterion_)
        return fingerprint(
            f"{type(estimator).__module__}.{type(estimator).__qualname__}",
            parameters,
            [(repr(m), {name: value.cpu().numpy() for name, value in m.state_dict().items()}) for m in modules],
            train.windows.content(),
            train.content(),
            stop.content(),
            (*seeds, torch.device(net.device).type),
            versions(),
        )

    return checkpoint(key)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | bool | int | float | np.number)


@dataclass
class _Run:
    """Where training stands between two epochs."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = np.inf
    best: dict[str, Tensor] = field(default_factory=dict)

    def add(self, entry: dict[str, Any], module: nn.Module) -> None:
        self.epochs.append(entry)
        if entry["valid_loss"] is not None and entry["valid_loss"] < self.best_loss:
            self.best_epoch, self.best_loss = entry["epoch"], entry["valid_loss"]
            self.best = {name: value.clone() for name, value in module.state_dict().items()}

    def has_ended(self, last: int, patience: int) -> bool:
        waited = len(self.epochs) - self.best_epoch if self.best else 0
        return len(self.epochs) >= last or waited >= patience


def run_epochs(
    net: NeuralNet,
    train: WindowDataset,
    stop: WindowDataset,
    tasks: FitTasks,
    kept: Checkpoint | None,
    *,
    max_epochs: int,
    patience: int,
    verbose: int,
) -> list[dict[str, Any]]:
    """Train epoch by epoch, to the best epoch by the loss on the stop rows.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialised net. The best epoch's weights are put back into it.
    train, stop : WindowDataset
        What is learned from, and what says when to stop (may be empty).
    tasks : FitTasks
        Who is told of each epoch, and may end training after it.
    kept : Checkpoint or None
        Where the state after each epoch is kept, and taken up again.
    max_epochs : int
        Epochs at most.
    patience : int
        Epochs without a better loss on `stop` before training ends.
    verbose : int
        Whether to log each epoch.

    Returns
    -------
    list of dict
        Per epoch: `epoch`, `train_loss`, `valid_loss` (None without stop rows), `learning_rate`
        (that of the next epoch), `duration` in s.

    Raises
    ------
    EnsembleKitError
        If a loss is not finite.

    Notes
    -----
    Epochs run one at a time through `fit_loop`: skorch's own `fit` stops early by raising
    KeyboardInterrupt, and swallows the user's as well.
    """
    net.train_split = predefined_split(stop) if len(stop) else None
    net.notify("on_train_begin", X=train, y=None)
    run, last = _take_up(net, kept, tasks, max_epochs)
    while not run.has_ended(last, patience):
        epoch = len(run.epochs) + 1
        tasks.begin(epoch)
        net.criterion_.begin_epoch((epoch - 1) / max_epochs)
        net.fit_loop(train, epochs=1)
        run.add(_record(net, epoch, verbose=verbose), net.module_)
        if kept is not None:
            kept.save(_state(net, run))
        if tasks.end(run.epochs[-1]):
            break
    if run.best:
        net.module_.load_state_dict(run.best)
    net.notify("on_train_end", X=train, y=None)
    net.train_split = None  # the stop rows' windows hold the whole matrix
    return run.epochs


def _take_up(net: NeuralNet, kept: Checkpoint | None, tasks: FitTasks, max_epochs: int) -> tuple[_Run, int]:
    """Return where training stands, and the epoch that it may reach; tell of epochs done before."""
    state = None if kept is None else kept.load()
    if state is None:
        return _Run(), max_epochs
    done = state["run"]["epochs"]
    for entry in done:
        tasks.begin(entry["epoch"])
        if tasks.end(entry, done_before=True):
            # Other callbacks than those of the earlier process may end training before where it stands.
            return (_restore(net, state) if entry is done[-1] else _Run()), entry["epoch"]
    _LOG.info("epochs 1 to %d were done before", len(done))
    return _restore(net, state), max_epochs


def _state(net: NeuralNet, run: _Run) -> dict[str, Any]:
    """Return all that the epochs to come depend on."""
    buffer = io.BytesIO()
    parts = {name: part.state_dict() for name, part in _stateful(net).items()}
    torch.save({"parts": parts, "generators": [g.get_state() for g in _generators(net)], "best": run.best}, buffer)
    return {
        "tensors": buffer.getvalue(),
        "run": {"epochs": run.epochs, "best_epoch": run.best_epoch, "best_loss": run.best_loss},
        # Nothing reads the batches of earlier epochs; they would make files grow.
        "history": [row | {"batches": []} for row in net.history],
    }


def _restore(net: NeuralNet, state: dict[str, Any]) -> _Run:
    tensors = torch.load(io.BytesIO(state["tensors"]), map_location="cpu", weights_only=False)
    for name, part in _stateful(net).items():
        part.load_state_dict(tensors["parts"][name])
    for generator, drawn in zip(_generators(net), tensors["generators"], strict=True):
        generator.set_state(drawn)
    net.history.extend(state["history"])
    return _Run(**state["run"], best=tensors["best"])


def _stateful(net: NeuralNet) -> dict[str, Any]:
    """Return the network, the loss, the optimizer and the schedules, by name."""
    schedules = {name: one.lr_scheduler_ for name, one in net.callbacks_ if isinstance(one, LRScheduler)}
    return {"module_": net.module_, "criterion_": net.criterion_, "optimizer_": net.optimizer_} | schedules


def _generators(net: NeuralNet) -> list[torch.Generator]:
    """Return who draws: the shuffling, and the layers that have a generator of their own."""
    layers = [getattr(layer, "generator", None) for layer in net.module_.modules()]
    drawing = [net.iterator_train__generator, net.iterator_valid__generator, *layers]
    return list(dict.fromkeys(one for one in drawing if one is not None))


def _record(net: NeuralNet, epoch: int, *, verbose: int) -> dict[str, Any]:
    latest = net.history[-1]
    entry = {
        "epoch": epoch,
        "train_loss": float(latest["train_loss"]),
        "valid_loss": float(latest["valid_loss"]) if "valid_loss" in latest else None,
        "learning_rate": float(net.optimizer_.param_groups[0]["lr"]),
        "duration": float(latest["dur"]),
    }
    if verbose:
        _LOG.info("epoch %(epoch)d: train_loss %(train_loss).5f, valid_loss %(valid_loss)s, %(duration).1f s", entry)
    if not np.isfinite([loss for loss in (entry["train_loss"], entry["valid_loss"]) if loss is not None]).all():
        raise EnsembleKitError(
            f"`learning_rate` must be small enough for a finite loss; got {net.lr} and a loss of "
            f"{entry['train_loss']:g} in epoch {epoch}. Lower it, scale the columns, or set `clip`."
        )
    return entry
