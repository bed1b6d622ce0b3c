"""What stands on every trunk: one linear layer for all horizons."""

from __future__ import annotations

from torch import Tensor, nn

from ensemble_kit.estimators.networks.dropout import Dropout

__all__ = ["WithHead"]


class WithHead(nn.Module):
    """A trunk, dropout, and one linear layer for all horizons.

    Parameters
    ----------
    trunk : torch.nn.Module
        Takes windows (B, L, F), returns states (B, D), or (B, L, D) while it trains on every
        bar of the window; D is its attribute `n_outputs`.
    n_horizons : int
        H.
    n_outputs : int
        K classes, or 1 for a quantity.
    dropout : float
        Dropout before the layer.
    """

    def __init__(self, trunk: nn.Module, n_horizons: int, n_outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.n_horizons = n_horizons
        self.trunk = trunk
        self.dropout = Dropout(dropout)
        width: int = trunk.n_outputs  # type: ignore[assignment]
        self.head = nn.Linear(width, n_horizons * n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is said of each window, or of each of its bars.

        Parameters
        ----------
        x : Tensor of shape (B, L, F)
            Windows.

        Returns
        -------
        Tensor of shape (B, H, K) or (B, L, H, K)
            Logits, or quantities.
        """
        state = self.dropout(self.trunk(x))  # (B, D) or (B, L, D)
        return self.head(state).unflatten(-1, (self.n_horizons, -1))
