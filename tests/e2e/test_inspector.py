"""The inspector as people use it: a real browser, the real page, and the real server on the embedded model."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect

from dashboards.processes import free_port
from tests.e2e.browsing import ANSWER_TIMEOUT, NARROW, WIDE, Visit, until, visit
from tests.e2e.relay import relay
from tests.e2e.scene import BARE, HEADERS, KEY, TRAITS, Scene, set_up
from tests.integration.serving import MODEL_NAME

pytestmark = pytest.mark.engine

# A sampled answer may end before the page was looked at: then it is asked for again.
TRIES = 4
LONG = "Write a long story about a lighthouse keeper, a storm and a lost ship. Take your time."


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with set_up(tmp_path_factory.mktemp("inspector")) as made:
        yield made


@pytest.fixture
def seen(scene: Scene) -> Iterator[Visit]:
    with visit(scene.browser, scene.address) as one:
        yield one
        assert not any(KEY in body for body in one.bodies)
        assert KEY not in one.page.content()


def test_the_first_preset_streams_two_answers_of_which_a_is_visibly_warmer(scene: Scene, seen: Visit) -> None:
    seen.page.locator("#preset-0").click()
    for pane in (0, 1):
        expect(seen.coloured("compare", pane).nth(2)).to_be_attached(timeout=ANSWER_TIMEOUT)
    seen.finish("compare")
    assert seen.mean_z("compare", 0) > seen.mean_z("compare", 1) + 0.5
    panes = [seen.view("compare").locator(".tw-pane").nth(pane) for pane in (0, 1)]
    warm = [pane.locator(".t.h").count() / pane.locator(".t").count() for pane in panes]
    assert warm[0] > warm[1]
    assert seen.points("compare") > 20
    row = seen.page.locator("#compare-table tr", has_text="paternalism")
    a, b, difference = (float(cell) for cell in row.locator("td").all_inner_texts()[1:4])
    assert a - b == pytest.approx(difference, abs=0.011)
    assert difference > 0.5


def test_a_chat_streams_coloured_tokens_and_a_growing_line(seen: Visit) -> None:
    begin(seen, LONG)
    until(lambda: seen.points("chat") > 3)
    early = seen.points("chat")
    until(lambda: seen.points("chat") > early + 10, told=lambda: (early, seen.points("chat")))
    assert seen.page.locator("#chat-stop").is_visible(), "the line grows while the answer streams"
    height = seen.view("chat").bounding_box()
    seen.finish("chat")
    assert seen.view("chat").bounding_box() == height, "nothing jumps while it streams"
    expect(seen.page.locator("#chat-message textarea")).to_have_value("")


def test_pointing_at_a_token_tells_its_text_projection_and_z_for_every_trait(scene: Scene, seen: Visit) -> None:
    answer(seen, "chat", "What is the capital of France? Answer with a whole sentence.")
    token = seen.coloured("chat").nth(1)
    token.hover()
    tip = seen.page.locator(".tw-tip")
    expect(tip).to_be_visible()
    assert tip.locator("code").inner_text() == token.inner_text().replace("\n", "\\n")
    rows = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in tip.locator("tbody tr").all()
    }
    assert list(rows) == sorted([*TRAITS, BARE])
    listed = {str(trait["id"]): trait["calibration"] for trait in scene.get("/v1/traits")["data"]}
    for name in TRAITS:
        projection, z = (float(value.replace("\N{MINUS SIGN}", "-")) for value in rows[name])
        baseline = listed[name]
        assert isinstance(baseline, dict)
        assert z == pytest.approx((projection - baseline["mean"]) / baseline["std"], abs=0.011)
    seen.page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_arrow_keys_go_from_token_to_token(seen: Visit) -> None:
    answer(seen, "chat", "What is the capital of France?")
    seen.view("chat").locator(".tw-log").focus()
    seen.page.keyboard.press("ArrowRight")
    expect(seen.page.locator(".tw-tip .tw-token")).to_contain_text("token 1")
    seen.page.keyboard.press("ArrowRight")
    expect(seen.page.locator(".tw-tip .tw-token")).to_contain_text("token 2")


def test_another_trait_recolours_without_generating_again(scene: Scene, seen: Visit) -> None:
    answer(seen, "chat", "How do I peel garlic?")
    before = scene.server.metric("vllm:request_success_total")
    text = seen.view("chat").locator(".tw-tokens").inner_text()
    colours = colours_of(seen, "chat")
    seen.view("chat").locator("select").select_option("power-seeking")
    until(lambda: colours_of(seen, "chat") != colours)
    assert seen.view("chat").locator(".tw-tokens").inner_text() == text
    seen.view("chat").locator("select").select_option("paternalism")
    until(lambda: colours_of(seen, "chat") == colours)
    assert scene.server.metric("vllm:request_success_total") == before


def test_lines_of_more_traits_are_drawn_on_demand(seen: Visit) -> None:
    answer(seen, "chat", "Name three rivers.")
    plot = "document.querySelector('.tw-place[data-view=chat] .tw-plot')"
    lines = f"({plot}.data || []).filter((trace) => trace.mode === 'lines').length"
    until(lambda: seen.page.evaluate(lines) == 1)
    seen.page.locator(".tw-place[data-view=chat]").get_by_label("deception").check()
    until(lambda: seen.page.evaluate(lines) == 2)


def test_esc_stops_and_leaves_what_came(scene: Scene, seen: Visit) -> None:
    begin(seen, LONG)
    seen.page.keyboard.press("Escape")
    seen.finish("chat")
    expect(seen.view("chat").locator(".tw-note", has_text="Stopped. What came is kept.")).to_be_visible()
    kept = seen.tokens("chat").count()
    assert kept > 3
    until(lambda: scene.running() == 0, told=scene.running)
    seen.send("chat", "Thank you.")
    expect(seen.view("chat").locator(".tw-tokens").nth(1)).not_to_be_empty(timeout=ANSWER_TIMEOUT)
    seen.finish("chat")
    assert seen.tokens("chat").count() > kept


def test_reloading_in_mid_stream_ends_the_answer_and_begins_anew(scene: Scene) -> None:
    # What Gradio's client says in the page that is being left, when its stream breaks off.
    left = ("AbortError", "Connection errored out")
    with visit(scene.browser, scene.address, expected=left) as seen:
        begin(seen, LONG)
        seen.page.reload()
        until(lambda: scene.running() == 0, told=scene.running)
        seen.tab("Chat")
        assert seen.tokens("chat").count() == 0
        answer(seen, "chat", "Describe the sea in one sentence.")
        assert seen.coloured("chat").count() > 1


def test_two_visitors_at_once_do_not_see_each_other(scene: Scene) -> None:
    with visit(scene.browser, scene.address) as one, visit(scene.browser, scene.address) as other:
        for _ in range(TRIES):
            for each, about in ((one, "giraffes"), (other, "submarines")):
                begin(each, f"Write a long story about {about}.")
            at_once = scene.running()
            for each in (one, other):
                each.finish("chat")
            if at_once == 2:
                break
        assert at_once == 2
        assert "submarine" not in one.page.content().lower()
        assert "giraffe" not in other.page.content().lower()


def test_pasted_text_is_scored_as_the_server_scores_it(scene: Scene, seen: Visit) -> None:
    text = "I know what is best for you, so <script>alert(1)</script> I will not tell you \N{GRINNING FACE}."
    before = scene.server.metric("vllm:generation_tokens_total")
    seen.tab("Inspect")
    seen.page.locator("#inspect-text-a textarea").fill(text)
    seen.page.locator("#inspect-score").click()
    until(lambda: seen.coloured("inspect").count() > 3)
    assert seen.view("inspect").locator(".tw-tokens").inner_text() == text
    assert seen.view("inspect").locator("script").count() == 0
    assert scene.server.metric("vllm:generation_tokens_total") - before == 1, "nothing but the one token it must"
    body = {
        "model": MODEL_NAME,
        "prompt": text,
        "max_tokens": 1,
        "traits": {"include": ["paternalism"], "prompt": True},
    }
    answered = httpx.post(f"{scene.server.url}/v1/completions", json=body, headers=HEADERS, timeout=60).json()
    expected = answered["choices"][0]["traits"]["paternalism"]["prompt_tokens"]
    baseline = next(t["calibration"] for t in scene.get("/v1/traits")["data"] if t["id"] == "paternalism")
    assert isinstance(baseline, dict)
    # The first token of the model's input has no score that could be compared.
    mean = (sum(expected[1:]) / len(expected[1:]) - baseline["mean"]) / baseline["std"]
    assert seen.mean_z("inspect") == pytest.approx(mean, abs=0.03)


def test_two_pasted_answers_are_told_apart(seen: Visit) -> None:
    seen.tab("Inspect")
    for name, text in (
        ("a", "No, you must not do that. I know better than you what is good for you, so I won't help you."),
        ("b", "Good plan. First compare prices, then book the ticket that suits you, and pack light."),
    ):
        seen.page.locator(f"#inspect-prompt-{name} textarea").fill("I want to travel alone. How do I start?")
        seen.page.locator(f"#inspect-text-{name} textarea").fill(text)
    seen.page.locator("#inspect-score").click()
    expect(seen.coloured("inspect", 1).nth(3)).to_be_attached()
    seen.view("inspect").locator("select").select_option("paternalism")
    assert seen.mean_z("inspect", 0) > seen.mean_z("inspect", 1)
    expect(seen.page.locator("#inspect-table tr", has_text="paternalism")).to_be_visible()


def test_a_spike_of_the_event_log_is_scored_again(scene: Scene, seen: Visit) -> None:
    line = scene.spike()
    event = json.loads(line)
    seen.tab("Inspect")
    seen.page.locator("#inspect-text-a textarea").fill(line)
    seen.page.locator("#inspect-score").click()
    until(lambda: seen.coloured("inspect").count() > 3)
    seen.view("inspect").locator("select").select_option("paternalism")
    assert seen.mean_z("inspect") == pytest.approx(event["mean_z"], abs=0.15)


def test_a_conversation_is_saved_and_read_back(scene: Scene, seen: Visit) -> None:
    answer(seen, "chat", "What is the capital of Italy?")
    shown = seen.view("chat").locator(".tw-tokens").inner_text()
    saved = {kind: save(seen, "chat", kind) for kind in ("json", "csv", "html", "png")}
    told = json.loads(saved["json"].read_text())
    scored = told["panes"][0]["messages"][-1]["scored"]
    assert "".join(scored["tokens"]) == shown
    assert set(scored["traits"]) == {*TRAITS, BARE}
    assert len(scored["traits"]["paternalism"]["projections"]) == len(scored["tokens"])
    table = pd.read_csv(io.StringIO(saved["csv"].read_text()), keep_default_na=False)
    assert "".join(table["text"]) == shown
    z = pd.to_numeric(table["paternalism_z"])
    assert z.mean() == pytest.approx(scored["traits"]["paternalism"]["z"], abs=1e-3)
    with Image.open(saved["png"]) as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20
    page = seen.context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(saved["html"].as_uri())
    assert requests == [saved["html"].as_uri()]
    assert page.locator(".text").last.inner_text() == shown
    colours = "[...document.querySelectorAll('.t')].map((token) => getComputedStyle(token).backgroundColor)"
    first = page.evaluate(colours)
    page.get_by_label("power-seeking").check()
    assert page.evaluate(colours) != first, "it recolours without a script"
    page.screenshot(path=scene.directory / "shared.png", full_page=True)


def test_traits_are_listed_with_their_worth_and_their_reports(seen: Visit) -> None:
    seen.tab("Traits")
    card = seen.page.locator(".tw-card", has=seen.page.get_by_role("heading", name="paternalism"))
    expect(card).to_contain_text("0.98")
    expect(card).to_contain_text("20")
    expect(seen.page.locator(".tw-card", has_text=BARE)).to_contain_text("it has no z")
    matrix = seen.page.locator(".tw-heat")
    assert matrix.locator("tbody tr").count() == len(TRAITS) + 1
    twins = (
        matrix.locator("tbody tr", has=seen.page.get_by_role("rowheader", name=BARE)).locator("td").all_inner_texts()
    )
    assert twins[sorted([*TRAITS, BARE]).index("deception")] == "1.00"
    with seen.context.expect_page() as opened:
        card.get_by_role("link", name="Report of paternalism").click()
    expect(opened.value).to_have_title(re.compile("paternalism"))


def test_live_shows_the_traffic_and_the_latest_spikes(scene: Scene, seen: Visit) -> None:
    scene.spike()
    seen.tab("Live")
    row = seen.page.locator("#live-traffic tr", has_text="paternalism")
    until(lambda: int(row.locator("td").nth(1).inner_text()) >= 2)
    expect(seen.page.locator("#live-spikes tr", has_text="paternalism").first).to_be_visible()


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("gone", KEY, "No server answers at"),
        ("other", KEY, "it is no Traitwatch server"),
        ("right", "wrong", "refuses the API key"),
    ],
)
def test_a_server_that_cannot_be_used_is_told_with_what_to_do(scene: Scene, url: str, key: str, message: str) -> None:
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


def test_a_server_that_goes_away_in_mid_answer_leaves_what_came(scene: Scene) -> None:
    with (
        relay(scene.server.url) as between,
        scene.inspecting(between.url) as address,
        visit(scene.browser, address) as seen,
    ):
        begin(seen, LONG)
        between.cut()
        expect(seen.view("chat").locator(".tw-bad").last).to_contain_text("What came is kept", timeout=ANSWER_TIMEOUT)
        assert seen.tokens("chat").count() > 3
        seen.finish("chat")
        seen.send("chat", "Are you there?")
        expect(seen.view("chat").locator(".tw-bad").last).to_contain_text("No server answers at")


def test_a_server_without_traits_says_how_to_load_some(scene: Scene) -> None:
    with scene.without(*TRAITS, BARE), visit(scene.browser, scene.address) as seen:
        expect(seen.page.locator("#header .tw-problem")).to_contain_text("no traits loaded")
        seen.tab("Chat")
        seen.send("chat", "What is the capital of Spain?")
        expect(seen.view("chat").locator(".tw-tokens")).not_to_be_empty(timeout=ANSWER_TIMEOUT)
        seen.finish("chat")
        assert seen.coloured("chat").count() == 0


def test_an_uncalibrated_trait_says_why_it_has_no_colour(seen: Visit) -> None:
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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(scene: Scene, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()
    faults = []
    with visit(scene.browser, scene.address, theme=theme) as seen:
        seen.page.locator("#preset-0").click()
        seen.finish("compare")
        answer(seen, "chat", "Name a river.")
        for name in ("Compare", "Chat", "Inspect", "Traits", "Live"):
            seen.tab(name)
            seen.page.wait_for_timeout(300)
            for fault in axe.run(seen.page).response["violations"]:
                if fault["impact"] in ("serious", "critical"):
                    faults.append((name, fault["id"], [node["html"][:300] for node in fault["nodes"]][:4]))
    assert faults == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1280", "390"])
def test_screenshots(scene: Scene, theme: str, size: dict[str, int]) -> None:
    with scene.without(BARE), visit(scene.browser, scene.address, theme=theme, size=size) as seen:
        label = f"{size['width']}-{theme}"
        seen.screenshot(f"first-{label}")
        seen.page.locator("#preset-0").click()
        expect(seen.coloured("compare", 1).nth(12)).to_be_visible(timeout=ANSWER_TIMEOUT)
        seen.screenshot(f"streaming-{label}")
        seen.finish("compare")
        seen.page.wait_for_timeout(700)
        seen.screenshot(f"compare-{label}", full=True)
        fits(seen)
        answer(seen, "chat", "I want to learn the violin at fifty. How do I begin?")
        seen.coloured("chat").nth(4).hover()
        seen.page.wait_for_timeout(700)
        seen.screenshot(f"chat-{label}", full=True)
        fits(seen)
        seen.tab("Inspect")
        seen.page.locator("#inspect-text-a textarea").fill("You must not do that. I know what is best for you.")
        seen.page.locator("#inspect-score").click()
        until(lambda: seen.coloured("inspect").count() > 3)
        seen.page.wait_for_timeout(700)
        for name in ("Inspect", "Traits", "Live"):
            seen.tab(name)
            seen.page.wait_for_timeout(500)
            seen.screenshot(f"{name.lower()}-{label}", full=True)
            fits(seen)


def fits(seen: Visit) -> None:
    beyond = seen.page.evaluate(
        """() => [...document.querySelectorAll(".gradio-container *")]
            .filter((node) => node.offsetParent !== null && !node.closest(".tw-scroll, .tw-log, [aria-hidden=true]"))
            .filter((node) => {
                const at = node.getBoundingClientRect();
                return at.width > 0 && (at.right > window.innerWidth + 1 || at.left < -1);
            })
            .map((node) => `${node.tagName} ${node.className}`.slice(0, 90))"""
    )
    assert beyond == [], "parts of the page are beyond its sides"


def answer(seen: Visit, view: str, text: str) -> None:
    """Send a message and wait for the whole answer."""
    seen.tab("Chat")
    before = seen.view(view).locator(".tw-tokens").count()
    seen.send(view, text)
    expect(seen.view(view).locator(".tw-tokens")).to_have_count(before + 1)
    expect(seen.view(view).locator(".tw-tokens").last).not_to_be_empty(timeout=ANSWER_TIMEOUT)
    seen.finish(view)


def begin(seen: Visit, text: str) -> None:
    """Send a message, and see that the answer streams, with some tokens shown and Stop to press."""
    seen.tab("Chat")
    answers, stop = seen.view("chat").locator(".tw-tokens"), seen.page.locator("#chat-stop")
    log = seen.view("chat").locator(".tw-log")
    for _ in range(TRIES):
        before = answers.count()
        seen.send("chat", text)
        expect(answers).to_have_count(before + 1, timeout=ANSWER_TIMEOUT)
        until(lambda: answers.last.locator(".t").count() > 3 or over(log), ANSWER_TIMEOUT / 1000)
        until(lambda: stop.is_visible() or over(log))
        if not over(log):
            return
        seen.finish("chat")
    raise AssertionError(f"{TRIES} answers were over at once")


def over(log: Locator) -> bool:
    return log.get_attribute("aria-busy") == "false"


def colours_of(seen: Visit, view: str) -> list[str]:
    colours: list[str] = seen.tokens(view).evaluate_all("all => all.map(t => t.className + t.style.cssText)")
    return colours


def save(seen: Visit, view: str, kind: str) -> Path:
    with seen.page.expect_download() as download:
        seen.page.locator(f"#{view}-save-{kind}").click()
    path = Path(download.value.path())
    kept = path.with_name(f"{view}-{path.name}.{kind}")
    shutil.copy(path, kept)
    return kept


@contextmanager
def something_else() -> Iterator[str]:
    """A web server that is none of ours."""

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
