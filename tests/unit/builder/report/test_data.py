"""The data of a report come from the files beside the vector; `traitwatch report` needs no other file."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.report_data import TRAIT, bare_report, full_report
from traitwatch.errors import ArtifactError
from traitwatch.vectors import Card, save_card, save_tensor, vector_sha256
from traitwatch_builder.commands.report import report_command
from traitwatch_builder.report.data import read_report_data
from traitwatch_builder.report.page import write_report
from traitwatch_builder.storage.answers import JudgedAnswer, write_answers
from traitwatch_builder.storage.workspace import Workspace
from traitwatch_builder.vectors.report_evidence import load_evidence, save_evidence


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """Return a directory with a vector and its card."""
    vector = np.arange(12, dtype=np.float32).reshape(3, 4)
    save_tensor(vector, tmp_path / f"{TRAIT}_response_avg_diff.pt")
    sha256, date = vector_sha256(vector), bare_report().card.date
    card = Card(trait=TRAIT, model="tiny", hidden_size=4, num_layers=2, sha256=sha256, date=date)
    save_card(card, tmp_path / f"{TRAIT}.json")
    return tmp_path


def test_the_command_makes_a_page_from_the_files_alone(vectors: Path) -> None:
    write_answers(vectors / f"{TRAIT}_pos.csv", TRAIT, [JudgedAnswer("q?", "p", "kept\n", "id", 90.0, 80.0)])
    result = CliRunner().invoke(report_command, [TRAIT, "--vectors", str(vectors)])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(vectors / f"{TRAIT}.html")
    page = (vectors / f"{TRAIT}.html").read_text()
    assert "kept" in page
    other = vectors / "elsewhere" / "page.html"
    assert CliRunner().invoke(report_command, [TRAIT, "--vectors", str(vectors), "--out", str(other)]).exit_code == 0
    assert other.read_text() == page


def test_data_are_read_from_beside_the_vector(vectors: Path) -> None:
    row = JudgedAnswer("q?", "p", "a", "id", 90.0, 80.0)
    for kind, suffix in (("pos", "csv"), ("neg", "csv"), ("eval_pos", "csv.gz"), ("eval_neg", "csv.gz")):
        write_answers(vectors / f"{TRAIT}_{kind}.{suffix}", TRAIT, [dataclasses.replace(row, answer=kind)])
    data = read_report_data(vectors, TRAIT)
    assert [rows[0].answer for rows in (data.pos, data.neg, data.eval_pos, data.eval_neg)] == [
        "pos",
        "neg",
        "eval_pos",
        "eval_neg",
    ]
    assert data.norms == pytest.approx([14**0.5, 126**0.5, 366**0.5])
    assert data.served_layer == 1


def test_evidence_of_another_vector_is_not_shown(vectors: Path) -> None:
    evidence = full_report(held_out=4).evidence
    assert evidence is not None
    path = Workspace(vectors, TRAIT).report_evidence
    card = read_report_data(vectors, TRAIT).card
    save_evidence(path, evidence.model_copy(update={"layer": 1, "sha256": card.sha256}))
    assert load_evidence(path).samples == evidence.samples
    data = read_report_data(vectors, TRAIT)
    assert data.evidence is not None
    assert data.served_layer == 1
    save_evidence(path, evidence.model_copy(update={"layer": 1}))
    assert read_report_data(vectors, TRAIT).evidence is None


def test_errors_name_what_is_missing(vectors: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"no such vector; .* holds {TRAIT}\. `traitwatch extract deception`"):
        write_report(vectors, "deception")
    (vectors / f"{TRAIT}.json").unlink()
    with pytest.raises(ArtifactError, match="has no card"):
        write_report(vectors, TRAIT)
    assert not list(vectors.glob("*.html"))
