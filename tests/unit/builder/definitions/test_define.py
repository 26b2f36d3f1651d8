"""`define_trait` asks Claude for a definition by a schema, and asks again after an unusable answer."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.claude import GOOD, NO_ADAPTIVE, ONE_CALL, TEXT, Serve, faulty
from tests.support.wire import anthropic as wire
from traitwatch.errors import ArtifactError
from traitwatch_builder.clients.usage import Usage
from traitwatch_builder.definitions.define import SCHEMA, define_trait, parse_reply
from traitwatch_builder.errors import PipelineError

pytestmark = pytest.mark.usefixtures("apart")


def ask(model: str = "claude-test") -> tuple[Any, Usage, str]:
    """Define deception; return the definition, its cost and the text on the console."""
    output = io.StringIO()
    whole, usage = define_trait("deception", "lying", model, Console(file=output, width=1000))
    return whole.model_dump(), usage, output.getvalue()


def test_an_answer_becomes_a_definition_at_its_price(serve: Serve) -> None:
    server = serve(wire.streamed(TEXT))
    whole, usage, _ = ask("claude-sonnet-9")
    assert whole == GOOD
    assert usage == ONE_CALL
    (request,) = server.requests
    assert request.body["model"] == "claude-sonnet-9"
    assert request.body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert "deception" in request.body["messages"][0]["content"]
    assert "lying" in request.body["messages"][0]["content"]


def test_the_schema_asks_for_all_keys_and_nothing_that_the_api_refuses() -> None:
    def check(node: Any) -> None:
        if isinstance(node, dict):
            assert not {"minItems", "maxItems", "minLength", "pattern"} & node.keys()
            if node.get("type") == "object":
                assert node["additionalProperties"] is False
                assert node["required"] == list(node["properties"])
            for child in node.values():
                check(child)

    check(SCHEMA)
    assert set(SCHEMA["required"]) == set(GOOD)


def test_the_second_try_is_asked_in_the_way_that_the_model_takes(serve: Serve) -> None:
    server = serve(NO_ADAPTIVE, wire.streamed("{}"), wire.streamed(TEXT))
    ask()
    assert server.requests[2].body["thinking"]["type"] == "enabled"


@pytest.mark.parametrize(
    ("first", "fault"),
    [
        (faulty(questions=GOOD["questions"][:39]), "questions: 39 of them, where 40 are needed"),
        (faulty(examples=GOOD["examples"][:14]), "examples: 14 of them, where 16 are needed"),
        (TEXT[:-300], "holds no complete JSON object"),
        ("I would rather talk about the weather.", "holds no complete JSON object"),
        ("", "is empty"),
    ],
    ids=["39 questions", "14 examples", "malformed", "no JSON", "empty"],
)
def test_the_second_try_names_the_fault_of_the_first(serve: Serve, first: str, fault: str) -> None:
    server = serve(wire.streamed(first), wire.streamed(TEXT))
    whole, usage, printed = ask()
    assert whole == GOOD
    assert usage == ONE_CALL + ONE_CALL
    assert fault in printed
    messages = server.requests[1].body["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[0] == server.requests[0].body["messages"][0]
    assert messages[1]["content"] == (first or "(no answer)")
    assert fault in messages[2]["content"]


def test_after_two_unusable_answers_the_last_is_saved(serve: Serve, tmp_path: Path) -> None:
    last = faulty(eval_prompt="{question} {answer}")
    server = serve(wire.streamed(faulty(questions=[])), wire.streamed(last))
    with pytest.raises(PipelineError) as caught:
        ask()
    message = str(caught.value)
    assert "twice" in message
    assert "does not offer REFUSAL" in message
    assert str(ONE_CALL + ONE_CALL) in message
    assert len(server.requests) == 2
    saved = tmp_path / "cache" / "definitions" / "deception.txt"
    assert f"saved in {saved}: mend it and give it with --from" in message
    assert saved.read_text() == last


@pytest.mark.parametrize(
    "text", ['{"a":' * 100_000, "{" * 500_000, '{"a": ' + "9" * 6000 + "}"], ids=["nested", "open", "digits"]
)
def test_text_in_which_nothing_can_be_found_is_refused_soon(text: str) -> None:
    """Each bracket may begin an object, and to look from each to the end would take hours."""
    with pytest.raises(ArtifactError, match="holds no complete JSON object with a trait definition: ") as error:
        parse_reply(text, "reply.json")
    assert "sys." not in str(error.value)
