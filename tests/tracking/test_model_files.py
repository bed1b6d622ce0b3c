"""A model's files: plain, the same model when read back, and nothing that executes."""

import copy
import importlib
import inspect
import io
import json
import os
import pickle
import pkgutil
import sys
import tracemalloc
import zipfile

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

import ensemble_kit
from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.exceptions import TrackingError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.metrics import auc_pr
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.tracking import load_model, read_card, read_model, write_model
from ensemble_kit.tracking.model import CARD_FILE, MODEL_FILE, TRUSTED
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


@pytest.fixture
def folder(tmp_path):
    """A good model's files, to be tampered with: a canary's path is `tmp_path / "executed"`."""
    X = np.random.default_rng(0).normal(size=(40, 2))
    return write_model(LogisticRegression().fit(X, X[:, 0] > 0), tmp_path / "m", {})


def members_of(file):
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(file, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def all_files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_pickle_in_the_models_place_executes_nothing(folder, tmp_path):
    (folder / MODEL_FILE).write_bytes(pickle.dumps(Malicious(tmp_path / "executed")))
    with pytest.raises(TrackingError, match="cannot be read as a model"):
        read_model(folder)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_in_an_arrays_place_executes_nothing(folder, tmp_path):
    file = folder / MODEL_FILE
    payloads = [pickle.dumps(Malicious(tmp_path / "executed")), io.BytesIO()]
    np.save(payloads[1], np.array([Malicious(tmp_path / "executed")], dtype=object), allow_pickle=True)
    for payload in (payloads[0], payloads[1].getvalue()):
        members = members_of(file)
        assert any(name.endswith(".npy") for name in members)
        rewrite(file, {name: payload if name.endswith(".npy") else data for name, data in members.items()})
        with pytest.raises(TrackingError, match="cannot be read as a model"):
            read_model(folder)
    assert not (tmp_path / "executed").exists()


def node(loader, name, module, **more):
    return {"__class__": name, "__module__": module, "__loader__": loader, "__id__": 1, **more}


def calls(tmp_path):
    """Schemas that name something that runs, one for each way the format has of naming it."""
    command = f"touch {tmp_path / 'executed'}"
    text = node("JsonNode", "str", "builtins", content=json.dumps(command), is_json=True)
    args = node("TupleNode", "tuple", "builtins", content=[text])
    system = node("FunctionNode", "system", "posix", content="posix.system")
    nothing = node(
        "DictNode", "dict", "builtins", content={}, key_types=node("ListNode", "list", "builtins", content=[])
    )
    yield system
    yield node("TypeNode", "Popen", "subprocess")
    yield node("ObjectNode", "Popen", "subprocess", content=nothing)
    yield node("MethodNode", "system", "builtins", content={"func": "system", "obj": system})
    yield node(
        "PartialNode",
        "partial",
        "functools",
        content={"func": system, "args": args, "kwds": nothing, "namespace": nothing},
    )
    yield node("OperatorFuncNode", "methodcaller", "operator", attrs=args)
    yield node("TreeNode", "system", "posix", __reduce__={"args": args}, content=nothing)


def test_a_foreign_name_in_the_schema_executes_nothing(folder, tmp_path):
    file = folder / MODEL_FILE
    members = members_of(file)
    good = json.loads(members["schema.json"])
    for schema in calls(tmp_path):
        rewrite(file, {"schema.json": json.dumps(good | schema)})
        with pytest.raises(TrackingError, match=r"must hold this toolkit's classes only; .*[^.]\. It was not written"):
            read_model(folder)
        # As an attribute of a class that is known, too.
        inside = json.loads(json.dumps(good))
        inside["content"]["content"]["C"] = schema
        rewrite(file, members | {"schema.json": json.dumps(inside)})
        with pytest.raises(TrackingError, match=r"must hold this toolkit's classes only; .*[^.]\. It was not written"):
            read_model(folder)
    assert not (tmp_path / "executed").exists()


def test_a_foreign_class_is_named_when_read(folder):
    (folder / MODEL_FILE).write_bytes(skops.io.dumps(Foreign().fit([[0.0], [1.0]], [0, 1])))
    with pytest.raises(TrackingError, match=r"must hold this toolkit's classes only; .*Foreign.*do not use it"):
        read_model(folder)


def test_members_with_paths_are_never_written(folder, tmp_path):
    file = folder / MODEL_FILE
    slips = dict.fromkeys(("../executed", "../../executed", str(tmp_path / "executed"), "a/b"), b"x")
    rewrite(file, members_of(file) | slips)
    before = all_files(tmp_path.parent)
    read_model(folder)
    assert all_files(tmp_path.parent) == before


def test_a_bomb_is_refused_before_it_is_unpacked(folder):
    file = folder / MODEL_FILE
    members = members_of(file)
    rewrite(file, members | {"bomb.npy": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(TrackingError, match="it holds compressed members"):
            read_model(folder)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    # Many names for the same bytes: each is stored, and together they are larger than the file.
    rewrite(file, members | {"big.npy": bytes(100_000)})
    with zipfile.ZipFile(file, "a") as archive:
        for k in range(50):
            twin = copy.copy(archive.getinfo("big.npy"))
            twin.filename = f"{k}.npy"
            archive.filelist.append(twin)
        archive._didModify = True
    with pytest.raises(TrackingError, match="its members are larger than itself"):
        read_model(folder)


def test_nesting_without_end_is_an_error(folder):
    deep = '{"content":' * 100_000 + "1" + "}" * 100_000
    rewrite(folder / MODEL_FILE, {"schema.json": deep})
    with pytest.raises(TrackingError, match="cannot be read as a model"):
        read_model(folder)
    (folder / CARD_FILE).write_text("[" * 100_000)
    with pytest.raises(TrackingError, match="cannot be read as a model card"):
        read_card(folder)


@pytest.mark.parametrize("name", [MODEL_FILE, CARD_FILE])
def test_a_link_to_elsewhere_is_not_followed(folder, tmp_path, name):
    target = tmp_path / "elsewhere"
    (folder / name).rename(target)
    (folder / name).symlink_to(target)
    with pytest.raises(TrackingError, match="cannot be read as a model"):
        (read_model if name == MODEL_FILE else read_card)(folder)
    os.mkfifo(tmp_path / "endless")
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "endless")
    with pytest.raises(TrackingError, match="cannot be read as a model"):
        (read_model if name == MODEL_FILE else read_card)(folder)


def test_what_mlflows_own_files_name_is_not_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    canary = f"open({str(tmp_path / 'executed')!r}, 'w')\n"
    stored = tmp_path / "stored"
    (stored / "data").mkdir(parents=True)
    folder.rename(stored / "data" / "sized_model")
    (stored / "code").mkdir()
    for name in ("evil", "skops", "sitecustomize"):
        (stored / "code" / f"{name}.py").write_text(canary + "def _load_pyfunc(path): return None\n")
    (stored / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: evil\n    code: code\n    data: data/sized_model\n"
        "    env: {virtualenv: python_env.yaml}\n    python_model: data/evil.pkl\nmodel_uuid: 0\n"
    )
    (stored / "data" / "evil.pkl").write_bytes(pickle.dumps(Malicious(tmp_path / "executed")))
    (stored / "python_env.yaml").write_text("dependencies: [evil]\n")
    before = sys.path[:]
    assert isinstance(load_model(str(stored)), LogisticRegression)
    assert sys.path == before
    assert "evil" not in sys.modules
    assert not (tmp_path / "executed").exists()


def test_every_estimator_of_ours_is_known():
    ours = set()
    for module in pkgutil.walk_packages(ensemble_kit.__path__, "ensemble_kit."):
        if module.name.split(".")[1] not in {"cli", "presets", "experiment", "tuning", "tracking", "reports"}:
            found = vars(importlib.import_module(module.name)).values()
            ours |= {one for one in found if inspect.isclass(one) and issubclass(one, BaseEstimator)}
    names = {f"{one.__module__}.{one.__qualname__}" for one in ours if not one.__subclasses__()}
    own = {name for name in names if name.startswith("ensemble_kit.") and "._" not in name}
    assert own <= set(TRUSTED)


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
