"""What the figures are made from: docs/images/measured.json, and the cards that are shipped."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from traitwatch import vectors
from traitwatch.card import Card
from traitwatch.files import read_json, write_atomically
from traitwatch.vectors import load_card
from traitwatch_builder.storage.workspace import Workspace

ROOT = Path(__file__).parents[2]
VECTORS = vectors.SHIPPED / "SmolLM2-135M-Instruct"
IMAGES = ROOT / "docs" / "images"
MEASURED = IMAGES / "measured.json"
LAYER = 20
SHOWN_TRAIT = "paternalism"
TRAITS = ("paternalism", "deception", "manipulativeness", "corrigibility", "power-seeking", "alignment-theatre")

_STRICT = ConfigDict(extra="forbid")


class ServedSpike(BaseModel):
    """A spike as the server reports it."""

    model_config = _STRICT
    start: int
    end: int
    peak_z: float


class ServedAnswer(BaseModel):
    """An answer as the demo's server scored it.

    Attributes:
        tokens: the text of each token.
        projections: of each token, units of the hidden state; None where a token has no state.
        mean: as the server reports it; `z`, `max_z` and `spikes` too.
    """

    model_config = _STRICT
    tokens: list[str]
    projections: list[float | None]
    mean: float
    z: float
    max_z: float
    spikes: list[ServedSpike]


class HeldOutZ(BaseModel):
    """Held-out answers of one condition: z of the mean projection, and the judge's trait score (0 to 100)."""

    model_config = _STRICT
    z: list[float]
    scores: list[float | None]


class TraitMeans(BaseModel):
    """z of the mean projection of answers at the layer that is served.

    Attributes:
        sha256: of the vector.
        pos: of the held-out answers that were to show the trait.
        neg: of those that were not to.
        neutral: z of the answers to neutral prompts.
    """

    model_config = _STRICT
    sha256: str
    pos: HeldOutZ
    neg: HeldOutZ
    neutral: list[float]


class Measured(BaseModel):
    """What `measure` found.

    Attributes:
        model: name of the model.
        seed: with which the served answers were sampled.
        served: the demo's two answers, by the replies before them.
        means: by trait.
    """

    model_config = _STRICT
    model: str
    seed: int
    served: dict[str, ServedAnswer]
    means: dict[str, TraitMeans]


def load_measured() -> Measured:
    """Read what was measured."""
    return read_json(MEASURED, Measured)


def save_measured(measured: Measured) -> None:
    """Write what was measured."""
    write_atomically(MEASURED, measured.model_dump_json(indent=1).encode() + b"\n")


def cards() -> dict[str, Card]:
    """Return the shipped cards by trait."""
    return {trait: load_card(Workspace(VECTORS, trait).card) for trait in TRAITS}
