"""What Kelly's rule makes of probabilities: growth and ruin, miscalibration, low confidence, and seconds.

    python benchmarks/sizing.py

Simulated bets, so that the true probabilities are known. Growth is in basis points of log
equity a bet, expected under the true probabilities, not drawn. Sizers are fitted on 20,000 rows
and judged on others.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from ensemble_kit.sizing import KellySizer

N_PATHS, N_BETS, N_FIT = 1000, 10_000, 20_000
LABELS = np.array(["down", "up"])
PENALTIES = ("brier", "reliability")


def fitted(said: np.ndarray, true: np.ndarray, seed: int, **params: object) -> KellySizer:
    """Return a sizer fitted on what was said, and on outcomes drawn from what is true."""
    came = np.random.default_rng(seed).random(len(true)) < true
    return KellySizer(**params).fit(columns(said), LABELS[came.astype(int)])


def columns(p: np.ndarray) -> np.ndarray:
    return np.column_stack([1 - p, p])


def growth(position: np.ndarray, true: np.ndarray, b: float = 1.0) -> float:
    """Return expected log growth a bet, in basis points."""
    win, lose = np.log1p(b * position), np.log1p(-position)
    return 1e4 * float(np.mean(true * win + (1 - true) * lose))


def print_growth_and_ruin(seed: int) -> None:
    """Print the size of one bet, how it grows, and how often equity is halved."""
    won = np.random.default_rng(seed).random((N_PATHS, N_BETS))
    print(f"\n1. One bet over and over, p known: {N_PATHS:,} paths of {N_BETS:,} bets, fraction=0.5")
    print("   Below half the start: share of paths that ever were, and that end there.")
    print(f"   {'p':>5} {'b':>4} {'sizer':<22} {'position':>9} {'growth, bp':>11} {'ever':>7} {'end':>7}")
    for p, b in ((0.55, 1.0), (0.70, 1.0), (0.75, 1.0), (0.80, 1.0), (0.90, 1.0), (0.95, 1.0), (0.70, 2.0)):
        true = np.full(N_FIT, p)
        sizers = {"plain half Kelly": {"conservatism": 0.0}} | {name: {"penalty": name} for name in PENALTIES}
        for name, params in sizers.items():
            f = fitted(true, true, seed + 1, payoffs=b, **params).transform(columns(true[:1]))[0]
            equity = np.cumsum(np.where(won < p, np.log1p(b * f), np.log1p(-f)), axis=1)
            ever, end = ((log < np.log(0.5)).mean() for log in (equity.min(axis=1), equity[:, -1]))
            g = growth(np.array([f]), np.array([p]), b)
            print(f"   {p:5.2f} {b:4.1f} {name:<22} {f:9.4f} {g:11.2f} {ever:7.1%} {end:7.1%}")


def print_known_probabilities(seed: int) -> None:
    """Print which share of full Kelly's growth is left where probabilities are known and vary."""
    print("\n   p ~ U(0.3, 0.7), known, fraction=1: share of full Kelly's growth, 10 fits each")
    print(f"   {'rows fitted on':>14} {'brier':>9} {'reliability: mean':>18} {'least':>7}")
    rng = np.random.default_rng(seed)
    bets = rng.uniform(0.3, 0.7, 400_000)
    full = growth(2 * bets - 1, bets)
    for n in (2_000, 10_000, 50_000):
        kept: dict[str, list[float]] = {name: [] for name in PENALTIES}
        for k in range(10):
            true = rng.uniform(0.3, 0.7, n)
            for name in PENALTIES:
                position = fitted(true, true, seed + k, fraction=1.0, penalty=name).transform(columns(bets))
                kept[name].append(growth(position, bets) / full)
        brier, reliability = kept.values()
        print(f"   {n:14,} {np.mean(brier):9.1%} {np.mean(reliability):18.1%} {min(reliability):7.1%}")


def print_start(seed: int) -> None:
    """Print the smallest known p that each sizer trades."""
    print("\n   Smallest known p that is traded, c = conservatism; brier exact, reliability on drawn bets, by 0.001")
    print(f"   {'b':>5} {'break-even':>11} {'brier, c=1':>11} {'brier, c=2':>11} {'reliability, c=1':>17}")
    for b in (0.5, 1.0, 2.0):
        even = 1 / (1 + b)
        brier = [brentq(lambda p, c=c, even=even: p - c / 2 * np.sqrt(p * (1 - p)) - even, even, 1.0) for c in (1, 2)]
        for p in np.arange(round(even, 3), 1.0, 0.001):
            true = np.full(N_FIT, p)
            sizer = fitted(true, true, seed, payoffs=b, penalty="reliability")
            if sizer.transform(columns(true[:1]))[0] > 0:
                break
        print(f"   {b:5.1f} {even:11.3f} {brier[0]:11.3f} {brier[1]:11.3f} {p:17.3f}")


def print_miscalibration(seed: int, spread: float) -> None:
    """Print positions and growth as probabilities are spoilt."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, spread, size=220_000)
    true, noise = expit(logit), rng.normal(size=len(logit))
    train, test = slice(0, N_FIT), slice(N_FIT, None)
    print(
        f"\n   true logits ~ N(0, {spread:g}), said = k true + s noise; fraction=0.5, even bets (0.4 where 0.9 is said)"
    )
    print(f"   {'':11} {'error':^19} {'where 0.9 is said':^19} {'mean |position|':^28} {'growth, bp':^29}")
    pair, triple = f"{'brier':>9} {'reliab.':>9}", f"{'plain':>8} {'brier':>9} {'reliab.':>9}"
    print(f"   {'k':>5} {'s':>5} {pair} {pair} {triple}  {triple}")
    for k, s in ((0.5, 0), (1, 0), (1.5, 0), (2, 0), (3, 0), (5, 0), (1, 0.5), (1, 1), (1, 2), (1, 4)):
        said = expit(k * logit + s * noise)
        plain, *shrunk = (
            fitted(said[train], true[train], seed + 1, **params)
            for params in ({"conservatism": 0.0}, {}, {"penalty": "reliability"})
        )
        size = [sizer.transform(columns(said[test])) for sizer in (plain, *shrunk)]
        text = [f"{sizer.error_:9.3f}" for sizer in shrunk]
        text += [f"{sizer.transform(columns(np.array([0.9])))[0]:9.3f}" for sizer in shrunk]
        text += [f"{np.abs(position).mean():{w}.3f}" for position, w in zip(size, (8, 9, 9), strict=True)]
        text += [f"{growth(position, true[test]):{w}.1f}" for position, w in zip(size, (9, 9, 9), strict=True)]
        print(f"   {k:5.1f} {s:5.1f} {' '.join(text)}")


def print_low_confidence(seed: int) -> None:
    """Print positions by how far the said probability lies from even."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 2, size=220_000)
    said = expit(1.5 * logit)  # somewhat overconfident
    train, test = slice(0, N_FIT), slice(N_FIT, None)
    print("\n3. Positions by confidence: true logits ~ N(0, 2), said 1.5 times as large; no threshold is set")
    print(
        f"   {'|P(up) - P(down)|':<18} {'bets':>8}   {'brier: traded':>14} {'mean':>6}   "
        f"{'reliab.: traded':>15} {'mean':>6}"
    )
    sizers = [fitted(said[train], expit(logit[train]), seed + 1, penalty=name) for name in PENALTIES]
    edge = np.abs(2 * said[test] - 1)
    sizes = [np.abs(sizer.transform(columns(said[test]))) for sizer in sizers]
    borders = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
    for low, high in itertools.pairwise(borders):
        rows = (edge >= low) & (edge < high)
        text = [
            f"{(size[rows] > 0).mean():{w}.1%} {size[rows].mean():6.3f}"
            for size, w in zip(sizes, (14, 15), strict=True)
        ]
        print(f"   {low:4.2f} to {high:4.2f}       {rows.sum():8,}   {'   '.join(text)}")


def print_seconds(repeats: int) -> None:
    """Print CPU seconds of `transform`."""
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([1, 1, 1], size=1_000_000)
    labels = ["bottom", "peak", "slope"]
    y = np.array(labels)[rng.integers(0, 3, 20_000)]
    returns = rng.normal(0, 0.01, 20_000) + np.select([y == "bottom", y == "peak"], [0.003, -0.003], 0.0)
    stated = {"bottom": 0.01, "peak": -0.01, "slope": 0.0}
    print(f"\n4. `transform` of 1,000,000 rows x 3 classes, CPU seconds, median of {repeats}")
    for name, payoffs in (("a number", 1.5), ("a mapping, 3 returns", stated), ("estimated, 48 returns", "estimate")):
        sizer = KellySizer(penalty="reliability", payoffs=payoffs, cap=20)
        sizer.fit(proba[:20_000], y, returns=returns)
        print(f"   {name:<24} {timed(lambda sizer=sizer: sizer.transform(proba), repeats):.2f}")


def timed(function: Callable[[], object], repeats: int) -> float:
    """Return median CPU seconds; the first call warms up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls")
    options = parser.parse_args()
    print_growth_and_ruin(options.seed)
    print_known_probabilities(options.seed)
    print_start(options.seed)
    print("\n2. Added miscalibration: k and s of 1 and 0 are calibrated")
    for spread in (1.0, 2.0):
        print_miscalibration(options.seed, spread)
    print_low_confidence(options.seed)
    print_seconds(options.repeats)


if __name__ == "__main__":
    main()
