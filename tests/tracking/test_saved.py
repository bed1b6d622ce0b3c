"""One file: the model as it was, its card, and nothing else."""

import pickle
import zipfile

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import TrackingError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.tracking import load_saved, save_model
from ensemble_kit.validation import WalkForwardSplit


@pytest.fixture(scope="module")
def sized():
    bars = make_bars(600, random_state=0)
    labels = peak_slope_bottom(bars, w=6)
    X, y = labels.align(bars)
    model = make_pipeline(SessionFeatures(), LogisticRegression())
    return SizedClassifier(model, cv=WalkForwardSplit(2, t1=labels.t1)).fit(X, y), X


def test_reloaded_is_itself(sized, tmp_path):
    model, X = sized
    file = save_model(model, tmp_path / "deep" / "a.model", card={"accuracy": 0.5, "of": ["a", "b"]})
    again, card = load_saved(file)
    np.testing.assert_array_equal(again.predict_position(X), model.predict_position(X))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert card == {"accuracy": 0.5, "of": ["a", "b"]}
    assert [path.name for path in file.parent.iterdir()] == ["a.model"]


def test_a_model_that_cannot_be_stored_leaves_the_old_file(sized, tmp_path):
    file = save_model(sized[0], tmp_path / "a.model")
    before = file.read_bytes()
    with pytest.raises(TrackingError, match="must be made of this toolkit's"):
        save_model(make_pipeline(LogisticRegression()).set_params(memory=print), file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.model"]


def test_what_is_no_saved_model_is_refused(sized, tmp_path):
    file = save_model(sized[0], tmp_path / "a.model")
    with pytest.raises(TrackingError, match="cannot be read as a saved model"):
        load_saved(tmp_path / "none.model")
    torn = tmp_path / "torn.model"
    torn.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(TrackingError, match="cannot be read as a saved model"):
        load_saved(torn)
    (tmp_path / "pickle.model").write_bytes(pickle.dumps(sized[0]))
    with pytest.raises(TrackingError, match="cannot be read as a saved model"):
        load_saved(tmp_path / "pickle.model")
    for names in (["model.skops"], ["model.skops", "card.json", "../evil"]):
        with zipfile.ZipFile(tmp_path / "other.model", "w") as archive:
            for name in names:
                archive.writestr(name, b"{}")
        with pytest.raises(TrackingError, match=r"must hold model.skops and card.json; got .* do not use it"):
            load_saved(tmp_path / "other.model")
    assert not (tmp_path.parent / "evil").exists()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.model", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.skops", b"0" * 10_000_000)
        archive.writestr("card.json", b"{}")
    with pytest.raises(TrackingError, match="it holds compressed members"):
        load_saved(tmp_path / "bomb.model")
