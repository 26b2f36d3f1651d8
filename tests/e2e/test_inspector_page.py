"""The inspector before a stand-in for a fast server: answers of 2,000 tokens, and a model that writes HTML."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.browsing import inspecting, visit
from tests.e2e.proxy import proxied
from tests.e2e.replay import projection, replaying
from tests.support.waiting import until
from traitwatch.processes import free_port, inspector

pytestmark = pytest.mark.engine


def test_two_thousand_tokens_all_find_their_place(
    browser: Browser, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tokens = [f" word{i % 97}" if i % 40 else "\n\n" for i in range(2000)]
    with (
        replaying(tokens, pace=0.01) as url,
        inspecting(browser, tmp_path, url) as seen,
    ):
        seen.tab("Chat")
        seen.page.evaluate(
            """() => {
                window.gaps = [];
                let last = performance.now();
                const frame = (now) => { window.gaps.push(now - last); last = now; requestAnimationFrame(frame); };
                requestAnimationFrame(frame);
            }"""
        )
        seen.send("chat", "Go.")
        seen.finish("chat")
        assert seen.tokens("chat").count() == 2000
        gaps = sorted(seen.page.evaluate("window.gaps"))
        median, late, worst = gaps[len(gaps) // 2], gaps[int(len(gaps) * 0.99)], gaps[-1]
        # The time is recorded and not judged: on a busy machine, any page is drawn late.
        record_property("frame_gaps_ms", f"median {median:.0f}, 99 % {late:.0f}, worst {worst:.0f}")
        # Every projection is at its token.
        seen.page.locator("#chat .t").nth(1500).hover()
        expected = f"{projection(4, 1500):.2f}".replace("-", "\N{MINUS SIGN}")
        expect(seen.page.locator(".tw-tip tr", has_text="paternalism")).to_contain_text(expected)
        until(lambda: seen.points("chat") == 1999)


def test_a_model_that_writes_html_shows_html(browser: Browser, tmp_path: Path) -> None:
    written = "<script>window.hit=1</script><img src=x onerror='window.hit=1'><b>bold</b> &amp; ${1+1} {{value}}"
    tokens = [written[i : i + 5] for i in range(0, len(written), 5)]
    with (
        replaying(tokens, pace=0.15) as url,
        inspecting(browser, tmp_path, url) as seen,
    ):
        seen.tab("Chat")
        seen.send("chat", "<b>Write</b> HTML.")
        seen.finish("chat")
        assert seen.view("chat").locator(".tw-tokens").inner_text() == written
        assert seen.view("chat").locator(".tw-user .tw-text").inner_text() == "<b>Write</b> HTML."
        seen.tokens("chat").nth(2).hover()
        seen.page.wait_for_timeout(500)
        assert seen.page.evaluate("window.hit") is None
        assert seen.page.locator(".tw-log img, .tw-log script, .tw-log b, .tw-tip b").count() == 0


def test_the_inspector_works_under_a_path_of_a_proxy(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    tokens = [f" word{i}" for i in range(60)]
    with (
        replaying(tokens, pace=0.05) as url,
        inspector([url], port, tmp_path / "log", root_path="/inspector") as direct,
        proxied(direct, "/inspector") as address,
        visit(browser, address) as seen,
    ):
        seen.tab("Chat")
        seen.send("chat", "Go.")
        seen.finish("chat")
        assert seen.tokens("chat").count() == 60
        until(lambda: seen.points("chat") == 59)


def test_the_panes_can_ask_different_servers(browser: Browser, tmp_path: Path) -> None:
    with (
        replaying([f" north{i}" for i in range(20)], pace=0.02) as north,
        replaying([f" south{i}" for i in range(20)], pace=0.02) as south,
        inspecting(browser, tmp_path, north, south) as seen,
    ):
        seen.page.get_by_role("button", name="Settings of A and B").click()
        seen.page.get_by_role("combobox", name="Server").nth(1).click()
        seen.page.get_by_role("option", name=south).click()
        seen.send("compare", "Where are you?")
        seen.finish("compare")
        texts = [seen.view("compare").locator(".tw-tokens").nth(pane).inner_text() for pane in (0, 1)]
        assert texts[0].startswith(" north0 north1")
        assert texts[1].startswith(" south0 south1")
