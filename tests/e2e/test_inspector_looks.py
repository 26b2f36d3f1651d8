"""The inspector on wide and narrow screens, light and dark, and for people who use a screen reader."""

import pytest
from playwright.sync_api import expect

from tests.e2e.browsing import ANSWER_TIMEOUT, NARROW, WIDE, Visit, visit
from tests.e2e.chatting import answer
from tests.e2e.scene import BARE, Scene, without
from tests.support.waiting import until

pytestmark = pytest.mark.engine


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
    with without(scene.server, BARE), visit(scene.browser, scene.address, theme=theme, size=size) as seen:
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
    assert beyond == [], "parts of the page are outside of its sides"
