"""Studies: their sampler, their totals, their winner, and Optuna's own search with our space."""

import warnings

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.features import RelevanceRedundancySelector
from ensemble_kit.metrics import AUCPRScorer
from ensemble_kit.sizing import KellySizer
from ensemble_kit.tuning import WalkForwardObjective, best_estimator, create_study, space, tune
from ensemble_kit.validation import WalkForwardSplit

optuna.logging.set_verbosity(optuna.logging.ERROR)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 3))
Y = np.where(X[:, 0] + RNG.normal(size=240) > 0, "up", "down")
C = {"C": FloatDistribution(0.01, 10.0, log=True)}


def objective(y=Y, scoring="log_loss"):
    return WalkForwardObjective(LogisticRegression(), X, y, cv=WalkForwardSplit(2, purge=0), space=C, scoring=scoring)


def parabola(trial):
    return (trial.suggest_float("x", -9, 9) - 2) ** 2


@pytest.fixture
def store(tmp_path):
    """Make studies in a file, and close its connections afterwards."""
    made = []

    def make(name="one", **given):
        made.append(create_study(name, storage=f"sqlite:///{tmp_path}/s.db", **{"directions": ["minimize"]} | given))
        return made[-1]

    yield make
    for study in made:
        study._storage._backend.engine.dispose()


def test_stopped_and_gone_on_draws_what_one_run_draws(store):
    whole = tune(parabola, create_study("whole", directions=["minimize"]), n_trials=14)
    tune(parabola, store(), n_trials=6)
    parts = tune(parabola, store(), n_trials=14)
    assert [t.params for t in parts.trials] == [t.params for t in whole.trials]
    other = tune(parabola, create_study("other", directions=["minimize"], seed=1), n_trials=1)
    assert other.trials[0].params != whole.trials[0].params


def test_trials_are_counted_over_all_calls_or_over_this_one():
    study = create_study("count", directions=["minimize"])
    assert len(tune(parabola, study, n_trials=3).trials) == 3
    assert len(tune(parabola, study, n_trials=3).trials) == 3
    assert len(tune(parabola, study, n_trials=3, n_total=False).trials) == 6
    assert len(tune(parabola, study, timeout=0.0).trials) == 6


def test_a_study_needs_an_end():
    with pytest.raises(EnsembleKitError, match=r"^`n_trials` or `timeout` must be given; got neither\. Take n_trials"):
        tune(parabola, create_study("endless"))


def test_trials_that_raise_are_failed_and_counted():
    def fails(trial):
        if trial.number == 1:
            raise EnsembleKitError("`k` must be less.")
        return np.nan if trial.number == 2 else 1.0

    study = tune(fails, create_study("fails"), n_trials=4)
    complete, fail = TrialState.COMPLETE, TrialState.FAIL
    assert [trial.state for trial in study.trials] == [complete, fail, fail, complete]
    assert study.trials[1].user_attrs["error"] == "EnsembleKitError: `k` must be less."
    assert study.trials[2].user_attrs["error"] == "EnsembleKitError: an objective must give finite numbers; got nan."


def test_a_bug_ends_the_study():
    with pytest.raises(AttributeError, match="nonsense"):
        tune(lambda trial: trial.nonsense, create_study("bug"), n_trials=4)


def test_a_study_is_of_one_objective(store):
    one = objective()
    tune(one, store(objective=one), n_trials=1)
    store(objective=objective())
    other = objective(y=Y[::-1])
    with pytest.raises(
        EnsembleKitError, match=r"^`objective` must have the rows, folds and scores that the study 'one'"
    ):
        store(objective=other)
    with pytest.raises(EnsembleKitError, match=r"^`objective` must have the rows, folds and scores"):
        tune(other, store(), n_trials=2)
    with pytest.raises(
        EnsembleKitError, match=r"^`directions` must be those of the study 'one', \['minimize'\]; got \["
    ):
        store(directions=["maximize"])


def test_a_sqlite_file_waits_for_its_turn_and_has_heartbeats(store):
    storage = store(heartbeat_interval=7)._storage
    assert storage.get_heartbeat_interval() == 7
    assert storage._backend.grace_period == 21
    with storage._backend.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000


# ---------------------------------------------------------------- the winner


def test_the_best_of_several_objectives_is_nearest_to_the_best_of_each():
    study = create_study("front", directions=["maximize", "minimize"])
    values = [(0.0, 0.0), (10.0, 1.0), (8.0, 0.2), (7.0, 0.3), (9.5, 0.9)]
    for k, pair in enumerate(values):
        drawn = {"params": {"cap": k}, "distributions": {"cap": optuna.distributions.IntDistribution(0, 9)}}
        study.add_trial(optuna.create_trial(values=pair, **drawn))
    assert best_estimator(study, KellySizer()).cap == 2
    assert best_estimator(study, KellySizer(), trial=4).cap == 4
    assert best_estimator(study, KellySizer(), trial=study.trials[1]).cap == 1
    with pytest.raises(EnsembleKitError, match=r"^`trial` must be one of the complete trials; got 9\."):
        best_estimator(study, KellySizer(), trial=9)


def test_without_a_complete_trial_there_is_no_best():
    def fails(trial):
        raise ValueError("too few rows")

    study = create_study("none")
    with pytest.raises(EnsembleKitError, match=r"^`study` must have a complete trial; got 0 without one\. Run `tune`"):
        best_estimator(study, KellySizer())
    tune(fails, study, n_trials=2)
    with pytest.raises(
        EnsembleKitError, match=r"got 2 without one\. The last one that failed said: ValueError: too few"
    ):
        best_estimator(study, KellySizer())


def test_several_objectives_are_tuned_without_reports():
    made = objective(scoring=["auc_pr", "calibration"])
    study = tune(made, create_study("two", objective=made), n_trials=3)
    assert all(len(trial.values) == 2 and not trial.intermediate_values for trial in study.trials)
    assert best_estimator(study, made).C in {trial.params["C"] for trial in study.best_trials}


def test_optunas_search_takes_our_estimators_and_our_space():
    model = make_pipeline(RelevanceRedundancySelector(), LGBMWindowClassifier(3, n_estimators=5, random_state=0))
    found = space(model, only=["*__k", "*__num_leaves", "*__learning_rate"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its own import of Optuna's terminator
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        integration = pytest.importorskip("optuna_integration")
        search = integration.OptunaSearchCV(
            model, found, cv=WalkForwardSplit(2, purge=0), n_trials=3, scoring=AUCPRScorer(), random_state=0
        )
        search.fit(X, Y)
    assert set(search.best_params_) == set(found)
    assert search.predict(X).shape == (240,)
    assert 0 < search.best_score_ <= 1


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("foo.db", r"`storage` must be a database's address; got 'foo\.db'\. Write 'sqlite:///study\.db'"),
        ("sqlite:////nowhere/x.db", r"`storage` must be a database that can be opened; got 'sqlite:////nowhere/x\.db'"),
    ],
)
def test_storages_that_cannot_be_opened(storage, words):
    with pytest.raises(EnsembleKitError, match=words):
        create_study("one", storage=storage, directions=["maximize"])
