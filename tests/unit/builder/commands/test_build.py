"""`traitwatch build` refuses unusable input before an engine starts, in one sentence that names the remedy."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from transformers import LlamaConfig

from traitwatch import cli
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS, definition_files
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.pretrained import check_length, load_tokenizer
from traitwatch_builder.storage.workspace import Workspace


@pytest.fixture(autouse=True)
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr("traitwatch_builder.answering.engine.Engine.__init__", start)
    monkeypatch.setenv("TRAITWATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(key, raising=False)


def build(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["build", *arguments])


def assert_error(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    result = build("paternalism", "--model", str(tmp_path / "nope"), "--out", str(tmp_path / "out"))
    assert_error(result, "nope: no such model directory", "traitwatch model")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = build("paternalism", "--model", str(tmp_path / "empty"), "--out", str(tmp_path / "out"))
    assert_error(result, "empty cannot be loaded as a model", "traitwatch model")


def test_a_trait_that_nobody_defined(tmp_path: Path) -> None:
    result = build("kindnes", "--model", str(tmp_path), "--out", str(tmp_path / "out"))
    assert_error(result, "no definition of 'kindnes' yet", "traitwatch define kindnes", "paternalism")


def test_a_trait_that_the_named_directory_does_not_define(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claude would write its definition to another directory, and each try would cost money."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    options = ("--definition", str(tmp_path), "--model", str(tmp_path), "--out", str(tmp_path / "out"))
    assert_error(build("kindness", "--description", "mine", *options), "kindness", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "expected"), [("{", "is not a valid TraitDefinition"), ("{}", "instruction: Field required")]
)
def test_a_malformed_definition(tmp_path: Path, content: str, expected: str) -> None:
    for kind in ("trait_data_extract", "trait_data_eval"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "kindness.json").write_text(content)
    result = build("kindness", "--definition", str(tmp_path), "--model", str(tmp_path), "--out", str(tmp_path / "out"))
    assert_error(result, expected)


@pytest.mark.parametrize("command", ["build", "respond"])
def test_a_definition_in_out_goes_before_the_shipped_one(command: str, tmp_path: Path) -> None:
    for file in definition_files(tmp_path / "out", "paternalism"):
        file.parent.mkdir(parents=True)
        file.write_text("{")
    command_line = [command, "paternalism", "--model", str(tmp_path), "--out", str(tmp_path / "out")]
    assert_error(CliRunner().invoke(cli.main, command_line), "out/trait_data_extract/paternalism.json is not a valid")


def test_eval_questions_that_make_the_vector_are_refused_before_anything_is_made(
    tiny_model: Path, tmp_path: Path
) -> None:
    for file, shipped in zip(
        definition_files(tmp_path, "bravery"), definition_files(SHIPPED_DEFINITIONS, "paternalism"), strict=True
    ):
        content = json.loads(shipped.read_text())
        content["questions"][4] = "Why?"
        file.parent.mkdir()
        file.write_text(json.dumps(content))
    options = ("--definition", str(tmp_path), "--model", str(tiny_model), "--out", str(tmp_path / "out"))
    result = build("bravery", *options, "--dry-run")
    assert_error(result, "1 of 20 eval questions", "'Why?'", "trait_data_eval/bravery.json")


def test_an_out_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = build("paternalism", "--model", str(tmp_path), "--out", str(tmp_path / "file" / "out"))
    assert_error(result, "cannot be written", "choose another --out")


def test_a_second_build_of_a_trait_at_the_same_time(tiny_model: Path, tmp_path: Path) -> None:
    """Both would write the same work files."""
    with Workspace(tmp_path / "out" / tiny_model.name, "paternalism").alone():
        result = build("paternalism", "--model", str(tiny_model), "--out", str(tmp_path / "out"))
    assert_error(result, "paternalism is being worked on by another process already")


def test_a_description_without_a_key_says_the_three_ways_out(tmp_path: Path) -> None:
    result = build("paternalism", "--description", "mine", "--model", str(tmp_path), "--out", str(tmp_path / "out"))
    assert_error(result, "set ANTHROPIC_API_KEY", "--print-prompt", "leave out --description")


def test_a_dry_run_prints_the_cost_and_makes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    options = [
        "--model",
        str(tiny_model),
        "--out",
        str(tmp_path / "out"),
        "--n-per-question",
        "2",
        "--max-tokens",
        "50",
    ]
    judge = ["--judge-base-url", "http://127.0.0.1:9/v1", "--judge-model", "judge"]
    result = build("paternalism", *options, *judge, "--dry-run")
    assert result.exit_code == 0, result.output
    printed = " ".join(result.stderr.replace("│", " ").split())
    for part in (
        "answers: pos",
        "40 of 40 to make",
        "at most 2,000 output tokens",
        "400 scores to give",
        "400 calls",
        "not probed",
    ):
        assert part in printed, printed
    assert not list((tmp_path / "out" / tiny_model.name).glob("*.csv"))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["respond", "paternalism", "--n-per-question", "2", "--out"], ["answers: pos: 40 of 40", "neg: 40 of 40"]),
        (["calibrate", "paternalism", "--vectors"], ["answers: neutral: 240 of 240"]),
    ],
)
def test_a_dry_run_counts_the_answers_of_endpoints_without_asking_them(
    command: list[str], expected: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    endpoint = ("--endpoint", "http://127.0.0.1:9/v1", "--max-tokens", "50", "--dry-run")
    command_line = [*command, str(tmp_path / "out"), "--model", str(tiny_model), *endpoint]
    result = CliRunner().invoke(cli.main, command_line)
    assert result.exit_code == 0, result.output
    printed = " ".join(result.stderr.split())
    for part in (*expected, "input tokens, at most"):
        assert part in printed, printed
    assert not list((tmp_path / "out").rglob("*.csv"))


@pytest.mark.parametrize("command", ["build", "respond"])
def test_a_model_for_several_gpus_is_spread_to_answer_too(
    command: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: Any, *arguments: Any) -> None:
        raise PipelineError(f"an engine of {arguments[-2]} and {arguments[-1]}")

    monkeypatch.setattr("traitwatch_builder.answering.engine.Engine.__init__", start)
    command_line = [command, "paternalism", "--model", str(tiny_model), "--out", str(tmp_path / "out")]
    spread = ["--tensor-parallel-size", "2", "--pipeline-parallel-size", "3"]
    assert_error(CliRunner().invoke(cli.main, [*command_line, *spread, "--max-tokens", "20"]), "an engine of 2 and 3")


def test_the_device_map_is_that_of_the_likelihood_judge_too(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_judge(*arguments: Any) -> None:
        raise PipelineError(f"a judge on {arguments[-1]}")

    monkeypatch.setattr("traitwatch_builder.pipeline.make_judge", make_judge)
    options = ("--model", str(tiny_model), "--out", str(tmp_path / "out"), "--device-map", "auto")
    assert_error(build("paternalism", *options), "a judge on auto")


def test_a_context_that_is_too_short_is_refused_and_a_long_enough_one_measured(tmp_path: Path) -> None:
    LlamaConfig(max_position_embeddings=128).save_pretrained(tmp_path)
    assert check_length(tmp_path, longest_prompt=100, max_tokens=28) == 128
    with pytest.raises(PipelineError, match=r"takes 100 tokens and its answer up to 29, .* room for 128: lower"):
        check_length(tmp_path, longest_prompt=100, max_tokens=29)


def test_a_model_without_a_chat_template_is_not_one_for_chats(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(PipelineError, match="has no chat template; give an instruction-tuned model"):
        load_tokenizer(tmp_path)
