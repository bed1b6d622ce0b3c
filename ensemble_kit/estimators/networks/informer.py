"""Informer's encoder: attention of the queries that matter, and a window halved from layer to layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, max_pool1d, scaled_dot_product_attention

from ensemble_kit.estimators.networks.dropout import Dropout
from ensemble_kit.estimators.networks.layers import EncoderBlock, SelfAttention, SinusoidalEncoding

__all__ = ["Distilling", "InformerTrunk", "ProbSparseAttention", "prob_sparse_attention"]

#: Scores that are held at a time: 4 MiB stay in a core's cache, 80 MiB for a batch of long windows do not.
_SCORES_AT_A_TIME = 2**20


def prob_sparse_attention(queries: Tensor, keys: Tensor, values: Tensor, samples: Tensor, n_active: int) -> Tensor:
    """Attend with the queries that are far from uniform; give the others the mean value.

    A query's sparsity is the largest of its scores with sampled keys, minus their sum over L: the
    mean, had the keys that were not sampled scored 0.

    Parameters
    ----------
    queries, keys, values : Tensor of shape (B, H, L, D)
        Heads of one layer.
    samples : Tensor of int64, shape (L, U)
        The keys that each query is judged by; U may count one twice.
    n_active : int
        How many queries attend, of each window and head.

    Returns
    -------
    Tensor of shape (B, H, L, D)
        What each query gathered.

    Notes
    -----
    The published formulation gathers the sampled keys of every query, (B, H, L, U, D), and then
    multiplies. To multiply first and gather scores, (B, H, L, U), gives the same numbers.
    """
    _, n_heads, length, width = queries.shape
    with torch.no_grad():  # the choice has no gradient
        rows = max(1, _SCORES_AT_A_TIME // (n_heads * length**2))
        parts = zip(torch.split(queries, rows), torch.split(keys, rows), strict=True)
        sparsity = torch.cat([_sparsity(some, their_keys, samples) for some, their_keys in parts])  # (B, H, L)
        active = sparsity.topk(n_active, sorted=False).indices.unsqueeze(-1).expand(-1, -1, -1, width)  # (B, H, u, D)
    gathered = scaled_dot_product_attention(queries.gather(2, active), keys, values)  # (B, H, u, D)
    return values.mean(2, keepdim=True).expand_as(values).scatter(2, active, gathered)


def _sparsity(queries: Tensor, keys: Tensor, samples: Tensor) -> Tensor:
    """Return how far each query is from uniform, (B, H, L)."""
    scores = queries @ keys.transpose(-2, -1)  # (B, H, L, L)
    sampled = scores.gather(-1, samples.expand(*scores.shape[:2], -1, -1))  # (B, H, L, U)
    return sampled.amax(-1) - sampled.sum(-1) / keys.shape[-2]


class ProbSparseAttention(SelfAttention):
    """Multi-head attention in which only the `factor` * ceil(ln L) sparsest queries take part.

    Parameters
    ----------
    d_model : int
        D, a multiple of `n_heads`.
    n_heads : int
        Heads.
    length : int
        L, the positions there are.
    factor : int
        How many keys are sampled, and queries active, for each unit of ln L.

    Notes
    -----
    One draw of samples serves the whole batch. While training each batch has its own; in
    evaluation the draw made with the weights is used, so that an answer is a function of the
    window.
    """

    samples: Tensor

    # NOTE[DIFF]: the published network draws at prediction, too: the same window gets another answer each time.
    def __init__(self, d_model: int, n_heads: int, *, length: int, factor: int) -> None:
        super().__init__(d_model, n_heads)
        # At least 1: the logarithm of a single position is 0.
        self.n_active = min(length, factor * max(1, math.ceil(math.log(length))))
        self.register_buffer("samples", torch.randint(length, (length, self.n_active)))
        self.generator: torch.Generator | None = None  # set by `seed_dropout`

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return what each position gathered.

        Parameters
        ----------
        queries, keys, values : Tensor of shape (B, H, L, D / H)
            Heads.

        Returns
        -------
        Tensor of shape (B, H, L, D / H)
            Gathered values.
        """
        length = keys.shape[2]
        if self.n_active == length:  # nothing to choose
            return scaled_dot_product_attention(queries, keys, values)
        samples = self.samples
        if self.training:
            samples = torch.randint(length, samples.shape, generator=self.generator, device=keys.device)
        return prob_sparse_attention(queries, keys, values, samples, self.n_active)


class Distilling(nn.Module):
    """Halve a sequence: a convolution over three positions, ELU, and the maximum of every other three.

    Parameters
    ----------
    d_model : int
        D.
    """

    # NOTE[DIFF]: zeros, not the other end of the window, stand beside its ends; no batch norm (the paper's text has
    # none, its code has), which would let the windows of a batch see each other.
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(d_model, d_model, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return half as many states.

        Parameters
        ----------
        x : Tensor of shape (B, L, D)
            States.

        Returns
        -------
        Tensor of shape (B, ceil(L / 2), D)
            States.
        """
        x = elu(self.convolution(x.transpose(1, 2)))  # (B, D, L)
        return max_pool1d(x, 3, stride=2, padding=1).transpose(1, 2)


class InformerTrunk(nn.Module):
    """Informer's encoder (Zhou et al., AAAI 2021), and the newest position of what is left of the window.

    Parameters
    ----------
    n_features : int
        F.
    seq_len : int
        L.
    d_model, n_heads, n_layers : int
        Width, heads and number of blocks; between blocks the window is halved.
    factor : int
        How many queries attend for each unit of ln L.
    dropout : float
        Dropout of the input and of each part of a block.
    """

    # NOTE[DIFF]: no decoder (there is nothing to generate) and no embedding of time stamps (they are columns, where
    # wanted); one stack, not the sum of stacks over parts of the window; norms stand before the parts.
    def __init__(
        self, n_features: int, *, seq_len: int, d_model: int, n_heads: int, n_layers: int, factor: int, dropout: float
    ) -> None:
        super().__init__()
        self.n_outputs = d_model
        self.embed = nn.Conv1d(n_features, d_model, 3, padding=1)
        self.positions = SinusoidalEncoding(d_model)
        self.dropout = Dropout(dropout)
        layers: list[nn.Module] = []
        for number in range(n_layers):
            if number:
                layers.append(Distilling(d_model))
                seq_len = math.ceil(seq_len / 2)
            attention = ProbSparseAttention(d_model, n_heads, length=seq_len, factor=factor)
            layers.append(EncoderBlock(attention, d_model, dropout=dropout))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state of each window.

        Parameters
        ----------
        x : Tensor of shape (B, L, F)
            Windows.

        Returns
        -------
        Tensor of shape (B, D)
            States.
        """
        x = self.embed(x.transpose(1, 2)).transpose(1, 2)  # (B, L, D)
        x = self.layers(self.dropout(self.positions(x)))  # (B, L / 2 ** (n_layers - 1), D)
        return self.norm(x[:, -1])
