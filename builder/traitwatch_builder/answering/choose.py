"""The choice of the source of answers: a vLLM engine of our own, or OpenAI-compatible servers."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from traitwatch_builder.answering.engine import Engine
from traitwatch_builder.answering.source import Answers, Sampling
from traitwatch_builder.models.pretrained import check_length
from traitwatch_builder.reading.session import Session


@dataclass(frozen=True)
class SourceOptions:
    """The choice of a source of answers.

    Attributes:
        endpoints: base URLs of OpenAI-compatible servers; without any, an engine of our own answers.
        endpoint_model: the servers' name of the model; None for the only model that they serve.
        endpoint_api_key: the servers' key. With None, OpenAI's own server gets the environment's key, and other
            servers get no key.
    """

    endpoints: tuple[str, ...] = ()
    endpoint_model: str | None = None
    endpoint_api_key: str | None = field(default=None, repr=False)

    def identity(self, model: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON data that answers depend on: the model, but not the servers that serve it."""
        return {"model": model, "served_as": self.endpoint_model} if self.endpoints else {"model": model}


Opener = Callable[[Sampling, int, bool], AbstractContextManager[Answers]]
"""Starts a source of answers.

The arguments are the sampling, the number of tokens of the longest prompt, and whether the chat template ends inside
the thinking of a reasoning model.
"""


def opener(session: Session, options: SourceOptions) -> Opener:
    """Return the function that starts the source of answers of a session's model."""
    model, console = session.model, session.console

    @contextmanager
    def own_engine(sampling: Sampling, longest_prompt: int, thinking_opened: bool) -> Iterator[Answers]:
        needed = check_length(model, longest_prompt, sampling.max_tokens)
        console.print("Starting vLLM to generate the answers.")
        parallel = session.options.tensor_parallel_size, session.options.pipeline_parallel_size
        engine = Engine(model, sampling, needed, thinking_opened, *parallel)
        with closing(engine):
            yield engine

    @contextmanager
    def servers(sampling: Sampling, longest_prompt: int, thinking_opened: bool) -> Iterator[Answers]:
        from traitwatch_builder.answering.endpoint import EndpointAnswers

        source = EndpointAnswers(
            options.endpoints,
            sampling,
            options.endpoint_model,
            options.endpoint_api_key,
            thinking_opened=thinking_opened,
            console=console,
        )
        try:
            yield source
        finally:
            console.print(f"The endpoints answered: {source.usage}.")

    return servers if options.endpoints else own_engine
