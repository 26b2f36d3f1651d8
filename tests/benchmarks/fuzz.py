"""Fuzzes every reader of what a user can give, and reports how many inputs were tried: `make fuzz`.

The readers are those of `tests/unit/fuzz`. Each gets an equal part of the time. Of each kind of
fault (an exception that is no refusal), the first input is written to the folder of `--faults`.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.support.fuzzing import Outcome, Reader, attempt, mutated, readers


def main() -> int:
    """Fuzz, report, and return 1 where a fault was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="time for all readers together (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (default: 0)")
    parser.add_argument("--only", default="", metavar="NAME", help="only readers with NAME in their name")
    parser.add_argument("--faults", type=Path, default=Path("build/fuzz"), help="folder for inputs that found a fault")
    options = parser.parse_args()
    chosen = [reader for reader in readers() if options.only in reader.name]
    outcomes = {r.name: _fuzz(r, 60 * options.minutes / len(chosen), options.seed, options.faults) for r in chosen}
    out = sys.stdout
    out.write(f"{'reader':32} {'tried':>9} {'read':>9} {'refused':>9} {'faults':>7}\n")
    for name, outcome in outcomes.items():
        out.write(f"{name:32} {outcome.tried:9} {outcome.read:9} {outcome.refused:9} {len(outcome.faults):7}\n")
    out.write(f"{'all':32} {sum(outcome.tried for outcome in outcomes.values()):9}\n")
    return 1 if any(outcome.faults for outcome in outcomes.values()) else 0


def _fuzz(reader: Reader, seconds: float, seed: int, faults: Path) -> Outcome:
    chance = random.Random(f"{reader.name} {seed}")
    samples = reader.samples()
    outcome = Outcome()
    kinds: set[str] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        folder = Path(tempfile.mkdtemp(prefix="traitwatch-fuzz-"))
        known = len(outcome.faults)
        attempt(reader, mutated(chance.choice(samples), chance), folder, outcome)
        shutil.rmtree(folder)
        for data, fault in outcome.faults[known:]:
            place = traceback.extract_tb(fault.__traceback__)[-1]
            kind = f"{type(fault).__name__} at {place.filename}:{place.lineno}"
            if kind not in kinds:
                kinds.add(kind)
                faults.mkdir(parents=True, exist_ok=True)
                file = faults / f"{reader.name.replace(' ', '-')}-{len(kinds)}"
                file.write_bytes(data)
                sys.stdout.write(f"{reader.name}: {kind}: {str(fault)[:200]} ({file})\n")
    return outcome


if __name__ == "__main__":
    raise SystemExit(main())
