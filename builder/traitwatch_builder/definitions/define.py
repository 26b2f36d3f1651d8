"""Define a trait: Claude writes the definition, or any other assistant by copy and paste.

`define_prompt` renders the prompt from the template `define_prompt.md.j2`. The prompt shows parts of a shipped
definition as a model. The API holds Claude's answer to a JSON schema (`SCHEMA`). No schema can express counts,
duplicates and placeholders: `whole_definition` checks them afterwards. Where this check fails, `define_trait` asks
Claude once more and lists the problems. Every definition is checked before use, a pasted one too.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console

from traitwatch.errors import ArtifactError, StorageError
from traitwatch_builder.clients.usage import CHARACTERS_PER_TOKEN, Usage
from traitwatch_builder.definitions.definition import (
    NUM_EXAMPLES,
    NUM_INSTRUCTIONS,
    NUM_QUESTIONS,
    SHIPPED_DEFINITIONS,
    WholeDefinition,
    load_definition,
    whole_definition,
)
from traitwatch_builder.errors import PipelineError

DEFAULT_CLAUDE_MODEL = "claude-sonnet-5-5"
# Commas that are left out at most: for each, the text is parsed anew.
_MOST_COMMAS = 200
# Places at which an object is looked for in vain.
_MOST_STARTS = 500


def _texts(*keys: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {key: {"type": "string"} for key in keys},
        "required": list(keys),
        "additionalProperties": False,
    }


# The API refuses minItems and maxItems above 1: the descriptions state the counts, and a later check verifies them.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "description": {"type": "string"},
        "instruction": {
            "type": "array",
            "items": _texts("pos", "neg"),
            "description": f"Exactly {NUM_INSTRUCTIONS} pairs, each on another side of the trait.",
        },
        "questions": {
            "type": "array",
            "items": {"type": "string"},
            "description": f"Exactly {NUM_QUESTIONS} messages, no two on the same subject.",
        },
        "eval_prompt": {
            "type": "string",
            "description": "Holds {question} and {answer} once each, and no other curly bracket; offers REFUSAL.",
        },
        "examples": {
            "type": "array",
            "items": _texts("question", "pos", "neg"),
            "description": f"Exactly {NUM_EXAMPLES} examples; none of the questions above.",
        },
    },
    "required": ["description", "instruction", "questions", "eval_prompt", "examples"],
    "additionalProperties": False,
}


def define_prompt(trait: str, description: str | None, *, pasted: bool = False) -> str:
    """Return the prompt that asks for a trait's definition.

    Args:
        trait: the trait's name.
        description: the user's explanation of the trait, or None.
        pasted: True for an assistant that gets no schema: the prompt then describes the form of the JSON as well.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SHIPPED_DEFINITIONS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        autoescape=False,
    )
    model = load_definition(SHIPPED_DEFINITIONS / "trait_data_extract" / "paternalism.json")
    parts = {
        "instruction": [pair.model_dump() for pair in model.instruction[:2]],
        "questions": model.questions[:4],
        "eval_prompt": model.eval_prompt,
        # A shared opening with another closing.
        "examples": [model.examples[i].model_dump() for i in (0, 8)],
    }
    return environment.get_template("define_prompt.md.j2").render(
        trait=trait,
        description=(description or "").strip(),
        pasted=pasted,
        num_instructions=NUM_INSTRUCTIONS,
        num_questions=NUM_QUESTIONS,
        num_examples=NUM_EXAMPLES,
        model=model,
        model_parts=json.dumps(parts, indent=1, ensure_ascii=False),
    )


def estimated_input_tokens(trait: str, description: str | None) -> int:
    """Estimate the input tokens of a request for a definition: the characters of prompt and schema, divided by 4."""
    return (len(define_prompt(trait, description)) + len(json.dumps(SCHEMA))) // CHARACTERS_PER_TOKEN


def define_trait(
    trait: str, description: str | None, claude_model: str, console: Console
) -> tuple[WholeDefinition, Usage]:
    """Ask Claude to write the definition of a trait.

    Args:
        trait: the trait's name.
        description: the user's explanation of the trait; with None, Claude works from the name alone.
        claude_model: a Claude model's name or alias.
        console: the console that shows the progress.

    Returns:
        The checked definition, and the calls and tokens that Claude used.

    Raises:
        PipelineError: see `Claude.ask`; or two answers in a row were no usable definition.
    """
    # The import stands here because the SDK takes a second to import. A pasted definition does not need the SDK.
    from traitwatch_builder.clients.claude import Claude

    claude = Claude(claude_model, SCHEMA, console)
    messages = [{"role": "user", "content": define_prompt(trait, description)}]
    for last in (False, True):
        answer = claude.ask(messages)
        try:
            return _from_claude(answer), claude.usage
        except ArtifactError as error:
            if last:
                path = keep(trait, answer)
                raise PipelineError(
                    f"{claude_model} gave no usable definition of {trait} twice. {error}\nThe last answer is saved in "
                    f"{path}: mend it and give it with --from, or try again. Spent: {claude.usage}."
                ) from error
            console.print(f"{error}\nAsking once more.", markup=False)
            messages += _complaint(answer, error)
    raise AssertionError("unreachable")


def _from_claude(answer: str) -> WholeDefinition:
    whole = whole_definition(parse_reply(answer, "The answer"), "The answer")
    if len(whole.examples) != NUM_EXAMPLES:
        raise ArtifactError(
            f"The answer is not a usable trait definition:\n- examples: {len(whole.examples)} of them, where "
            f"{NUM_EXAMPLES} are needed"
        )
    return whole


def _complaint(answer: str, error: ArtifactError) -> list[dict[str, str]]:
    complaint = f"{error}\n\nGive the whole definition again, with this mended and the rest as it was."
    # The API refuses an empty message.
    content = answer.strip() or "(no answer)"
    return [{"role": "assistant", "content": content}, {"role": "user", "content": complaint}]


def keep(trait: str, text: str) -> Path:
    """Save an answer, since the user has paid for the answer; return the path of the file.

    The file goes into the cache folder. Where that folder cannot be written, it goes into a temporary folder.
    """
    from traitwatch.cache import cache_directory
    from traitwatch.files import write_atomically

    try:
        directory = cache_directory("definitions")
    except StorageError:
        directory = Path(tempfile.mkdtemp(prefix="traitwatch-"))
    path = directory / f"{trait}.txt"
    write_atomically(path, text.encode(errors="replace"))
    return path


def parse_reply(text: str, source: str) -> Any:
    """Find the JSON object in an assistant's text: alone, in a code fence, inside another, or with words around it.

    A comma before a closing bracket is left out, as programs that write JSON by hand mean it.

    Raises:
        ArtifactError: the text contains no complete object with a key of a definition, or an object with one key twice.
    """
    # Line breaks in strings are accepted: pasting adds them.
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=_without_repeats)
    fault: str | None = None
    commas = 0
    best: dict[str, Any] = {}
    start = text.find("{")
    failed = 0
    # Each place costs a look at all of the text, so that text of brackets alone would take hours.
    while start >= 0 and failed < _MOST_STARTS:
        try:
            found, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            comma = _trailing_comma(text, error.pos)
            if comma is not None and commas < _MOST_COMMAS:
                commas += 1
                text = f"{text[:comma]} {text[comma + 1 :]}"
                continue
            fault = fault or _place(text, error)
            end, failed = start + 1, failed + 1
        except (ValueError, RecursionError) as error:
            deep = isinstance(error, RecursionError)
            fault = fault or ("it is nested too deeply" if deep else "it has a number with too many digits")
            end, failed = start + 1, failed + 1
        else:
            # The object with the most keys of a definition wins, and of several such objects the last one. The user
            # may paste a whole chat, and the prompt in the chat contains such objects too.
            best = max([best, *_objects(found)][::-1], key=_keys)
        start = text.find("{", end)
    if _keys(best):
        return best
    if not text.strip():
        raise ArtifactError(f"{source} is empty.")
    reason = f": {fault}" if fault else ""
    raise ArtifactError(f"{source} holds no complete JSON object with a trait definition{reason}.")


def _keys(found: dict[str, Any]) -> int:
    return len(SCHEMA["properties"].keys() & found.keys())


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        if twice in SCHEMA["properties"]:
            raise ArtifactError(f"The key {twice!r} occurs twice in one object; remove one of the two.")
    return found


def _objects(found: Any) -> Iterator[dict[str, Any]]:
    """Return a JSON value's objects, itself included, the outer ones first."""
    values = [found]
    for value in values:  # grows while it is read
        if isinstance(value, dict):
            yield value
            values += value.values()
        elif isinstance(value, list):
            values += value


def _trailing_comma(text: str, place: int) -> int | None:
    """Return where the comma stands before the closing bracket at which a decoder failed; None where there is none."""
    # Some versions of Python report the comma's place, and some the bracket's.
    if text[place : place + 1] == ",":
        return place if text[place + 1 :].lstrip()[:1] in ("}", "]") else None
    before = text[:place].rstrip()
    return len(before) - 1 if text[place : place + 1] in ("}", "]") and before.endswith(",") else None


def _place(text: str, error: json.JSONDecodeError) -> str:
    curly = text[error.pos : error.pos + 1]
    reason = f"{curly} is no straight quote" if curly and curly in "\u201c\u201d\u201e" else error.msg
    return f"line {error.lineno}, column {error.colno}: {reason}"
