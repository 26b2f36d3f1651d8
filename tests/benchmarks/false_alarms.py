"""Measures how often ordinary chats have a spike, and compares with the promises of the cards: two to four minutes.

    python -m tests.benchmarks.false_alarms [--url http://host:8000] [--out build/false-alarms.json] [--redo FILE]

A card promises that a share (1 % by default) of neutral responses has a spike above its threshold. Calibration set the
threshold on some prompts. This measurement uses the other prompts of `neutral_prompts.txt`, which no step of the build
used. The sampling is that of the calibration. Each prompt gets one response, so that responses are independent and the
exact binomial interval holds. `traitwatch.spikes` finds the spikes in the projections of the server's answers. Beside
them stand the spikes that the server itself found.

The card's z has its own interval, since few responses estimate it. The shares above both ends of this interval show the
uncertainty of the promise.
"""

import asyncio
import datetime
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import openai
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest  # type: ignore[import-untyped]

from tests.support.serving import measured_environment, serving, traitwatch
from traitwatch.spikes import peak_level
from traitwatch.vectors import SHIPPED
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS
from traitwatch_builder.models.embedded import embedded_model
from traitwatch_builder.progress import bar
from traitwatch_builder.storage.answers import load_neutral_prompts

PROMPTS = Path(__file__).with_name("neutral_prompts.txt")
# The sampling of the shipped vectors' calibration: EMBEDDED in the Makefile, and the sampling on their cards.
SAMPLING: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 80}
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Promise:
    """The promise of a card for one trait at the served layer.

    Attributes:
        layer: layer index.
        mean: the mean of the baseline, units of the hidden state.
        std: the standard deviation of the baseline, units of the hidden state.
        rate: the promised share of neutral responses with a spike.
        z: the threshold, standard deviations of the baseline.
        low: lower end of the card's 95 % interval of z.
        high: upper end of the card's 95 % interval of z.
    """

    layer: int
    mean: float
    std: float
    rate: float
    z: float
    low: float
    high: float


@dataclass(frozen=True)
class Response:
    """One response.

    Attributes:
        prompt: the prompt.
        answer: the text of the response.
        complete: whether every token state was scored.
        tokens: the projection of each generated token, by trait, units of the hidden state; None for a token without a
            state, as the last token.
        spikes: the number of spikes that the server found, by trait.
    """

    prompt: str
    answer: str
    complete: bool
    tokens: dict[str, list[float | None]]
    spikes: dict[str, int]


@dataclass(frozen=True)
class FalseAlarms:
    """How often responses had a spike in one trait. Shares are of the responses that were scored completely.

    Attributes:
        trait: the trait.
        promise: the promise of the trait's card.
        responses: the number of responses.
        spiking: the number of responses with a spike at the card's threshold.
        share: the share of responses with a spike.
        low: lower end of the exact 95 % interval of the share.
        high: upper end of the exact 95 % interval of the share.
        kept: whether the promised rate is in that interval.
        share_at_low: the share with a spike if the threshold is the lower end of the card's interval.
        share_at_high: the share with a spike if the threshold is the upper end of the card's interval.
        served: the share in which the server itself found a spike.
    """

    trait: str
    promise: Promise
    responses: int
    spiking: int
    share: float
    low: float
    high: float
    kept: bool
    share_at_low: float
    share_at_high: float
    served: float


def read_prompts(path: Path = PROMPTS) -> list[str]:
    """Read prompts, one a line. Refuse prompts that helped to make the shipped vectors."""
    prompts = path.read_text(encoding="utf-8").splitlines()
    if seen := seen_before(prompts):
        raise click.ClickException(f"{path}: these prompts were used in building the vectors: {seen}")
    return prompts


def seen_before(prompts: Sequence[str]) -> list[str]:
    """Return the prompts that are calibration prompts or occur in a text of a trait definition."""
    calibrated = {_essence(prompt) for prompt in load_neutral_prompts(SHIPPED_DEFINITIONS / "neutral_prompts.json")}
    definitions = [
        json.loads(path.read_text(encoding="utf-8")) for path in SHIPPED_DEFINITIONS.glob("trait_data_*/*.json")
    ]
    texts = [_essence(text) for definition in definitions for text in _texts(definition)]
    return [p for p in prompts if _essence(p) in calibrated or any(_essence(p) in text for text in texts)]


def _texts(data: Any) -> Iterator[str]:
    """Yield every string of a JSON value."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, list | dict):
        for part in data.values() if isinstance(data, dict) else data:
            yield from _texts(part)


def _essence(text: str) -> str:
    """Return the letters and digits of a text in lower case. So prompts are equal even with other punctuation."""
    return "".join(character for character in text.casefold() if character.isalnum())


def promises(listed: Sequence[dict[str, Any]], rate: float) -> dict[str, Promise]:
    """Return the promise of each trait that `GET /v1/traits` lists, and whose card has a threshold for `rate`."""
    found = {}
    for trait in listed:
        calibration = trait["calibration"] or {"thresholds": []}
        for threshold in calibration["thresholds"]:
            if threshold["rate"] == rate:
                found[trait["id"]] = Promise(trait["layer"], calibration["mean"], calibration["std"], **threshold)
    return found


def false_alarms(promised: dict[str, Promise], responses: Sequence[Response]) -> list[FalseAlarms]:
    """Return, for each trait, how often the completely scored responses had a spike."""
    scored = [response for response in responses if response.complete]
    return [_of_trait(trait, promise, scored) for trait, promise in promised.items()]


def _of_trait(trait: str, promise: Promise, responses: Sequence[Response]) -> FalseAlarms:
    levels = np.array([spike_level(response.tokens[trait], promise) for response in responses])
    spiking = int((levels > promise.z).sum())
    low, high = binomtest(spiking, len(levels)).proportion_ci(confidence_level=CONFIDENCE, method="exact")
    return FalseAlarms(
        trait=trait,
        promise=promise,
        responses=len(levels),
        spiking=spiking,
        share=spiking / len(levels),
        low=float(low),
        high=float(high),
        kept=bool(low <= promise.rate <= high),
        share_at_low=float((levels > promise.low).mean()),
        share_at_high=float((levels > promise.high).mean()),
        served=float(np.mean([response.spikes[trait] > 0 for response in responses])),
    )


def spike_level(tokens: Sequence[float | None], promise: Promise) -> float:
    """Return the threshold below which a response has a spike, standard deviations of the baseline."""
    projections = np.array([value for value in tokens if value is not None], dtype=np.float64)
    return float(peak_level((projections - promise.mean) / promise.std))


async def ask(url: str, api_key: str, prompts: Sequence[str], concurrent: int, done: Callable[[int], None]) -> Any:
    """Send every prompt once, `concurrent` at a time. Return the responses in the order of the prompts."""
    slots = asyncio.Semaphore(concurrent)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=600) as client:
        model = (await client.models.list()).data[0].id

        async def one(prompt: str) -> Response:
            async with slots:
                answer: Any = await client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": prompt}],
                    extra_body={"traits": True},
                    **SAMPLING,
                )
            done(1)
            choice = answer.choices[0]
            return Response(
                prompt,
                choice.message.content or "",
                choice.traits_complete,
                {trait: fields["tokens"] for trait, fields in choice.traits.items()},
                {trait: len(fields["spikes"]) for trait, fields in choice.traits.items()},
            )

        return list(await asyncio.gather(*map(one, prompts)))


@contextmanager
def server(url: str | None, console: Console) -> Iterator[str]:
    """Yield the address of a server: the server at `url`, or one of the embedded model with all shipped vectors."""
    if url is not None:
        yield url.rstrip("/")
        return
    model = embedded_model()
    command = traitwatch("serve", model, "--traits", SHIPPED / model.name, "--enforce-eager")
    with tempfile.TemporaryDirectory() as directory:
        console.print(f"Starting a server on {model.name} with the shipped vectors.")
        with serving(command, Path(directory) / "server.log", variables=measured_environment()) as started:
            yield started.url


def results_table(results: Sequence[FalseAlarms], total: int) -> Table:
    """Return the table of the results."""
    table = Table(
        title=f"{results[0].responses} neutral responses of {total} were scored; with a spike at the card's z:"
    )
    for column in ("trait", "card: z", "promised", "spiking", "share", "95 % interval", "kept"):
        table.add_column(column, justify="left" if column == "trait" else "right")
    for column in ("at the card's low z", "at its high z", "server's own count"):
        table.add_column(column, justify="right")
    for r in results:
        table.add_row(
            r.trait,
            f"{r.promise.z:.2f} ({r.promise.low:.2f} to {r.promise.high:.2f})",
            f"{r.promise.rate:.1%}",
            str(r.spiking),
            f"{r.share:.1%}",
            f"{r.low:.1%} to {r.high:.1%}",
            "yes" if r.kept else "NO",
            f"{r.share_at_low:.1%}",
            f"{r.share_at_high:.1%}",
            f"{r.served:.1%}",
        )
    return table


@click.command()
@click.option("--url", help="A server that runs already.  [default: one of the embedded model, started for this]")
@click.option("--api-key", default="none", help="Of that server.")
@click.option("--rate", default=0.01, show_default=True, help="The promise of the cards that is checked.")
@click.option("--concurrent", type=click.IntRange(1), default=16, show_default=True, help="Chats at once.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/false-alarms.json"), show_default=True)
@click.option("--redo", type=click.Path(exists=True, path_type=Path), help="Count anew in what an earlier run wrote.")
def main(*, url: str | None, api_key: str, rate: float, concurrent: int, out: Path, redo: Path | None) -> None:
    """Measure how often neutral responses have a spike, trait by trait."""
    console = Console(width=None if sys.stdout.isatty() else 170)
    if redo is not None:
        saved = json.loads(redo.read_text(encoding="utf-8"))
        promised = {trait: Promise(**fields) for trait, fields in saved["promises"].items()}
        responses = [Response(**fields) for fields in saved["responses"]]
        console.print(results_table(false_alarms(promised, responses), len(responses)))
        return
    prompts = read_prompts()
    with server(url, console) as address:
        headers = {"Authorization": f"Bearer {api_key}"}
        listed = httpx.get(f"{address}/v1/traits", headers=headers, timeout=30).raise_for_status().json()["data"]
        promised = promises(listed, rate)
        with bar(console, "neutral chats", len(prompts)) as done:
            responses = asyncio.run(ask(address, api_key, prompts, concurrent, done))
    results = false_alarms(promised, responses)
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "sampling": SAMPLING,
        "concurrent": concurrent,
        "promises": {trait: asdict(promise) for trait, promise in promised.items()},
        "results": [asdict(result) for result in results],
        "responses": [asdict(response) for response in responses],
    }
    out.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    console.print(results_table(results, len(responses)))
    console.print(f"Written to {out}.")


if __name__ == "__main__":
    main()
