"""The data of the figures: docs/images/measured.json, and the shipped cards."""

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
        projections: the projection of each token, units of the hidden state; None if a token has no state.
        mean: the mean projection, as the server reports it.
        z: z of the mean projection, as the server reports it.
        max_z: the highest z of a token, as the server reports it.
        spikes: the spikes, as the server reports them.
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
    """z of the mean projection of the answers for one trait, at layer `LAYER`.

    Attributes:
        sha256: the hash of the vector.
        pos: the held-out answers under the positive condition.
        neg: the held-out answers under the negative condition.
        neutral: z of the answers to neutral prompts.
    """

    model_config = _STRICT
    sha256: str
    pos: HeldOutZ
    neg: HeldOutZ
    neutral: list[float]


class Measured(BaseModel):
    """The measurements of `python -m scripts.figures measure`.

    Attributes:
        model: the name of the model.
        seed: the seed of the served answers.
        served: the demo's two answers, by the replies before them.
        means: z of the mean projections, by trait.
    """

    model_config = _STRICT
    model: str
    seed: int
    served: dict[str, ServedAnswer]
    means: dict[str, TraitMeans]


def load_measured() -> Measured:
    """Read the measurements."""
    return read_json(MEASURED, Measured)


def save_measured(measured: Measured) -> None:
    """Write the measurements."""
    write_atomically(MEASURED, measured.model_dump_json(indent=1).encode() + b"\n")


def cards() -> dict[str, Card]:
    """Return the shipped cards by trait."""
    return {trait: load_card(Workspace(VECTORS, trait).card) for trait in TRAITS}
