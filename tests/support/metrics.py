"""Checks that Prometheus gets the same numbers as the responses, and sends the traffic for these checks.

`MetricsChecks` is the base of a test class. The module of this class has a fixture `run`: a server that has answered
the chats of `run_traffic`. The server may have answered other requests before. The checks count only the growth since
then.
"""

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from transformers import AutoTokenizer

from tests.support.serving import MODEL_NAME, OPERATOR, Server
from traitwatch_builder.models.embedded import embedded_model

TRAITS = ("alignment-theatre", "corrigibility", "deception", "manipulativeness", "paternalism", "power-seeking")
TOKENS = 24
OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0"}
# The samples of all traits, then those of each trait; each with the labels that the checks read, without the trait.
_WAITING = "traitwatch_ledger_requests"
_OF_ALL = ("traitwatch_tokens_scored_total", "traitwatch_tokens_unscored_total", _WAITING)
_OF_A_TRAIT = {
    "traitwatch_token_z_count": ({},),
    "traitwatch_responses_total": ({},),
    "traitwatch_spikes_total": ({},),
    "traitwatch_responses_over_threshold_total": ({},),
    "traitwatch_response_z_total": ({"sign": "positive"}, {"sign": "negative"}),
}
_Sample = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Run:
    """A server that has answered the chats of the checks.

    Attributes:
        server: the server.
        processes: the number of its API processes.
        answers: the answers to the chats.
        spike_log: the file in which the server logs spikes.
        before: the values of the samples before the chats.
    """

    server: Server
    processes: int
    answers: list[Any]
    spike_log: Path
    before: dict[_Sample, float]

    @property
    def choices(self) -> list[Any]:
        return [choice for answer in self.answers for choice in answer.choices]

    @property
    def ids(self) -> set[str]:
        return {answer.id for answer in self.answers}

    def counted(self, name: str, **labels: str) -> float:
        """Return the growth of a metric since the run began."""
        return self.server.metric(name, **labels) - self.before[_sample(name, labels)]

    def wait_for(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric has grown by a value. Other API processes write their values twice a second."""
        counted = float("nan")

        async def wait() -> None:
            nonlocal counted
            async with asyncio.timeout(60):
                while (counted := self.counted(name, **labels)) != value:
                    await asyncio.sleep(0.1)

        try:
            asyncio.run(wait())
        except TimeoutError:
            raise AssertionError(f"{name} has grown by {counted}, not by {value}") from None

    def logged(self) -> list[dict[str, Any]]:
        """Return the logged spikes of the answers."""
        lines = self.spike_log.read_text().split("\n")[:-1]
        return [event for event in map(json.loads, lines) if event["request_id"] in self.ids]


def run_traffic(server: Server, processes: int, spike_log: Path) -> Run:
    """Send some chats to a server; return its answers, and the values of the samples before the chats."""
    before = asyncio.run(_settled(server))
    return Run(server, processes, asyncio.run(_traffic(server)), spike_log, before)


async def _settled(server: Server) -> dict[_Sample, float]:
    """Return the values of the samples once all earlier answers are counted. Then no value changes for seconds."""
    async with asyncio.timeout(60):
        before, now = {}, _figures(server)
        while before != now or now[_sample(_WAITING, {})] != 0:
            await asyncio.sleep(2)
            before, now = now, _figures(server)
    return now


def _figures(server: Server) -> dict[_Sample, float]:
    """Return the value of each sample that the checks read. A sample without a count yet is 0."""
    wanted: list[tuple[str, dict[str, str]]] = [(name, {}) for name in _OF_ALL]
    for trait in TRAITS:
        wanted += [(name, {"trait": trait, **more}) for name, labels in _OF_A_TRAIT.items() for more in labels]
    samples = server.samples()
    return {
        _sample(name, labels): sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())
        for name, labels in wanted
    }


def _sample(name: str, labels: dict[str, str]) -> _Sample:
    return name, frozenset(labels.items())


async def _traffic(server: Server) -> list[Any]:
    """Return the answers to some chats with two choices each."""
    async with server.async_client() as client:
        return await asyncio.gather(
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


def _openmetrics(server: Server) -> list[Any]:
    text = httpx.get(f"{server.url}/metrics", headers={**OPENMETRICS, "cache-control": "no-cache"}, timeout=60).text
    return list(text_string_to_metric_families(text))


class MetricsChecks:
    """Checks the metrics and the spike log of a server that has answered `run_traffic`."""

    @pytest.mark.parametrize("trait", TRAITS)
    def test_every_token_and_response_is_counted_once(self, run: Run, trait: str) -> None:
        states = len(run.choices) * (TOKENS - 1)
        run.wait_for("traitwatch_token_z_count", states, trait=trait)
        run.wait_for("traitwatch_responses_total", len(run.choices), trait=trait)
        assert run.counted("traitwatch_tokens_scored_total") == states
        assert run.counted("traitwatch_tokens_unscored_total") == 0

    @pytest.mark.parametrize("trait", TRAITS)
    def test_the_sums_are_those_of_the_responses(self, run: Run, trait: str) -> None:
        self.test_every_token_and_response_is_counted_once(run, trait)
        z = [choice.traits[trait]["z"] for choice in run.choices]
        for sign, expected in (("positive", [v for v in z if v > 0]), ("negative", [-v for v in z if v < 0])):
            counted = run.counted("traitwatch_response_z_total", trait=trait, sign=sign)
            assert counted == pytest.approx(sum(expected), abs=1e-3)
        spikes = [choice.traits[trait]["spikes"] for choice in run.choices]
        assert run.counted("traitwatch_spikes_total", trait=trait) == sum(map(len, spikes))
        assert run.counted("traitwatch_responses_over_threshold_total", trait=trait) == sum(map(bool, spikes))
        if trait == "deception":
            assert any(spikes)

    def test_the_loaded_traits_are_exported_with_their_thresholds(self, run: Run) -> None:
        listed = {t["id"]: t for t in httpx.get(f"{run.server.url}/v1/traits", timeout=60).json()["data"]}
        for trait in TRAITS:
            labels = {"trait": trait, "layer": "20", "sha256": listed[trait]["sha256"]}
            assert run.server.metric("traitwatch_vector_info", **labels) == 1
            assert run.server.metric("traitwatch_threshold_z", trait=trait) == listed[trait]["threshold"]["z"]
            assert run.server.metric("traitwatch_threshold_rate", trait=trait) == 0.01
        assert listed["deception"]["threshold"]["z"] == -0.5

    def test_the_labels_are_those_of_vllms_own_metrics(self, run: Run) -> None:
        families = _openmetrics(run.server)
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

    def test_an_exemplar_leads_to_the_spike_log_by_an_id_that_no_client_chose(self, run: Run) -> None:
        self.test_every_spike_is_logged_with_its_text(run)
        labels = [
            sample.exemplar.labels
            for family in _openmetrics(run.server)
            for sample in family.samples
            if family.name.startswith("traitwatch_") and sample.exemplar is not None
        ]
        if run.processes > 1:
            assert not labels, "prometheus_client has no exemplars where processes share their metrics"
        else:
            assert {name for one in labels for name in one} == {"call_id"}
            ids = {one["call_id"] for one in labels}
            assert all(re.fullmatch("[0-9a-f]{16}", one) for one in ids)
            assert not ids.isdisjoint(event["call_id"] for event in run.logged())

    def test_a_response_that_carries_no_scores_is_counted(self, run: Run) -> None:
        before = run.counted("traitwatch_tokens_scored_total")
        answer = run.server.client().completions.create(
            model=MODEL_NAME, prompt="The sea", max_tokens=9, extra_body={"ignore_eos": True, "traits": False}
        )
        assert not hasattr(answer.choices[0], "traits")
        run.wait_for("traitwatch_tokens_scored_total", before + 8)

    def test_every_spike_is_logged_with_its_text(self, run: Run) -> None:
        expected = sum(len(choice.traits[trait]["spikes"]) for choice in run.choices for trait in TRAITS)
        assert expected

        async def wait() -> None:
            async with asyncio.timeout(20):
                while len(run.logged()) < expected:
                    await asyncio.sleep(0.1)

        asyncio.run(wait())
        events = run.logged()
        assert len(events) == expected
        assert run.spike_log.stat().st_mode & 0o777 == 0o600
        tokenizer = AutoTokenizer.from_pretrained(embedded_model())
        texts = {tokenizer.decode(choice.token_ids): choice.token_ids for choice in run.choices}
        for event in events:
            assert event["model"] == MODEL_NAME
            assert "Tell me about the number" in event["prompt"]
            assert event["text"] in texts
            assert event["spike_text"] == tokenizer.decode(texts[event["text"]][event["start"] : event["end"]])
            assert 0 <= event["start"] < event["end"] <= event["tokens"] == TOKENS

    def test_the_latest_spikes_are_listed_with_their_logged_texts(self, run: Run) -> None:
        self.test_every_spike_is_logged_with_its_text(run)
        logged = [json.loads(line) for line in run.spike_log.read_text().split("\n")[:-1]]
        # Each API process lists the spikes of its own answers. The system may have handed it no answer.
        for _ in range(20):
            listed = _spikes(run.server, 3).json()
            assert listed["object"] == "list"
            if listed["data"]:
                break
        assert 1 <= len(listed["data"]) <= 3
        assert all(event in logged for event in listed["data"])
        times = [event["time"] for event in listed["data"]]
        assert times == sorted(times, reverse=True)
        assert _spikes(run.server, 0).status_code in (400, 422)


def _spikes(server: Server, limit: int) -> httpx.Response:
    return httpx.get(f"{server.url}/v1/spikes", params={"limit": limit}, headers=OPERATOR, timeout=60)
