"""Attention and dilated convolutions over waves, as the wave paper has them."""

from __future__ import annotations

from torch import Tensor, nn

from ensemble_kit.estimators.networks.dropout import Dropout
from ensemble_kit.estimators.networks.layers import SelfAttention, SinusoidalEncoding

__all__ = ["WaveTrunk"]

_DILATIONS = (1, 2, 2, 2, 4)


class _WaveBlock(nn.Module):
    """Attention, then five dilated convolutions, each added to what came in and normalised."""

    def __init__(self, d_model: int, n_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(d_model, n_heads)
        self.norm = nn.LayerNorm(d_model)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(d_model, d_model, 3, padding=dilation, dilation=dilation) for dilation in _DILATIONS
        )
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in _DILATIONS)
        self.activation = nn.GELU()
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.dropout(self.attention(x)))  # (B, L, D)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            heard = convolution(x.transpose(1, 2)).transpose(1, 2)  # (B, L, D)
            x = norm(x + self.dropout(self.activation(heard)))
        return x


class WaveTrunk(nn.Module):
    """Blocks of attention and dilated convolutions, averaged over the window, and an MLP.

    Parameters
    ----------
    n_features : int
        F.
    d_model, n_heads, n_layers : int
        Width, heads and number of blocks.
    dropout : float
        Dropout of each part.
    """

    # NOTE[DIFF]: positions are added to the projected input; without them, attention and the average
    # would know the order of waves by the convolutions alone.
    def __init__(self, n_features: int, *, d_model: int, n_heads: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        self.n_outputs = d_model
        self.embed = nn.Sequential(nn.Linear(n_features, d_model), SinusoidalEncoding(d_model), Dropout(dropout))
        self.blocks = nn.Sequential(*(_WaveBlock(d_model, n_heads, dropout=dropout) for _ in range(n_layers)))
        self.mlp = nn.Sequential(nn.Linear(d_model, d_model), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Return what the window comes to.

        Parameters
        ----------
        x : Tensor of shape (B, L, F)
            Windows of waves.

        Returns
        -------
        Tensor of shape (B, D)
            States.
        """
        return self.mlp(self.blocks(self.embed(x)).mean(dim=1))
