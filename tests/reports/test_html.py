"""The HTML report: what stands in it, in which order, escaped, and whole or not at all."""

import base64
import dataclasses
import os
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports import _cells as cells
from ensemble_kit.reports._cells import Section
from ensemble_kit.reports._sections import all_sections
from ensemble_kit.reports.album import draw_pictures, save_pictures
from ensemble_kit.reports.html import write_report
from ensemble_kit.sizing import backtest
from ensemble_kit.sizing.kelly import KellySizer

NASTY = """<script>alert(1)</script> & "quoted" 'too'"""
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Open and closed tags, headings, table cells and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.tags, self.tables = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.words.append(data)
            if "td" in self.open or "th" in self.open:
                self.tables[-1][-1][-1] += data

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def written(small_report, tmp_path_factory):
    report, model, card = small_report
    file = tmp_path_factory.mktemp("html") / "deep" / "report.html"
    assert write_report(report, model, file, title="Small world", card=card) == file
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def test_the_page_is_well_formed_and_asks_for_nothing(written, page):
    assert page.open == []
    assert written.startswith("<!DOCTYPE html>")
    sources = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "action", "data") if name in attrs]
    assert {source[0] if source[0] == "#" else source[:5] for source in sources} == {"#", "data:"}
    targets = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {source[1:] for source in sources if source[0] == "#"} <= targets
    assert not re.search(r"@import|url\(", written.split("</style>")[0])
    assert len(written) < 4e6 + 4.9e6  # of it plotly.js


def test_the_verdict_stands_first_and_in_the_words_of_the_skill_report(small_report, page):
    text = " ".join(page.words)
    skill = small_report[0].skill
    found = skill.sentences()[0].replace("-0.", "\N{MINUS SIGN}0.").replace("AUC\N{MINUS SIGN}", "AUC-")
    assert text.index("Small world") < text.index(skill.to_dict()["meaning"][3:]) < text.index(found[:20])
    assert text.index(found) < text.index("Finding events")
    assert "The same on shuffled bars" in text
    assert "buy and hold" in text


def test_every_score_stands_beside_its_nulls(small_report, page):
    report = small_report[0]
    scores = page.tables[0]
    assert scores[0][2:7] == ["Prevalence", "Causal rule", "Shuffled bars", "Random walks", "Model"]
    columns = ["prevalence", "auc_pr_causal_rule", "auc_pr_surrogate", "auc_pr_random_walk", "auc_pr"]
    for row in scores[1:]:
        expected = report.skill.scores.loc[row[0].lower(), columns]
        assert [float(cell) for cell in row[2:7]] == pytest.approx(expected.tolist(), abs=5e-4)
    trading = {row[0]: row[1:] for row in next(table for table in page.tables if table[0][0] == "Metric")}
    m, between = report.backtest.metrics, report.backtest.intervals()
    assert trading["Total return"] == [
        cells.percent(m["total_return"]),
        f"{cells.percent(between['low']['total_return'])} to {cells.percent(between['high']['total_return'])}",
        cells.percent(m["buy_and_hold"]),
        cells.percent(m["matched_return"]),
    ]


def test_the_pictures_are_those_of_the_album_with_words(small_report, page):
    report, model, _ = small_report
    drawn = draw_pictures(report, model)
    images = page.attributes("img")
    assert [image["alt"] for image in images] == [picture.alt for picture in drawn.values()]
    assert list(drawn) == [
        *("beliefs", "signals", "reliability", "confidence_curve", "confidence", "equity", "pnl", "weights"),
        *("importance_trees5", "importance_trees10", "structure", "waves"),
    ]
    for image, picture in zip(images, drawn.values(), strict=True):
        assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
        assert picture.caption in " ".join(page.words)
        assert len(picture.caption.split(". ")) == 1
    assert sum(len(image["src"]) for image in images) < 2e6


def test_who_saw_what_adds_up(small_report, page):
    model = small_report[1]
    table = next(table for table in page.tables if table[0][0] == "Fold")[1:]
    told = [
        (fold, who, role, int(rows.replace(",", "")))
        for fold, who, roles, *_, rows in table
        for role in roles.split(", ")
    ]
    rows = {}
    for fold, who, role, n in told:
        for member in who.split(", "):
            rows[fold, member.replace("all", "*"), role] = n
    frame = model.row_usage_.to_frame()
    assert rows == {(str(r.fold), r.member, r.role): r.n_rows for r in frame.itertuples()}
    assert table[-1][0] == "refit"


def test_what_a_user_gives_is_escaped(small_report, tmp_path):
    report, model, card = small_report
    file = write_report(report, model, tmp_path / "r.html", title=NASTY, card={**card, NASTY: NASTY})
    written = file.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in written
    page = Page(written)
    assert page.open == []
    assert " ".join(page.words).count("<script>alert(1)</script> & \"quoted\" 'too'") == 4  # title, head, name, value


def sections_of(report, model, card):
    return {part.id: part for part in all_sections(report, model, card, Section("pictures", "Pictures"))}


def test_many_trades_are_shown_from_both_ends_and_none_is_said(small_report):
    report, model, card = small_report
    turning = pd.Series(np.where(np.arange(len(report.bars)) % 4 < 2, 0.5, -0.5), report.bars.index)
    many = dataclasses.replace(report, backtest=backtest(report.bars, turning))
    rows, entries = sections_of(many, model, card)["trades"].tables[0].rows, many.backtest.trades["entry"]
    assert len(rows) == 50 + 1 + 50
    assert rows[50][0] == f"{len(entries) - 100} more"
    assert [rows[0][0], rows[-1][0]] == [cells.time(entries.iloc[0]), cells.time(entries.iloc[-1])]
    none = dataclasses.replace(report, backtest=backtest(report.bars, turning * 0))
    assert "pnl" not in draw_pictures(none, model)
    assert sections_of(none, model, card)["trades"].words == ["None was made: no position was large enough."]


def test_a_model_of_ones_own_has_a_report_too(small_report):
    sections = sections_of(small_report[0], object(), {})
    assert sections["sizer"].words == ["This model sizes its positions by itself."]
    assert sections["usage"].words == ["This model keeps no record of the rows that it was fitted on."]
    assert "weights" not in draw_pictures(small_report[0], object())


def test_payoffs_are_told_by_class(small_report):
    report, _, card = small_report
    proba = np.full((30, 3), 1 / 3)
    sizer = KellySizer(payoffs={"bottom": [0.02, 0.01], "peak": -0.03, "slope": 0.0})
    sizer.fit(proba, np.tile(["bottom", "peak", "slope"], 10), classes=["bottom", "peak", "slope"])
    model = SimpleNamespace(sizer_=sizer)
    (section,) = [one for one in all_sections(report, model, card, Section("pictures", "")) if one.id == "sizer"]
    assert section.facts["payoffs_"] == "bottom: 0.02, 0.01; peak: \N{MINUS SIGN}0.03; slope: 0"


def test_looks_are_counted_where_they_are_given(small_report):
    report, model, card = small_report
    assert sections_of(report, model, card)["limits"].words[1].endswith("No figure here is corrected for other looks.")
    counted = sections_of(report, model, {**card, "deflated_sharpe_ratio": 0.31, "n_trials": 40})["limits"]
    assert counted.words[1].endswith("What counts the looks stands below.")
    assert counted.facts == {"Trials counted": "40", "Deflated Sharpe ratio": "0.31"}


def test_a_failed_writing_leaves_the_old_file(small_report, tmp_path, monkeypatch):
    report, model, _ = small_report
    file = tmp_path / "report.html"
    file.write_text("old")

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("ensemble_kit.reports.html._render", lambda *_: "new")
    monkeypatch.setattr(type(file), "replace", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_report(report, model, file)
    assert file.read_text() == "old"
    assert [*tmp_path.iterdir()] == [file]


def test_refusals_come_before_anything_is_drawn(small_report, tmp_path, monkeypatch):
    report, model, _ = small_report
    with pytest.raises(EnsembleKitError, match="`report` must be a HoldoutReport; got SkillReport"):
        write_report(report.skill, model, tmp_path / "r.html")
    with pytest.raises(EnsembleKitError, match="`report` must be a HoldoutReport; got dict"):
        draw_pictures({}, model)
    monkeypatch.setattr("ensemble_kit.reports.html.draw_pictures", None)
    with pytest.raises(EnsembleKitError, match=r"`path` must be a file ending in \.html; got '.*report\.pdf'"):
        write_report(report, model, tmp_path / "report.pdf")
    (tmp_path / "a.html").mkdir()
    with pytest.raises(EnsembleKitError, match=r"`path` must be a file ending in \.html"):
        write_report(report, model, tmp_path / "a.html")
    (tmp_path / "file").touch(mode=0o755)
    with pytest.raises(EnsembleKitError, match="`path` must lie in a folder that can be written to"):
        write_report(report, model, tmp_path / "file" / "report.html")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(EnsembleKitError, match="`path` must lie in a folder that can be written to"):
        write_report(report, model, tmp_path / "new" / "report.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.html", "file"]


def test_pictures_are_saved_as_pixels_or_vectors(small_report, tmp_path):
    report, model, _ = small_report
    with pytest.raises(EnsembleKitError, match="`format` must be one of png, pdf; got 'gif'"):
        save_pictures(report, model, tmp_path, format="gif")
    files = save_pictures(report, model, tmp_path / "pdf", format="pdf")
    assert {file.read_bytes()[:4] for file in files} == {b"%PDF"}
    assert [file.stem for file in files] == list(draw_pictures(report, model))


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (cells.percent, -0.00001, "0.00%"),
        (cells.percent, -0.125, "\N{MINUS SIGN}12.50%"),
        (cells.signed, float("nan"), "–"),
        (cells.count, 12345.0, "12,345"),
        (cells.value, pd.Timedelta("1h30min"), "1 hour 30 minutes"),
        (cells.value, {"w": 5, "k": [0.5, None]}, "w 5, k 0.5, None"),
        (cells.value, [], "none"),
        (cells.value, np.arange(100), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … (100 in all)"),
    ],
)
def test_cells(write, value, text):
    assert write(value) == text


def test_spans_have_their_zone_once_and_take_what_is_no_time_as_it_is():
    day, stamp = pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-01 09:30", tz="UTC")
    assert cells.span(day, day + pd.Timedelta(days=3)) == "2024-01-01 to 2024-01-04"
    assert cells.span(str(stamp), str(stamp)) == "2024-01-01 09:30 to 2024-01-01 09:30 UTC"
    assert cells.span("the start", stamp) == "the start to 2024-01-01 09:30:00+00:00"
