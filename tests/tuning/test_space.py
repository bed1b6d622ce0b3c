"""Every class has its ranges, every draw is accepted, and whole pipelines compose."""

import inspect

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from ensemble_kit import calibration, ensemble, estimators, features, sizing
from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import (
    CNNClassifier,
    ExpectedCostClassifier,
    FusionClassifier,
    InformerClassifier,
    LGBMWindowClassifier,
    LSTMAttentionClassifier,
    LSTMGRUClassifier,
    LuTransformerClassifier,
    SequenceRegressor,
    TransformerClassifier,
    WaveTransformerRegressor,
)
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.features import Alpha158, CrossSectionalScaler, ICTFeatures, RelevanceRedundancySelector
from ensemble_kit.sizing import KellySizer, SizedClassifier
from ensemble_kit.tuning import space, suggest
from ensemble_kit.tuning._tables import TABLES
from ensemble_kit.validation import WalkForwardSplit

ROOMS = [features, estimators, calibration, ensemble, sizing]
PUBLIC = {
    name: getattr(room, name)
    for room in ROOMS
    for name in room.__all__
    if inspect.isclass(getattr(room, name)) and hasattr(getattr(room, name), "get_params")
}


def random_trial(space_, seed):
    """Return parameters drawn at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return suggest(study.ask(), space_)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_class_has_a_table_of_parameters_that_it_has(name):
    assert name in TABLES, f"{name} must have a row in _tables.py, an empty one if there is nothing to tune"
    assert set(TABLES[name]) <= set(inspect.signature(PUBLIC[name]).parameters)


def test_tables_are_of_public_classes():
    assert set(TABLES) == set(PUBLIC)


def test_defaults_lie_in_the_ranges():
    for name, rows in TABLES.items():
        signature = inspect.signature(PUBLIC[name]).parameters
        for parameter, given in rows.items():
            default = signature[parameter].default
            assert given._contains(given.to_internal_repr(default)), (name, parameter, default)


rng = np.random.default_rng(0)
X = rng.normal(size=(160, 4)).astype(np.float32)
Y = np.where(X[:, 0] > 0.3, "up", np.where(X[:, 0] < -0.3, "down", "flat"))


def fitted(estimator, drawn, X=X, y=Y):
    model = clone(estimator).set_params(**drawn)
    assert {name: model.get_params()[name] for name in drawn} == drawn
    return clone(model).fit(X, y)


FAST = {
    "lightgbm": LGBMWindowClassifier(n_estimators=2, validation_fraction=0.0),
    "selector": make_pipeline(RelevanceRedundancySelector(), StandardScaler(), LogisticRegression()),
    "sized": SizedClassifier(GaussianNB(), KellySizer(), cv=WalkForwardSplit(2, purge=0)),
    "cost": ExpectedCostClassifier(
        make_pipeline(RelevanceRedundancySelector(), GaussianNB()), cost_matrix=(np.ones((3, 3)) - np.eye(3)).tolist()
    ),
    "vote": WalkForwardVotingClassifier(
        [("nb", GaussianNB()), ("k", make_pipeline(RelevanceRedundancySelector(), GaussianNB()))],
        cv=WalkForwardSplit(2, purge=0),
        calibrator=calibration.TemperatureScaling(),
    ),
}


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("seed", range(3))
def test_every_draw_fits(name, seed):
    drawn = random_trial(space(FAST[name]), seed)
    if name == "lightgbm":
        drawn["n_estimators"] = 2
    fitted(FAST[name], drawn)


NETWORKS = {
    cls.__name__: cls(max_epochs=1, random_state=0)
    for cls in (
        CNNClassifier,
        InformerClassifier,
        LSTMAttentionClassifier,
        LSTMGRUClassifier,
        LuTransformerClassifier,
        TransformerClassifier,
        SequenceRegressor,
        WaveTransformerRegressor,
    )
}
NETWORKS["FusionClassifier"] = FusionClassifier(
    [("attention", LSTMAttentionClassifier()), ("lu", LuTransformerClassifier())], max_epochs=1, random_state=0
)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_draw_builds_a_network(name):
    model = NETWORKS[name]
    for seed in range(25):
        built = clone(model).set_params(**random_trial(space(model), seed))
        estimators_check(built)


def estimators_check(model):
    from ensemble_kit.estimators._parameters import check_parameters

    check_parameters(model)
    if type(model) is not SequenceRegressor:  # it has no trunk of its own
        model._build_trunk(4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "SequenceRegressor"])
def test_every_draw_trains_a_network(name):
    model = NETWORKS[name]
    for seed in range(3):
        drawn = random_trial(space(model), seed)
        fitted(model, drawn, y=X[:, 0] if name.endswith("Regressor") else Y)


@pytest.mark.parametrize("cls", [ICTFeatures, CrossSectionalScaler])
def test_every_draw_transforms(cls):
    bars = make_bars(60, random_state=0)
    if cls is CrossSectionalScaler:
        bars = pd.concat({"A": bars, "B": bars * 2}, names=["instrument"]).swaplevel().sort_index()
    for seed in range(5):
        drawn = random_trial(space(cls()), seed)
        assert len(clone(cls()).set_params(**drawn).fit_transform(bars)) == len(bars)


# ---------------------------------------------------------------- composition


def test_names_reach_through_a_whole_model():
    member = make_pipeline(RelevanceRedundancySelector(), LSTMGRUClassifier())
    vote = WalkForwardVotingClassifier([("net", member), ("trees", LGBMWindowClassifier())])
    whole = SizedClassifier(make_pipeline(make_union(Alpha158(), ICTFeatures()), vote), KellySizer())
    found = space(whole)
    inner = "model__walkforwardvotingclassifier__"
    assert found[f"{inner}net__lstmgruclassifier__hidden_size"] == IntDistribution(16, 128, step=16)
    assert found[f"{inner}net__relevanceredundancyselector__k"] == IntDistribution(10, 160, log=True)
    assert found[f"{inner}trees__learning_rate"] == FloatDistribution(0.01, 0.2, log=True)
    assert found[f"{inner}power"] == FloatDistribution(0.0, 4.0)
    assert found["model__featureunion__ictfeatures__left"] == IntDistribution(2, 12)
    assert found["sizer__fraction"] == FloatDistribution(0.1, 1.0)
    assert set(found) <= set(whole.get_params())
    drawn = random_trial(found, 0)
    model = clone(whole).set_params(**drawn)
    assert {name: model.get_params()[name] for name in drawn} == drawn


def test_subclasses_inherit_and_other_peoples_classes_do_not():
    class Mine(LSTMGRUClassifier):
        def __init__(self, seq_len=48, **shared):
            super().__init__(seq_len, **shared)

    own = {name: given for name, given in space(LSTMGRUClassifier()).items() if name in Mine().get_params()}
    assert space(Mine()) == own
    CNN = type("CNNClassifier", (LogisticRegression,), {})
    assert space(CNN()) == {}


def test_a_fusion_trains_its_members_itself():
    found = space(NETWORKS["FusionClassifier"])
    assert "learning_rate" in found
    assert "lu__d_model" in found
    assert "lu__dropout" in found
    assert not {"lu__learning_rate", "lu__seq_len", "lu__batch_size"} & set(found)
    assert "fusion__lu__seq_len" not in space(make_pipeline(StandardScaler(), NETWORKS["FusionClassifier"]))


def test_prefix_only_and_overrides():
    k = CategoricalDistribution([10, 20])
    found = space(RelevanceRedundancySelector(), prefix="a__", only="k", overrides={"max_rows": k})
    assert found == {"a__k": IntDistribution(10, 160, log=True), "a__max_rows": k}
    assert space(LogisticRegression(), overrides={"C": FloatDistribution(0.1, 1)}) == {"C": FloatDistribution(0.1, 1)}


def test_a_space_is_the_callers_own():
    found = space(KellySizer())
    found.clear()
    assert space(KellySizer())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"only": ["cap", "k*"]},
            r"^`only` must name what can be tuned; got 'cap', 'k\*', which is none of fraction, ",
        ),
        ({"overrides": {"caps": None}}, r"^`overrides` must name parameters of the estimator; got 'caps'\. `estim"),
        ({"overrides": {"cap": 1.0}}, r"^`overrides` must hold distributions; got 1\.0 for 'cap'\. Take one from "),
    ],
)
def test_what_cannot_be_used_is_said(given, message):
    with pytest.raises(EnsembleKitError, match=message):
        space(KellySizer(), **given)


def test_other_distributions_are_refused():
    with pytest.raises(EnsembleKitError, match=r"^`space` must hold Optuna's Categorical-, Int- or FloatDistribution"):
        suggest(optuna.trial.FixedTrial({}), {"k": 3})
