"""`traitwatch layers` writes the best layer into the card, and writes nothing where nothing was measured."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.support.steering import VECTOR, CountingJudge, Letters, tiny_llama, verification
from traitwatch import cli
from traitwatch.card import Verification
from traitwatch.vectors import RESPONSE_AVG, Card, load_card, save_card, save_tensor, vector_sha256
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS, definition_files


@pytest.fixture
def vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with a vector of 3 layers and its card, which has a verification."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    vector = np.ones((4, 8), dtype=np.float32)
    save_tensor(vector, tmp_path / f"paternalism_{RESPONSE_AVG}.pt")
    write_card(tmp_path, vector, verification({0: 1.0, 1: 0.7, 2: 0.9, 3: 1.0}))
    return tmp_path


def write_card(directory: Path, vector: np.ndarray, verified: Verification | None) -> None:
    card = Card(
        trait="paternalism",
        model="tiny",
        hidden_size=vector.shape[1],
        num_layers=len(vector) - 1,
        sha256=vector_sha256(vector),
        verification=verified,
        best_layer=1,
        best_layer_reason="as it was",
        date=datetime.date(2026, 1, 1),
    )
    save_card(card, directory / "paternalism.json")


def layers(vectors: Path, *arguments: str, model: Any = None) -> Result:
    command_line = ["layers", "paternalism", "--model", str(model or vectors), "--vectors", str(vectors), *arguments]
    return CliRunner().invoke(cli.main, command_line)


def test_without_steering_the_card_gets_the_layer_of_highest_auc(vectors: Path) -> None:
    outcome = layers(vectors, "--no-steering")
    assert outcome.exit_code == 0, outcome.output
    card = load_card(vectors / "paternalism.json")
    assert (card.best_layer, card.best_layer_reason) == (
        2,
        "highest held-out AUC 0.900 of 2 inner layers; steering was not measured",
    )
    assert card.layer_choice is not None
    assert [row.layer for row in card.layer_choice.ranks] == [2, 1]
    assert "Best layer: 2" in outcome.stderr


def test_where_nothing_was_measured_nothing_is_written(vectors: Path) -> None:
    write_card(vectors, np.ones((4, 8), dtype=np.float32), verification({0: 1.0, 1: None, 2: None, 3: 1.0}))
    before = (vectors / "paternalism.json").read_bytes()
    outcome = layers(vectors, "--no-steering")
    assert outcome.exit_code == 0, outcome.output
    assert "Nothing was measured" in outcome.stderr
    assert (vectors / "paternalism.json").read_bytes() == before


def test_a_vector_that_was_not_verified_is_not_ranked(vectors: Path) -> None:
    write_card(vectors, np.ones((4, 8), dtype=np.float32), None)
    outcome = layers(vectors)
    assert outcome.exit_code == 1
    assert "traitwatch verify paternalism" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_layer_that_cannot_be_steered_is_refused_before_a_model_is_loaded(vectors: Path) -> None:
    outcome = layers(vectors, "--layer", "3", "--judge", "likelihood")
    assert outcome.exit_code == 1
    assert "layer 3 cannot be steered" in outcome.stderr


def test_a_definition_beside_the_directory_of_the_vectors_goes_before_the_shipped_one(vectors: Path) -> None:
    """A build writes its definition there; the shipped questions and judge prompt would measure another trait."""
    model = vectors / "MODEL"
    model.mkdir()
    for file in ("paternalism.json", f"paternalism_{RESPONSE_AVG}.pt"):
        (vectors / file).rename(model / file)
    files = definition_files(vectors, "paternalism")
    for file in files:
        file.parent.mkdir()
        file.write_text("{")
    stderr = layers(model, "--judge", "likelihood").stderr
    assert f"{files[0]} is not a valid TraitDefinition" in " ".join(stderr.split())
    outcome = layers(model, "--judge", "likelihood", "--layer", "3", "--definition", str(SHIPPED_DEFINITIONS))
    assert "layer 3 cannot be steered" in outcome.stderr, "the named directory is used"


def test_steering_goes_into_the_card_and_a_second_run_makes_nothing(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tmp_path / "tiny"
    tiny_llama().save_pretrained(tiny)
    save_tensor(VECTOR, vectors / f"paternalism_{RESPONSE_AVG}.pt")
    write_card(vectors, VECTOR, verification({1: 0.7, 2: 0.9, 3: 0.8}))
    judge = CountingJudge()
    monkeypatch.setattr("traitwatch_builder.steering.step.load_tokenizer", lambda model: Letters())
    maps = []
    monkeypatch.setattr(
        "traitwatch_builder.steering.step.make_judge", lambda *arguments: maps.append(arguments[-1]) or judge
    )
    options = (
        "--judge",
        "likelihood",
        "--device-map",
        "cpu",
        "--questions",
        "2",
        "--max-tokens",
        "4",
        "--coefficient",
        "2",
    )

    plan = layers(vectors, *options, "--dry-run", model=tiny)
    assert "8 of 8 answers to make; 16 scores to give" in plan.stderr
    assert "the judge was not probed" in " ".join(plan.stderr.split())
    assert maps == ["cpu"]
    assert judge.asked == []
    assert load_card(vectors / "paternalism.json").best_layer == 1

    one = layers(vectors, *options, "--layer", "3", model=tiny)
    assert one.exit_code == 0, one.output
    assert "these were not: 1, 2. Leave --layer out" in one.stderr
    assert load_card(vectors / "paternalism.json").best_layer_reason == "as it was"

    outcome = layers(vectors, *options, model=tiny)
    assert outcome.exit_code == 0, outcome.output
    card = load_card(vectors / "paternalism.json")
    assert card.layer_choice is not None
    assert [(r.layer, r.coefficient, r.num_answers) for r in card.layer_choice.steering] == [
        (0, 0, 2),
        (1, 2, 2),
        (2, 2, 2),
        (3, 2, 2),
    ]
    assert (card.best_layer, card.layer_choice.judge) == (card.layer_choice.ranks[0].layer, "likelihood")
    assert card.best_layer_reason in " ".join(outcome.stderr.split())

    num_questions = len(judge.asked)
    monkeypatch.setattr("traitwatch_builder.steering.model.SteeredModel.load", pytest.fail)
    again = layers(vectors, *options, model=tiny)
    assert again.exit_code == 0, again.output
    assert len(judge.asked) == num_questions
    assert "0 of 8 answers to make; 0 scores to give" in layers(vectors, *options, "--dry-run", model=tiny).stderr
