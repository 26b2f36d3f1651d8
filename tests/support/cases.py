"""Requests of every kind for vLLM's endpoints. Two servers of the same model answer each request alike."""

from dataclasses import dataclass, field
from typing import Any

from tests.support.serving import MODEL_NAME

CHAT, COMPLETIONS, BATCH = "/v1/chat/completions", "/v1/completions", "/v1/chat/completions/batch"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
ENDPOINTS = (CHAT, COMPLETIONS, BATCH, RESPONSES, MESSAGES)

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A request.

    Attributes:
        path: the endpoint.
        body: the body without `stream`.
        stream: further fields of the body when it is streamed; None if vLLM does not stream this request.
        expected_text: a text in the answer, streamed or not, that shows the feature under test.
        token_fields: fields of the body with which the answer has the ids of its tokens.
        twins: for an answer without token ids: for each choice, a chat with the same prompt and the same tokens.
    """

    path: str
    body: Json
    stream: Json | None = field(default_factory=dict)
    expected_text: str = ""
    token_fields: Json = field(default_factory=lambda: {"return_token_ids": True})
    twins: tuple[Json, ...] = ()


CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why do cats purr?"}]
CONVERSATIONS = [CONVERSATION, CONVERSATION[1:]]
SEEDED = {"model": MODEL_NAME, "temperature": 1.0, "seed": 5, "max_tokens": 24}
# Long enough for every answer that a grammar asks for.
GRAMMAR = {**SEEDED, "max_tokens": 300}
# The server's options for the requests above. A grammar holds from the first token on, so that any model can be made to
# think and to call tools.
GRAMMAR_OPTIONS = (
    "--structured-outputs-config",
    '{"enable_in_reasoning": true, "disable_any_whitespace": true, "backend": "xgrammar"}',
)
# Beside other requests, vLLM may prefill a prompt in chunks. Then vLLM's CPU build cannot use the seed of the request.
GREEDY = {"model": MODEL_NAME, "temperature": 0.0, "max_tokens": 24}
WEATHER: Json = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "strict": True,
}
SCHEMA: Json = WEATHER["parameters"]
TOOL: Json = {"type": "function", "function": WEATHER}
LENIENT_TOOL: Json = {"type": "function", "function": {**WEATHER, "strict": False}}
# A model with random weights calls no tool by itself. The grammar makes it call one.
CALL = {
    "regex": r'ok(<tool_call>\n\{"name": "get_weather", "arguments": \{"city": "(Paris|Rome)"\}\}\n</tool_call>){2}'
}


def _chat(more: Json, base: Json = SEEDED, **of_case: Any) -> Case:
    return Case(CHAT, {**base, "messages": CONVERSATION, **more}, **of_case)


def _completions(more: Json, **of_case: Any) -> Case:
    return Case(COMPLETIONS, {**SEEDED, "prompt": "The lighthouse keeper said", **more}, **of_case)


def _responses(more: Json, **of_case: Any) -> Case:
    body = {"model": MODEL_NAME, "input": "Why do cats purr?", "temperature": 1.0, "seed": 5, "max_output_tokens": 24}
    return Case(RESPONSES, {**body, **more}, token_fields={"enable_response_messages": True}, **of_case)


def _messages(more: Json, twin: Json, **of_case: Any) -> Case:
    body = {**GREEDY, "messages": CONVERSATION[1:], **more}
    chat = {key: body[key] for key in ("model", "messages", "temperature", "max_tokens")}
    return Case(MESSAGES, body, twins=({**chat, **twin},), token_fields={}, **of_case)


CASES: dict[str, Case] = {
    "chat": _chat({}),
    "chat, three choices": _chat({"n": 3}),
    "chat, logprobs": _chat({"logprobs": True, "top_logprobs": 3}, expected_text="top_logprobs"),
    "chat, prompt logprobs": _chat({"prompt_logprobs": 1}, stream=None, expected_text='"prompt_logprobs":[null,{'),
    "chat, token ids": _chat({"return_token_ids": True}, expected_text='"token_ids":['),
    "chat, echo": _chat(
        {
            "messages": [*CONVERSATION, {"role": "assistant", "content": "Because"}],
            "echo": True,
            "add_generation_prompt": False,
            "continue_final_message": True,
        },
        expected_text="Because",
    ),
    "chat, stop strings": _chat(
        {"max_tokens": 200, "stop": ["a", "e", "i", "o"], "min_tokens": 10}, expected_text='"stop"'
    ),
    "chat, stop string kept": _chat(
        {"max_tokens": 200, "stop": ["a", "e", "i", "o"], "include_stop_str_in_output": True}, expected_text='"stop"'
    ),
    "chat, usage": _chat({}, stream={"stream_options": {"include_usage": True}}, expected_text="completion_tokens"),
    "chat, usage all along": _chat(
        {"n": 2}, stream={"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    ),
    "chat, JSON schema": _chat(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}},
        GRAMMAR,
        expected_text='"content":"{',
    ),
    "chat, regex": _chat({"structured_outputs": {"regex": "[a-f]{8}-[0-9]{4}"}}, GRAMMAR),
    "chat, choice": _chat({"structured_outputs": {"choice": ["red", "green"]}}, GRAMMAR),
    "chat, tool required": _chat(
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
        GRAMMAR,
        expected_text='"tool_calls":[{',
    ),
    "chat, tool named": _chat(
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        GRAMMAR,
        expected_text='"tool_calls":[{',
    ),
    "chat, tools called": _chat(
        {"tools": [LENIENT_TOOL], "tool_choice": "auto", "structured_outputs": CALL},
        GRAMMAR,
        expected_text='"tool_calls":[{',
    ),
    "batch": Case(
        BATCH,
        {**GREEDY, "messages": CONVERSATIONS, "logprobs": True, "top_logprobs": 2},
        stream=None,
        twins=tuple({**GREEDY, "messages": conversation} for conversation in CONVERSATIONS),
    ),
    "completions": _completions({}),
    "completions, prompts and choices": _completions({"prompt": ["One apple, two", "The sea"], "n": 2, "logprobs": 2}),
    "completions, token ids as prompts": _completions({"prompt": [[40, 41, 42], [50, 51, 52, 53]]}),
    "completions, echo": _completions({"echo": True, "logprobs": 1}, expected_text="The lighthouse keeper said"),
    "completions, echo alone": _completions(
        {"echo": True, "max_tokens": 0}, expected_text="The lighthouse keeper said"
    ),
    "completions, prompt logprobs": _completions({"prompt_logprobs": 2}, stream=None),
    "completions, stop strings": _completions(
        {"max_tokens": 200, "stop": ["a", "e"], "min_tokens": 30, "include_stop_str_in_output": True},
        expected_text='"stop"',
    ),
    "completions, usage all along": _completions(
        {}, stream={"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    ),
    "completions, regex": _completions({"max_tokens": 50, "structured_outputs": {"regex": "[a-f]{8}"}}),
    "responses": _responses({}),
    "responses, a conversation": _responses(
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": "Good morning."},
                {"role": "assistant", "content": "Good morning to you."},
                {"role": "user", "content": "Why do cats purr?"},
            ],
        },
        expected_text="Be brief.",
    ),
    "responses, logprobs": _responses(
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2}, expected_text='"top_logprobs":['
    ),
    "responses, JSON schema": _responses(
        {
            "text": {"format": {"type": "json_schema", "name": "weather", "schema": SCHEMA, "strict": True}},
            "max_output_tokens": 300,
        },
        expected_text='"text":"{',
    ),
    "responses, tool required": _responses(
        {
            "tools": [{"type": "function", **WEATHER}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "max_output_tokens": 300,
        },
        expected_text='"type":"function_call"',
    ),
    "messages": _messages({}, {}),
    "messages, system": _messages({"system": "Be brief."}, {"messages": CONVERSATION}),
    "messages, stop sequences": _messages(
        {"max_tokens": 200, "stop_sequences": ["a", "e", "i", "o"]},
        {"stop": ["a", "e", "i", "o"]},
        expected_text='"stop_reason":"stop_sequence"',
    ),
    "messages, tool required": _messages(
        {
            "tools": [{"name": "get_weather", "description": "Weather.", "input_schema": SCHEMA, "strict": True}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "max_tokens": 300,
        },
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
        expected_text='"type":"tool_use"',
    ),
    "messages, JSON schema": _messages(
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}, "max_tokens": 300},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}},
        expected_text='"text":"{',
    ),
}


def bare(path: str) -> Json:
    """Return the body of a short request to an endpoint."""
    case = {CHAT: "chat", COMPLETIONS: "completions", BATCH: "batch", RESPONSES: "responses", MESSAGES: "messages"}
    return CASES[case[path]].body


# Values of the `traits` field that are refused, each with a part of the message.
MALFORMED: list[tuple[Any, str]] = [
    ({"include": ["kindness"]}, "no trait 'kindness' is loaded"),
    ({"include": "probe1"}, "traits.include"),
    ({"include": [1]}, "traits.include"),
    ({"tokens": 1}, "traits.tokens"),
    ({"prompt": "yes"}, "traits.prompt"),
    ({"includes": ["probe1"]}, "traits.includes"),
    ("probe1", "traits must be"),
    (["probe1"], "traits must be"),
    (1, "traits must be"),
]
