"""Records every generation when it has ended: metrics, spikes, telemetry.

A client can leave the scores out of its response, but not its calls out of the record: an alert sees only what is
recorded.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

from traitwatch_server.ledger.call import Call
from traitwatch_server.ledger.ledger import Ledger
from traitwatch_server.ledger.waiter import ROWS_TIMEOUT
from traitwatch_server.metrics import Metrics
from traitwatch_server.pacing import Pacer, Steps, at_once
from traitwatch_server.recording.sink import Recorded, Sink
from traitwatch_server.recording.tally import FLUSH_SECONDS, Tally

logger = logging.getLogger(__name__)


class Recorder:
    """Records the calls of the engine in one API process.

    Attributes:
        tally: counts the scores for Prometheus.
    """

    def __init__(self, ledger: Ledger, metrics: Metrics, pacer: Pacer, model_name: str, sinks: Sequence[Sink] = ()):
        """Start with no call.

        Args:
            ledger: releases the calls after they were recorded.
            metrics: the server's metrics.
            pacer: shares the event loop among all work on long answers.
            model_name: the served model's name.
            sinks: take each recorded choice.
        """
        self.tally = Tally(metrics)
        self._ledger = ledger
        self._metrics = metrics
        self._pacer = pacer
        self._model_name = model_name
        self._sinks = sinks
        self._late: set[asyncio.Task[None]] = set()

    def ended(self, call: Call, *, finished: bool) -> None:
        """Record a call that has ended, as soon as its rows are here, and release it.

        Args:
            call: the call.
            finished: False where the call was aborted. It is recorded as far as its tokens came: their rows still come.
        """
        steps = self._record(call, finished=finished)
        waits = call.accepted and not call.complete()
        if waits or not self._pacer.begin(steps):
            task = asyncio.get_running_loop().create_task(self._later(call if waits else None, steps))
            self._late.add(task)
            task.add_done_callback(self._late.discard)

    def not_scorable(self, tokens: int) -> None:
        """Count tokens that cannot be scored, such as those of a beam search."""
        self._metrics.tokens_unscored[self._metrics.engine_of(None), "not_scorable"].inc(tokens)

    def not_attached(self, reason: str) -> None:
        """Count a response that goes out without scores."""
        self._metrics.responses_incomplete[self._metrics.engine_of(None), reason].inc()

    async def flush_at_intervals(self) -> None:
        """Flush the tally to Prometheus every `FLUSH_SECONDS`, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.tally.flush()

    def close(self) -> None:
        """Close the sinks."""
        for sink in self._sinks:
            sink.close()

    async def _later(self, awaited: Call | None, steps: Steps[None]) -> None:
        """Do the steps of a record, once the rows of the awaited call are here."""
        try:
            if awaited is not None:
                for index in range(awaited.num_choices):
                    if not await awaited.wait_complete(index, ROWS_TIMEOUT):
                        break
            await self._pacer.run(steps)
        finally:
            # The server ends: there is no later turn of the loop. Work that is done already does nothing here.
            at_once(steps)

    def _record(self, call: Call, *, finished: bool) -> Steps[None]:
        try:
            for index in range(call.num_choices):
                try:
                    yield from self._record_choice(call, index, finished=finished)
                except Exception:
                    # A monitoring failure must not fail a generation.
                    self._not_scored(call, index, "internal_error")
                    logger.exception("A response could not be recorded.")
                yield
        finally:
            self._ledger.release(call)

    def _not_scored(self, call: Call, index: int, reason: str) -> None:
        engine = self._metrics.engine_of(call.engine)
        self._metrics.tokens_unscored[engine, reason].inc(max(0, len(call.choice(index).tokens) - 1))
        self._metrics.responses_incomplete[engine, reason].inc()

    def _record_choice(self, call: Call, index: int, *, finished: bool) -> Steps[None]:
        rows = call.choice(index)
        engine = self._metrics.engine_of(call.engine)
        expected = len(rows.tokens) - 1
        if expected < 0 or (expected == 0 and not finished):
            return
        if not call.accepted or not call.loaded.all:
            self._not_scored(call, index, "no_traits" if call.accepted else "ledger_full")
            return
        scores = yield from call.scores(index)
        missing = scores.missing
        self.tally.add(engine, scores, call.call_id)
        self._metrics.tokens_scored[engine].inc(expected - missing)
        if missing or not rows.complete():
            self._metrics.tokens_unscored[engine, "rows_missing"].inc(missing)
            self._metrics.responses_incomplete[engine, "rows_missing"].inc()
        else:
            self._metrics.responses_scored[engine].inc()
        if missing < expected:
            self._metrics.last_score[engine].set(time.time())
        for sink in self._sinks:
            sink.record(
                Recorded(
                    request_id=call.request_id,
                    call_id=call.call_id,
                    index=index,
                    model=call.adapter or self._model_name,
                    engine=engine,
                    traits=scores.traits,
                    mean_z=scores.mean_z,
                    spikes=scores.spikes,
                    prompt_token_ids=rows.prompt,
                    token_ids=rows.tokens,
                    complete=not missing,
                )
            )
