"""Runs the generations of one view, several at once, until they end or are stopped."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping

from traitwatch_dashboards.inspector.scored.generation import GenerationRequest, generate
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.journal import Journal

STOPPED = "Stopped. The text so far is kept."
# Seconds between two updates of the page.
_INTERVAL = 0.1


class Generations:
    """The generations of one view that are under way."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def __deepcopy__(self, memo: dict[int, object]) -> "Generations":
        # Gradio copies the initial state for each session. The copy has no tasks.
        return Generations()

    @property
    def busy(self) -> bool:
        """Whether a generation is under way."""
        return any(not task.done() for task in self._tasks)

    def stop(self) -> None:
        """End the generations; the tokens that have come stay."""
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
        self.stop()
        self._tasks = [
            asyncio.create_task(_generate(request, answer, journal, pane))
            for pane, (request, answer) in requests.items()
        ]
        tasks = self._tasks
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
    pieces = generate(request, answer)
    try:
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                journal.add(piece.texts, piece.start, piece.values, pane)
    except asyncio.CancelledError:
        answer.note = STOPPED
    finally:
        journal.end(answer, pane)
