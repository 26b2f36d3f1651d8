"""How long the event loop stands still under the worst requests, and what the ordinary request costs.

No engine runs. The real middleware, ledger, recorder and spike log get synthetic rows through the real transport.
A probe takes part in every turn of the loop. It reports the longest turn: by the processor time of the loop's thread,
which other programs of the machine do not change, and by the clock.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

from prometheus_client import CollectorRegistry

from tests.benchmarks.blocked_loop.ordinary import ordinary
from tests.benchmarks.blocked_loop.probe import probe
from tests.benchmarks.blocked_loop.routes import routes
from tests.benchmarks.blocked_loop.serving import Case, serving

_PROMPT = {"traits": {"prompt": True}}
CASES = {
    "prompt of 131k tokens": Case(prompt=131_072, tokens=16, body=_PROMPT),
    "prompt of 131k tokens, streamed": Case(prompt=131_072, tokens=16, body=_PROMPT, stream=True),
    "answer of 32k tokens": Case(tokens=32_768),
    "answer of 32k tokens, streamed at once": Case(tokens=32_768, stream=True),
    "answer of 32k tokens, as many spikes as can be": Case(tokens=32_768, spiky=True),
    "answer of 131k tokens": Case(tokens=131_072),
    "64 choices of 512 tokens": Case(tokens=512, n=64),
    "64 choices of 512 tokens, streamed at once": Case(tokens=512, n=64, stream=True),
    "batch of 64 calls of 512 tokens": Case(tokens=512, calls=64),
    "request of 131k token ids": Case(body={"traits": True, "prompt": list(range(1000, 132_072))}),
    "vLLM's answer of 30 MB (log probabilities)": Case(filler=2**25),
}


# Milliseconds of processor time that a turn of the loop may take.
_MOST = 20.0


def main() -> int:
    """Run the cases and write a table; return 1 where a request held the loop for too long."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.blocked_loop", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each case (default: 5)")
    parser.add_argument("--traits", type=int, default=64, help="loaded traits (default: 64)")
    parser.add_argument("--only", default="", metavar="WORD", help="only cases with WORD in their name")
    options = parser.parse_args()
    longest = asyncio.run(_requests(options.traits, options.runs, options.only))
    if options.only in "routes":
        asyncio.run(routes(options.runs))
    if options.only in "ordinary":
        asyncio.run(ordinary(options.runs))
    return 1 if longest > _MOST else 0


async def _requests(num_traits: int, runs: int, only: str) -> float:
    """Write a row for each case; return the longest turn of all, milliseconds of processor time."""
    longest = 0.0
    out = sys.stdout
    out.write(f"{num_traits} traits; longest turn of the loop, ms: median and worst of {runs} runs\n")
    out.write(f"{'case':48} {'cpu':>8} {'worst':>8} {'clock':>8} {'worst':>8} {'all cpu':>9} {'MB':>7}\n")
    chosen = {name: case for name, case in CASES.items() if only in name}
    with tempfile.TemporaryDirectory() as directory:
        async with serving(num_traits, Path(directory), CollectorRegistry()) as server:
            await server.request()
            for name, case in chosen.items():
                server.prepare(case)
                stalls = []
                size = 0
                for _ in range(runs):
                    async with probe() as seen:
                        answer = await server.request()
                    size = server.check(answer)
                    del answer
                    stalls.append(seen)
                cpu, wall = [s.cpu for s in stalls], [s.wall for s in stalls]
                busy = statistics.median(s.busy for s in stalls)
                row = (statistics.median(cpu), max(cpu), statistics.median(wall), max(wall))
                out.write(f"{name:48} {' '.join(f'{ms:8.1f}' for ms in row)} {busy:9.0f} {size / 1e6:7.1f}\n")
                out.flush()
                longest = max(longest, *cpu)
    return longest


if __name__ == "__main__":
    raise SystemExit(main())
