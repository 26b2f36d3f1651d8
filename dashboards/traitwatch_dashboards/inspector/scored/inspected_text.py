"""A scored text (an answer of a model, or a text that was pasted) as it grows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from traitwatch.spikes import Spike, find_spikes
from traitwatch_dashboards.inspector.api.traits import Trait


@dataclass(frozen=True)
class Summary:
    """What is said of a whole text for one trait.

    Attributes:
        mean: mean projection over the token states, units of the hidden state; None without one.
        z: the same in standard deviations of the baseline; None without a state or a baseline.
        max_z: z of the highest token; None with `z`.
        spikes: its spikes.
    """

    mean: float | None
    z: float | None
    max_z: float | None
    spikes: tuple[Spike, ...] = ()


@dataclass
class InspectedText:
    """A scored text.

    Attributes:
        traits: the traits that it is scored for.
        model: the model or adapter that answered, or read a text that was pasted.
        texts: what each token shows.
        projections: by trait, of each token, units of the hidden state; None where there is no state (yet).
        summaries: by trait; those of the server once it has told them.
        finish: why it ended, in the server's word; empty while it goes on, or where it was cut off.
        complete: whether the server scored every state; None while that is not known.
        note: what a reader should know, such as that it was stopped; empty where there is nothing.
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
        """The text."""
        return "".join(self.texts)

    def add(self, texts: Sequence[str], start: int, values: Mapping[str, Sequence[float | None]]) -> None:
        """Append tokens, and put projections in their places.

        Args:
            texts: what the new tokens show.
            start: place of the first of the projections.
            values: projections by trait, units of the hidden state.
        """
        self.texts.extend(texts)
        for name, projections in values.items():
            held = self.projections.setdefault(name, [])
            held.extend([None] * (start - len(held)))
            held[start : start + len(projections)] = projections

    def summary(self, trait: Trait) -> Summary:
        """Return the server's summary for a trait, or one of what there is."""
        if trait.name in self.summaries:
            return self.summaries[trait.name]
        return summarise(trait, self.projections.get(trait.name, ()))


def summarise(trait: Trait, projections: Sequence[float | None]) -> Summary:
    """Return the summary of some projections (units of the hidden state, None where there is no state)."""
    states = [projection for projection in projections if projection is not None]
    if not states:
        return Summary(None, None, None)
    mean = sum(states) / len(states)
    spans = () if trait.threshold is None else find_spikes([trait.z(p) for p in projections], trait.threshold)
    return Summary(mean, trait.z(mean), trait.z(max(states)), tuple(spans))


def summary_of(fields: Mapping[str, Any]) -> Summary:
    """Return the summary that a response of the server carries for a trait."""
    spikes = tuple(Spike(s["start"], s["end"], s["peak_z"]) for s in fields.get("spikes") or ())
    return Summary(fields.get("mean"), fields.get("z"), fields.get("max_z"), spikes)
