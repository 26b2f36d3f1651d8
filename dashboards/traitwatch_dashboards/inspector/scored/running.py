"""Runs the generations of one view, several at once, until they end or are stopped."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from functools import partial

from traitwatch_dashboards.inspector.scored.generation import GenerationRequest, generate
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.journal import Journal

STOPPED = "Stopped. The text so far is kept."
# Seconds between two updates of the page.
_INTERVAL = 0.1

logger = logging.getLogger(__name__)


class Generations:
    """The generations of one view that are under way."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._claim: object | None = None
        self._stopped = False

    def __deepcopy__(self, memo: dict[int, object]) -> "Generations":
        # Gradio copies the initial state for each session. The copy has no tasks.
        return Generations()

    @property
    def busy(self) -> bool:
        """Whether a generation is under way, or about to begin."""
        return self._claim is not None or any(not task.done() for task in self._tasks)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Be busy inside the block. A visitor can press Enter and click Send before the first generation has begun."""
        claim = self._claim = object()
        self._stopped = False
        try:
            yield
        finally:
            if self._claim is claim:
                self._claim = None

    def stop(self) -> None:
        """End the generations, also those about to begin; the tokens that have come stay."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()

    async def run(
        self, requests: Mapping[int, tuple[GenerationRequest, InspectedText]], journal: Journal
    ) -> AsyncGenerator[str]:
        """Generate all answers at once, and yield the lines of the view whenever there are new ones.

        Args:
            requests: the request and the answer to fill, by the number of the pane; at least one.
            journal: journal of the view, in which the scored texts have begun.
        """
        tasks = self._tasks = []
        for pane, (request, answer) in requests.items():
            task = asyncio.create_task(_generate(request, answer, journal, pane))
            # A task that is cancelled before its first step runs none of its own code, not even a `finally`.
            task.add_done_callback(partial(_end, answer, journal, pane))
            tasks.append(task)
            if self._stopped:
                task.cancel()
        # From here on, the tasks tell. The page may never ask this generator for its rest.
        self._claim = None
        try:
            while True:
                await asyncio.wait(tasks, timeout=_INTERVAL)
                over = all(task.done() for task in tasks)
                if journal.grown:
                    yield journal.news()
                if over:
                    break
        finally:
            # The visitor may have left or reloaded the page while answers stream.
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)


async def _generate(request: GenerationRequest, answer: InspectedText, journal: Journal, pane: int) -> None:
    async with contextlib.aclosing(generate(request, answer)) as pieces:
        async for piece in pieces:
            journal.add(piece.texts, piece.start, piece.values, pane)


def _end(answer: InspectedText, journal: Journal, pane: int, task: asyncio.Task[None]) -> None:
    """End a scored text in the journal, whatever ended its generation."""
    if task.cancelled():
        answer.note = STOPPED
    elif task.exception() is not None:
        logger.error("An answer could not be shown.", exc_info=task.exception())
        answer.note = f"The page could not show the rest of the answer: {task.exception()}"
    journal.end(answer, pane)
