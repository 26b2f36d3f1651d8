"""Readers of vectors and their cards."""

from pathlib import Path

from tests.support.fuzzing import Reader
from traitwatch.errors import ArtifactError
from traitwatch.vectors import SHIPPED, load_card, load_vector


def _card(data: bytes, folder: Path) -> None:
    file = folder / "trait.json"
    file.write_bytes(data)
    load_card(file)


def _vector(data: bytes, folder: Path) -> None:
    file = folder / "trait_response_avg_diff.pt"
    file.write_bytes(data)
    load_vector(file)


def _shipped(pattern: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted(SHIPPED.rglob(pattern))[:2]]


READERS = (
    Reader("card", lambda: _shipped("[a-z]*n.json"), _card, (ArtifactError,)),
    Reader("vector", lambda: _shipped("*_response_avg_diff.pt"), _vector, (ArtifactError,), share=0.5),
)
