"""The HTML report in a real browser: what it asks for, what fails in it, and what there is to see."""

import shutil

import pytest

from ensemble_kit.reports.html import write_report

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome here")

#: Asked of the page itself.
SEEN = """() => ({
    broken: [...document.images].filter(image => !image.complete || image.naturalWidth === 0).map(image => image.alt),
    undescribed: [...document.images].filter(image => !image.alt).length,
    images: document.images.length,
    panels: [...document.querySelectorAll('.plotly-graph-div')].map(panel => [
        panel.id, panel.querySelectorAll('.scatterlayer .trace, .boxlayer .trace, .cartesianlayer path').length,
        panel.getBoundingClientRect().width, panel.getBoundingClientRect().height,
    ]),
    headings: [...document.querySelectorAll('h1, h2')].map(heading => heading.innerText),
    captions: [...document.querySelectorAll('table')].every(table => table.caption?.innerText),
    overflow: document.documentElement.scrollWidth - window.innerWidth,
})"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def written(small_report, tmp_path_factory):
    report, model, card = small_report
    return write_report(report, model, tmp_path_factory.mktemp("page") / "report.html", card=card)


def look(browser, file, *, width=1280, dark=False):
    """Open a page, and return what can be seen, and what went wrong."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    wrong = []
    page.on("request", lambda request: wrong.append(f"asks for {request.url}") if outside(request.url, file) else None)
    page.on("pageerror", lambda error: wrong.append(f"script error: {error}"))
    page.on(
        "console", lambda said: wrong.append(f"console: {said.text}") if said.type in {"error", "warning"} else None
    )
    page.goto(file.as_uri(), wait_until="load")
    page.wait_for_timeout(100)  # what a script asks for after loading
    seen = page.evaluate(SEEN)
    seen["ground"], seen["paper"] = (
        page.evaluate(f"getComputedStyle(document.querySelector('{where}')).backgroundColor")
        for where in ("body", ".card")
    )
    page.close()
    wrong += [f"broken picture: {alt}" for alt in seen["broken"]]
    wrong += [f"empty panel: {name}" for name, traces, *_ in seen["panels"] if not traces]
    wrong += [f"wider than the screen by {seen['overflow']} px"] * (seen["overflow"] > 0)
    return seen, wrong


def outside(url, file):
    return url != file.as_uri() and not url.startswith(("data:", "blob:"))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (1280, True)])
def test_all_is_there_and_nothing_is_asked_for(browser, written, width, dark):
    seen, wrong = look(browser, written, width=width, dark=dark)
    assert wrong == []
    assert seen["images"] == 12
    assert seen["undescribed"] == 0
    assert [panel[0] for panel in seen["panels"]] == ["plotly-beliefs", "plotly-equity"]
    for _, traces, wide, high in seen["panels"]:
        assert traces >= 2
        assert width / 2 < wide < width
        assert high > 300
    assert seen["headings"][0] == "Holdout report"
    assert {"Finding events", "Pictures", "Trades", "How to read this"} <= set(seen["headings"])
    assert seen["captions"]
    assert (seen["ground"] == "rgb(255, 255, 255)") != dark
    assert seen["paper"] == "rgb(255, 255, 255)"  # pictures are drawn for white


FAULTS = [
    (
        "<h1>",
        '<img src="http://example.invalid/a.png" alt="spy"><h1>',
        "Loading the image 'http://example.invalid/a.png'",
    ),
    ("<h1>", "<script>fetch('http://example.invalid/b')</script><h1>", "Refused to connect"),
    ("<h1>", "<script>throw new Error('planted')</script><h1>", "script error: planted"),
    ("<h1>", "<script>console.error('said')</script><h1>", "console: said"),
    ("base64,iVBOR", "base64,AAAA", "broken picture: What the model believed"),
    ("Plotly.newPlot(", "void (", "empty panel: plotly-beliefs"),
    ("<h1>", "<div style='width: 3000px'>wide</div><h1>", "wider than the screen"),
]


def plant(written, folder, faults):
    head, body = written.read_text(encoding="utf-8").split("</head>")
    for old, new, _ in faults:
        assert old in body
        body = body.replace(old, new, 1)
    (folder / "faulty.html").write_text(f"{head}</head>{body}", encoding="utf-8")
    return folder / "faulty.html"


def test_planted_faults_are_found_each_of_them(browser, written, tmp_path):
    _, wrong = look(browser, plant(written, tmp_path, FAULTS))
    assert [found for *_, found in FAULTS if not any(found in words for words in wrong)] == []


def test_without_its_policy_a_request_would_be_seen(browser, written, tmp_path):
    faulty = plant(written, tmp_path, FAULTS[:2])
    faulty.write_text(faulty.read_text(encoding="utf-8").replace("Content-Security-Policy", "X"), encoding="utf-8")
    wrong = look(browser, faulty)[1]
    assert {"asks for http://example.invalid/a.png", "asks for http://example.invalid/b"} <= set(wrong)
