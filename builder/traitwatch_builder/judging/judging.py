"""Judging answers files: choosing the judge, asking it about what has no score yet, keeping each score at once."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from traitwatch.card import JudgeCard
from traitwatch.precision import default_precision
from traitwatch_builder.definitions.elicitation import Elicitation
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.judging.judge import OPENAI_MODEL, Aspect, Judge, Question
from traitwatch_builder.progress import bar
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.storage.worklog import KeptValues, Worklog, fingerprint, model_fingerprint

JudgeName = Literal["openai", "likelihood"]
ASPECTS: tuple[Aspect, ...] = ("trait", "coherence")


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges.

    Attributes:
        name: the judge.
        model: of the OpenAI judge; None for its default.
        base_url: of an OpenAI-compatible server; None for OpenAI's own.
        max_concurrent: requests open at one time.
    """

    name: JudgeName
    model: str | None = None
    base_url: str | None = None
    max_concurrent: int = 50

    @classmethod
    def choose(
        cls, name: JudgeName | None, model: str | None, base_url: str | None, max_concurrent: int
    ) -> "JudgeOptions":
        """Return the options, the judge being `openai` where there is a key or a server of one's own, if none is named.

        Raises:
            PipelineError: options that do not go together, or a judge without a key.
        """
        has_key = bool(os.environ.get("OPENAI_API_KEY"))
        chosen: JudgeName = name or ("openai" if has_key or base_url or model else "likelihood")
        if chosen == "likelihood" and (model or base_url):
            raise PipelineError("--judge-model and --judge-base-url belong to --judge openai.")
        if chosen == "openai" and not has_key and not base_url:
            raise PipelineError(
                "the OpenAI judge needs a key: set OPENAI_API_KEY, give --judge-base-url of a server of your own, "
                "or judge offline with --judge likelihood."
            )
        return cls(chosen, model, base_url, max_concurrent)


def make_judge(
    options: JudgeOptions,
    eval_prompt: str,
    elicitation: Elicitation,
    model: Path | str,
    console: Console,
    device_map: str | None = None,
) -> Judge:
    """Return the judge.

    Args:
        options: who judges.
        eval_prompt: the definition's prompt, for the OpenAI judge.
        elicitation: the conditions, for the likelihood judge.
        model: the model, for the likelihood judge.
        console: where the judge shows warnings.
        device_map: of transformers, for the likelihood judge.
    """
    if options.name == "openai":
        from traitwatch_builder.judging.openai_judge import OpenAIJudge

        return OpenAIJudge(
            eval_prompt,
            model=options.model or OPENAI_MODEL,
            base_url=options.base_url,
            max_concurrent=options.max_concurrent,
            console=console,
        )
    from traitwatch_builder.judging.likelihood import LikelihoodJudge
    from traitwatch_builder.reading.transformers_reader import Reader

    def load() -> Reader:
        import torch

        # A judgement needs no more precision than the model is served with, and bfloat16 reads four times as fast where
        # the processor supports it.
        return Reader.load(model, dtype=getattr(torch, default_precision()), device_map=device_map)

    return LikelihoodJudge(load, elicitation, model_fingerprint(model))


def questions_of(rows: Sequence[JudgedAnswer]) -> list[Question]:
    """Return what is to be asked about rows: the trait and the coherence of each."""
    return [Question(aspect, row.question, row.answer, row.context) for row in rows for aspect in ASPECTS]


def pending(judge: Judge, questions: Sequence[Question], worklog: KeptValues) -> dict[str, Question]:
    """Return the questions that the log does not answer, each once, by the key under which its score is kept."""
    keyed = {fingerprint(judge.identity(question)): question for question in questions}
    return {key: question for key, question in keyed.items() if worklog.get(key) is None}


def estimated(judge: Judge, questions: Sequence[Question]) -> str:
    """Return what scoring would take, for a dry run, and what cannot be known of a judge that was not asked."""
    usage = judge.estimate(questions)
    if usage.calls and not judge.card.method:
        return f"about {usage}; the judge was not probed: one that reasons, or is sampled, writes more"
    return f"about {usage}"


def ask(
    judge: Judge, questions: Sequence[Question], worklog: Worklog, console: Console, label: str
) -> list[float | None]:
    """Return the scores of questions, asking the judge about those that the log does not have.

    Args:
        judge: who scores.
        questions: what is asked; the same question twice is asked once.
        worklog: where each score is kept as soon as it is there.
        console: where progress is shown.
        label: what the progress bar says.
    """
    todo = pending(judge, questions, worklog)
    if todo:
        keys = list(todo)
        with bar(console, label, len(todo)) as advance:
            for score in judge.score(list(todo.values()), advance):
                worklog.put(keys[score.index], {"score": score.value})
    return [_score(worklog, fingerprint(judge.identity(question))) for question in questions]


def _score(worklog: Worklog, key: str) -> float | None:
    kept = worklog.get(key)
    return None if kept is None else kept["score"]


def judged(
    judge: Judge, rows: Sequence[JudgedAnswer], worklog: Worklog, console: Console, label: str
) -> list[JudgedAnswer]:
    """Return rows with their scores."""
    scores = ask(judge, questions_of(rows), worklog, console, label)
    return [
        replace(row, trait=_rounded(trait), coherence=_rounded(coherence))
        for row, trait, coherence in zip(rows, scores[0::2], scores[1::2], strict=True)
    ]


@contextmanager
def telling_usage(judge: Judge, console: Console) -> Iterator[None]:
    """Say at the end what the judge took, also where judging failed or was interrupted."""
    try:
        yield
    finally:
        if judge.usage.calls:
            console.print(f"The judge took {judge.usage}.")


def judge_card(judge: Judge, options: JudgeOptions, worklog: Worklog) -> JudgeCard:
    """Return who has judged; what a judge finds out about itself is kept for runs in which it is asked nothing."""
    key = fingerprint(["judge", options.name, options.model, options.base_url])
    kept = worklog.get(key)
    if judge.card.method:
        if kept != judge.card.model_dump():
            worklog.put(key, judge.card.model_dump())
        return judge.card
    return judge.card if kept is None else JudgeCard.model_validate(kept)


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 3)
