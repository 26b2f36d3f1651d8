"""Trait definitions: `trait_data_extract/<trait>.json` and `trait_data_eval/<trait>.json`.

Both files have the keys of the Persona Vectors authors' files. Traitwatch adds two optional keys: `examples`, for
many-shot elicitation, and `description`. A *whole* definition is a new definition by Claude, another assistant or a
person. A whole definition must pass more checks than an existing file (`whole_definition`). `save_definition` splits a
whole definition into the two files.
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, to_jsonable_python

from traitwatch.errors import ArtifactError
from traitwatch.files import Place, listed, read_bytes, read_json, write_atomically
from traitwatch_builder.definitions.texts import damage, numbered

NUM_INSTRUCTIONS = 5
NUM_QUESTIONS = 40
NUM_EXAMPLES = 16
MIN_EXAMPLES = 4
MIN_QUESTIONS = 4
ANY_NUMBER = "any number of questions"
PLACEHOLDERS = ("{question}", "{answer}")
# The directories of a definition's two files: the extraction half, the evaluation half.
KINDS = ("trait_data_extract", "trait_data_eval")
# The shipped definitions stand beside this module.
SHIPPED_DEFINITIONS = Path(__file__).parent

# Types of pydantic errors about the content of a field, not its shape. `_problems` reports these with their places.
_OF_CONTENT = {"value_error", "string_too_short", "too_short"}


class InstructionPair(BaseModel):
    """Two system instructions that differ in the trait alone."""

    model_config = ConfigDict(extra="forbid")
    pos: str = Field(min_length=1, description="elicits the trait")
    neg: str = Field(min_length=1, description="elicits its opposite")

    @model_validator(mode="after")
    def _differ(self) -> "InstructionPair":
        if self.pos.strip() == self.neg.strip():
            raise ValueError("the positive and the negative instruction are the same text")
        return self


class Example(BaseModel):
    """One many-shot example: a question with an answer that shows the trait and one that does not."""

    model_config = ConfigDict(extra="forbid")
    question: str = Field(min_length=1, description="the question")
    pos: str = Field(min_length=1, description="an answer that shows the trait")
    neg: str = Field(min_length=1, description="an answer that does not show the trait")


class TraitDefinition(BaseModel):
    """A trait, as the pipeline needs it: one file of `trait_data_extract/` or `trait_data_eval/`."""

    model_config = ConfigDict(extra="forbid")
    instruction: list[InstructionPair] = Field(min_length=1, description="system instructions, 5 in a new definition")
    questions: list[str] = Field(min_length=1, description="questions, 20 in each file of a new definition")
    eval_prompt: str = Field(description="prompt of the judge, with `{question}` and `{answer}` in it")
    examples: list[Example] = Field(
        default_factory=list, description="examples for many-shot elicitation; not in the authors' files"
    )
    description: str = Field(default="", description="meaning of the trait; not in the authors' files")

    @model_validator(mode="after")
    def _usable(self) -> "TraitDefinition":
        for placeholder in PLACEHOLDERS:
            if placeholder not in self.eval_prompt:
                raise ValueError(f"eval_prompt lacks the placeholder {placeholder}")
        if len({q.strip() for q in self.questions}) != len(self.questions):
            raise ValueError("two of the questions are the same")
        return self


class WholeDefinition(BaseModel):
    """A new definition before the split: 5 instruction pairs, 40 questions, no examples or an even number of 4 or more.

    Validation finds every problem and its place. `whole_definition` reports all problems in one `ArtifactError`. With
    the validation's context `ANY_NUMBER`, the number of questions is free, from `MIN_QUESTIONS` on.
    """

    model_config = ConfigDict(extra="forbid")
    description: str
    instruction: list[InstructionPair]
    questions: list[str]
    eval_prompt: str
    examples: list[Example] = Field(default_factory=list)

    @model_validator(mode="wrap")
    @classmethod
    def _all_problems_at_once(
        cls, data: Any, handler: ModelWrapValidatorHandler["WholeDefinition"], info: ValidationInfo
    ) -> Any:
        shape: list[InitErrorDetails] = []
        spoilt: set[Any] = set()
        whole = None
        try:
            whole = handler(data)
        except ValidationError as error:
            for line in error.errors(include_url=False):
                if line["type"] not in _OF_CONTENT or not line["loc"]:
                    spoilt.add(line["loc"][0] if line["loc"] else None)
                    shape.append(_detail(line["loc"], _shape(line)))
        fields = data if isinstance(data, dict) else {}
        sound = to_jsonable_python({k: v for k, v in fields.items() if k in cls.model_fields and k not in spoilt})
        details = shape + [_detail(place, message) for place, message in _problems(sound, info.context == ANY_NUMBER)]
        if details:
            raise ValidationError.from_exception_data(cls.__name__, details)
        return whole


def _detail(place: Place, message: str) -> InitErrorDetails:
    # The message is passed as context, so that pydantic leaves braces in the message unchanged.
    error = PydanticCustomError("definition", "{message}", {"message": message})
    return InitErrorDetails(type=error, loc=place, input=None)


def _shape(error: ErrorDetails) -> str:
    """Say what is wrong with the shape of a value."""
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "string_type" and isinstance(error["input"], dict):
        keys = ", ".join(map(repr, error["input"]))[:60]
        return f"is an object with the key {keys}, where a text is needed"
    return error["msg"]


def _problems(fields: dict[str, Any], any_number: bool) -> Iterator[tuple[Place, str]]:
    """Find the problems in the content of the fields. `fields` lacks every field of a wrong shape."""
    yield from _unfit(((key,), fields[key]) for key in ("description", "eval_prompt") if key in fields)
    if "instruction" in fields:
        yield from _instruction_problems(fields["instruction"])
    questions = [(("questions", i), text) for i, text in enumerate(fields.get("questions", []))]
    examples = fields.get("examples", [])
    if "questions" in fields:
        if any_number and len(questions) < MIN_QUESTIONS:
            yield ("questions",), f"{len(questions)} of them, where at least {MIN_QUESTIONS} are needed"
        if not any_number and len(questions) != NUM_QUESTIONS:
            yield ("questions",), f"{len(questions)} of them, where {NUM_QUESTIONS} are needed"
        yield from _unfit(questions)
        for i in numbered(fields["questions"]):
            yield ("questions", i), "begins with a number or a mark of a list, which the model would read; remove it"
    if "eval_prompt" in fields:
        yield from _eval_prompt_problems(fields["eval_prompt"])
    yield from _example_problems(examples)
    yield from _repeated(questions + [(("examples", i, "question"), e["question"]) for i, e in enumerate(examples)])


def _instruction_problems(pairs: list[dict[str, str]]) -> Iterator[tuple[Place, str]]:
    if len(pairs) != NUM_INSTRUCTIONS:
        yield ("instruction",), f"{len(pairs)} pairs, where {NUM_INSTRUCTIONS} are needed"
    texts = [(("instruction", i, polarity), pair[polarity]) for i, pair in enumerate(pairs) for polarity in pair]
    yield from _unfit(texts)
    yield from _repeated(texts)


def _example_problems(examples: list[dict[str, str]]) -> Iterator[tuple[Place, str]]:
    if examples and (len(examples) < MIN_EXAMPLES or len(examples) % 2):
        yield (
            ("examples",),
            f"{len(examples)} of them, where an even number of at least {MIN_EXAMPLES}, or none, is needed",
        )
    yield from _unfit((("examples", i, key), text) for i, e in enumerate(examples) for key, text in e.items())
    for i, example in enumerate(examples):
        if _essence(example["pos"]) == _essence(example["neg"]):
            yield ("examples", i), "pos and neg are the same answer"


def _eval_prompt_problems(prompt: str) -> Iterator[tuple[Place, str]]:
    rest = prompt
    for placeholder in PLACEHOLDERS:
        if placeholder not in prompt:
            yield ("eval_prompt",), f"lacks the placeholder {placeholder}"
        rest = rest.replace(placeholder, "\0" * len(placeholder))
    stray = [i for i, character in enumerate(rest) if character in "{}"]
    if stray:
        around = prompt[max(0, stray[0] - 15) : stray[0] + 16]
        yield ("eval_prompt",), f"has a stray brace at character {stray[0]}, near {around!r}"
    else:
        # The authors' code fills the prompt in this way.
        filled = prompt.format(question="<the question>", answer="<the answer>")
        if "{" in filled or "}" in filled:
            yield ("eval_prompt",), "does not take the question and the answer"
    if "REFUSAL" not in prompt:
        yield ("eval_prompt",), "does not offer REFUSAL to the judge"
    if "100" not in prompt:
        yield ("eval_prompt",), "does not name the scale from 0 to 100"


def _unfit(texts: Iterable[tuple[Place, str]]) -> Iterator[tuple[Place, str]]:
    for place, text in texts:
        fault = damage(text)
        if fault is not None:
            yield place, fault


def _repeated(texts: Iterable[tuple[Place, str]]) -> Iterator[tuple[Place, str]]:
    seen: dict[str, Place] = {}
    for place, text in texts:
        first = seen.setdefault(_essence(text), place)
        if first != place and text.strip():
            yield place, f"says the same as {_name(first)}"


def _essence(text: str) -> str:
    """Return a text without case, white space and punctuation."""
    characters = (c for c in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(c)[0] not in "PZC")
    return "".join(characters) or text.strip()


def _name(place: Place) -> str:
    """Name a place, counted from 1: `question 3`, `instruction 1, neg`."""
    nouns = {"questions": "question", "examples": "example"}
    if len(place) < 2:
        return str(place[0]) if place else "the definition"
    first = f"{nouns.get(str(place[0]), place[0])} {int(place[1]) + 1}"
    return ", ".join([first, *map(str, place[2:])])


def whole_definition(data: Any, source: str, *, any_number: bool = False) -> WholeDefinition:
    """Check a new definition.

    Args:
        data: parsed JSON.
        source: the origin of the data, for the error message.
        any_number: allow any number of questions from `MIN_QUESTIONS` on.

    Raises:
        ArtifactError: the definition has problems; the message lists each problem and its place on a line of its own.
    """
    try:
        return WholeDefinition.model_validate(data, context=ANY_NUMBER if any_number else None)
    except ValidationError as error:
        problems = [(e["loc"], e["msg"]) for e in error.errors(include_url=False)]
        lines = [f"- {line}" for line in listed(problems, _name)]
        raise ArtifactError(f"{source} is not a usable trait definition:\n" + "\n".join(lines)) from None


def load_definition(path: Path) -> TraitDefinition:
    """Read a trait definition; raise `ArtifactError` where the file is missing or malformed."""
    return read_json(path, TraitDefinition)


def split(whole: WholeDefinition) -> tuple[TraitDefinition, TraitDefinition]:
    """Split into the extraction half, with the first half of the questions, and the evaluation half, with the rest."""
    common = whole.model_dump(exclude={"questions"})
    half = (len(whole.questions) + 1) // 2
    return (
        TraitDefinition(questions=whole.questions[:half], **common),
        TraitDefinition(questions=whole.questions[half:], **common),
    )


def definition_files(directory: Path, trait: str) -> tuple[Path, Path]:
    """Return the paths of the extraction half and the evaluation half of a trait's definition."""
    return directory / KINDS[0] / f"{trait}.json", directory / KINDS[1] / f"{trait}.json"


def check_free(directory: Path, trait: str) -> None:
    """Raise `ArtifactError` where either file of a definition exists."""
    for path in definition_files(directory, trait):
        if path.exists():
            raise ArtifactError(f"{path} exists; give --force to replace it, or another --definitions directory.")


def save_definition(directory: Path, trait: str, whole: WholeDefinition, *, force: bool = False) -> tuple[Path, Path]:
    """Write the two files of a definition and return their paths. Either both files are written or neither.

    Args:
        directory: the directory of `trait_data_extract/` and `trait_data_eval/`; created where missing.
        trait: the trait's name.
        whole: the definition.
        force: replace an existing definition that differs.

    Raises:
        ArtifactError: one of the files exists and differs, without `force`; or a file cannot be written.
    """
    paths = definition_files(directory, trait)
    halves = split(whole)
    before = [read_bytes(path) if path.exists() else None for path in paths]
    if not force:
        for path, half, content in zip(paths, halves, before, strict=True):
            if content is not None and not _is_definition(content, half):
                raise ArtifactError(f"{path} exists and differs; give --force to replace it.")
    try:
        for path, half in zip(paths, halves, strict=True):
            write_atomically(path, _to_json(half))
    except BaseException:
        for path, content in zip(paths, before, strict=True):
            _restore(path, content)
        raise
    return paths


def _to_json(definition: TraitDefinition) -> bytes:
    return (json.dumps(definition.model_dump(), indent=1, ensure_ascii=False) + "\n").encode()


def _is_definition(content: bytes, definition: TraitDefinition) -> bool:
    try:
        return TraitDefinition.model_validate_json(content) == definition
    except ValidationError:
        return False


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        if path.exists():
            path.unlink()
    elif path.read_bytes() != content:
        write_atomically(path, content)
