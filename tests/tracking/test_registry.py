"""The registry: who is champion, and what it takes to become it."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble_kit.datasets import make_bars
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.exceptions import BarsError, TrackingError
from ensemble_kit.features import IndicatorFeatures, SessionFeatures
from ensemble_kit.labels import peak_slope_bottom, triple_barrier
from ensemble_kit.metrics import compare_scores
from ensemble_kit.sizing import SizedClassifier, backtest
from ensemble_kit.tracking import _aliases, load_model, log_and_register, quiet, tracked_run
from ensemble_kit.tracking._aliases import crown, give, step_back
from ensemble_kit.tracking.card import model_card
from ensemble_kit.tracking.registry import (
    compare,
    history,
    list_versions,
    promote,
    roll_back,
    set_challenger,
)
from ensemble_kit.validation import WalkForwardSplit

# MLflow's own, as it writes the input example.
pytestmark = pytest.mark.filterwarnings("ignore:Operation with range is deprecated")

W = 6
BARS = make_bars(2600, random_state=0)
LABELS = peak_slope_bottom(BARS, w=W)
#: Version by what it is.
BAD, GOOD, EQUAL, SHORT = 1, 2, 3, 4


def fit(n, *, features=None, shuffled=False, bars=BARS, labels=LABELS):
    X, y = bars.iloc[:n], labels.labels.iloc[:n]
    if shuffled:
        y = pd.Series(np.random.default_rng(0).permutation(y.to_numpy()), y.index)
    steps = (features or IndicatorFeatures(), SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=500))
    return SizedClassifier(make_pipeline(*steps), cv=WalkForwardSplit(2, t1=labels.t1)).fit(X, y), X


def register(fitted, name="T", *, alias=None, labels=LABELS, **card):
    model, X = fitted
    written = model_card(model, X, labels=labels, session="XNYS", preset="tiny") | card
    with tracked_run(name, "test", {}):
        return log_and_register(model, X, name=name, card=written, alias=alias)


@pytest.fixture(scope="module")
def models():
    """A model by version: one that was taught nonsense, two that are one, and one that looks back no bar."""
    good = fit(1200)
    return {BAD: fit(1100, shuffled=True), GOOD: good, EQUAL: good, SHORT: fit(1200, features=SessionFeatures())}


@pytest.fixture(scope="module")
def filled(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("store")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'store.db'}")
    quiet()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where MLflow lays the files
        for version, fitted in models.items():
            # Cards that know the training bars, but not how far their labels looked.
            more = {"seen_until": str(fitted[1].index[-1])} if version in {EQUAL, SHORT} else {}
            assert register(fitted, holdout_start=str(BARS.index[1300]), **more) == version
        yield folder
    mlflow.set_tracking_uri(before)


@pytest.fixture
def store(filled):
    """The store with version 1 as champion, 2 as challenger, and no history but its registration."""
    client = mlflow.MlflowClient()
    for alias in client.get_registered_model("T").aliases:
        client.delete_registered_model_alias("T", alias)
    for version in client.search_model_versions("name = 'T'"):
        for tag in version.tags:
            if tag.startswith("history.") or tag == "replaced":
                client.delete_model_version_tag("T", version.version, tag)
    give("T", "champion", BAD)
    give("T", "challenger", GOOD)
    return filled


def aliases():
    return {alias: int(version) for alias, version in mlflow.MlflowClient().get_registered_model("T").aliases.items()}


# ------------------------------------------------------------------------------ registering


def test_the_first_version_is_champion_and_later_ones_challenge(filled, models):
    assert register(models[SHORT], "Other") == 1
    assert register(models[SHORT], "Other") == 2
    assert list_versions("Other")["aliases"].tolist() == ["champion", "challenger"]
    assert register(models[SHORT], "Other") == 3
    assert list_versions("Other")["aliases"].tolist() == ["champion", "", "challenger"]
    # Where it is asked for, a version is champion at once, and the way back is kept.
    assert register(models[SHORT], "Other", alias="champion") == 4
    assert list_versions("Other")["aliases"].tolist() == ["previous_champion", "", "challenger", "champion"]
    assert history("Other")["event"].tolist() == ["registered", "registered"]
    assert roll_back("Other") == 1
    with pytest.raises(TrackingError, match=r"^`alias` must be None, 'champion' or 'challenger'; got 'best'\.$"):
        register(models[SHORT], "Other", alias="best")
    assert len(list_versions("Other")) == 4


def test_versions_are_listed_with_what_is_known_of_them(store):
    client = mlflow.MlflowClient()
    client.log_metric(client.get_model_version("T", "2").run_id, "holdout_auc_pr_mean", 0.25)
    table = list_versions("T")
    assert table.index.tolist() == [1, 2, 3, 4]
    assert table["aliases"].tolist() == ["champion", "challenger", "", ""]
    assert table["last_training_bar"].tolist() == [str(BARS.index[n - 1]) for n in (1100, 1200, 1200, 1200)]
    assert table["first_training_bar"].eq(str(BARS.index[0])).all()
    assert table["holdout_start"].eq(str(BARS.index[1300])).all()
    assert table["preset"].eq("tiny").all()
    assert table["auc_pr_mean"].fillna(-1).tolist() == [-1, 0.25, -1, -1]
    assert table["run_id"].tolist() == [client.get_model_version("T", str(v)).run_id for v in table.index]
    assert (table["created"].diff().dropna() > pd.Timedelta(0)).all()


# -------------------------------------------------------------------------------- comparing


@pytest.mark.parametrize("versions", [(BAD, GOOD), (GOOD, SHORT)])
def test_a_comparison_is_what_one_would_compute_by_hand(store, models, versions):
    made = compare("T", BARS, versions=versions, costs=2.0)
    seen = LABELS.t1.iloc[1199]  # the later model's last label looked that far
    assert made.seen_until == seen == BARS.index[1199 + W]
    rows = (BARS.index > seen) & LABELS.known & (LABELS.sample_weight > 0).to_numpy()
    y = LABELS.labels[rows]
    assert (made.start, made.end, made.n_rows) == (y.index[0], y.index[-1], len(y))
    assert made.events == {"peak": (y == "peak").sum(), "bottom": (y == "bottom").sum()}
    classes = ["bottom", "peak", "slope"]
    proba = [models[version][0].predict_proba(BARS)[rows] for version in versions]
    for column, p in zip(("champion", "challenger"), proba, strict=True):
        found = [average_precision_score(y == event, p[:, classes.index(event)]) for event in ("peak", "bottom")]
        assert made.table.loc["auc_pr", column] == pytest.approx(np.mean(found))
        assert made.table.loc["log_loss", column] == pytest.approx(log_loss(y, p, labels=classes))
    block = round(2 * len(y) ** (1 / 3))
    common = {"classes": classes, "block": block, "random_state": 0}
    expected = compare_scores(y, proba[1], proba[0], events=["peak", "bottom"], **common)
    assert made.gain("auc_pr") == pytest.approx(expected)
    assert made.gain("log_loss") == pytest.approx(compare_scores(y, *proba, scorer="log_loss", **common))

    held = BARS[BARS.index > seen]
    one, other = (backtest(held, models[v][0].predict_position(BARS)[BARS.index > seen], costs=2.0) for v in versions)
    table = made.table
    assert table.loc["total_return"].iloc[[0, 1, 5]].tolist() == pytest.approx(
        [one.metrics["total_return"], other.metrics["total_return"], one.metrics["buy_and_hold"]]
    )
    assert table.loc["return_per_bar", "gain"] == pytest.approx((other.returns - one.returns).iloc[1:].mean())
    more = table.drop(index="log_loss")
    np.testing.assert_allclose(more["gain"], more["challenger"] - more["champion"], rtol=1e-9, atol=1e-15)
    assert "T: champion version" in str(made)


def test_what_a_label_looked_at_is_never_judged_whatever_the_card_says(store):
    # The cards of versions 3 and 4 know the last training bar only, and version 2's both.
    known, unknown = (compare("T", BARS, versions=(SHORT, version)) for version in (GOOD, EQUAL))
    assert known.seen_until == unknown.seen_until == LABELS.t1.iloc[1199]
    assert known.table.equals(unknown.table)
    assert known.holdout == unknown.holdout
    # Of bars without the training's, the card knows.
    assert compare("T", BARS.iloc[1202:], versions=(GOOD, SHORT)).seen_until == known.seen_until
    # The same pair the other way round.
    back = compare("T", BARS, versions=(GOOD, SHORT))
    assert back.gain("auc_pr")[0] == -known.gain("auc_pr")[0]
    assert back.seen_until == known.seen_until


def test_bars_of_the_training_decide_nothing(store):
    for n in (1000, 1200 + W, 1500):
        with pytest.raises(
            TrackingError,
            match=r"^`bars` must hold at least 15 events of each class that neither version 1 nor 2 of T has seen; got "
            r"\d+ of peak, \d+ of bottom in \d+ labelled bars after 2022-\S+ \S+\. With fewer, the interval of a "
            r"difference says nothing: give newer bars\.$",
        ):
            promote("T", BARS.iloc[:n])
    assert aliases() == {"champion": BAD, "challenger": GOOD}
    assert history("T").empty


REFUSED = {
    "another bar": (
        make_bars(2000, bar="15min", random_state=0),
        "must be of length 0 days 00:05:00, as in the training of version 1; got 0 days 00:15",
    ),
    "another zone": (
        BARS.tz_convert("America/New_York"),
        "must be in the zone UTC, as in the training of version 1; got America/New_York",
    ),
    "no zone": (BARS.tz_localize(None), "`bars` must have tz-aware times for session='XNYS'; got naive ones"),
    "a panel": (
        make_bars(300, instruments=["A"], random_state=0),
        "must be of one instrument, as in the training of version 1; got a panel",
    ),
    "no volume": (BARS.assign(volume=np.nan), "must have values in volume, as in the training of version 1; got none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bars_of_another_kind_are_refused(store, case):
    bars, words = REFUSED[case]
    with pytest.raises(BarsError, match=words):
        compare("T", bars)


def test_models_of_other_labels_are_not_compared(store, models):
    labels = peak_slope_bottom(BARS, w=W + 2)
    register(fit(1200, features=SessionFeatures(), labels=labels), "Others", labels=labels)
    register(models[SHORT], "Others")
    with pytest.raises(TrackingError, match=r"trained on the same labels; those of 1 and 2 differ in w: 8 and 6"):
        compare("Others", BARS)


@pytest.mark.slow
def test_panels_whole_numbers_and_several_horizons(filled):
    bars = make_bars(1500, instruments=["A", "B"], random_state=0)
    labels = triple_barrier(bars, horizon=8, cusum=1.0)  # most rows are no events, of weight 0
    two = [fit(n, bars=bars, labels=labels) for n in (1500, 1800)]
    for fitted in two:
        register(fitted, "Panel", labels=labels)
    made = compare("Panel", bars)
    assert list(made.events) == [-1, 1]
    assert made.seen_until == labels.t1.iloc[:1800].max()
    y = labels.labels[(bars.index.get_level_values(0) > made.seen_until) & labels.known & (labels.sample_weight > 0)]
    assert made.n_rows == len(y)
    shares = labels.labels.iloc[:1500].value_counts(normalize=True)
    assert made.table.loc["log_loss", "null"] == pytest.approx(-np.log(y.map(shares)).mean())
    for column, (model, _) in zip(("champion", "challenger"), two, strict=True):
        p = pd.DataFrame(model.predict_proba(bars), bars.index).loc[y.index]
        assert made.table.loc["log_loss", column] == pytest.approx(log_loss(y, p, labels=[-1, 0, 1]))

    wide = peak_slope_bottom(BARS, w=W, horizons=3)
    register(fit(1200), "Wide")
    X, y = BARS.iloc[:1200], wide.labels.iloc[:1200]
    trees = make_pipeline(SessionFeatures(), LGBMWindowClassifier(1, n_estimators=5, random_state=0))
    vote = SizedClassifier(trees, cv=WalkForwardSplit(2, t1=wide.t1)).fit(X, y)
    register((vote, X), "Wide", labels=wide)
    made = compare("Wide", BARS)
    assert made.seen_until == wide.t1.iloc[1199] > LABELS.t1.iloc[1199]
    p = vote.predict_proba(BARS)[0][np.flatnonzero(BARS.index > made.seen_until)]
    y = LABELS.labels[BARS.index > made.seen_until]
    kept = (y.notna() & (LABELS.sample_weight > 0)[y.index]).to_numpy()
    expected = log_loss(y[kept], p[kept], labels=["bottom", "peak", "slope"])
    assert made.table.loc["log_loss", "challenger"] == pytest.approx(expected, rel=1e-6)


WRONG = {
    "one version": ({"versions": (1,)}, r"`versions` must be two, the champion and the challenger; got \[1\]"),
    "twice": ({"versions": (1, "champion")}, "must be two different ones; got version 1 of T twice"),
    "no such": ({"versions": (1, 9)}, r"be a version of T: 1, 2, 3, 4, or an alias: challenger \(2\), .*; got 9"),
    "no alias": ({"versions": (1, "best")}, "must be a version of T: .*; got 'best'"),
    "no event": ({"min_events": 0}, "`min_events` must be an integer of at least 2; got 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_arguments_of_a_comparison(store, case):
    arguments, words = WRONG[case]
    with pytest.raises(TrackingError, match=words):
        compare("T", BARS, **arguments)


def test_a_name_that_is_not_there(filled):
    for ask in (list_versions, history, roll_back, lambda name: compare(name, BARS), lambda name: promote(name, BARS)):
        with pytest.raises(TrackingError, match=r"`name` must be a registered model; got 'Nobody' \(.*\)\. Registered"):
            ask("Nobody")


# -------------------------------------------------------------------------------- promoting


@pytest.mark.parametrize("metric", ["auc_pr", "log_loss"])
def test_the_better_model_wins(store, metric):
    promotion = promote("T", BARS, metric=metric)
    gain, low, high = promotion.comparison.gain(metric)
    assert promotion.promoted
    assert 0 < low <= gain <= high
    assert aliases() == {"champion": GOOD, "previous_champion": BAD}
    assert str(promotion).startswith(f"T version 2 is champion, after version 1: {metric} 0.")
    (event,) = history("T").to_dict("records")
    assert (event["event"], event["version"], event["over"]) == ("promoted", GOOD, BAD)
    assert event["why"] == promotion.why
    assert event["by"]
    assert pd.Timestamp.now("UTC") - event["at"] < pd.Timedelta(minutes=5)
    assert (event["metric"], event["margin"], event["level"]) == (metric, 0.0, 0.95)
    assert (event["gain"], event["low"], event["high"]) == (gain, low, high)
    assert event["holdout"] == promotion.comparison.holdout
    # It is what everything else loads by the plain name.
    np.testing.assert_array_equal(load_model("T").predict_proba(BARS), load_model("models:/T/2").predict_proba(BARS))


def test_the_worse_model_is_refused_and_that_is_recorded(store):
    give("T", "champion", GOOD)
    promotion = promote("T", BARS, version=BAD)
    assert not promotion.promoted
    assert "whose lower end is not above 0" in promotion.why
    assert str(promotion).startswith("T version 1 is not promoted, behind version 2: auc_pr 0.")
    assert aliases() == {"champion": GOOD, "challenger": GOOD}
    assert history("T")["event"].tolist() == ["refused"]


def test_equal_models_are_refused(store):
    give("T", "champion", GOOD)
    for metric in ("auc_pr", "log_loss"):
        promotion = promote("T", BARS, version=EQUAL, metric=metric)
        assert not promotion.promoted
        assert promotion.comparison.gain(metric) == (0.0, 0.0, 0.0)
    assert aliases()["champion"] == GOOD


def test_the_margin_is_what_the_lower_end_must_exceed(store):
    low = compare("T", BARS).gain("auc_pr")[1]
    assert not promote("T", BARS, margin=low).promoted
    assert promote("T", BARS, margin=low - 1e-9).promoted


def test_decisions_on_the_same_bars_are_counted(store):
    assert [promote("T", BARS, margin=1.0).n_earlier for _ in range(2)] == [0, 1]
    again = promote("T", BARS.iloc[:-100], margin=1.0)
    assert again.n_earlier == 2
    assert str(again).endswith("Bars of this time have decided 2 time(s) before.")


def test_force_is_recorded_with_its_reason(store):
    give("T", "champion", GOOD)
    with_bars = promote("T", BARS, version=BAD, force="the other one leaks")
    assert with_bars.promoted
    assert aliases()["champion"] == BAD
    without = promote("T", version=SHORT, force="refit on everything")
    assert without.comparison is None
    table = history("T")
    assert table["event"].tolist() == ["forced", "forced"]
    assert table["why"].tolist() == ["forced: the other one leaks", "forced: refit on everything"]
    assert table["gain"].iloc[0] < 0
    assert np.isnan(table["gain"].iloc[1])


def test_what_cannot_be_promoted(store):
    client = mlflow.MlflowClient()
    for arguments, words in (
        ({"version": BAD}, r"^`version` must not be the champion; version 1 of T is\. Name another\.$"),
        ({"margin": -0.1}, "`margin` must be a number of at least 0; got -0.1"),
        ({"margin": np.nan}, "`margin` must be a number of at least 0; got nan"),
        ({"metric": "brier"}, "`metric` must be one of auc_pr, log_loss; got 'brier'"),
        ({"force": " "}, "`force` must be a reason; got an empty one"),
    ):
        with pytest.raises(TrackingError, match=words):
            promote("T", BARS, **arguments)
    with pytest.raises(TrackingError, match="`bars` must be given, to be judged on; got None"):
        promote("T")
    client.delete_registered_model_alias("T", "challenger")
    with pytest.raises(TrackingError, match=r"must be a version of T: .*; got 'challenger'"):
        promote("T", BARS)
    client.delete_registered_model_alias("T", "champion")
    with pytest.raises(TrackingError, match="must have a champion that can be beaten; T has none"):
        promote("T", BARS, version=GOOD)
    assert promote("T", version=GOOD, force="the first").promoted
    assert aliases() == {"champion": GOOD}


def test_set_challenger(store):
    assert set_challenger("T", SHORT) == SHORT
    assert aliases()["challenger"] == SHORT
    with pytest.raises(TrackingError, match="must not be the champion"):
        set_challenger("T", "champion")
    with pytest.raises(TrackingError, match="got 77"):
        set_challenger("T", 77)


# --------------------------------------------------------------------------------- and back


def test_rolling_back_goes_along_the_champions_to_the_first(store):
    with pytest.raises(TrackingError, match=r"T has none \(champion: version 1\)\. Promote another version\."):
        roll_back("T")
    for version in (GOOD, EQUAL, SHORT):
        promote("T", version=version, force="try")
    assert aliases() == {"champion": SHORT, "previous_champion": EQUAL}
    assert roll_back("T", why="it lost money") == EQUAL
    assert aliases() == {"champion": EQUAL, "previous_champion": GOOD}
    assert roll_back("T") == GOOD
    assert roll_back("T") == BAD
    assert aliases() == {"champion": BAD}
    with pytest.raises(TrackingError, match="go back to; T has none"):
        roll_back("T")
    events = history("T")
    assert events["event"].tolist() == ["forced"] * 3 + ["rolled back"] * 3
    assert events.loc[3, ["version", "over", "why"]].tolist() == [EQUAL, SHORT, "it lost money"]


def test_two_versions_are_never_each_others_way_back(store):
    promote("T", version=GOOD, force="there")
    promote("T", version=BAD, force="and back again")
    assert [roll_back("T"), roll_back("T")] == [GOOD, BAD]
    with pytest.raises(TrackingError, match="none"):
        step_back("T", why="")


# ------------------------------------------------------------------------------ many at once


def test_a_champion_that_changed_meanwhile_is_not_overwritten(store):
    give("T", "champion", SHORT)
    with pytest.raises(TrackingError, match="T's was version 1 and is 4 by now"):
        crown("T", GOOD, over=BAD, event={"event": "promoted", "why": ""})
    assert aliases()["champion"] == SHORT
    assert history("T").empty


def promote_by_force(uri, version, results, start):
    mlflow.set_tracking_uri(uri)
    start.wait()
    try:
        results.put((version, promote("T", version=version, force=f"process {version}").promoted))
    except TrackingError as error:
        results.put((version, str(error)))


def check_outcome(outcome):
    now, events = aliases(), history("T")
    forced = events[events["event"] == "forced"]
    won = sorted(version for version, result in outcome.items() if result is True)
    assert won
    assert sorted(forced["version"]) == won
    assert now["champion"] in won
    assert now["previous_champion"] != now["champion"]
    lost = [result for result in outcome.values() if result is not True]
    assert all("by now" in result for result in lost), lost


def test_two_threads_leave_one_champion_and_the_whole_history(store):
    for _ in range(3):
        give("T", "champion", BAD)
        client = mlflow.MlflowClient()
        for version in client.search_model_versions("name = 'T'"):
            for tag in version.tags:
                if tag.startswith("history."):
                    client.delete_model_version_tag("T", version.version, tag)
        outcome, barrier = {}, threading.Barrier(2)

        def work(version, outcome=outcome, barrier=barrier):
            barrier.wait()
            try:
                outcome[version] = promote("T", version=version, force="race").promoted
            except TrackingError as error:
                outcome[version] = str(error)

        threads = [threading.Thread(target=work, args=(version,)) for version in (GOOD, SHORT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_outcome(outcome)


def race(uri):
    context = multiprocessing.get_context("spawn")
    results, start = context.Queue(), context.Barrier(2)
    workers = [
        context.Process(target=promote_by_force, args=(uri, version, results, start)) for version in (GOOD, SHORT)
    ]
    for worker in workers:
        worker.start()
    outcome = dict(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(60)
    check_outcome(outcome)


@pytest.mark.slow
def test_two_processes_leave_one_champion(store):
    race(mlflow.get_tracking_uri())


@pytest.mark.slow
def test_over_http(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", str(tmp_path / "artifacts")]
    uri, before = f"http://127.0.0.1:{port}", mlflow.get_tracking_uri()
    with (tmp_path / "log.txt").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(240):
            with suppress(OSError):
                urllib.request.urlopen(f"{uri}/health", timeout=1).close()
                break
            time.sleep(0.5)
        mlflow.set_tracking_uri(uri)
        for fitted in models.values():
            register(fitted)
        assert not promote("T", BARS, margin=1.0, version=GOOD).promoted
        assert promote("T", BARS, version=GOOD).promoted
        assert aliases() == {"challenger": SHORT, "champion": GOOD, "previous_champion": BAD}
        assert roll_back("T") == BAD
        assert history("T")["event"].tolist() == ["registered", "refused", "promoted", "rolled back"]
        assert list_versions("T")["aliases"].tolist() == ["champion", "", "", "challenger"]
        with pytest.raises(TrackingError, match="must be a registered model; got 'Nobody'"):
            list_versions("Nobody")
        race(uri)
    finally:
        mlflow.set_tracking_uri(before)
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def test_force_goes_where_nothing_can_be_compared(store):
    with pytest.raises(TrackingError, match="events of each class"):
        promote("T", BARS, version=GOOD, min_events=1000)
    forced = promote("T", BARS, version=GOOD, min_events=1000, force="try")
    assert forced.promoted
    assert forced.comparison is None
    assert forced.why.startswith("forced: try (not compared: `bars` must hold at least 1000 events")


def test_of_two_first_versions_the_later_one_is_no_champion(store, monkeypatch):
    # The other training's version became champion between the look and the check.
    seen = iter([{}, {"champion": GOOD}])
    given = {}
    monkeypatch.setattr(_aliases, "aliases_of", lambda name: next(seen))
    monkeypatch.setattr(_aliases, "crown", lambda *_, **__: None)
    monkeypatch.setattr(_aliases, "record", lambda name, version, **event: given.update(event))
    monkeypatch.setattr(_aliases, "give", lambda name, alias, version: given.update({alias: version}))
    _aliases.welcome("T", BAD, None)
    assert given["challenger"] == BAD
    assert given["why"] == "as challenger: another version became champion first"
