"""report.html from real records, in a real browser: a phone, a desk and a sheet of paper."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "tests" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESK, WIDE = (360, 740), (1280, 900), (1920, 1080)


class Browser:
    """Headless Chromium, spoken to over its pipe (file descriptors 3 and 4, a NUL after each message)."""

    def __init__(self, profile: Path):
        assert CHROMIUM
        to_browser, self.commands = os.pipe()
        self.answers, from_browser = os.pipe()
        # The shell puts the pipes where Chromium looks for them, whatever their numbers are here.
        launch = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            [
                "bash",
                "-c",
                launch,
                CHROMIUM,
                "--remote-debugging-pipe",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
                f"--user-data-dir={profile}",
            ],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.number, self.buffer, self.session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {
            "id": self.number,
            "method": method,
            "params": params,
            **({"sessionId": self.session} if self.session else {}),
        }
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            chunk = os.read(self.answers, 1 << 20)
            assert chunk, "the browser has ended"
            self.buffer += chunk
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def open(self, path: Path, size: tuple[int, int]) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=2,
            mobile=size == PHONE,
        )
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def ask(self, javascript: str) -> Any:
        return self.call("Runtime.evaluate", expression=javascript, returnByValue=True, awaitPromise=True)[
            "result"
        ].get("value")

    def of(self, *methods: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") in methods]

    def end(self) -> None:
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        self.process.terminate()
        self.process.wait(30)
        os.close(self.commands)
        os.close(self.answers)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        words = "no chromium on this host: apt-get install chromium"
        pytest.fail(words) if os.environ.get("CI") == "true" else pytest.skip(words)
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.end()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on two arms and two blocks of the smoke experiment, on one node and on two simulated ones."""
    out = tmp_path_factory.mktemp("results with a space")
    measure = [
        "+experiment=smoke",
        "nodes=1,2",
        "repeat=0,1",
        "allocator=glibc,glibc_tuned",
        "launch.threads_per_rank=1",
        "measure.iterations=1",
        "launch.oversubscribe=true",
        "sweep.html=false",
    ]
    for arguments in (measure, ["report", str(out)]):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "bench", *arguments],
            cwd=ROOT,
            env={**os.environ, "BENCH_OUT": str(out)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return out / "report.html"


PICTURES = """[...document.querySelectorAll('svg.plot')].map(svg => {
    const box = svg.getBoundingClientRect();
    const text = [...svg.querySelectorAll('text')].map(t => t.getBoundingClientRect());
    return {
        name: svg.closest('figure').id, left: box.left, right: box.right, width: box.width, height: box.height,
        marks: svg.querySelectorAll('path, use').length,
        lowest: Math.min(...text.map(t => Math.min(t.width, t.height))),
        out: text.filter(t => t.left < box.left - 2 || t.right > box.right + 2).length,
    };
})"""


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_opens_without_errors_and_asks_nobody_for_anything(browser: Browser, page: Path, size: tuple[int, int]) -> None:
    browser.open(page, size)
    asked = [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    wrong = browser.of("Runtime.exceptionThrown", "Log.entryAdded") + [
        e for e in browser.of("Runtime.consoleAPICalled") if e["type"] in ("error", "warning")
    ]
    assert wrong == []


def test_the_verdict_comes_first(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    first = browser.ask("document.querySelector('main p').innerText")
    assert "glibc" in first
    assert browser.ask("document.querySelector('.answer').getBoundingClientRect().top") < DESK[1] / 2
    assert browser.ask("document.querySelector('.elsewhere')") is None, "the published table is of another workload"
    assert "simulated nodes" in browser.ask("document.body.innerText")


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_every_picture_is_there_and_fits(browser: Browser, page: Path, size: tuple[int, int]) -> None:
    browser.open(page, size)
    pictures = browser.ask(PICTURES)
    assert [p["name"] for p in pictures] == [
        f"s0-{name}" for name in ("gains", "phases", "samples", "over_time", "against_nodes", "pareto")
    ]
    for picture in pictures:
        assert picture["width"] > 250 and picture["height"] > 100 and picture["marks"] > 10, picture
        assert picture["left"] >= 0 and picture["right"] <= size[0] and picture["out"] == 0, picture
        assert picture["lowest"] >= 5, picture  # CSS pixels: a digit's width, so readable


def test_a_phone_need_not_scroll_sideways(browser: Browser, page: Path) -> None:
    browser.open(page, PHONE)
    assert browser.ask("document.documentElement.scrollWidth") <= PHONE[0]
    beyond = browser.ask(
        "[...document.querySelectorAll('body *')].filter(e => e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"
    )
    assert beyond == []
    assert (
        browser.ask(
            "Math.min(...[...document.querySelectorAll('p, li, td, dd')].map(e => parseFloat(getComputedStyle(e).fontSize)))"
        )
        >= 11
    )


@pytest.mark.parametrize("size", [DESK, WIDE], ids=["desk", "wide"])
def test_dark_where_the_reader_wants_it_and_the_pictures_stay_readable(
    browser: Browser, page: Path, size: tuple[int, int]
) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        browser.open(page, size)
        assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
        ground = browser.ask("getComputedStyle(document.querySelector('svg.plot')).backgroundColor")
        assert ground == "rgba(0, 0, 0, 0)", "no white card on a dark page"
        ink = browser.ask("[...document.querySelectorAll('svg.plot text')].map(t => getComputedStyle(t).fill)")
        assert ink and all(min(map(int, colour[4:-1].split(","))) > 150 for colour in set(ink)), set(ink)
        assert all(picture["width"] > 0.35 * size[0] for picture in browser.ask(PICTURES)[:2])
        assert browser.ask("document.documentElement.scrollWidth") <= size[0]
    finally:
        browser.call("Emulation.setEmulatedMedia", features=[])


@pytest.fixture(scope="module")
def axe() -> str:
    """The accessibility checker axe-core, as text to run in a page."""
    if not AXE.exists():
        words = f"no axe-core on this host: npm ci --prefix {AXE.parents[2].relative_to(ROOT)}"
        pytest.fail(words) if os.environ.get("CI") == "true" else pytest.skip(words)
    return AXE.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK, WIDE], ids=["phone", "desk", "wide"])
def test_nothing_serious_bars_a_reader(
    browser: Browser, page: Path, axe: str, size: tuple[int, int], scheme: str
) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        browser.open(page, size)
        # What is folded is looked at too.
        browser.ask("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        browser.ask(axe)
        found = json.loads(browser.ask("axe.run().then(found => JSON.stringify(found))"))
        assert len(found["passes"]) > 15, "the checker looked at little"
        assert [
            (one["id"], one["impact"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ] == []
        assert browser.ask("document.documentElement.scrollWidth") <= size[0]
    finally:
        browser.call("Emulation.setEmulatedMedia", features=[])


def test_a_table_is_sorted_by_a_click_and_back(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    click = """(() => { const head = [...document.querySelectorAll('th button')].find(b => b.textContent === 'Phase').closest('th');
        head.firstChild.click();
        const at = [...head.parentNode.cells].indexOf(head), rows = [...head.closest('table').tBodies[0].rows];
        return [head.getAttribute('aria-sort'), rows.map(row => row.cells[at].textContent)]; })()"""
    word, values = browser.ask(click)
    assert word == "ascending" and len(values) >= 3 and values == sorted(values)
    word, values = browser.ask(click)
    assert word == "descending" and values == sorted(values, reverse=True)


def test_what_few_look_for_is_folded_and_the_verdict_is_open(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    folded = browser.ask("[...document.querySelectorAll('details:not([open]) > summary')].map(s => s.innerText)")
    assert {"Host", "Configuration and launch", "Allocators and verification"} <= set(folded)
    assert browser.ask("document.querySelector('.answer').closest('details')") is None


def test_print_has_everything_dark_on_white(browser: Browser, page: Path) -> None:
    browser.open(page, DESK)
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        colour = browser.ask("getComputedStyle(document.body).color")
        assert sum(map(int, colour[4:-1].split(","))) < 150
        assert all(p["width"] > 200 for p in browser.ask(PICTURES))
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
    printed = base64.b64decode(
        browser.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)["data"]
    )
    assert (
        printed.startswith(b"%PDF") and 3 <= printed.count(b"/Type /Page\n") <= 8
    )  # 11 and more: laid out for a phone
