"""What Prometheus is told is what the responses say, from one API process and from two."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from transformers import AutoTokenizer

from tests.support.serving import MODEL_NAME, Server, serving, traitwatch
from traitwatch_builder.models.embedded import embedded_model

pytestmark = pytest.mark.engine

TRAITS = ("alignment-theatre", "corrigibility", "deception", "manipulativeness", "paternalism", "power-seeking")
# A threshold that ordinary answers pass, so that there is something to count.
LOW = ("--traits-threshold", "deception=-0.5")
TOKENS = 24
OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0"}


@dataclass(frozen=True)
class Run:
    """A server that has answered."""

    server: Server
    processes: int
    choices: list[Any]
    events: Path


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def run(
    request: pytest.FixtureRequest, model: Path, shipped: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("metrics")
    events = directory / "spikes.jsonl"
    command = traitwatch("serve", model, "--traits", shipped, *LOW, "--enforce-eager", "--traits-events", events)
    command += ["--traits-events-text", "--api-server-count", str(request.param)]
    with serving(command, directory / "server.log") as server:
        yield Run(server, request.param, asyncio.run(traffic(server)), events)


async def traffic(server: Server) -> list[Any]:
    """Return the choices of some chats, two a request."""
    client = server.async_client()
    answers = await asyncio.gather(
        *(
            client.chat.completions.create(
                model=MODEL_NAME,
                messages=[{"role": "user", "content": f"Tell me about the number {number}."}],
                n=2,
                max_tokens=TOKENS,
                temperature=0.7,
                extra_body={"ignore_eos": True, "return_token_ids": True},
            )
            for number in range(8)
        )
    )
    return [choice for answer in answers for choice in answer.choices]


def wait_for(server: Server, name: str, value: float, **labels: str) -> None:
    """Wait until a metric has a value: other API processes tell theirs twice a second."""
    told = float("nan")

    async def wait() -> None:
        nonlocal told
        async with asyncio.timeout(20):
            while (told := server.metric(name, **labels)) != value:
                await asyncio.sleep(0.1)

    try:
        asyncio.run(wait())
    except TimeoutError:
        raise AssertionError(f"{name} is {told}, not {value}") from None


@pytest.mark.parametrize("trait", TRAITS)
def test_every_token_and_response_is_counted_once(run: Run, trait: str) -> None:
    states = len(run.choices) * (TOKENS - 1)
    wait_for(run.server, "traitwatch_token_z_count", states, trait=trait)
    wait_for(run.server, "traitwatch_responses_total", len(run.choices), trait=trait)
    assert run.server.metric("traitwatch_tokens_scored_total") == states
    assert run.server.metric("traitwatch_tokens_unscored_total") == 0


@pytest.mark.parametrize("trait", TRAITS)
def test_the_sums_are_those_of_the_responses(run: Run, trait: str) -> None:
    test_every_token_and_response_is_counted_once(run, trait)
    z = [choice.traits[trait]["z"] for choice in run.choices]
    for sign, expected in (("positive", [v for v in z if v > 0]), ("negative", [-v for v in z if v < 0])):
        told = run.server.metric("traitwatch_response_z_total", trait=trait, sign=sign)
        assert told == pytest.approx(sum(expected), abs=1e-3)
    spikes = [choice.traits[trait]["spikes"] for choice in run.choices]
    assert run.server.metric("traitwatch_spikes_total", trait=trait) == sum(map(len, spikes))
    assert run.server.metric("traitwatch_responses_over_threshold_total", trait=trait) == sum(map(bool, spikes))
    if trait == "deception":
        assert any(spikes)


def test_what_is_loaded_is_told_with_its_threshold(run: Run) -> None:
    listed = {t["id"]: t for t in httpx.get(f"{run.server.url}/v1/traits", timeout=60).json()["data"]}
    for trait in TRAITS:
        labels = {"trait": trait, "layer": "20", "sha256": listed[trait]["sha256"]}
        assert run.server.metric("traitwatch_vector_info", **labels) == 1
        assert run.server.metric("traitwatch_threshold_z", trait=trait) == listed[trait]["threshold"]["z"]
        assert run.server.metric("traitwatch_threshold_rate", trait=trait) == 0.01
    assert listed["deception"]["threshold"]["z"] == -0.5


def openmetrics(run: Run) -> str:
    return httpx.get(f"{run.server.url}/metrics", headers=OPENMETRICS, timeout=60).text


def test_the_labels_are_those_of_vllms_own_metrics(run: Run) -> None:
    families = list(text_string_to_metric_families(openmetrics(run)))
    of_vllm = {
        (sample.labels["model_name"], sample.labels["engine"])
        for family in families
        for sample in family.samples
        if sample.name == "vllm:generation_tokens_total"
    }
    of_ours = {
        (sample.labels["model_name"], sample.labels["engine"])
        for family in families
        for sample in family.samples
        if sample.name == "traitwatch_tokens_scored_total"
    }
    assert of_ours == of_vllm == {(MODEL_NAME, "0")}
    for family in families:
        if family.name.startswith("traitwatch_"):
            for sample in family.samples:
                assert sample.labels["model_name"] == MODEL_NAME, sample


def test_an_exemplar_names_the_request(run: Run) -> None:
    text = openmetrics(run)
    exemplars = [
        sample.exemplar.labels["request_id"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name == "traitwatch_response_mean_z" and sample.exemplar is not None
    ]
    if run.processes > 1:
        assert not exemplars, "prometheus_client has none where processes share their metrics"
    else:
        assert exemplars
        assert all(name.startswith("chatcmpl-") for name in exemplars)


def test_a_response_that_carries_no_scores_is_counted(run: Run) -> None:
    before = run.server.metric("traitwatch_tokens_scored_total")
    answer = run.server.client().completions.create(
        model=MODEL_NAME, prompt="The sea", max_tokens=9, extra_body={"ignore_eos": True, "traits": False}
    )
    assert not hasattr(answer.choices[0], "traits")
    wait_for(run.server, "traitwatch_tokens_scored_total", before + 8)


def test_every_spike_is_logged_with_its_text(run: Run) -> None:
    expected = sum(len(choice.traits[trait]["spikes"]) for choice in run.choices for trait in TRAITS)
    assert expected

    def logged() -> list[dict[str, Any]]:
        lines = run.events.read_text().split("\n")[:-1]
        return [event for event in map(json.loads, lines) if event["request_id"].startswith("chatcmpl-")]

    async def wait() -> None:
        async with asyncio.timeout(20):
            while len(logged()) < expected:
                await asyncio.sleep(0.1)

    asyncio.run(wait())
    events = logged()
    assert len(events) == expected
    assert run.events.stat().st_mode & 0o777 == 0o600
    tokenizer = AutoTokenizer.from_pretrained(embedded_model())
    texts = {tokenizer.decode(choice.token_ids): choice.token_ids for choice in run.choices}
    for event in events:
        assert event["model"] == MODEL_NAME
        assert "Tell me about the number" in event["prompt"]
        assert event["text"] in texts
        assert event["spike_text"] == tokenizer.decode(texts[event["text"]][event["start"] : event["end"]])
        assert 0 <= event["start"] < event["end"] <= event["tokens"] == TOKENS


def test_the_latest_spikes_are_listed_with_their_text_where_it_is_logged(run: Run) -> None:
    test_every_spike_is_logged_with_its_text(run)
    logged = [json.loads(line) for line in run.events.read_text().split("\n")[:-1]]
    # Each API process lists those of its own answers, and the system may have handed it none.
    for _ in range(20):
        listed = httpx.get(f"{run.server.url}/v1/spikes", params={"limit": 3}, timeout=60).json()
        assert listed["object"] == "list"
        if listed["data"]:
            break
    assert 1 <= len(listed["data"]) <= 3
    assert all(event in logged for event in listed["data"])
    times = [event["time"] for event in listed["data"]]
    assert times == sorted(times, reverse=True)
    assert httpx.get(f"{run.server.url}/v1/spikes", params={"limit": 0}, timeout=60).status_code in (400, 422)
