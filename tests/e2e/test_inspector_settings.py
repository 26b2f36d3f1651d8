"""The inspector's requests follow its settings. The servers are stand-ins."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.e2e.browsing import Visit, inspecting
from tests.e2e.replay import replaying
from traitwatch.processes import free_port

pytestmark = pytest.mark.engine

BASE = [f" base{i}" for i in range(8)]
ADAPTED = [f" adapted{i}" for i in range(8)]


def test_another_model_answers_from_the_next_message_on(browser: Browser, tmp_path: Path) -> None:
    with (
        replaying(BASE, pace=0.02, adapters={"adapter": ADAPTED}) as url,
        inspecting(browser, tmp_path, url) as seen,
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
        inspecting(browser, tmp_path, one, two) as seen,
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
        inspecting(browser, tmp_path, url) as seen,
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


def test_another_server_for_one_pane_keeps_the_typed_model_of_the_other(browser: Browser, tmp_path: Path) -> None:
    with (
        replaying(BASE, pace=0.02, name="base") as one,
        replaying(ADAPTED, pace=0.02, name="other") as two,
        inspecting(browser, tmp_path, one, two) as seen,
    ):
        seen.page.get_by_role("button", name="Settings of A and B").click()
        expect(box(seen, "Model or adapter", 1)).to_have_value("base")
        write(seen, "Model or adapter", "adaptor", 1)
        choose(seen, "Server", two, 0)
        expect(box(seen, "Model or adapter", 0)).to_have_value("other")
        expect(box(seen, "Model or adapter", 1)).to_have_value("adaptor")


def test_a_server_that_is_gone_leaves_the_other_pane_its_answer(browser: Browser, tmp_path: Path) -> None:
    unreachable = f"http://127.0.0.1:{free_port()}"
    with (
        replaying(BASE, pace=0.02) as url,
        inspecting(browser, tmp_path, url, unreachable) as seen,
    ):
        table = seen.page.locator("#compare-table")
        seen.page.get_by_role("button", name="Settings of A and B").click()
        seen.send("compare", "Both there?")
        seen.finish("compare")
        expect(table.get_by_role("columnheader", name="mean z, B")).to_be_visible()
        choose(seen, "Server", unreachable, 0)
        seen.send("compare", "And now?")
        expect(pane(seen, 0).locator(".tw-bad")).to_contain_text("No server answers at")
        expect(pane(seen, 1).locator(".tw-tokens")).to_have_text("".join(BASE))
        expect(seen.view("compare").locator("[aria-busy=true]")).to_have_count(0)
        expect(pane(seen, 0).locator(".tw-tokens")).to_have_count(0)
        expect(table.get_by_role("columnheader", name="mean z, B")).to_be_visible()
        expect(table.get_by_role("columnheader", name="mean z, A")).to_have_count(0)
        choose(seen, "Server", unreachable, 1)
        seen.send("compare", "Nobody?")
        expect(pane(seen, 1).locator(".tw-bad")).to_contain_text("No server answers at")
        expect(table).to_be_empty()


def test_a_text_that_cannot_be_scored_removes_the_scores_of_the_text_before(browser: Browser, tmp_path: Path) -> None:
    with (
        replaying(BASE, pace=0.02) as url,
        inspecting(browser, tmp_path, url) as seen,
    ):
        seen.tab("Inspect")
        table = seen.page.locator("#inspect-table")
        expect(box(seen, "Model or adapter")).to_have_value("replay")
        for model, text, message in (("adaptor", "Another.", "does not exist"), ("", " ", "Paste a text first.")):
            write(seen, "Model or adapter", "replay")
            inspect(seen, "A text.")
            expect(table.locator("tr")).not_to_have_count(0)
            write(seen, "Model or adapter", model)
            inspect(seen, text)
            expect(seen.view("inspect").locator(".tw-bad").last).to_contain_text(message)
            expect(table).to_be_empty()
            seen.page.locator("#inspect-save-json").click()
            expect(seen.page.get_by_text("There is nothing to save yet").last).to_be_visible()


def test_a_preset_sets_all_settings(browser: Browser, tmp_path: Path) -> None:
    with (
        replaying(BASE, pace=0.02, adapters={"adapter": ADAPTED}) as one,
        replaying(ADAPTED, pace=0.02, name="other") as two,
        inspecting(browser, tmp_path, one, two) as seen,
    ):
        seen.page.get_by_role("button", name="Settings of A and B").click()
        expect(box(seen, "Model or adapter", 0)).to_have_value("replay")
        choose(seen, "Model or adapter", "adapter", 0)
        choose(seen, "Server", two, 1)
        expect(box(seen, "Model or adapter", 1)).to_have_value("other")
        for label, value in (("Temperature", "1.5"), ("Top p", "0.5"), ("Max tokens", "50")):
            write_number(seen, label, value, 1)
        seen.page.get_by_label("System prompt").nth(0).fill("Be brief.")
        seen.page.locator("#preset-0").click()
        expect(pane(seen, 1).locator(".tw-tokens")).to_have_text("".join(BASE))
        seen.finish("compare")
        for place in (0, 1):
            expect(box(seen, "Server", place)).to_have_value(one)
            expect(box(seen, "Model or adapter", place)).to_have_value("replay")
            expect(seen.page.get_by_label("System prompt").nth(place)).to_have_value("")
            for label, value in (("Temperature", "0"), ("Top p", "0.9"), ("Max tokens", "120")):
                expect(number(seen, label, place)).to_have_value(value)
            expect(pane(seen, place).locator(".tw-role").last).to_have_text(f"replay at {one}")


def chat(seen: Visit, text: str) -> None:
    """Send a message and wait for the whole answer, or for the error message in its place."""
    seen.tab("Chat")
    scored = seen.view("chat").locator(".tw-tokens")
    before = scored.count()
    seen.send("chat", text)
    expect(scored).to_have_count(before + 1)
    seen.finish("chat")


def inspect(seen: Visit, text: str) -> None:
    seen.page.locator("#inspect-text-a textarea").fill(text)
    seen.page.locator("#inspect-score").click()


def pane(seen: Visit, number: int) -> Locator:
    return seen.view("compare").locator(".tw-pane").nth(number)


def answers(seen: Visit) -> list[tuple[str, str]]:
    """Return the title and the text of each answer in the chat."""
    scored = seen.view("chat").locator(".tw-message:has(.tw-tokens)")
    return [(one.locator(".tw-role").inner_text(), one.locator(".tw-tokens").inner_text()) for one in scored.all()]


def box(seen: Visit, label: str, place: int = 0) -> Locator:
    """Return the visible drop-down list with this label: the first list, or the list of a pane."""
    return seen.page.get_by_role("combobox", name=label).nth(place)


def choose(seen: Visit, label: str, option: str, place: int = 0) -> None:
    box(seen, label, place).click()
    seen.page.get_by_role("option", name=option, exact=True).click()


def write(seen: Visit, label: str, text: str, place: int = 0) -> None:
    box(seen, label, place).fill(text)
    box(seen, label, place).press("Tab")


def number(seen: Visit, label: str, place: int) -> Locator:
    """Return the number box of a slider."""
    return seen.page.get_by_role("spinbutton", name=f"number input for {label}").nth(place)


def write_number(seen: Visit, label: str, value: str, place: int) -> None:
    number(seen, label, place).fill(value)
    number(seen, label, place).press("Tab")
