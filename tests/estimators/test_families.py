"""What holds for every family of sequence models, whatever its network."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from families import FAMILIES, small
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from ensemble_kit.tracking.model import read_model, write_model

N, F = 160, 3

pytestmark = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(name="X")
def columns():
    return np.random.default_rng(0).normal(size=(N, F)).astype(np.float32)


@pytest.fixture
def y(X):
    return np.where(X[:, 0] > 0, "up", "down")


def quick(family, seq_len=5, **parameters):
    return small(family, seq_len, **({"max_epochs": 2, "dropout": 0.1} | parameters))


def test_one_batch_is_many(family, X, y):
    model = quick(family).fit(X, y)
    many = model.predict_log_proba(X)
    for batch_size in (1, 7, 10 * N):
        assert_allclose(model.set_params(batch_size=batch_size).predict_log_proba(X), many, atol=1e-5)


def test_rows_are_their_windows(family, X, y):
    # Each window alone, as the last of its own rows, gives what all rows together give.
    model = quick(family).fit(X, y)
    together = model.predict_log_proba(X)
    for t in (4, 30, N - 1):
        assert_allclose(model.predict_log_proba(X[t - 4 : t + 1])[-1], together[t], atol=1e-5)
    later = X.copy()
    later[50:] += 1
    assert_array_equal(model.predict_log_proba(later)[:50], together[:50])
    earlier = X.copy()
    earlier[:50] += 1
    assert_array_equal(model.predict_log_proba(earlier)[54:], together[54:])
    assert np.abs(model.predict_log_proba(earlier)[50] - together[50]).max() > 1e-7


def test_panel_is_instruments_one_by_one(family, X, y):
    index = pd.MultiIndex.from_product([pd.date_range("2024", periods=N // 2, freq="h"), ["A", "B"]])
    frame = pd.DataFrame(X, index=index)
    model = quick(family).fit(frame, pd.Series(y, index=index))
    together = pd.DataFrame(model.predict_proba(frame), index=index)
    for instrument in ("A", "B"):
        alone = frame.xs(instrument, level=1, drop_level=False)
        assert_allclose(together.loc[alone.index], model.predict_proba(alone), atol=1e-6)


def test_same_seed_same_bits_and_a_stored_model_is_itself(family, X, y):
    model = quick(family).fit(X, y)
    answer = model.predict_proba(X)
    assert_array_equal(clone(model).fit(X, y).predict_proba(X), answer)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), answer)
    other = quick(family, random_state=1).fit(X, y).predict_proba(X)
    assert np.abs(other - answer).max() > 1e-4
    assert model.n_parameters_ == sum(p.numel() for p in model.net_.module_.parameters())


def test_a_registered_model_is_itself_and_executes_nothing(family, X, y, tmp_path):
    model = quick(family).fit(X, y)
    write_model(model, tmp_path, {})
    assert_array_equal(read_model(tmp_path).predict_proba(X), model.predict_proba(X))


def test_several_horizons_share_a_trunk(family, X, y):
    both = np.column_stack([y, np.roll(y, 1)])
    model = quick(family).fit(X, both)
    assert [p.shape for p in model.predict_proba(X)] == [(N, 2)] * 2
    assert model.predict(X).shape == (N, 2)


def test_odd_lengths(family, X, y):
    model = quick(family, seq_len=300, max_epochs=1).fit(X[:40], y[:40])  # longer than the series
    assert np.isfinite(model.predict_log_proba(X[:1])).all()
    model = quick(family, seq_len=1).fit(X, y)
    shuffled = np.random.default_rng(1).permutation(N)
    assert_allclose(model.predict_proba(X[shuffled]), model.predict_proba(X)[shuffled], atol=1e-6)


def test_history_of_weight_0_teaches_nothing(family, X, y):
    weight = np.ones(N)
    weight[50:90] = 0
    other = y.copy()
    other[50:90] = "neither"
    expected = quick(family).fit(X, y, weight).predict_proba(X)
    assert_array_equal(quick(family).fit(X, other, weight).predict_proba(X), expected)


def test_stop_rows_teach_nothing(family, X, y):
    model = quick(family, max_epochs=1, validation_fraction=0.25, validation_purge=5)
    expected = clone(model).fit(X, y).predict_proba(X)
    other = y.copy()
    other[115:] = np.where(other[115:] == "up", "down", "up")
    assert_array_equal(clone(model).fit(X, other).predict_proba(X), expected)


def test_bf16_is_close(family, X, y):
    model = quick(family, precision="bf16").fit(X, y)
    low = model.predict_proba(X)
    assert low.dtype == np.float64
    full = model.set_params(precision="float32").predict_proba(X)
    assert 0 < np.abs(low - full).max() < 0.03
    assert_allclose(model.set_params(precision="bf16").predict_proba(X[:1]), full[:1], atol=1e-6)  # float32


def accuracy(family, X, y, seed):
    model = small(family, 6, max_epochs=12, batch_size=64, learning_rate=0.01, dropout=0.1, random_state=seed)
    model.set_params(**{name: 16 for name in ("hidden_size", "d_model", "n_filters") if name in model.get_params()})
    half = len(X) * 2 // 3
    model.fit(X[:half], y[:half])
    return (model.predict(X)[half:] == y[half:]).mean()


def test_learns_what_only_a_sequence_shows(family):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1800, 4)).astype(np.float32)
    summed = np.convolve(X[:, 1], np.ones(4))[: len(X)]
    y = np.where(summed > 0, "up", "down")
    assert ((X[:, 1] > 0) == (summed > 0)).mean() < 0.7  # the newest row alone says less
    assert accuracy(family, X, y, 0) > 0.8
    assert max(accuracy(family, X, rng.permutation(y), seed) for seed in range(2)) < 0.6
