"""Doubts about files that can be read: scores of another scale, prompts or a vector of another model.

Such files make numbers that look like others and mean nothing. Each function returns a sentence for the user, or None
where there is no doubt.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from traitwatch.card import Card
from traitwatch_builder.models.chat import bare, render, without_space
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.storage.scales import scale_of
from traitwatch_builder.storage.workspace import card_model_name

_PROBE = "traitwatch asks"
_SHOWN = 60


def scale_doubt(rows: Sequence[JudgedAnswer]) -> str | None:
    """Doubt scores that all lie between 0 and 1.

    Args:
        rows: the answers of both conditions together. One condition alone may rightly have scores near 0.
    """
    for aspect, scores in (("trait", [row.trait for row in rows]), ("coherence", [row.coherence for row in rows])):
        given = [score for score in scores if score is not None]
        if scale_of(given, least=1) == 1:
            return (
                f"all {len(given)} {aspect} scores lie between 0 and 1, the highest at {max(given):g}, but Traitwatch "
                "takes them as 0 to 100: if the judge's scale was 0 to 1, multiply the scores by 100."
            )
    return None


def model_doubt(card: Card, model: Path | str) -> str | None:
    """Doubt that a vector belongs to the model of this name, which may have the same shape by chance."""
    name = card_model_name(model)
    if name.rpartition("/")[2].lower() == card.model.rpartition("/")[2].lower():
        return None
    return (
        f"the vector of {card.trait!r} was built on {card.model}, and {name} is another model by its name: what is "
        "measured now holds for the second alone. Give the model of the vector, or build a vector on this one."
    )


def prompts_doubt(tokenizer: Any, model: Path | str, path: Path, rows: Sequence[JudgedAnswer]) -> str | None:
    """Doubt prompts that do not end as this model's chat template ends them: with the question and the answer's begin.

    White space does not count. What stands before the question does not count either: the instruction, the examples and
    a template's own system message may differ.

    Args:
        tokenizer: the model's tokenizer.
        model: directory or hub name of the model.
        path: the file of the answers.
        rows: the answers.
    """
    after = render(tokenizer, bare(_PROBE)).rpartition(_PROBE)[2]
    end = without_space(after)
    others = [row for row in rows if not without_space(row.prompt).endswith(without_space(row.question) + end)]
    if not others:
        return None
    asked = re.escape(others[0].question.strip())
    theirs = re.split(asked, others[0].prompt)[-1] if others[0].question.strip() else others[0].prompt
    return (
        f"{len(others)} of {len(rows)} prompts in {path} are not what the chat template of {model} makes: after the "
        f"question, the first of them ends in {theirs[-_SHOWN:]!r}, and the template in {after[-_SHOWN:]!r}. The "
        "answers seem to be another model's: give the model that wrote them, or answers of this one."
    )
