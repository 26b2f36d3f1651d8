"""The examples in the documentation of the anthropic package work with a server that scores.

The examples send no field of ours, and no type of the package declares one. Clients read the scores as extra fields:

- unstreamed: `message.traits` and `message.traits_complete`;
- streamed, also with the helper `messages.stream`: `event.traits` of the events `content_block_delta` (parts) and
  `message_delta` (the rest and the summary). `get_final_message()` has no scores.
"""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from tests.support.cases import SCHEMA
from tests.support.sdk import joined, scored_whole
from tests.support.serving import MODEL_NAME, Server

pytestmark = pytest.mark.engine

# The anthropic SDK has no argument for the temperature any more. Without temperature 0, an answer may be empty.
GREEDY = {"temperature": 0.0}
HELLO: list[Any] = [{"role": "user", "content": "Hello, Claude"}]


@pytest.fixture
def claude(scored: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=scored.url, api_key="none", max_retries=0)


@pytest.fixture
async def async_claude(scored: Server) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=scored.url, api_key="none", max_retries=0) as claude:
        yield claude


def test_anthropic_messages(claude: anthropic.Anthropic) -> None:
    message: Any = claude.messages.create(max_tokens=100, messages=HELLO, model=MODEL_NAME, extra_body=GREEDY)
    assert message.content[0].text
    scored_whole(message, message.usage.output_tokens)


def test_anthropic_messages_streamed(claude: anthropic.Anthropic) -> None:
    stream = claude.messages.create(max_tokens=100, messages=HELLO, model=MODEL_NAME, extra_body=GREEDY, stream=True)
    events: list[Any] = list(stream)
    assert [events[0].type, events[-1].type] == ["message_start", "message_stop"]
    scores = joined(events)
    ended = next(event for event in events if event.type == "message_delta")
    assert len(scores.traits["probe1"]["tokens"]) == ended.usage.output_tokens
    assert ended.traits_complete is True


def test_anthropic_streaming_helper(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(max_tokens=100, messages=HELLO, model=MODEL_NAME, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
    message = stream.get_final_message()
    assert message.content[0].type == "text"
    assert message.content[0].text == text
    assert message.stop_reason in ("end_turn", "max_tokens")


def test_anthropic_streaming_helper_has_the_scores_on_its_events(claude: anthropic.Anthropic) -> None:
    carriers: list[Any] = []
    with claude.messages.stream(max_tokens=100, messages=HELLO, model=MODEL_NAME, extra_body=GREEDY) as stream:
        for event in stream:
            if event.type in ("content_block_delta", "message_delta"):
                carriers.append(event)
        message = stream.get_final_message()
    assert len(joined(carriers).traits["probe1"]["tokens"]) == message.usage.output_tokens


def test_anthropic_tools(claude: anthropic.Anthropic) -> None:
    tools: Any = [{"name": "get_weather", "description": "Weather.", "input_schema": SCHEMA, "strict": True}]
    request: Any = {"max_tokens": 300, "messages": HELLO, "model": MODEL_NAME, "tools": tools, "extra_body": GREEDY}
    one_call: Any = {"type": "any", "disable_parallel_tool_use": True}
    message: Any = claude.messages.create(**request, tool_choice=one_call)
    assert message.stop_reason == "tool_use"
    call = next(block for block in message.content if block.type == "tool_use")
    assert call.input["city"] in ("Paris", "Rome")
    scored_whole(message, message.usage.output_tokens)
    with claude.messages.stream(**request, tool_choice=one_call) as stream:
        carriers = [event for event in stream if event.type in ("content_block_delta", "message_delta")]
        streamed = stream.get_final_message()
    assert any(block.type == "tool_use" for block in streamed.content)
    assert len(joined(carriers).traits["probe1"]["tokens"]) == streamed.usage.output_tokens
    conversation = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]
    second: Any = claude.messages.create(
        max_tokens=40, messages=conversation, model=MODEL_NAME, extra_body=GREEDY, tools=tools
    )
    scored_whole(second, second.usage.output_tokens)


def test_anthropic_count_tokens(claude: anthropic.Anthropic) -> None:
    assert claude.messages.count_tokens(messages=HELLO, model=MODEL_NAME).input_tokens > 10


async def test_anthropic_async(async_claude: anthropic.AsyncAnthropic) -> None:
    message: Any = await async_claude.messages.create(
        max_tokens=100, messages=HELLO, model=MODEL_NAME, extra_body=GREEDY
    )
    scored_whole(message, message.usage.output_tokens)
    async with async_claude.messages.stream(
        max_tokens=100, messages=HELLO, model=MODEL_NAME, extra_body=GREEDY
    ) as stream:
        text = "".join([part async for part in stream.text_stream])
        final = await stream.get_final_message()
    assert final.content[0].type == "text"
    assert final.content[0].text == text
    events = await async_claude.messages.create(
        max_tokens=100, messages=HELLO, model=MODEL_NAME, extra_body=GREEDY, stream=True
    )
    joined([event async for event in events])
