"""Simulated bets of stated odds: what the formula does to growth and to the risk of half the equity."""

import numpy as np
import pytest

from ensemble_kit.sizing import KellySizer

N_PATHS, N_BETS = 1000, 10_000


def columns(p):
    return np.column_stack([1 - p, p])  # down, up


def fitted(p, seed, **params):
    """A sizer that knows the very probabilities that outcomes are drawn by."""
    came = np.random.default_rng(seed).random(len(p)) < p
    return KellySizer(**params).fit(columns(p), np.where(came, "up", "down"))


def size(sizer, p):
    return sizer.transform(columns(np.array([p])))[0]


def log_equity(f, p, b=1.0, seed=1):
    """Log of equity after each bet, a row a path."""
    won = np.random.default_rng(seed).random((N_PATHS, N_BETS)) < p
    return np.cumsum(np.where(won, np.log1p(b * f), np.log1p(-f)), axis=1)


def shares_below_half(paths):
    """Share of paths that were ever below half their start, and that end there."""
    return (paths.min(axis=1) < np.log(0.5)).mean(), (paths[:, -1] < np.log(0.5)).mean()


@pytest.mark.parametrize(
    ("p", "b"), [(0.75, 1.0), (0.8, 1.0), (0.9, 1.0), (0.95, 1.0), (0.7, 2.0), pytest.param(0.8, 2.0)]
)
def test_the_calibrated_half_bet_hardly_ever_halves_the_equity(p, b):
    sizer = fitted(np.full(20_000, p), seed=0, payoffs=b)
    f = size(sizer, p)
    assert 0 < f < (p - (1 - p) / b) / 2
    paths = log_equity(f, p, b)
    ever, at_the_end = shares_below_half(paths)
    assert ever < 0.01
    assert at_the_end == 0
    growth = p * np.log1p(b * f) + (1 - p) * np.log1p(-f)
    assert paths[:, -1].mean() / N_BETS == pytest.approx(growth, rel=0.02)


def test_the_plain_half_bet_halves_it_in_one_path_of_eight():
    # Small bets are a Brownian motion, which ever falls to x with probability x ** (2 / fraction - 1): x ** 3 = 12.5 %.
    p = 0.55
    f = size(fitted(np.full(20_000, p), seed=0, conservatism=0.0), p)
    assert f == pytest.approx(0.05)
    ever, at_the_end = shares_below_half(log_equity(f, p))
    assert 0.09 < ever < 0.14
    assert at_the_end < 0.01
    # Known probabilities are no reason for the other penalty to bet less.
    trusting = fitted(np.full(20_000, p), seed=0, penalty="reliability")
    assert size(trusting, p) > 0.8 * f


def test_where_the_brier_score_lets_even_bets_begin():
    # 2 p - 1 = sqrt(p (1 - p)) at p = (5 + sqrt 5) / 10 = 0.7236.
    p = np.arange(0.5, 1.0, 0.005)
    traded = np.array([size(fitted(np.full(50_000, q), seed=2), q) > 0 for q in p])
    assert not traded[p < 0.72].any()
    assert traded[p > 0.73].all()


def growth(f, p):
    return (p * np.log1p(f) + (1 - p) * np.log1p(-f)).mean()


@pytest.mark.parametrize("seed", range(5))
def test_known_probabilities_grow_as_full_kelly_does_under_reliability(seed):
    rng = np.random.default_rng(100 + seed)
    train, bets = rng.uniform(0.3, 0.7, 10_000), rng.uniform(0.3, 0.7, 200_000)
    full = growth(2 * bets - 1, bets)
    reliability, brier = (
        fitted(train, seed, fraction=1.0, penalty=penalty).transform(columns(bets))
        for penalty in ("reliability", "brier")
    )
    assert 0.95 * full < growth(reliability, bets) <= full
    assert (brier == 0).all()


def test_no_other_bet_grows_faster():
    rng = np.random.default_rng(3)
    payoffs = {"bottom": [0.05, 0.02, -0.03], "peak": [-0.04, 0.01], "slope": [0.01, -0.012]}
    sizer = KellySizer(fraction=1.0, conservatism=0.0, payoffs=payoffs, cost=0.001, cap=50)
    sizer.fit(np.eye(3), ["bottom", "peak", "slope"])
    proba = rng.dirichlet([1, 1, 1], size=300)
    best = sizer.transform(proba)

    def expected(f):
        worth = [np.log1p(f[:, None] * r - 0.001 * np.abs(f[:, None])).mean(axis=1) for r in sizer.payoffs_]
        return (proba * np.column_stack(worth)).sum(axis=1)

    for step in (-0.5, -0.01, 0.01, 0.5):
        other = best + step
        # Within ruin only.
        other = np.where(np.abs(other) < 19, other, best)
        assert (expected(other) <= expected(best) + 1e-13).all()
    assert (best > 0).any()
    assert (best < 0).any()
    assert (best == 0).any()


@pytest.mark.parametrize("penalty", ["brier", "reliability"])
@pytest.mark.parametrize(
    "spoilt", [[(k, 0) for k in (1, 1.5, 2, 3, 5)], [(1, 0), (0.5, 0)], [(1, s) for s in (0, 1, 2, 4)]]
)
def test_the_same_probability_gets_less_the_less_it_means(penalty, spoilt):
    rng = np.random.default_rng(4)
    logit, noise = rng.normal(0, 1, size=(2, 50_000))
    true = 1 / (1 + np.exp(-logit))
    y = np.where(rng.random(50_000) < true, "up", "down")
    said = [1 / (1 + np.exp(-k * logit - s * noise)) for k, s in spoilt]
    at = [size(KellySizer(penalty=penalty).fit(columns(p), y), 0.95) for p in said]
    assert at[-1] > 0
    assert (np.diff(at) < 0).all()
