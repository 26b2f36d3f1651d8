import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fuzzing import Outcome, Reader, attempt, mutated, readers

# Inputs for each reader: seconds of `make test` in all. `make fuzz` tries many more.
_TRIES = 100


@pytest.mark.parametrize("reader", readers(), ids=lambda reader: reader.name)
def test_a_mutated_input_is_read_or_refused(reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> None:
    samples = reader.samples()

    @settings(max_examples=round(_TRIES * reader.share), suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.integers(0, len(samples) - 1), st.integers(0, 2**32))
    def tried(sample: int, seed: int) -> None:
        outcome = Outcome()
        data = mutated(samples[sample], random.Random(seed))
        attempt(reader, data, tmp_path_factory.mktemp("input"), outcome)
        for _, fault in outcome.faults:
            raise AssertionError(f"{type(fault).__name__}: {fault}; input: {data[:200]!r}") from fault

    tried()


@pytest.mark.parametrize("reader", readers(), ids=lambda reader: reader.name)
def test_the_real_input_is_read(reader: Reader, tmp_path: Path) -> None:
    for number, sample in enumerate(reader.samples()):
        folder = tmp_path / str(number)
        folder.mkdir()
        reader.read(sample, folder)
