"""Runs the generations of one session: several at once, one view, until they end or are stopped."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping

from traitwatch_dashboards.inspector.scored.generation import GenerationRequest, generate
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.journal import Journal

STOPPED = "Stopped. What came is kept."
# Seconds between two updates of the page.
_INTERVAL = 0.1


class Generations:
    """The generations that are under way in a session."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def __deepcopy__(self, memo: dict[int, object]) -> "Generations":
        # Gradio copies the initial state for each session; tasks are never part of that.
        return Generations()

    @property
    def busy(self) -> bool:
        """Whether any is."""
        return any(not task.done() for task in self._tasks)

    def stop(self) -> None:
        """End them; what came stays."""
        for task in self._tasks:
            task.cancel()

    async def run(
        self, asks: Mapping[int, tuple[GenerationRequest, InspectedText]], journal: Journal
    ) -> AsyncGenerator[str]:
        """Generate all answers at once and yield what the view shows whenever it has grown.

        Args:
            asks: what is asked and the answer that it fills, by the number of the pane; at least one.
            journal: of the view; its scored texts have begun.
        """
        self.stop()
        self._tasks = [
            asyncio.create_task(_generate(ask, answer, journal, pane)) for pane, (ask, answer) in asks.items()
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
            # The page was left, or reloaded, in mid-stream.
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)


async def _generate(ask: GenerationRequest, answer: InspectedText, journal: Journal, pane: int) -> None:
    pieces = generate(ask, answer)
    try:
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                journal.add(piece.texts, piece.start, piece.values, pane)
    except asyncio.CancelledError:
        answer.note = STOPPED
    finally:
        journal.end(answer, pane)
