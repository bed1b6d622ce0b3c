"""Parallel convolutions over the window, and what each filter answered loudest to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["CNNTrunk"]


class CNNTrunk(nn.Module):
    """Convolutions of several widths, each with a global maximum (Kim, EMNLP 2014).

    Parameters
    ----------
    n_features : int
        F.
    n_filters : int
        Filters of each width.
    kernel_sizes : sequence of int
        Widths, in bars.
    """

    # NOTE[DIFF]: windows are padded in front by width - 1 bars, so that any width fits any window.
    def __init__(self, n_features: int, *, n_filters: int, kernel_sizes: Sequence[int]) -> None:
        super().__init__()
        self.n_outputs = n_filters * len(kernel_sizes)
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.ConstantPad1d((size - 1, 0), 0.0), nn.Conv1d(n_features, n_filters, size), nn.ReLU())
            for size in kernel_sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return each filter's maximum over the window.

        Parameters
        ----------
        x : Tensor of shape (B, L, F)
            Windows.

        Returns
        -------
        Tensor of shape (B, D)
            Maxima.
        """
        x = x.transpose(1, 2)  # (B, F, L)
        return torch.cat([convolution(x).amax(-1) for convolution in self.convolutions], dim=-1)
