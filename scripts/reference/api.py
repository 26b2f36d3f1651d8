"""Makes the tables of the routes and fields that the server adds to vLLM's, from its OpenAPI document."""

from typing import Any

from fastapi import FastAPI

from traitwatch_server.app.keys import Keys
from traitwatch_server.app.openapi import with_scores
from traitwatch_server.app.routes import add_routes

from .fields import Schema, kind, section
from .markdown import table


def document() -> dict[str, Any]:
    """Return the OpenAPI document of a server with only our routes, as with `--traits-admin` and an admin key."""
    app = FastAPI()

    def serving() -> Any:
        raise RuntimeError("this application serves nothing")

    add_routes(app, serving, admin=True, admin_keys=Keys(["an admin key"]))
    return with_scores(app.openapi())


def routes() -> str:
    """Return a table of our routes."""
    rows = []
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            statuses = ", ".join(status for status in operation["responses"] if status != "200")
            rows.append((f"`{method.upper()} {path}`", operation["description"], _answer(operation), statuses))
    return table(("route", "what it does", "answer", "errors"), rows)


def _answer(operation: Schema) -> str:
    ((media_type, content),) = operation["responses"]["200"]["content"].items()
    return media_type if media_type == "text/html" else kind(content["schema"])


def schemas(*names: str) -> str:
    """Return a section for each of the named schemas of the document."""
    known = document()["components"]["schemas"]
    return "\n".join(section(name, known[name]) for name in names)
