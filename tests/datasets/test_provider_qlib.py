"""Qlib folders: what `QlibFolder` reads is what Qlib's own `D.features` gives, bit for bit."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets.providers.fetch import fetch_bars
from ensemble_kit.datasets.providers.qlib_folder import QlibFolder
from ensemble_kit.datasets.providers.request import Request
from ensemble_kit.exceptions import ProviderError

FIELDS = ["open", "high", "low", "close", "volume", "vwap"]
DAYS = pd.bdate_range("2020-01-01", periods=60)
MINUTES = pd.DatetimeIndex(
    np.concatenate([pd.date_range(f"{day} 09:30", periods=8, freq="5min") for day in ("2020-03-06", "2020-03-09")])
)


def bars(n, seed):
    rng = np.random.default_rng(seed)
    close = np.exp(rng.normal(0, 0.02, n).cumsum())
    open_ = np.r_[1.0, close[:-1]]
    high, low = np.maximum(open_, close) * 1.01, np.minimum(open_, close) / 1.01
    return pd.DataFrame(
        {"open": open_, "high": high, "low": low, "close": close, "volume": rng.integers(1, 1e6, n) / 3, "vwap": close}
    )


def dump(home, frame, start, freq="day"):
    """Write as Qlib's own `dump_bin` does."""
    home.mkdir(parents=True, exist_ok=True)
    for field in frame:
        np.hstack([start, frame[field]]).astype("<f").tofile(home / f"{field}.{freq}.bin")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "qlib_data"
    (root / "calendars").mkdir(parents=True)
    (root / "instruments").mkdir()
    (root / "calendars" / "day.txt").write_text("\n".join(DAYS.strftime("%Y-%m-%d")) + "\n")
    (root / "calendars" / "5min.txt").write_text("\n".join(MINUTES.strftime("%Y-%m-%d %H:%M:%S")) + "\n")
    spans = {"SH600000": (0, 59), "SZ000001": (10, 49), "AUX": (0, 59)}
    lines = [f"{name}\t{DAYS[a]:%Y-%m-%d}\t{DAYS[b]:%Y-%m-%d}" for name, (a, b) in spans.items()]
    (root / "instruments" / "all.txt").write_text("\n".join(lines) + "\n")
    dump(root / "features" / "sh600000", bars(60, 0), 0)
    halted = bars(40, 1)  # listed late, gone early, halted for three days
    halted.iloc[20:23] = np.nan
    dump(root / "features" / "sz000001", halted, 10)
    dump(root / "features" / "_qlib_aux", bars(60, 2), 0)
    dump(root / "features" / "sh600000", bars(16, 3), 0, "5min")
    return root


def request(symbol="SH600000", bar="1D", start="2020-01-01", end="2020-12-31"):
    return Request(symbol, pd.Timedelta(bar), pd.Timestamp(start, tz="UTC"), pd.Timestamp(end, tz="UTC"))


# pyqlib changes the process that imports it: it runs in one of its own.
ORACLE = """
import sys, warnings
warnings.simplefilter("ignore")
import qlib
from qlib.data import D
folder = sys.argv[1]
recorder = {"class": "MLflowExpManager", "module_path": "qlib.workflow.expm",
            "kwargs": {"uri": f"sqlite:///{folder}/mlflow.db", "default_exp_name": "oracle"}}
qlib.init(provider_uri={"day": folder, "5min": folder}, region="cn", kernels=1, exp_manager=recorder, logging_level=40)
fields = ["$open", "$high", "$low", "$close", "$volume", "$vwap"]
for name, freq, span in [("all", "day", (None, None)), ("part", "day", ("2020-01-20", "2020-02-14")),
                         ("minutes", "5min", (None, None))]:
    symbols = ["SH600000"] if freq == "5min" else ["SH600000", "SZ000001", "AUX"]
    D.features(symbols, fields, *span, freq=freq, disk_cache=0).to_pickle(f"{folder}/{name}.pickle")
"""


@pytest.fixture
def oracle(folder):
    if importlib.util.find_spec("qlib") is None:
        pytest.skip("pyqlib is not installed")
    done = subprocess.run(
        [sys.executable, "-c", ORACLE, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return lambda name: pd.read_pickle(folder / f"{name}.pickle").set_axis(FIELDS, axis=1)


def test_equals_qlib(folder, oracle):
    provider = QlibFolder(folder, region="cn")
    whole, part, minutes = oracle("all"), oracle("part"), oracle("minutes")
    for symbol in ("SH600000", "SZ000001", "AUX"):
        for theirs, span in ((whole, {}), (part, {"start": "2020-01-20", "end": "2020-02-15"})):
            ours = provider.fetch(request(symbol, **span))
            expected = theirs.xs(symbol, level="instrument")
            assert len(expected) > 15
            np.testing.assert_array_equal(ours.index, expected.index)
            np.testing.assert_array_equal(ours[FIELDS].to_numpy(np.float32), expected.to_numpy(np.float32))
    ours = provider.fetch(request(bar="5min"))
    expected = minutes.xs("SH600000", level="instrument")
    assert len(expected) == 16
    np.testing.assert_array_equal(ours.index.tz_convert("Asia/Shanghai").tz_localize(None), expected.index)
    np.testing.assert_array_equal(ours[FIELDS].to_numpy(np.float32), expected.to_numpy(np.float32))


def test_days_are_naive_and_minutes_by_the_region_s_clock(folder, monkeypatch):
    daily = QlibFolder(folder).fetch(request())
    assert daily.index.tz is None
    assert daily.index.name == "datetime"
    assert (daily.dtypes == np.float64).all()
    assert QlibFolder(folder, region="cn").fetch(request(bar="5min")).index[0] == pd.Timestamp("2020-03-06 01:30Z")
    # The clocks of New York changed on the night between the two days.
    us = QlibFolder(folder, region="us").fetch(request(bar="5min"))
    assert list(us.index[[0, 8]]) == [pd.Timestamp("2020-03-06 14:30Z"), pd.Timestamp("2020-03-09 13:30Z")]
    message = (
        "`region` must be one of cn, tw, us for intraday bars, whose calendar has no zone; got None. Set QLIB_REGION "
        "in the environment, or give QlibFolder(path, region=...)."
    )
    with pytest.raises(ProviderError, match=f"^{re.escape(message)}$"):
        QlibFolder(folder).check(request(bar="5min"))
    monkeypatch.setenv("QLIB_REGION", "us")
    assert QlibFolder(folder).fetch(request(bar="5min")).equals(us)


def test_the_end_is_not_in_the_range(folder):
    got = QlibFolder(folder).fetch(request(start="2020-01-06", end="2020-01-08"))
    assert list(got.index) == [pd.Timestamp("2020-01-06"), pd.Timestamp("2020-01-07")]
    assert QlibFolder(folder).fetch(request("SZ000001", start="2020-01-01", end="2020-01-08")).empty
    assert QlibFolder(folder).fetch(request(start="2021-01-01", end="2021-02-01")).empty


def test_a_panel_by_name_with_the_halt_as_nan(folder, monkeypatch):
    monkeypatch.setenv("QLIB_PROVIDER_URI", str(folder))
    panel = fetch_bars("qlib", ["SH600000", "SZ000001"], "1d", "2020-01-01", "2020-12-31")
    assert panel.shape == (100, 6)
    assert int(panel["close"].isna().sum()) == 3
    assert panel.attrs["adjustment"] == "not stated"


def test_fields_of_other_lengths(folder):
    """A volume that begins late and ends early is unknown there; a folder without vwap has none."""
    home = folder / "features" / "sh600000"
    dump(home, pd.DataFrame({"volume": [1.0, 2.0]}), 5)
    (home / "vwap.day.bin").unlink()
    got = QlibFolder(folder).fetch(request())
    assert list(got.columns) == ["open", "high", "low", "close", "volume"]
    assert list(got["volume"].dropna()) == [1.0, 2.0]
    assert got["volume"].first_valid_index() == DAYS[5]
    (home / "volume.day.bin").unlink()
    got = QlibFolder(folder).fetch(request())
    assert got["volume"].isna().all()
    assert len(got) == 60


def fault(folder, name):
    home = folder / "features" / "sh600000"
    close = home / "close.day.bin"
    if name == "missing":
        close.unlink()
    elif name == "torn":
        close.write_bytes(close.read_bytes()[:-3])
    elif name == "too long":
        dump(home, pd.DataFrame({"close": np.ones(60)}), 5)
    elif name == "bad start":
        dump(home, pd.DataFrame({"close": np.ones(3)}), np.nan)
    else:
        (folder / "calendars" / "day.txt").write_text("2020-01-01\nnonsense\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "`sh600000` must have close.day.bin in the Qlib folder; got none. Dump it anew."),
        ("torn", "`sh600000/close.day.bin` must hold whole float32 values; it is torn. Dump it anew."),
        (
            "too long",
            (
                "`sh600000/close.day.bin` must lie on the calendar of 60 bars; got 60 values from position 5. "
                "Dump it anew, together with the calendar."
            ),
        ),
        (
            "bad start",
            (
                "`sh600000/close.day.bin` must lie on the calendar of 60 bars; got 3 values from position nan. "
                "Dump it anew, together with the calendar."
            ),
        ),
        ("calendar", None),
    ],
)
def test_a_faulty_folder(folder, name, message):
    fault(folder, name)
    pattern = (
        r"^`day\.txt` must hold a time on every line; got: .*nonsense.*" if message is None else re.escape(message)
    )
    with pytest.raises(ProviderError, match=pattern):
        QlibFolder(folder).fetch(request())


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("QLIB_PROVIDER_URI", raising=False)
    monkeypatch.delenv("QLIB_REGION", raising=False)


def test_what_is_not_there(folder, tmp_path):
    cases = {
        "`QLIB_PROVIDER_URI` must be set in the environment to the Qlib data folder; got none. Set it, or give "
        "QlibFolder(path) as the source.": (QlibFolder(), {}),
        f"`path` must be a Qlib data folder, with calendars and features in it; got '{tmp_path}'.": (
            QlibFolder(tmp_path),
            {},
        ),
        "`bar` must be one that the Qlib folder has; got 1min. It has 5min, day.": (
            QlibFolder(folder),
            {"bar": "1min"},
        ),
        "`bar` must be whole minutes or one day from a Qlib folder; got 0 days 00:00:30.": (
            QlibFolder(folder),
            {"bar": "30s"},
        ),
        "`symbols` must be in the Qlib folder; got SH600001. Nearest of 3: sh600000, sz000001.": (
            QlibFolder(folder),
            {"symbol": "SH600001"},
        ),
    }
    for message, (provider, what) in cases.items():
        with pytest.raises(ProviderError, match=f"^{re.escape(message)}$"):
            provider.check(request(**what))


def test_a_cache_holds_no_folder_s_bars(folder, tmp_path):
    other = tmp_path / "other" / "qlib_data"
    shutil.copytree(folder, other)
    dump(other / "features" / "sh600000", bars(60, 9), 0)
    for one in (folder, other, folder):
        got = fetch_bars(QlibFolder(one), "SH600000", "1d", "2020-01-01", "2020-12-31", cache=tmp_path / "cache")
        pd.testing.assert_frame_equal(got, QlibFolder(one).fetch(request()), check_freq=False, check_index_type=False)
    assert not (tmp_path / "cache").exists()


def test_qlib_is_not_imported(folder):
    code = (
        "import sys; from ensemble_kit.datasets.providers.qlib_folder import QlibFolder; "
        "from ensemble_kit.datasets.providers.fetch import fetch_bars; "
        f"fetch_bars(QlibFolder({str(folder)!r}), 'AUX', '1d', '2020-01-01', '2021-01-01'); "
        "assert 'qlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_an_adjustment_is_stated_where_there_is_a_factor(folder):
    dump(folder / "features" / "sh600000", pd.DataFrame({"factor": np.ones(60)}), 0)
    span = ("1D", "2020-01-01", "2020-12-31")
    adjusted = {
        str(names): fetch_bars(QlibFolder(folder), names, *span).attrs["adjustment"]
        for names in ("SH600000", "SZ000001", ["SH600000", "SZ000001"], ["SZ000001", "SH600000"])
    }
    assert [*adjusted.values()] == ["splits and dividends", "not stated", "not stated", "not stated"]


@pytest.mark.parametrize("symbol", ["..", ".", "../features/sh600000", "sh600000/..", "/etc"])
def test_a_folder_elsewhere_is_no_instrument(folder, symbol):
    with pytest.raises(ProviderError, match="`symbols` must be in the Qlib folder; got "):
        QlibFolder(folder).check(request(symbol))
