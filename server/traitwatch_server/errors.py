"""Errors of the server.

    ServerError
    ├── ConfigError       options, vectors and model do not go together; the server does not start
    ├── CanaryError       the engine is up, but the start-up check found no usable scores; the server refuses to serve
    ├── EngineDiedError   an engine process ended while the server was up, and ended the server
    ├── AnswerError       a server that the doctor runs did not answer as it should
    ├── NoReferenceError  transformers cannot compute the projections that the doctor compares with
    ├── RequestError      the `traits` of a request are not usable; becomes an HTTP 400 in OpenAI's error shape
    └── AdminError        an operator's request cannot be done, or has not the admin key; becomes an HTTP error

The server raises two errors of `traitwatch.errors` too. The worker raises `LayoutError` at start-up, where vLLM is not
laid out as the tap knows it. The doctor and `serve --ui` raise `ProcessError`, where a child process does not start.

Every message says what was wrong, with which input, and what to do.
"""

from traitwatch.errors import TraitwatchError


class ServerError(TraitwatchError):
    """Base of every error that the server raises on purpose."""


class ConfigError(ServerError):
    """Options, vectors and model do not go together."""


class CanaryError(ServerError):
    """The start-up check found that projections do not arrive, or cannot be right."""


class EngineDiedError(ServerError):
    """An engine process, or one of its workers, ended by itself."""


class AnswerError(ServerError):
    """A server did not answer what the request asked for."""


class NoReferenceError(ServerError):
    """transformers cannot run the model here."""


class RequestError(ServerError):
    """The `traits` of a request are malformed or name a trait that is not loaded."""


class AdminError(ServerError):
    """An operator's request cannot be done, or has not the admin key.

    Attributes:
        status: the HTTP status of the answer.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
