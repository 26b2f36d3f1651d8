"""The answer to a request that is refused, in the shape that its client expects."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from traitwatch_server.responses.endpoints import MESSAGES

_BAD_REQUEST = "BadRequestError"
_OPENAI_TYPES = {403: "PermissionDeniedError", 404: "NotFoundError", 503: "ServiceUnavailableError"}
_ANTHROPIC_TYPES = {400: "invalid_request_error", 503: "overloaded_error"}


def refusal(
    status: int, message: str, *, path: str = "", param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error in OpenAI's shape; for `/v1/messages` in Anthropic's, which wraps the same fields.

    Args:
        status: the HTTP status.
        message: what was wrong and what to do.
        path: the path of the request (`route_path`), where it may be one of Anthropic's.
        param: the field of the request that was wrong.
        headers: headers of the answer.
    """
    error = {"message": message, "type": _OPENAI_TYPES.get(status, _BAD_REQUEST), "param": param, "code": status}
    content: dict[str, Any] = {"error": error}
    if path == MESSAGES:
        content = {"type": "error", "error": {**error, "type": _ANTHROPIC_TYPES[status]}}
    return JSONResponse(content, status_code=status, headers=headers)
