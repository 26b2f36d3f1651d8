"""`make vectors` leaves compressed answers. The same answers give the same bytes."""

import gzip
from pathlib import Path

from scripts.compress_answers import compress_answers


def test_every_answers_file_is_replaced_by_a_compressed_one(tmp_path: Path) -> None:
    answers = tmp_path / "model" / "courage_pos.csv"
    answers.parent.mkdir()
    answers.write_text("question\n")
    card = answers.with_name("courage.json")
    card.write_text("{}")
    compress_answers(tmp_path)
    packed = answers.with_name("courage_pos.csv.gz")
    assert sorted(answers.parent.iterdir()) == [card, packed]
    assert gzip.decompress(packed.read_bytes()) == b"question\n"
    before = packed.read_bytes()
    answers.write_text("question\n")
    compress_answers(tmp_path)
    assert packed.read_bytes() == before
