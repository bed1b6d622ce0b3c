"""The next wave's slopes: known with that wave, no sooner, and purged by it."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.validation import WalkForwardSplit
from ensemble_kit.waves import extract_waves, wave_features, wave_targets

PRICES = ["open", "high", "low", "close"]
SLOPES = ["slope_high", "slope_low"]


def still_bars():
    """Prices that move, stand still until their ATR is nothing, and move again."""
    moves = 7.0 + np.cumsum(np.tile([0.1, -0.05, 0.1, -0.2], 25))
    close = np.concatenate([moves, np.full(600, moves[-1]), moves])
    index = pd.date_range("2024-01-01", periods=len(close), freq="min", tz="UTC")
    return pd.DataFrame(dict.fromkeys(PRICES, close), index=index)


@pytest.mark.parametrize("instruments", [None, ["B", "A"]])
def test_each_wave_gets_the_next_one_of_its_instrument(instruments):
    waves = extract_waves(make_bars(800, instruments=instruments, random_state=0))
    labels = wave_targets(waves)
    name = waves.index.get_level_values(-1) if instruments else np.zeros(len(waves))
    for i, (wave, of) in enumerate(zip(waves.index, name, strict=True)):
        later = [j for j in range(i + 1, len(waves)) if name[j] == of]
        if not later:
            assert labels.labels.iloc[i].isna().all()
            assert labels.t1.iloc[i] is pd.NaT
            assert labels.sample_weight.iloc[i] == 0
            continue
        following = waves.iloc[later[0]]
        expected = (following[SLOPES] / following["atr"]).tolist()
        assert labels.labels.loc[wave, SLOPES].tolist() == pytest.approx(expected, rel=1e-12)
        assert labels.t1.iloc[i] == (waves.index[later[0]][0] if instruments else waves.index[later[0]])
        assert labels.sample_weight.iloc[i] == 1
    assert labels.labels.columns.tolist() == SLOPES
    assert labels.known.sum() == len(waves) - len(instruments or [0])
    assert labels.t1.dtype == waves["start"].dtype
    assert labels.definition == {"label": "wave_targets"}
    assert pickle.loads(pickle.dumps(labels)).labels.equals(labels.labels)


@pytest.mark.filterwarnings("ignore:One wave holds:UserWarning")
def test_a_target_sees_bars_up_to_t1_only():
    bars = make_bars(600, random_state=1)
    labels = wave_targets(extract_waves(bars))
    for i in range(0, len(labels.t1) - 1, 4):
        t1 = labels.t1.iloc[i]
        prefix = wave_targets(extract_waves(bars[:t1]))
        assert prefix.known.sum() == i + 1
        pd.testing.assert_frame_equal(prefix.labels[:-1], labels.labels[: i + 1], check_exact=True)
        assert prefix.t1[:-1].equals(labels.t1[: i + 1])
        # One bar less, and it is not known: t1 is no later than it must be.
        earlier = bars[: t1 - pd.Timedelta(1)]
        assert i == 0 or wave_targets(extract_waves(earlier)).known.sum() == i
        other = bars.copy()
        other.loc[other.index > t1, PRICES] *= 5
        pd.testing.assert_frame_equal(
            wave_targets(extract_waves(other)).labels[: i + 1], labels.labels[: i + 1], check_exact=True
        )


@pytest.mark.parametrize("instruments", [None, ["A", "B", "C"]])
def test_pipelines_and_folds_take_them_as_they_are(instruments):
    bars = make_bars(3000, instruments=instruments, random_state=2)
    waves = extract_waves(bars)
    labels = wave_targets(waves)
    X, y = labels.align(wave_features(bars, waves))
    X, y = X[X.notna().all(axis=1)], y[X.notna().all(axis=1)]
    folds = WalkForwardSplit(3, t1=labels.t1)
    time = X.index.get_level_values(0)
    for train, test in folds.split(X):
        border = time[test].min()
        assert (labels.t1[X.index[train]] < border).all()
        # All that is left out among the earlier waves is what was not known yet.
        out = np.setdiff1d(np.flatnonzero(time < border), train)
        assert (labels.t1[X.index[out]] >= border).all()
        assert 0 < len(out) <= len(instruments or [0])
    scores = cross_val_score(make_pipeline(RobustScaler(), Ridge(1e3)), X, y, cv=folds)
    assert np.isfinite(scores).all()


def test_no_unit_no_weight():
    waves = extract_waves(still_bars(), cut=-0.01)  # 100 bars where prices stand still
    still = waves["atr"] <= 1e-9 * waves["intercept_high"]
    labels = wave_targets(waves)
    assert 0 < still.sum() < len(waves) - 2
    before = still.shift(-1, fill_value=False).to_numpy()
    assert labels.sample_weight[before].eq(0).all()
    assert labels.labels[before].eq(0).all(axis=None)
    assert labels.sample_weight[~before][:-1].eq(1).all()
    assert np.isfinite(labels.labels[:-1]).all(axis=None)


def test_bad_input():
    waves = extract_waves(make_bars(600, random_state=3))
    gap = r"^`waves` must follow each other without a gap; none follows {} \(1 gap\(s\)\)\. Label all waves first"
    with pytest.raises(EnsembleKitError, match=gap.format(waves.index[2]).replace("+", r"\+")):
        wave_targets(waves.drop(waves.index[3]))
    few = r"^`waves` must have at least two waves of an instrument; got {} in all\. Give more bars, or lower `cut`\.$"
    for n in (0, 1):
        with pytest.raises(EnsembleKitError, match=few.format(n)):
            wave_targets(waves[:n])
    with pytest.raises(BarsError, match=r"^`waves` must be sorted by time"):
        wave_targets(waves[::-1])
    with pytest.raises(EnsembleKitError, match="got ndarray without start, end"):
        wave_targets(waves.to_numpy())
