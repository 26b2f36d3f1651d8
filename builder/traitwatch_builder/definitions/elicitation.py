"""The conversations that elicit a trait, and the contexts by which other conversations judge the answers.

The context that judges an answer has not elicited the answer. A context elicits a trait in one of two ways:

- *System prompt*: the system message is `You are a <name> assistant. <instruction>`. This way suits models that obey
  an instruction.
- *Many-shot*: half of the definition's examples stand before the question as earlier turns. This way suits models that
  follow a pattern more readily than an instruction. The other half of the examples judges the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from traitwatch_builder.definitions.definition import TraitDefinition
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import Messages, bare, without_space

Polarity = Literal["pos", "neg"]
Elicit = Literal["system", "many-shot"]

# The number of ways to split a definition's examples into halves.
_HALVINGS = 4
# The positive and the negative condition, in the order of the work.
POLARITIES: tuple[Polarity, ...] = ("pos", "neg")


@dataclass(frozen=True)
class Row:
    """One answer to generate.

    Attributes:
        question: the question.
        question_id: the question's number in the definition, from 0.
        sample: the number of this answer among the answers to the same question, from 0.
        context: the number of the instruction pair or group of examples that elicits the answer.
    """

    question: str
    question_id: int
    sample: int
    context: int


class Elicitation:
    """The contexts of a definition, for one of the two ways to elicit the trait.

    Attributes:
        elicit: the way, `system` or `many-shot`.
        num_contexts: the number of instruction pairs, or the number of ways to split the examples into halves.
    """

    def __init__(self, definition: TraitDefinition, elicit: Elicit, trait: str, assistant_name: str | None = None):
        """Prepare the contexts.

        Args:
            definition: the trait's definition.
            elicit: `system` or `many-shot`.
            trait: the trait's name.
            assistant_name: the adjective for the assistant in a positive system prompt; the trait's name by default.

        Raises:
            PipelineError: the definition has fewer than two contexts, so that no context is left to judge an answer; or
                both conditions of a context are the same text.
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
                f"--elicit {elicit} needs at least {needs} in the definition: those that elicit an answer must not "
                "judge it. Add some, or choose the other --elicit."
            )
        for context in range(self.num_contexts):
            pos, neg = (_texts(self.opening(context, polarity)) for polarity in POLARITIES)
            if pos == neg:
                raise PipelineError(
                    f"the positive and the negative condition of context {context + 1} are the same text "
                    f"({self.opening(context, 'pos')[0]['content']!r}), so their answers cannot differ in the trait; "
                    f"change the definition of {trait!r}, or give another --assistant-name."
                )

    def rows(self, questions: Sequence[str], samples: int) -> list[Row]:
        """Return one row for each of `samples` answers to each question, spread evenly over the contexts."""
        return [
            Row(question, number, sample, (number + sample) % self.num_contexts)
            for number, question in enumerate(questions)
            for sample in range(samples)
        ]

    def judging_context(self, context: int) -> int:
        """Return the context that judges an answer of `context`. The two share no instruction and no example."""
        if self.elicit == "many-shot":
            return (context + _HALVINGS // 2) % _HALVINGS
        return (context + 1 + context % (self.num_contexts - 1)) % self.num_contexts

    def opening(self, context: int, polarity: Polarity) -> Messages:
        """Return the messages before the question."""
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
        """Return the conversation that elicits the answer of `row`."""
        return [*self.opening(row.context, polarity), *bare(row.question)]


def _texts(messages: Messages) -> list[str]:
    """Return the texts of messages without white space and case, which a chat template may change."""
    return [without_space(message["content"]).casefold() for message in messages]
