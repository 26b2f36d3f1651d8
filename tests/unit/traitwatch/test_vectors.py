"""A written vector is read back unchanged. An unusable file is refused with the reason."""

import datetime
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from traitwatch import vectors
from traitwatch.errors import ArtifactError
from traitwatch.files import write_atomically
from traitwatch.vectors import SHIPPED, Calibration, Card, LayerCalibration, load_vector, load_vectors
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS, load_definition

VECTOR = np.arange(12, dtype=np.float32).reshape(3, 4)
TODAY = datetime.date(2026, 1, 2)


def card(**changes: object) -> Card:
    fields: dict[str, object] = {
        "trait": "courage",
        "model": "tiny",
        "hidden_size": 4,
        "num_layers": 2,
        "sha256": vectors.vector_sha256(VECTOR),
        "date": TODAY,
        "calibration": Calibration(
            layers=[LayerCalibration(mean=float(i), std=1.0) for i in range(3)],
            num_prompts=1,
            num_tokens=2,
            engine="test",
            date=TODAY,
        ),
    }
    return Card.model_validate(fields | changes)


def write(directory: Path, *, card_changes: dict[str, object] | None = None) -> Path:
    path = directory / "courage_response_avg_diff.pt"
    vectors.save_tensor(VECTOR, path)
    if card_changes is not None:
        vectors.save_card(card(**card_changes), directory / "courage.json")
    return path


def test_a_vector_comes_back_with_its_card(tmp_path: Path) -> None:
    vector = load_vector(write(tmp_path, card_changes={}))
    assert vector.trait == "courage"
    assert np.array_equal(vector.vector, VECTOR)
    assert vector.card == card()
    assert (vector.num_layers, vector.hidden_size) == (2, 4)
    calibration = vector.calibration(1)
    assert calibration is not None
    assert calibration.mean == 1.0


def test_the_file_is_a_plain_tensor_for_anybody(tmp_path: Path) -> None:
    assert torch.equal(torch.load(write(tmp_path), weights_only=True), torch.from_numpy(VECTOR))


def test_a_bare_tensor_of_the_authors_serves_uncalibrated(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(VECTOR).half(), tmp_path / "evil_response_avg_diff.pt")
    (vector,) = load_vectors([tmp_path])
    assert vector.trait == "evil"
    assert vector.vector.dtype == np.float32
    assert vector.card is None
    assert vector.calibration(1) is None


def test_a_direction_has_length_one(tmp_path: Path) -> None:
    vector = load_vector(write(tmp_path))
    direction = vector.direction(2)
    assert np.linalg.norm(direction) == pytest.approx(1.0)
    assert np.allclose(direction * np.linalg.norm(VECTOR[2]), VECTOR[2])


def test_a_zero_row_has_no_direction(tmp_path: Path) -> None:
    zero = VECTOR.copy()
    zero[1] = 0
    vectors.save_tensor(zero, tmp_path / "courage.pt")
    with pytest.raises(ArtifactError, match="zero at layer 1"):
        load_vector(tmp_path / "courage.pt").direction(1)


def test_siblings_are_not_served(tmp_path: Path) -> None:
    write(tmp_path)
    for kind in (vectors.PROMPT_AVG, vectors.PROMPT_LAST):
        vectors.save_tensor(VECTOR, tmp_path / f"courage_{kind}.pt")
    assert [vector.trait for vector in load_vectors([tmp_path])] == ["courage"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "another vector"),
        ({"hidden_size": 5}, r"\[3, 4\].*\[3, 5\]"),
        ({"calibration": None, "num_layers": 7}, r"\[3, 4\].*\[8, 4\]"),
    ],
)
def test_a_card_of_another_vector_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        load_vector(write(tmp_path, card_changes=changes))


def test_a_malformed_card_is_refused_with_the_field(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "courage.json").write_text('{"trait": "courage"}')
    with pytest.raises(ArtifactError, match="hidden_size"):
        load_vector(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "not a plain tensor"),
        (b"garbage", "not a plain tensor"),
        (b"", "not a plain tensor"),
    ],
    ids=["pickle", "garbage", "empty"],
)
def test_a_file_that_is_not_a_tensor_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        load_vectors([tmp_path])


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(4), r"shape \[4\]"),
        (torch.zeros(2, 3, 4), r"shape \[2, 3, 4\]"),
        (torch.zeros(3, 4, dtype=torch.long), "int64"),
        (torch.tensor([[1.0, float("nan")], [1.0, 1.0]]), r"NaN or infinity at layers \[0\]"),
        (torch.tensor([[1.0, 1.0], [float("inf"), 1.0]]), r"NaN or infinity at layers \[1\]"),
    ],
)
def test_a_tensor_that_is_not_a_persona_vector_is_refused(tmp_path: Path, tensor: torch.Tensor, message: str) -> None:
    torch.save(tensor, tmp_path / "x.pt")
    with pytest.raises(ArtifactError, match=message):
        load_vectors([tmp_path])


def test_two_files_of_one_name(tmp_path: Path) -> None:
    write(tmp_path)
    vectors.save_tensor(VECTOR, tmp_path / "courage.pt")
    with pytest.raises(ArtifactError, match="two vectors are named 'courage'"):
        load_vectors([tmp_path])


@pytest.mark.parametrize("name", ["", "../evil", "a b", "-x", "x" * 65, "naïve"])
def test_names_that_are_no_trait_names_are_refused(name: str) -> None:
    with pytest.raises(ArtifactError, match="not a trait name"):
        vectors.check_trait_name(name)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_shipped_definition_is_as_promised() -> None:
    extract = load_definition(SHIPPED_DEFINITIONS / "trait_data_extract" / "paternalism.json")
    evaluate = load_definition(SHIPPED_DEFINITIONS / "trait_data_eval" / "paternalism.json")
    assert len(extract.instruction) == 5
    assert len(extract.questions) == len(evaluate.questions) == 20
    assert not set(extract.questions) & set(evaluate.questions)
    assert len(extract.examples) >= 12
    assert not {example.question for example in extract.examples} & {*extract.questions, *evaluate.questions}


def test_six_vectors_are_shipped_each_with_its_data() -> None:
    directory = SHIPPED / "SmolLM2-135M-Instruct"
    vectors = load_vectors([directory])
    traits = ["alignment-theatre", "corrigibility", "deception", "manipulativeness", "paternalism", "power-seeking"]
    assert [vector.trait for vector in vectors] == traits
    for vector in vectors:
        assert vector.vector.shape == (31, 576)
        calibration = vector.calibration(20)
        assert calibration is not None
        assert [threshold.rate for threshold in calibration.thresholds] == [0.01, 0.001]
        assert vector.card is not None
        assert vector.card.description
        for file in ("pos.csv.gz", "neg.csv.gz", "eval_pos.csv.gz", "eval_neg.csv.gz"):
            assert (directory / f"{vector.trait}_{file}").is_file()
        assert vector.card.sha256[:12] in (directory / f"{vector.trait}.html").read_text()


def test_the_cards_show_which_four_shipped_vectors_tell_their_trait() -> None:
    good = 0
    for vector in load_vectors([SHIPPED / "SmolLM2-135M-Instruct"]):
        assert vector.card is not None
        assert vector.card.best_layer is not None
        assert vector.card.verification is not None
        auc = vector.card.verification.layers[vector.card.best_layer].auc
        if auc is not None and auc >= 0.8:
            good += 1
        else:
            assert vector.card.verification.verdict.startswith(("Doubtful: ", "No better than chance: "))
    assert good >= 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": []}, "questions"),
        ({"questions": ["same", "same"]}, "the same"),
        ({"eval_prompt": "rate {question}"}, "answer"),
        ({"instruction": [{"pos": "x", "neg": "x"}]}, "same text"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_malformed_definition_is_refused_with_its_reason(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    good = {
        "instruction": [{"pos": "be brave", "neg": "be timid"}],
        "questions": ["one?", "two?"],
        "eval_prompt": "{question} {answer}",
    }
    path = tmp_path / "courage.json"
    path.write_text(json.dumps(good))
    load_definition(path)
    path.write_text(json.dumps(good | changes))
    with pytest.raises(ArtifactError, match=message):
        load_definition(path)
