"""No request holds the event loop for long, whatever it asks for. The benchmark `blocked_loop` measures more cases."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tests.benchmarks.blocked_loop.probe import probe
from tests.benchmarks.blocked_loop.serving import Case, serving

# Milliseconds of processor time, which other programs of the machine do not change.
MOST = 20.0
CASES = {
    "a long prompt": Case(prompt=131_072, tokens=16, body={"traits": {"prompt": True}}),
    "a long answer with many spikes": Case(tokens=32_768, spiky=True),
    "a long answer at the end of a stream": Case(tokens=32_768, stream=True),
    "many choices": Case(tokens=512, n=64),
    "a batch": Case(tokens=512, calls=64),
    "log probabilities": Case(filler=2**24),
    "token ids": Case(body={"traits": True, "prompt": list(range(1000, 132_072))}),
}


async def test_no_request_holds_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 traits. The rows come from a process of its own, through the real transport."""
    monkeypatch.setattr("traitwatch_server.responses.answer_scores.ROWS_TIMEOUT", 60.0)
    monkeypatch.setattr("traitwatch_server.recording.recorder.ROWS_TIMEOUT", 60.0)
    longest = {}
    async with serving(64, tmp_path, CollectorRegistry()) as server:
        for name, case in CASES.items():
            server.prepare(case)
            async with probe() as seen:
                answer = await server.request()
            server.check(answer)
            longest[name] = seen.cpu
    assert max(longest.values()) < MOST, longest
