"""Small served traits for the server's unit tests."""

import datetime
from pathlib import Path

import numpy as np

from traitwatch.vectors import Calibration, Card, LayerCalibration, PersonaVector, vector_sha256
from traitwatch_server.traits import ServedTrait, Threshold


def served_trait(
    name: str = "paternalism",
    *,
    layer: int = 2,
    column: int = 0,
    mean: float = 1.0,
    std: float = 2.0,
    threshold: float = 2.0,
) -> ServedTrait:
    """Return a calibrated trait of a model with 3 layers of 4 values. Its threshold is for 1 % of responses."""
    vector = np.ones((4, 4), dtype=np.float32)
    card = Card(
        trait=name,
        model="tiny",
        hidden_size=4,
        num_layers=3,
        sha256=vector_sha256(vector),
        calibration=Calibration(
            layers=[LayerCalibration(mean=mean, std=std)] * 4,
            num_prompts=1,
            num_tokens=2,
            engine="test",
            date=datetime.date(2026, 1, 1),
        ),
        date=datetime.date(2026, 1, 1),
    )
    return ServedTrait(
        PersonaVector(name, vector, card, Path(f"{name}.pt")), layer, column, Threshold(threshold, rate=0.01)
    )


def uncalibrated(trait: ServedTrait) -> ServedTrait:
    """Return the trait without its card."""
    bare = PersonaVector(trait.name, trait.vector.vector, None, trait.vector.path)
    return ServedTrait(bare, trait.layer, trait.column, threshold=None)
