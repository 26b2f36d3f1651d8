"""The engine's `generate` marks the calls of a scored request, sees their tokens, and leaves all others alone."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from server.config import trait_set
from server.engine import watch
from server.ledger import Ledger
from server.metrics import Metrics
from server.scored import SCORED_REQUEST, ScoredRequest
from server.selection import Selection
from server.transport import REQUEST_KEY
from tests.unit.engine import PROMPT, TOKENS, Engine
from tests.unit.traits import served_trait

LOADED = trait_set([served_trait()])


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def engine(metrics: Metrics) -> Any:
    engine = Engine(Ledger("api", metrics))
    watch(engine)  # type: ignore[arg-type]
    return engine


@pytest.fixture
def request_(engine: Any, metrics: Metrics) -> ScoredRequest:
    return ScoredRequest(Selection(tuple(LOADED.traits.values()), LOADED), engine.ledger, metrics)


async def run(engine: Any, params: SamplingParams) -> list[Any]:
    return [output async for output in engine.generate({"prompt_token_ids": PROMPT}, params, "chatcmpl-1")]


async def test_a_call_outside_a_scored_request_goes_through_as_it_came(engine: Any) -> None:
    params = SamplingParams(extra_args={"mine": 1})
    assert await run(engine, params)
    assert engine.seen == [params]
    assert engine.seen[0] is params
    assert len(engine.ledger) == 0


@pytest.mark.parametrize("kind", list(RequestOutputKind))
async def test_whatever_way_the_engine_tells_tokens_they_are_all_seen(
    engine: Any, request_: ScoredRequest, kind: RequestOutputKind
) -> None:
    token = SCORED_REQUEST.set(request_)
    params = SamplingParams(n=2, output_kind=kind, extra_args={"mine": 1})
    outputs = await run(engine, params)
    SCORED_REQUEST.reset(token)
    assert len(outputs) == (1 if kind == RequestOutputKind.FINAL_ONLY else 3)
    for index in range(2):
        carrier: dict[str, Any] = {}
        await request_.finish(carrier, index, whole=True)
        assert carrier["traits_complete"] is True
        first, second = TOKENS[index][:2]
        assert carrier["traits"]["paternalism"]["tokens"] == [first / 2, second / 2, None]


async def test_the_clients_own_parameters_are_kept(engine: Any, request_: ScoredRequest) -> None:
    params = SamplingParams(extra_args={"mine": 1, REQUEST_KEY: "forged"}, temperature=0.25)
    token = SCORED_REQUEST.set(request_)
    await run(engine, params)
    SCORED_REQUEST.reset(token)
    (seen,) = engine.seen
    assert seen.temperature == 0.25
    assert seen.extra_args["mine"] == 1
    assert seen.extra_args[REQUEST_KEY].startswith("api:")
    assert params.extra_args == {"mine": 1, REQUEST_KEY: "forged"}, "the caller's object is not touched"
    assert seen.skip_reading_prefix_cache is not True


async def test_scoring_the_prompt_passes_the_prefix_cache_by(engine: Any, metrics: Metrics) -> None:
    selection = Selection(tuple(LOADED.traits.values()), LOADED, prompt=True)
    request = ScoredRequest(selection, engine.ledger, metrics)
    token = SCORED_REQUEST.set(request)
    await run(engine, SamplingParams())
    SCORED_REQUEST.reset(token)
    assert engine.seen[0].skip_reading_prefix_cache is True
    carrier: dict[str, Any] = {}
    await request.finish(carrier, 0, whole=True)
    assert carrier["traits"]["paternalism"]["prompt_tokens"] == [50.0, 50.5, 51.0]
    assert carrier["traits_complete"] is True


async def test_a_client_that_leaves_ends_the_call(engine: Any, request_: ScoredRequest) -> None:
    """vLLM aborts a request when its generator is closed, so ours must close it at once."""
    token = SCORED_REQUEST.set(request_)
    outputs = engine.generate({}, SamplingParams(output_kind=RequestOutputKind.DELTA), "chatcmpl-1")
    SCORED_REQUEST.reset(token)
    await anext(outputs)
    assert engine.closed == 0
    await outputs.aclose()
    assert engine.closed == 1


async def test_a_response_that_is_over_opens_no_more_calls(engine: Any, request_: ScoredRequest) -> None:
    token = SCORED_REQUEST.set(request_)
    request_.close()
    await run(engine, SamplingParams())
    SCORED_REQUEST.reset(token)
    assert len(engine.ledger) == 0
    assert not engine.seen[0].extra_args


async def test_an_output_that_cannot_be_read_reaches_the_client(
    engine: Any, request_: ScoredRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine.take", lambda *_, **__: 1 / 0)
    token = SCORED_REQUEST.set(request_)
    assert len(await run(engine, SamplingParams(output_kind=RequestOutputKind.DELTA))) == 3
    SCORED_REQUEST.reset(token)
