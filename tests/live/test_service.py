"""The service over HTTP: who may do what, what becomes of bars, and that nothing makes a reader wait."""

import asyncio
import gzip
import json
import threading
import time
from types import SimpleNamespace

import pandas as pd
import pytest
from service_parts import AUTH, BAR, BARS, TOKEN, Clock, TestClient, fit, open_trader, rows
from starlette.websockets import WebSocketDisconnect

from ensemble_kit.exceptions import BrokerError, EnsembleKitError, JournalError
from ensemble_kit.live._due import next_close
from ensemble_kit.live.security import Bucket, check_token
from ensemble_kit.live.service import create_app


@pytest.fixture(scope="module")
def fitted():
    return fit()


class Desk:
    """A service in this process, its trader and its clock."""

    def __init__(self, folder, fitted, *, seeded=850, **options):
        self.clock = Clock()
        self.trader = open_trader(folder, fitted, clock=self.clock)
        self.app = create_app(self.trader, token=TOKEN, **options)
        self.clock.close(seeded - 1)
        self.app.state.desk.open(history=BARS.iloc[:seeded])

    def client(self, **headers):
        return TestClient(self.app, base_url="http://127.0.0.1", headers=headers)

    def send(self, client, first, end, **options):
        self.clock.close(end - 1)
        return client.post("/bars", json=rows(first, end), headers=AUTH, **options)


@pytest.fixture
def service(tmp_path, fitted):
    desk = Desk(tmp_path, fitted)
    with desk.client() as client:
        yield desk, client


def outcomes(answer):
    return [one["outcome"] for one in answer.json()["outcomes"]]


# ------------------------------------------------------------------------------ bars


def test_bars_are_decided_on_and_read_back(service, fitted):
    desk, client = service
    assert client.get("/health").json()["status"] == "warming up"
    assert client.get("/prediction").status_code == 503
    for row in range(850, 856):
        answer = desk.send(client, row, row + 1)
        assert (answer.status_code, outcomes(answer)) == (200, ["taken"])
    said = client.get("/prediction").json()
    proba = fitted[0].predict_proba(BARS.iloc[:856])[-1]
    assert said["proba"] == pytest.approx(dict(zip(["bottom", "peak", "slope"], proba, strict=True)), abs=1e-6)
    assert said["wanted"] == pytest.approx(fitted[0].predict_position(BARS.iloc[:856])[-1])
    assert pd.Timestamp(said["time"]) == BARS.index[855]
    assert pd.Timestamp(said["known_at"]) == BARS.index[855] + BAR
    assert (said["version"], said["in_training"]) == ("SPY/1", True)
    shown = client.get("/bars?n=10").json()
    assert [pd.Timestamp(row["time"]) for row in shown] == list(BARS.index[846:856])
    assert [row["position"] is None for row in shown] == [True] * 4 + [False] * 6
    assert shown[-1]["close"] == BARS["close"].iloc[855]
    assert len(client.get("/equity").json()) == 6
    account = desk.trader.broker.account()
    told = client.get("/position").json()
    assert (told["equity"], told["units"]) == (account.equity, account.units["SPY"])
    assert len(client.get("/orders").json()) == len(desk.trader.journal.orders()) > 0
    assert client.get("/fills").json()[0]["price"] == desk.trader.journal.fills()[-1].price
    assert client.get("/card").json()["classes"] == ["bottom", "peak", "slope"]


def test_each_bar_has_its_outcome(service):
    desk, client = service
    desk.send(client, 850, 855)
    sent = rows(853, 858)
    sent[0]["close"] = sent[0]["high"]  # another close than was sent before
    sent[3]["open"] = None
    sent[2], sent[4] = sent[4], sent[2]  # out of order within a request: put into it
    desk.clock.close(856)  # the last one is not closed yet
    answer = client.post("/bars", json=sent, headers=AUTH)
    told = {pd.Timestamp(one["time"]): one for one in answer.json()["outcomes"]}
    assert [told[time]["outcome"] for time in BARS.index[853:858]] == [
        "refused",
        "duplicate",
        "taken",
        "refused",
        "refused",
    ]
    assert answer.status_code == 200
    assert all(one["reason"] for one in told.values() if one["outcome"] == "refused")
    assert {pd.Timestamp(one["time"]) for one in client.get("/refusals").json()} == {
        BARS.index[row] for row in (853, 856, 857)
    }
    again = client.post("/bars", json=[sent[3]], headers=AUTH)
    assert (again.status_code, outcomes(again)) == (422, ["refused"])


def test_csv_as_curl_sends_it(service):
    desk, client = service
    desk.clock.close(859)
    csv = pd.DataFrame(rows(850, 860)).to_csv(index=False)
    answer = client.post("/bars", content=csv, headers=AUTH | {"Content-Type": "text/csv; charset=utf-8"})
    assert outcomes(answer) == ["taken"] * 10


@pytest.mark.parametrize("in_order", [True, False])
def test_a_long_history_leaves_room_for_a_halt(service, in_order):
    """A halt comes in between the pieces of one request, and the rest of it is decided on as halted."""
    desk, client = service
    sent = rows(850, 1000)
    if not in_order:
        sent[100], sent[120] = sent[120], sent[100]
    began, go = threading.Event(), threading.Event()
    take = desk.trader.take

    def slow(table):
        began.set()
        assert go.wait(10)
        return take(table)

    desk.trader.take = slow
    desk.clock.close(999)
    answers = []
    sending = threading.Thread(target=lambda: answers.append(client.post("/bars", json=sent, headers=AUTH)))
    sending.start()
    assert began.wait(10)
    halting = threading.Thread(target=lambda: client.post("/halt", json={"reason": "drill"}, headers=AUTH))
    halting.start()
    # Reads are answered while the writer is busy.
    assert client.get("/health").json()["status"] == "warming up"
    assert client.get("/position").status_code == 200
    go.set()
    sending.join(20)
    halting.join(20)
    assert outcomes(answers[0]) == ["taken"] * 150
    reasons = [one["decision"]["reason"] or "" for one in answers[0].json()["outcomes"]]
    halted = [reason.startswith("halted: drill") for reason in reasons]
    assert not halted[0]
    assert halted[-1]


BAD = [
    (b"[1, 2]", "application/json", 422, r"The body must be a list of bars"),
    (b"{}", "application/json", 422, r"The body must be a list of bars"),
    (b"[{", "application/json", 422, r"The body must be application/json that can be read"),
    (b"[" * 100_000, "application/json", 422, r"The body must be application/json that can be read"),
    (b"\xff\xfe", "application/json", 422, r"The body must be application/json that can be read"),
    (b"", "text/csv", 422, r"The body must be text/csv that can be read"),
    (b"a,b\n1,2,3\n4,5,6,7\n", "text/csv", 422, r"The body must be text/csv that can be read"),
    (b"[]", "application/json", 422, r""),
    (b'[{"close": 1.0}]', "application/json", 422, r"timestamp"),
    (b'[{"timestamp": "soon", "open": 1, "high": 1, "low": 1, "close": 1, "volume": 1}]', "application/json", 422, r""),
    (b"<bars/>", "text/xml", 415, r"`Content-Type` must be application/json or text/csv; got 'text/xml'"),
]


@pytest.mark.parametrize(("body", "kind", "status", "says"), BAD)
def test_what_is_no_bars(service, body, kind, status, says):
    _, client = service
    answer = client.post("/bars", content=body, headers=AUTH | {"Content-Type": kind})
    assert answer.status_code == status
    if says:
        assert says in answer.json()["detail"]
    assert client.get("/health").status_code == 200


def test_packed_bars_are_refused_by_name(service):
    _, client = service
    packed = AUTH | {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = client.post("/bars", content=gzip.compress(json.dumps(rows(850, 851)).encode()), headers=packed)
    assert (answer.status_code, answer.json()["detail"]) == (
        415,
        "`Content-Encoding` must be identity; got 'gzip'. Send the bars as they are.",
    )


# ------------------------------------------------------------------------------ who may do what


STREAM = "ws://127.0.0.1/stream"
CHANGES = ["/bars", "/halt", "/resume", "/model"]


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, "Bearer ünïcödé"]
)
def test_changes_need_the_token(service, path, header):
    desk, client = service
    headers = {} if header is None else {"Authorization": header.encode()}
    answer = client.post(path, json={"reason": "x"}, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert desk.trader.halted is None


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.5:8000"])
def test_a_name_that_points_here_is_not_enough(service, host):
    _, client = service
    for path in ("/", "/position", "/health"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(f"`Host` must be a name of this service; got {host!r}. ")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:1", "[::1]:8000"])
def test_the_loopbacks_names(service, host):
    _, client = service
    assert client.get("/position", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost"])
def test_other_sites_pages_are_refused(service, origin):
    desk, client = service
    answer = client.post("/halt", json={"reason": "x"}, headers=AUTH | {"Origin": origin})
    assert answer.status_code == 403
    assert client.get("/position", headers={"Origin": origin}).status_code == 403
    assert desk.trader.halted is None
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(STREAM, headers={"Origin": origin}):
        pass


def test_its_own_page_may(service):
    _, client = service
    own = AUTH | {"Origin": "http://127.0.0.1"}
    assert client.post("/halt", json={"reason": "x"}, headers=own).status_code == 200


def test_beyond_the_loopback_reads_need_the_token_too(tmp_path, fitted):
    desk = Desk(tmp_path, fitted, hosts=["*"], open_reads=False)
    with desk.client() as client:
        for path in ("/position", "/card", "/bars", "/metrics", "/prediction", "/orders", "/openapi.json"):
            assert client.get(path).status_code == 401, path
        assert client.get("/position", headers=AUTH | {"Host": "trader.example"}).status_code == 200
        for path in ("/", "/plotly.min.js", "/health"):
            assert client.get(path).status_code == 200
        for said in ({"token": "x"}, {}, [], "x"):
            with client.websocket_connect(STREAM) as socket:
                socket.send_json(said)
                with pytest.raises(WebSocketDisconnect) as closed:
                    socket.receive_json()
                assert closed.value.code == 4401
        with client.websocket_connect(STREAM) as socket:
            socket.send_json({"token": TOKEN})
            assert socket.receive_json()["event"] == "state"


def test_tokens_that_could_be_guessed():
    assert check_token(TOKEN) == TOKEN
    for token in ("", "short", "with spaces in between", "nön-ascii-characters"):
        with pytest.raises(EnsembleKitError, match=r"^`token` must be 16 or more printable ASCII characters"):
            check_token(token)


def test_headers_that_a_browser_heeds(service):
    _, client = service
    page = client.get("/")
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert policy != client.get("/").headers["Content-Security-Policy"]  # a nonce is used once
    assert "Access-Control-Allow-Origin" not in client.get("/position").headers
    assert client.get("/position").headers["Cache-Control"] == "no-store"


# ------------------------------------------------------------------------------ size and rate


def test_bodies_are_counted_as_they_come(tmp_path, fitted):
    desk = Desk(tmp_path, fitted, max_body=10_000)
    with desk.client() as client:
        read = 0

        def endless():
            nonlocal read
            for _ in range(1000):
                read += 1
                yield b" " * 1000

        answer = client.post("/bars", content=endless(), headers=AUTH | {"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert answer.json()["detail"].startswith("The body must be of 10,000 bytes at most; it is longer.")
        assert client.post("/halt", content=b" " * 5000, headers=AUTH).status_code == 413
        assert desk.trader.halted is None
        assert outcomes(desk.send(client, 850, 851)) == ["taken"]


def test_too_many_rows(service):
    _, client = service
    csv = "timestamp,close\n" + "2024-01-02T14:30:00Z,1\n" * 50_001
    answer = client.post("/bars", content=csv, headers=AUTH | {"Content-Type": "text/csv"})
    assert (answer.status_code, answer.json()["detail"][:40]) == (413, "The body must hold 50,000 bars at most; "[:40])


def test_changes_are_limited_in_rate_and_reads_are_not(tmp_path, fitted):
    desk = Desk(tmp_path, fitted, changes_per_second=0.5)
    with desk.client() as client:
        assert desk.send(client, 850, 851).status_code == 200
        refused = desk.send(client, 851, 852)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 2
        for _ in range(3):  # the kill switch does not wait for a busy feeder
            assert client.post("/halt", headers=AUTH).status_code == 200
        # Who has no token takes nothing from who has.
        assert client.post("/bars").status_code == 401
        assert {client.get("/prediction").status_code for _ in range(50)} == {200}


def test_the_bucket():
    now = [0.0]
    bucket = Bucket(2.0, burst=3, clock=lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    now[0] = 0.25
    assert bucket.take() == pytest.approx(0.25)
    now[0] = 0.5
    assert bucket.take() == 0.0
    now[0] = 100.0
    assert [bucket.take() > 0 for _ in range(4)] == [False, False, False, True]


def test_only_so_many_wait_for_the_writer(service):
    desk, client = service
    go = threading.Event()
    take = desk.trader.take
    desk.trader.take = lambda table: go.wait(20) and take(table)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.post("/bars", json=rows(850, 851), headers=AUTH)))
        for _ in range(12)
    ]
    desk.clock.close(850)
    for thread in threads:
        thread.start()
    while sum(answer.status_code == 429 for answer in answers) < 4 and any(t.is_alive() for t in threads):
        threading.Event().wait(0.01)
    go.set()
    for thread in threads:
        thread.join(20)
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * 8 + [429] * 4
    assert sorted(outcomes(answer)[0] for answer in answers if answer.status_code == 200) == ["duplicate"] * 7 + [
        "taken"
    ]


# ------------------------------------------------------------------------------ halt, resume, trouble


def test_halt_and_resume(service):
    desk, client = service
    desk.send(client, 850, 856)
    answer = client.post("/halt", json={"reason": "<b>storm</b>"}, headers=AUTH)
    assert answer.json()["status"] == "halted"
    assert desk.trader.halted == "<b>storm</b>"
    desk.send(client, 856, 858)
    assert client.get("/position").json()["units"] == 0
    assert client.get("/prediction").json()["position"] == 0
    assert client.get("/events").json()[0]["kind"] == "halt"
    assert client.post("/resume", headers=AUTH).json()["status"] != "halted"
    assert desk.trader.halted is None
    for body in (b'{"reason": ""}', b'{"reason": 3}', b"[]", b"{", b'{"reason": "' + b"x" * 201 + b'"}'):
        assert client.post("/halt", content=body, headers=AUTH).status_code == 422
    assert desk.trader.halted is None
    assert client.post("/halt", headers=AUTH).status_code == 200
    assert desk.trader.halted == "by hand"


def test_a_halt_that_the_broker_did_not_hear_of(service, monkeypatch):
    desk, client = service

    def gone(*_):
        raise BrokerError("the broker must answer; it does not")

    monkeypatch.setattr(desk.trader.broker, "open_orders", gone)
    monkeypatch.setattr(desk.trader.broker, "fills", gone)
    answer = client.post("/halt", json={"reason": "storm"}, headers=AUTH)
    assert (answer.status_code, answer.json()["detail"]) == (502, "the broker must answer; it does not")
    assert client.get("/health").json()["status"] == "halted"


def test_a_fault_of_the_trader_is_shown_and_the_service_goes_on(service, monkeypatch):
    desk, client = service
    with monkeypatch.context() as patch:
        patch.setattr(desk.trader, "take", lambda table: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            desk.send(client, 850, 851)
    assert desk.app.state.desk.state["trouble"].startswith("The last bars could not be taken: ZeroDivisionError")
    assert outcomes(desk.send(client, 850, 851)) == ["taken"]
    assert desk.app.state.desk.state["trouble"] == ""


CLOSED = [
    ("2022-01-14 15:00", "2022-01-14 15:10"),
    ("2022-01-13 20:55", "2022-01-14 14:35"),  # a night
    ("2022-01-14 20:55", "2022-01-18 14:35"),  # a weekend, and Martin Luther King's day
    ("2022-03-11 20:55", "2022-03-14 13:35"),  # into summer time
    ("2022-11-25 17:55", "2022-11-28 14:35"),  # after a half day
]


@pytest.mark.parametrize(("newest", "due"), CLOSED)
def test_when_a_bar_is_due(newest, due):
    terms = {"bar": "0 days 00:05:00", "session": "XNYS", "tz": "America/New_York"}
    newest = pd.Timestamp(newest, tz="UTC")
    assert next_close(newest, terms) == pd.Timestamp(due, tz="UTC")
    assert next_close(newest, terms | {"session": "day"}) == newest + 2 * BAR
    assert next_close(newest, terms | {"bar": "0 days 00:30:00"}) >= newest + 2 * BAR
    friday = pd.Timestamp("2022-01-14", tz="UTC")
    days = terms | {"bar": "1 days 00:00:00"}
    assert next_close(friday, days) == pd.Timestamp("2022-01-19", tz="UTC")
    assert next_close(pd.Timestamp("2150-01-07 15:00", tz="UTC"), terms).year == 2150  # beyond any calendar


def test_a_closed_market_is_not_stale(tmp_path, fitted, monkeypatch):
    last = BARS.index.get_loc(BARS[: BARS.index[850].normalize() + pd.Timedelta(days=1)].index[-1])
    desk = Desk(tmp_path, fitted, seeded=last)
    at = BARS.index[last] + BAR
    due = next_close(BARS.index[last], fitted[1])
    assert due - at > pd.Timedelta(hours=12)

    def is_now(moment):
        clock = SimpleNamespace(time=moment.timestamp, perf_counter=time.perf_counter)
        for module in ("desk", "metrics"):
            monkeypatch.setattr(f"ensemble_kit.live.{module}.time", clock)
        text = client.get("/metrics").text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        told = float(values["ensemble_kit_stale"]), float(values["ensemble_kit_overdue_seconds"])
        return client.get("/health").json()["status"], *told

    with desk.client() as client:
        desk.send(client, last, last + 1)
        late = pd.Timedelta(minutes=6, seconds=1)
        assert is_now(at + pd.Timedelta(minutes=10)) == ("ready", 0.0, 0.0)
        assert is_now(due) == ("ready", 0.0, 0.0)
        assert is_now(due + late) == ("stale", 1.0, 361.0)


def test_a_restart_goes_on(tmp_path, fitted):
    desk = Desk(tmp_path, fitted)
    with desk.client() as client:
        desk.send(client, 850, 860)
        before = client.get("/bars?n=30").json()
        client.post("/halt", json={"reason": "the night"}, headers=AUTH)
    again = Desk(tmp_path, fitted)
    with again.client() as client:
        assert client.get("/bars?n=30").json() == before
        assert client.get("/health").json()["halted"] == "the night"
        client.post("/resume", headers=AUTH)
        assert outcomes(again.send(client, 859, 861)) == ["duplicate", "taken"]


# ------------------------------------------------------------------------------ stream and metrics


def test_the_stream_says_each_decision(service):
    desk, client = service
    with client.websocket_connect(STREAM) as socket, client.websocket_connect(STREAM) as other:
        assert [one.receive_json()["event"] for one in (socket, other)] == ["state", "state"]
        desk.send(client, 850, 853)
        for one in (socket, other):
            said = [message for message in (one.receive_json() for _ in range(4)) if message["event"] == "decision"]
            assert [pd.Timestamp(message["row"]["time"]) for message in said] == list(BARS.index[850:853])
            assert said[-1]["row"] == client.get("/bars?n=1").json()[0]
            assert said[-1]["state"]["decision"]["proba"] == client.get("/prediction").json()["proba"]
        client.post("/halt", json={"reason": "drill"}, headers=AUTH)
        assert other.receive_json()["state"]["halted"] == "drill"


def test_a_slow_reader_is_dropped_and_nobody_waits(service):
    desk, _ = service

    async def play():
        one = desk.app.state.desk
        slow, quick = one.join(), one.join()
        for _ in range(300):
            one._hand_out("{}")
            while not quick.line.empty():
                assert await quick.line.get() is not None
        return one, slow, quick

    one, slow, quick = asyncio.run(play())
    assert (slow.slow, quick.slow) == (True, False)
    assert slow.line.get_nowait() is None
    assert one._readers == {quick}
    assert one.metrics.registry.get_sample_value("ensemble_kit_stream_dropped_total") == 1
    assert [one.join() is None for _ in range(100)] == [False] * 99 + [True]


def test_metrics(service):
    desk, client = service
    desk.send(client, 850, 860)
    desk.send(client, 859, 860)
    text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['ensemble_kit_bars_sent_total{outcome="taken"}'] == "10.0"
    assert values['ensemble_kit_bars_sent_total{outcome="duplicate"}'] == "1.0"
    assert values["ensemble_kit_bars_total"] == "860.0"
    assert values["ensemble_kit_decisions_total"] == "10.0"
    assert float(values["ensemble_kit_fills_total"]) == len(desk.trader.journal.fills())
    filled = len(desk.trader.journal.orders(states=["filled"]))
    assert float(values['ensemble_kit_orders{state="filled"}']) == filled
    assert float(values["ensemble_kit_equity"]) == client.get("/position").json()["equity"]
    assert values['ensemble_kit_model{symbol="SPY",version="SPY/1"}'] == "1.0"
    assert values["ensemble_kit_halted"] == "0.0"
    assert float(values["ensemble_kit_newest_bar_age_seconds"]) > 0
    client.get("/no/such/path")
    text = client.get("/metrics").text
    assert 'path="/bars"' in text
    assert 'path="other",status="404"' in text
    assert "/no/such" not in text


def test_names_from_outside_are_json_and_never_html(tmp_path, fitted):
    desk = Desk(tmp_path, fitted)
    with desk.client() as client:
        client.post("/halt", json={"reason": "<script>alert(1)</script>"}, headers=AUTH)
        assert "alert(1)" not in client.get("/").text
        answer = client.get("/health")
        assert answer.headers["Content-Type"] == "application/json"
        assert json.loads(answer.text)["halted"] == "<script>alert(1)</script>"


def test_a_database_that_is_down_is_said_and_shown(service, monkeypatch):
    desk, client = service
    desk.send(client, 850, 852)

    def gone(*_args, **_kwargs):
        raise JournalError("`journal` must be a database that answers; it does not.")

    monkeypatch.setattr(desk.trader.journal, "check_held", gone)
    monkeypatch.setattr(desk.trader.journal, "newest_bar", gone)
    answer = desk.send(client, 852, 853)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "`journal` must be a database that answers; it does not."
    assert client.get("/health").json()["newest_bar"] is not None
    assert desk.app.state.desk.state["trouble"] == "`journal` must be a database that answers; it does not."
    monkeypatch.undo()
    assert outcomes(desk.send(client, 852, 853)) == ["taken"]
    assert desk.app.state.desk.state["trouble"] == ""
