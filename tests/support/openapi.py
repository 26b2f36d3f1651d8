"""Validates requests and answers against an OpenAPI schema."""

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

_URI = "urn:openapi"
JSON, EVENTS = "application/json", "text/event-stream"


class Schema:
    """The OpenAPI document of a server."""

    def __init__(self, document: Mapping[str, Any]):
        """Read a document.

        Args:
            document: the OpenAPI 3.1 document. Its schemas follow JSON Schema 2020-12.
        """
        self.document = document
        resource = Resource(contents=document, specification=DRAFT202012)
        self._registry: Any = Registry().with_resource(_URI, resource)  # type: ignore[no-untyped-call]

    def request(self, path: str, method: str = "post") -> Draft202012Validator:
        """Return the validator for the JSON body of a request."""
        return self._validator("paths", path, method, "requestBody", "content", JSON, "schema")

    def answer(
        self, path: str, method: str = "post", status: int = 200, media_type: str = JSON
    ) -> Draft202012Validator:
        """Return the validator for an answer; for a stream, the validator for the data of one event."""
        return self._validator("paths", path, method, "responses", str(status), "content", media_type, "schema")

    def component(self, name: str) -> Draft202012Validator:
        """Return the validator for a named schema."""
        return self._validator("components", "schemas", name)

    def _validator(self, *keys: str) -> Draft202012Validator:
        found: Any = self.document
        for key in keys:
            found = found[key]
        assert found, f"the document has no schema at {keys}"
        pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)
        return Draft202012Validator({"$ref": f"{_URI}#{pointer}"}, registry=self._registry)
