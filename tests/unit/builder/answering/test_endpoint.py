"""`EndpointAnswers` gets answers from one or several servers that speak OpenAI's wire format."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.trait import nothing
from tests.support.wire.http import Reply, Request, WireServer, wire_server
from tests.support.wire.openai import INPUT_TOKENS, completion, error, last_message, models
from traitwatch.errors import NetworkError
from traitwatch_builder.answering.endpoint import EndpointAnswers
from traitwatch_builder.answering.source import Answer, ChatPrompt, Sampling
from traitwatch_builder.errors import PipelineError

SAMPLING = Sampling(temperature=0.7, top_p=1.0, max_tokens=50, seed=7)
Respond = Callable[[Request], Reply]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def serving(respond: Respond, *names: str) -> Respond:
    """Return a server that lists one model, or the named ones, has no traits, and answers with `respond`."""

    def answer(request: Request) -> Reply:
        if request.path == "/v1/models":
            return models(*(names or ("m",)))
        return error(404, "no such path") if request.body is None else respond(request)

    return answer


def echo(request: Request) -> Reply:
    return completion(f"to {last_message(request)}")


def prompts(count: int) -> list[ChatPrompt]:
    return [
        ChatPrompt([{"role": "system", "content": "be"}, {"role": "user", "content": f"prompt {i}"}], [1, 2, 3])
        for i in range(count)
    ]


def source(*servers: WireServer, sampling: Sampling = SAMPLING, **options: Any) -> EndpointAnswers:
    return EndpointAnswers([server.url for server in servers], sampling, **{"retries": 0, **options})


def answers(endpoints: EndpointAnswers, count: int) -> list[Answer]:
    """Ask for all answers, and return them in the order of the prompts."""
    found = list(endpoints.answer(prompts(count), nothing))
    assert sorted(index for index, _ in found) == list(range(count))
    return [answer for _, answer in sorted(found, key=lambda pair: pair[0])]


def asked_of(server: WireServer) -> list[Request]:
    return [request for request in server.requests if request.path == "/v1/chat/completions"]


def answer_to(reply: Reply, **options: Any) -> Answer:
    with wire_server(serving(lambda _: reply)) as server:
        return answers(source(server, **options), 1)[0]


# --- requests and answers


def test_every_answer_comes_with_the_index_of_its_prompt_as_soon_as_it_is_there() -> None:
    slow = threading.Event()

    def respond(request: Request) -> Reply:
        if last_message(request) == "prompt 0":
            slow.wait(60)
        return echo(request)

    advanced: list[int] = []
    with wire_server(serving(respond)) as server:
        endpoints = source(server)
        found = endpoints.answer(prompts(21), advanced.append)
        early = [next(found) for _ in range(20)]
        assert advanced == [1] * 20
        slow.set()
        late = list(found)
    assert {index: answer.text for index, answer in early} == {i: f"to prompt {i}" for i in range(1, 21)}
    assert late == [(0, Answer("to prompt 0", True))]
    assert (endpoints.usage.calls, endpoints.usage.input_tokens) == (21, 21 * INPUT_TOKENS)


def test_a_request_has_openais_fields_and_no_others() -> None:
    with wire_server(serving(echo)) as server:
        answers(source(server), 1)
        request = asked_of(server)[0]
    assert request.body == {
        "model": "m",
        "messages": prompts(1)[0].messages,
        "temperature": 0.7,
        "top_p": 1.0,
        "max_tokens": 50,
    }
    assert request.headers["authorization"] == "Bearer EMPTY"


def test_the_key_is_the_one_given_and_never_the_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    with wire_server(serving(echo)) as server:
        answers(source(server), 1)
        answers(source(server, api_key="fleet"), 1)
        keys = [request.headers["authorization"] for request in asked_of(server)]
        assert keys == ["Bearer EMPTY", "Bearer fleet"]


def test_a_seed_is_sent_where_it_is_asked_for_and_differs_by_prompt() -> None:
    with wire_server(serving(echo)) as server:
        answers(source(server, send_seed=True), 3)
        assert {last_message(r): r.body["seed"] for r in asked_of(server)} == {f"prompt {i}": 7 + i for i in range(3)}


@pytest.mark.parametrize(("reason", "finished"), [("stop", True), ("length", False), ("content_filter", False)])
def test_an_answer_that_was_cut_off_is_not_finished(reason: str, finished: bool) -> None:
    assert answer_to(completion(" it is ", finish_reason=reason)) == Answer("it is", finished)


def test_parameters_that_a_model_rejects_are_renamed_or_left_out() -> None:
    def respond(request: Request) -> Reply:
        if "max_tokens" in request.body:
            return error(400, "Use 'max_completion_tokens' instead.", param="max_tokens")
        if "top_p" in request.body:
            return error(400, "top_p is not supported with this model.", param="top_p")
        return completion("yes")

    with wire_server(serving(respond)) as server:
        assert answers(source(server), 5) == [Answer("yes", True)] * 5
        assert asked_of(server)[-1].body["max_completion_tokens"] == 50


def test_a_temperature_other_than_the_default_is_never_left_out() -> None:
    def respond(request: Request) -> Reply:
        refusal = error(400, "temperature must be 1", param="temperature")
        return refusal if "temperature" in request.body else completion("drawn otherwise")

    with wire_server(serving(respond)) as server:
        with pytest.raises(PipelineError, match="temperature must be 1"):
            answers(source(server), 3)
        plain = Sampling(temperature=1.0, top_p=1.0, max_tokens=50, seed=7)
        assert len(answers(source(server, sampling=plain), 3)) == 3


# --- reasoning models


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (completion("<think>\nhm\n</think>\n\nyes"), Answer("yes", True)),
        (completion("hm</think>yes"), Answer("yes", True)),
        (completion("yes", reasoning_content="hm"), Answer("yes", True)),
        (completion("yes", reasoning="hm"), Answer("yes", True)),
        (completion("<think>hm", finish_reason="length"), Answer("", False)),
        (completion("<think>hm", finish_reason="stop"), Answer("", False)),
        (completion(None, reasoning_content="hm", finish_reason="length"), Answer("", False)),
    ],
)
def test_the_thinking_is_no_part_of_the_answer(reply: Reply, answer: Answer) -> None:
    assert answer_to(reply) == answer


def test_a_thinking_that_the_template_opened_may_never_end() -> None:
    assert answer_to(completion("hm", finish_reason="length"), thinking_opened=True) == Answer("", False)
    assert answer_to(completion("yes", reasoning="hm"), thinking_opened=True) == Answer("yes", True)


# --- which model


def test_a_server_with_several_models_is_not_guessed_at() -> None:
    with (
        wire_server(serving(echo, "base", "adapter")) as server,
        pytest.raises(PipelineError, match=r"lists 2 models \(base, adapter\)"),
    ):
        answers(source(server), 1)


def test_a_named_model_is_asked_for_without_a_look_at_the_list() -> None:
    with wire_server(serving(echo, "base", "adapter")) as server:
        answers(source(server, model="adapter"), 1)
        assert [r.body["model"] for r in server.requests if r.body] == ["adapter"]
        assert "/v1/models" not in [r.path for r in server.requests]


def test_different_names_of_the_model_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with wire_server(serving(echo, "one")) as a, wire_server(serving(echo, "two")) as b:
        answers(source(a, b, in_flight=1), 8)
        assert {r.body["model"] for r in asked_of(a)} == {"one"}
    assert "one, two" in caplog.text


# --- several servers


def test_requests_are_spread_and_a_slow_server_gets_fewer() -> None:
    quick = serving(lambda request: completion(last_message(request), delay=0.01))
    slow = serving(lambda request: completion(last_message(request), delay=0.6))
    with wire_server(quick) as a, wire_server(slow) as b:
        answers(source(a, b, in_flight=2), 40)
        assert a.most_at_once <= 2
        assert b.most_at_once <= 2
        assert len(asked_of(a)) > 2 * len(asked_of(b)) > 0
        assert len(asked_of(a)) + len(asked_of(b)) == 40


@pytest.mark.parametrize("end", [Reply(drop=True), error(500, "died"), Reply(b"<html>")])
def test_a_server_that_dies_in_the_middle_leaves_its_prompts_to_the_others(
    end: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    def dying(request: Request) -> Reply:
        return echo(request) if request.number <= 4 else end  # the lists of models and traits are the numbers 0 and 1

    healthy = serving(lambda request: completion(f"to {last_message(request)}", delay=0.02))
    with wire_server(serving(dying)) as a, wire_server(healthy) as b:
        found = answers(source(a, b, in_flight=4), 30)
        assert len(asked_of(b)) >= 27
    assert [answer.text for answer in found] == [f"to prompt {i}" for i in range(30)]
    assert caplog.text.count(f"{a.url}/v1 is dropped, the others go on") == 1


def test_a_server_that_is_not_there_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with wire_server(echo) as gone:
        pass
    with wire_server(serving(echo)) as there:
        assert len(answers(source(gone, there), 5)) == 5
    assert f"{gone.url}/v1 is left out" in caplog.text


def test_the_loss_of_all_servers_is_an_error_and_loses_no_answer() -> None:
    both = threading.Barrier(2, timeout=60)

    def respond(request: Request) -> Reply:
        if last_message(request) in ("prompt 0", "prompt 1"):
            return echo(request)
        both.wait()
        return error(500, "died")

    received = []
    with (
        wire_server(serving(respond)) as a,
        wire_server(serving(respond)) as b,
        pytest.raises(PipelineError, match=r"failed with status 500.*died.*saved"),
    ):
        received.extend(source(a, b, in_flight=1).answer(prompts(9), nothing))
    assert sorted(index for index, _ in received) == [0, 1]


def test_no_server_at_all_is_an_error() -> None:
    with wire_server(echo) as gone:
        pass
    with pytest.raises(PipelineError, match="None of the servers can be reached"):
        answers(source(gone), 1)
    with pytest.raises(PipelineError, match="cannot be reached"):
        answers(source(gone, model="m"), 1)
    with pytest.raises(PipelineError, match="name at least one"):
        source()
    with pytest.raises(NetworkError, match="--endpoint: 'host:8000' is not the URL of a server"):
        EndpointAnswers(["host:8000"], SAMPLING)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (error(401, "no such key"), "rejected the API key"),
        (error(404, "no such model"), "has no model 'm'"),
        (error(400, "context length is 2048"), "context length is 2048"),
    ],
)
def test_an_error_that_every_server_would_give_ends_the_run_at_once(reply: Reply, message: str) -> None:
    over = threading.Event()

    def slow(request: Request) -> Reply:
        over.wait(60)
        return completion("late")

    with wire_server(serving(lambda _: reply)) as a, wire_server(serving(slow)) as b:
        with pytest.raises(PipelineError, match=message):
            answers(source(a, b, in_flight=2), 20)
        over.set()
        assert len(asked_of(b)) <= 2


@pytest.mark.parametrize(
    "listed",
    [Reply(b"<html>", headers={"content-type": "text/html"}), Reply(b"{no json"), error(404, "what?"), models()],
)
def test_a_server_that_lists_no_models_needs_a_model_name(listed: Reply) -> None:
    with (
        wire_server(lambda _: listed) as server,
        pytest.raises(PipelineError, match="lists no models: name the model with --"),
    ):
        answers(source(server), 1)


def test_a_consumer_that_stops_early_ends_the_requests() -> None:
    slow = threading.Event()

    def respond(request: Request) -> Reply:
        if last_message(request) != "prompt 0":
            slow.wait(60)
        return echo(request)

    with wire_server(serving(respond)) as server:
        started = time.monotonic()
        found = source(server, in_flight=3).answer(prompts(50), nothing)
        assert next(found)[0] == 0
        found.close()  # type: ignore[attr-defined]
        assert time.monotonic() - started < 30
        assert len(asked_of(server)) <= 4
        slow.set()
