"""A scored text while it grows: an answer of a model, or a text that a visitor pasted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from traitwatch.spikes import Spike, find_spikes
from traitwatch_dashboards.inspector.api.traits import Trait


@dataclass(frozen=True)
class Summary:
    """The scores of a whole text for one trait.

    Attributes:
        mean: mean projection over the token states, units of the hidden state; None without a token state.
        z: `mean` in standard deviations of the baseline; None without a token state or a baseline.
        max_z: z of the highest token; None where `z` is None.
        spikes: the spikes of the text.
    """

    mean: float | None
    z: float | None
    max_z: float | None
    spikes: tuple[Spike, ...] = ()


@dataclass
class InspectedText:
    """A scored text.

    Attributes:
        traits: the traits whose scores the text has.
        model: the model or adapter that answered, or that read a pasted text.
        texts: the displayed text of each token.
        projections: by trait, one for each token, units of the hidden state; None where there is no state (yet).
        summaries: by trait, from the server; empty until the server has sent them.
        finish: the server's reason for the end; empty while the text grows, or where it broke off.
        complete: whether the server scored every state; None until the server has said so.
        note: a remark for the reader, such as that the answer was stopped; empty where there is none.
    """

    traits: Sequence[Trait]
    model: str = ""
    texts: list[str] = field(default_factory=list)
    projections: dict[str, list[float | None]] = field(default_factory=dict)
    summaries: dict[str, Summary] = field(default_factory=dict)
    finish: str = ""
    complete: bool | None = None
    note: str = ""

    @property
    def text(self) -> str:
        """The displayed text of all tokens."""
        return "".join(self.texts)

    def add(self, texts: Sequence[str], start: int, values: Mapping[str, Sequence[float | None]]) -> None:
        """Append tokens, and put projections in their places.

        Args:
            texts: displayed texts of the new tokens.
            start: index of the token that the first projections belong to.
            values: projections by trait, units of the hidden state.
        """
        self.texts.extend(texts)
        for name, projections in values.items():
            held = self.projections.setdefault(name, [])
            held.extend([None] * (start - len(held)))
            held[start : start + len(projections)] = projections

    def summary(self, trait: Trait) -> Summary:
        """Return the server's summary for a trait; before it has come, a summary of the projections so far."""
        if trait.name in self.summaries:
            return self.summaries[trait.name]
        return summarise(trait, self.projections.get(trait.name, ()))


def summarise(trait: Trait, projections: Sequence[float | None]) -> Summary:
    """Return the summary of projections (units of the hidden state; None where there is no state)."""
    states = [projection for projection in projections if projection is not None]
    if not states:
        return Summary(None, None, None)
    mean = sum(states) / len(states)
    spikes = () if trait.threshold is None else find_spikes([trait.z(p) for p in projections], trait.threshold)
    return Summary(mean, trait.z(mean), trait.z(max(states)), tuple(spikes))


def summary_of(fields: Mapping[str, Any]) -> Summary:
    """Return the summary in the fields of a trait in a response of the server."""
    spikes = tuple(Spike(s["start"], s["end"], s["peak_z"]) for s in fields.get("spikes") or ())
    return Summary(fields.get("mean"), fields.get("z"), fields.get("max_z"), spikes)
