"""What label functions return: aligned, counted, shown."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels import Labels, peak_slope_bottom

BARS = make_bars(300, instruments=["A", "B"], random_state=0)
LABELS = peak_slope_bottom(BARS, horizons=3, w=12)
DAYS = pd.date_range("2022", periods=4)


def small(labels):
    labels = pd.Series(labels, index=DAYS)
    return Labels(labels, pd.Series(DAYS, index=DAYS), pd.Series(1.0, index=DAYS), {"label": "small"})


def test_align_leaves_out_the_end_of_each_instrument():
    X, y = LABELS.align(BARS)
    assert X.index.equals(y.index)
    assert X.index.equals(BARS.index[:-28])  # both end together: 2 x (12 + 2) rows
    assert y.notna().all(axis=None)
    assert X.equals(BARS.loc[X.index])
    assert y.equals(LABELS.labels.loc[X.index])
    X, y = LABELS.align(BARS["close"])
    assert X.equals(BARS["close"].iloc[:-28])
    X, y = LABELS.align(BARS.to_numpy())
    np.testing.assert_array_equal(X, BARS.to_numpy()[:-28])
    assert len(y) == len(X)


def test_a_row_is_known_when_all_its_horizons_are():
    frame = pd.DataFrame({"H0": ["a", "b", "a", None], "H1": ["a", "a", None, None]}, index=DAYS)
    labels = Labels(frame, pd.Series(DAYS, index=DAYS), pd.Series(1.0, index=DAYS))
    assert labels.known.tolist() == [True, True, False, False]
    assert labels.horizon(1).equals(frame["H1"])
    assert labels.summary().to_dict("index") == {"H0": {"a": 0.5, "b": 0.5}, "H1": {"a": 1.0, "b": 0.0}}


def test_align_refuses_other_rows():
    with pytest.raises(EnsembleKitError, match=r"labelled bars' index \(600 rows\); got another one of 599"):
        LABELS.align(BARS.iloc[1:])
    with pytest.raises(EnsembleKitError, match="got another one of 600"):
        LABELS.align(BARS.iloc[::-1])
    with pytest.raises(EnsembleKitError, match="labelled bars' 600 rows; got 10"):
        LABELS.align(np.zeros((10, 2)))


def test_summary():
    shares = LABELS.summary()
    assert shares.index.tolist() == ["H0", "H1", "H2"]
    assert set(shares.columns) == {"bottom", "slope", "peak"}
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    learned = LABELS.known & (LABELS.sample_weight > 0).to_numpy()
    assert 0 < learned.sum() < LABELS.known.sum()
    assert shares.loc["H1", "peak"] == (LABELS.labels["H1"][learned] == "peak").mean()
    assert small([1.0, -1.0, 1.0, np.nan]).summary().loc["H0"].to_dict() == {1.0: 2 / 3, -1.0: 1 / 3}
    assert small([1.0, -1.0, 1.0, np.nan]).horizon().name == small([1.0] * 4).labels.name


def test_numbers_that_are_classes_come_out_whole():
    labels = small([1.0, -1.0, 1.0, np.nan])
    _, y = labels.align(pd.DataFrame({"a": range(4)}, index=DAYS))
    assert y.dtype == np.int64
    assert y.tolist() == [1, -1, 1]
    assert repr(labels) == "<Labels small: 3 of 4 rows known; H0: 1 66.67%, -1 33.33%>"


def test_quantities_are_described():
    frame = pd.DataFrame({"up": [0.5, 1.5, 2.5, np.nan], "down": [1.0, 2.0, 4.0, np.nan]}, index=DAYS)
    labels = Labels(frame, pd.Series(DAYS, index=DAYS), pd.Series([1.0, 0, 1, 1], index=DAYS), {"label": "small"})
    assert labels.align(frame)[1].equals(frame.iloc[:3])
    assert labels.summary().loc["up", ["mean", "std", "max"]].tolist() == [1.5, np.sqrt(2), 2.5]
    assert repr(labels).startswith(
        "<Labels small: 3 of 4 rows known (1 of weight 0); up: count 2, mean 1.5, std 1.414,"
    )
    assert "<td>2.5</td>" in labels._repr_html_()


def test_repr():
    assert repr(small(["up", "down", "up", None])) == "<Labels small: 3 of 4 rows known; H0: up 66.67%, down 33.33%>"
    assert repr(small([None] * 4)) == "<Labels small: 0 of 4 rows known; H0: nothing>"
    assert "peak_slope_bottom: 572 of 600 rows known" in repr(LABELS)


def test_html():
    html = LABELS._repr_html_()
    assert html.startswith("<p>Labels peak_slope_bottom: 572 of 600")
    assert html.count("<tr") == 4
    assert f"<td>{LABELS.summary().loc['H0', 'peak']:.2%}</td>" in html
    assert small([None] * 4)._repr_html_()
    assert "<b>" not in small(["<b>", "a", "a", None])._repr_html_()


def test_results_can_be_compared_and_hashed():
    assert peak_slope_bottom(BARS, horizons=3, w=12) != LABELS  # by identity: frames have no truth value
    assert len({LABELS, LABELS}) == 1


def test_shares_are_of_what_is_learned_from():
    labels = pd.Series(["up", "down", "hold", None], index=DAYS)
    weighed = Labels(labels, pd.Series(DAYS, index=DAYS), pd.Series([0.2, 1.0, 0.0, 1.0], index=DAYS))
    assert repr(weighed) == "<Labels labels: 3 of 4 rows known (1 of weight 0); H0: up 50.00%, down 50.00%>"
    assert "hold" not in weighed.summary()
    assert weighed.align(labels)[1].tolist() == ["up", "down", "hold"]


@pytest.mark.parametrize("values", [["up", "down", "hold", None], [0.5, 1.5, 2.5, np.nan], [1.0, 0.0, 1.0, np.nan]])
def test_no_row_to_learn_from(values):
    idle = Labels(pd.Series(values, index=DAYS), pd.Series(DAYS, index=DAYS), pd.Series(0.0, index=DAYS))
    text = "3 of 4 rows known (3 of weight 0); H0: nothing to learn from, no row has a weight above 0"
    assert repr(idle) == f"<Labels labels: {text}>"
    assert idle._repr_html_() == f"<p>Labels labels: {text}</p>"
    assert idle.summary().shape == (1, 0)


@pytest.mark.parametrize(("labels", "h", "last"), [(LABELS, 3, 2), (LABELS, -1, 2), (LABELS, "H1", 2), (BARS, 1, 0)])
def test_there_is_no_such_horizon(labels, h, last):
    labels = peak_slope_bottom(BARS, w=12) if labels is BARS else labels
    with pytest.raises(
        EnsembleKitError, match=rf"^`h` must be an integer from 0 to {last}; got {h!r}\. Label the bars"
    ):
        labels.horizon(h)
