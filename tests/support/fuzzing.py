"""Fuzzing of whatever reads what a user can give: real inputs are mutated, and the reader must read or refuse each.

A `Reader` has samples (real inputs, as bytes), a function that reads an input, and the errors with which it may refuse.
Any other exception is a fault. `tests/unit/fuzz` tries some hundred inputs for each reader in `make test`;
`python -m tests.benchmarks.fuzz` (`make fuzz`) goes on for minutes and reports how many inputs were tried.

Readers are listed in modules `tests/unit/fuzz/readers_*.py`, each with a tuple `READERS`.
"""

import importlib
import json
import pkgutil
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Bytes that formats give a meaning to, and values at the edges of what they hold.
_INTERESTING = (
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80"),
    *(b'"', b'\\"', b"'", b"{", b"}", b"[", b"]", b",", b";", b":", b"-", b"\t", b"\n", b"\r", b"\r\n\r\n"),
    *(b"null", b"NaN", b"Infinity", b"1e999", b"-1", b"9" * 400, b"[" * 2000, b"../", b"%00", b"data: "),
    *(b"&a *a", b"!!python/object:os.system", b"\x80\x02", b"PK\x03\x04", b"\x1f\x8b"),
)
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 10**400, float("nan"), float("inf")),
    *("", "\x00", "\ud800", "x" * 10000, [], {}, [None], {"": None}),
)


@dataclass(frozen=True)
class Reader:
    """Something that reads what a user can give.

    Attributes:
        name: the name in test ids and reports.
        samples: returns real inputs.
        read: reads one input; gets an empty folder too, for readers of files.
        refusals: the errors with which it may refuse; each must have a message.
        share: the part of the usual number of tries that this reader gets; less than 1 for slow ones.
    """

    name: str
    samples: Callable[[], Sequence[bytes]]
    read: Callable[[bytes, Path], object]
    refusals: tuple[type[Exception], ...]
    share: float = 1.0


@dataclass
class Outcome:
    """What came of a reader's inputs.

    Attributes:
        read: how many inputs were read.
        refused: how many were refused.
        faults: the inputs that ended in another exception, or in a refusal without a message, with it.
    """

    read: int = 0
    refused: int = 0
    faults: list[tuple[bytes, Exception]] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """How many inputs were tried."""
        return self.read + self.refused + len(self.faults)


def readers() -> list[Reader]:
    """Return the readers of all modules `tests/unit/fuzz/readers_*.py`."""
    package = importlib.import_module("tests.unit.fuzz")
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name.startswith("readers_"))
    return [reader for name in names for reader in importlib.import_module(f"tests.unit.fuzz.{name}").READERS]


def attempt(reader: Reader, data: bytes, folder: Path, outcome: Outcome) -> None:
    """Have a reader read one input, and add to its outcome."""
    try:
        reader.read(data, folder)
    except reader.refusals as refusal:
        if not str(refusal).strip() or "Traceback" in str(refusal):
            outcome.faults.append((data, refusal))
        else:
            outcome.refused += 1
    except Exception as fault:  # noqa: BLE001 - any other exception is what is looked for
        outcome.faults.append((data, fault))
    else:
        outcome.read += 1


def mutated(sample: bytes, chance: random.Random) -> bytes:
    """Return a sample with one to four changes: of its bytes, or of its values where it is JSON."""
    data = sample
    for _ in range(chance.randint(1, 4)):
        if chance.random() < 0.4:
            changed = _json_mutated(data, chance)
            if changed is not None:
                data = changed
                continue
        data = chance.choice(_CHANGES)(data, chance)
    return data


def _json_mutated(data: bytes, chance: random.Random) -> bytes | None:
    """Return JSON with one value replaced, dropped, doubled or moved one level down; None where it is no JSON."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    places = list(_places(document))
    if not places:
        return json.dumps(chance.choice(_ODD_VALUES)).encode()
    holder, key = chance.choice(places)
    kind = chance.randrange(5)
    if kind == 0:
        holder[key] = chance.choice(_ODD_VALUES)
    elif kind == 1:
        del holder[key]
    elif kind == 2:
        holder[key] = [holder[key], holder[key]]
    elif kind == 3:
        holder[key] = {"value": holder[key]}
    else:
        holder[key] = str(holder[key])
    return json.dumps(document, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")


def _places(document: Any) -> Any:
    """Return each holder and key of a JSON document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(items):
        yield document, key
        yield from _places(value)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randint(0, len(data))]


def _behead(data: bytes, chance: random.Random) -> bytes:
    return data[chance.randint(0, len(data)) :]


def _drop(data: bytes, chance: random.Random) -> bytes:
    start = chance.randint(0, len(data))
    return data[:start] + data[start + chance.choice((1, 2, 8, 64, 512)) :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    start = chance.randint(0, len(data))
    return data[:start] + chance.choice(_INTERESTING) + data[start:]


def _overwrite(data: bytes, chance: random.Random) -> bytes:
    start, new = chance.randint(0, len(data)), chance.choice(_INTERESTING)
    return data[:start] + new + data[start + len(new) :]


def _flip(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return data
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start = chance.randint(0, len(data))
    part = data[start : start + chance.choice((1, 16, 256))]
    return data[:start] + part * chance.choice((2, 3, 50)) + data[start:]


def _recode(data: bytes, chance: random.Random) -> bytes:
    return data.decode("utf-8", "replace").encode(chance.choice(("utf-16", "utf-8-sig", "cp1252")), "replace")


_CHANGES = (_cut, _behead, _drop, _insert, _insert, _overwrite, _overwrite, _flip, _flip, _repeat, _recode)
