"""The picture of training: both losses by epoch, the kept epoch ringed, whoever holds the histories."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler

from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LSTMGRUClassifier
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports.training import plot_training
from ensemble_kit.validation import WalkForwardSplit


def losses(train, valid):
    index = pd.RangeIndex(1, len(train) + 1, name="epoch")
    return pd.DataFrame({"train_loss": train, "valid_loss": valid}, index=index, dtype=np.float64)


FELL = losses([0.9, 0.6, 0.5, 0.4], [0.8, 0.7, 0.7, 0.75])


def drawn(ax):
    ax.figure.draw_without_rendering()  # ticks, layout and legends are made here: their warnings, too
    return ax


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def rings(ax):
    return [line.get_xydata()[0].tolist() for line in ax.lines if line.get_markersize() == 10]


def test_both_losses_and_the_first_best_epoch():
    given = Figure(figsize=(4, 3), layout="constrained").subplots()
    ax = drawn(plot_training(FELL, ax=given))
    assert ax is given
    assert_allclose(ax.lines[0].get_xydata(), FELL["train_loss"].reset_index())
    assert_allclose(ax.lines[1].get_xydata(), FELL["valid_loss"].reset_index())
    assert rings(ax) == [[2, 0.7]]  # of equals the first, as training does
    assert legend(ax) == ["train", "newest block", "best epoch: 2"]
    assert ax.get_xticks().tolist() == [1, 2, 3, 4]
    assert ax.get_ylabel() == "Loss"


def test_several_by_name():
    alone = losses([9.0, 3.0], [np.nan] * 2)
    ax = drawn(plot_training({"fold 0": FELL, "fold 1": alone}))
    assert legend(ax) == ["fold 0: best 2", "fold 1: no block", "train"]
    assert rings(ax) == [[2, 0.7]]
    assert ax.get_ylabel() == "Loss, log scale"
    many = drawn(plot_training({f"member {k}": FELL * (k + 1) for k in range(12)}))
    assert len(legend(many)) == 13
    assert len(rings(many)) == 12
    assert len({tuple(line.get_color()) for line in many.lines[:36:3]}) == 12
    box, axes = many.get_legend().get_window_extent(), many.bbox
    assert box.x0 >= axes.x1  # beside the lines, not on them
    assert drawn(plot_training({"lstm": FELL})).get_title(loc="left") == "Training: lstm"


@pytest.mark.parametrize("size", [(4, 3), (12, 7)])
@pytest.mark.parametrize("history", [FELL[:1], losses([1.0], [np.nan]), losses(np.ones(300), np.linspace(-1, 1, 300))])
def test_one_epoch_no_block_and_many_epochs(history, size):
    ax = drawn(plot_training(history, ax=Figure(figsize=size, layout="constrained").subplots()))
    assert all(tick == round(tick) for tick in ax.get_xticks())
    assert 1 <= len(ax.get_xticks()) <= 12
    assert ("newest block" in legend(ax)) == history["valid_loss"].notna().any() == bool(rings(ax))


def test_names_what_does_not_fit():
    cure = r"Take `history_` of a fitted sequence model, or the fitted model itself\.$"
    for wrong, got in (
        (LogisticRegression(), "LogisticRegression"),
        (LSTMGRUClassifier(), "LSTMGRUClassifier"),
        ({}, "dict"),
    ):
        with pytest.raises(
            EnsembleKitError, match=rf"^`history` must be a frame, .*; got {got}, which has none\. {cure}"
        ):
            plot_training(wrong)
    with pytest.raises(EnsembleKitError, match=rf"must have the columns .*; got columns \['train_loss'\]\. {cure}"):
        plot_training(FELL[["train_loss"]])
    with pytest.raises(EnsembleKitError, match=r"^`history` of 'a' must have the columns .*; got list\."):
        plot_training({"a": [1.0]})
    for empty in (FELL[:0], FELL * np.nan):
        with pytest.raises(EnsembleKitError, match=rf"must hold a loss of at least one epoch; got none\. {cure}"):
            plot_training(empty)


def test_of_fitted_models():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 3)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    member = make_pipeline(RobustScaler(), LSTMGRUClassifier(4, hidden_size=4, max_epochs=2, random_state=0))
    own = member.fit(X, y)[-1].history_
    for model in (member, member[-1]):
        ax = drawn(plot_training(model))
        assert_allclose(ax.lines[0].get_ydata(), own["train_loss"])
    members, cv = [("lr", LogisticRegression()), ("lstm", member)], WalkForwardSplit(2, purge=0)
    each = WalkForwardVotingClassifier(members, cv=cv, refit="fold_average").fit(X, y)
    ax = drawn(plot_training(make_pipeline("passthrough", each)))
    assert [name.split(":")[0] for name in legend(ax)] == ["lstm, fold 0", "lstm, fold 1", "train"]
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    for fold, model in enumerate(each.estimators_[1]):
        assert_allclose(dashed[fold].get_ydata(), model[-1].history_["train_loss"])
    whole = WalkForwardVotingClassifier(members, cv=cv).fit(X, y)
    assert plot_training(whole).get_title(loc="left") == "Training: lstm"
