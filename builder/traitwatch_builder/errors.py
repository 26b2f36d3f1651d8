"""Errors of the builder.

    TraitwatchError
    └── BuilderError
        ├── ModelError         the embedded model cannot be prepared
        └── PipelineError      a step of the pipeline cannot go on

A file that cannot be used raises `traitwatch.errors.ArtifactError`. Every message says what was wrong, with which
input, and what to do.
"""

from traitwatch.errors import TraitwatchError


class BuilderError(TraitwatchError):
    """Base of every error that the builder raises on purpose."""


class ModelError(BuilderError):
    """The embedded model could not be fetched, verified or converted."""


class PipelineError(BuilderError):
    """A step of the pipeline cannot go on, e.g. too few effective pairs."""
