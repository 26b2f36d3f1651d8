"""Measures the time of extraction: seconds for 200 answers by each engine and by the reference, in one run.

    python -m tests.benchmarks.builder [--answers 200] [--rounds 2]

All readers read the same answers of the embedded model (the shipped paternalism CSV), after eight examples and after
the bare question. Rounds interleave the readers, so that other work on the machine slows all of them. The reference is
the Persona Vectors authors' code: one text at a time through the whole model, with `output_hidden_states=True`. After
the examples, one pass of the reference gives all three vectors. After the question, the prompt needs a second pass.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from traitwatch.vectors import SHIPPED
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS
from traitwatch_builder.models.embedded import embedded_model
from traitwatch_builder.reading.states import Span, StateReader
from traitwatch_builder.reading.transformers_reader import Reader
from traitwatch_builder.reading.vllm_reader import VllmReader

EXAMPLES = 8
REGIMES = (
    "all three vectors, answers read under the prompt",
    "all three vectors, answers read under the question",
    "response vector alone, read under the question",
)


class Texts:
    """The token ids of answers after both kinds of prompt."""

    def __init__(self, tokenizer: Any, count: int):
        table = pd.read_csv(
            SHIPPED / "SmolLM2-135M-Instruct" / "paternalism_pos.csv.gz", dtype=str, keep_default_na=False
        )
        # The rows are spread evenly over the questions. The file has ten answers to each question in a row.
        rows = [i * len(table) // count for i in range(count)]
        examples = json.loads((SHIPPED_DEFINITIONS / "trait_data_extract" / "paternalism.json").read_text())["examples"]
        self.under_prompt, self.under_question, self.prompts = [], [], []
        for number, row in enumerate(rows):
            first = number % 4 * len(examples) // 4
            shots = [examples[(first + i) % len(examples)] for i in range(EXAMPLES)]
            question = {"role": "user", "content": table["question"][row]}
            turns = [
                turn
                for shot in shots
                for turn in (
                    {"role": "user", "content": shot["question"]},
                    {"role": "assistant", "content": shot["pos"]},
                )
            ]
            answer = self._ids(tokenizer, table["answer"][row])
            prompt, bare = (self._prompt(tokenizer, messages) for messages in ([*turns, question], [question]))
            self.under_prompt.append(Span([*prompt, *answer], len(prompt)))
            self.under_question.append(Span([*bare, *answer], len(bare)))
            self.prompts.append(Span(prompt, 0))

    def _prompt(self, tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
        return self._ids(tokenizer, tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _ids(self, tokenizer: Any, text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@torch.inference_mode()
def one_at_a_time(model: Any, spans: Sequence[Span]) -> None:
    """Read the spans like the authors' code."""
    for span in spans:
        states = model(torch.tensor([span.ids]), output_hidden_states=True).hidden_states
        [state[:, span.start :].mean(dim=1) for state in states]


def by_reference(model: Any, texts: Texts) -> list[float]:
    """Return the seconds for each kind of prompt."""
    under_prompt = seconds(lambda: one_at_a_time(model, texts.under_prompt))
    under_question = seconds(lambda: one_at_a_time(model, texts.under_question))
    prompts = seconds(lambda: one_at_a_time(model, texts.prompts))
    return [under_prompt, under_question + prompts, under_question]


def by_engine(reader: StateReader, texts: Texts) -> list[float]:
    """Return the seconds for each kind of prompt."""

    def read(spans: Sequence[Span]) -> None:
        for _ in reader.read(spans, lambda count: None):
            pass

    return [
        seconds(lambda: read([*texts.under_prompt, *texts.prompts])),
        seconds(lambda: (read(texts.under_question), read(texts.prompts))),
        seconds(lambda: read(texts.under_question)),
    ]


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--answers", type=click.IntRange(min=1), default=200, help="Answers to extract.")
@click.option("--rounds", type=click.IntRange(min=1), default=2, help="Times that each reader reads them all.")
def main(answers: int, rounds: int) -> None:
    """Measure, and print a table."""
    console = Console(width=140)
    model = embedded_model()
    full, half = Reader.load(model), Reader.load(model, torch.bfloat16)
    texts = Texts(full.tokenizer, answers)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

    def by_vllm(dtype: str) -> list[float]:
        """Start an engine, measure without the start, and end the engine: two engines do not fit into one process."""
        started = time.perf_counter()
        with VllmReader(model, 2048, dtype=dtype) as reader:
            console.print(f"vLLM in {dtype}: {time.perf_counter() - started:.0f} s to start, not counted")
            return by_engine(reader, texts)

    runs: dict[str, Callable[[], list[float]]] = {
        "one at a time, float32": lambda: by_reference(full._model, texts),
        "transformers, float32": lambda: by_engine(full, texts),
        "transformers, bfloat16": lambda: by_engine(half, texts),
        "vllm, float32": lambda: by_vllm("float32"),
        "vllm, bfloat16": lambda: by_vllm("bfloat16"),
    }
    measured: dict[str, list[list[float]]] = {name: [] for name in runs}
    for number in range(rounds):
        # Each round has another order. The reference is in the middle of an odd round.
        names = list(runs)[number % len(runs) :] + list(runs)[: number % len(runs)]
        for name in names:
            measured[name].append(runs[name]())
            console.print(f"round {number + 1}: {name}: " + ", ".join(f"{s:.1f} s" for s in measured[name][-1]))
        console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: what else ran took its share")
    console.print(_table(measured, answers))


def _table(measured: dict[str, list[list[float]]], answers: int) -> Table:
    table = Table(
        title=f"{answers} answers, median of {len(next(iter(measured.values())))} rounds (times the reference)"
    )
    table.add_column("reader")
    for regime in REGIMES:
        table.add_column(regime, justify="right")
    reference = next(iter(measured.values()))
    for name, rounds in measured.items():
        cells = []
        for regime in range(len(REGIMES)):
            median = statistics.median(round_[regime] for round_ in rounds)
            ratio = statistics.median(r[regime] / own[regime] for r, own in zip(reference, rounds, strict=True))
            cells.append(f"{median:.1f} s ({ratio:.1f}x)")
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()
