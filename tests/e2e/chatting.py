"""Sends messages in the inspector's chat, and waits for the answers."""

from playwright.sync_api import Locator, expect

from tests.e2e.browsing import ANSWER_TIMEOUT, Visit
from tests.support.waiting import until

# A sampled answer may end before the test looks at the page. Then the test asks again.
TRIES = 4
LONG = "Write a long story about a lighthouse keeper, a storm and a lost ship. Take your time."


def answer(seen: Visit, view: str, text: str) -> None:
    """Send a message and wait for the whole answer."""
    seen.tab("Chat")
    before = seen.view(view).locator(".tw-tokens").count()
    seen.send(view, text)
    expect(seen.view(view).locator(".tw-tokens")).to_have_count(before + 1)
    expect(seen.view(view).locator(".tw-tokens").last).not_to_be_empty(timeout=ANSWER_TIMEOUT)
    seen.finish(view)


def begin(seen: Visit, text: str) -> None:
    """Send a message; return while the answer streams: some tokens are on the page, and Stop can be pressed."""
    seen.tab("Chat")
    answers, stop = seen.view("chat").locator(".tw-tokens"), seen.page.locator("#chat-stop")
    log = seen.view("chat").locator(".tw-log")
    for _ in range(TRIES):
        before = answers.count()
        seen.send("chat", text)
        expect(answers).to_have_count(before + 1, timeout=ANSWER_TIMEOUT)
        until(lambda: answers.last.locator(".t").count() > 3 or _over(log), ANSWER_TIMEOUT / 1000)
        until(lambda: stop.is_visible() or _over(log))
        if not _over(log):
            return
        seen.finish("chat")
    raise AssertionError(f"{TRIES} answers were over at once")


def _over(log: Locator) -> bool:
    return log.get_attribute("aria-busy") == "false"
