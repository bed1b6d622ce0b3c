"""Recurrent trunk of GRU and LSTM layers, one linear head for all horizons."""

from __future__ import annotations

from torch import Tensor, nn

from ensemble_kit.estimators.networks.dropout import Dropout

__all__ = ["LSTMGRUNetwork"]


class LSTMGRUNetwork(nn.Module):
    """GRU, LSTM, GRU, ... over a window; the last step's state gives the logits.

    Parameters
    ----------
    n_features, n_horizons, n_classes : int
        F, H and K.
    hidden_size : int
        Width of every recurrent layer.
    n_layers : int
        How many layers; the first, third, ... are GRUs, those between LSTMs.
    dropout : float
        Dropout after every layer.
    """

    def __init__(
        self, n_features: int, n_horizons: int, n_classes: int, *, hidden_size: int, n_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.n_horizons = n_horizons
        self.layers = nn.ModuleList(
            (nn.LSTM if layer % 2 else nn.GRU)(hidden_size if layer else n_features, hidden_size, batch_first=True)
            for layer in range(n_layers)
        )
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(hidden_size, n_horizons * n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of windows.

        Parameters
        ----------
        x : Tensor of shape (B, L, F)
            Windows.

        Returns
        -------
        Tensor of shape (B, H, K)
            Logits.
        """
        for layer in self.layers[:-1]:
            x = self.dropout(layer(x)[0])  # (B, L, D)
        last = self.dropout(self.layers[-1](x)[0][:, -1])  # (B, D)
        return self.head(last).unflatten(-1, (self.n_horizons, -1))  # (B, H, K)
