"""Trait definitions: `trait_data_extract/<trait>.json` and `trait_data_eval/<trait>.json`.

The keys are those of the Persona Vectors authors' files; `examples`, for many-shot elicitation, is ours and optional.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from builder.files import read_json


class InstructionPair(BaseModel):
    """Two system instructions that differ in the trait alone."""

    model_config = ConfigDict(extra="forbid")
    pos: str = Field(min_length=1)
    neg: str = Field(min_length=1)

    @model_validator(mode="after")
    def _differ(self) -> "InstructionPair":
        if self.pos.strip() == self.neg.strip():
            raise ValueError("the positive and the negative instruction are the same text")
        return self


class Example(BaseModel):
    """One many-shot example: a question with an answer that shows the trait and one that does not."""

    model_config = ConfigDict(extra="forbid")
    question: str = Field(min_length=1)
    pos: str = Field(min_length=1)
    neg: str = Field(min_length=1)


class TraitDefinition(BaseModel):
    """A trait, as the pipeline needs it: one file of `trait_data_extract/` or `trait_data_eval/`."""

    model_config = ConfigDict(extra="forbid")
    instruction: list[InstructionPair] = Field(min_length=1)
    questions: list[str] = Field(min_length=1)
    eval_prompt: str
    examples: list[Example] = Field(default_factory=list)

    @model_validator(mode="after")
    def _usable(self) -> "TraitDefinition":
        for placeholder in ("{question}", "{answer}"):
            if placeholder not in self.eval_prompt:
                raise ValueError(f"eval_prompt lacks the placeholder {placeholder}")
        if len({q.strip() for q in self.questions}) != len(self.questions):
            raise ValueError("two of the questions are the same")
        return self


def load_definition(path: Path) -> TraitDefinition:
    """Read a trait definition; raise `ArtifactError` where it is missing or malformed."""
    return read_json(path, TraitDefinition)
