"""Judging answers files: choose the judge, ask it about the answers without a score, and store each score at once.

`make_judge` makes the judge that `JudgeOptions` name. `judge_answers` gives rows their scores. A score that is in the
worklog is not asked for again; `pending` finds the questions whose score is missing.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from traitwatch.card import JudgeCard
from traitwatch.precision import default_precision
from traitwatch_builder.clients.address import OPENAI_URL, server_url
from traitwatch_builder.definitions.elicitation import Elicitation
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.judging.judge import OPENAI_MODEL, Aspect, Judge, Question
from traitwatch_builder.progress import bar, warn
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.storage.scales import scale_of
from traitwatch_builder.storage.worklog import SavedValues, Worklog, fingerprint, model_fingerprint

JudgeName = Literal["openai", "likelihood"]
ASPECTS: tuple[Aspect, ...] = ("trait", "coherence")


@dataclass(frozen=True)
class JudgeOptions:
    """The choice of a judge.

    Attributes:
        name: the judge.
        model: the model of the OpenAI judge; None for its default.
        base_url: the URL of an OpenAI-compatible server, as `address.server_url` returns it; None for OpenAI's own.
        max_concurrent: requests that may be open at one time.
        headers: further headers of every request, by name.
    """

    name: JudgeName
    model: str | None = None
    base_url: str | None = None
    max_concurrent: int = 50
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def choose(
        cls,
        name: JudgeName | None,
        model: str | None,
        base_url: str | None,
        max_concurrent: int,
        headers: Iterable[tuple[str, str]] = (),
    ) -> "JudgeOptions":
        """Return the options. Without `name`, the judge is `openai` where there is a key, a server or a model for it.

        The environment's `OPENAI_BASE_URL` becomes the `base_url` of an OpenAI judge without one: it decides who
        judges.

        Raises:
            NetworkError: the URL is not a URL.
            PipelineError: the options contradict each other, or the OpenAI judge has no key.
        """
        has_key = bool(os.environ.get("OPENAI_API_KEY"))
        chosen: JudgeName = name or ("openai" if has_key or base_url or model else "likelihood")
        if chosen == "likelihood":
            if model or base_url:
                raise PipelineError("--judge-model and --judge-base-url belong to --judge openai.")
            return cls(chosen, max_concurrent=max_concurrent)
        url = server_url(base_url, "--judge-base-url")
        if url == OPENAI_URL and not has_key:
            raise PipelineError(
                "the OpenAI judge needs a key: set OPENAI_API_KEY, give --judge-base-url of a server of your own, "
                "or judge offline with --judge likelihood."
            )
        return cls(chosen, model, None if url == OPENAI_URL else url, max_concurrent, dict(headers))


@dataclass(frozen=True)
class _Stored:
    """A score in a worklog; None where the judge gave none."""

    score: float | None


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
        options: the choice of the judge.
        eval_prompt: the definition's evaluation prompt, for the OpenAI judge.
        elicitation: the conditions, for the likelihood judge.
        model: the model's directory or hub name, for the likelihood judge.
        console: where the judge prints warnings.
        device_map: transformers' `device_map`, for the likelihood judge.
    """
    if options.name == "openai":
        from traitwatch_builder.judging.openai_judge import OpenAIJudge

        return OpenAIJudge(
            eval_prompt,
            model=options.model or OPENAI_MODEL,
            base_url=options.base_url or OPENAI_URL,
            max_concurrent=options.max_concurrent,
            console=console,
            headers=options.headers,
        )
    from traitwatch_builder.judging.likelihood import LikelihoodJudge
    from traitwatch_builder.reading.transformers_reader import Reader

    # A judgement needs no more precision than serving. Where the processor supports bfloat16, it reads four times as
    # fast as float32. The scores differ a little: the precision is a part of what they depend on.
    precision = default_precision()

    def load() -> Reader:
        import torch

        return Reader.load(model, dtype=getattr(torch, precision), device_map=device_map)

    return LikelihoodJudge(load, elicitation, {**model_fingerprint(model), "dtype": precision})


def questions_of(rows: Sequence[JudgedAnswer]) -> list[Question]:
    """Return the questions about rows: the trait and the coherence of each row, in this order."""
    return [Question(aspect, row.question, row.answer, row.context) for row in rows for aspect in ASPECTS]


def pending(judge: Judge, questions: Sequence[Question], worklog: SavedValues) -> dict[str, Question]:
    """Return the questions whose score is not in the worklog, each once, by the key of its score."""
    keyed = {fingerprint(judge.identity(question)): question for question in questions}
    return {key: question for key, question in keyed.items() if worklog.get(key, _Stored) is None}


def cost_estimate(judge: Judge, questions: Sequence[Question]) -> str:
    """Return the cost of scoring as text for a dry run, with a note where the judge's way is not known yet."""
    usage = judge.estimate(questions)
    if usage.calls and not judge.card.method:
        return f"about {usage}; the judge was not probed: a judge that reasons or gives samples writes more"
    return f"about {usage}"


def ask_judge(
    judge: Judge,
    questions: Sequence[Question],
    worklog: Worklog,
    console: Console,
    label: str,
    before_first: Callable[[], None] = lambda: None,
) -> list[float | None]:
    """Return the scores of questions; the judge is asked for the scores that are not in the worklog.

    Args:
        judge: gives the scores.
        questions: the questions; the judge gets a question once, even if it occurs twice.
        worklog: stores each score as soon as it is known.
        console: where the progress bar is shown.
        label: the text of the progress bar.
        before_first: called before the first new score is stored. The judge knows its method then.
    """
    todo = pending(judge, questions, worklog)
    if todo:
        keys = list(todo)
        with bar(console, label, len(todo)) as advance:
            for number, score in enumerate(judge.score(list(todo.values()), advance)):
                if number == 0:
                    before_first()
                worklog.put(keys[score.index], {"score": score.value})
    return [_score(worklog, fingerprint(judge.identity(question))) for question in questions]


def _score(worklog: Worklog, key: str) -> float | None:
    entry = worklog.get(key, _Stored)
    return None if entry is None else entry.score


def judge_answers(
    judge: Judge, options: JudgeOptions, rows: Sequence[JudgedAnswer], worklog: Worklog, console: Console, label: str
) -> list[JudgedAnswer]:
    """Return rows with their scores. The worklog also stores the judge's card, for `judge_card`.

    Scores that all lie in another scale than 0 to 100 are warned of.
    """
    store = partial(_store_card, judge, options, worklog)
    scores = ask_judge(judge, questions_of(rows), worklog, console, label, store)
    scale = scale_of(scores)
    if scale is not None:
        warn(console, f"all scores lie between 0 and {scale:g}. Does the judge know that 100 is the highest score?")
    return [
        replace(row, trait=_rounded(trait), coherence=_rounded(coherence))
        for row, trait, coherence in zip(rows, scores[0::2], scores[1::2], strict=True)
    ]


def check_useful(rows: Sequence[JudgedAnswer], name: str) -> None:
    """Raise `PipelineError` where no answer has a trait score: such answers make no vector.

    Args:
        rows: the judged answers.
        name: their name, for the error.
    """
    if rows and all(row.trait is None for row in rows):
        raise PipelineError(
            f"{name}: 0 of {len(rows)} answers have a trait score, so they are of no use: the judge refused all of "
            "them. Read the evaluation prompt of the definition as the judge does, or take another judge."
        )


@contextmanager
def usage_printed(judge: Judge, console: Console) -> Iterator[None]:
    """Print at the end what the judge cost, also where judging failed or was interrupted."""
    try:
        yield
    finally:
        if judge.usage.calls:
            console.print(f"The judge took {judge.usage}.")


def judge_card(judge: Judge, options: JudgeOptions, worklog: SavedValues) -> JudgeCard:
    """Return the judge for a vector's card.

    A judge knows its method after its first score. Where no score was missing, the worklog has the card of the run that
    asked the judge.
    """
    stored = worklog.get(_card_key(options), JudgeCard)
    return judge.card if judge.card.method or stored is None else stored


def _store_card(judge: Judge, options: JudgeOptions, worklog: Worklog) -> None:
    """Store the judge's card. The scores come after it: a run that finds all of them finds the card too."""
    if worklog.get(_card_key(options), JudgeCard) != judge.card:
        worklog.put(_card_key(options), judge.card.model_dump())


def _card_key(options: JudgeOptions) -> str:
    model = (options.model or OPENAI_MODEL) if options.name == "openai" else None
    return fingerprint(["judge", options.name, model, options.base_url])


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 3)
