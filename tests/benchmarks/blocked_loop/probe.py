"""A probe of the event loop: how long one turn of it lasts."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass
class Stalls:
    """What a probe has seen, in milliseconds.

    Attributes:
        wall: the longest turns of the loop, by the clock.
        cpu: the longest turns of the loop, by the processor time of its thread. Other processes of the machine, and
            other threads of this one, do not add to it.
        busy: processor time of the loop's thread in all turns above a tenth of a millisecond.
    """

    wall: float = 0.0
    cpu: float = 0.0
    busy: float = 0.0

    async def _watch(self) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0)
            now, used = time.perf_counter(), time.thread_time()
            self.wall = max(self.wall, 1e3 * (now - wall))
            self.cpu = max(self.cpu, 1e3 * (used - cpu))
            if used - cpu > 1e-4:
                self.busy += 1e3 * (used - cpu)
            wall, cpu = now, used


@asynccontextmanager
async def probe() -> AsyncIterator[Stalls]:
    """Measure the turns of the running loop while the context lasts. The garbage collector runs as it likes."""
    gc.collect()
    stalls = Stalls()
    task = asyncio.create_task(stalls._watch())
    await asyncio.sleep(0)
    try:
        yield stalls
    finally:
        await asyncio.sleep(0)
        task.cancel()
