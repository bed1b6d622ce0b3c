"""`ensemble-kit fetch`: a file that the next command reads, a report, and one line where it cannot be."""

import argparse
import functools
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.cli import _shared, fetch
from ensemble_kit.cli import main as cli_main
from ensemble_kit.datasets import read_bars
from ensemble_kit.datasets.providers import schwab
from ensemble_kit.datasets.providers.fetch import fetch_bars
from ensemble_kit.datasets.providers.qlib_folder import QlibFolder
from ensemble_kit.exceptions import BarsError
from ensemble_kit.experiments import Experiment

DAYS = pd.bdate_range("2020-01-01", periods=60)
MINUTES = pd.date_range("2024-11-29 09:30", "2024-11-29 12:55", freq="5min")  # a half day in New York


@pytest.fixture
def main(monkeypatch):
    """Run the command line with `fetch` in it."""
    from ensemble_kit import cli

    if fetch not in cli._COMMANDS:
        monkeypatch.setattr(cli, "_COMMANDS", (*cli._COMMANDS, fetch))
    return cli_main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    root = tmp_path / "us_data"
    (root / "calendars").mkdir(parents=True)
    (root / "calendars" / "day.txt").write_text("\n".join(DAYS.strftime("%Y-%m-%d")))
    (root / "calendars" / "5min.txt").write_text("\n".join(MINUTES.delete([5, 6]).strftime("%Y-%m-%d %H:%M:%S")))
    rng = np.random.default_rng(0)
    for symbol in ("spy", "qqq"):
        home = root / "features" / symbol
        home.mkdir(parents=True)
        for freq, n in (("day", len(DAYS)), ("5min", len(MINUTES) - 2)):
            close = 100 * np.exp(rng.normal(0, 0.001, n).cumsum())
            fields = {"open": close, "high": close * 1.001, "low": close / 1.001, "close": close, "volume": close * 10}
            fields |= {"factor": close / close} if freq == "day" else {}
            for field, values in fields.items():
                np.hstack([0, values]).astype("<f4").tofile(home / f"{field}.{freq}.bin")
    monkeypatch.setenv("QLIB_PROVIDER_URI", str(root))
    monkeypatch.setenv("QLIB_REGION", "us")
    return root


DAILY = ["fetch", "--source", "qlib", "--bar", "1D", "--start", "2020-01-01", "--end", "2021-01-01"]


@pytest.mark.parametrize("name", ["bars.parquet", "new/folder/bars.csv"])
@pytest.mark.parametrize("symbols", ["SPY", "SPY,QQQ"])
@pytest.mark.parametrize("bar", ["1D", "5min"])
def test_read_bars_reads_it_back(main, folder, tmp_path, capsys, name, symbols, bar):
    out = tmp_path / name
    span = ["--start", "2020-01-01", "--end", "2025-01-01"]
    assert main(["fetch", "--source", "qlib", "--symbols", symbols, "--bar", bar, *span, "--out", str(out)]) == 0
    names = symbols.split(",")
    wanted = fetch_bars(QlibFolder(folder), names if len(names) > 1 else names[0], bar, "2020-01-01", "2025-01-01")
    back = read_bars(out)
    assert list(back.index) == list(wanted.index)
    assert back.index.names == wanted.index.names
    np.testing.assert_array_equal(back.to_numpy(), wanted.to_numpy())
    assert list(back.columns) == list(wanted.columns)
    said = capsys.readouterr().out
    assert f"adjusted for      {'splits and dividends' if bar == '1D' else 'not stated'}\n" in said
    assert f"Bars: {out}" in said
    assert [file.name for file in out.parent.glob("*bars*")] == [out.name]


def test_the_next_command_takes_the_file(main, folder, tmp_path):
    out = tmp_path / "bars.parquet"
    assert main([*DAILY, "--symbols", "SPY", "--out", str(out)]) == 0
    bars = _shared.read(argparse.Namespace(data=out, tz=None))
    assert _shared.bar_size(bars) == "1 days 00:00:00"
    assert bars.index.tz is None


def test_the_report_tells_of_gaps(main, folder, tmp_path, capsys):
    span = ["--start", "2024-11-29", "--end", "2024-11-30", "--out", str(tmp_path / "bars.parquet")]
    assert main(["fetch", "--source", "qlib", "--symbols", "SPY", "--bar", "5min", *span, "--session", "XNYS"]) == 0
    said = capsys.readouterr().out
    assert "missing bars      2 in 1 gaps: 2024-11-29 14:55:00+00:00 (2)" in said


def schwab_at(url, monkeypatch, tmp_path):
    """Point the command at a local server, with secrets that must not be told."""
    planted = ["PLANTEDKEY51", "PLANTEDSECRET52", "PLANTEDTOKEN53"]
    token = {"access_token": planted[2], "refresh_token": planted[2], "token_type": "Bearer", "expires_at": 2**31}
    path = tmp_path / "token.json"
    path.write_text(json.dumps({"creation_timestamp": int(time.time()), "token": token}))
    for name, value in zip(("API_KEY", "APP_SECRET", "TOKEN_PATH"), [*planted[:2], str(path)], strict=True):
        monkeypatch.setenv(f"SCHWAB_{name}", value)
    monkeypatch.setattr(schwab, "Schwab", functools.partial(schwab.Schwab, url))
    return planted


SCHWAB = ["fetch", "--source", "schwab", "--symbols", "SPY", "--bar", "1D", "--start", "2024-01-02"]


@pytest.fixture
def local_server(monkeypatch):
    pytest.importorskip("authlib")
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "datasets"))
    return __import__("yahoo_server").local_server


def test_a_cache_serves_the_second_time(main, tmp_path, monkeypatch, local_server):
    opens = pd.date_range("2024-01-02 06:00", periods=3, freq="D", tz="UTC").as_unit("ms").asi8.tolist()
    rows = [{"open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 7, "datetime": t} for t in opens]
    out, cache = tmp_path / "bars.parquet", tmp_path / "cache"
    command = [*SCHWAB, "--end", "2024-01-05", "--cache", str(cache), "--out", str(out)]
    with local_server(lambda *_: (200, {}, json.dumps({"candles": rows}).encode())) as server:
        schwab_at(server.url, monkeypatch, tmp_path)
        assert main(command) == 0
        first = read_bars(out)
        assert len(first) == 3
        assert main(command) == 0
        assert len(server.asked) == 1
    pd.testing.assert_frame_equal(read_bars(out), first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--out": "bars.xlsx"}, "error: `--out` must end in .parquet or .csv; got 'bars.xlsx'. Rename it.\n"),
        ({"--out": "."}, "error: `--out` must end in .parquet or .csv; got ''. Rename it.\n"),
        ({"--symbols": ".."}, "error: `symbols` must be in the Qlib folder; got ... Nearest of 2: "),
        ({"--symbols": "../features/spy"}, "error: `symbols` must be in the Qlib folder; got ../features/spy. "),
        ({"--bar": "5"}, "error: `bar` must be a time of one second to one day, with its unit; got '5'. "),
        ({"--start": "01/02/2022"}, "error: `start` must be a time; got '01/02/2022'. Write '2022-01-03', say.\n"),
        ({"--symbols": "SPX"}, "error: `symbols` must be in the Qlib folder; got SPX. Nearest of 2: spy.\n"),
        ({"--source": "bloomberg"}, "error: `source` must be one of "),
        ({"--bar": "fortnight"}, "error: `bar` must be "),
        ({"--start": "soon"}, "error: `start` must be a time; got 'soon'. "),
        ({"--start": "2022-01-01"}, "error: `start` must lie before `end`; got "),
        ({"--session": "MOON"}, "error: "),
    ],
)
def test_one_line_and_2_where_it_cannot_be(main, folder, tmp_path, capsys, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    options = dict(zip(DAILY[1::2], DAILY[2::2], strict=True)) | {"--symbols": "SPY", "--out": "bars.parquet"} | change
    assert main(["fetch", *(word for pair in options.items() for word in pair)]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert out == ""
    assert not list(tmp_path.glob("*bars*"))


def test_a_folder_is_no_file_to_write(main, tmp_path, capsys):
    (tmp_path / "dir.csv").mkdir()
    assert (
        main([*DAILY, "--symbols", "SPY", "--out", str(tmp_path / "dir.csv")]) == 2
    )  # before any folder is looked for
    said = f"error: `--out` must be a file; got '{tmp_path / 'dir.csv'}', which is a folder. Name a file in it.\n"
    assert capsys.readouterr().err == said


def test_daily_bars_train_by_their_exchange(main, folder, tmp_path, capsys):
    out = tmp_path / "spy.parquet"
    assert main([*DAILY, "--symbols", "SPY", "--out", str(out), "--session", "XNYS"]) == 0
    smoke = Experiment.default("smoke").replace({"session": "XNYS"})
    bars = read_bars(out)
    features, _ = smoke.columns()
    assert len(features.fit_transform(bars)) == len(smoke.labels(bars).labels) == len(DAYS)
    with pytest.raises(BarsError, match="`bars` of a day must be given as dates for session='XNYS'"):
        smoke.labels(read_bars(out, tz="UTC"))


def test_a_failed_write_leaves_the_old_file(main, folder, tmp_path, monkeypatch):
    out = tmp_path / "bars.parquet"
    out.write_bytes(b"old")

    def half(self, path, **_):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", half)
    assert main([*DAILY, "--symbols", "SPY", "--out", str(out)]) == 2
    assert out.read_bytes() == b"old"
    assert [file.name for file in tmp_path.glob("*bars*")] == ["bars.parquet"]


def test_a_refused_key_is_told_without_the_key(main, tmp_path, monkeypatch, capsys, caplog, local_server):
    caplog.set_level("DEBUG")
    with local_server(lambda *_: (401, {}, b"")) as server:
        planted = schwab_at(server.url, monkeypatch, tmp_path)
        assert main([*SCHWAB, "--out", str(tmp_path / "bars.parquet")]) == 2
        assert server.headers[0]["Authorization"] == f"Bearer {planted[2]}"
    out, err = capsys.readouterr()
    assert err.startswith("error: The token in the file of `SCHWAB_TOKEN_PATH` must be this app's and valid; ")
    assert err.count("\n") == 1
    assert not any(secret in out + err + caplog.text for secret in planted)
