"""What stands between arrays and torch: batches of windows, the loss, the skorch net, the epochs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import GradientNormClipping
from skorch.helper import predefined_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from ensemble_kit.estimators.windows import Windows
from ensemble_kit.exceptions import EnsembleKitError

__all__ = [
    "WindowDataset",
    "build_seeded",
    "log_softmax_of_windows",
    "make_net",
    "resolve_device",
    "run_epochs",
    "torch_threads",
]

_LOG = logging.getLogger(__name__)
_BUILDING = threading.Lock()

Batch = tuple[Tensor, tuple[Tensor, Tensor]]


def resolve_device(device: str) -> torch.device:
    """Return the torch device that a name stands for.

    Parameters
    ----------
    device : str
        "cpu", "cuda", "cuda:1", ..., or "auto": the GPU where there is one.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    EnsembleKitError
        If the name is none of these, or the machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = torch.device("meta")
    if resolved.type not in {"cpu", "cuda"}:
        raise EnsembleKitError(f"`device` must be 'cpu', 'cuda', 'cuda:<number>' or 'auto'; got {device!r}. Name one.")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise EnsembleKitError(
            f"`device` must be one that this machine has; got {device!r}, and torch sees "
            f"{torch.cuda.device_count()} CUDA device(s). Use `set_params(device='cpu')` or 'auto'."
        )
    return resolved


@contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """Let torch use so many threads for a while, in the calling thread only.

    Parameters
    ----------
    n_threads : int
        How many. Another number gives other bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network with seeded first weights; the caller's random state stays as it is.

    Parameters
    ----------
    build : callable
        Takes nothing, returns the network.
    seed : int
        The seed.

    Returns
    -------
    torch.nn.Module
        The network, on the CPU.
    """
    # Layers draw from torch's one CPU generator, so builders in several threads take turns.
    with _BUILDING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


class WindowDataset(Dataset[Batch]):
    """Batches (windows, (codes, weights)), built when they are asked for.

    Parameters
    ----------
    windows : Windows
        All windows of the matrix.
    rows : ndarray of int64, shape (m,)
        The rows that are learned from.
    codes : ndarray of int64, shape (m, H)
        Their class numbers.
    weights : ndarray of float64, shape (m, H)
        Their weights; only proportions matter.
    """

    def __init__(
        self, windows: Windows, rows: NDArray[np.int64], codes: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> None:
        self.windows = windows
        self.rows = rows
        self.codes = torch.from_numpy(codes)
        # Mean 1: the mean over a batch is then the loss, whatever the scale of the weights.
        self.weights = torch.from_numpy((weights * (weights.size / (weights.sum() or 1.0))).astype(np.float32))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        where = np.asarray(indices)
        return torch.from_numpy(self.windows.take(self.rows[where])), (self.codes[where], self.weights[where])


def _as_it_is(batch: Batch) -> Batch:
    return batch


class WeightedCrossEntropy(nn.Module):
    """Mean over rows and horizons of weight x cross-entropy."""

    def forward(self, logits: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        logits : Tensor of shape (B, H, K)
            What the network says.
        target : tuple of Tensor of shape (B, H)
            Class numbers and weights.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        codes, weights = target
        loss = cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
        return (loss * weights.flatten()).mean()


def make_net(
    module: nn.Module,
    *,
    device: torch.device,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    gradient_clip: float | None,
    seed: int = 0,
    net_params: Mapping[str, Any] | None = None,
) -> NeuralNet:
    """Wrap a network in an initialised skorch net.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    device : torch.device
        Where it trains.
    batch_size : int
        Windows a batch.
    learning_rate, weight_decay : float
        Of AdamW.
    gradient_clip : float or None
        Largest norm of the gradient.
    seed : int, default=0
        Seed of the shuffling.
    net_params : mapping or None, default=None
        Further parameters of the net. Its `callbacks` come after ours.

    Returns
    -------
    skorch.NeuralNet
        The net.
    """
    extra = dict(net_params or {})
    callbacks = [("gradient_clip", GradientNormClipping(gradient_clip)), *extra.pop("callbacks", [])]
    # A generator of its own even where nothing is shuffled: a loader without one draws from the caller's.
    loading = {
        f"iterator_{role}__{name}": value
        for role, seed_of in (("train", seed), ("valid", 0))
        for name, value in (("collate_fn", _as_it_is), ("generator", torch.Generator().manual_seed(seed_of)))
    }
    settings = {
        "optimizer": torch.optim.AdamW,
        "optimizer__weight_decay": weight_decay,
        "optimizer__fused": True,
        "lr": learning_rate,
        "batch_size": batch_size,
        "iterator_train__shuffle": True,
        "train_split": None,
        "callbacks__print_log": None,
        "verbose": 0,
    }
    return NeuralNet(
        module, WeightedCrossEntropy, device=device, callbacks=callbacks, **(settings | loading | extra)
    ).initialize()


def run_epochs(
    net: NeuralNet,
    train: WindowDataset,
    stop: WindowDataset,
    *,
    max_epochs: int,
    patience: int,
    verbose: bool,
) -> list[dict[str, Any]]:
    """Train epoch by epoch, to the best epoch by the loss on the stop rows.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialised net. The best epoch's weights are put back into it.
    train, stop : WindowDataset
        What is learned from, and what says when to stop (may be empty).
    max_epochs : int
        Epochs at most.
    patience : int
        Epochs without a better loss on `stop` before training ends.
    verbose : bool
        Whether to log each epoch.

    Returns
    -------
    list of dict
        Per epoch: `epoch`, `train_loss`, `valid_loss` (None without stop rows), `duration` in s.

    Raises
    ------
    EnsembleKitError
        If a loss is not finite.

    Notes
    -----
    Epochs run one at a time through `fit_loop`: skorch's own `fit` stops early by raising
    KeyboardInterrupt, and swallows the user's as well.
    """
    history: list[dict[str, Any]] = []
    best: dict[str, Tensor] = {}
    best_epoch, best_loss = 0, np.inf
    net.train_split = predefined_split(stop) if len(stop) else None
    net.notify("on_train_begin", X=train, y=None)
    for epoch in range(1, max_epochs + 1):
        net.fit_loop(train, epochs=1)
        history.append(_record(net, epoch, verbose=verbose))
        if not len(stop):
            continue
        if history[-1]["valid_loss"] < best_loss:
            best_epoch, best_loss = epoch, history[-1]["valid_loss"]
            best = {name: value.clone() for name, value in net.module_.state_dict().items()}
        elif epoch - best_epoch >= patience:
            break
    if best:
        net.module_.load_state_dict(best)
    net.notify("on_train_end", X=train, y=None)
    net.train_split = None  # the stop rows' windows hold the whole matrix
    return history


def _record(net: NeuralNet, epoch: int, *, verbose: bool) -> dict[str, Any]:
    latest = net.history[-1]
    entry = {
        "epoch": epoch,
        "train_loss": float(latest["train_loss"]),
        "valid_loss": float(latest["valid_loss"]) if "valid_loss" in latest else None,
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


def log_softmax_of_windows(
    module: nn.Module, windows: Windows, *, batch_size: int, device: torch.device
) -> NDArray[np.float64]:
    """Return log-probabilities of all windows, one batch at a time.

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

    Returns
    -------
    ndarray of float64, shape (n, H, K)
        Log-probabilities.
    """
    module.to(device).eval()
    rows = np.arange(len(windows))
    with torch.inference_mode():
        parts = [
            module(torch.from_numpy(windows.take(rows[at : at + batch_size])).to(device)).double().log_softmax(-1).cpu()
            for at in range(0, len(rows), batch_size)
        ]
    return torch.cat(parts).numpy()
