"""What does not go together is refused before an engine starts, in a sentence that says what to do."""

import pickle
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

from builder.artifacts import save_tensor
from tests.integration.serving import environment, traitwatch

SHAPE = (31, 576)


def refusal(*arguments: str | Path) -> str:
    """Run `traitwatch serve`; return what it says, after checking that it refused in one sentence."""
    started = time.monotonic()
    result = subprocess.run(
        traitwatch("serve", *arguments), capture_output=True, text=True, env=environment(), timeout=180, check=False
    )
    assert result.returncode == 1, result.stderr
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("Error: "), result.stderr
    assert "Traceback" not in result.stderr
    # An engine takes longer than that; nothing was half started.
    assert "EngineCore" not in result.stdout + result.stderr, f"an engine started ({time.monotonic() - started:.0f} s)"
    return error


def vector_file(directory: Path, name: str = "courage", shape: tuple[int, ...] = SHAPE) -> Path:
    path = directory / f"{name}_response_avg_diff.pt"
    save_tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32), path)
    return path


def test_a_missing_folder(model: Path, tmp_path: Path) -> None:
    error = refusal(model, "--traits", tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in error
    assert "no such directory" in error


def test_a_folder_without_vectors(model: Path, tmp_path: Path) -> None:
    assert "holds no persona vector" in refusal(model, "--traits", tmp_path)


class Exploit:
    """Unpickled, it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return Path.touch, (self.target,)  # type: ignore[return-value]


def test_a_pickle_that_is_not_a_plain_tensor_is_not_even_run(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "written"
    path = tmp_path / "evil_response_avg_diff.pt"
    path.write_bytes(pickle.dumps(Exploit(target)))
    error = refusal(model, "--traits", tmp_path)
    assert str(path) in error
    assert "not a plain tensor" in error
    assert not target.exists()


def test_a_dictionary_of_tensors(model: Path, tmp_path: Path) -> None:
    torch.save({"vector": torch.zeros(SHAPE)}, tmp_path / "courage_response_avg_diff.pt")
    assert "holds a dict, not a plain tensor" in refusal(model, "--traits", tmp_path)


def test_nan_in_a_vector(model: Path, tmp_path: Path) -> None:
    vector = torch.zeros(SHAPE)
    vector[7, 3] = float("nan")
    torch.save(vector, tmp_path / "courage_response_avg_diff.pt")
    assert "NaN or infinity at layers [7]" in refusal(model, "--traits", tmp_path)


def test_a_vector_of_another_model(model: Path, tmp_path: Path) -> None:
    vector_file(tmp_path, shape=(31, 512))
    error = refusal(model, "--traits", tmp_path)
    assert "[31, 512]" in error
    assert "[31, 576]" in error


def test_two_vectors_with_one_name(model: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        vector_file(tmp_path / folder)
    error = refusal(model, "--traits", tmp_path / "one", "--traits", tmp_path / "two")
    assert "two vectors are named 'courage'" in error


def test_a_layer_out_of_range(model: Path, tmp_path: Path) -> None:
    vector_file(tmp_path)
    error = refusal(model, "--traits", tmp_path, "--traits-layer", "31")
    assert "layer 31 is out of range" in error
    assert "1 to 30" in error


def test_a_layer_that_is_not_a_number(model: Path, tmp_path: Path) -> None:
    vector_file(tmp_path)
    assert "give a layer index" in refusal(model, "--traits", tmp_path, "--traits-layer", "last")


def test_a_layer_for_a_trait_that_is_not_there(model: Path, tmp_path: Path) -> None:
    vector_file(tmp_path)
    error = refusal(model, "--traits", tmp_path, "--traits-layer", "kindness=3")
    assert "'kindness'" in error
    assert "courage" in error


def test_a_worker_class_of_somebody_elses(model: Path, tmp_path: Path) -> None:
    vector_file(tmp_path)
    error = refusal(model, "--traits", tmp_path, "--worker-cls", "some.Worker")
    assert "brings its own worker class" in error


def test_what_the_tap_does_not_follow(model: Path, tmp_path: Path) -> None:
    vector_file(tmp_path)
    assert "--enable-dbo" in refusal(model, "--traits", tmp_path, "--enable-dbo")


def test_a_spare_layer_that_the_model_does_not_have(model: Path, tmp_path: Path) -> None:
    vector_file(tmp_path)
    assert "--traits-tap 31: " in refusal(model, "--traits", tmp_path, "--traits-tap", "31")


def test_loading_traits_into_one_of_several_api_processes(model: Path, tmp_path: Path) -> None:
    vector_file(tmp_path)
    for several in ("--api-server-count", "--data-parallel-size"):
        error = refusal(model, "--traits", tmp_path, "--traits-admin", several, "2")
        assert "--traits-admin with 2 API processes" in error


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    vector_file(tmp_path)
    assert "no-such-model" in refusal(tmp_path / "no-such-model", "--traits", tmp_path)


def test_vllms_own_options_can_be_looked_up() -> None:
    shown = subprocess.run(
        traitwatch("serve", "--vllm-help", "max-model-len"),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=180,
    )
    assert shown.returncode == 0
    assert "--max-model-len" in shown.stdout
