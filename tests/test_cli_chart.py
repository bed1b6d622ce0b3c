"""`ensemble-kit chart`: what is drawn, where it goes, and what cannot be drawn."""

import pytest

from ensemble_kit.cli import main
from ensemble_kit.datasets import make_bars

BARS = make_bars(700, random_state=0)  # of nine days from 2022-01-03 on


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BARS.reset_index().to_parquet("bars.parquet")
    return tmp_path / "ensemble_kit_output" / "T" / "charts"


def chart(*options):
    return main(["chart", "--data", "bars.parquet", "--name", "T", *options])


def test_pictures_of_bars_need_no_model(here, capsys):
    assert chart("--pictures", "structure", "waves", "--format", "png", "pdf", "--last", "100") == 0
    assert sorted(file.name for file in here.iterdir()) == ["structure.pdf", "structure.png", "waves.pdf", "waves.png"]
    assert (here / "structure.png").read_bytes().startswith(b"\x89PNG")
    assert (here / "waves.pdf").read_bytes().startswith(b"%PDF")
    assert "structure.pdf" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (("--last", "50"), (650, 700)),
        (("--start", "2022-01-05", "--end", "2022-01-05"), (156, 234)),  # the whole day
        (("--start", "2022-01-05 15:00"), (162, 700)),
        (("--end", "2022-01-04", "--last", "10"), (146, 156)),
    ],
)
def test_the_bars_asked_for(here, options, rows, monkeypatch):
    drawn = {}

    def catch(bars, *, last):
        drawn["rows"] = (len(bars) - last, len(bars))
        from matplotlib.figure import Figure

        return Figure().subplots()

    monkeypatch.setattr("ensemble_kit.reports.plot_structure", catch)
    assert chart("--pictures", "structure", *options) == 0
    assert drawn["rows"] == rows


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--last", "0"), "`--last` must be at least 1; got 0."),
        (("--pictures", "waves", "--format", "html"), "must be png or pdf for structure and waves; got html"),
        (("--start", "noon"), "`--start` must be a time; got 'noon'."),
        (("--start", "2030-01-01"), "must leave bars to draw; got 2030-01-01 and None of bars from 2022-01-03"),
        (("--start", "2022-01-06", "--end", "2022-01-05"), "must leave bars to draw"),
        (("--tracking-uri", "sqlite:///store.db"), "must be a registered model; got 'T'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(here, options, words, capsys):
    assert chart(*options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not here.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_beliefs_of_a_registered_model(here, capsys):
    make_bars(1500, signal=2.0, random_state=0).reset_index().to_parquet("bars.parquet")
    store = ("--tracking-uri", f"sqlite:///{here.parents[2] / 'store.db'}")
    assert main(["train", "--data", "bars.parquet", "--name", "T", "--preset", "smoke", *store]) == 0
    capsys.readouterr()
    assert chart("--pictures", "beliefs", "--format", "png", "pdf", "html", "--threshold", "0.3", *store) == 0
    assert {file.name for file in here.iterdir()} == {"beliefs.png", "beliefs.pdf", "beliefs.html"}
    assert "its beliefs of those are no forecasts" in capsys.readouterr().err  # 500 bars reach into training
    assert chart("--pictures", "beliefs", "--last", "100", *store) == 0
    assert "no forecasts" not in capsys.readouterr().err
