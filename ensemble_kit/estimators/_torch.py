"""Devices, threads and seeds: torch's process-wide state, borrowed and put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["build_seeded", "resolve_device", "torch_threads"]

_BUILDING = threading.Lock()


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
