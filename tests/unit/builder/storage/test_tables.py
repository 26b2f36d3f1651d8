"""A CSV file that could be read in two ways is refused; its separator, encoding, column or row is named."""

import csv
import gzip
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from traitwatch.errors import ArtifactError
from traitwatch.vectors import SHIPPED
from traitwatch_builder.storage.answers import TEXT_COLUMNS, read_answers, read_neutral
from traitwatch_builder.storage.tables import read_table

HEADER = "question,prompt,answer,question_id,courage,coherence"
ROW = '"why?","<|user|>why?","so, it is",courage_0_pos_1,80.5,90'
PLAIN = f"{HEADER}\n{ROW}\n{ROW}\n"


def refusal(path: Path, content: bytes | str) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ArtifactError) as caught:
        read_answers(path, "courage")
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLAIN.replace('"so, it is"', '"so it is"').replace(",", ";"), "its fields are separated by semicolons"),
        (PLAIN.replace(",", "\t"), "its fields are separated by tabs"),
        (PLAIN.replace(",", "|"), "its fields are separated by vertical bars"),
        ("sep=;\n" + PLAIN.replace(",", ";"), "Excel's line 'sep=;': remove this line"),
        ('"sep=,"\r\n' + PLAIN, "Excel's line 'sep=,': remove this line"),
        (PLAIN.encode("utf-16"), "it is UTF-16 text, not UTF-8 text: save it as UTF-8"),
        (PLAIN.encode("utf-16-le"), "it is UTF-16 text"),
        (PLAIN.encode("utf-16-be"), "it is UTF-16 text"),
        (PLAIN.encode("utf-32"), "it is UTF-32 text"),
        (PLAIN.replace("so,", "sö,").encode("cp1252"), "line 2 has the byte 0xf6 (in Windows-1252 it is 'ö')"),
        (PLAIN.replace(HEADER, f"{HEADER},courage").replace(",90", ",90,1"), "the column 'courage' more than once"),
        (PLAIN.replace(HEADER, f"{HEADER},note,note").replace(",90", ",90,,"), "the column 'note' more than once"),
        (PLAIN + '"why?","<|user|>why?"\n', "row 3 (line 4) has 2 fields, where the header has 6"),
        (f"{PLAIN}{ROW},7\n{ROW}\n", "row 3 (line 4) has 7 fields, where the header has 6"),
        (PLAIN.replace(",90\n", ",90,7\n"), "row 1 (line 2) has 7 fields"),
        (PLAIN.replace("so, it", 'she said \\"so\\", it'), 'write a quote in a text as two quotes (""), not as \\"'),
        (PLAIN.replace("so, it is", 'so\\", it is'), "row 1 (line 2) has 7 fields"),
        (PLAIN + '"why?","cut', "row 3 (line 4) has a text whose quote never ends"),
        (f'{HEADER}\n"two\nlines",p,a,1,2,3\n"two\nlines",p,a,1,2\n', "row 2 (line 4) has 5 fields"),
        (b"PK\x03\x04\x14\x00" + bytes(100), "it is a ZIP archive, such as an Excel workbook"),
        (b"\n <!DOCTYPE html>\n<html>", "it is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "run `git lfs pull`"),
        (gzip.compress(PLAIN.encode()), "it is compressed with gzip: unpack it"),
        (PLAIN.replace("question,prompt", "question, prompt"), "has 'question', ' prompt', 'answer'"),
        (PLAIN.replace("80.5", '"80,5"'), "row 1: courage is '80,5', not a number from 0 to 100"),
        (PLAIN.replace("80.5", "inf"), "row 1: courage is 'inf'"),
        (PLAIN.replace(",90\n", ",-nan\n"), "row 1: coherence is '-nan'"),
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        (PLAIN.replace(HEADER, f"{HEADER},,").replace(",90", ",90,x,y"), "several of its columns have no name"),
    ],
)
def test_what_could_be_misread_is_refused_by_name(tmp_path: Path, content: bytes | str, message: str) -> None:
    assert message in refusal(tmp_path / "a.csv", content)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\n\n").encode(),
        PLAIN.rstrip("\n").encode(),
        PLAIN.replace(HEADER, f"{HEADER},,").replace(",90", ",90,,").encode(),
        PLAIN.replace(HEADER, f",{HEADER}").replace('"why?","<', '0,"why?","<').encode(),
    ],
    ids=["BOM", "CRLF", "empty lines", "no last line end", "a spreadsheet's empty columns", "pandas' index"],
)
def test_harmless_forms_are_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    rows = read_answers(tmp_path / "a.csv", "courage")
    assert [(row.question, row.answer, row.trait) for row in rows] == [("why?", "so, it is", 80.5)] * 2


def test_a_text_longer_than_pythons_limit_is_read_and_the_limit_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text(PLAIN.replace("so, it is", "so " * 100_000))
    assert len(read_answers(tmp_path / "a.csv", "courage")[0].answer) == 300_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: PLAIN.encode(), "its name ends in .gz, but it is not compressed"),
        (lambda data: data[: len(data) // 2], r"it is cut off \(\d+ bytes are left\); copy it again"),
        (lambda data: data[:10] + bytes(8) + data[18:], "it is damaged"),
        (lambda data: gzip.compress(PLAIN.encode("utf-16")), "it is UTF-16 text"),
    ],
    ids=["no gzip", "cut off", "damaged", "UTF-16 inside"],
)
def test_a_damaged_compressed_file_is_named_so(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    (tmp_path / "a.csv.gz").write_bytes(change(gzip.compress(PLAIN.encode() * 50)))
    with pytest.raises(ArtifactError, match=rf"a\.csv is not a CSV file of answers: {message}"):
        read_answers(tmp_path / "a.csv", "courage")


def test_a_pipe_is_refused_since_a_step_reads_its_answers_twice(tmp_path: Path) -> None:
    """The second reading of a pipe is empty: all pipes would have one fingerprint, and pass for the same answers."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(PLAIN), daemon=True)
    writer.start()
    with pytest.raises(ArtifactError, match="is a pipe or a device, which can be read once only"):
        read_table(tmp_path / "pipe", TEXT_COLUMNS)
    # The writer waits for a reader.
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer.join(timeout=60)
    os.close(reader)


def test_a_directory_and_a_circle_of_links_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ArtifactError, match=r"a\.csv cannot be read: Is a directory"):
        read_table(tmp_path / "a.csv", TEXT_COLUMNS)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ArtifactError, match="cannot be read: Too many levels of symbolic links; its links lead"):
        read_table(tmp_path / "loop", TEXT_COLUMNS)


def test_every_shipped_file_is_read() -> None:
    (model,) = (directory for directory in SHIPPED.iterdir() if directory.is_dir())
    files = sorted(model.glob("*_pos.csv.gz"))
    assert len(files) == 12
    for file in files:
        rows = read_answers(file, file.name.removesuffix(".csv.gz").removesuffix("_pos").removesuffix("_eval"))
        assert rows
        assert all(row.prompt.endswith("<|im_start|>assistant\n") for row in rows)
    assert read_neutral(model / "neutral.csv")
