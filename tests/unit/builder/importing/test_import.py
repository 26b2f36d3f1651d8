"""`traitwatch import` makes the vector that a published file holds, with each row at its layer index."""

import json
import struct
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from transformers import LlamaConfig

from tests.support.published import FORMATS, control_vector, npy, npz, torch_file
from traitwatch import cli
from traitwatch.errors import ArtifactError
from traitwatch.vectors import SHIPPED, PersonaVector, load_vectors, vector_sha256

LAYERS, WIDTH = 5, 8
VECTOR = np.random.default_rng(0).standard_normal((LAYERS + 1, WIDTH)).astype(np.float32)
SHIPPED_MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask no hub; the environment variable counts only before the first import."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return configured(tmp_path / "tiny")


def configured(directory: Path, layers: int = LAYERS, width: int = WIDTH) -> Path:
    """Write the configuration of a model, all that an import reads of it."""
    LlamaConfig(num_hidden_layers=layers, hidden_size=width, num_attention_heads=2).save_pretrained(directory)
    return directory


def run(file: Path, model: Path | str, *options: object) -> Result:
    words = ["import", file, "--model", model, "--out", file.parent / "out", *options]
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def imported(file: Path, content: bytes, model: Path | str, *options: object) -> PersonaVector:
    file.write_bytes(content)
    result = run(file, model, *options)
    assert result.exit_code == 0, result.output
    (vector,) = load_vectors([file.parent / "out" / Path(model).name])
    return vector


def refused(file: Path, content: bytes, model: Path | str, *options: object) -> str:
    file.write_bytes(content)
    result = run(file, model, *options)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert not list(file.parent.glob("out/**/*.pt"))
    return " ".join(result.output.split())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_back_to_the_last_bit(name: str, tmp_path: Path, model: Path) -> None:
    write, first = FORMATS[name]
    vector = imported(tmp_path / "evil", write(VECTOR), model)
    assert np.array_equal(vector.vector[first:], VECTOR[first:])
    assert not vector.vector[:first].any()
    assert vector.trait == "evil"
    assert vector.card is not None
    assert vector.card.calibration is None
    assert vector.card.source is not None
    assert vector.card.source.layers == list(range(first, LAYERS + 1))
    assert vector.card.source.rows == ("layers+1" if first == 0 else "layers")


@pytest.mark.parametrize("name", FORMATS)
def test_a_shipped_vector_comes_back_through_every_format(name: str, tmp_path: Path) -> None:
    shipped = load_vectors([SHIPPED / SHIPPED_MODEL])[0]
    write, first = FORMATS[name]
    vector = imported(tmp_path / "evil", write(shipped.vector), configured(tmp_path / "model", 30, 576))
    for layer in range(max(first, 1), 31):
        assert np.array_equal(vector.direction(layer), shipped.direction(layer))
    if first == 0:
        assert vector.sha256 == shipped.sha256


def test_the_card_says_where_the_vector_came_from(tmp_path: Path, model: Path) -> None:
    content = torch_file({"evil": {"vectors": torch.from_numpy(VECTOR[1:].copy()), "hook_point": "block_output"}})
    card = imported(tmp_path / "personas.pt", content, model, "--trait", "evil", "--description", "meaning harm").card
    assert card is not None
    source = card.source
    assert source is not None
    assert (card.trait, card.model, card.description) == ("evil", "tiny", "meaning harm")
    assert (source.file, source.format, source.key, source.rows) == (
        "personas.pt",
        "torch.save",
        "evil.vectors",
        "layers",
    )
    assert source.convention == (
        "index i of the file is the output of decoder layer i, counted from 0: layer index i + 1 "
        "(hook_point: block_output)"
    )
    assert source.metadata == {"hook_point": "block_output"}
    assert len(source.sha256) == 64
    assert source.date == card.date


def test_missing_layers_are_zero_and_are_refused_at_use(tmp_path: Path, model: Path) -> None:
    content = torch_file({"per_layer_vectors": {2: torch.ones(WIDTH), 4: 2 * torch.ones(WIDTH)}})
    vector = imported(tmp_path / "evil.pt", content, model, "--rows", "layers")
    assert vector.vector.any(axis=1).nonzero()[0].tolist() == [3, 5]
    assert vector.vector[5, 0] == 2
    with pytest.raises(ArtifactError, match="zero at layer 4; it has layers 3, 5"):
        vector.direction(4)


ROWS: dict[str, tuple[Any, list[str], list[int]]] = {
    "all indices of the layers": ({i: torch.ones(WIDTH) for i in range(LAYERS)}, [], [1, 2, 3, 4, 5]),
    "an index that only layer indices have": ({LAYERS: torch.ones(WIDTH)}, [], [5]),
    "modules of a GPT-2": ({"transformer.h.2": torch.ones(WIDTH)}, [], [3]),
    "hooks before a block": ({f"blocks.{i}.hook_resid_pre": torch.ones(WIDTH) for i in (1, 2)}, [], [1, 2]),
    "hidden states": ({f"hidden_states.{i}": torch.ones(WIDTH) for i in (1, 2)}, [], [1, 2]),
    "the user, one a layer": ({1: torch.ones(WIDTH)}, ["--rows", "layers"], [2]),
    "the user, as hidden states": ({1: torch.ones(WIDTH)}, ["--rows", "layers+1"], [1]),
    "one layer, told beside it": ({"vector": torch.ones(WIDTH), "layer": 2, "hook": "resid_post"}, [], [3]),
    "one layer, told by the user": (torch.ones(WIDTH), ["--rows", "layers", "--layer", "3"], [4]),
    "one row": (torch.ones(1, WIDTH), ["--rows", "layers+1", "--layer", "3"], [3]),
    "a list of layers beside a stack": (
        {"vectors": torch.ones(2, WIDTH), "layer_ids": torch.tensor([4, 1]), "site": "layer_output"},
        [],
        [2, 5],
    ),
    "a middle dimension of size 1": (torch.ones(LAYERS, 1, WIDTH), [], [1, 2, 3, 4, 5]),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_stand_at_their_layer_index(name: str, tmp_path: Path, model: Path) -> None:
    value, options, layers = ROWS[name]
    vector = imported(tmp_path / "evil.pt", torch_file(value), model, *options)
    assert vector.vector.any(axis=1).nonzero()[0].tolist() == layers


def test_llama_cpps_own_generator_counts_otherwise(tmp_path: Path, model: Path) -> None:
    """Its `direction.1` is the output of decoder layer 0, and repeng's that of decoder layer 1."""
    content = control_vector({1: VECTOR[1].copy()})
    vector = imported(tmp_path / "evil.gguf", content, model, "--rows", "layers+1")
    assert np.array_equal(vector.vector[1], VECTOR[1])


TWO = {"evil": torch.ones(LAYERS, WIDTH), "kind": torch.ones(LAYERS, WIDTH)}
REFUSED: dict[str, tuple[bytes, list[str], list[str]]] = {
    "no vector": (torch_file({"lr": 0.1, "steps": [1, 2]}), [], ["no vector of layers", "lr: 0.1"]),
    "integers": (torch_file({"ids": torch.ones(3, 4, dtype=torch.long)}), [], ["ids: int64 [3, 4]"]),
    "three dimensions": (torch_file({"acts": torch.ones(2, 3, 4)}), [], ["acts: float32 [2, 3, 4]"]),
    "two vectors": (torch_file(TWO), [], ["2 vectors", "evil (float32 [5, 8]), kind (float32 [5, 8])", "--key"]),
    "a key that is not there": (torch_file(TWO), ["--key", "cruel"], ["no vector 'cruel'", "evil (float32 [5, 8])"]),
    "another width": (torch_file(torch.ones(LAYERS, 9)), [], ["rows of 9 values", "hidden size of 8"]),
    "another number of rows": (
        torch_file(torch.ones(LAYERS + 2, WIDTH)),
        [],
        ["has 7 rows", "model has 5 layers", "5 rows would be one a layer"],
    ),
    "rows that are not the user's": (
        torch_file(torch.ones(LAYERS + 1, WIDTH)),
        ["--rows", "layers"],
        ["has 6 rows (layers: --rows)"],
    ),
    "layers that do not say how they count": (
        torch_file({"per_layer_vectors": {2: torch.ones(WIDTH), 4: torch.ones(WIDTH)}}),
        [],
        ["does not say how it counts per_layer_vectors (layers 2, 4 of float32 [8])", "--rows layers if index i"],
    ),
    "a layer that the model lacks": (
        torch_file({"layer_7": torch.ones(WIDTH)}),
        ["--rows", "layers"],
        ["index 7, which is layer index 8", "5 layers"],
    ),
    "a layer that nobody names": (torch_file(torch.ones(WIDTH)), ["--rows", "layers"], ["one layer", "--layer"]),
    "a layer for a whole vector": (torch_file(TWO["evil"]), ["--layer", "2"], ["several layers", "leave it out"]),
    "another place in the model": (
        torch_file({"v": torch.ones(LAYERS, WIDTH), "hook_point": "mlp_out"}),
        [],
        ["read at hook_point: mlp_out", "residual stream", "--rows"],
    ),
    "NaN": (torch_file({3: torch.full((WIDTH,), float("nan"))}), ["--rows", "layers"], ["NaN or infinity"]),
    "zeros": (torch_file(torch.zeros(LAYERS, WIDTH)), [], ["nothing but zeros"]),
    "layers of another number": (torch_file(TWO["evil"]), ["--num-layers", "4"], ["--num-layers 4", "has 5 layers"]),
    "a GGUF model": (control_vector({1: VECTOR[1]}, architecture="llama"), [], ["'llama'", "no control vector"]),
    "a cut-off control vector": (control_vector({1: VECTOR[1]})[:-9], [], ["cut off or damaged"]),
    "cut-off safetensors": (FORMATS["safetensors of layers"][0](VECTOR)[:-3], [], ["cut off or damaged"]),
    "a cut-off array": (npy(VECTOR)[:-3], [], ["cut off or damaged"]),
    "a cut-off archive": (npz({"v": VECTOR})[:-30], [], ["cut off or unreadable"]),
    "an array of objects": (npy(np.array([print])), [], ["pickled objects, which could run code"]),
    "an archive of objects": (npz({"v": np.array([print])}), [], ["pickled objects, which could run code"]),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", [], ["Git LFS pointer", "git lfs pull"]),
    "an array of terabytes": (npy(VECTOR).replace(b"(6, 8)", b"(9999999999, 9)")[:128], [], ["cut off or damaged"]),
    "a trait's name that is none": (torch_file(TWO["evil"]), ["--trait", "a b"], ["not a trait name", "--trait"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_keys_and_shapes(name: str, tmp_path: Path, model: Path) -> None:
    content, options, words = REFUSED[name]
    message = refused(tmp_path / "evil.pt", content, model, *options)
    for part in words:
        assert part in message


def test_an_array_that_claims_to_be_long_does_not_hang(tmp_path: Path, model: Path) -> None:
    """Beyond the end of the file, the GGUF reader would read nothing, 2^60 times."""
    data = bytearray(control_vector({1: VECTOR[1].copy()}))
    place = data.index(b"controlvector.layer_count") + len(b"controlvector.layer_count")
    data[place : place + 8] = struct.pack("<II", 9, 0)  # an array of bytes
    data[place + 8 : place + 16] = struct.pack("<Q", 2**60)
    assert "cut off or damaged" in refused(tmp_path / "evil.gguf", bytes(data), model)


def test_a_dictionary_in_itself_is_refused(tmp_path: Path, model: Path) -> None:
    loop: dict[str, Any] = {"x": 1}
    loop["self"] = loop
    wide: list[Any] = [1]
    for _ in range(30):
        wide = [wide] * 30
    for value in (loop, wide):
        assert "no vector of layers" in refused(tmp_path / "evil.pt", torch_file(value), model)


def test_a_model_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    content = torch_file(torch.from_numpy(VECTOR))
    assert "does not say how it counts" in refused(tmp_path / "evil.pt", content, "nobody/no-such-model")
    result = run(tmp_path / "evil.pt", "nobody/no-such-model", "--rows", "layers+1")
    assert "cannot be read here, so nothing checks" in " ".join(result.output.split())
    (vector,) = load_vectors([tmp_path / "out" / "no-such-model"])
    assert vector.sha256 == vector_sha256(VECTOR)
    sparse = torch_file({"layers.2": torch.ones(WIDTH)})
    (tmp_path / "elsewhere").mkdir()
    message = refused(tmp_path / "elsewhere" / "kind.pt", sparse, "nobody/no-such-model")
    assert "how many layers the model has; give --num-layers" in message


def test_nothing_is_replaced_without_force(tmp_path: Path, model: Path) -> None:
    first = imported(tmp_path / "evil.pt", torch_file(torch.from_numpy(VECTOR)), model)
    folder = first.path.parent
    (folder / "evil.html").write_text("the report of the first")
    (tmp_path / "evil.pt").write_bytes(torch_file(torch.from_numpy(2 * VECTOR)))
    result = run(tmp_path / "evil.pt", model)
    assert result.exit_code == 1
    assert "there already. Give --force" in " ".join(result.output.split())
    assert load_vectors([folder])[0].sha256 == first.sha256
    assert run(tmp_path / "evil.pt", model, "--force").exit_code == 0
    assert np.array_equal(load_vectors([folder])[0].vector, 2 * VECTOR)
    assert not (folder / "evil.html").exists(), "the report was of another vector"


def test_the_published_file_is_never_removed(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "out" / "tiny" / "evil.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(torch_file(torch.from_numpy(VECTOR)))
    words = ["import", file, "--model", model, "--out", tmp_path / "out", "--force"]
    result = CliRunner().invoke(cli.main, [str(word) for word in words])
    assert result.exit_code == 1
    assert "stands where its vector would go" in " ".join(result.output.split())
    assert file.is_file()


def test_a_dry_run_writes_nothing(tmp_path: Path, model: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(torch_file(torch.from_numpy(VECTOR)))
    result = run(tmp_path / "evil.pt", model, "--dry-run")
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert "layer indices 0 to 5 of a model of 5 layers, hidden size 8" in text
    assert "Nothing was written" in text
    assert not (tmp_path / "out").exists()


def test_a_name_that_json_cannot_hold_is_no_trouble(tmp_path: Path, model: Path) -> None:
    file = tmp_path / b"ev\xffil.pt".decode(errors="surrogateescape")
    value = {"vectors": torch.from_numpy(VECTOR[1:].copy()), "note": "half a character: \ud800"}
    card = imported(file, torch_file(value), model, "--trait", "evil").card
    assert card is not None
    assert json.loads(card.model_dump_json())["source"]["file"] == "ev?il.pt"
