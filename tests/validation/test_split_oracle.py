"""A thousand random panels: training rows are those of the rule written down bar by bar, and no others."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.validation import WalkForwardSplit

# ------------------------------------------------------------------ the rule, one row at a time


def oracle(rows, n_splits, *, t1, purge, train_size, test_size):
    """Folds as lists of positions; None where they cannot be filled. `rows` are (time, instrument) in ns."""
    times = sorted({time for time, _ in rows})
    blocks = test_blocks(times, n_splits, train_size, test_size)
    if blocks is None or not all(blocks) or blocks[0][0] == times[0]:
        return None
    folds = []
    for block in blocks:
        window = window_before(block[0], times, train_size)
        if not window:
            return None
        train = [
            i
            for i, (time, _) in enumerate(rows)
            if window[0] <= time <= window[-1]
            and (bars_later(rows, i, block[0]) >= purge if t1 is None else t1[i] != NEVER and t1[i] < block[0])
        ]
        if not train:
            return None
        folds.append((train, [i for i, (time, _) in enumerate(rows) if block[0] <= time <= block[-1]]))
    return folds


def bars_later(rows, i, start):
    """Bars of the row's own instrument after it and before the test block."""
    return sum(name == rows[i][1] and rows[i][0] < time < start for time, name in rows)


def number(size, times):
    return int(len(times) * size) if isinstance(size, float) else size


def test_blocks(times, n_splits, train_size, test_size):
    ages = range(n_splits - 1, -1, -1)  # 0 is the newest
    if isinstance(test_size, pd.Timedelta):
        d, last = test_size.value, times[-1]
        return [[t for t in times if last - (age + 1) * d < t <= last - age * d] for age in ages]
    if test_size is not None:
        n = number(test_size, times)
    elif train_size is None:
        n = len(times) // (n_splits + 1)
    elif isinstance(train_size, pd.Timedelta):
        n = len([t for t in times if t - times[0] >= train_size.value]) // n_splits
    else:
        n = (len(times) - number(train_size, times)) // n_splits
    if n < 1 or n_splits * n > len(times):
        return None
    return [times[len(times) - (age + 1) * n : len(times) - age * n] for age in ages]


test_blocks.__test__ = False


def window_before(start, times, size):
    before = [time for time in times if time < start]
    if size is None:
        return before
    if isinstance(size, pd.Timedelta):
        return [time for time in before if time >= start - size.value] if start - size.value >= times[0] else []
    n = number(size, times)
    return before[-n:] if 1 <= n <= len(before) else []


# ------------------------------------------------------------------------------- random panels

MINUTE = 60 * 10**9
NEVER = pd.NaT.value
ZONES = (None, "UTC", "America/New_York")


def random_rows(rng):
    """Times and instruments that begin, end, trade and pause as they like, around a change of clocks."""
    steps = rng.integers(1, 4, rng.integers(8, 36)) * rng.choice([5, 60, 600])
    steps[rng.random(len(steps)) < 0.05] *= 20  # nights, holidays
    times = pd.Timestamp("2022-03-11").as_unit("ns").value + np.cumsum(steps) * MINUTE
    rows = []
    for name in rng.permutation(4)[: rng.integers(1, 5)]:
        begin, end = np.sort(rng.integers(0, len(times) + 1, 2)) if rng.random() < 0.3 else (0, len(times))
        trades = rng.random(len(times)) < rng.choice([0.3, 0.7, 1.0])
        rows += [(int(time), int(name)) for time in times[begin:end][trades[begin:end]]]
    return sorted(rows) or [(int(times[0]), 0)]


def random_t1(rng, time):
    """Labels known at their own bar, at some other bar (a test block's first, say), anywhen, in years, never."""
    n = len(time)
    anywhen = time + (rng.random(n) * rng.choice([0.01, 0.4]) * (time[-1] - time[0])).astype(np.int64)
    bar = time[np.minimum(np.arange(n) + rng.integers(0, 12, n), n - 1)]
    kinds = [time, bar, anywhen, time + 4000 * 1440 * MINUTE, np.full(n, NEVER)]
    return np.choose(rng.choice(5, n, p=[0.2, 0.4, 0.3, 0.02, 0.08]), kinds)


def random_size(rng, time, most):
    kind, part = rng.integers(4), rng.uniform(most / 8, most)
    if kind == 0:
        return None
    if kind == 1:
        return int(part * len(np.unique(time))) + 1
    if kind == 2:
        return float(part)
    return pd.Timedelta(minutes=int(part * (time[-1] - time[0])) // MINUTE + 1)


def some_rows(rng, n):
    """All rows, a slice or any of them."""
    kind = rng.integers(3)
    if kind == 0:
        return np.arange(n)
    if kind == 1:
        return np.arange(rng.integers(0, n // 3 + 1), n - rng.integers(0, n // 3 + 1))
    return np.append(np.flatnonzero(rng.random(n - 1) < 0.8), n - 1)


def compare(seed, seen):
    rng = np.random.default_rng(seed)
    time, name = np.array(random_rows(rng)).T
    t1, zone = random_t1(rng, time), ZONES[rng.integers(3)]
    stamps = pd.DatetimeIndex(np.append(time, t1).view("M8[ns]"))
    stamps = stamps if zone is None else stamps.tz_localize("UTC").tz_convert(zone)
    single = (name == name[0]).all() and rng.random() < 0.5
    index = stamps[: len(time)]
    index = index if single else pd.MultiIndex.from_arrays([index, np.array([*"DABC"])[name]])
    labels = pd.Series(stamps[len(time) :], index=index)

    taken = some_rows(rng, len(time))
    X = pd.DataFrame({"x": np.zeros(len(taken))}, index=index[taken])
    rows, known = [*zip(time[taken].tolist(), name[taken].tolist(), strict=True)], t1[taken].tolist()
    n_splits = int(rng.integers(1, 4))
    sizes = {
        "train_size": random_size(rng, time[taken], 0.5),
        "test_size": random_size(rng, time[taken], 0.6 / n_splits),
    }
    given = {key: str(size) if isinstance(size, pd.Timedelta) else size for key, size in sizes.items()}
    if rng.random() < 0.5:  # a row is looked up wherever it stands
        labels = labels.iloc[rng.permutation(len(labels))]
    for purge in (None, int(rng.integers(0, 4))):
        cv = WalkForwardSplit(n_splits, t1=labels if purge is None else None, purge=purge, **given)
        expected = oracle(rows, n_splits, t1=known if purge is None else None, purge=purge, **sizes)
        if expected is None:
            seen["refused"] += 1
            with pytest.raises(EnsembleKitError):
                list(cv.split(X))
            continue
        found = [(train.tolist(), test.tolist()) for train, test in cv.split(X)]
        assert found == expected, f"seed {seed}: {cv} on {len(taken)} rows"
        seen["filled by t1" if purge is None else "filled by purge"] += 1
        seen["panel"] += not single
        for key, size in sizes.items():
            seen[f"{key} {type(size).__name__}"] += 1


def test_training_rows_are_the_oracles():
    seen = Counter()
    for seed in range(1000):
        compare(seed, seen)
    # Both rules and every kind of size and of panel are among the folds that could be filled.
    kinds = {f"{key}_size {kind}" for key in ("train", "test") for kind in ("NoneType", "int", "float", "Timedelta")}
    kinds |= {"filled by t1", "filled by purge", "panel", "refused"}
    assert {kind for kind in kinds if seen[kind] < 200} == set(), seen
