"""What trading costs: commission, spread, slippage and what is borrowed."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["Costs"]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of trading, all 0 unless given.

    Attributes
    ----------
    commission_bps : float
        Commission in basis points of the traded notional.
    commission_per_unit : float
        Commission a traded unit (share, coin, contract), in currency.
    commission_min : float
        Least commission of an order, in currency.
    spread_bps : float
        Quoted spread, ask less bid, in basis points of the price; a fill pays half of it.
    slippage_bps : float
        How much worse than half the spread a fill is, in basis points of the price.
    borrow_rate : float
        Yearly rate, as a fraction, on the notional sold short and on cash below 0.

    Raises
    ------
    EnsembleKitError
        If a cost is negative or infinite, or spread and slippage leave no price.

    Examples
    --------
    >>> from ensemble_kit.sizing import Costs
    >>> Costs(commission_bps=0.5, spread_bps=1.0).fill_bps
    0.5
    """

    commission_bps: float = 0.0
    commission_per_unit: float = 0.0
    commission_min: float = 0.0
    spread_bps: float = 0.0
    slippage_bps: float = 0.0
    borrow_rate: float = 0.0

    def __post_init__(self) -> None:
        wrong = [
            f"`{field.name}` must be a number of at least 0; got {value!r}"
            for field in fields(self)
            if not isinstance(value := getattr(self, field.name), int | float | np.number)
            or isinstance(value, bool)
            or not 0 <= value < float("inf")
        ]
        if wrong:
            raise EnsembleKitError(". ".join(wrong) + ". One basis point is 1e-4 of the notional.")
        if self.fill_bps >= 1e4 or self.commission_bps >= 1e4:
            raise EnsembleKitError(
                "`commission_bps`, and half of `spread_bps` with `slippage_bps`, must be below 10000 (all of the "
                f"price); got {self.commission_bps:g} and {self.fill_bps:g}. One percent is 100 of them."
            )

    @property
    def fill_bps(self) -> float:
        """How far a fill lies from the bar's open, in basis points: half the spread, and slippage."""
        return self.spread_bps / 2 + self.slippage_bps

    @classmethod
    def of(cls, costs: float | Costs) -> Costs:
        """Return costs as they are, or a number as a commission in basis points.

        Parameters
        ----------
        costs : float or Costs
            A number is `commission_bps`.

        Returns
        -------
        Costs
            The costs.
        """
        return costs if isinstance(costs, Costs) else cls(commission_bps=costs)

    def __str__(self) -> str:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{name} {value:g}" for name, value in given.items() if value) or "none"
