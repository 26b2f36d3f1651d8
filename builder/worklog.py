"""What a long step has made so far, kept so that an interrupted build goes on where it stopped.

Each step appends its results to a JSON-lines file whose name is a hash of everything that the results depend on. So a
finished step is not repeated, an unfinished one goes on, and a step whose inputs changed starts anew.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from builder.files import write_atomically

Item = dict[str, Any]


class Worklog:
    """The work files of one build."""

    def __init__(self, directory: Path):
        self._directory = directory

    def done(self, step: str, inputs: object) -> list[Item]:
        """Return what a step has made so far; a line that an interruption cut off is left out."""
        items = []
        path = self._path(step, inputs)
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                items.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return items

    def run(self, step: str, inputs: object, total: int, produce: Callable[[int], Iterable[Item]]) -> list[Item]:
        """Return all of a step's results, producing those that are missing.

        Args:
            step: the step's name.
            inputs: JSON data that the results depend on.
            total: how many results there are when the step is finished.
            produce: called with the index of the first missing result; gives it and those after it.
        """
        items = self.done(step, inputs)
        if len(items) >= total:
            return items
        path = self._path(step, inputs)
        # Written anew, since an interruption may have left half a line at the end.
        write_atomically(path, "".join(json.dumps(item) + "\n" for item in items).encode())
        with path.open("a") as file:
            for item in produce(len(items)):
                file.write(json.dumps(item) + "\n")
                file.flush()
                items.append(item)
        return items

    def _path(self, step: str, inputs: object) -> Path:
        return self._directory / f"{step}-{fingerprint(inputs)[:16]}.jsonl"


def fingerprint(inputs: object) -> str:
    """Return a SHA-256 of JSON data, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def model_fingerprint(model: Path | str) -> dict[str, Any]:
    """Return what tells a model from another: its configuration and the sizes of its files, or its hub name."""
    directory = Path(model)
    if not directory.is_dir():
        return {"name": str(model)}
    files = sorted((f.name, f.stat().st_size) for f in directory.iterdir() if f.is_file())
    config = directory / "config.json"
    return {"files": files, "config": config.read_text() if config.is_file() else ""}
