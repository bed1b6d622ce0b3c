"""Several trunks side by side, concatenated and brought together by an MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ensemble_kit.estimators.networks.dropout import Dropout

__all__ = ["FusionTrunk"]


class FusionTrunk(nn.Module):
    """Trunks trained jointly on the same windows.

    Parameters
    ----------
    trunks : sequence of torch.nn.Module
        Each takes windows (B, L, F) and returns states (B, D_i), with attribute `n_outputs`.
    hidden_size : int
        Width of what they are brought together in.
    dropout : float
        Dropout of the concatenated states.
    """

    def __init__(self, trunks: Sequence[nn.Module], *, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.n_outputs = hidden_size
        self.trunks = nn.ModuleList(trunks)
        width: int = sum(trunk.n_outputs for trunk in trunks)  # type: ignore[misc]
        # States of different trunks differ in size: none may drown the others.
        self.mlp = nn.Sequential(nn.LayerNorm(width), Dropout(dropout), nn.Linear(width, hidden_size), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the common state of each window.

        Parameters
        ----------
        x : Tensor of shape (B, L, F)
            Windows.

        Returns
        -------
        Tensor of shape (B, D)
            States.
        """
        states = [trunk(x) for trunk in self.trunks]
        # A causal trunk in training gives the states of all bars.
        newest = [state if state.ndim == 2 else state[:, -1] for state in states]
        return self.mlp(torch.cat(newest, dim=-1))
