"""Transformer encoder over the bars of a window (Vaswani et al., NeurIPS 2017)."""

from __future__ import annotations

from torch import Tensor, nn

from ensemble_kit.estimators.networks.dropout import Dropout
from ensemble_kit.estimators.networks.layers import EncoderBlock, SelfAttention, SinusoidalEncoding

__all__ = ["TransformerTrunk"]


class TransformerTrunk(nn.Module):
    """Input projection, positions, attention blocks, and the state of the newest bar.

    Parameters
    ----------
    n_features : int
        F.
    d_model, n_heads, n_layers : int
        Width, heads and number of blocks.
    dropout : float
        Dropout of the input and of each part of a block.
    causal : bool
        Whether a bar sees only itself and those before it. In training, such a trunk returns
        the states of all bars: each is the newest of a window of its own.
    """

    # NOTE[DIFF]: norms stand before the parts (Xiong et al., ICML 2020), which trains without a warm-up.
    def __init__(
        self, n_features: int, *, d_model: int, n_heads: int, n_layers: int, dropout: float, causal: bool
    ) -> None:
        super().__init__()
        self.n_outputs = d_model
        self.causal = causal
        self.embed = nn.Linear(n_features, d_model)
        self.positions = SinusoidalEncoding(d_model)
        self.dropout = Dropout(dropout)
        self.blocks = nn.Sequential(
            *(
                EncoderBlock(SelfAttention(d_model, n_heads, causal=causal), d_model, dropout=dropout)
                for _ in range(n_layers)
            )
        )
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Return the newest bar's state, or those of all bars.

        Parameters
        ----------
        x : Tensor of shape (B, L, F)
            Windows.

        Returns
        -------
        Tensor of shape (B, D), or (B, L, D) in causal training
            States.
        """
        x = self.blocks(self.dropout(self.positions(self.embed(x))))  # (B, L, D)
        return self.norm(x if self.causal and self.training else x[:, -1])
