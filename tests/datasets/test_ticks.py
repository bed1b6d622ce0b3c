"""Synthetic ticks: shape, seeds, regimes, and a mid price that nothing foretells unless asked."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import make_ticks
from ensemble_kit.exceptions import BarsError


def moves_and_leans(ticks):
    middle = (ticks["bid"] + ticks["ask"]).to_numpy() / 2
    lean = ((ticks["bid_size"] - ticks["ask_size"]) / (ticks["bid_size"] + ticks["ask_size"])).to_numpy()
    return np.diff(middle), lean[:-1]


def test_ticks_lie_on_their_grid_in_order():
    ticks = make_ticks(5000, tick_size=0.05, random_state=0)
    assert ticks.index.is_unique
    assert ticks.index.is_monotonic_increasing
    assert str(ticks.index.tz) == "UTC"
    for name in ("bid", "ask"):
        np.testing.assert_allclose(ticks[name] / 0.05, np.round(ticks[name] / 0.05), atol=1e-6)
    spread = (ticks["ask"] - ticks["bid"]) / 0.05
    assert spread.min() > 1.99
    assert (ticks[["bid_size", "ask_size"]] >= 1).all().all()


def test_a_seed_gives_the_same_ticks():
    pd.testing.assert_frame_equal(make_ticks(500, random_state=3), make_ticks(500, random_state=3))
    assert not make_ticks(500, random_state=3).equals(make_ticks(500, random_state=4))


def test_spreads_widen_where_prices_move_and_ticks_come_faster():
    ticks = make_ticks(60_000, random_state=0)
    moved = np.abs(np.diff((ticks["bid"] + ticks["ask"]) / 2, prepend=100.0)) > 1e-9
    wild = pd.Series(moved, index=ticks.index).rolling(100).mean() > 0.3
    spread, gap = ticks["ask"] - ticks["bid"], ticks.index.to_series().diff().dt.total_seconds()
    assert spread[wild].mean() > 1.3 * spread[~wild].mean()
    assert gap[wild].mean() < 0.6 * gap[~wild].mean()


def test_without_a_signal_the_lean_says_nothing():
    scores = []
    for seed in range(40):
        moves, leans = moves_and_leans(make_ticks(2000, random_state=seed))
        scores.append(np.mean(np.sign(moves) * leans) / np.std(leans) * np.sqrt(np.mean(moves != 0) ** -1 * len(moves)))
    # Forty standard normal draws: their mean has deviation 0.16.
    assert abs(np.mean(scores)) < 0.6
    assert np.std(scores) < 1.5


def test_with_a_signal_moves_follow_the_lean():
    moves, leans = moves_and_leans(make_ticks(20_000, signal=1.0, random_state=0))
    moved, strong = np.abs(moves) > 1e-9, np.abs(leans) > 0.6
    assert np.mean((np.sign(moves) == np.sign(leans))[moved & strong]) > 0.68


def test_prices_never_fall_to_nothing():
    ticks = make_ticks(50_000, tick_size=0.01, price=1.0, random_state=1)
    assert ticks["bid"].min() > 0.4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_ticks": 0}, r"^`n_ticks` must be an integer of at least 1; got 0. 10_000 is about an hour.$"),
        ({"signal": 2.0}, r"^`signal` must be a number from 0 to 1; got 2.0. Use 0 for none, 1 for a clear one.$"),
        ({"tick_size": 0.0}, r"^`tick_size` must be a finite number above 0; got 0.0. Use 0.01 for cents.$"),
        ({"price": 0.5}, r"^`price` must be at least 100 ticks of 0.01; got 0.5. Raise it, or lower the tick.$"),
        ({"random_state": -1}, r"^`random_state` must be an integer of at least 0 or None; got -1. Pass a seed.$"),
    ],
)
def test_what_cannot_be_made_is_refused(changed, message):
    with pytest.raises(BarsError, match=message):
        make_ticks(**{"n_ticks": 10} | changed)
