"""A new champion in a real registry: taken over between bars, or refused and rolled back."""

import argparse

import mlflow
import pytest
from service_parts import AUTH, BARS, TOKEN, Clock, TestClient, fit, open_trader, rows

from ensemble_kit.cli import serve
from ensemble_kit.exceptions import EnsembleKitError, TrackingError
from ensemble_kit.live._kept import Kept
from ensemble_kit.live.champion import ChampionWatch
from ensemble_kit.live.rehearsal import rehearse
from ensemble_kit.live.service import create_app
from ensemble_kit.tracking import history, load_card, load_model, log_and_register, quiet, tracked_run
from ensemble_kit.tracking._aliases import aliases_of, crown

pytestmark = pytest.mark.filterwarnings("ignore:Operation with range is deprecated")
#: Version by what it is.
FIRST, BETTER, CONSTANT, OTHER_BARS, BOLD = 1, 2, 3, 4, 5


@pytest.fixture(scope="module")
def models():
    constant = fit()
    constant[0].model_[-1].coef_[:] = 0.0
    other = fit()[0], fit()[1] | {"bar": "0 days 00:01:00"}
    bold = fit()
    bold[0].sizer_.size = 3.0
    return {FIRST: fit(), BETTER: fit(C=0.1), CONSTANT: constant, OTHER_BARS: other, BOLD: bold}


@pytest.fixture(scope="module")
def filled(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("store")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'store.db'}")
    quiet()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, (model, card) in models.items():
            with tracked_run("SPY", "test", {}):
                assert log_and_register(model, BARS.iloc[:900], name="SPY", card=card) == number
        yield folder
    mlflow.set_tracking_uri(before)


@pytest.fixture
def store(filled):
    crown_again(FIRST)
    return filled


def crown_again(number):
    """Make a version the champion, from wherever an earlier test has left the names."""
    over = aliases_of("SPY").get("champion")
    if over != number:
        crown("SPY", number, over=over, event={"event": "forced", "why": "test"})


class Service:
    def __init__(self, folder, **options):
        self.clock = Clock()
        fitted = load_model("models:/SPY/1"), load_card("models:/SPY/1")
        self.trader = open_trader(folder, fitted, clock=self.clock)
        self.watch = ChampionWatch("SPY", self.trader, every=3600.0, n_first=5, **options)
        self.app = create_app(self.trader, token=TOKEN, watch=self.watch)
        self.clock.close(849)
        self.app.state.desk.open(history=BARS.iloc[:850])
        self.row = 850

    def client(self):
        return TestClient(self.app, base_url="http://127.0.0.1", headers=AUTH)

    def post(self, client, n=1):
        versions = []
        for _ in range(n):
            self.clock.close(self.row)
            answer = client.post("/bars", json=rows(self.row, self.row + 1)).json()
            versions.append(answer["outcomes"][0]["decision"]["version"])
            self.row += 1
        return versions

    def events(self):
        return [event.text for event in self.trader.journal.events()]


def test_a_new_champion_takes_over_between_bars(store, tmp_path, models):
    service = Service(tmp_path)
    with service.client() as client:
        assert service.post(client, 3) == ["SPY/1"] * 3
        assert client.post("/model").json()["said"] == "SPY/1 goes on"
        crown_again(BETTER)
        said = client.post("/model").json()
        assert said["version"] == "SPY/2"
        assert said["said"].startswith("SPY/2 takes over from SPY/1; ")
        assert service.post(client, 6) == ["SPY/2"] * 6
        proba = models[BETTER][0].predict_proba(BARS.iloc[: service.row])[-1]
        assert list(client.get("/prediction").json()["proba"].values()) == pytest.approx(proba.tolist(), abs=1e-6)
        assert "SPY/2 has passed: its first 5 predictions are sound" in service.events()
        assert client.get("/health").json()["version"] == "SPY/2"
    assert aliases_of("SPY")["champion"] == BETTER


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (CONSTANT, "its newest 200 predictions are all the same, and the old version's are not"),
        (OTHER_BARS, "it takes other bars: bar '0 days 00:01:00' instead of '0 days 00:05:00'"),
        (BOLD, "positions lie beyond 1, the first of them "),
    ],
)
def test_one_that_fails_its_rehearsal_is_rolled_back(store, tmp_path, number, why):
    service = Service(tmp_path)
    with service.client() as client:
        service.post(client, 2)
        crown_again(number)
        said = client.post("/model").json()
        assert said["version"] == "SPY/1"
        assert said["said"].startswith(f"SPY/{number} is not taken over, SPY/1 goes on: ")
        assert why in said["said"]
        assert aliases_of("SPY")["champion"] == FIRST
        assert why in history("SPY")["why"].iloc[-1]
        assert f"the registry's champion is version 1 again, instead of {number}" in service.events()
        assert service.post(client, 2) == ["SPY/1"] * 2


def test_one_that_cannot_be_read_is_rolled_back(store, tmp_path, monkeypatch):
    service = Service(tmp_path)
    with service.client() as client:
        crown_again(BETTER)
        monkeypatch.setattr("ensemble_kit.live.champion.load_model", lambda uri: 1 / 0)
        assert client.post("/model").json()["said"].endswith("goes on: division by zero")
    assert aliases_of("SPY")["champion"] == FIRST


def spoil(trader, how):
    """Let the model that trades now go wrong after its rehearsal."""
    sizer = trader.model.sizer_
    transform = sizer.transform
    sizer.transform = lambda proba: how(transform(proba))


@pytest.mark.parametrize(
    ("how", "why"),
    [(lambda said: said * float("nan"), "the model failed"), (lambda said: said * 0 + 7.0, "beyond 1")],
)
def test_one_whose_first_predictions_fail_is_taken_back(store, tmp_path, how, why):
    service = Service(tmp_path)
    with service.client() as client:
        service.post(client, 2)
        crown_again(BETTER)
        assert client.post("/model").json()["version"] == "SPY/2"
        assert service.post(client, 2) == ["SPY/2"] * 2
        spoil(service.trader, how)
        assert service.post(client, 2) == ["SPY/2", "SPY/1"]
        service.watch.look()  # what its thread does as soon as it wakes
        assert aliases_of("SPY")["champion"] == FIRST
        assert why in history("SPY")["why"].iloc[-1]
        assert any(text.startswith("SPY/1 takes over again from SPY/2: ") and why in text for text in service.events())
        assert service.trader.latest.version == "SPY/1"


def test_after_the_checks_a_failure_is_the_traders_own(store, tmp_path):
    service = Service(tmp_path)
    with service.client() as client:
        crown_again(BETTER)
        client.post("/model")
        service.post(client, 5)
        spoil(service.trader, lambda said: said * float("nan"))
        assert service.post(client, 2) == ["SPY/2"] * 2
    assert aliases_of("SPY")["champion"] == BETTER


def test_a_registry_that_is_down_changes_nothing(store, tmp_path, monkeypatch):
    service = Service(tmp_path)
    with service.client() as client:
        crown_again(BETTER)

        def gone(name):
            raise ConnectionError("nobody there")

        with monkeypatch.context() as patch:
            patch.setattr("ensemble_kit.live.champion.aliases_of", gone)
            for _ in range(3):
                said = client.post("/model").json()
                assert said["said"] == "the registry does not answer, SPY/1 goes on: nobody there"
            assert service.post(client, 2) == ["SPY/1"] * 2
        assert sum("does not answer" in text for text in service.events()) == 1
        assert client.post("/model").json()["version"] == "SPY/2"


def test_a_roll_back_waits_for_the_registry_and_spares_a_third_version(store, tmp_path, monkeypatch):
    service = Service(tmp_path)
    with service.client() as client:
        crown_again(CONSTANT)
        with monkeypatch.context() as patch:
            patch.setattr("ensemble_kit.live.champion.roll_back", lambda *_, **__: 1 / 0)
            client.post("/model")
        assert aliases_of("SPY")["champion"] == CONSTANT
        crown_again(BETTER)  # somebody names another one meanwhile
        assert client.post("/model").json()["version"] == "SPY/2"
    assert aliases_of("SPY")["champion"] == BETTER


def test_an_alias_moved_by_hand_goes_back_to_the_version_that_trades(store, tmp_path):
    service = Service(tmp_path)
    with service.client() as client:
        crown_again(BETTER)
        client.post("/model")
        assert service.post(client, 5) == ["SPY/2"] * 5
        mlflow.MlflowClient().set_registered_model_alias("SPY", "champion", str(CONSTANT))
        assert client.post("/model").json()["version"] == "SPY/2"
        assert "the registry's champion is version 2 again, instead of 3" in service.events()
        assert client.post("/model").json()["said"] == "SPY/2 goes on"
    assert aliases_of("SPY")["champion"] == BETTER
    assert aliases_of("SPY")["previous_champion"] == FIRST
    assert history("SPY")["event"].iloc[-1] == "rolled back"
    assert history("SPY")["version"].iloc[-1] == BETTER


# ------------------------------------------------------------------------------ a start


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Return what starts the command and hands over its application, as often as it is called."""
    BARS.iloc[:850].to_parquet(tmp_path / "history.parquet")
    monkeypatch.setenv("ENSEMBLE_KIT_TOKEN", TOKEN)
    for name, value in serve._REQUESTS.items():
        monkeypatch.setenv(name, value)
    before = mlflow.get_tracking_uri()

    def start(*more):
        apps = []

        def hold(server, sockets):
            sockets[0].close()
            apps.append(server.config.app)

        monkeypatch.setattr("uvicorn.Server.run", hold)
        parser = argparse.ArgumentParser()
        serve.add_to(parser.add_subparsers())
        given = ["--name", "SPY", "--journal", f"sqlite:///{tmp_path}/live.db", "--port", "0"]
        options = parser.parse_args(["serve", *given, "--history", str(tmp_path / "history.parquet"), *more])
        options.run(options)
        return apps[0]

    yield start
    mlflow.set_tracking_uri(before)


def decide(app, row):
    """Send a bar, and return what was decided; the bars are old, so that nothing is ordered."""
    with TestClient(app, base_url="http://127.0.0.1", headers=AUTH) as client:
        said = client.post("/bars", json=rows(row, row + 1)).json()["outcomes"][0]["decision"]
        return said, client.get("/events").json()


def test_a_version_that_there_is_not_is_not_passed_over(store, started):
    decide(started("--version", "1"), 850)
    with pytest.raises(TrackingError, match="must be a version of SPY"):
        started("--version", "77")


@pytest.mark.parametrize("lost", ["registry", "files"])
def test_a_start_goes_on_with_the_version_that_decided_last(store, started, tmp_path, monkeypatch, models, lost):
    assert decide(started("--version", "1"), 850)[0]["version"] == "SPY/1"
    more = ["--version", str(BETTER)]
    if lost == "registry":
        more = ["--tracking-uri", f"sqlite:///{tmp_path}/no/such/folder/store.db"]
    else:
        monkeypatch.setattr("ensemble_kit.tracking.load_model", lambda uri: 1 / 0)
    with pytest.warns(
        UserWarning, match=r"^SPY/1, which decided last, goes on: what was asked for cannot be loaded \("
    ):
        app = started(*more)
    said, events = decide(app, 851)
    assert said["version"] == "SPY/1"
    proba = models[FIRST][0].predict_proba(BARS.iloc[:852])[-1]
    assert list(said["proba"].values()) == pytest.approx(proba.tolist(), abs=1e-6)
    assert any(event["kind"] == "error" and "which decided last, goes on" in event["text"] for event in events)


def test_a_first_start_that_finds_no_version_says_so(store, started):
    with pytest.raises(EnsembleKitError, match=r"^`version` must be a version of SPY: 1, 2, 3, 4, 5, or an alias: "):
        started("--version", "77")


@pytest.mark.parametrize(("number", "trades"), [(BETTER, "SPY/2"), (CONSTANT, "SPY/1")])
def test_a_champion_that_came_while_the_service_was_down_is_rehearsed(store, started, number, trades):
    assert decide(started(), 850)[0]["version"] == "SPY/1"
    crown_again(number)
    app = started()
    assert app.state.desk.trader.version == "SPY/1"
    app.state.watch.look()
    assert app.state.desk.trader.version == trades
    assert (app.state.watch._old is not None) == (number == BETTER)  # its first decisions are checked
    assert aliases_of("SPY")["champion"] == int(trades[-1])
    assert decide(app, 851)[0]["version"] == trades


def test_copies_are_replaced_whole(tmp_path, models, monkeypatch):
    trader = open_trader(tmp_path, models[FIRST])
    kept = Kept(trader.journal.engine)
    kept.keep("SPY/1", *models[FIRST])
    kept.keep("SPY/2", *models[BETTER], beside="SPY/1")
    with monkeypatch.context() as patch:
        patch.setattr("ensemble_kit.live._kept.write_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kept.keep("SPY/1", *models[BOLD])
    assert kept.read("SPY/1")[0].sizer_.size == 0.5
    assert kept.read("SPY/2")[0].model_[-1].C == 0.1
    kept.keep("SPY/3", *models[BOLD], beside="SPY/2")
    assert len(list(kept.folder.glob("copy-*"))) == 2
    with pytest.raises(EnsembleKitError, match=r"^`version` must be one that is kept beside the journal; SPY/1 is not"):
        kept.read("SPY/1")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--max-age", "90"],
            r"^`--max-age` must be a length of time with its unit; got '90'\. Write 90s, or 10min\.$",
        ),
        (["--max-age", "abc"], r"^`--max-age` must be a length of time with its unit; got 'abc'"),
        (["--max-age=-5min"], r"^`--max-age` must be a length of time with its unit; got '-5min'"),
        (["--max-age", "NaT"], r"^`--max-age` must be a length of time with its unit; got 'NaT'"),
        (["--port", "99999"], r"^`--port` must be 0 \(any that is free\) to 65535; got 99999\.$"),
    ],
)
def test_options_that_mean_nothing(store, started, more, message):
    with pytest.raises(EnsembleKitError, match=message):
        started(*more)


def test_the_thread_looks_by_itself(store, tmp_path):
    service = Service(tmp_path)
    service.watch.every = 0.05
    with service.client() as client:
        crown_again(BETTER)
        for _ in range(200):
            if client.get("/health").json()["version"] == "SPY/2":
                break
            service.watch._wake.wait(0.05)
        assert service.post(client) == ["SPY/2"]
    assert not service.watch._thread.is_alive()


def test_a_stream_that_says_something_else_than_the_batch(models, monkeypatch):
    (old, old_card), (model, card) = models[FIRST], models[BETTER]
    asked = {"old": old, "old_card": old_card, "max_position": None, "max_seconds": 1.0}
    assert rehearse(model, card, BARS.iloc[:900], **asked).most == 1.0
    assert rehearse(model, card, BARS.iloc[:10], **asked).seconds == 0.0
    with pytest.raises(EnsembleKitError, match=r"^it takes \d\.\d{3} s a bar; 1e-09 s are allowed$"):
        rehearse(model, card, BARS.iloc[:900], **asked | {"max_seconds": 1e-9})
    monkeypatch.setattr(type(model), "stream", lambda self, rows: old.stream(rows) if self is model else None)
    monkeypatch.setattr(old, "stream", lambda rows: _stream_of(old, rows), raising=False)
    with pytest.raises(EnsembleKitError, match=r"^bar by bar it says something else than at once: "):
        rehearse(model, card, BARS.iloc[:900], **asked)


def _stream_of(model, rows):
    from ensemble_kit.streams.position import PositionStream

    return PositionStream(model.model_, model.sizer_, rows, model.sizer_.classes_)


def test_what_cannot_be_asked(models, tmp_path):
    with pytest.raises(
        EnsembleKitError, match=r"^`every` must be above 0 seconds and `n_first` at least 1; got 0 and 0"
    ):
        ChampionWatch("SPY", open_trader(tmp_path, models[FIRST]), every=0, n_first=0)
