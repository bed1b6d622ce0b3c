"""Recurrent trunk: GRU and LSTM layers in turn."""

from __future__ import annotations

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
