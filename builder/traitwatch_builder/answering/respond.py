"""The answers of a build: `Job` holds conversations, `Responder` gets an answer to each conversation that has none.

Row i of the positive file and row i of the negative file share question, context and sample number. All files of a
build are answered together, so that an engine starts once and its batch stays full.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from traitwatch_builder.answering.choose import Opener
from traitwatch_builder.answering.source import Answer, ChatPrompt, Sampling
from traitwatch_builder.definitions.elicitation import Elicitation, Polarity, Row
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import Messages, bare, opens_thinking, render, text_ids
from traitwatch_builder.progress import progress
from traitwatch_builder.storage.answers import JudgedAnswer, clean_text
from traitwatch_builder.storage.worklog import SavedValues, Worklog, fingerprint


@dataclass(frozen=True)
class Job:
    """The answers of one file.

    Attributes:
        name: the name of the file, without the trait: `pos`, `eval_neg`, `neutral`, ...
        conversations: the conversations that get an answer.
        questions: the question at the end of each conversation.
        question_ids: `<trait>_<number of the question>_<polarity>_<context>`.
        samples: the number of each answer among the answers to the same conversation.
    """

    name: str
    conversations: list[Messages]
    questions: list[str]
    question_ids: list[str]
    samples: list[int]


def elicited_job(name: str, trait: str, elicitation: Elicitation, rows: Sequence[Row], polarity: Polarity) -> Job:
    """Return the job of an answers file that elicits the trait or its opposite."""
    return Job(
        name,
        [elicitation.prompt(row, polarity) for row in rows],
        [row.question for row in rows],
        [f"{trait}_{row.question_id}_{polarity}_{row.context}" for row in rows],
        [row.sample for row in rows],
    )


def neutral_job(prompts: Sequence[str], samples: int) -> Job:
    """Return the job of `neutral.csv`: `samples` answers to each prompt alone, as production traffic asks it."""
    pairs = [(number, prompt, sample) for number, prompt in enumerate(prompts) for sample in range(samples)]
    return Job(
        "neutral",
        [bare(prompt) for _, prompt, _ in pairs],
        [prompt for _, prompt, _ in pairs],
        [f"neutral_{number}" for number, _, _ in pairs],
        [sample for _, _, sample in pairs],
    )


class Responder:
    """Answers jobs. It stores each answer in a worklog as soon as the answer exists."""

    def __init__(
        self,
        tokenizer: Any,
        identity: Mapping[str, Any],
        sampling: Sampling,
        open_source: Opener,
        console: Console,
    ):
        """Prepare the responder; no source of answers is started yet.

        Args:
            tokenizer: the model's tokenizer.
            identity: JSON data that identifies the answering model.
            sampling: how the source draws answers.
            open_source: starts the source of answers; called only where an answer is missing.
            console: where the progress bars are shown.
        """
        self._tokenizer = tokenizer
        self._identity = dict(identity)
        self._sampling = sampling
        self._open_source = open_source
        self._console = console

    def missing(self, job: Job, worklog: SavedValues) -> list[int]:
        """Return the indices of a job's answers that are not in the worklog."""
        return [i for i, answer in enumerate(self.saved(job, worklog)) if answer is None]

    def saved(self, job: Job, worklog: SavedValues) -> list[Answer | None]:
        """Return the answers of a job in the worklog; None for each missing answer."""
        return [worklog.get(key, Answer) for key in self._keys(job)]

    def plan(self, job: Job, worklog: SavedValues) -> str:
        """Return as text how many answers of a job are missing, and how many tokens they would take."""
        missing = self.missing(job, worklog)
        tokens = sum(len(self.prompt(job.conversations[i]).ids) for i in missing)
        most = len(missing) * self._sampling.max_tokens
        spent = f"{tokens:,} input tokens, at most {most:,} output tokens" if missing else "nothing to do"
        return f"{len(missing)} of {len(job.conversations)} to make; {spent}"

    def run(self, jobs: Sequence[tuple[Job, Worklog]]) -> dict[str, list[Answer]]:
        """Get the missing answers; return the answers of each job by its name, in the order of its conversations.

        Raises:
            PipelineError: the source failed, or it left out an answer.
        """
        todo = [(job, worklog, i) for job, worklog in jobs for i in self.missing(job, worklog)]
        if todo:
            self._answer(todo, {job.name: self._keys(job) for job, _ in jobs})
        else:
            names = ", ".join(job.name for job, _ in jobs)
            self._console.print(f"All answers are there from an earlier run: {names}.")
        answers = {job.name: [a for a in self.saved(job, worklog) if a is not None] for job, worklog in jobs}
        for job, _ in jobs:
            if len(answers[job.name]) < len(job.conversations):
                raise PipelineError(f"answers are missing in {job.name!r}; the same command goes on from here.")
        return answers

    def _answer(self, todo: Sequence[tuple[Job, Worklog, int]], keys: Mapping[str, Sequence[str]]) -> None:
        prompts = [self.prompt(job.conversations[i]) for job, _, i in todo]
        longest = max(len(prompt.ids) for prompt in prompts)
        done = sum(map(len, keys.values())) - len(todo)
        # After an interruption, the same seed would draw the same random numbers again.
        sampling = Sampling(**{**asdict(self._sampling), "seed": self._sampling.seed + done})
        opened = opens_thinking(render(self._tokenizer, prompts[0].messages))
        with self._open_source(sampling, longest, opened) as source, progress(self._console) as display:
            tasks = {}
            for name, job_keys in keys.items():
                missing = sum(job.name == name for job, _, _ in todo)
                if missing:
                    total = len(job_keys)
                    tasks[name] = display.add_task(f"answers: {name}", total=total, completed=total - missing)
            for position, answer in source.answer(prompts, lambda count: None):
                job, worklog, i = todo[position]
                worklog.put(keys[job.name][i], {"text": clean_text(answer.text), "finished": answer.finished})
                display.advance(tasks[job.name])

    def prompt(self, conversation: Messages) -> ChatPrompt:
        """Return a conversation in the form that an engine or a server takes."""
        return ChatPrompt(conversation, text_ids(self._tokenizer, render(self._tokenizer, conversation)))

    def _keys(self, job: Job) -> list[str]:
        return [
            fingerprint([self._identity, asdict(self._sampling), conversation, sample])
            for conversation, sample in zip(job.conversations, job.samples, strict=True)
        ]

    def rows(self, job: Job, answers: Sequence[Answer]) -> list[JudgedAnswer]:
        """Return the rows of a job's answers file, not judged yet."""
        return [
            JudgedAnswer(question, render(self._tokenizer, conversation), answer.text, question_id)
            for question, conversation, answer, question_id in zip(
                job.questions, job.conversations, answers, job.question_ids, strict=True
            )
        ]
