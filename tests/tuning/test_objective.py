"""The objective scores as a walk-forward does, once a fold, on features computed once."""

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial, TrialState
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.metrics import (
    AUCPRScorer,
    auc_pr,
    brier_score,
    causal_rule,
    expected_calibration_error,
    next_open_return,
)
from ensemble_kit.sizing import KellySizer, SizedClassifier
from ensemble_kit.tuning import WalkForwardObjective, _track, best_estimator, create_study, space
from ensemble_kit.validation import WalkForwardSplit, walk_forward_predict

optuna.logging.set_verbosity(optuna.logging.WARNING)

BARS = make_bars(1500, random_state=0)
LABELS = peak_slope_bottom(BARS, w=12)
X, Y = LABELS.align(BARS)
CV = WalkForwardSplit(3, t1=LABELS.t1)
EVENTS = ["peak", "bottom"]
C = {"logisticregression__C": FloatDistribution(0.01, 10.0, log=True)}
ONE = FixedTrial({"logisticregression__C": 1.0})


def model(features=None):
    return make_pipeline(features or SessionFeatures(), StandardScaler(), LogisticRegression())


def objective(estimator=None, **given):
    given = {"cv": CV, "space": C, "definition": LABELS.definition} | given
    return WalkForwardObjective(model() if estimator is None else estimator, X, Y, **given)


def out_of_fold(estimator):
    """Return labels, probabilities and rule of each fold, by `walk_forward_predict`."""
    out = walk_forward_predict(estimator, X, Y, cv=CV, method="predict_proba")
    rule = causal_rule(X, LABELS.definition)
    for fold in range(3):
        rows = out.fold == fold
        yield Y[rows], out.values[rows], rule[rows], out.classes


# ---------------------------------------------------------------- scores


def test_scores_are_those_of_a_walk_forward():
    want = {"auc_pr": [], "auc_pr_excess": [], "brier": [], "calibration": []}
    for y, proba, rule, classes in out_of_fold(model()):
        about = {"classes": classes}
        score = auc_pr(y, proba, events=EVENTS, **about)[0]
        null = auc_pr(y, rule.reindex(columns=classes).fillna(0.0).to_numpy(), events=EVENTS, **about)[0]
        want["auc_pr"].append(score)
        want["auc_pr_excess"].append(score - null)
        want["brier"].append(brier_score(y, proba, **about)[0])
        want["calibration"].append(expected_calibration_error(y, proba, events=EVENTS, **about).to_numpy().mean())
    made = objective(scoring=list(want))
    trial = FixedTrial({"logisticregression__C": 1.0})
    np.testing.assert_allclose(made(trial), [np.mean(values) for values in want.values()], rtol=1e-12)
    for name, values in want.items():
        np.testing.assert_allclose(trial.user_attrs["fold_scores"][name], values, rtol=1e-12)
    nulls = np.subtract(want["auc_pr"], want["auc_pr_excess"])
    np.testing.assert_allclose(trial.user_attrs["null"], nulls, rtol=1e-12)
    assert made.directions == ["maximize", "maximize", "minimize", "minimize"]


def test_scorers_of_scikit_learn_and_ours():
    made = objective(scoring=[AUCPRScorer(events=EVENTS), "neg_log_loss", "accuracy", "auc_pr", "log_loss"])
    ours, neg_log_loss, accuracy, by_name, log_loss = made(ONE)
    assert ours == pytest.approx(by_name, abs=1e-4)
    assert -neg_log_loss == pytest.approx(log_loss, rel=1e-6)
    folds = list(out_of_fold(model()))
    assert accuracy == np.mean([(classes[p[:, 0].argmax(1)] == y).mean() for y, p, _, classes in folds])
    assert set(made.directions[:4]) == {"maximize"}


def test_rows_without_a_weight_do_not_count():
    weights = np.ones(len(X))
    weights[-100:] = 0.0
    score = objective(sample_weight=weights, scoring=["auc_pr", AUCPRScorer(events=EVENTS)])
    folds = [(train, test[weights[test] > 0]) for train, test in CV.split(X)]
    np.testing.assert_allclose(score(ONE), [objective(cv=folds)(ONE)] * 2, rtol=1e-12)


def test_numbers_are_scored_by_scikit_learns_names():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(120, 2))
    made = WalkForwardObjective(
        Ridge(),
        columns,
        columns @ [1.0, 2.0],
        cv=WalkForwardSplit(2, purge=0),
        space={"alpha": FloatDistribution(1e-3, 1.0)},
        scoring="neg_mean_squared_error",
    )
    assert -0.01 < made(FixedTrial({"alpha": 0.01})) < 0


def test_positions_earn_the_next_open():
    sized = SizedClassifier(model(), KellySizer(conservatism=0.0), cv=WalkForwardSplit(2, t1=LABELS.t1))
    made = objective(
        sized, space={"sizer__fraction": FloatDistribution(0.1, 1)}, scoring=["total_return", "max_drawdown"]
    )
    out = walk_forward_predict(sized.set_params(sizer__fraction=1.0), X, Y, cv=CV, method="predict_position")
    earned = (next_open_return(X) * out.values).fillna(0.0)[out.covered]
    equity = np.append(1.0, (1.0 + earned).cumprod())
    want = equity[-1] - 1.0, (equity / np.maximum.accumulate(equity) - 1.0).min()
    got = made(FixedTrial({"sizer__fraction": 1.0}))
    np.testing.assert_allclose(got, want, rtol=1e-9)
    assert got[1] < 0
    assert made.directions == ["maximize", "maximize"]


# ---------------------------------------------------------------- features once


class Counted(SessionFeatures):
    """Session features that count."""

    calls = 0

    def transform(self, bars):
        type(self).calls += 1
        return super().transform(bars)


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr("ensemble_kit.tuning._front._STATELESS", {Counted, SessionFeatures})
    monkeypatch.setattr(Counted, "calls", 0)
    return Counted


def test_features_are_computed_once_a_study(counted):
    made = objective(model(counted()))
    study = create_study("once", objective=made)
    study.optimize(made, n_trials=4)
    assert counted.calls == 1
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4 or study.trials[-1].values


def test_features_are_kept_for_other_workers(counted, tmp_path):
    first, second = (objective(model(counted()), memory=tmp_path) for _ in range(2))
    assert counted.calls == 1
    assert first(ONE) == second(ONE)
    bars = BARS.copy()
    bars.iloc[0, 3] *= 1.0001
    WalkForwardObjective(model(counted()), LABELS.align(bars)[0], Y, cv=CV, space=C, memory=tmp_path)
    assert counted.calls == 2


def test_features_of_which_a_trial_draws_are_computed_in_it(counted):
    drawn = {"counted__session": CategoricalDistribution(["day", "XNYS"])}
    made = objective(model(counted()), space=drawn)
    assert counted.calls == 0
    made(FixedTrial({"counted__session": "day"}))
    assert counted.calls > 1


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: SizedClassifier(m, cv=WalkForwardSplit(2, t1=LABELS.t1))])
def test_features_computed_once_give_the_scores_of_every_fold(wrap, monkeypatch):
    drawn = {name: given for name, given in space(wrap(model())).items() if name.startswith("sizer__")}
    once = objective(wrap(model()), space=drawn)(FixedTrial({}))
    monkeypatch.setattr("ensemble_kit.tuning._front._STATELESS", set())
    assert objective(wrap(model()), space=drawn)(FixedTrial({})) == once


def test_features_may_be_given():
    columns = SessionFeatures().set_output(transform="pandas").fit_transform(X)
    rest = make_pipeline(StandardScaler(), LogisticRegression())
    assert objective(rest, features=columns, scoring="auc_pr_excess")(ONE) == objective(scoring="auc_pr_excess")(ONE)
    with pytest.raises(EnsembleKitError, match=r"^`features` must have the rows of `X`, in their order; got 1488 rows"):
        objective(rest, features=columns.set_axis(columns.index + pd.Timedelta("1D")), scoring="brier", definition=None)


def test_what_learns_stays_in_the_folds():
    from ensemble_kit.tuning._front import split_front

    stateful = make_pipeline(StandardScaler(), SessionFeatures(), GaussianNB())
    unknown = make_pipeline(FunctionTransformer(), GaussianNB())
    union = make_pipeline(make_union(SessionFeatures(), StandardScaler()), GaussianNB())
    for whole in (stateful, unknown, union, GaussianNB()):
        assert split_front(whole, [])[0] is None
    front, rest = split_front(make_pipeline(SessionFeatures(), SimpleImputer(), GaussianNB()), [])
    assert [list(part.named_steps) for part in (front, rest)] == [["sessionfeatures"], ["simpleimputer", "gaussiannb"]]


# ---------------------------------------------------------------- trials


def forest():
    return make_pipeline(SessionFeatures(), RandomForestClassifier(5, max_depth=3))


DEPTH = {"randomforestclassifier__max_depth": IntDistribution(1, 4)}


def test_the_same_parameters_have_the_same_score():
    made = objective(forest(), space=DEPTH)
    trials = [FixedTrial({"randomforestclassifier__max_depth": depth}, number=i) for i, depth in enumerate([3, 2, 3])]
    first, other, again = (made(trial) for trial in trials)
    assert first == again != other
    assert objective(forest(), space=DEPTH, random_state=1)(trials[0]) != first
    assert trials[0].user_attrs["random_states"] != trials[1].user_attrs["random_states"]
    given = forest().set_params(randomforestclassifier__random_state=7)
    objective(given, space=DEPTH)(trials[0])
    assert trials[0].user_attrs["parameters"]["randomforestclassifier__random_state"] == 7


def test_the_best_estimator_scores_what_its_trial_scored():
    made = objective(forest(), space=DEPTH)
    study = create_study("best", objective=made, pruner=optuna.pruners.NopPruner())
    study.optimize(made, n_trials=3)
    best = best_estimator(study, made)
    scores = [auc_pr(y, p, classes=classes, events=EVENTS)[0] for y, p, _, classes in out_of_fold(best)]
    assert np.mean(scores) == pytest.approx(study.best_value, abs=1e-12)
    assert not hasattr(best[-1], "estimators_")


def test_each_fold_is_reported_and_a_hopeless_trial_is_pruned():
    class AfterTheFirst(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number == 1 and trial.last_step == 1

    made = objective()
    study = create_study("prune", objective=made, pruner=AfterTheFirst())
    study.optimize(made, n_trials=2)
    whole, pruned = study.trials
    scores = whole.user_attrs["fold_scores"]["auc_pr"]
    assert whole.intermediate_values == {0: scores[0], 1: np.mean(scores[:2]), 2: whole.value}
    assert pruned.state == TrialState.PRUNED
    assert len(pruned.user_attrs["fold_scores"]["auc_pr"]) == len(pruned.user_attrs["seconds"]) == 2
    assert "error" not in pruned.user_attrs


def test_what_a_trial_keeps():
    made = objective()
    study = create_study("keeps", objective=made)
    study.optimize(made, n_trials=1)
    kept = study.trials[0].user_attrs
    assert set(kept) == {"fold_scores", "null", "prevalence", "seconds", "parameters", "random_states"}
    assert sum(kept["prevalence"].values()) == pytest.approx(1.0)
    assert kept["prevalence"]["peak"] == (Y.iloc[np.concatenate([test for _, test in CV.split(X)])] == "peak").mean()
    assert kept["parameters"]["logisticregression__C"] == study.best_params["logisticregression__C"]
    assert set(kept["parameters"]) == set(model().get_params())


def test_a_trial_that_fails_says_why_and_the_study_goes_on():
    drawn = {"logisticregression__solver": CategoricalDistribution(["lbfgs", "nonsense"])}
    made = objective(space=drawn)
    study = create_study("fails", objective=made)
    study.enqueue_trial({"logisticregression__solver": "nonsense"})
    study.enqueue_trial({"logisticregression__solver": "lbfgs"})
    study.optimize(made, n_trials=2, catch=made.catch)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[0].user_attrs["error"].startswith("InvalidParameterError: The 'solver' parameter")


def test_a_score_that_is_no_number_fails_the_trial():
    def nothing(estimator, X, y):
        return float("nan")

    with pytest.raises(
        EnsembleKitError, match=r"^`scoring` must be a number on every fold; nothing is nan on fold 0\."
    ):
        objective(scoring=nothing)(ONE)


# ---------------------------------------------------------------- refused before any trial


def test_folds_that_leak_are_refused():
    with pytest.raises(LeakageError, match=r"^`cv` must train on rows before the test rows only; fold 0 trains on row"):
        objective(cv=KFold(3))
    with pytest.warns(UserWarning, match="has neither `t1` nor `purge`"):
        objective(cv=WalkForwardSplit(2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scoring": "auc"}, r"^`scoring` must be one of auc_pr, auc_pr_excess, .*; got 'auc'\. `metrics\.AUCPRScorer"),
        ({"scoring": []}, r"^`scoring` must name at least one score, and each once; got \[\]\. Take 'auc_pr_excess'"),
        ({"scoring": ["brier", "brier"]}, r"^`scoring` must name at least one score, and each once; got \['brier', "),
        ({"scoring": "auc_pr_excess", "definition": None}, r"^`definition` must be given for 'auc_pr_excess'"),
        ({"scoring": "total_return"}, r"^`estimator` must have `predict_position` for total_return; Pipeline has none"),
        ({"space": {"c": C}}, r"^`space` must name parameters of the estimator; got 'c'\. `tuning\.space"),
        (
            {"definition": {"label": "buy_sell_hold"}},
            r"^`definition` must be of the labels in `y`, \['bottom', 'peak', 'slope'\]; its events are \['buy'",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(given, message):
    with pytest.raises(EnsembleKitError, match=message):
        objective(**given)


def test_numbers_have_no_probabilities():
    with pytest.raises(EnsembleKitError, match=r"^`scoring` must fit an estimator of numbers; got auc_pr\."):
        WalkForwardObjective(Ridge(), np.zeros((9, 1)), np.arange(9.0), cv=WalkForwardSplit(2, purge=0), space={})


def test_an_objective_says_what_it_is():
    assert repr(objective()) == "<WalkForwardObjective of Pipeline: auc_pr on 3 fold(s), 1 parameter(s)>"


# ---------------------------------------------------------------- tracking


class Recorder:
    """What a tracking run is asked to do."""

    made = []

    def __init__(self):
        self.run_id, self.calls = f"run {len(self.made)}", []
        self.made.append(self)

    def start(self, experiment, run_name=None, *, parent_run_id=None, tags=None):
        self.calls.append(("start", experiment, run_name, parent_run_id))

    def log_params(self, params):
        self.calls.append(("params", params["logisticregression__C"]))

    def log_metrics(self, metrics, *, step=None):
        self.calls.append(("metrics", *metrics, step))

    def end(self, status="FINISHED"):
        self.calls.append(("end", status))


def test_one_run_a_trial_under_one_run_a_study(monkeypatch):
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setattr(_track, "_new_run", Recorder)

    class Second(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number == 1

    made = objective(track="spy")
    study = create_study("tracked", objective=made, pruner=Second())
    study.optimize(made, n_trials=2)
    # The trial's run is made first, and the study's before it begins.
    first, parent, second = Recorder.made
    assert parent.calls == [("start", "spy", "tracked", None), ("end", "FINISHED")]
    assert first.calls[0] == ("start", "spy", "trial 0", parent.run_id)
    assert [call for call in first.calls if call[0] == "metrics"] == [("metrics", "auc_pr", k) for k in range(3)]
    assert first.calls[-1] == second.calls[-1] == ("end", "FINISHED")
    assert second.calls[0] == ("start", "spy", "trial 1", parent.run_id)
    monkeypatch.setattr(made, "_judged", lambda *_: 1 / 0)
    study.optimize(made, n_trials=1, catch=made.catch)
    assert Recorder.made[-1].calls[-1] == ("end", "FAILED")
