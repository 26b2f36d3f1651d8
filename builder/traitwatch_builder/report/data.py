"""The data of a report: the card, the vector, the answers beside it, and the evidence file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from traitwatch.errors import ArtifactError
from traitwatch.vectors import RESPONSE_AVG, Card, check_trait_name, load_vector
from traitwatch_builder.storage.answers import JudgedAnswer, read_answers
from traitwatch_builder.storage.tables import table_file
from traitwatch_builder.storage.workspace import Workspace
from traitwatch_builder.vectors.report_evidence import ReportEvidence, load_evidence
from traitwatch_builder.vectors.verdict import served_layer


@dataclass(frozen=True)
class ReportData:
    """All data of a report.

    Attributes:
        card: the vector's card.
        norms: `[num_layers + 1]`, length of the vector at each layer, units of the hidden state.
        served_layer: the layer index that servers read by default.
        pos: the judged positive answers to the extraction questions; empty where there is no file.
        neg: the judged negative answers to the extraction questions; or empty.
        eval_pos: the judged positive answers to the eval questions; or empty.
        eval_neg: the judged negative answers to the eval questions; or empty.
        evidence: the measurements that need the model; None where no build left an evidence file.
    """

    card: Card
    norms: Sequence[float]
    served_layer: int
    pos: Sequence[JudgedAnswer] = ()
    neg: Sequence[JudgedAnswer] = ()
    eval_pos: Sequence[JudgedAnswer] = ()
    eval_neg: Sequence[JudgedAnswer] = ()
    evidence: ReportEvidence | None = None


def read_report_data(directory: Path, trait: str) -> ReportData:
    """Collect a report's data from the files of a directory of vectors; no model is loaded.

    Evidence of another vector counts as none: an earlier build of the trait left it.

    Raises:
        ArtifactError: no vector or no card of this trait, a malformed file, or a card of another vector.
    """
    check_trait_name(trait)
    candidates = [directory / f"{trait}_{RESPONSE_AVG}.pt", directory / f"{trait}.pt"]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        known = sorted(file.name.removesuffix(f"_{RESPONSE_AVG}.pt") for file in directory.glob(f"*_{RESPONSE_AVG}.pt"))
        raise ArtifactError(
            f"{candidates[0]}: no such vector; {directory} holds {', '.join(known) or 'none'}. "
            f"`traitwatch extract {trait}` makes one."
        )
    vector = load_vector(path, trait)
    if vector.card is None:
        raise ArtifactError(
            f"{path} has no card ({directory / f'{trait}.json'}), so there is nothing to report; "
            f"`traitwatch extract {trait}` writes both."
        )
    file = Workspace(directory, trait).report_evidence
    evidence = load_evidence(file) if file.is_file() else None
    if evidence is not None and (evidence.sha256 != vector.card.sha256 or evidence.layer > vector.num_layers):
        evidence = None

    def answers(kind: str) -> list[JudgedAnswer]:
        file = table_file(directory / f"{trait}_{kind}.csv")
        return read_answers(file, trait) if file.is_file() else []

    return ReportData(
        card=vector.card,
        norms=np.linalg.norm(vector.vector.astype(np.float64), axis=1).tolist(),
        served_layer=evidence.layer if evidence else served_layer(vector.num_layers),
        pos=answers("pos"),
        neg=answers("neg"),
        eval_pos=answers("eval_pos"),
        eval_neg=answers("eval_neg"),
        evidence=evidence,
    )
