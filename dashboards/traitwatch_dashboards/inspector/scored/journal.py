"""The content of one view, as lines of JSON. Lines are added and never changed.

The script of the page (`assets/view.js`) reads the lines and draws. The value of the component only grows. So Gradio
sends the page only the new lines, and the page draws only the new lines: an answer of thousands of tokens streams as
lightly as a short one. Model output travels as JSON strings. The page inserts it as text, never as HTML.

The kinds of line (`k`); `p` is the number of the pane:

    view    panes (titles), traits (of the controls), window and least (the rule for spikes), full (z of the full
            colour), hint (text of an empty view), focus (the trait that colours tokens until the reader chooses one)
    text    p, role, text, fold: a message that is not scored
    answer  p, traits (name, layer, mean, std, threshold), label: a scored text begins
    add     p, texts, start, rows: tokens, and projections from token `start` on, a row for each trait in the answer's
            order
    end     p, summaries, finish: a scored text has ended
    note    p, text, bad: a remark for the reader
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from traitwatch.spikes import FULL_COLOUR_Z, MIN_TOKENS, WINDOW
from traitwatch_dashboards.inspector.api.traits import Trait
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText, Summary

_DECIMALS = 3


@dataclass
class _Waiting:
    """The part of a scored text that is not yet a line: tokens, and projections by trait from token `start` on."""

    start: int
    texts: list[str] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)


class Journal:
    """The lines of one view. Additions to an answer become a line when `str` or `news` asks for the lines."""

    def __init__(self, panes: Sequence[str] = ("",), traits: Sequence[Trait] = (), *, hint: str = "", focus: str = ""):
        """Begin an empty view.

        Args:
            panes: the title of each pane.
            traits: the traits of the controls.
            hint: text of the empty view.
            focus: the trait that colours the tokens until the reader chooses one; empty for the first trait.
        """
        self._lines: list[str] = []
        self._traits: dict[int, list[str]] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._sent = 0
        self._add(
            "view",
            panes=list(panes),
            traits=[trait.name for trait in traits],
            window=WINDOW,
            least=MIN_TOKENS,
            full=FULL_COLOUR_Z,
            hint=hint,
            focus=focus,
        )

    def __str__(self) -> str:
        for pane in list(self._waiting):
            self._flush(pane)
        return "".join(self._lines)

    @property
    def grown(self) -> bool:
        """Whether there are lines that the page has not been sent."""
        return bool(self._waiting) or len(self._lines) > self._sent

    def news(self) -> str:
        """Return all lines, and count them as sent."""
        lines = str(self)
        self._sent = len(self._lines)
        return lines

    def message(self, role: str, text: str, pane: int = 0, *, fold: bool = False) -> None:
        """Show a message that is not scored; with `fold`, folded away together with its neighbours."""
        self._add("text", p=pane, role=role, text=text, fold=fold)

    def answer(self, traits: Sequence[Trait], pane: int = 0, label: str = "") -> None:
        """Begin a scored text."""
        self._traits[pane] = [trait.name for trait in traits]
        self._add(
            "answer",
            p=pane,
            label=label,
            traits=[
                {"name": t.name, "layer": t.layer, "mean": t.mean, "std": t.std, "threshold": t.threshold}
                for t in traits
            ],
        )

    def add(
        self, texts: Sequence[str], start: int, values: Mapping[str, Sequence[float | None]], pane: int = 0
    ) -> None:
        """Add displayed texts of tokens, and projections by trait (units of the hidden state) from token `start` on."""
        if not texts and not values:
            return
        waiting = self._waiting.get(pane)
        if waiting is not None and values and waiting.values and self._next(waiting) != start:
            self._flush(pane)
            waiting = None
        if waiting is None:
            waiting = self._waiting[pane] = _Waiting(start)
        if values and not waiting.values:
            waiting.start = start
        waiting.texts.extend(texts)
        for name, row in values.items():
            waiting.values.setdefault(name, []).extend(None if v is None else round(v, _DECIMALS) for v in row)

    def end(self, answer: InspectedText, pane: int = 0) -> None:
        """End a scored text, and show its note."""
        self._flush(pane)
        summaries = {trait.name: _summary_fields(answer.summary(trait)) for trait in answer.traits}
        self._add("end", p=pane, summaries=summaries, finish=answer.finish)
        if answer.note:
            self.note(answer.note, pane, bad=not answer.finish)

    def note(self, text: str, pane: int = 0, *, bad: bool = False) -> None:
        """Show a remark for the reader; `bad` marks an error."""
        self._add("note", p=pane, text=text, bad=bad)

    @staticmethod
    def _next(waiting: _Waiting) -> int:
        """Return the token at which the next projections must start to join the same line."""
        return waiting.start + max(map(len, waiting.values.values()))

    def _flush(self, pane: int) -> None:
        waiting = self._waiting.pop(pane, None)
        if waiting is not None:
            rows = [waiting.values.get(name, []) for name in self._traits.get(pane, ())]
            self._add("add", p=pane, texts=waiting.texts, start=waiting.start, rows=rows)

    def _add(self, kind: str, **fields: Any) -> None:
        self._lines.append(json.dumps({"k": kind, **fields}, ensure_ascii=False, separators=(",", ":")) + "\n")


def _summary_fields(summary: Summary) -> dict[str, Any]:
    return {
        "mean": summary.mean,
        "z": summary.z,
        "max": summary.max_z,
        "spikes": [{"start": s.start, "end": s.end, "peak": s.peak_z} for s in summary.spikes],
    }
