"""Drives the inspector in a real browser: Debian's Chromium, by Playwright."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Playwright, Response, expect

from tests.support.paths import ROOT
from traitwatch.processes import free_port, inspector

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENSHOTS = ROOT / "build" / "screenshots"
WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 390, "height": 844}
# Milliseconds for an answer of the embedded model when two cores also do other work.
ANSWER_TIMEOUT = 240_000
# An expectation without a timeout may need a round trip through page, server and model.
expect.set_options(timeout=60_000)


@contextmanager
def chromium(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    try:
        yield browser
    finally:
        browser.close()


@dataclass
class Visit:
    """One visitor: a page of the inspector, and the errors in this page.

    Attributes:
        page: the page.
        context: the browser's state of this visitor only: cookies, storage, downloads.
        errors: console errors, uncaught exceptions, and requests to other hosts.
        bodies: the text of every response, except scripts and style sheets.
    """

    page: Page
    context: BrowserContext
    errors: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def view(self, name: str) -> Locator:
        return self.page.locator(f"#{name}")

    def tokens(self, view: str, pane: int = 0) -> Locator:
        return self.view(view).locator(".tw-pane").nth(pane).locator(".t")

    def coloured(self, view: str, pane: int = 0) -> Locator:
        return self.view(view).locator(".tw-pane").nth(pane).locator(".t.h, .t.l")

    def send(self, view: str, text: str) -> None:
        box = self.page.locator(f"#{view}-message textarea")
        box.fill(text)
        box.press("Enter")

    def wait_until_busy(self, view: str) -> None:
        self.page.locator(f"#{view}-stop").wait_for(state="visible", timeout=ANSWER_TIMEOUT)

    def finish(self, view: str) -> None:
        """Wait until the answers of all panes of a view have ended. The answers may have begun already.

        Waiting for the buttons is not enough: the page shows the first tokens before it replaces Send by Stop.
        """
        logs = self.view(view).locator(".tw-log")
        for i in range(logs.count()):
            expect(logs.nth(i)).to_have_attribute("aria-busy", "false", timeout=ANSWER_TIMEOUT)
        self.page.locator(f"#{view}-send").wait_for(state="visible", timeout=ANSWER_TIMEOUT)

    def mean_z(self, view: str, pane: int = 0) -> float:
        text = self.view(view).locator(".tw-pane").nth(pane).locator(".tw-stats b").inner_text()
        return float(re.sub(r"^mean z ", "", text).replace("\N{MINUS SIGN}", "-"))

    def points(self, view: str) -> int:
        """Return the number of points in the longest line of a view's plot."""
        found = self.page.evaluate(
            """(view) => {
                const plot = document.querySelector(`.tw-place[data-view="${view}"] .tw-plot`);
                const lines = ((plot && plot.data) || []).filter((trace) => trace.mode === "lines");
                return Math.max(0, ...lines.map((trace) => trace.y.filter((y) => y !== null).length));
            }""",
            view,
        )
        return int(found)

    def screenshot(self, name: str, *, full: bool = False) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=full)
        return path


@contextmanager
def visit(
    browser: Browser,
    address: str,
    *,
    size: dict[str, int] = WIDE,
    theme: str = "light",
    expected: tuple[str, ...] = (),
) -> Iterator[Visit]:
    """Open the page as a new visitor. At the end, assert that the page has no errors.

    Args:
        browser: the browser.
        address: the inspector's address.
        size: the size of the window.
        theme: `light` or `dark`.
        expected: parts of the console errors that the test causes, for example by a request that must fail.
    """
    context = browser.new_context(
        viewport=size, color_scheme=theme, accept_downloads=True, reduced_motion="reduce", locale="en-GB"
    )
    context.set_default_timeout(120_000)
    page = context.new_page()
    seen = Visit(page, context)

    def record_error(message: ConsoleMessage) -> None:
        if message.type == "error":
            seen.errors.append(f"console: {message.text} ({message.location.get('url', '')})")

    def record_body(response: Response) -> None:
        kind = response.headers.get("content-type", "")
        if "javascript" in kind or "css" in kind or "event-stream" in kind:
            return
        try:
            seen.bodies.append(response.text())
        except Exception:  # noqa: BLE001  (a response whose page has gone has no body)
            return

    page.on("console", record_error)
    page.on("pageerror", lambda error: seen.errors.append(f"exception: {error}"))
    page.on("response", record_body)
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "data:", "blob:"))
            else seen.errors.append(f"a request to another host: {request.url}")
        ),
    )
    try:
        page.goto(f"{address}/?__theme={theme}")
        page.locator("#header").wait_for()
        yield seen
        unexpected = [error for error in seen.errors if not any(part in error for part in expected)]
        assert unexpected == [], "\n".join(unexpected)
    finally:
        context.close()


@contextmanager
def inspecting(browser: Browser, directory: Path, *urls: str) -> Iterator[Visit]:
    """Start an inspector of some servers with its log in a directory. Open its page."""
    with inspector(list(urls), free_port(), directory / "log") as address, visit(browser, address) as seen:
        yield seen
