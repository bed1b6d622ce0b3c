"""The wave network: scikit-learn's checks, its size, and waves it has never seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ensemble_kit.datasets import make_bars
from ensemble_kit.estimators import WaveTransformerRegressor
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import block_bootstrap_mean
from ensemble_kit.waves import extract_waves, wave_features, wave_targets

MINI_BATCHES = "mini-batches: repeated rows fall into other batches, and sums of float32 differ in the last bits"
WINDOWS = "a row's answer depends on the rows before it"


def small(seq_len, **parameters):
    quick = {"d_model": 8, "n_heads": 2, "n_layers": 1, "dropout": 0.0, "max_epochs": 40, "learning_rate": 0.01}
    return WaveTransformerRegressor(seq_len, **(quick | {"batch_size": 32, "random_state": 0} | parameters))


def expected_failures(estimator):
    failures = {"check_sample_weight_equivalence_on_dense_data": MINI_BATCHES}
    if estimator.seq_len > 1:
        failures |= dict.fromkeys(["check_methods_sample_order_invariance", "check_methods_subset_invariance"], WINDOWS)
    return failures


@pytest.mark.slow
@parametrize_with_checks([small(1), small(3)], expected_failed_checks=expected_failures)
def test_sklearn_checks(estimator, check):
    check(estimator)


def test_the_size_of_the_papers():
    X = np.random.default_rng(0).normal(size=(40, 39))
    model = WaveTransformerRegressor(max_epochs=1, random_state=0).fit(X, X[:, :2])
    assert 650_000 < model.n_parameters_ < 750_000
    assert model.seq_len == 24
    assert model.predict(X).shape == (40, 2)


def test_one_batch_is_many_and_heads_share_the_width():
    X = np.random.default_rng(0).normal(size=(60, 5))
    model = small(4, max_epochs=2).fit(X, X[:, 0])
    assert_allclose(model.predict(X), model.set_params(batch_size=1).predict(X), atol=1e-5)
    with pytest.raises(EnsembleKitError, match=r"`d_model` must make a width that is a multiple of `n_heads`; got"):
        small(4, n_heads=3).fit(X, X[:, 0])


def judged(signal):
    """Mean squared error saved by the model against the training mean, wave by wave, with its interval."""
    bars = make_bars(45_000, signal=signal, random_state=0)
    waves = extract_waves(bars)
    targets = wave_targets(waves)
    X, y = targets.align(wave_features(bars, waves))
    usable = X.notna().all(axis=1)
    X, y = X[usable], y[usable]
    cut = int(0.7 * len(X))
    known = targets.t1[X.index[:cut]] < X.index[cut]
    train = np.flatnonzero(known)
    network = small(
        8,
        d_model=16,
        n_heads=4,
        n_layers=2,
        max_epochs=8,
        batch_size=64,
        learning_rate=1e-3,
        dropout=0.1,
        validation_fraction=0.15,
        validation_purge=1,
    )
    model = make_pipeline(StandardScaler().set_output(transform="pandas"), network)
    model.fit(X.iloc[train], y.iloc[train])
    error = ((model.predict(X)[cut:] - y.iloc[cut:]) ** 2).mean(axis=1)
    constant = ((y.iloc[train].mean() - y.iloc[cut:]) ** 2).mean(axis=1)
    return block_bootstrap_mean((constant - error).to_numpy(), random_state=0)


@pytest.mark.slow
def test_finds_planted_waves_and_none_where_there_are_none():
    mean, low, _ = judged(signal=3.0)
    assert low > 0
    none, _, high = judged(signal=0.0)
    assert none < mean / 5
    assert high < mean
