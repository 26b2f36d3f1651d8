"""The whole pipeline: answer under both conditions, judge, extract, verify, calibrate.

Answers and scores, which cost money or time one by one, are kept one by one in worklogs. A manifest records the steps
that read hidden states. So a build goes on where it was interrupted, and repeats only the parts whose inputs changed.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from traitwatch.card import Card, JudgeCard
from traitwatch_builder.answering.choose import SourceOptions, opener
from traitwatch_builder.answering.respond import Job, Responder, elicited_job, neutral_job
from traitwatch_builder.answering.source import Answer, Sampling
from traitwatch_builder.clients.usage import CHARACTERS_PER_TOKEN
from traitwatch_builder.definitions.definition import TraitDefinition
from traitwatch_builder.definitions.elicitation import POLARITIES, Elicit, Elicitation
from traitwatch_builder.judging.judge import Judge
from traitwatch_builder.judging.judging import (
    JudgeOptions,
    check_useful,
    cost_estimate,
    judge_answers,
    judge_card,
    make_judge,
    pending,
    questions_of,
    usage_printed,
)
from traitwatch_builder.reading.session import Session
from traitwatch_builder.steps import ExtractOptions, Provenance, calibrate_step, extract_step, verify_step
from traitwatch_builder.storage.answers import JudgedAnswer, NeutralAnswer, write_answers, write_neutral
from traitwatch_builder.storage.worklog import SavedValues, Worklog
from traitwatch_builder.storage.workspace import Workspace
from traitwatch_builder.vectors.held_out import check_definition

EVAL_SAMPLES = 3
NEUTRAL_SAMPLES = 2


@dataclass(frozen=True)
class BuildOptions:
    """The options of a build, beside the model and the definition.

    Attributes:
        elicit: how the trait is elicited.
        assistant_name: what a positive system prompt calls the assistant; None for the trait's name.
        samples: number of answers to each question.
        sampling: how answers are drawn.
        source: the engine or the endpoints that answer.
        judge: the judge that scores the answers.
        extract: thresholds of an effective pair, and the prompt after which its answers are read.
    """

    elicit: Elicit
    assistant_name: str | None
    samples: int
    sampling: Sampling
    source: SourceOptions
    judge: JudgeOptions
    extract: ExtractOptions


class Build:
    """One build of one vector."""

    def __init__(
        self,
        session: Session,
        workspace: Workspace,
        extract: TraitDefinition,
        evaluate: TraitDefinition,
        neutral: Sequence[str],
        options: BuildOptions,
    ):
        """Prepare the conversations.

        Args:
            session: the model.
            workspace: the files of the trait.
            extract: the definition whose questions make the vector.
            evaluate: the definition whose questions test the vector.
            neutral: the neutral prompts of the calibration.
            options: the other options.

        Raises:
            PipelineError: an eval question is also an extraction question, or the definition lacks what the way of
                eliciting needs.
        """
        check_definition(workspace.trait, extract, evaluate)
        self._session = session
        self._workspace = workspace
        self._options = options
        self._definition = extract
        trait = workspace.trait
        self._elicitation = Elicitation(extract, options.elicit, trait, options.assistant_name)
        rows = self._elicitation.rows(extract.questions, options.samples)
        eval_rows = self._elicitation.rows(evaluate.questions, EVAL_SAMPLES)
        self._jobs = [elicited_job(p, trait, self._elicitation, rows, p) for p in POLARITIES]
        self._jobs += [elicited_job(f"eval_{p}", trait, self._elicitation, eval_rows, p) for p in POLARITIES]
        self._neutral = neutral_job(neutral, NEUTRAL_SAMPLES)

    def run(self) -> Card:
        """Build the vector and write its files; return its card."""
        workspace, options = self._workspace, self._options
        judge = self._judge()
        answers, neutral = self._answers()
        rows, judged_by = self._judged(judge, answers)
        for name, judged_rows in rows.items():
            write_answers(workspace.answers(name), workspace.trait, judged_rows)
        provenance = Provenance(
            description=self._definition.description,
            judge=judged_by,
            elicit=options.elicit,
            sampling=asdict(options.sampling),
        )
        # The likelihood judge holds the model; the steps load it themselves, and twice would fill the memory.
        del judge
        pos, neg, eval_pos, eval_neg = (workspace.answers(job.name) for job in self._jobs)
        extract_step(self._session, workspace, pos, neg, options.extract, provenance)
        verify_step(self._session, workspace, eval_pos, eval_neg)
        return calibrate_step(self._session, workspace, neutral)

    def plan(self) -> list[tuple[str, str]]:
        """Return what `run` would do and spend: for each step its name and its cost."""
        session, workspace = self._session, self._workspace
        responder = self._responder()
        lines = []
        # `SavedValues` only reads: another build may be writing the neutral answers.
        log, neutral_log = SavedValues(workspace.log("answers")), SavedValues(workspace.neutral_log)
        answers: dict[str, list[Answer | None]] = {}
        for job, worklog in [*((job, log) for job in self._jobs), (self._neutral, neutral_log)]:
            lines.append((f"answers: {job.name}", responder.plan(job, worklog)))
            answers[job.name] = responder.saved(job, worklog)
        placeholder = Answer("x" * (CHARACTERS_PER_TOKEN * self._options.sampling.max_tokens), finished=False)
        judge = self._judge()
        scores = SavedValues(workspace.log("scores"))
        questions = []
        for job in self._jobs:
            rows = responder.rows(job, [answer or placeholder for answer in answers[job.name]])
            existing = [row for row, answer in zip(rows, answers[job.name], strict=True) if answer]
            missing = [row for row, answer in zip(rows, answers[job.name], strict=True) if not answer]
            questions += [*pending(judge, questions_of(existing), scores).values(), *questions_of(missing)]
        cost = cost_estimate(judge, questions) if questions else "nothing to do"
        lines.append((f"judge: {judge.card.name}", f"{len(questions)} scores to give; {cost}"))
        lines.append(("hidden states", f"read by {session.options.engine}: extract, verify, calibrate"))
        return lines

    def _responder(self) -> Responder:
        session, options = self._session, self._options
        return Responder(
            session.tokenizer,
            options.source.identity(session.fingerprint),
            options.sampling,
            opener(session, options.source),
            session.console,
        )

    def _answers(self) -> tuple[dict[str, list[JudgedAnswer]], list[NeutralAnswer]]:
        """Write `neutral.csv`; return the rows of the four answers files, not judged yet, and the neutral answers."""
        workspace, responder = self._workspace, self._responder()
        with ExitStack() as shared, Worklog(workspace.log("answers")) as log:
            jobs = [(job, log) for job in self._jobs]
            shared.enter_context(workspace.neutral_alone(self._session.console))
            neutral_log = shared.enter_context(Worklog(workspace.neutral_log))
            together = bool(responder.missing(self._neutral, neutral_log))
            answers = responder.run([*(jobs if together else []), (self._neutral, neutral_log)])
            neutral = neutral_rows(responder, self._neutral, answers["neutral"])
            write_neutral(workspace.neutral, neutral)
            if not together:
                shared.close()  # builds of other traits need not wait for this one
                answers |= responder.run(jobs)
        return {job.name: responder.rows(job, answers[job.name]) for job in self._jobs}, neutral

    def _judge(self) -> Judge:
        options = self._options.judge
        return make_judge(
            options,
            self._definition.eval_prompt,
            self._elicitation,
            self._session.model,
            self._session.console,
            self._session.options.device_map,
        )

    def _judged(
        self, judge: Judge, rows: dict[str, list[JudgedAnswer]]
    ) -> tuple[dict[str, list[JudgedAnswer]], JudgeCard]:
        """Return the rows with their scores, and the card of the judge."""
        console, options = self._session.console, self._options.judge
        with Worklog(self._workspace.log("scores")) as scores, usage_printed(judge, console):
            every = [row for part in rows.values() for row in part]
            scored = iter(judge_answers(judge, options, every, scores, console, f"scores: {judge.card.name}"))
            judged_by = judge_card(judge, options, scores)
            judged = {name: [next(scored) for _ in part] for name, part in rows.items()}
        for name, part in judged.items():
            check_useful(part, f"the answers {name}")
        return judged, judged_by


def neutral_rows(responder: Responder, job: Job, answers: Sequence[Answer]) -> list[NeutralAnswer]:
    """Return the rows of `neutral.csv`."""
    rows = responder.rows(job, answers)
    return [
        NeutralAnswer(row.question, row.prompt, row.answer, row.question_id, answer.finished)
        for row, answer in zip(rows, answers, strict=True)
    ]
