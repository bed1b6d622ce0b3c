"""Recurrent trunk: GRU and LSTM layers in turn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ensemble_kit.estimators.networks.dropout import Dropout

__all__ = ["LSTMGRUTrunk"]


class LSTMGRUTrunk(nn.Module):
    """GRU, LSTM, GRU, ... over a window, to the last step's state.

    Parameters
    ----------
    n_features : int
        F.
    hidden_size : int
        Width of every recurrent layer.
    n_layers : int
        How many layers; the first, third, ... are GRUs, those between LSTMs.
    dropout : float
        Dropout between layers.
    """

    def __init__(self, n_features: int, *, hidden_size: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        self.n_outputs = hidden_size
        self.layers = nn.ModuleList(
            (nn.LSTM if layer % 2 else nn.GRU)(hidden_size if layer else n_features, hidden_size, batch_first=True)
            for layer in range(n_layers)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after each window.

        Parameters
        ----------
        x : Tensor of shape (B, L, F)
            Windows.

        Returns
        -------
        Tensor of shape (B, D)
            States.
        """
        for layer in self.layers[:-1]:
            x = self.dropout(layer(x)[0])  # (B, L, D)
        return self.layers[-1](x)[0][:, -1]  # (B, D)

    def begin(self, length: int) -> list[tuple[Tensor, ...]]:
        """Return the states of `length` windows that have seen nothing yet.

        Parameters
        ----------
        length : int
            L.

        Returns
        -------
        list of tuple of Tensor of shape (1, L, D)
            Each layer's, the oldest window first.
        """
        at_rest = next(self.parameters()).new_zeros(1, length, self.n_outputs)
        return [(at_rest, at_rest) if isinstance(layer, nn.LSTM) else (at_rest,) for layer in self.layers]

    def advance(self, x: Tensor, states: list[tuple[Tensor, ...]]) -> Tensor:
        """Take one bar into each of the L windows that it belongs to, and return the state of the one that it ends.

        A window's L steps come one after the other, but the windows that are under way take theirs side
        by side: the same products as of one whole window, as one of matrices in place of L of vectors.

        Parameters
        ----------
        x : Tensor of shape (F,)
            The next bar.
        states : list of tuple of Tensor of shape (1, L, D)
            What the windows under way have seen, the oldest first; replaced.

        Returns
        -------
        Tensor of shape (D,)
            The state of the oldest window, which is whole now, as `forward` gives it (in evaluation).
        """
        seen = x.expand(states[0][0].shape[1], 1, -1)  # (L, 1, F)
        for number, layer in enumerate(self.layers):
            # The window that was whole makes room for one that begins here.
            before = tuple(torch.cat([state[:, 1:], torch.zeros_like(state[:, :1])], dim=1) for state in states[number])
            seen, after = layer(seen, before if isinstance(layer, nn.LSTM) else before[0])  # (L, 1, D)
            states[number] = after if isinstance(layer, nn.LSTM) else (after,)
        return seen[0, 0]
