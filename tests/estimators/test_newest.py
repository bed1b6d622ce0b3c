"""The newest row alone, and row by row: the last row of `predict_log_proba`."""

import re

import numpy as np
import pytest
from families import FAMILIES
from numpy.testing import assert_allclose

from ensemble_kit.estimators import LSTMGRUClassifier
from ensemble_kit.exceptions import EnsembleKitError

N, F = 60, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, F)) * 6  # some beyond the clip
X[RNG.uniform(size=X.shape) < 0.05] = np.nan


def model_of(family, seq_len, n_horizons):
    cls, own = FAMILIES[family]
    labels = np.where(RNG.uniform(size=(N, n_horizons)) < 0.5, "up", "down")
    quick = {"max_epochs": 1, "batch_size": 32, "random_state": 0, "device": "cpu"}
    return cls(**(own | quick | {"seq_len": seq_len})).fit(X, labels[:, 0] if n_horizons == 1 else labels)


def batch(model):
    """Return log-probabilities of all rows, shape (n, K) or (n, H, K)."""
    said = model.predict_log_proba(X)
    return np.stack(said, axis=1) if isinstance(said, list) else said


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("seq_len", "n_horizons"), [(7, 1), (2, 3)])
def test_the_newest_row_is_the_last_of_the_batch(family, seq_len, n_horizons):
    if seq_len < 4 and family == "lu_transformer":
        seq_len = 5
    model = model_of(family, seq_len, n_horizons)
    expected = batch(model)
    for end in (1, seq_len - 1, seq_len, N):
        for window in (X[:end], X[max(0, end - seq_len) : end]):
            assert_allclose(model.newest_log_proba(window), expected[end - 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n_layers", "seq_len", "n_horizons"), [(1, 1, 1), (2, 5, 2), (3, 12, 1)])
@pytest.mark.parametrize("begun_with", [1, 3, 30])
def test_the_stream_goes_on_as_the_batch(n_layers, seq_len, n_horizons, begun_with):
    labels = np.where(RNG.uniform(size=(N, n_horizons)) < 0.5, "up", "down")
    model = LSTMGRUClassifier(
        seq_len, hidden_size=6, n_layers=n_layers, max_epochs=1, random_state=0, device="cpu"
    ).fit(X, labels[:, 0] if n_horizons == 1 else labels)
    expected = batch(model)
    stream = model.stream(X[:begun_with])
    said = [stream.last, *(stream.update(row) for row in X[begun_with:])]
    assert_allclose(said, expected[begun_with - 1 :], rtol=0, atol=1e-6)


def test_windows_of_another_shape_are_refused():
    model = model_of("lstm_gru", 4, 1)
    for window, shape in ((X[:, :2], "(60, 2)"), (X[0], "(3,)"), (X[:0], "(0, 3)")):
        message = (
            f"`window` must have shape (m, 3) with at least one row; got {shape}. Give the newest rows, with the "
            "columns of `fit`."
        )
        for ask in (model.newest_log_proba, model.stream):
            with pytest.raises(EnsembleKitError, match=f"^{re.escape(message)}$"):
                ask(window)
