"""The inspector's comparison and chat as people use them: a real browser, the real page, and the real server."""

import pytest
from playwright.sync_api import expect

from tests.e2e.browsing import ANSWER_TIMEOUT, Visit, visit
from tests.e2e.chatting import LONG, TRIES, answer, begin
from tests.e2e.scene import BARE, TRAITS, Scene
from tests.support.waiting import until

pytestmark = pytest.mark.engine


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
    until(lambda: seen.points("chat") > early + 10, message=lambda: (early, seen.points("chat")))
    assert seen.page.locator("#chat-stop").is_visible(), "the line must grow while the answer streams"
    height = seen.view("chat").bounding_box()
    seen.finish("chat")
    assert seen.view("chat").bounding_box() == height, "the view must keep its place while it streams"
    expect(seen.page.locator("#chat-message textarea")).to_have_value("")


def test_pointing_at_a_token_shows_its_text_projection_and_z_for_every_trait(scene: Scene, seen: Visit) -> None:
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


def test_esc_stops_the_answer_and_leaves_its_tokens(scene: Scene, seen: Visit) -> None:
    begin(seen, LONG)
    seen.page.keyboard.press("Escape")
    seen.finish("chat")
    expect(seen.view("chat").locator(".tw-note", has_text="Stopped. The text so far is kept.")).to_be_visible()
    tokens_before = seen.tokens("chat").count()
    assert tokens_before > 3
    until(lambda: scene.running() == 0, message=scene.running)
    seen.send("chat", "Thank you.")
    expect(seen.view("chat").locator(".tw-tokens").nth(1)).not_to_be_empty(timeout=ANSWER_TIMEOUT)
    seen.finish("chat")
    assert seen.tokens("chat").count() > tokens_before


def test_reloading_in_mid_stream_ends_the_answer_and_the_conversation(scene: Scene) -> None:
    # Gradio's client logs these errors in the old page when its stream breaks off.
    expected_errors = ("AbortError", "Connection errored out")
    with visit(scene.browser, scene.address, expected=expected_errors) as seen:
        begin(seen, LONG)
        seen.page.reload()
        until(lambda: scene.running() == 0, message=scene.running)
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


def colours_of(seen: Visit, view: str) -> list[str]:
    colours: list[str] = seen.tokens(view).evaluate_all("all => all.map(t => t.className + t.style.cssText)")
    return colours
