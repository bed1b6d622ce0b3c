"""What a served model takes, what it refuses and how it says so, and what it answers."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.exceptions import BarsError, TrackingError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.sessions import Session
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.tracking.card import model_card
from ensemble_kit.tracking.intake import MAX_ROWS, admit, intake_terms, session_of
from ensemble_kit.tracking.model import check_storable
from ensemble_kit.tracking.runs import load_card, load_model, log_and_register
from ensemble_kit.tracking.served import ServedModel, to_table
from ensemble_kit.validation import WalkForwardSplit

BARS = make_bars(1300, signal=2.0, random_state=0)


class Reach:
    """All that the intake asks of a model."""

    def __init__(self, lookback):
        self.lookback = lookback


TERMS = intake_terms(Reach(20), BARS, session="XNYS")
TABLE = to_table(BARS.iloc[1000:1100])


@pytest.mark.parametrize("instruments", [None, ["A", "B"]])
@pytest.mark.parametrize("tz", ["UTC", "America/New_York", None])
def test_bars_survive_the_table_and_json(instruments, tz):
    bars = make_bars(100, instruments=instruments, random_state=0)
    bars = bars.tz_localize(None, level=0) if tz is None else bars.tz_convert(tz, level=0)
    card = intake_terms(Reach(5), bars)
    table = to_table(bars)
    taken = admit(table, json.loads(json.dumps(card)))
    assert taken.index.equals(bars.index)
    np.testing.assert_array_equal(taken, bars)
    again = pd.DataFrame(json.loads(table.to_json(orient="records", double_precision=15)))
    assert admit(again, card).index.equals(bars.index)


def test_times_may_be_of_any_zone_and_come_back_in_that_of_training():
    bars = BARS.tz_convert("America/New_York")
    card = intake_terms(Reach(20), bars)  # by calendar day: New York's, not Greenwich's
    want = bars.iloc[1000:1100]
    for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
        assert admit(to_table(want.tz_convert(zone)), card).index.equals(want.index)
    naive = TABLE.assign(timestamp=pd.DatetimeIndex(want.index).tz_convert("UTC").tz_localize(None))
    assert admit(naive, card).index.equals(want.index)
    aware = TABLE.assign(timestamp=want.index)
    assert admit(aware, card).index.equals(want.index)


@pytest.mark.parametrize("session", ["XNYS", Session("09:30", "16:00", "America/New_York")])
def test_dates_of_an_exchange(session):
    bars = make_bars(300, bar="1D", random_state=0)
    bars.index = pd.bdate_range("2022-01-03", periods=300, name="datetime")
    card = json.loads(json.dumps(intake_terms(Reach(20), bars, session=session)))
    assert (card["bar"], card["tz"]) == ("1 days 00:00:00", None)
    taken = admit(to_table(bars.tail(30)), card)
    assert taken.index.equals(bars.index[-30:])
    clock = to_table(bars.tail(30)).assign(timestamp=bars.index[-30:] + pd.Timedelta("9.5h"))
    said = r"^`timestamp` must be a date, as in training; got 2023-01-16 09:30:00\. Write '2023-01-16'\.$"
    with pytest.raises(BarsError, match=said):
        admit(clock, card)
    with pytest.raises(BarsError, match="`bars` of a day must be given as dates"):
        intake_terms(Reach(20), bars.tz_localize("UTC"), session=session)


def spoil(**values):
    table = TABLE.copy()
    for column, value in values.items():
        table.loc[7, column] = value
    return table


REFUSED = {
    "NaN": (
        spoil(close=np.nan),
        "must have a price on every row; got close NaN at 2022-01-19 20:25.* (row 7",
    ),
    "infinite": (spoil(open=np.inf), "must have finite prices; got open=inf"),
    "zero": (spoil(low=0.0), "must have prices above 0; got"),
    "high under low": (spoil(high=1.0), "must have high >= low; got"),
    "negative volume": (spoil(volume=-1.0), "must have finite volume of at least 0; got volume=-1"),
    "no volume ever": (TABLE.assign(volume=np.nan), "must have values in volume, as in training; got NaN on every row"),
    "text": (TABLE.astype({"close": str}), "must have numeric prices and volumes; got close of str"),
    "missing column": (TABLE.drop(columns=["close", "volume"]), "as in training; missing close, volume. Rename"),
    "unknown column": (TABLE.assign(vwap=1.0), "as in training; unknown vwap. Rename"),
    "other spelling": (TABLE.rename(columns={"close": "Close"}), "missing close; unknown Close"),
    "no time": (TABLE.drop(columns="timestamp"), "missing timestamp"),
    "columns twice": (pd.concat([TABLE, TABLE[["open"]]], axis=1), "more than once open"),
    "unsorted": (TABLE.iloc[::-1], "must be sorted by time; row 1"),
    "twice": (pd.concat([TABLE, TABLE.tail(1)]), "must have unique times"),
    "time missing": (spoil(timestamp=None), "must have a time on every row; row 7 has none"),
    "numbers for times": (TABLE.assign(timestamp=range(100)), "must be ISO 8601 text, .* got 0. Write it so"),
    "no such time": (spoil(timestamp="yesterday"), "must be ISO 8601 text, .* Write all of them so"),
    "year 9999": (spoil(timestamp="9999-12-31T00:00:00"), "must be ISO 8601 text, .* Write all of them so"),
    "too short": (TABLE.tail(20), "must hold at least 21 rows of each instrument, .* got 20. Send earlier bars"),
    "no rows": (TABLE.head(0), "must have 1 to 50000 rows; got 0"),
    "too long": (TABLE.iloc[np.zeros(MAX_ROWS + 1, int)], "must have 1 to 50000 rows; got 50001"),
    "no table": (TABLE.to_numpy(), "must be a table of bars; got ndarray"),
    "longer bars": (to_table(BARS.iloc[::3].tail(100)), "must be of 00:05:00, as in training; got bars of 00:15:00"),
    "daily bars": (to_table(make_bars(30, bar="1D", random_state=0)), "got bars of 1 days? 00:00:00"),
    "shorter bars": (to_table(make_bars(60, bar="1min", random_state=0)), "got bars of 00:01:00"),
    "holes": (TABLE.drop(index=range(30, 40)), "lack at most 5.0% .* 10.0% are missing, 10 of them on 2022-01-20"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_why_where_and_what_to_do(case):
    table, words = REFUSED[case]
    pattern = re.sub(r"\((?=row)", r"\\(", words)
    with pytest.raises(BarsError, match=pattern) as refused:
        admit(table, TERMS)
    assert str(refused.value).endswith(".")
    assert len(str(refused.value)) < 400


def test_a_few_missing_bars_and_unknown_volumes_are_taken():
    assert len(admit(TABLE.drop(index=range(30, 34)), TERMS)) == 96
    assert admit(spoil(volume=np.nan), TERMS)["volume"].isna().sum() == 1


def test_what_training_never_knew_stays_unknown():
    blank = BARS.assign(volume=np.nan)
    card = intake_terms(Reach(20), blank)
    assert card["columns"] == ["open", "high", "low", "close"]
    for table in (TABLE.drop(columns="volume"), TABLE.assign(volume=np.nan)):
        taken = admit(table, card)
        assert list(taken) == list(blank)
        assert taken["volume"].isna().all()
    with pytest.raises(BarsError, match="unknown volume"):
        admit(TABLE, card)


def test_zones_where_training_had_none_are_refused():
    card = intake_terms(Reach(20), BARS.tz_localize(None))
    with pytest.raises(BarsError, match=r"must be without a zone, as in training; got 2022-.*\+00:00. Leave the zone"):
        admit(TABLE, card)


def test_bars_missing_at_a_sessions_edge_count_where_the_market_fills_it():
    days = BARS.index.normalize()
    day = days.unique()[5]
    inner = to_table(BARS[days.isin(days.unique()[4:7])].drop(index=BARS.index[days == day][:20]))
    with pytest.raises(BarsError, match=f"20 of them on {day.date()}"):
        admit(inner, TERMS)
    # What lies before the first bar sent, or after the last, is nobody's.
    admit(to_table(BARS[days.isin(days.unique()[4:7])].iloc[20:-20]), TERMS)
    # By calendar day a stock market is closed most of the time, and that is no fault.
    by_day = intake_terms(Reach(20), BARS)
    assert not by_day["fills_session"]
    assert by_day["max_missing"] == 0.05
    assert len(admit(inner, by_day)) == len(inner)


def test_a_market_that_never_closes():
    index = pd.date_range("2024-01-01", periods=3000, freq="5min", tz="UTC")
    bars = make_bars(3000, random_state=0).set_axis(index)
    card = intake_terms(Reach(20), bars)
    assert card["fills_session"]
    cut = bars.iloc[:1000].drop(index=index[270:330])  # over midnight: 18 of one day, 42 of the next
    with pytest.raises(BarsError, match=r"6\.0% are missing, 42 of them on 2024-01-02"):
        admit(to_table(cut), card)


def test_a_session_by_its_hours_is_kept_in_the_card():
    session = Session("09:30", "16:00", "America/New_York")
    card = json.loads(json.dumps(intake_terms(Reach(20), BARS, session=session)))
    assert session_of(card) == session
    assert card["max_missing"] == TERMS["max_missing"]
    with pytest.raises(BarsError, match="are missing"):
        admit(REFUSED["holes"][0], card)


def test_each_instrument_of_a_panel_needs_its_history():
    panel = make_bars(100, instruments=["A", "B"], random_state=0)
    card = intake_terms(Reach(20), panel)
    table = to_table(panel)
    short = table[(table["instrument"] == "A") | (table.index >= 170)]
    with pytest.raises(BarsError, match=r"at least 21 rows of each instrument.*got 15 of B"):
        admit(short, card)
    holes = table[~((table["instrument"] == "B") & table.index.isin(range(60, 100)))]
    with pytest.raises(BarsError, match=r"20\.0% of B are missing"):
        admit(holes, card)
    with pytest.raises(BarsError, match="missing instrument"):
        admit(table.drop(columns="instrument"), card)
    with pytest.raises(BarsError, match="must have an instrument on every row; row 7"):
        admit(table.assign(instrument=table["instrument"].where(table.index != 7, None)), card)


def test_where_every_earlier_row_counts_a_minimum_is_stated():
    assert intake_terms(Reach(None), BARS)["min_history"] == 500
    assert intake_terms(Reach(None), BARS.head(100))["min_history"] == 100
    assert intake_terms(Reach(0), BARS)["min_history"] == 1
    admit(TABLE.tail(1), intake_terms(Reach(0), BARS))


def test_a_card_from_before_is_refused():
    with pytest.raises(TrackingError, match=r"it lacks columns, layout, panel, .*Register the model again"):
        admit(TABLE, {"labels": {}})


@pytest.mark.parametrize("name", ["btcusdt_5min_2023", "spy_5min_2022_2023", "eurusd_1h_2007_2013"])
def test_real_bars_are_taken_by_their_own_terms(shared_data, name):
    found = [file for file in sorted(shared_data.rglob("*")) if file.stem == name]
    if not found:
        pytest.skip(f"{name} is not here")
    bars = read_bars(found[0])
    card = intake_terms(Reach(60), bars)
    for start in range(0, len(bars) - 500, len(bars) // 20):
        admit(to_table(bars.iloc[start : start + 500]), card)


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A small model, registered twice in a store of its own: model, bars, card."""
    folder = tmp_path_factory.mktemp("store")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    labels = peak_slope_bottom(BARS, horizons=2, w=6)
    X, y = labels.align(BARS)
    X, y = X.iloc[:1000], y.iloc[:1000]
    trees = LGBMWindowClassifier(3, n_estimators=5, random_state=0)
    vote = WalkForwardVotingClassifier([("trees", trees)], cv=WalkForwardSplit(2, t1=labels.t1), calibrator=None)
    model = SizedClassifier(make_pipeline(SessionFeatures("XNYS"), vote)).fit(X, y)
    card = model_card(model, X, labels=labels, session="XNYS", seed=0)
    mlflow.create_experiment("S", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("S")
    with mlflow.start_run(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Operation with range")  # MLflow's own, of pandas
        assert log_and_register(model, X, name="S", card=card) == 1
        assert log_and_register(model, X, name="S", card={"session": "XNYS"}) == 2
    yield model, X, card
    mlflow.set_tracking_uri(before)


@pytest.fixture
def served(registered):
    return mlflow.pyfunc.load_model("models:/S/1")


def test_the_card_says_what_the_model_is(registered):
    model, X, card = registered
    assert load_card("models:/S/1") == json.loads(json.dumps(card))
    assert card["classes"] == ["bottom", "peak", "slope"]
    assert card["features"] == list(model.model_[0].get_feature_names_out())
    assert card["seq_len"] == {"trees": 3}
    assert card["lookback"] == model.lookback == 2
    assert card["min_history"] == 3
    assert card["weights"] == {"trees": {"H0": 1.0, "H1": 1.0}}
    assert set(card["temperatures"]["trees"]) == {"H0", "H1"}
    assert card["sizer"]["rmse_"] == model.sizer_.rmse_
    assert card["sizer"]["fraction"] == 0.5
    assert card["labels"]["w"] == 6
    assert card["last_training_bar"] == str(X.index[-1])
    # The labels of the last bars looked further: 6 bars, and 1 more for the second horizon.
    assert pd.Timestamp(card["seen_until"]) == BARS.index[999 + 7]
    assert card["seed"] == 0
    assert sum(card["class_shares"].values()) == pytest.approx(1.0)


def test_it_answers_with_probabilities_position_and_version(registered, served):
    model, _, _ = registered
    bars = BARS.iloc[900:1300]
    answer = served.predict(to_table(bars))
    classes = [f"p_{label}" for label in ("bottom", "peak", "slope")]
    assert list(answer) == ["timestamp", *classes, "position", "model_version", "in_training", "warm_up"]
    np.testing.assert_allclose(answer[classes], model.predict_proba(bars)[0], atol=1e-6)
    np.testing.assert_array_equal(answer["position"], model.predict_position(bars))
    assert set(answer["model_version"]) == {"S/1"}
    assert answer["in_training"].sum() == 107  # the last 100 of training, and 7 that labels looked at
    assert answer["warm_up"].tolist() == [True] * 2 + [False] * 398
    # A row after the warm-up is the same whatever else was sent.
    later = served.predict(to_table(bars.iloc[100:]))
    pd.testing.assert_frame_equal(later.iloc[2:, 1:7], answer.iloc[102:, 1:7].set_axis(later.index[2:]))
    again = ServedModel(model, {**load_card("models:/S/2")}).predict(to_table(bars))
    assert set(again["model_version"]) == {"unregistered"}


def test_several_instruments_are_answered_each_as_alone(registered):
    model, _, card = registered
    two = make_bars(200, instruments=["A", "B"], random_state=3)
    answer = ServedModel(model, card).predict(to_table(two))
    assert list(answer)[:2] == ["timestamp", "instrument"]
    alone = ServedModel(model, card).predict(to_table(two.xs("B", level=1)))
    np.testing.assert_array_equal(answer.loc[answer["instrument"] == "B", "position"], alone["position"])
    assert answer["warm_up"].sum() == 4


def test_a_model_without_a_version_is_called_by_its_digest(registered, tmp_path):
    fetched = mlflow.artifacts.download_artifacts("models:/S/1", dst_path=str(tmp_path))
    (tmp_path / "registered_model_meta").unlink()
    answer = mlflow.pyfunc.load_model(fetched).predict(TABLE)
    assert re.fullmatch(r"sha256:[0-9a-f]{16}", answer["model_version"].iloc[0])


def test_signature_example_and_requirements_are_stored(served):
    meta = served.metadata
    assert meta.get_input_schema().input_names() == ["timestamp", "instrument", *BARS.columns]
    assert meta.get_input_schema().optional_input_names() == ["instrument"]
    assert meta.get_output_schema().input_names()[-4:] == ["position", "model_version", "in_training", "warm_up"]
    assert len(served.predict(served.input_example)) == 7
    folder = Path(mlflow.artifacts.download_artifacts("models:/S/1"))
    lines = (folder / "requirements.txt").read_text().split()
    assert all("==" in line for line in lines)
    names = {line.split("==")[0].lower() for line in lines}
    assert {"mlflow", "ensemble-kit", "scikit-learn", "lightgbm", "torch", "skops", "ta-lib"} <= names
    assert f"python: {sys.version.split()[0]}" in (folder / "python_env.yaml").read_text()


def status(served, body, content_type="application/json"):
    """Return the HTTP status and the body, as MLflow's scoring server makes them of an answer or an exception."""
    body = body if isinstance(body, str | bytes) else json.dumps(body)
    try:
        answer = invocations(body, content_type, served, served.metadata.get_input_schema())
    except MlflowException as error:
        return error.get_http_status_code(), error.serialize_as_json()
    return answer.status, answer.response


def split(table):
    return {"dataframe_split": table.to_dict(orient="split", index=False)}


@pytest.mark.parametrize("body", [split(TABLE), {"dataframe_records": TABLE.to_dict(orient="records")}])
def test_json_is_answered(registered, served, body):
    model, _, _ = registered
    code, answer = status(served, body)
    rows = json.loads(answer)["predictions"]
    assert code == 200
    assert [row["timestamp"] for row in rows] == TABLE["timestamp"].tolist()
    got = [[row["p_bottom"], row["p_peak"], row["p_slope"]] for row in rows]
    np.testing.assert_allclose(got, model.predict_proba(BARS.iloc[1000:1100])[0], atol=1e-6)
    assert rows[0]["model_version"] == "S/1"
    assert rows[-1]["in_training"] is False


LONG = split(pd.concat([TABLE] * (MAX_ROWS // 100 + 1)))
WRONG_BODIES = {
    "NaN": (split(spoil(close=None)), "must have a price on every row; got close NaN"),
    "Infinity": (split(spoil(close=np.inf)), "must have finite prices"),
    "a missing column": (split(TABLE.drop(columns="close")), "missing inputs ['close']"),
    "another spelling": (split(TABLE.rename(columns={"close": "Close"})), "extra inputs: ['Close']"),
    "rows of another width": ({"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2, 3]]}}, "not a valid"),
    "text for a price": (split(TABLE.astype({"close": object}).assign(close="much")), "convert"),
    "unsorted": (split(TABLE.iloc[::-1]), "must be sorted by time"),
    "seconds since 1970": (split(TABLE.assign(timestamp=range(100))), "ISO 8601"),
    "too short": (split(TABLE.tail(2)), "at least 3 rows"),
    "too many rows": (LONG, "1 to 50000 rows; got 50100"),
    "junk": ("x" * 1000, "valid JSON"),
    "no table": ({"instances": [1, 2, 3]}, "rror"),
    "a list": ([1, 2], "list"),
    "nothing": ({}, "input fields"),
}


@pytest.mark.filterwarnings("default")  # MLflow's own, of what it makes of such bodies
@pytest.mark.parametrize("case", WRONG_BODIES)
def test_a_wrong_body_is_the_senders_fault_and_says_so(served, case):
    body, words = WRONG_BODIES[case]
    code, answer = status(served, body)
    assert 400 <= code < 500
    assert words in json.loads(answer)["message"]
    assert status(served, split(TABLE))[0] == 200


@pytest.mark.slow
def test_it_is_loaded_from_any_folder(registered, tmp_path):
    uri = mlflow.get_tracking_uri()
    TABLE.to_json(tmp_path / "table.json", orient="records", double_precision=15)
    code = (
        f"import json, mlflow, pandas as pd; mlflow.set_tracking_uri({uri!r})\n"
        "table = pd.DataFrame(json.load(open('table.json')))\n"
        "print(mlflow.pyfunc.load_model('models:/S@champion').predict(table)['position'].tolist())"
    )
    out = subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True, cwd=tmp_path)
    model, _, _ = registered
    assert json.loads(out.splitlines()[-1]) == pytest.approx(list(model.predict_position(BARS.iloc[1000:1100])))
    np.testing.assert_array_equal(load_model("S").predict_position(BARS), model.predict_position(BARS))


class UsersOwn(LogisticRegression):
    """A class that only this file knows."""


def users_scorer(estimator, X, y):
    return 0.0


CANNOT = {
    "a forest": (RandomForestClassifier(), r"got RandomForestClassifier \(sklearn.tree._tree.Tree\)"),
    "within a member": (
        WalkForwardVotingClassifier([("a", make_pipeline(StandardScaler(), RandomForestClassifier()))], cv=None),
        r"got RandomForestClassifier \(",
    ),
    "a user's class": (make_pipeline(StandardScaler(), UsersOwn()), r"UsersOwn"),
    "a user's scorer": (
        WalkForwardVotingClassifier([("a", LogisticRegression())], cv=None, scorer=users_scorer),
        r"users_scorer",
    ),
    "a nameless function": (make_pipeline(FunctionTransformer(lambda X: X), LogisticRegression()), "lambda"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_cannot_be_stored_is_named_before_training(case):
    model, words = CANNOT[case]
    with pytest.raises(TrackingError, match=words):
        check_storable(model)
    with pytest.raises(TrackingError, match=words):
        check_storable(SizedClassifier(model))


def test_what_can_be_stored_passes(registered):
    model, _, _ = registered
    check_storable(SizedClassifier(model.model))
