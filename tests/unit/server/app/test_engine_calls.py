"""The engine's wrapped `generate` marks its calls, sees their tokens, and records every call of any caller."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from vllm import SamplingParams
from vllm.engine.protocol import StreamingInput
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind

from tests.support.engine import PROMPT, TOKENS, Engine
from tests.support.samples import sample
from tests.support.traits import served_trait
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.engine import watch
from traitwatch_server.metrics import Metrics
from traitwatch_server.monitor import Monitor
from traitwatch_server.pacing import Pacer
from traitwatch_server.recording.sink import Recorded
from traitwatch_server.responses.answer_scores import AnswerScores
from traitwatch_server.responses.long_lists import LongLists
from traitwatch_server.responses.scored_request import SCORED_REQUEST, ScoredRequest, Unscorable
from traitwatch_server.responses.selection import Selection
from traitwatch_server.traits import trait_set
from traitwatch_server.wire import PROMPT_KEY, REQUEST_KEY

LOADED = trait_set([served_trait()])


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def monitor(registry: CollectorRegistry) -> Monitor:
    return Monitor(LOADED, "tokens", "api", Metrics(registry))


@pytest.fixture
def engine(monitor: Monitor) -> Any:
    engine = Engine(monitor.ledger)
    watch(engine, monitor, Draining(0))  # type: ignore[arg-type]
    return engine


@pytest.fixture
def request_(engine: Any) -> ScoredRequest:
    return ScoredRequest(Selection(LOADED.all, LOADED), engine.ledger)


async def let_go(engine: Any) -> None:
    """Wait until the ledger holds no call."""
    async with asyncio.timeout(20):
        while len(engine.ledger):
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def _recorded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record every call when it ends, also on a machine that has much to do."""
    monkeypatch.setattr("traitwatch_server.pacing.SLICE_SECONDS", 60.0)


async def run(engine: Any, params: SamplingParams) -> list[Any]:
    return [output async for output in engine.generate({"prompt_token_ids": PROMPT}, params, "chatcmpl-1")]


async def test_a_call_whose_response_carries_no_scores_is_recorded(engine: Any, registry: CollectorRegistry) -> None:
    params = SamplingParams(n=2, extra_args={"mine": 1})
    assert await run(engine, params)
    assert params.extra_args == {"mine": 1}, "the caller's object must not change"
    assert sample(registry, "tokens_scored_total") == 4
    assert sample(registry, "responses_scored_total") == 2
    assert sample(registry, "last_score_timestamp_seconds") > 0
    assert len(engine.ledger) == 0


async def test_a_call_without_sampling_passes_unchanged(engine: Any) -> None:
    params = SamplingParams(extra_args={"mine": 1})
    token = SCORED_REQUEST.set(Unscorable.UNSCORABLE)
    await run(engine, params)
    SCORED_REQUEST.reset(token)
    assert engine.seen[0] is params
    assert len(engine.ledger) == 0


@pytest.mark.parametrize("kind", list(RequestOutputKind))
async def test_tokens_that_cannot_be_scored_are_counted_once(
    engine: Any, registry: CollectorRegistry, kind: RequestOutputKind
) -> None:
    token = SCORED_REQUEST.set(Unscorable.UNSCORABLE)
    await run(engine, SamplingParams(n=2, output_kind=kind))
    SCORED_REQUEST.reset(token)
    assert sample(registry, "tokens_unscored_total", reason="not_scorable") == 6
    assert sample(registry, "tokens_scored_total") == 0


async def test_a_prompt_that_comes_in_pieces_is_counted_as_not_scorable(
    engine: Any, registry: CollectorRegistry
) -> None:
    """vLLM's realtime sessions generate while more of their prompt comes."""

    async def pieces() -> AsyncGenerator[StreamingInput, None]:
        yield StreamingInput({"type": "token", "prompt_token_ids": PROMPT})

    params = SamplingParams(output_kind=RequestOutputKind.DELTA)
    assert [output async for output in engine.generate(pieces(), params, "realtime-1")]
    assert engine.seen == [params], "the worker must send no rows for it"
    assert sample(registry, "tokens_unscored_total", reason="not_scorable") == 3
    assert sample(registry, "responses_incomplete_total", reason="not_scorable") == 1
    assert sample(registry, "tokens_unscored_total", reason="rows_missing") == 0
    assert sample(registry, "responses_incomplete_total", reason="rows_missing") == 0
    assert len(engine.ledger) == 0


@pytest.mark.parametrize("carried", [True, False], ids=["attached", "not attached"])
async def test_an_aborted_call_is_recorded_with_its_tokens_so_far(
    engine: Any, request_: ScoredRequest, registry: CollectorRegistry, *, carried: bool
) -> None:
    token = SCORED_REQUEST.set(request_ if carried else None)
    outputs = engine.generate({}, SamplingParams(output_kind=RequestOutputKind.DELTA), "chatcmpl-1")
    SCORED_REQUEST.reset(token)
    await anext(outputs)
    await anext(outputs)
    await outputs.aclose()
    request_.close()
    await let_go(engine)
    assert sample(registry, "tokens_scored_total") == 1
    assert sample(registry, "responses_scored_total") == 1
    assert sample(registry, "tokens_unscored_total", reason="rows_missing") == 0


async def test_rows_that_an_aborted_call_lost_are_counted(
    engine: Any, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traitwatch_server.recording.recorder.ROWS_TIMEOUT", 0.01)
    engine.lost = [0]
    outputs = engine.generate({}, SamplingParams(output_kind=RequestOutputKind.DELTA), "chatcmpl-1")
    await anext(outputs)
    await anext(outputs)
    await outputs.aclose()
    await let_go(engine)
    assert sample(registry, "tokens_unscored_total", reason="rows_missing") == 1
    assert sample(registry, "responses_incomplete_total", reason="rows_missing") == 1
    assert sample(registry, "responses_scored_total") == sample(registry, "tokens_scored_total") == 0


async def test_late_rows_of_an_aborted_call_count(engine: Any, registry: CollectorRegistry) -> None:
    engine.overtaken = True
    outputs = engine.generate({}, SamplingParams(output_kind=RequestOutputKind.DELTA), "chatcmpl-1")
    await anext(outputs)
    await anext(outputs)
    await outputs.aclose()
    assert sample(registry, "tokens_scored_total") == 0
    await let_go(engine)
    assert sample(registry, "tokens_scored_total") == 1
    assert sample(registry, "responses_scored_total") == 1


@pytest.mark.parametrize("adapter", [None, "sql"])
async def test_the_record_of_a_response_names_the_adapter_that_answered(
    registry: CollectorRegistry, adapter: str | None
) -> None:
    recorded: list[Recorded] = []
    sink = SimpleNamespace(record=recorded.append)
    monitor = Monitor(LOADED, "tokens", "api", Metrics(registry), "base", [sink])  # type: ignore[list-item]
    engine: Any = Engine(monitor.ledger)
    watch(engine, monitor, Draining(0))
    lora = None if adapter is None else LoRARequest(adapter, 1, "/adapters/sql")
    async for _ in engine.generate({}, SamplingParams(), "chatcmpl-1", lora_request=lora):
        pass
    assert [response.model for response in recorded] == [adapter or "base"]


async def test_a_call_that_was_aborted_before_its_first_state_is_no_response(
    engine: Any, registry: CollectorRegistry
) -> None:
    outputs = engine.generate({}, SamplingParams(output_kind=RequestOutputKind.DELTA), "chatcmpl-1")
    await anext(outputs)
    await outputs.aclose()
    assert sample(registry, "responses_scored_total") == 0
    assert len(engine.ledger) == 0


async def test_a_call_that_never_began_leaves_nothing_behind(engine: Any, request_: ScoredRequest) -> None:
    token = SCORED_REQUEST.set(request_)
    outputs = engine.generate({}, SamplingParams(), "chatcmpl-1")
    SCORED_REQUEST.reset(token)
    assert len(engine.ledger) == 1
    request_.close()
    assert len(engine.ledger) == 0
    await outputs.aclose()


async def test_lost_rows_are_counted_as_tokens_that_were_not_scored(
    engine: Any, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traitwatch_server.recording.recorder.ROWS_TIMEOUT", 0.01)
    engine.lost = [1]
    await run(engine, SamplingParams())
    await let_go(engine)
    assert sample(registry, "tokens_scored_total") == 1
    assert sample(registry, "tokens_unscored_total", reason="rows_missing") == 1
    assert sample(registry, "responses_incomplete_total", reason="rows_missing") == 1
    assert sample(registry, "responses_scored_total") == 0


async def test_rows_that_come_after_the_end_are_waited_for(engine: Any, registry: CollectorRegistry) -> None:
    engine.lost = [1]
    await run(engine, SamplingParams())
    assert sample(registry, "responses_scored_total") == 0
    engine.lost = []
    engine._send(engine.seen[0], "chatcmpl-1", 0, 2)
    await let_go(engine)
    assert sample(registry, "tokens_scored_total") == 2
    assert sample(registry, "responses_scored_total") == 1
    assert sample(registry, "responses_incomplete_total", reason="rows_missing") == 0


async def test_a_fault_in_recording_reaches_nobody(
    engine: Any, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traitwatch_server.recording.tally.Tally.add", lambda *_: 1 / 0)
    assert await run(engine, SamplingParams(n=2))
    assert sample(registry, "responses_incomplete_total", reason="internal_error") == 2
    assert sample(registry, "tokens_unscored_total", reason="internal_error") == 4
    assert sample(registry, "tokens_scored_total") == 0


async def test_without_a_trait_nothing_counts_as_scored(
    engine: Any, monitor: Monitor, registry: CollectorRegistry
) -> None:
    """If all traits are unloaded, the coverage must not show that all is well."""
    monitor.traits = trait_set([])
    await run(engine, SamplingParams())
    assert sample(registry, "tokens_unscored_total", reason="no_traits") == 2
    assert sample(registry, "tokens_scored_total") == 0
    assert sample(registry, "responses_scored_total") == 0
    assert len(engine.ledger) == 0


async def finished(request: ScoredRequest, number: int) -> dict[str, Any]:
    """Return the score fields of an ended choice of the request's response."""
    fields: dict[str, Any] = {}
    answer = AnswerScores(request.selection, lambda: request.choice(number), Pacer(), LongLists())
    await answer.finish(fields, whole=True)
    return fields


@pytest.mark.parametrize("kind", list(RequestOutputKind))
async def test_all_tokens_are_seen_in_every_kind_of_output(
    engine: Any, request_: ScoredRequest, kind: RequestOutputKind
) -> None:
    token = SCORED_REQUEST.set(request_)
    params = SamplingParams(n=2, output_kind=kind, extra_args={"mine": 1})
    outputs = await run(engine, params)
    SCORED_REQUEST.reset(token)
    assert len(outputs) == (1 if kind == RequestOutputKind.FINAL_ONLY else 3)
    for index in range(2):
        carrier = await finished(request_, index)
        assert carrier["traits_complete"] is True
        first, second = TOKENS[index][:2]
        assert carrier["traits"]["paternalism"]["tokens"] == [first / 2, second / 2, None]


async def test_the_clients_own_parameters_are_kept(engine: Any, request_: ScoredRequest) -> None:
    forged = {"mine": 1, REQUEST_KEY: "forged", PROMPT_KEY: 1}
    params = SamplingParams(extra_args=dict(forged), temperature=0.25)
    token = SCORED_REQUEST.set(request_)
    await run(engine, params)
    SCORED_REQUEST.reset(token)
    (seen,) = engine.seen
    assert seen.temperature == 0.25
    assert seen.extra_args["mine"] == 1
    assert seen.extra_args[REQUEST_KEY].startswith("api:")
    assert PROMPT_KEY not in seen.extra_args, "the worker would send rows of a prompt that nobody waits for"
    assert params.extra_args == forged, "the caller's object must not change"
    assert seen.skip_reading_prefix_cache is not True


async def test_scoring_the_prompt_passes_the_prefix_cache_by(engine: Any) -> None:
    request = ScoredRequest(Selection(LOADED.all, LOADED, prompt=True), engine.ledger)
    token = SCORED_REQUEST.set(request)
    await run(engine, SamplingParams())
    SCORED_REQUEST.reset(token)
    assert engine.seen[0].skip_reading_prefix_cache is True
    carrier = await finished(request, 0)
    assert carrier["traits"]["paternalism"]["prompt_tokens"] == [50.0, 50.5, 51.0]
    assert carrier["traits_complete"] is True


async def test_a_client_that_leaves_ends_the_call(engine: Any, request_: ScoredRequest) -> None:
    """vLLM aborts a request when its generator is closed. So our generator must close vLLM's generator at once."""
    token = SCORED_REQUEST.set(request_)
    outputs = engine.generate({}, SamplingParams(output_kind=RequestOutputKind.DELTA), "chatcmpl-1")
    SCORED_REQUEST.reset(token)
    await anext(outputs)
    assert engine.closed == 0
    await outputs.aclose()
    assert engine.closed == 1


async def test_a_call_after_the_end_of_the_response_is_not_held_for_it(
    engine: Any, request_: ScoredRequest, registry: CollectorRegistry
) -> None:
    token = SCORED_REQUEST.set(request_)
    request_.close()
    await run(engine, SamplingParams())
    SCORED_REQUEST.reset(token)
    assert len(engine.ledger) == 0
    assert sample(registry, "responses_scored_total") == 1


async def test_an_output_that_cannot_be_read_reaches_the_client(
    engine: Any, request_: ScoredRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traitwatch_server.app.engine.note_output", lambda *_, **__: 1 / 0)
    token = SCORED_REQUEST.set(request_)
    assert len(await run(engine, SamplingParams(output_kind=RequestOutputKind.DELTA))) == 3
    SCORED_REQUEST.reset(token)


async def test_a_prompt_that_is_too_long_to_be_scored_is_refused_before_the_model_generates(
    engine: Any, monitor: Monitor
) -> None:
    monitor.max_prompt = len(PROMPT) - 1
    token = SCORED_REQUEST.set(ScoredRequest(Selection(LOADED.all, LOADED, prompt=True), engine.ledger))
    with pytest.raises(Exception, match="--traits-max-prompt"):
        await run(engine, SamplingParams())
    assert not engine.seen
    monitor.max_prompt = len(PROMPT)
    assert await run(engine, SamplingParams())
    SCORED_REQUEST.reset(token)


async def test_a_long_prompt_whose_projections_nobody_asked_for_is_served(engine: Any, monitor: Monitor) -> None:
    monitor.max_prompt = 1
    token = SCORED_REQUEST.set(ScoredRequest(Selection(LOADED.all, LOADED), engine.ledger))
    assert await run(engine, SamplingParams())
    SCORED_REQUEST.reset(token)
    assert await run(engine, SamplingParams())
