"""A model's files: plain, the same model when read back, and nothing that executes."""

import json
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.exceptions import TrackingError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.metrics import auc_pr
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.tracking import read_card, read_model, write_model
from ensemble_kit.tracking.model import MODEL_FILE
from ensemble_kit.tracking.served import ServedModel, from_table, to_table
from ensemble_kit.validation import WalkForwardSplit


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    """A small sized ensemble on sessions alone, with every kind of member."""
    bars = make_bars(1200, random_state=0)
    labels = peak_slope_bottom(bars, horizons=2, w=6)
    X, y = labels.align(bars)
    members = [
        ("net", make_pipeline(StandardScaler(), LSTMGRUClassifier(3, hidden_size=4, max_epochs=1, random_state=0))),
        ("trees", LGBMWindowClassifier(3, n_estimators=5, random_state=0)),
    ]
    memory = tmp_path_factory.mktemp("memory")
    vote = WalkForwardVotingClassifier(members, cv=WalkForwardSplit(2, t1=labels.t1), memory=memory)
    model = SizedClassifier(make_pipeline(make_union(SessionFeatures(), SessionFeatures("XNYS")), vote))
    with pytest.warns(UserWarning, match="temperature on its bound"):
        return model.fit(X, y), X


def test_a_model_read_back_is_the_same_model(fitted, tmp_path):
    model, X = fitted
    again = read_model(write_model(model, tmp_path / "m", {"labels": {"w": 6}}))
    np.testing.assert_array_equal(again.predict_position(X), model.predict_position(X))
    for one, other in zip(model.predict_proba(X), again.predict_proba(X), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.model_[-1].weights_.equals(model.model_[-1].weights_)
    assert again.model_[-1].cv.t1.equals(model.model_[-1].cv.t1)
    assert again.row_usage_.to_frame().equals(model.row_usage_.to_frame())
    assert read_card(tmp_path / "m") == {"labels": {"w": 6}}


@pytest.mark.filterwarnings("ignore:temperature on its bound")  # five rounds of decisions are timid
def test_parameters_by_label_are_kept(tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(200, 2)), columns=["a", "b"])
    y = np.where(X["a"] + rng.normal(size=200) > 0, "up", "down")
    costs = pd.DataFrame([[0.0, 1.0], [3.0, 0.0]], index=["down", "up"], columns=["down", "up"])
    trees = LGBMWindowClassifier(2, n_estimators=5, loss="expected_cost", cost_matrix=costs, random_state=0)
    weights = pd.Series({"linear": 1.0, "trees": 3.0})
    vote = WalkForwardVotingClassifier(
        [("trees", trees), ("linear", LogisticRegression())],
        cv=WalkForwardSplit(2, purge=0),
        weighting=weights,
        scorer=auc_pr,
        calibrator={"trees": TemperatureScaling(bias=True), "linear": None},
    ).fit(X, y)
    again = read_model(write_model(vote, tmp_path / "m", {}))
    np.testing.assert_array_equal(again.predict_proba(X), vote.predict_proba(X))
    pd.testing.assert_frame_equal(again.recalibrate().weights_, vote.weights_)
    assert again.named_estimators_["trees"].cost_matrix == costs.to_dict("index")
    np.testing.assert_array_equal(again.estimators[0][1].fit(X, y).predict_proba(X), trees.fit(X, y).predict_proba(X))


def test_the_folder_of_the_fitting_machine_stays_behind(fitted, tmp_path):
    model, _ = fitted
    folder = write_model(model, tmp_path / "m", {})
    assert model.model[-1].memory is not None
    assert read_model(folder).model[-1].memory is None


class Foreign(LogisticRegression):
    """No class of ours, nor of scikit-learn's."""


def test_a_foreign_class_is_refused_before_anything_is_written(tmp_path):
    model = Foreign().fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(TrackingError, match=r"must be made of this toolkit's and scikit-learn's classes.*Foreign"):
        write_model(model, tmp_path / "m", {})
    assert not (tmp_path / "m" / MODEL_FILE).exists()


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_a_crafted_file_executes_nothing(tmp_path):
    hit = tmp_path / "executed"
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / MODEL_FILE).write_bytes(pickle.dumps(Malicious(hit)))
    with pytest.raises(TrackingError, match="cannot be read as a model"):
        read_model(folder)
    # The same through the format's own door: a function call in the schema.
    crafted = skops.io.dumps(LogisticRegression())
    (folder / MODEL_FILE).write_bytes(crafted)
    with zipfile.ZipFile(folder / MODEL_FILE) as archive:
        schema = json.loads(archive.read("schema.json"))
    schema |= {"__class__": "system", "__module__": "posix", "__loader__": "FunctionNode", "content": "posix.system"}
    with zipfile.ZipFile(folder / MODEL_FILE, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    with pytest.raises(TrackingError):
        read_model(folder)
    assert not hit.exists()


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_a_damaged_file_is_an_error_and_never_a_model(fitted, tmp_path, keep):
    model, _ = fitted
    file = write_model(model, tmp_path / "m", {}) / MODEL_FILE
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(TrackingError, match="cannot be read as a model"):
        read_model(tmp_path / "m")


def test_no_file_and_no_card(tmp_path):
    with pytest.raises(TrackingError, match="cannot be read as a model"):
        read_model(tmp_path)
    with pytest.raises(TrackingError, match="cannot be read as a model card"):
        read_card(tmp_path)


@pytest.mark.parametrize("instruments", [None, ["A", "B"]])
def test_bars_survive_the_table(instruments):
    bars = make_bars(30, instruments=instruments, random_state=0)
    again = from_table(to_table(bars))
    assert again.equals(bars)
    assert again.index.equals(bars.index)


def test_the_served_model_answers_with_probabilities_and_positions(fitted):
    model, X = fitted
    answer = ServedModel(model).predict(to_table(X))
    assert list(answer) == ["timestamp", "p_bottom", "p_peak", "p_slope", "position"]
    np.testing.assert_array_equal(answer["position"], model.predict_position(X))
    np.testing.assert_allclose(answer[["p_bottom", "p_peak", "p_slope"]].sum(axis=1), 1.0)
