"""Losses of logits and of quantities, weighted by row and horizon."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, huber_loss, one_hot

__all__ = ["CrossEntropy", "ExpectedCost", "Focal", "Huber", "LabelMargin", "Loss", "SquaredError"]

Target = tuple[Tensor, Tensor]


class Loss(nn.Module):
    """Mean over rows and horizons of weight x loss.

    A subclass supplies `_each`; what differs in training (`self.training`) must leave the loss
    on the stop rows comparable from epoch to epoch.
    """

    done = 0.0

    def forward(self, outputs: Tensor, target: Target) -> Tensor:
        """Return the loss of a batch.

        Parameters
        ----------
        outputs : Tensor of shape (..., H, K)
            What the network says.
        target : tuple of Tensor of shape (..., H)
            What came true, and its weight. Weights have mean 1 over the fit rows.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        truth, weights = target
        return (self._each(outputs, truth) * weights).mean()

    def _each(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the loss (..., H) of outputs (..., H, K) and of what came true (..., H)."""
        raise NotImplementedError

    def begin_epoch(self, done: float) -> None:
        """Take note of how much of the training is done.

        Parameters
        ----------
        done : float
            In [0, 1).
        """
        self.done = done


def _cross_entropy(outputs: Tensor, truth: Tensor) -> Tensor:
    return cross_entropy(outputs.flatten(0, -2), truth.flatten(), reduction="none").view(truth.shape)


class CrossEntropy(Loss):
    """Cross-entropy: the negative log-probability of what came true."""

    def _each(self, outputs: Tensor, truth: Tensor) -> Tensor:
        return _cross_entropy(outputs, truth)


class Focal(Loss):
    """Cross-entropy that fades where the answer is already right (Lin et al., ICCV 2017).

    Parameters
    ----------
    gamma : float, default=2.0
        ``(1 - p) ** gamma`` times cross-entropy, where p is the probability of what came true.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def _each(self, outputs: Tensor, truth: Tensor) -> Tensor:
        log_p = outputs.log_softmax(-1).gather(-1, truth.unsqueeze(-1)).squeeze(-1)
        # Not 1 - exp(log_p): near p = 1 the difference of floats, and its power's gradient, are lost.
        return -((-torch.expm1(log_p)).clamp_min(1e-12) ** self.gamma) * log_p


class ExpectedCost(Loss):
    """What a decision drawn from the probabilities would cost on average.

    Its minimum is the cheapest class with probability 1: what comes out of it are decisions, not
    probabilities, until they are calibrated with class offsets.

    Parameters
    ----------
    costs : Tensor of shape (K, K)
        Rows are what is said, columns what comes true. Only proportions matter: the largest is
        made 1.
    """

    costs: Tensor

    def __init__(self, costs: Tensor) -> None:
        super().__init__()
        self.register_buffer("costs", costs / costs.max())

    def _each(self, outputs: Tensor, truth: Tensor) -> Tensor:
        return (outputs.softmax(-1) * self.costs.T[truth]).sum(-1)


class LabelMargin(Loss):
    """Cross-entropy with larger margins for rarer classes, re-weighted late (LDAM-DRW).

    Parameters
    ----------
    counts : Tensor of shape (H, K)
        How much weight each class has among the fit rows.
    max_margin : float, default=1.0
        Margin of the rarest class, in logits; others have ``n ** -1/4`` of it in proportion.
    beta : float, default=0.9999
        Classes weigh ``(1 - beta) / (1 - beta ** n)`` in the end, in proportion.
    defer : float, default=0.8
        The share of the epochs before classes are re-weighted.

    References
    ----------
    K. Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss,
    NeurIPS 2019.
    """

    margins: Tensor
    class_weights: Tensor

    # NOTE[DIFF]: the paper normalises features and the last layer's weights, so that its margins are of
    # cosines, times a scale of 30. The logits here are those of a plain linear layer, and so are the margins.
    def __init__(self, counts: Tensor, *, max_margin: float = 1.0, beta: float = 0.9999, defer: float = 0.8) -> None:
        super().__init__()
        there = counts > 0
        rarity = torch.where(there, counts.clamp_min(1e-12) ** -0.25, 0.0)
        self.register_buffer("margins", max_margin * rarity / rarity.amax(-1, keepdim=True))
        effective = torch.where(there, (1 - beta) / (1 - beta**counts).clamp_min(1e-12), 0.0)
        mean = (effective * counts).sum(-1, keepdim=True) / counts.sum(-1, keepdim=True)
        self.register_buffer("class_weights", effective / mean)
        self.defer = defer

    def _each(self, outputs: Tensor, truth: Tensor) -> Tensor:
        plain = _cross_entropy(outputs, truth)
        if not self.training:
            return plain
        hit = one_hot(truth, outputs.shape[-1]).to(outputs.dtype)
        margin = _cross_entropy(outputs - hit * self.margins, truth)
        if self.done < self.defer:
            return margin
        return margin * (hit * self.class_weights).sum(-1)


class SquaredError(Loss):
    """Squared difference."""

    def _each(self, outputs: Tensor, truth: Tensor) -> Tensor:
        return (outputs.squeeze(-1) - truth) ** 2


class Huber(Loss):
    """Squared difference near 0, absolute beyond one standard deviation of the target."""

    def _each(self, outputs: Tensor, truth: Tensor) -> Tensor:
        return huber_loss(outputs.squeeze(-1), truth, reduction="none")
