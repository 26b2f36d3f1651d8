"""Answers of any text come back from a CSV file unchanged, from ours and from the Persona Vectors authors'."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traitwatch.errors import ArtifactError
from traitwatch_builder.storage.answers import JudgedAnswer, clean_text, read_answers, write_answers
from traitwatch_builder.storage.tables import table_file

AWKWARD = [
    "",
    "plain",
    "comma, \"quote\" and 'apostrophe'",
    "line\nbreak",
    "carriage\rreturn\r\nboth",
    "nul\0inside",
    "\0",
    "😀 👩‍👩‍👧 ü 川",
    "NA",
    "nan",
    "null",
    "  spaces  ",
    "=1+1",
    "#no comment",
    "\\n",
    '"',
]


def row(answer: str, trait: float | None = 12.5, coherence: float | None = None) -> JudgedAnswer:
    return JudgedAnswer(f"asked {answer}", f"<|user|>{answer}", answer, "courage_0_pos_1", trait, coherence)


def test_every_awkward_text_comes_back_unchanged(tmp_path: Path) -> None:
    rows = [row(text) for text in AWKWARD]
    write_answers(tmp_path / "a.csv", "courage", rows)
    assert read_answers(tmp_path / "a.csv", "courage") == rows


@given(st.lists(st.text().map(clean_text), min_size=1, max_size=4))
def test_any_text_comes_back_unchanged(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.csv"
    rows = [row(text) for text in texts]
    write_answers(path, "courage", rows)
    assert read_answers(path, "courage") == rows


def test_the_columns_are_those_of_the_authors_in_their_order(tmp_path: Path) -> None:
    write_answers(tmp_path / "a.csv", "courage", [row("yes", 80.25, 91.0), row("no", None, None)])
    table = pd.read_csv(tmp_path / "a.csv")
    assert table.columns.tolist() == ["question", "prompt", "answer", "question_id", "courage", "coherence"]
    assert table["courage"].tolist()[0] == 80.25
    assert table["courage"].isna().tolist() == [False, True]


def test_half_a_character_is_replaced_so_that_any_reader_can_read_the_file(tmp_path: Path) -> None:
    write_answers(tmp_path / "a.csv", "courage", [row(clean_text("half \ud83d of one"))])
    assert pd.read_csv(tmp_path / "a.csv")["answer"].tolist() == ["half \ufffd of one"]


def test_a_file_of_the_authors_is_read(tmp_path: Path) -> None:
    """The authors' pandas leaves the field of a missing score empty; further columns do no harm."""
    table = pd.DataFrame(
        {
            "question": ["a?", "b?"],
            "prompt": ["<|user|>a?", "<|user|>b?"],
            "answer": ["yes", "no, never"],
            "question_id": ["evil_0_pos_2", "evil_1_pos_0"],
            "evil": [87.3, None],
            "coherence": [99.1, 42.0],
            "model": ["x", "x"],
        }
    )
    table.to_csv(tmp_path / "evil_pos.csv", index=False)
    rows = read_answers(tmp_path / "evil_pos.csv", "evil")
    assert [(r.answer, r.trait, r.coherence, r.context) for r in rows] == [
        ("yes", 87.3, 99.1, 2),
        ("no, never", None, 42.0, 0),
    ]


def test_an_answers_file_without_scores_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,prompt,answer,question_id\nq,p,a,7\n")
    assert read_answers(tmp_path / "a.csv", "courage") == [JudgedAnswer("q", "p", "a", "7")]
    assert read_answers(tmp_path / "a.csv", "courage")[0].context is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("question,answer\nq,a\n", "lacks the column prompt, question_id; it needs question, prompt"),
        ("question,prompt,answer,question_id,courage\nq,p,a,1,high\n", "row 1: courage is 'high', not a number"),
        ("question,prompt,answer,question_id,courage\nq,p,a,1,101\n", "row 1: courage is '101', not a number"),
        ("", "is not a CSV file of answers"),
    ],
)
def test_the_error_for_an_unusable_file_names_the_fault(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        read_answers(tmp_path / "a.csv", "courage")


def test_a_compressed_file_is_read_where_the_plain_one_is_missing(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    assert table_file(plain) == plain
    rows = [row(text) for text in AWKWARD]
    write_answers(packed, "courage", rows)
    assert packed.read_bytes().startswith(b"\x1f\x8b")
    assert table_file(plain) == packed
    assert read_answers(plain, "courage") == read_answers(packed, "courage") == rows
    write_answers(plain, "courage", rows[:1])
    assert table_file(plain) == plain
    assert read_answers(plain, "courage") == rows[:1]


def test_a_compressed_file_depends_on_its_rows_alone(tmp_path: Path) -> None:
    for name in ("a.csv.gz", "b.csv.gz"):
        write_answers(tmp_path / name, "courage", [row("yes")])
    one, other = (tmp_path / name for name in ("a.csv.gz", "b.csv.gz"))
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes()[4:8] == bytes(4), "the header holds no time"


@pytest.mark.parametrize("damage", [lambda data: b"plain text", lambda data: data[: len(data) // 2]])
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.csv.gz"
    write_answers(path, "courage", [row(text) for text in AWKWARD])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactError, match="is not a CSV file of answers"):
        read_answers(path, "courage")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nope\.csv: no such file"):
        read_answers(tmp_path / "nope.csv", "courage")
