"""Errors of the ground, and the root of all errors that Traitwatch raises on purpose.

    TraitwatchError
    ├── ArtifactError      a vector, a card or a definition that cannot be used
    ├── LayoutError        vLLM is not laid out as we know it; raised when a worker of ours starts
    ├── NetworkError       an address, a key, a proxy or a certificate file that cannot be used
    ├── ProcessError       a program that we run as a child did not start
    ├── StorageError       a folder for Traitwatch's own files that cannot be written
    ├── BuilderError       see `traitwatch_builder.errors`
    ├── ServerError        see `traitwatch_server.errors`
    └── DashboardError     see `traitwatch_dashboards.errors`

Every message says what was wrong, with which input, and what to do.
"""


class TraitwatchError(Exception):
    """Base of every error that Traitwatch raises on purpose; the command line shows its message without a traceback."""


class ArtifactError(TraitwatchError):
    """A persona vector, its card or a trait definition is missing, malformed or does not fit."""


class LayoutError(TraitwatchError):
    """A model or a model runner of vLLM is not laid out as we know it."""


class ProcessError(TraitwatchError):
    """A program that was run as a child process ended, or did not answer in time."""


class NetworkError(TraitwatchError):
    """An address, a key, a proxy or a certificate file of an option or of the environment cannot be used."""


class StorageError(TraitwatchError):
    """A folder for files of Traitwatch's own cannot be made or written."""
