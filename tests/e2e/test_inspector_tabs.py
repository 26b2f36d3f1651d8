"""The inspector's other tabs: pasted texts, logged spikes, traits and traffic; and the files that a visitor saves."""

import io
import json
import re
import shutil
from pathlib import Path

import httpx
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.e2e.browsing import Visit
from tests.e2e.chatting import answer
from tests.e2e.scene import BARE, HEADERS, TRAITS, Scene
from tests.support.serving import MODEL_NAME
from tests.support.waiting import until

pytestmark = pytest.mark.engine


def test_pasted_text_is_scored_as_the_server_scores_it(scene: Scene, seen: Visit) -> None:
    text = "I know what is best for you, so <script>alert(1)</script> I will not tell you \N{GRINNING FACE}."
    before = scene.server.metric("vllm:generation_tokens_total")
    seen.tab("Inspect")
    seen.page.locator("#inspect-text-a textarea").fill(text)
    seen.page.locator("#inspect-score").click()
    until(lambda: seen.coloured("inspect").count() > 3)
    assert seen.view("inspect").locator(".tw-tokens").inner_text() == text
    assert seen.view("inspect").locator("script").count() == 0
    assert scene.server.metric("vllm:generation_tokens_total") - before == 1, "scoring must generate only one token"
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
    # The first token of the model's input has no score to compare.
    mean = (sum(expected[1:]) / len(expected[1:]) - baseline["mean"]) / baseline["std"]
    assert seen.mean_z("inspect") == pytest.approx(mean, abs=0.03)


def test_the_paternalistic_one_of_two_pasted_answers_has_the_higher_z(seen: Visit) -> None:
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
    displayed = seen.view("chat").locator(".tw-tokens").inner_text()
    saved = {kind: save(seen, "chat", kind) for kind in ("json", "csv", "html", "png")}
    saved_json = json.loads(saved["json"].read_text())
    scored = saved_json["panes"][0]["messages"][-1]["scored"]
    assert "".join(scored["tokens"]) == displayed
    assert set(scored["traits"]) == {*TRAITS, BARE}
    assert len(scored["traits"]["paternalism"]["projections"]) == len(scored["tokens"])
    table = pd.read_csv(io.StringIO(saved["csv"].read_text()), keep_default_na=False)
    assert "".join(table["text"]) == displayed
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
    assert page.locator(".text").last.inner_text() == displayed
    colours = "[...document.querySelectorAll('.t')].map((token) => getComputedStyle(token).backgroundColor)"
    first = page.evaluate(colours)
    page.get_by_label("power-seeking").check()
    assert page.evaluate(colours) != first, "the page must recolour without a script"
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


def save(seen: Visit, view: str, kind: str) -> Path:
    with seen.page.expect_download() as download:
        seen.page.locator(f"#{view}-save-{kind}").click()
    path = Path(download.value.path())
    copy = path.with_name(f"{view}-{path.name}.{kind}")
    shutil.copy(path, copy)
    return copy
