"""No file or path that a user can give ends in a traceback, and what can be read but misleads is warned of."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from tests.support.full_disk import largest_file
from tests.support.tiny_model import save_tiny_model
from tests.unit.builder.commands.test_files import authors_csv, definition, neutral, no_keys, refused, run
from traitwatch import cli
from traitwatch.vectors import SHIPPED
from traitwatch_builder.storage.answers import write_neutral

__all__ = ["no_keys"]


@pytest.fixture(scope="module")
def vectors(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a vector, and no answers beside it."""
    made = tmp_path_factory.mktemp("made")
    pos, neg = (authors_csv(made / f"evil_{polarity}.csv", polarity) for polarity in ("pos", "neg"))
    run("extract", "evil", "--model", tiny_model, "--pos", pos, "--neg", neg, "--out", made / "out")
    return made / "out" / "tiny-llama"


@pytest.fixture(autouse=True)
def _wide_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is broken at the end of a line could not be found in the output."""
    monkeypatch.setenv("COLUMNS", "1000")


def of_gemma(path: Path) -> Path:
    """Give answers the prompts of another model's template."""
    table = pd.read_csv(path)
    table["prompt"] = [f"<start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n" for q in table["question"]]
    table.to_csv(path, index=False)
    return path


def test_verify_without_held_out_answers_names_the_commands_that_make_them(vectors: Path, tiny_model: Path) -> None:
    error = " ".join(refused("verify", "evil", "--model", tiny_model, "--vectors", vectors).split())
    assert "evil_eval_pos.csv: no such file. Make held-out answers with `traitwatch respond evil --questions" in error


def test_answers_of_another_model_are_warned_of_by_every_command_that_reads_them(
    vectors: Path, tiny_model: Path, tmp_path: Path
) -> None:
    pos, neg = (of_gemma(authors_csv(tmp_path / f"evil_{p}.csv", p, of="about")) for p in ("pos", "neg"))
    model = ("--model", tiny_model)
    judge = ("judge", "evil", *model, "--judge", "likelihood", "--definition", definition(tmp_path), "--dry-run")
    warning = f"60 of 60 prompts in {pos} are not what the chat template of {tiny_model} makes"
    for command in (
        ("extract", "evil", *model, "--pos", pos, "--neg", neg, "--out", tmp_path / "out"),
        ("verify", "evil", *model, "--vectors", vectors, "--eval-pos", pos, "--eval-neg", neg),
        (*judge, "--csv", pos),
    ):
        assert warning in " ".join(run(*command).output.split()), command


def test_a_vector_of_another_model_of_the_same_shape_is_warned_of(
    vectors: Path, tmp_path: Path, tiny_model: Path
) -> None:
    other = save_tiny_model(tmp_path / "other")
    held_out = [authors_csv(tmp_path / f"eval_{polarity}.csv", polarity, of="about") for polarity in ("pos", "neg")]
    verify = ("verify", "evil", "--vectors", vectors, "--eval-pos", held_out[0], "--eval-neg", held_out[1])
    assert "is another model by its name" not in run(*verify, "--model", tiny_model).output
    output = " ".join(run(*verify, "--model", other).output.split())
    assert "the vector of 'evil' was built on tiny-llama, and other is another model by its name" in output


def test_answers_without_rows_are_no_unjudged_answers(tiny_model: Path, tmp_path: Path) -> None:
    pos, neg = (authors_csv(tmp_path / f"evil_{polarity}.csv", polarity) for polarity in ("pos", "neg"))
    pos.write_text(pos.read_text().splitlines()[0] + "\n")
    error = refused("extract", "evil", "--model", tiny_model, "--pos", pos, "--neg", neg, "--out", tmp_path / "out")
    assert f"{pos} has no answers, only the names of its columns" in " ".join(error.split())


def test_questions_that_make_the_vector_are_not_answered_as_held_out(tiny_model: Path, tmp_path: Path) -> None:
    respond = (
        "respond",
        "evil",
        "--model",
        tiny_model,
        "--out",
        tmp_path / "out",
        "--definition",
        definition(tmp_path),
    )
    error = " ".join(refused(*respond, "--questions", "eval", "--dry-run").split())
    assert "20 of 20 eval questions are those of the extraction" in error
    assert "`traitwatch define evil --from FILE --split`" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["why?", "when?"]', "Input should be an object"),
        ("why?\nwhen?\n", "Invalid JSON"),
        ('{"prompts": ["why?", " "]}', "prompt 2 is empty"),
        ('{"prompts": ["why?", "when?", "why? "]}', "prompt 3 is prompt 1 again; remove one of the two"),
        ('{"prompts": ["why?", "cafÃ©?"]}', "prompt 2 is UTF-8 that was read as another encoding"),
        ('{"prompts": [1, 2, 3, 4, 5]}', "prompts.0, prompts.1, prompts.2 and 2 more: Input should be a valid string"),
    ],
)
def test_neutral_prompts_that_would_mislead_are_refused_with_the_form(
    vectors: Path, tiny_model: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "mine.json").write_text(content)
    calibrate = ("calibrate", "evil", "--model", tiny_model, "--vectors", vectors, "--dry-run")
    error = " ".join(refused(*calibrate, "--neutral-prompts", tmp_path / "mine.json").split())
    assert message in error
    assert '{"prompts": ["...", "..."]}' in error


def test_a_byte_order_mark_does_no_harm_to_json(vectors: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(b'\xef\xbb\xbf{"prompts": ["why?"]}')
    calibrate = ("calibrate", "evil", "--model", tiny_model, "--vectors", vectors, "--dry-run")
    run(*calibrate, "--neutral-prompts", tmp_path / "mine.json")


BAD_PATHS = {
    "below a file": ("file/x", "Not a directory"),
    "long": ("x" * 300, "File name too long; choose a shorter name"),
    "circle of links": ("loop/x", "choose another path"),
}


@pytest.mark.parametrize(("name", "reason"), BAD_PATHS.values(), ids=BAD_PATHS)
def test_a_place_that_cannot_be_written_is_named_by_every_command(
    vectors: Path, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    place = tmp_path / name
    (shipped,) = (directory for directory in SHIPPED.iterdir() if directory.is_dir())
    for command in (
        ("report", "evil", "--vectors", vectors, "--out", place),
        ("compare", "--vectors", shipped, "--out", f"{place}.csv"),
        ("rules", "--out", place),
    ):
        error = " ".join(refused(*command).split())
        assert "cannot be" in error
        assert reason in error, command


def test_a_model_of_an_impossible_name_is_no_traceback(tmp_path: Path) -> None:
    assert "File name too long" in refused("report", "evil", "--vectors", tmp_path / ("x" * 300))
    pos, neg = (authors_csv(tmp_path / f"evil_{polarity}.csv", polarity) for polarity in ("pos", "neg"))
    files = ("--pos", pos, "--neg", neg, "--out", tmp_path / "out")
    assert "File name too long" in refused("extract", "evil", "--model", tmp_path / ("x" * 300), *files)


def test_a_pipe_is_not_replaced_by_a_file(vectors: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    error = refused("report", "evil", "--vectors", vectors, "--out", tmp_path / "pipe")
    assert "it is a device or a pipe" in " ".join(error.split())
    assert (tmp_path / "pipe").is_fifo()


def test_a_full_disk_leaves_the_old_report(vectors: Path) -> None:
    before = vectors / "evil.html"
    run("report", "evil", "--vectors", vectors)
    content = before.read_bytes()
    with largest_file(1000):
        result = CliRunner().invoke(cli.main, ["report", "evil", "--vectors", str(vectors)])
    assert result.exit_code == 1
    assert "evil.html cannot be written: File too large" in " ".join(result.output.split())
    assert before.read_bytes() == content
    assert not list(vectors.glob(".evil.html.*"))


def test_a_definition_in_another_encoding_is_named(tiny_model: Path, tmp_path: Path) -> None:
    file = definition(tmp_path) / "trait_data_eval" / "evil.json"
    file.write_bytes(json.dumps(json.loads(file.read_text())).encode("utf-16"))
    respond = ("respond", "evil", "--model", tiny_model, "--out", tmp_path / "out", "--definition", tmp_path)
    assert "evil.json is UTF-16 text, not UTF-8 text" in " ".join(refused(*respond).split())


def test_neutral_answers_come_back(tmp_path: Path) -> None:
    from traitwatch_builder.storage.answers import read_neutral

    write_neutral(tmp_path / "neutral.csv", neutral())
    assert read_neutral(tmp_path / "neutral.csv") == neutral()
