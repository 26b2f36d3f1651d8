"""The inspector when something is missing: a server, its key, its traits, a baseline, a login."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.browsing import ANSWER_TIMEOUT, Visit, visit
from tests.e2e.chatting import LONG, answer, begin
from tests.e2e.relay import relay
from tests.e2e.scene import BARE, KEY, TRAITS, Scene, without
from tests.support.serving import MODEL_NAME
from traitwatch.processes import free_port

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("gone", KEY, "No server answers at"),
        ("other", KEY, "it is not a Traitwatch server"),
        ("right", "wrong", "refuses the API key"),
    ],
)
def test_the_message_for_an_unusable_server_has_the_next_step(scene: Scene, url: str, key: str, message: str) -> None:
    with something_else() as other:
        urls = {"gone": f"http://127.0.0.1:{free_port()}", "other": other, "right": scene.server.url}
        with scene.inspecting(urls[url], key) as address, visit(scene.browser, address) as seen:
            expect(seen.page.locator("#header .tw-problem")).to_contain_text(message)
            seen.tab("Chat")
            seen.send("chat", "Hello")
            expect(seen.view("chat").locator(".tw-bad").last).to_contain_text(message)
            expect(seen.page.locator("#chat-message textarea")).to_have_value("Hello")
            seen.tab("Inspect")
            expect(seen.view("inspect").locator(".tw-bad").last).to_contain_text(message)
            seen.tab("Live")
            seen.screenshot(f"problem-{url}")


def test_a_server_that_goes_away_in_mid_answer_leaves_the_tokens_so_far(scene: Scene) -> None:
    with (
        relay(scene.server.url) as between,
        scene.inspecting(between.url) as address,
        visit(scene.browser, address) as seen,
    ):
        begin(seen, LONG)
        between.cut()
        expect(seen.view("chat").locator(".tw-bad").last).to_contain_text("text so far is kept", timeout=ANSWER_TIMEOUT)
        assert seen.tokens("chat").count() > 3
        seen.finish("chat")
        seen.send("chat", "Are you there?")
        expect(seen.view("chat").locator(".tw-bad").last).to_contain_text("No server answers at")


def test_a_model_that_the_server_has_not_is_refused_in_its_own_words(seen: Visit) -> None:
    seen.tab("Chat")
    seen.page.get_by_role("button", name="Settings: model").click()
    mistype(seen)
    seen.send("chat", "Hello")
    expect(seen.view("chat").locator(".tw-bad").last).to_contain_text("`mistyped` does not exist")
    seen.finish("chat")
    expect(seen.page.locator("#chat-message textarea")).to_have_value("Hello")
    seen.tab("Inspect")
    mistype(seen)
    seen.page.locator("#inspect-text-a textarea").fill("A text.")
    seen.page.locator("#inspect-score").click()
    expect(seen.view("inspect").locator(".tw-bad").last).to_contain_text("`mistyped` does not exist")


def test_a_server_without_traits_shows_how_to_load_traits(scene: Scene) -> None:
    with without(scene.server, *TRAITS, BARE), visit(scene.browser, scene.address) as seen:
        expect(seen.page.locator("#header .tw-problem")).to_contain_text("no traits loaded")
        seen.tab("Chat")
        seen.send("chat", "What is the capital of Spain?")
        expect(seen.view("chat").locator(".tw-tokens")).not_to_be_empty(timeout=ANSWER_TIMEOUT)
        seen.finish("chat")
        assert seen.coloured("chat").count() == 0


def test_an_uncalibrated_trait_explains_its_missing_colour(seen: Visit) -> None:
    answer(seen, "chat", "What is the capital of Peru?")
    seen.view("chat").locator("select").select_option(BARE)
    expect(seen.view("chat").locator(".tw-bad")).to_contain_text("not calibrated")
    assert seen.coloured("chat").count() == 0
    seen.tokens("chat").first.hover()
    expect(seen.page.locator(".tw-tip")).to_be_visible()


def test_a_login_is_asked_for_and_guards_the_reports(scene: Scene) -> None:
    with scene.inspecting(scene.server.url, auth="ada:lovelace") as address:
        assert httpx.get(f"{address}/traitwatch/report/0/paternalism", timeout=60).status_code == 401
        assert httpx.get(f"{address}/config", timeout=60).status_code == 401
        context = scene.browser.new_context()
        page = context.new_page()
        page.goto(address)
        boxes = page.locator("input")
        boxes.nth(0).fill("ada")
        boxes.nth(1).fill("lovelace")
        page.get_by_role("button", name="Login").click()
        expect(page.locator("#preset-0")).to_be_visible()
        page.get_by_role("tab", name="Traits").click()
        with context.expect_page() as opened:
            page.get_by_role("link", name="Report of paternalism").click()
        expect(opened.value).to_have_title(re.compile("paternalism"))
        context.close()


def mistype(seen: Visit) -> None:
    model = seen.page.get_by_role("combobox", name="Model or adapter")
    expect(model).to_have_value(MODEL_NAME)
    model.fill("mistyped")
    model.press("Tab")


@contextmanager
def something_else() -> Iterator[str]:
    """Serve a page of another program; yield its address."""

    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b"<h1>Not here</h1>")

        def log_message(self, format: str, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Hello)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
