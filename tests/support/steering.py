"""A tiny model that can be steered, its vector and tokenizer, and a judge that counts its questions."""

import datetime
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support import trait
from traitwatch.card import JudgeCard, LayerVerification, Verification
from traitwatch_builder.answering.source import Sampling
from traitwatch_builder.clients.usage import Usage
from traitwatch_builder.judging.judge import Question, Score

HIDDEN, LAYERS = 16, 4
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=8, seed=0)
SAMPLED = Sampling(temperature=1.0, top_p=0.9, max_tokens=8, seed=3)
PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 2], [11], [20, 21, 22, 23, 24]]
VECTOR = np.random.default_rng(0).standard_normal((LAYERS + 1, HIDDEN)).astype(np.float32)


class Letters(trait.Letters):
    """The same tokenizer, which also makes text of tokens."""

    eos_token_id = None

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(64 + i) for i in ids)


def console() -> Console:
    return Console(file=io.StringIO())


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


class CountingJudge:
    """Scores the trait by the length of an answer's question, and counts the judge's questions."""

    card = JudgeCard(name="likelihood")
    usage = Usage()

    def __init__(self, stop_after: int | None = None, mute: str = ""):
        self.asked: list[Question] = []
        self._stop_after = stop_after
        self._mute = mute

    def identity(self, question: Question) -> dict[str, Any]:
        return {"aspect": question.aspect, "question": question.question, "answer": question.answer}

    def estimate(self, questions: Sequence[Question]) -> Usage:
        return Usage(len(questions))

    def score(self, questions: Sequence[Question], advance: Callable[[int], None]) -> Iterator[Score]:
        for index, question in enumerate(questions):
            if len(self.asked) == self._stop_after:
                raise KeyboardInterrupt
            self.asked.append(question)
            value = 80.0 if question.aspect == "coherence" else float(len(question.question))
            yield Score(index, None if question.answer == self._mute and question.aspect == "trait" else value)


def verification(aucs: Mapping[int, float | None], better: bool = True) -> Verification:
    return Verification(
        layers=[LayerVerification(layer=layer, norm=1.0, auc=auc) for layer, auc in aucs.items()],
        num_pos=60,
        num_neg=60,
        better_than_null=better,
        verdict="",
        date=datetime.date(2026, 1, 1),
    )
