"""What can go wrong in the server.

    ServerError
    ├── ConfigError       an option, a vector or a model that do not go together; raised before anything starts
    ├── CanaryError       the engine came up, but a known prompt was not scored; the server refuses to serve
    ├── EngineDiedError   an engine process ended while the server was up, and the server with it
    ├── AnswerError       a server that the doctor runs did not answer as it should
    ├── NoReferenceError  transformers cannot say what the projections must be
    ├── RequestError      a client's `traits` cannot be honoured; becomes an HTTP 400 in OpenAI's error shape
    └── AdminError        a trait cannot be loaded or unloaded; becomes an HTTP error of its status

The server raises two errors of `traitwatch.errors` too: `LayoutError` in the worker at start-up, where vLLM is not laid
out as the tap knows it; and `ProcessError` in the doctor, where a server does not start.

Every message says what was wrong, with which input, and what to do.
"""

from traitwatch.errors import TraitwatchError


class ServerError(TraitwatchError):
    """Base of every error that the server raises on purpose."""


class ConfigError(ServerError):
    """Options, vectors and model do not go together."""


class CanaryError(ServerError):
    """The start-up check found that projections do not arrive, or are not what they must be."""


class EngineDiedError(ServerError):
    """An engine process, or a worker of it, ended before the server was told to."""


class AnswerError(ServerError):
    """A server's answer is not what was asked for."""


class NoReferenceError(ServerError):
    """transformers cannot run the model here."""


class RequestError(ServerError):
    """The `traits` of a request are malformed or name a trait that is not loaded."""


class AdminError(ServerError):
    """A trait cannot be loaded or unloaded.

    Attributes:
        status: the HTTP status that says so.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
