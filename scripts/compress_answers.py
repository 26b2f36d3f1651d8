"""Compresses answers files: `python -m scripts.compress_answers DIRECTORY`, the last step of `make vectors`.

`NAME.csv` becomes `NAME.csv.gz`. The builder reads both (`traitwatch_builder.storage.tables.table_file`).
"""

import sys
from pathlib import Path

from traitwatch.files import write_atomically
from traitwatch_builder.storage.tables import compressed


def compress_answers(directory: Path) -> None:
    """Replace every `.csv` file below `directory` with the same file compressed."""
    for path in sorted(directory.rglob("*.csv")):
        write_atomically(path.with_name(f"{path.name}.gz"), compressed(path.read_bytes()))
        path.unlink()


if __name__ == "__main__":
    compress_answers(Path(sys.argv[1]))
