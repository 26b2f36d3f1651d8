"""Long work is done in slices of the event loop, and short work at once."""

import asyncio
import time

import pytest

from traitwatch_server import pacing
from traitwatch_server.pacing import Pacer, Steps, at_once


def counting(done: list[str], name: str, steps: int, seconds: float = 0.0) -> Steps[str]:
    for _ in range(steps):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        done.append(name)
        yield
    return name


async def turns(until: asyncio.Future[list[str]]) -> int:
    count = 0
    while not until.done():
        await asyncio.sleep(0)
        count += 1
    return count


async def test_short_work_is_done_without_a_turn_of_the_loop() -> None:
    done: list[str] = []
    task = asyncio.ensure_future(Pacer().run(counting(done, "a", 10)))
    await asyncio.sleep(0)
    assert task.done()
    assert await task == "a"
    assert done == ["a"] * 10


async def test_long_work_of_many_gives_a_turn_to_others_after_each_slice() -> None:
    """100 steps of a millisecond in five tasks take at least as many turns as there are slices."""
    done: list[str] = []
    pacer = Pacer()
    jobs = asyncio.gather(*(pacer.run(counting(done, name, 20, 0.001)) for name in "abcde"))
    assert await turns(jobs) >= 100 * 0.001 / (pacing.SLICE_SECONDS + 0.001) - 1
    assert await jobs == list("abcde")
    assert sorted(done) == sorted("abcde" * 20)


async def test_work_that_is_begun_can_be_ended_later() -> None:
    done: list[str] = []
    pacer = Pacer()
    steps = counting(done, "a", 4, pacing.SLICE_SECONDS)
    assert not pacer.begin(steps)  # type: ignore[arg-type]
    assert 0 < len(done) < 4
    assert await pacer.run(steps) == "a"
    assert done == ["a"] * 4


async def test_work_that_is_cancelled_holds_up_nobody() -> None:
    done: list[str] = []
    pacer = Pacer()
    cancelled = asyncio.create_task(pacer.run(counting(done, "a", 1000, 0.001)))
    other = asyncio.create_task(pacer.run(counting(done, "b", 10, 0.001)))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await asyncio.wait_for(other, 20) == "b"


async def test_a_fault_in_a_step_reaches_who_waits() -> None:
    def faulty() -> Steps[None]:
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await Pacer().run(faulty())
    with pytest.raises(ValueError, match="no"):
        at_once(faulty())
