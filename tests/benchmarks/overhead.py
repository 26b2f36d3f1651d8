"""What scoring costs: throughput of a scoring server against plain vLLM's, interleaved in one run.

    python -m tests.benchmarks.overhead

Both servers are up the whole time; rounds alternate between them, so that what else the machine does falls on both.
The ratio of each pair of rounds is told, and their median.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import openai
from rich.console import Console

from builder.embedded_model import embedded_model
from tests.integration.serving import MODEL_NAME, Server, plain_vllm, serving, traitwatch

ROUNDS = 6
CHATS = 32
TOKENS = 96
VECTORS = Path(__file__).parents[2] / "builder" / "data" / "SmolLM2-135M-Instruct"


async def tokens_per_second(server: Server, round_number: int) -> float:
    """Stream `CHATS` chats of `TOKENS` tokens at once."""

    async def chat(client: openai.AsyncOpenAI, number: int) -> None:
        stream = await client.chat.completions.create(
            model=MODEL_NAME,
            messages=[{"role": "user", "content": f"Story {number} of round {round_number}, please."}],
            max_tokens=TOKENS,
            temperature=0.7,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for _ in stream:
            pass

    async with server.async_client() as client:
        started = time.perf_counter()
        await asyncio.gather(*(chat(client, number) for number in range(CHATS)))
        return CHATS * TOKENS / (time.perf_counter() - started)


def main() -> None:
    """Measure and tell."""
    console = Console()
    model = embedded_model()
    logs = Path(tempfile.mkdtemp(prefix="overhead-"))
    ours_command = traitwatch("serve", model, "--traits", VECTORS, "--enforce-eager")
    with (
        serving(ours_command, logs / "ours.log") as ours,
        serving(plain_vllm(model, "--enforce-eager"), logs / "plain.log") as plain,
    ):
        for server in (ours, plain):
            asyncio.run(tokens_per_second(server, -1))
        ratios = []
        for number in range(ROUNDS):
            pair = [(ours, "ours"), (plain, "plain")]
            speeds = {
                name: asyncio.run(tokens_per_second(server, number))
                for server, name in (pair if number % 2 else reversed(pair))
            }
            ratios.append(speeds["ours"] / speeds["plain"])
            console.print(f"scored {speeds['ours']:.0f} tokens/s, plain {speeds['plain']:.0f}: {ratios[-1]:.3f}")
    console.print(f"scored / plain, median of {ROUNDS}: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
