"""LSTM whose states over the window are pooled by attention."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ensemble_kit.estimators.networks.dropout import Dropout

__all__ = ["AdditiveAttention", "LSTMAttentionTrunk", "NewestAttention"]


class AdditiveAttention(nn.Module):
    """Mean of the states, weighted by ``softmax(v . tanh(W h))`` (Bahdanau et al., ICLR 2015).

    Parameters
    ----------
    n_inputs : int
        D.

    Notes
    -----
    There is one answer a window, hence no decoder state to compare with: the query is learned.
    """

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(n_inputs, n_inputs), nn.Tanh(), nn.Linear(n_inputs, 1, bias=False))

    def forward(self, states: Tensor) -> Tensor:
        """Return the weighted mean.

        Parameters
        ----------
        states : Tensor of shape (B, L, D)
            States.

        Returns
        -------
        Tensor of shape (B, D)
            Their mean.
        """
        weight = self.score(states).softmax(dim=1)  # (B, L, 1)
        return (weight * states).sum(dim=1)


class NewestAttention(nn.Module):
    """The newest state, plus what its heads gathered from all states of the window.

    Parameters
    ----------
    n_inputs : int
        D, a multiple of `n_heads`.
    n_heads : int
        Heads.
    """

    def __init__(self, n_inputs: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(n_inputs, n_inputs)
        self.keys_values = nn.Linear(n_inputs, 2 * n_inputs)
        self.out = nn.Linear(n_inputs, n_inputs)

    def forward(self, states: Tensor) -> Tensor:
        """Return the newest state with what it gathered.

        Parameters
        ----------
        states : Tensor of shape (B, L, D)
            States.

        Returns
        -------
        Tensor of shape (B, D)
            The newest.
        """
        newest = states[:, -1]
        query = self.query(newest).unflatten(-1, (self.n_heads, 1, -1))  # (B, H, 1, D / H)
        keys, values = self.keys_values(states).unflatten(-1, (2, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, keys, values)  # (B, H, 1, D / H)
        return newest + self.out(seen.flatten(1))


class LSTMAttentionTrunk(nn.Module):
    """LSTM layers, then attention over their outputs.

    Parameters
    ----------
    n_features : int
        F.
    hidden_size : int
        Width of an LSTM layer, of each direction.
    n_layers : int
        How many layers.
    bidirectional : bool
        Whether a second LSTM reads the window backwards.
    n_heads : int or None
        None pools by additive attention; a number, by the newest bar's multi-head attention
        to the others.
    dropout : float
        Dropout between layers.
    """

    def __init__(
        self,
        n_features: int,
        *,
        hidden_size: int,
        n_layers: int,
        bidirectional: bool,
        n_heads: int | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.n_outputs = hidden_size * (2 if bidirectional else 1)
        self.layers = nn.ModuleList(
            nn.LSTM(self.n_outputs if layer else n_features, hidden_size, batch_first=True, bidirectional=bidirectional)
            for layer in range(n_layers)
        )
        self.dropout = Dropout(dropout)
        self.pool = AdditiveAttention(self.n_outputs) if n_heads is None else NewestAttention(self.n_outputs, n_heads)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled state of each window.

        Parameters
        ----------
        x : Tensor of shape (B, L, F)
            Windows.

        Returns
        -------
        Tensor of shape (B, D)
            States.
        """
        for number, layer in enumerate(self.layers):
            x = layer(self.dropout(x) if number else x)[0]  # (B, L, D)
        return self.pool(x)
