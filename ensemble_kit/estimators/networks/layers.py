"""Pieces that several transformers are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ensemble_kit.estimators.networks.dropout import Dropout

__all__ = ["EncoderBlock", "SelfAttention", "SinusoidalEncoding", "feed_forward"]


class SinusoidalEncoding(nn.Module):
    """Add sines and cosines of how many bars ago each position lies (Vaswani et al., 2017).

    Parameters
    ----------
    d_model : int
        D, the width of the states.

    Notes
    -----
    Positions count from the newest bar backwards, so that a short history, padded in front,
    is read as the end of a long one.
    """

    frequencies: Tensor

    def __init__(self, d_model: int) -> None:
        super().__init__()
        half = (d_model + 1) // 2
        self.d_model = d_model
        frequencies = torch.exp(torch.arange(half) * (-math.log(10_000.0) / half))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return states that know their place.

        Parameters
        ----------
        x : Tensor of shape (B, L, D)
            States.

        Returns
        -------
        Tensor of shape (B, L, D)
            States plus encoding.
        """
        ago = torch.arange(x.shape[1] - 1, -1, -1, device=x.device)
        angle = ago[:, None] * self.frequencies  # (L, D / 2)
        encoding = torch.cat([angle.sin(), angle.cos()], dim=-1)[:, : self.d_model]  # (L, D)
        return x + encoding.to(x.dtype)


class SelfAttention(nn.Module):
    """Multi-head attention of states to each other.

    Parameters
    ----------
    d_model : int
        D, a multiple of `n_heads`.
    n_heads : int
        Heads.
    causal : bool, default=False
        Whether a position sees only itself and those before it.
    """

    def __init__(self, d_model: int, n_heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.causal = causal
        self.project = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each position gathered.

        Parameters
        ----------
        x : Tensor of shape (B, L, D)
            States.

        Returns
        -------
        Tensor of shape (B, L, D)
            Gathered states.
        """
        heads = self.project(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, L, D / H)
        seen = self.attend(heads[0], heads[1], heads[2])  # (B, H, L, D / H)
        return self.out(seen.transpose(1, 2).flatten(2))  # (B, L, D)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return what each query gathered; other kinds of attention differ in this alone.

        Parameters
        ----------
        queries, keys, values : Tensor of shape (B, H, L, D / H)
            Heads.

        Returns
        -------
        Tensor of shape (B, H, L, D / H)
            Gathered values.
        """
        return scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)


def feed_forward(d_model: int, *, dropout: float, factor: int = 4) -> nn.Sequential:
    """Return the two layers that each position passes by itself.

    Parameters
    ----------
    d_model : int
        D.
    dropout : float
        Dropout between the layers.
    factor : int, default=4
        How much wider the middle is.

    Returns
    -------
    torch.nn.Sequential
        From (..., D) to (..., D).
    """
    wide = factor * d_model
    return nn.Sequential(nn.Linear(d_model, wide), nn.GELU(), Dropout(dropout), nn.Linear(wide, d_model))


class EncoderBlock(nn.Module):
    """Attention and a feed-forward part, each normalised first and added to what came in.

    Parameters
    ----------
    attention : torch.nn.Module
        From (B, L, D) to (B, L, D).
    d_model : int
        D.
    dropout : float
        Dropout of each part.
    """

    def __init__(self, attention: nn.Module, d_model: int, *, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.feed = feed_forward(d_model, dropout=dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(d_model), nn.LayerNorm(d_model)])
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states after both parts.

        Parameters
        ----------
        x : Tensor of shape (B, L, D)
            States.

        Returns
        -------
        Tensor of shape (B, L, D)
            States.
        """
        x = x + self.dropout(self.attention(self.norms[0](x)))
        return x + self.dropout(self.feed(self.norms[1](x)))
