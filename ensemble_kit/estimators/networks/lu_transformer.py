"""Two towers over the segments of a window: one attends and merges, one recurs and pools."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ensemble_kit.estimators.networks.dropout import Dropout
from ensemble_kit.estimators.networks.layers import EncoderBlock, SelfAttention, SinusoidalEncoding

__all__ = ["LuTransformerTrunk", "Merge"]


class Merge(nn.Module):
    """Of two neighbours, let the newer take up the older; the oldest of an odd number takes up zeros.

    Parameters
    ----------
    d_model : int
        D.
    """

    # NOTE[DIFF]: the merge is added to the newer token, so that the newest segment has a straight way to the head.
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.LayerNorm(2 * d_model), nn.Linear(2 * d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Return half as many tokens.

        Parameters
        ----------
        x : Tensor of shape (B, N, D)
            Tokens.

        Returns
        -------
        Tensor of shape (B, ceil(N / 2), D)
            Tokens.
        """
        x = pad(x, (0, 0, x.shape[1] % 2, 0))
        pairs = x.reshape(len(x), -1, 2 * x.shape[2])  # (B, N / 2, 2 D)
        return x[:, 1::2] + self.mix(pairs)  # (B, N / 2, D)


class LuTransformerTrunk(nn.Module):
    """Hidformer's dual tower (Liu et al., 2024), retargeted to classification.

    Each tower turns the segments of the window into tokens, and halves their number level by
    level. The time tower embeds a segment linearly, and its tokens attend to each other between
    merges. The recurrent tower reads a segment bar by bar, and merges until one token is left.

    Parameters
    ----------
    n_features : int
        F.
    seq_len : int
        L.
    d_model : int
        D, the width of each tower.
    n_heads, n_layers : int
        Heads and blocks of the time tower.
    segment_length : int
        S, bars a segment. The window is padded in front to whole segments.
    num_tokens : int
        Tokens at most. Of more segments, G neighbours share a token, their mean.
    dropout : float
        Dropout of the tokens and of each part of a block.
    """

    # NOTE[DIFF]: a recurrent tower stands in place of the frequency tower. Attention is plain, neither recursive nor
    # linear, which pay where tokens are many. Segments do not overlap. The number of tokens is bounded by taking
    # neighbours together, not by leaving old bars out, so that a window stays what `seq_len` says. The towers' newest
    # tokens go to a head; the paper decodes a forecast.
    def __init__(
        self,
        n_features: int,
        *,
        seq_len: int,
        d_model: int,
        n_heads: int,
        n_layers: int,
        segment_length: int,
        num_tokens: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.n_outputs = 2 * d_model
        group = math.ceil(seq_len / (segment_length * num_tokens))
        n_tokens = math.ceil(seq_len / (segment_length * group))
        self.layout = (n_tokens, group, segment_length)
        self.embed = nn.Linear(segment_length * n_features, d_model)
        self.recur = nn.GRU(n_features, d_model, batch_first=True)
        self.dropout = Dropout(dropout)
        levels = math.ceil(math.log2(n_tokens))  # until one token is left
        layers: list[nn.Module] = [SinusoidalEncoding(d_model)]
        for number in range(n_layers):
            layers += [Merge(d_model)] if 0 < number <= levels else []
            layers += [EncoderBlock(SelfAttention(d_model, n_heads), d_model, dropout=dropout)]
        self.time_tower = nn.Sequential(*layers, nn.LayerNorm(d_model))
        self.recurrent_tower = nn.Sequential(*(Merge(d_model) for _ in range(levels)), nn.LayerNorm(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Return the state of each window, the time tower's half first.

        Parameters
        ----------
        x : Tensor of shape (B, L, F)
            Windows.

        Returns
        -------
        Tensor of shape (B, 2 D)
            States.
        """
        x = pad(x, (0, 0, math.prod(self.layout) - x.shape[1], 0))
        segments = x.reshape(len(x), *self.layout, -1)  # (B, N, G, S, F)
        embedded = self.embed(segments.flatten(3)).mean(2)  # (B, N, D)
        # All segments recur side by side: S steps, whatever the window's length.
        last = self.recur(segments.flatten(0, 2))[1][0]  # (B N G, D)
        recurred = last.unflatten(0, segments.shape[:3]).mean(2)  # (B, N, D)
        towers = self.time_tower(self.dropout(embedded)), self.recurrent_tower(self.dropout(recurred))
        return torch.cat([tokens[:, -1] for tokens in towers], dim=-1)
