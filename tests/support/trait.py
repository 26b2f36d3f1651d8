"""A small trait definition, and answers to it, for the tests of the builder."""

from typing import Any

from rich.console import Console

from traitwatch_builder.definitions.definition import Example, InstructionPair, TraitDefinition

DEFINITION = TraitDefinition(
    instruction=[InstructionPair(pos=f"be so {i}", neg=f"be not so {i}") for i in range(5)],
    questions=["q0?", "q1?", "q2?"],
    eval_prompt="{question}{answer}",
    examples=[Example(question=f"e{i}?", pos=f"yes {i}", neg=f"no {i}") for i in range(16)],
)
QUIET = Console(quiet=True)


def nothing(count: int) -> None:
    """Ignore the progress."""


class Letters:
    """A tokenizer with one token for each character, and a chat template."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) % 60 for c in text]}

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        assert options == {"add_generation_prompt": True, "tokenize": False}
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"
