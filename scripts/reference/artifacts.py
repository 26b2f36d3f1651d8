"""Makes the sections on the file formats from the models that read and write the files."""

from pydantic import BaseModel

from traitwatch.card import Card
from traitwatch_builder.definitions.definition import TraitDefinition

from .fields import section


def definition() -> str:
    """Return the sections on a trait's definition."""
    return _sections(TraitDefinition)


def card() -> str:
    """Return the sections on a card."""
    return _sections(Card)


def _sections(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    parts = {model.__name__: schema, **schema.get("$defs", {})}
    return "\n".join(section(name, part) for name, part in parts.items())
