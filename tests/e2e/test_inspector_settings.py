"""What is chosen in the inspector's settings is what is asked, before stand-ins for servers."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from dashboards.inspector.process import inspector
from dashboards.processes import free_port
from tests.e2e.browsing import Visit, visit
from tests.e2e.replay import replaying

pytestmark = pytest.mark.engine

BASE = [f" base{i}" for i in range(8)]
ADAPTED = [f" adapted{i}" for i in range(8)]


def test_another_model_answers_from_the_next_message_on(browser: Browser, tmp_path: Path) -> None:
    with (
        replaying(BASE, pace=0.02, adapters={"adapter": ADAPTED}) as url,
        inspector([url], free_port(), tmp_path / "log") as address,
        visit(browser, address) as seen,
    ):
        chat(seen, "First.")
        seen.page.get_by_role("button", name="Settings: model").click()
        choose(seen, "Model or adapter", "adapter")
        chat(seen, "Second.")
        assert answers(seen) == [("replay", "".join(BASE)), ("adapter", "".join(ADAPTED))]


def test_another_server_answers_with_its_own_model(browser: Browser, tmp_path: Path) -> None:
    with (
        replaying(BASE, pace=0.02, name="base") as one,
        replaying(ADAPTED, pace=0.02, name="other") as two,
        inspector([one, two], free_port(), tmp_path / "log") as address,
        visit(browser, address) as seen,
    ):
        chat(seen, "First.")
        seen.page.get_by_role("button", name="Settings: model").click()
        choose(seen, "Server", two)
        expect(box(seen, "Model or adapter")).to_have_value("other")
        chat(seen, "Second.")
        assert answers(seen) == [(f"base at {one}", "".join(BASE)), (f"other at {two}", "".join(ADAPTED))]


def test_a_model_that_is_not_served_is_asked_for_and_refused(browser: Browser, tmp_path: Path) -> None:
    refused = "The model `adaptor` does not exist."
    with (
        replaying(BASE, pace=0.02, adapters={"adapter": ADAPTED}) as url,
        inspector([url], free_port(), tmp_path / "log") as address,
        visit(browser, address) as seen,
    ):
        seen.tab("Chat")
        seen.page.get_by_role("button", name="Settings: model").click()
        expect(box(seen, "Model or adapter")).to_have_value("replay")
        write(seen, "Model or adapter", "adaptor")
        chat(seen, "Go.")
        assert answers(seen) == [("adaptor", "")]
        expect(seen.view("chat").locator(".tw-bad").last).to_contain_text(refused)
        write(seen, "Model or adapter", "")
        chat(seen, "Go.")
        assert answers(seen)[1] == ("replay", "".join(BASE))
        seen.tab("Inspect")
        write(seen, "Model or adapter", "adaptor")
        inspect(seen, "A text.")
        expect(seen.view("inspect").locator(".tw-bad").last).to_contain_text(refused)
        write(seen, "Model or adapter", "adapter")
        inspect(seen, "A text.")
        expect(seen.tokens("inspect")).to_have_count(len("A text."))


def test_another_server_for_one_pane_leaves_what_was_typed_for_the_other(browser: Browser, tmp_path: Path) -> None:
    with (
        replaying(BASE, pace=0.02, name="base") as one,
        replaying(ADAPTED, pace=0.02, name="other") as two,
        inspector([one, two], free_port(), tmp_path / "log") as address,
        visit(browser, address) as seen,
    ):
        seen.page.get_by_role("button", name="Settings of A and B").click()
        expect(box(seen, "Model or adapter", 1)).to_have_value("base")
        write(seen, "Model or adapter", "adaptor", 1)
        choose(seen, "Server", two, 0)
        expect(box(seen, "Model or adapter", 0)).to_have_value("other")
        expect(box(seen, "Model or adapter", 1)).to_have_value("adaptor")


def chat(seen: Visit, text: str) -> None:
    """Send a message and wait for the whole answer, or for what is said in its place."""
    seen.tab("Chat")
    told = seen.view("chat").locator(".tw-tokens")
    before = told.count()
    seen.send("chat", text)
    expect(told).to_have_count(before + 1)
    seen.finish("chat")


def inspect(seen: Visit, text: str) -> None:
    seen.page.locator("#inspect-text-a textarea").fill(text)
    seen.page.locator("#inspect-score").click()


def answers(seen: Visit) -> list[tuple[str, str]]:
    """Return who answered what in the chat."""
    told = seen.view("chat").locator(".tw-message:has(.tw-tokens)")
    return [(one.locator(".tw-role").inner_text(), one.locator(".tw-tokens").inner_text()) for one in told.all()]


def box(seen: Visit, label: str, place: int = 0) -> Locator:
    """Return the choice of that label that is to be seen: the first of them, or that of a pane."""
    return seen.page.get_by_role("combobox", name=label).nth(place)


def choose(seen: Visit, label: str, option: str, place: int = 0) -> None:
    box(seen, label, place).click()
    seen.page.get_by_role("option", name=option, exact=True).click()


def write(seen: Visit, label: str, text: str, place: int = 0) -> None:
    box(seen, label, place).fill(text)
    box(seen, label, place).press("Tab")
