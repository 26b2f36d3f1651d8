"""Shipped definitions for unit tests."""

import json
from typing import Any

from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS, definition_files


def shipped(trait: str) -> dict[str, Any]:
    """Return a shipped definition as one object, as it was before it was split into two files."""
    extract, evaluate = (json.loads(path.read_bytes()) for path in definition_files(SHIPPED_DEFINITIONS, trait))
    return {**extract, "questions": extract["questions"] + evaluate["questions"]}
