"""The live page in a real browser, on a real server: what it shows, what it asks for, and what fails in it."""

import shutil

import httpx
import pytest
from service_parts import AUTH, BARS, TOKEN, Clock, fit, open_trader, rows, serving

from ensemble_kit.live.service import create_app

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome here")
QUIET = ["--no-sandbox", "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
SCRIPT = "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def fitted():
    model, card = fit()
    return model, card | {"preset": SCRIPT}


class Live:
    """A server, whose bars are posted one after the other."""

    def __init__(self, address, trader, clock):
        self.address, self.trader, self.clock, self.row = address, trader, clock, 850

    def post(self, n=1):
        for _ in range(n):  # at their closes: an older bar is decided on, and not traded
            self.clock.close(self.row)
            answer = httpx.post(f"{self.address}/bars", json=rows(self.row, self.row + 1), headers=AUTH)
            assert [one["outcome"] for one in answer.json()["outcomes"]] == ["taken"]
            self.row += 1


def start(folder, fitted, **options):
    clock = Clock()
    trader = open_trader(folder, fitted, clock=clock, symbol=f"SPY {SCRIPT}", version=f"SPY/1 {SCRIPT}")
    clock.close(849)
    app = create_app(trader, token=TOKEN, **options)
    app.state.desk.open(history=BARS.iloc[:850])
    return app, trader, clock


@pytest.fixture
def live(tmp_path, fitted):
    app, trader, clock = start(tmp_path, fitted)
    with serving(app) as address:
        yield Live(address, trader, clock)


def look(browser, address, *, width=1280, dark=False):
    """Open the page, and note what goes wrong in it."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    page.wrong = []
    page.on("request", lambda one: page.wrong.append(one.url) if not asked_here(one.url, address) else None)
    page.on("pageerror", lambda error: page.wrong.append(f"script error: {error}"))
    page.on("console", lambda one: page.wrong.append(one.text) if one.type in {"error", "warning"} else None)
    page.goto(address)
    return page


def asked_here(url, address):
    return url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))


def until(page, expression):
    """Wait; Playwright's own way evaluates text inside the page, which its policy forbids."""
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {expression}; {page.wrong}")


def settled(page, row):
    """Wait until a bar is drawn."""
    until(page, f"rows.length && rows.at(-1).time === '{BARS.index[row].isoformat()}'")
    until(page, "drawn && !due && $('chart').querySelectorAll('.candlestick, .boxlayer path').length > 0")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_bars_that_are_posted_are_shown(browser, live, width, dark):
    live.post(30)
    page = look(browser, live.address, width=width, dark=dark)
    settled(page, 879)
    live.post()
    settled(page, 880)
    assert page.inner_text("#symbol").startswith("SPY <script>")
    assert page.inner_text("#close") == f"{BARS['close'].iloc[880]:,.2f}"
    assert page.inner_text("#equity") == f"{live.trader.broker.account().equity:,.2f}"
    decision = live.trader.latest
    shown = page.locator("#belief > span").all_inner_texts()
    assert shown[::2] == list(decision.proba)
    assert [float(text.split("\u202f")[0]) for text in shown[1::2]] == pytest.approx(
        [100 * p for p in decision.proba.values()], abs=0.051
    )
    # The bars are of 2022: the page says that they are old.
    assert page.inner_text("#status") == "stale"
    assert page.locator("#orders tr").count() == min(30, len(live.trader.journal.orders()))
    assert page.evaluate("(box => box.scrollWidth - box.clientWidth)($('orders').closest('.scroll'))") <= 0
    assert "5 minutes" in page.inner_text("#model")
    drawn = page.evaluate("$('chart').data.map(trace => [trace.name, trace.y?.length ?? trace.close.length])")
    assert [name for name, _ in drawn if name] == [
        "bars",
        "close",
        "fills",
        "bottom",
        "peak",
        "slope",
        "position",
        "equity",
    ]
    assert {n for name, n in drawn if name != "fills"} == {500}
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate("window.hit") is None
    assert page.wrong == []
    page.close()


def test_why_bars_were_refused_and_orders_held_back(browser, live):
    live.post(3)
    live.clock.now += live.trader.limits.max_age * 10
    sent = rows(853, 856)
    for row in sent[1:]:
        row["open"] = None
    httpx.post(f"{live.address}/bars", json=sent, headers=AUTH)
    page = look(browser, live.address)
    settled(page, 853)
    until(page, "$('reasons').rows.length === 2")
    shown = page.evaluate("[...$('reasons').rows].map(row => [...row.cells].map(cell => cell.textContent))")
    (_, n, what, why), (_, held, kind, because) = shown
    assert (n, what, held, kind) == ("2", "refused", "1", "held back")  # two refused for one reason are one line
    assert "NaN" in why
    assert because.startswith("no order: the bar closed")
    assert page.wrong == []
    page.close()


def test_halt_from_the_page(browser, live):
    live.post(5)
    page = look(browser, live.address)
    settled(page, 854)
    page.click("#act")
    page.fill("#reason", SCRIPT)
    page.fill("#token", "not the token at all")
    page.click("#ask-yes")
    until(page, "$('ask-fault').textContent === 'That is not the token.'")
    assert live.trader.halted is None
    assert any("401" in words for words in page.wrong)
    page.wrong.clear()
    page.fill("#token", TOKEN)
    page.click("#ask-yes")
    until(page, "$('status').textContent === 'halted'")
    assert live.trader.halted == SCRIPT
    assert SCRIPT in page.inner_text("#note")
    until(page, "$('events').textContent.includes('<script>')")
    page.click("#act")
    page.click("#ask-yes")
    until(page, "$('status').textContent === 'stale'")
    assert live.trader.halted is None
    assert page.evaluate("window.hit") is None
    assert page.wrong == []
    page.close()


def test_a_server_that_goes_and_comes_back(browser, tmp_path, fitted):
    app, trader, clock = start(tmp_path, fitted)
    with serving(app) as address:
        live = Live(address, trader, clock)
        live.post(3)
        page = look(browser, address)
        settled(page, 852)
    until(page, "$('status').textContent === 'disconnected'")
    assert "trying again" in page.inner_text("#note")
    app, trader, clock = start(tmp_path, fitted)
    with serving(app, port=int(address.rpartition(":")[2])) as again:
        live = Live(again, trader, clock)
        live.row = 853
        live.post(2)
        settled(page, 854)
        assert page.inner_text("#status") == "stale"
        page.close()


def test_beyond_the_loopback_the_page_asks_for_the_token(browser, tmp_path, fitted):
    app, trader, clock = start(tmp_path, fitted, open_reads=False)
    with serving(app) as address:
        Live(address, trader, clock).post(3)
        page = look(browser, address)
        page.wait_for_selector("#ask[open]")
        assert page.inner_text("#symbol") == "…"
        page.fill("#token", TOKEN)
        page.click("#ask-yes")
        settled(page, 852)
        assert not page.locator("#ask[open]").count()
        page.close()
