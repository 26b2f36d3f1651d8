"""What can go wrong in the builder and in its files.

    BuilderError
    ├── ArtifactError      a vector, card or definition that cannot be used
    ├── LayoutError        vLLM is not laid out as we know it; raised when its worker starts
    ├── ModelError         the embedded model cannot be prepared
    └── PipelineError      a step of the pipeline cannot give a result worth having

Every message says what was wrong, with which input, and what to do.
"""


class BuilderError(Exception):
    """Base of every error that the builder raises on purpose."""


class ArtifactError(BuilderError):
    """A persona vector, its card or a trait definition is missing, malformed or does not fit."""


class LayoutError(BuilderError):
    """A model or a model runner of vLLM is not laid out as we know it."""


class ModelError(BuilderError):
    """The embedded model could not be fetched, verified or converted."""


class PipelineError(BuilderError):
    """A step of the pipeline cannot go on, e.g. too few effective pairs."""
