"""Makes tables of fields from JSON schemas: of the server's OpenAPI document, and of the models of the files."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from .markdown import table

Schema = Mapping[str, Any]


def section(name: str, schema: Schema) -> str:
    """Return a section on a schema. Its heading is the name of the schema, to which `kind` links."""
    description = inspect.cleandoc(schema.get("description", ""))
    return "\n\n".join(filter(None, (f"### {name}", description, fields(schema))))


def fields(schema: Schema) -> str:
    """Return a table of an object's fields."""
    required = schema.get("required", [])
    rows = []
    for name, field in schema["properties"].items():
        needed = name in required or "const" in field
        rows.append((f"`{name}`", kind(field) if needed else f"{kind(field)}; optional", _meaning(field)))
    return table(("field", "type", "meaning"), rows)


def kind(schema: Schema) -> str:
    """Return the type of a JSON schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(kind(option) for option in options))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    match schema.get("type"):
        case "array":
            item = kind(schema.get("items", {}))
            return f"list of ({item})" if " or " in item else f"list of {item}"
        case "object":
            inner = schema.get("additionalProperties")
            return f"object of {kind(inner)}" if isinstance(inner, Mapping) else "object"
        case str(name):
            return name
        case list(names):
            return " or ".join(names)
    return "any"


def _meaning(field: Schema) -> str:
    description = " ".join(field.get("description", "").split())
    default = field.get("default")
    if "const" in field or default in (None, "", {}, []):
        return description
    return f"{description} [default: `{json.dumps(default)}`]".strip()
