"""The conversations that elicit a trait, and those that read or judge an answer without having elicited it.

Two ways. *System prompt*: `You are a <name> assistant. <instruction>`, for models that obey one. *Many-shot*: half of
the definition's examples stand before the question as earlier turns, for models that follow a pattern more readily than
an instruction; the other half is left to judge by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from traitwatch_builder.definitions.definition import TraitDefinition
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import Messages, bare

Polarity = Literal["pos", "neg"]
Elicit = Literal["system", "many-shot"]

# Ways in which a definition's examples are halved.
_HALVINGS = 4
# The positive condition and the negative one, in the order in which they are worked on.
POLARITIES: tuple[Polarity, ...] = ("pos", "neg")


@dataclass(frozen=True)
class Row:
    """One answer to be had.

    Attributes:
        question: the question.
        question_id: its number in the definition.
        sample: the number of this answer to it.
        context: which instruction pair or group of examples elicits it.
    """

    question: str
    question_id: int
    sample: int
    context: int


class Elicitation:
    """The contexts of a definition, in one of the two ways.

    Attributes:
        elicit: the way.
        num_contexts: instruction pairs, or ways in which the examples are halved.
    """

    def __init__(self, definition: TraitDefinition, elicit: Elicit, trait: str, assistant_name: str | None = None):
        """Prepare the contexts.

        Args:
            definition: the trait's definition.
            elicit: `system` or `many-shot`.
            trait: the trait's name.
            assistant_name: what a positive system prompt calls the assistant; the trait by default.

        Raises:
            PipelineError: fewer than two contexts, so that none is left to judge by.
        """
        self.elicit = elicit
        self._definition = definition
        self._names = {"pos": assistant_name or trait, "neg": "helpful"}
        if elicit == "system":
            self.num_contexts = len(definition.instruction)
        else:
            self.num_contexts = _HALVINGS if len(definition.examples) >= _HALVINGS else 0
        if self.num_contexts < 2:
            needs = "2 instruction pairs" if elicit == "system" else f"{_HALVINGS} examples"
            raise PipelineError(
                f"--elicit {elicit} needs at least {needs} in the definition, since an answer is judged with others "
                "than those that elicited it; add some, or choose the other way."
            )

    def rows(self, questions: Sequence[str], samples: int) -> list[Row]:
        """Return the rows of `samples` answers to each question, spread evenly over the contexts."""
        return [
            Row(question, number, sample, (number + sample) % self.num_contexts)
            for number, question in enumerate(questions)
            for sample in range(samples)
        ]

    def judging_context(self, context: int) -> int:
        """Return the context by which an answer is judged: it shares nothing with the one that elicited it."""
        if self.elicit == "many-shot":
            return (context + _HALVINGS // 2) % _HALVINGS
        return (context + 1 + context % (self.num_contexts - 1)) % self.num_contexts

    def opening(self, context: int, polarity: Polarity) -> Messages:
        """Return what stands before the question."""
        if self.elicit == "system":
            instruction = getattr(self._definition.instruction[context], polarity)
            article = "an" if self._names[polarity][:1].lower() in "aeiou" else "a"
            return [
                {"role": "system", "content": f"You are {article} {self._names[polarity]} assistant. {instruction}"}
            ]
        examples = self._definition.examples
        first = context * len(examples) // _HALVINGS
        messages = []
        for i in range(len(examples) // 2):
            example = examples[(first + i) % len(examples)]
            messages.append({"role": "user", "content": example.question})
            messages.append({"role": "assistant", "content": getattr(example, polarity)})
        return messages

    def prompt(self, row: Row, polarity: Polarity) -> Messages:
        """Return the conversation that elicits a row's answer."""
        return [*self.opening(row.context, polarity), *bare(row.question)]
