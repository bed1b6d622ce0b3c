"""Dropout that draws from a generator of its own, so that a fit depends on its seed alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Dropout", "seed_dropout"]


class Dropout(nn.Module):
    """Zero elements with probability `p` while training, and scale the rest by `1 / (1 - p)`.

    Parameters
    ----------
    p : float
        Probability in [0, 1).

    Notes
    -----
    `torch.nn.Dropout` draws from the process's one generator: the caller's random state would
    move, and two models fitted in two threads would take each other's numbers.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` itself in evaluation, masked and scaled in training.

        Parameters
        ----------
        x : Tensor of any shape
            What comes in.

        Returns
        -------
        Tensor
            Of the same shape.
        """
        if not self.training or self.p == 0:
            return x
        keep = 1.0 - self.p
        return x * torch.empty_like(x).bernoulli_(keep, generator=self.generator).div_(keep)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"p={self.p}"


def seed_dropout(module: nn.Module, device: torch.device, seed: int) -> None:
    """Give all layers of a network that draw (those with a `generator`) one seeded generator.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    device : torch.device
        Where it trains.
    seed : int
        The seed.
    """
    generator = torch.Generator(device).manual_seed(seed)
    for layer in module.modules():
        if hasattr(layer, "generator"):
            layer.generator = generator  # type: ignore[assignment]
