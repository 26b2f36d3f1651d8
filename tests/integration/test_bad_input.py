"""`traitwatch serve` refuses unusable input before an engine starts, in one sentence that names the remedy."""

import pickle
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.forks import fork
from tests.support.serving import ADMIN_KEY, environment, traitwatch
from traitwatch.vectors import SHIPPED, save_tensor

SHAPE = (31, 576)
PUBLISHED = "deception_response_avg_diff.pt"
FILE = "courage_response_avg_diff.pt"
# Stands for the directory of the files, in a command and in its error message.
HERE = "HERE"


def vector_file(directory: Path, shape: tuple[int, ...] = SHAPE) -> None:
    directory.mkdir(exist_ok=True)
    save_tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32), directory / FILE)


def of_another_model(directory: Path) -> None:
    vector_file(directory, (31, 512))


def two_of_one_name(directory: Path) -> None:
    for name in ("one", "two"):
        vector_file(directory / name)


def with_nan(directory: Path) -> None:
    vector = torch.zeros(SHAPE)
    vector[7, 3] = float("nan")
    torch.save(vector, directory / FILE)


def without_row_0(directory: Path) -> None:
    vector_file(directory, (30, 576))


def cut_off(directory: Path) -> None:
    (directory / FILE).write_bytes((SHIPPED / "SmolLM2-135M-Instruct" / PUBLISHED).read_bytes()[:20000])


def a_dictionary(directory: Path) -> None:
    torch.save({"vector": torch.zeros(SHAPE)}, directory / FILE)


class Exploit:
    """An object that writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return Path.touch, (self.target,)  # type: ignore[return-value]


def a_pickle(directory: Path) -> None:
    (directory / FILE).write_bytes(pickle.dumps(Exploit(directory / "written")))


def nothing(directory: Path) -> None:
    return


@dataclass(frozen=True)
class Case:
    """A command that is refused.

    Attributes:
        messages: parts of the error message.
        files: the function that writes the files into the directory.
        options: the options after the model; if empty, `--traits` and the directory.
        model: the model's path; None for the embedded model.
    """

    messages: Sequence[str]
    files: Callable[[Path], None] = vector_file
    options: Sequence[str] = ()
    model: str | None = None


def with_traits(*options: str) -> Sequence[str]:
    return "--traits", HERE, *options


CASES = {
    "a missing folder": Case([f"{HERE}/nowhere", "no such directory"], nothing, ["--traits", f"{HERE}/nowhere"]),
    "a folder without vectors": Case(["holds no persona vector"], nothing),
    "a pickle that is not a plain tensor": Case([f"{HERE}/{FILE}", "not a plain tensor"], a_pickle),
    "a dictionary of tensors": Case(["holds a dict, not a plain tensor"], a_dictionary),
    "a vector without row 0": Case(["[30, 576]", "lack row 0", "--rows layers"], without_row_0),
    "a file that is cut off": Case([f"{HERE}/{FILE}", "cut off or unreadable (20000 bytes); copy it again"], cut_off),
    "NaN in a vector": Case(["NaN or infinity at layers [7]"], with_nan),
    "a vector of another model": Case(["[31, 512]", "[31, 576]"], of_another_model),
    "two vectors with one name": Case(
        ["two vectors are named 'courage'"], two_of_one_name, ["--traits", f"{HERE}/one", "--traits", f"{HERE}/two"]
    ),
    "a layer out of range": Case(["layer 31 is out of range", "1 to 30"], options=with_traits("--traits-layer", "31")),
    "a layer that is not a number": Case(["give a layer index"], options=with_traits("--traits-layer", "last")),
    "a layer for a trait that is not there": Case(
        ["'kindness'", "courage"], options=with_traits("--traits-layer", "kindness=3")
    ),
    "a worker class of somebody else's": Case(
        ["brings its own worker class"], options=with_traits("--worker-cls", "some.Worker")
    ),
    "what the tap does not follow": Case(["--enable-dbo"], options=with_traits("--enable-dbo")),
    "a spare layer that the model does not have": Case(
        ["--traits-tap 31: "], options=with_traits("--traits-tap", "31")
    ),
    "loading traits into one of several API processes": Case(
        ["--traits-admin with 2 API processes"],
        options=with_traits("--traits-admin", "--traits-admin-key", ADMIN_KEY, "--api-server-count", "2"),
    ),
    "loading traits with data parallelism": Case(
        ["--traits-admin with 2 API processes"],
        options=with_traits("--traits-admin", "--traits-admin-key", ADMIN_KEY, "--data-parallel-size", "2"),
    ),
    "a model that is not there": Case(["no-such-model"], model=f"{HERE}/no-such-model"),
}


@pytest.mark.parametrize("name", CASES)
def test_unusable_input_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    case = CASES[name]
    case.files(tmp_path)
    words = [case.model or str(model), *(case.options or with_traits())]
    command = ["serve", *(word.replace(HERE, str(tmp_path)) for word in words)]
    refused = fork(command, environment(), tmp_path)
    assert refused.wait(180) == 1
    stderr = refused.error.read_text()
    error = stderr.strip().splitlines()[-1]
    assert error.startswith("Error: "), stderr
    assert "Traceback" not in stderr
    # No engine was started.
    assert "EngineCore" not in refused.output.read_text() + stderr
    for message in case.messages:
        assert message.replace(HERE, str(tmp_path)) in error
    assert not (tmp_path / "written").exists(), "a pickle was run"


def test_vllms_own_options_can_be_looked_up() -> None:
    result = subprocess.run(
        traitwatch("serve", "--vllm-help", "max-model-len"),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=180,
    )
    assert result.returncode == 0
    assert "--max-model-len" in result.stdout
