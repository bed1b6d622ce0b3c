"""The experiment file: read, written, built, and every way of getting it wrong."""

import re
import tomllib

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import RobustScaler

from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.experiments import PRESETS, Experiment
from ensemble_kit.experiments._build import look_ahead
from ensemble_kit.experiments._page import PAGE
from ensemble_kit.experiments._parts import MEMBERS
from ensemble_kit.features import Alpha158, SessionFeatures
from ensemble_kit.labels import buy_sell_hold, next_direction, peak_slope_bottom, triple_barrier
from ensemble_kit.sessions import Session
from ensemble_kit.sizing import KellySizer, SizedClassifier, ThresholdSizer
from ensemble_kit.tracking.model import check_storable
from ensemble_kit.validation import WalkForwardSplit

BARS = make_bars(1000, signal=2.0, random_state=0)
SMALLEST = "[features.session]\n[members.lightgbm]\n"


@pytest.fixture
def read(tmp_path):
    """Read a text as a file."""

    def read(text):
        (tmp_path / "spy.toml").write_text(text)
        return Experiment.read(tmp_path / "spy.toml")

    return read


def parameters(model):
    """Return what a model is made of, as text where it has no equality."""
    return {name: str(value) for name, value in model.get_params().items()}


# ------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("preset", PRESETS)
def test_written_and_read_is_the_same(preset, tmp_path):
    before = Experiment.default(preset)
    before.write(tmp_path / "a.toml")
    after = Experiment.read(tmp_path / "a.toml")
    assert after == before
    assert after.text == before.text
    labels = before.labels(BARS)
    assert parameters(after.model(labels)) == parameters(before.model(labels))
    assert [*tmp_path.iterdir()] == [tmp_path / "a.toml"]


def test_the_page_explains_itself():
    explained = re.findall(r"^\w+ = .*#", PAGE, flags=re.MULTILINE)
    assert len(explained) > 40
    assert max(map(len, PAGE.splitlines())) <= 120
    assert set(tomllib.loads(PAGE)["members"]) == set(MEMBERS)
    # What is written for the record says no more and no less.
    assert Experiment.default().complete_text == PAGE


def test_a_change_keeps_every_comment_and_every_other_line(read):
    text = "# mine\nseed = 7  # lucky\n\n[members.lightgbm]  # trees\nseq_len = 1 # last row\n\n[features.session]\n"
    changed = read(text).replace({"members.lightgbm.seq_len": 4, "members.lightgbm.class_weight": "none"})
    assert changed.text == text.replace("seq_len = 1 # last row\n", 'seq_len = 4 # last row\nclass_weight = "none"\n')
    assert changed.settings["members"]["lightgbm"] == {"on": True, "seq_len": 4, "class_weight": "none"}
    assert read(changed.text) == changed
    assert read(changed.complete_text) == changed
    assert "# lucky" in changed.complete_text


def test_replaced_leaves_the_first_as_it_was():
    first = Experiment.default()
    assert first.replace({"labels.w": 12}).settings["labels"]["w"] == 12
    assert first.settings["labels"]["w"] == 36


def test_kinds_of_values_survive(read):
    hours = {"open": "09:30", "close": "16:00", "tz": "America/New_York"}
    text = f"holdout = 2022-01-20\n{SMALLEST}" + "[sizing]\npayoffs = { peak = -1, slope = 0.0, bottom = [1, 2.5] }\n"
    found = read(text).replace({"session": hours})
    assert found.session == Session(**hours)
    assert found.settings["holdout"] == "2022-01-20"
    sizer = read(found.complete_text).model(found.labels(BARS)).sizer
    assert sizer.payoffs == {"peak": -1, "slope": 0.0, "bottom": [1, 2.5]}


# ------------------------------------------------------------------------- what it builds


def test_smoke_is_the_model_that_it_says():
    labels = peak_slope_bottom(BARS)
    shared = {"validation_fraction": 0.15, "validation_purge": 36, "n_threads": 1, "random_state": 0}
    network = LSTMGRUClassifier(16, hidden_size=16, max_epochs=6, batch_size=64, learning_rate=3e-3, **shared)
    trees = LGBMWindowClassifier(1, n_estimators=60, **shared)
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    vote = WalkForwardVotingClassifier(
        [("lstm_gru", make_pipeline(median, RobustScaler(), network)), ("lightgbm", trees)],
        cv=WalkForwardSplit(3, t1=labels.t1),
        calibrator=TemperatureScaling(),
        events=["peak", "bottom"],
    )
    wanted = SizedClassifier(make_pipeline(make_union(Alpha158(), SessionFeatures("day")), vote), KellySizer())
    found = Experiment.default("smoke")
    assert parameters(found.model(found.labels(BARS))) == parameters(wanted)
    # The holdout is the newest fifth, purged.
    train, held = next(WalkForwardSplit(1, t1=labels.t1, test_size=0.2).split(BARS))
    for one, other in zip(found.split(BARS, labels), (train, held), strict=True):
        np.testing.assert_array_equal(one, other)


def test_full_is_what_it_promises():
    labels = Experiment.default("full").labels(BARS)
    model = Experiment.default("full").model(labels)
    found = model.get_params()
    vote = model.model[-1]
    assert [name for name, _ in vote.estimators] == ["lstm_gru", "lightgbm", "informer", "lu_transformer"]
    assert {value for name, value in found.items() if name.endswith("__seq_len")} == {205}
    assert {v for name, v in found.items() if name.endswith(("__hidden_size", "__d_model"))} == {128}
    assert [v for name, v in found.items() if name.endswith("selector__k")] == [80] * 4
    assert found["model__walkforwardvotingclassifier__lightgbm__lgbmwindowclassifier__n_estimators"] == 1000
    assert vote.cv.n_splits == 3
    assert labels.labels.shape == (1000, 6)
    check_storable(model)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_can_be_on(name, read):
    found = read(f"seed = 3\nthreads = 2\n[features.session]\n[members.{name}]\nseq_len = 5\n")
    labels = found.labels(BARS)
    ((given, member),) = found.model(labels).model[-1].estimators
    model = member[-1] if hasattr(member, "steps") else member
    assert given == name
    assert (type(model), model.seq_len, model.random_state, model.n_threads) == (MEMBERS[name], 5, 3, 2)
    assert model.validation_purge == 36
    check_storable(found.model(labels))


def test_fusion_takes_networks_from_their_tables(read):
    text = (
        '[features.session]\n[members.fusion]\nnetworks = ["cnn", "transformer"]\n'
        "[members.cnn]\non = false\nn_filters = 3\n"
    )
    model = read(text).model(peak_slope_bottom(BARS)).model[-1].estimators[0][1][-1]
    assert [(name, type(part)) for name, part in model.estimators] == [(n, MEMBERS[n]) for n in ("cnn", "transformer")]
    assert model.estimators[0][1].n_filters == 3


def test_threshold_none_and_tuples(read):
    text = f'{SMALLEST}seed=1\n[sizing]\nmethod = "threshold"\nthreshold = 1\n[calibration]\nmethod = "none"\n'
    model = read(text.replace("seed=1\n", "")).model(peak_slope_bottom(BARS))
    assert isinstance(model.sizer, ThresholdSizer)
    assert model.model[-1].calibrator is None
    text = f"{SMALLEST}[calibration]\nbounds = [0.5, 2.0]\n"
    assert read(text).model(peak_slope_bottom(BARS)).model[-1].calibrator.bounds == (0.5, 2.0)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (buy_sell_hold(BARS, w=6, session="XNYS"), 'function = "buy_sell_hold"\nw = 6\n'),
        (triple_barrier(BARS, horizon=9, cusum=None), 'function = "triple_barrier"\nhorizon = 9\ncusum = "none"\n'),
        (next_direction(BARS), 'function = "next_direction"\n'),
        (peak_slope_bottom(BARS, w=7, clip_session="XNYS"), 'w = 7\nclip_session = "XNYS"\n'),
    ],
)
def test_labels_are_those_of_the_function(labels, text, read):
    found = read(f'session = "XNYS"\n{SMALLEST}[labels]\n{text}').labels(BARS)
    pd.testing.assert_series_equal(found.labels, labels.labels)
    assert found.definition == labels.definition


def test_how_far_a_label_looks():
    assert look_ahead(peak_slope_bottom(BARS, w=5, horizons=3)) == 7
    assert look_ahead(next_direction(BARS)) == 1
    panel = make_bars(300, instruments=["A", "B", "C"], random_state=0)
    # An instrument's own bars count, not those of others in between.
    assert look_ahead(peak_slope_bottom(panel, w=5)) == 5


@pytest.mark.parametrize(
    ("holdout", "first"),
    [
        (0.25, "2022-01-14 18:30"),
        ("2022-01-14", "2022-01-14 14:30"),
        ("3D", None),
        ("2022-01-14T15:00", "2022-01-14 15:00"),
    ],
)
def test_holdouts(holdout, first):
    found = Experiment.default("smoke").replace({"holdout": holdout})
    labels = found.labels(BARS)
    train, held = found.split(BARS, labels)
    assert held[-1] == len(BARS) - 1
    assert (labels.t1.iloc[train] < BARS.index[held[0]]).all()
    if first is None:
        assert BARS.index[held[0]] > BARS.index[-1] - pd.Timedelta(holdout) >= BARS.index[held[0] - 1]
    else:
        assert BARS.index[held[0]] == pd.Timestamp(first, tz="UTC")


def test_no_holdout_trains_on_every_known_row():
    found = Experiment.default("smoke").replace({"holdout": "none"})
    train, held = found.split(BARS, labels := found.labels(BARS))
    assert len(held) == 0
    np.testing.assert_array_equal(train, np.flatnonzero(labels.known))


def test_training_bars_have_no_holes():
    found = Experiment.default("smoke")
    labels = triple_barrier(BARS, horizon=60, profit=4.0, stop=4.0)
    train, held = found.split(BARS, labels)
    by_t1 = next(WalkForwardSplit(1, t1=labels.t1, test_size=0.2).split(BARS))[0]
    assert len(by_t1) > len(train)  # some rows are known early, among others that are not
    np.testing.assert_array_equal(train, np.arange(len(train)))
    assert (labels.t1.iloc[train] < BARS.index[held[0]]).all()


def test_kept_columns_are_all_that_members_see():
    kept = ["alpha158__KMID", "sessionfeatures__minute_sin"]
    found = Experiment.default("smoke").replace({"selector.on": True, "selector.columns": kept})
    names = found.columns()[0].fit(BARS).get_feature_names_out()
    kept = [names[3], names[-1], names[0]]
    found = found.replace({"selector.columns": [str(name) for name in kept]})
    found.check_columns(BARS)
    model = found.model(found.labels(BARS))
    front = model.model[:-1].set_output(transform="pandas").fit_transform(BARS)
    assert front.columns.tolist() == kept
    pd.testing.assert_frame_equal(front, model.model[0].transform(BARS)[kept])
    assert not any("selector" in name for name in model.get_params())
    check_storable(model)
    with pytest.raises(EnsembleKitError, match=r"columns of the features that are on; got nobody, nothing\."):
        found.replace({"selector.columns": ["nobody", str(names[0]), "nothing"]}).check_columns(BARS)


def test_keys_are_those_that_set_the_parameters():
    found = Experiment.default("full").replace({"features.ict.on": True, "members.fusion.on": True})
    labels = found.labels(BARS)
    keys = found.keys(labels)
    before = found.model(labels).get_params()
    changes = {
        "sizer__fraction": 0.25,
        "model__walkforwardvotingclassifier__power": 1.0,
        "model__walkforwardvotingclassifier__calibrator__bias": True,
        "model__walkforwardvotingclassifier__informer__informerclassifier__d_model": 24,
        "model__walkforwardvotingclassifier__fusion__fusionclassifier__hidden_size": 40,
        "model__featureunion__ictfeatures__left": 4,
    }
    after = found.replace({keys[name]: value for name, value in changes.items()}).model(labels).get_params()
    changed = {
        name for name in after if not hasattr(after[name], "get_params") and str(after[name]) != str(before[name])
    }
    assert {name for name in changed if not name.endswith(("steps", "estimators", "transformer_list"))} == set(changes)
    # One table cannot say two things: the selectors have one, and the fusion reads that of a member.
    assert not any("selector" in name or "fusionclassifier__cnn" in name or "__lstm_gru__" in name for name in keys)


# ------------------------------------------------------------------------- what is wrong


def test_everything_that_is_wrong_is_said_at_once(read):
    text = (
        'nam = "x"\nseed = "a"\nthreads = true\n[labels]\nfunction = "peak_slop"\nw = "x"\n[featurs.a]\nx = 1\n'
        "[members.lightgbm]\nnum_leafs = 3\nseq_len = 1.5\n[members.lstmgru]\n[sizing]\nfraction = [1]\n"
    )
    with pytest.raises(EnsembleKitError) as caught:
        read(text)
    assert str(caught.value) == (
        "`spy.toml` must hold an experiment; got 10 wrong entries: "
        "[featurs]: no such table, did you mean 'features'?; "
        "[members.lstmgru]: no such table, did you mean 'members.lstm_gru'?; "
        "nam: no such key, did you mean 'name'?; "
        "seed must be a whole number; got 'a'; "
        "threads must be a whole number; got True; "
        "[labels] function must be one of peak_slope_bottom, buy_sell_hold, triple_barrier, next_direction; "
        "got 'peak_slop', did you mean 'peak_slope_bottom'?; "
        "[labels] w must be a whole number; got 'x'; "
        "[members.lightgbm] num_leafs: no such key, did you mean 'num_leaves'?; "
        "[members.lightgbm] seq_len must be a whole number; got 1.5; "
        "[sizing] fraction must be a number; got [1]. "
        "`ensemble-kit init` writes a file that explains every key."
    )


def test_values_out_of_their_domains_are_said_at_once(read):
    text = (
        'threads = 0\nseed = -1\nholdout = "x"\n[features.alpha158]\n[members.lightgbm]\nnum_leaves = 1\n'
        'learning_rate = -1.0\n[members.cnn]\non = false\ndropout = 2.0\n[members.fusion]\nnetworks = ["a"]\n'
        "[sizing]\nfraction = 3\n[folds]\nn_splits = 0\n[costs]\nspread_bps = -1\n[selector]\nk = 0\ncolumns = [1]\n"
    )
    with pytest.raises(EnsembleKitError) as caught:
        read(text)
    for words in (
        "got 12 wrong entries",
        "threads must be at least 1; got 0;",
        "seed must be from 0 to 4294967295; got -1;",
        'holdout must be a share, a length such as "30D" or a day such as "2024-05-01"; got \'x\';',
        "[members.lightgbm] num_leaves must be an integer of at least 2; got 1;",
        "[members.lightgbm] learning_rate must be a finite number above 0; got -1.0;",
        "[members.cnn] dropout must be a number in [0, 1); got 2.0;",
        "[members.fusion] networks must be of the networks among the members; got 'a'",
        "[sizing] fraction must be in (0, 1]; got 3.0.",
        "[folds] n_splits must be an integer of at least 1; got 0.",
        "[costs] spread_bps must be a number of at least 0; got -1",
        "[selector] columns must be names of columns; got [1]",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = = 1\n", r"spy.toml` must be a TOML file; got another \(Invalid value \(at line 1, column 8\)\)"),
        ("[features.session]\n", r"\[members\]: at least one member must be on"),
        ("[members.lightgbm]\n[features.ict]\non = false\n", r"\[features\]: at least one column group must be on"),
        (f"{SMALLEST}[members]\nseq_len = 3\n", r"\[members.seq_len\]: no such table"),
        ("members = 3\n[features.session]\n", r"\[members\]: "),
        ("features = { session = 3 }\n[members.lightgbm]\n", r"\[features.session\]: must be a table; got 3"),
        (f"{SMALLEST}validation_purge = 0\n", r"validation_purge: no such key"),
        (f"{SMALLEST}random_state = 0\n", r"random_state: no such key"),
        (f"holdout = 1.5\n{SMALLEST}", "holdout must be a share between 0 and 1; got 1.5"),
        (f"holdout = nan\n{SMALLEST}", "holdout must be a share between 0 and 1; got nan"),
        (f"bars = 3\n{SMALLEST}", r"bars: no such key"),
        (f"{SMALLEST}[labels]\nside = 1\n", r"side: no such key"),
        (f'{SMALLEST}[labels]\nfunction = "next_direction"\nw = 3\n', r"\[labels\] w: no such key"),
        (f"{SMALLEST}[vote]\npower = none\n", "must be a TOML file"),
        (f'{SMALLEST}[calibration]\nmethod = "none"\nbias = true\n', r"\[calibration\] bias: no such key"),
        (f"{SMALLEST}on = 1\n", r"\[members.lightgbm\] on must be true or false; got 1"),
    ],
)
def test_wrong_files(text, words, read):
    with pytest.raises(EnsembleKitError, match=words):
        read(text)


def test_wrong_presets_labels_days_and_sizes():
    with pytest.raises(EnsembleKitError, match="`preset` must be one of smoke, small, full; got 'huge'"):
        Experiment.default("huge")
    smoke = Experiment.default("smoke")
    with pytest.raises(EnsembleKitError, match="`w` must be an integer of at least 1; got 0"):
        smoke.replace({"labels.w": 0}).labels(BARS)
    with pytest.raises(EnsembleKitError, match=r"`bars` must be of 1h, as .* says; got bars of 0 days 00:05:00"):
        smoke.replace({"bars.size": "1h"}).labels(BARS)
    smoke.replace({"bars.size": "5min"}).labels(BARS)
    with pytest.raises(EnsembleKitError, match="got 'NYSE\\?'"):
        smoke.replace({"session": "NYSE?"}).labels(BARS)
    late = smoke.replace({"holdout": "2030-01-01"})
    with pytest.raises(EnsembleKitError, match=r"`holdout` must begin inside the bars, .*; got 2030-01-01"):
        late.split(BARS, late.labels(BARS))
