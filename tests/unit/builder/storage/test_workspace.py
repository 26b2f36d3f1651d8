"""A step is repeated only when its inputs or its files changed; one process at a time works on a trait."""

from pathlib import Path

import pytest

from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.storage.workspace import (
    Workspace,
    card_model_name,
    find_definition,
    known_definitions,
    model_directory,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path, "courage")
    workspace.prepare()
    return workspace


def test_a_step_is_done_while_its_inputs_and_its_files_are_the_same(workspace: Workspace) -> None:
    output = workspace.directory / "courage.pt"
    output.write_text("vector")
    assert not workspace.manifest.done("extract", {"threshold": 50})
    workspace.manifest.record("extract", {"threshold": 50}, [output])
    assert workspace.manifest.done("extract", {"threshold": 50})
    assert not workspace.manifest.done("extract", {"threshold": 60})
    assert not workspace.manifest.done("verify", {"threshold": 50})
    output.touch()
    assert workspace.manifest.done("extract", {"threshold": 50}), "the time of a file does not count"
    output.write_text("another vector")
    assert not workspace.manifest.done("extract", {"threshold": 50})
    output.unlink()
    assert not workspace.manifest.done("extract", {"threshold": 50})


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"extract": 5}', b'{"extract": {"inputs": []}}'])
def test_a_damaged_manifest_means_that_all_steps_are_done_again(workspace: Workspace, content: bytes) -> None:
    workspace.manifest.record("extract", {}, [])
    assert workspace.manifest.done("extract", {})
    workspace.manifest.path.write_bytes(content)
    assert not workspace.manifest.done("extract", {})
    workspace.manifest.record("extract", {}, [])
    assert workspace.manifest.done("extract", {})


def test_the_next_process_removes_the_files_of_killed_writers(workspace: Workspace) -> None:
    left = [
        workspace.directory / ".courage_pos.csv.dh__gsp0",
        workspace.directory / ".courage.json.a1b2c3d4",
        workspace.evidence.with_name(".courage-evidence.npz.q_9xk2mz"),
    ]
    others = [workspace.directory / ".courage_of_lions_pos.csv.dh__gsp0", workspace.directory / ".courage"]
    for path in [*left, *others]:
        path.write_text("part of a file")
    with workspace.alone():
        assert [path.name for path in left if path.exists()] == []
    assert all(path.exists() for path in others)


def test_a_trait_is_held_by_one_at_a_time(workspace: Workspace) -> None:
    with workspace.alone():
        again = Workspace(workspace.directory, "courage").alone()
        with pytest.raises(PipelineError, match="courage is being worked on by another process already"), again:
            pass
        with Workspace(workspace.directory, "honesty").alone():
            pass
    with workspace.alone():
        pass


def test_the_builders_own_directory_stays_out_of_version_control(workspace: Workspace) -> None:
    assert (workspace.directory / ".traitwatch" / ".gitignore").read_text() == "*\n"


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match=r"cannot be written: .* choose another --out"):
        Workspace(tmp_path / "file" / "out", "courage").prepare()


@pytest.mark.parametrize("name", ["neutral", "coherence", "question", "question_id"])
def test_a_name_that_the_files_of_a_build_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=f"a trait cannot be called {name!r}"):
        Workspace(tmp_path, name)


def test_the_first_directory_that_defines_a_trait_counts(tmp_path: Path) -> None:
    shipped = find_definition("paternalism", [tmp_path, SHIPPED_DEFINITIONS])
    assert shipped is not None
    assert shipped[0] == SHIPPED_DEFINITIONS / "trait_data_extract" / "paternalism.json"
    for file in shipped:
        copy = tmp_path / file.relative_to(SHIPPED_DEFINITIONS)
        copy.parent.mkdir()
        copy.write_bytes(file.read_bytes())
    own = find_definition("paternalism", [tmp_path, SHIPPED_DEFINITIONS])
    assert own is not None
    assert own[0].is_relative_to(tmp_path)
    assert find_definition("kindnes", [tmp_path, SHIPPED_DEFINITIONS]) is None


def test_six_traits_are_shipped() -> None:
    assert known_definitions([SHIPPED_DEFINITIONS]) == [
        "alignment-theatre",
        "corrigibility",
        "deception",
        "manipulativeness",
        "paternalism",
        "power-seeking",
    ]


def test_a_model_is_called_by_its_directory_or_its_hub_name(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    assert card_model_name(f"{tmp_path}/tiny/") == "tiny"
    assert card_model_name("meta-llama/Llama-3.1-8B-Instruct") == "meta-llama/Llama-3.1-8B-Instruct"
    assert model_directory(tmp_path / "out", tmp_path / "tiny") == tmp_path / "out" / "tiny"
    with pytest.raises(PipelineError, match="into the model's own directory; choose another"):
        model_directory(tmp_path, tmp_path / "tiny")
    assert model_directory(tmp_path, "meta-llama/Llama-3.1-8B-Instruct") == tmp_path / "Llama-3.1-8B-Instruct"
