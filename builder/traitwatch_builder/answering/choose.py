"""Where answers come from: an own vLLM engine, or OpenAI-compatible servers."""

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
    """What answers.

    Attributes:
        endpoints: base URLs of OpenAI-compatible servers; none means an own engine.
        endpoint_model: what they call the model; None for the only one that they serve.
        endpoint_api_key: their key; None for none, or for OpenAI's own the environment's.
    """

    endpoints: tuple[str, ...] = ()
    endpoint_model: str | None = None
    endpoint_api_key: str | None = field(default=None, repr=False)

    def identity(self, model: dict[str, Any]) -> dict[str, Any]:
        """Return JSON data that answers depend on: which servers gave them does not matter, their model does."""
        return {"model": model, "served_as": self.endpoint_model} if self.endpoints else {"model": model}


Opener = Callable[[Sampling, int, bool], AbstractContextManager[Answers]]
"""Starts a source of answers, given the sampling, the tokens of the longest prompt, and whether the chat template ends
inside the thinking of a reasoning model."""


def opener(session: Session, options: SourceOptions) -> Opener:
    """Return what starts the source of answers of a session's model."""
    model, console = session.model, session.console

    @contextmanager
    def own_engine(sampling: Sampling, longest_prompt: int, thinking_opened: bool) -> Iterator[Answers]:
        needed = check_length(model, longest_prompt, sampling.max_tokens)
        console.print("Starting vLLM to generate the answers.")
        spread = session.options
        engine = Engine(
            model, sampling, needed, thinking_opened, spread.tensor_parallel_size, spread.pipeline_parallel_size
        )
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
