"""What stands between arrays and torch: batches of windows, the skorch net, the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import Callback, GradientNormClipping, LRScheduler, ProgressBar
from torch import Tensor, nn
from torch.utils.data import Dataset

from ensemble_kit.estimators.networks.losses import Loss
from ensemble_kit.estimators.windows import Windows

__all__ = ["OPTIMIZERS", "Net", "WindowDataset", "make_net", "output_of_window", "outputs_of_windows"]

#: Names of optimizers; any other class of torch is given itself.
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}
_FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)

#: Products of fewer rows are summed in another order: a short window alone would differ in its last bits.
_FEWEST_ROWS = 4

Batch = tuple[Tensor, tuple[Tensor, Tensor]]


class WindowDataset(Dataset[Batch]):
    """Batches (windows, (targets, weights)), built when they are asked for.

    Parameters
    ----------
    windows : Windows
        All windows of the matrix.
    rows : ndarray of int64, shape (m,)
        The rows that are learned from.
    targets : ndarray of shape (m, H)
        Their class numbers (int64) or quantities (float32).
    weights : ndarray of float64, shape (m, H)
        Their weights; only proportions matter.
    every_bar : bool, default=False
        Whether a window comes with the targets of all its bars, (L, H) of them, those that are
        not among `rows` with weight 0.
    """

    def __init__(
        self,
        windows: Windows,
        rows: NDArray[np.int64],
        targets: NDArray[Any],
        weights: NDArray[np.float64],
        *,
        every_bar: bool = False,
    ) -> None:
        self.windows = windows
        self.rows = rows
        # Mean 1: the mean over a batch is then the loss, whatever the scale of the weights.
        weights = (weights * (weights.size / (weights.sum() or 1.0))).astype(np.float32)
        if every_bar:
            self.targets = torch.from_numpy(windows.scatter(rows, targets))
            self.weights = torch.from_numpy(windows.scatter(rows, weights))
        else:
            self.targets, self.weights = torch.from_numpy(targets), torch.from_numpy(weights)
        self.every_bar = every_bar

    def content(self) -> list[NDArray[Any]]:
        """Return all that training depends on, the windows aside.

        Returns
        -------
        list of ndarray
            Rows, targets and weights.
        """
        return [self.rows, self.targets.numpy(), self.weights.numpy()]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        where = np.asarray(indices)
        taken = torch.from_numpy(self.windows.take(self.rows[where]))
        if self.every_bar:
            where = self.windows.places(self.rows[where])  # (B, L)
        return taken, (self.targets[where], self.weights[where])


def _as_it_is(batch: Batch) -> Batch:
    return batch


class Net(NeuralNet):
    """skorch's net, whose network may compute in bfloat16; losses are always float32.

    Parameters
    ----------
    *args, **kwargs : object
        As `skorch.NeuralNet` takes them.
    precision : str, default="float32"
        Or "bf16".
    """

    def __init__(self, *args: Any, precision: str = "float32", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.precision = precision

    def infer(self, x: Any, **fit_params: Any) -> Tensor:
        """Return what the network says of a batch.

        Parameters
        ----------
        x : Tensor
            Windows.
        **fit_params : object
            Further arguments of the network.

        Returns
        -------
        Tensor
            In float32.
        """
        with _autocast(torch.device(self.device), self.precision):
            return super().infer(x, **fit_params).float()

    def _set_training(self, training: bool = True) -> None:
        # skorch would visit every layer before every batch.
        if self.module_.training is not training or self.criterion_.training is not training:
            super()._set_training(training)


class _ClipNorm(GradientNormClipping):
    """Find the parameters once: skorch would search all layers for them at every batch."""

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        super().on_train_begin(net, **kwargs)
        self.parameters_ = list(net.get_all_learnable_params())

    def on_grad_computed(self, net: NeuralNet, **kwargs: Any) -> None:
        super().on_grad_computed(net, **(kwargs | {"named_parameters": self.parameters_}))


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def make_net(
    module: nn.Module,
    loss: Loss,
    *,
    device: torch.device,
    batch_size: int,
    optimizer: str | type[torch.optim.Optimizer],
    learning_rate: float,
    weight_decay: float,
    schedule: str | None,
    max_epochs: int,
    gradient_clip: float | None,
    precision: str,
    bar: bool,
    seed: int = 0,
    net_params: Mapping[str, Any] | None = None,
) -> Net:
    """Wrap a network in an initialised skorch net.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    loss : Loss
        What is minimised.
    device : torch.device
        Where it trains.
    batch_size : int
        Windows a batch.
    optimizer : str or class
        One of `OPTIMIZERS`, or a class of torch.
    learning_rate, weight_decay : float
        Its own.
    schedule : {"cosine", "plateau"} or None
        How the learning rate falls.
    max_epochs : int
        Where the cosine reaches 0.
    gradient_clip : float or None
        Largest norm of the gradient.
    precision : {"float32", "bf16"}
        Of the network's computations in training.
    bar : bool
        Whether to show a progress bar.
    seed : int, default=0
        Seed of the shuffling.
    net_params : mapping or None, default=None
        Further parameters of the net. Its `callbacks` come after ours.

    Returns
    -------
    Net
        The net.
    """
    extra = dict(net_params or {})
    made = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    callbacks: list[tuple[str, Callback]] = [("gradient_clip", _ClipNorm(gradient_clip))]
    callbacks += _schedule(schedule, max_epochs)
    callbacks += [("bar", ProgressBar())] if bar else []
    # A generator of its own even where nothing is shuffled: a loader without one draws from the caller's.
    loading = {
        f"iterator_{role}__{name}": value
        for role, seed_of in (("train", seed), ("valid", 0))
        for name, value in (("collate_fn", _as_it_is), ("generator", torch.Generator().manual_seed(seed_of)))
    }
    settings = {
        "optimizer": made,
        "optimizer__weight_decay": weight_decay,
        "lr": learning_rate,
        "batch_size": batch_size,
        "iterator_train__shuffle": True,
        "train_split": None,
        "callbacks__print_log": None,
        "verbose": 0,
    }
    if issubclass(made, _FUSED):
        settings["optimizer__fused"] = True
    callbacks += extra.pop("callbacks", [])
    return Net(
        module, loss, device=device, precision=precision, callbacks=callbacks, **(settings | loading | extra)
    ).initialize()


def _schedule(schedule: str | None, max_epochs: int) -> list[tuple[str, Callback]]:
    if schedule == "cosine":
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR
        return [("schedule", LRScheduler(policy=cosine, T_max=max_epochs, event_name=None))]
    if schedule == "plateau":
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
        return [("schedule", LRScheduler(policy=plateau, monitor=_watched, factor=0.5, patience=1, event_name=None))]
    return []


def _watched(net: NeuralNet) -> float:
    """Return the loss on the stop rows, or on the fit rows where there are none."""
    latest = net.history[-1]
    return float(latest["valid_loss"] if "valid_loss" in latest else latest["train_loss"])


def outputs_of_windows(
    module: nn.Module, windows: Windows, *, batch_size: int, device: torch.device, precision: str
) -> NDArray[np.float64]:
    """Return what a network says of all windows, one batch at a time.

    Parameters
    ----------
    module : torch.nn.Module
        The trained network.
    windows : Windows
        The windows of n rows.
    batch_size : int
        Windows a batch.
    device : torch.device
        Where the network is moved to.
    precision : {"float32", "bf16"}
        Of the network's computations. One window alone is answered in float32.

    Returns
    -------
    ndarray of float64, shape (n, H, K)
        Logits, or quantities.
    """
    module.to(device).eval()
    rows = np.arange(len(windows))
    fewest = -(-_FEWEST_ROWS // windows.seq_len)
    parts: list[Tensor] = []
    with torch.inference_mode(), _autocast(device, precision if len(rows) > 1 else "float32"):
        for at in range(0, len(rows), batch_size):
            some = rows[at : at + batch_size]
            asked = np.concatenate([some, np.repeat(some[-1:], max(fewest - len(some), 0))])
            answers = module(torch.from_numpy(windows.take(asked)).to(device))[: len(some)]
            parts.append(answers.double().cpu())
    return torch.cat(parts).numpy()


def output_of_window(module: nn.Module, window: NDArray[np.float32], *, device: torch.device) -> Tensor:
    """Return what a network says of one window, in float32, without a loop over batches.

    Parameters
    ----------
    module : torch.nn.Module
        The trained network.
    window : ndarray of float32, shape (L, F)
        The newest row last.
    device : torch.device
        Where the network is moved to.

    Returns
    -------
    Tensor of shape (H, K)
        Logits, or quantities.
    """
    # Each walks through all layers, for a tenth of what the network itself takes.
    if module.training:
        module.eval()
    if next(module.parameters()).device != device:
        module.to(device)
    fewest = -(-_FEWEST_ROWS // len(window))
    with torch.inference_mode():
        asked = torch.from_numpy(window).to(device).expand(fewest, -1, -1)
        answer: Tensor = module(asked)[0]
    return answer
