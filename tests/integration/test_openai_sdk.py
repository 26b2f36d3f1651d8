"""The examples in the documentation of the openai package work with a server that scores.

The examples send no field of ours, and no type of the package declares one. Clients read the scores as extra fields:

- chat and completions: `completion.choices[0].traits` and `.traits_complete`. Streamed: `.traits` of a chunk's choice,
  parts to join, the last of which (with `finish_reason`) has the rest and the summary; with the helper
  `chat.completions.stream`, on `event.chunk` of the events of type `chunk`, and not in `get_final_completion()`.
- responses: `response.traits` and `.traits_complete`. Streamed: `event.traits` of the `.delta` events (parts), and
  everything in `event.response` of `response.completed`; with the helper `responses.stream`, which makes its own deltas
  and drops what it does not know, in `get_final_response()` alone.
"""

import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.support.answers import STREAMS, ReceivedChoice
from tests.support.cases import SCHEMA, TOOL, WEATHER
from tests.support.sdk import joined, scored_whole
from tests.support.serving import MODEL_NAME, Server

pytestmark = pytest.mark.engine

# The answer is one call of a tool.
ONE_CALL: Any = {"tool_choice": "required", "parallel_tool_calls": False}

MESSAGES: list[Any] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Say this is a test"},
]


class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    days: Literal[1, 2]


@pytest.fixture
def client(scored: Server) -> openai.OpenAI:
    return scored.client()


@pytest.fixture
async def async_client(scored: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with scored.async_client() as client:
        yield client


# chat


def _read_events(stream: Any, kind: str, part: str) -> tuple[str, list[Any]]:
    """Return the field `part` of the helper's events of one kind, joined, and the choices of all chunks."""
    events = list(stream)
    text = "".join(getattr(event, part) for event in events if event.type == kind)
    return text, [choice for event in events if event.type == "chunk" for choice in event.chunk.choices]


def test_openai_chat(client: openai.OpenAI) -> None:
    completion: Any = client.chat.completions.create(model=MODEL_NAME, temperature=0.0, messages=MESSAGES)
    assert completion.choices[0].message.content
    scored_whole(completion.choices[0], completion.usage.completion_tokens)


def test_openai_chat_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL_NAME, temperature=0.0, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks: list[Any] = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text
    scores = joined(chunk.choices[0] for chunk in chunks if chunk.choices)
    assert len(scores.traits["probe2"]["tokens"]) == chunks[-1].usage.completion_tokens
    assert chunks[-1].model_extra.keys().isdisjoint(("traits", "traits_complete"))


def test_openai_chat_streaming_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL_NAME, temperature=0.0, messages=MESSAGES, max_completion_tokens=40
    ) as stream:
        text, chunks = _read_events(stream, "content.delta", "delta")
    # `get_final_completion` raises an error where the answer of a random model reaches the limit.
    assert stream.current_completion_snapshot.choices[0].message.content == text
    joined(chunks)


def test_openai_chat_with_streaming_response(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=MODEL_NAME, temperature=0.0, messages=MESSAGES
    ) as response:
        assert response.headers["content-type"] == "application/json"
        completion: Any = response.parse()
    scored_whole(completion.choices[0], completion.usage.completion_tokens)


def test_openai_chat_with_raw_response(client: openai.OpenAI) -> None:
    response = client.chat.completions.with_raw_response.create(model=MODEL_NAME, temperature=0.0, messages=MESSAGES)
    completion: Any = response.parse()
    assert int(response.headers["content-length"]) == len(response.content)
    scored_whole(completion.choices[0], completion.usage.completion_tokens)


def test_openai_chat_parsed_into_a_model(client: openai.OpenAI) -> None:
    completion: Any = client.chat.completions.parse(
        model=MODEL_NAME,
        temperature=0.0,
        messages=MESSAGES,
        response_format=Weather,
        extra_body={"structured_outputs": {"json": SCHEMA}},
    )
    assert completion.choices[0].message.parsed.city in ("Paris", "Rome")
    scored_whole(completion.choices[0], completion.usage.completion_tokens)


def test_openai_chat_with_tools(client: openai.OpenAI) -> None:
    tools: Any = [TOOL]
    completion: Any = client.chat.completions.create(
        model=MODEL_NAME,
        temperature=0.0,
        messages=MESSAGES,
        tools=tools,
        **ONE_CALL,
    )
    call = completion.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert Weather.model_validate_json(call.function.arguments).days in (1, 2)
    scored_whole(completion.choices[0], completion.usage.completion_tokens)


def test_openai_chat_with_tools_streaming_helper(client: openai.OpenAI) -> None:
    tools: Any = [TOOL]
    with client.chat.completions.stream(
        model=MODEL_NAME,
        temperature=0.0,
        messages=MESSAGES,
        tools=tools,
        **ONE_CALL,
    ) as stream:
        arguments, chunks = _read_events(stream, "tool_calls.function.arguments.delta", "arguments_delta")
    calls = stream.get_final_completion().choices[0].message.tool_calls
    assert calls
    assert calls[0].function.arguments == arguments
    assert json.loads(arguments)["city"] in ("Paris", "Rome")
    joined(chunks)


async def test_openai_chat_async(async_client: openai.AsyncOpenAI) -> None:
    completion: Any = await async_client.chat.completions.create(model=MODEL_NAME, temperature=0.0, messages=MESSAGES)
    scored_whole(completion.choices[0], completion.usage.completion_tokens)
    stream = await async_client.chat.completions.create(
        model=MODEL_NAME, temperature=0.0, messages=MESSAGES, stream=True
    )
    joined([chunk.choices[0] async for chunk in stream])
    async with async_client.chat.completions.stream(model=MODEL_NAME, temperature=0.0, messages=MESSAGES) as helper:
        chunks = [choice async for event in helper if event.type == "chunk" for choice in event.chunk.choices]
    assert helper.current_completion_snapshot.choices[0].message.content
    joined(chunks)


# completions


def test_openai_completions(client: openai.OpenAI) -> None:
    completion: Any = client.completions.create(
        model=MODEL_NAME, temperature=0.0, prompt="Say this is a test", max_tokens=20
    )
    assert completion.choices[0].text
    scored_whole(completion.choices[0], completion.usage.completion_tokens)


def test_openai_completions_streamed(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=MODEL_NAME, temperature=0.0, prompt="Say this is a test", max_tokens=20, stream=True
    )
    joined(completion.choices[0] for completion in stream)


async def test_openai_completions_async(async_client: openai.AsyncOpenAI) -> None:
    completion: Any = await async_client.completions.create(
        model=MODEL_NAME, temperature=0.0, prompt="Say this is a test"
    )
    scored_whole(completion.choices[0], completion.usage.completion_tokens)
    stream = await async_client.completions.create(
        model=MODEL_NAME, temperature=0.0, prompt="Say this is a test", stream=True
    )
    joined([completion.choices[0] async for completion in stream])


# responses


def test_openai_responses(client: openai.OpenAI) -> None:
    response: Any = client.responses.create(
        model=MODEL_NAME,
        temperature=0.0,
        instructions="You are a coding assistant.",
        input="How do I check a type in Python?",
    )
    assert response.output_text
    scored_whole(response, response.usage.output_tokens)


def test_openai_responses_streamed(client: openai.OpenAI) -> None:
    for _ in range(STREAMS):
        early, whole = _streamed_response(client)
        if early >= whole / 2:
            break
    assert early >= whole / 2


def _streamed_response(client: openai.OpenAI) -> tuple[int, int]:
    """Check a streamed response; return how many tokens were scored before its end, and all of them."""
    stream = client.responses.create(model=MODEL_NAME, temperature=0.0, input="Write a story.", stream=True)
    events: list[Any] = list(stream)
    final = events[-1]
    assert final.type == "response.completed"
    scored_whole(final.response, final.response.usage.output_tokens)
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == final.response.output_text
    collected = ReceivedChoice()
    for event in deltas:
        collected.take(event.model_extra)
    for name, scores in final.response.traits.items():
        early = collected.traits[name]["tokens"]
        assert scores["tokens"][: len(early)] == early
    return min(len(scores["tokens"]) for scores in collected.traits.values()), final.response.usage.output_tokens


def test_openai_responses_streaming_helper(client: openai.OpenAI) -> None:
    text = ""
    with client.responses.stream(model=MODEL_NAME, temperature=0.0, input="Write a story.") as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
        final: Any = stream.get_final_response()
    assert final.output_text == text
    scored_whole(final, final.usage.output_tokens)


def test_openai_responses_conversation_with_tools(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", **WEATHER}]
    conversation: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    first: Any = client.responses.create(
        model=MODEL_NAME,
        temperature=0.0,
        input=conversation,
        tools=tools,
        **ONE_CALL,
    )
    scored_whole(first, first.usage.output_tokens)
    call = next(item for item in first.output if item.type == "function_call")
    conversation += first.output
    conversation.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    second: Any = client.responses.create(
        model=MODEL_NAME, temperature=0.0, input=conversation, tools=tools, tool_choice="none"
    )
    scored_whole(second, second.usage.output_tokens)


async def test_openai_responses_async(async_client: openai.AsyncOpenAI) -> None:
    response: Any = await async_client.responses.create(
        model=MODEL_NAME, temperature=0.0, input="Explain disestablishmentarianism."
    )
    scored_whole(response, response.usage.output_tokens)
    async with async_client.responses.stream(model=MODEL_NAME, temperature=0.0, input="Write a story.") as stream:
        kinds = {event.type async for event in stream}
        final: Any = await stream.get_final_response()
    assert "response.output_text.delta" in kinds
    scored_whole(final, final.usage.output_tokens)


def test_openai_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL_NAME]
