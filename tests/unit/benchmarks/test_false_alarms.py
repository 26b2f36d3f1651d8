"""The count of false alarms: the responses that count, the spikes, and the interval of the share."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.benchmarks.false_alarms import (
    Promise,
    Response,
    false_alarms,
    main,
    promises,
    read_prompts,
    seen_before,
    spike_level,
)
from traitwatch.spikes import find_spikes
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS
from traitwatch_builder.storage.answers import load_neutral_prompts

PROMISE = Promise(layer=20, mean=10.0, std=2.0, rate=0.01, z=3.0, low=2.0, high=4.0)


def response(z: float, *, complete: bool = True, length: int = 60, served: int = 0) -> Response:
    """Return a response whose tokens all have the same z. The smoothed z approaches this z."""
    projection = PROMISE.mean + PROMISE.std * z
    tokens: list[float | None] = [*([projection] * length), None]
    return Response("prompt", "answer", complete, {"trait": tokens}, {"trait": served})


def test_prompts_are_two_hundred_and_took_part_in_nothing() -> None:
    prompts = read_prompts()
    assert len(prompts) == len(set(prompts)) == 200
    assert all(prompt == prompt.strip() != "" for prompt in prompts)


def test_a_prompt_that_was_used_is_found_with_any_punctuation() -> None:
    calibrated = load_neutral_prompts(SHIPPED_DEFINITIONS / "neutral_prompts.json")[0]
    definition = json.loads((SHIPPED_DEFINITIONS / "trait_data_eval" / "paternalism.json").read_text())
    question = definition["questions"][3]
    used = [calibrated.upper().rstrip("?"), question.replace(" ", "  ")]
    assert seen_before(["Is this one new?", *used]) == used


def test_responses_above_the_threshold_are_counted() -> None:
    responses = [response(0.0)] * 195 + [response(2.5)] * 2 + [response(3.5)] * 2 + [response(5.0)]
    [result] = false_alarms({"trait": PROMISE}, responses)
    assert (result.responses, result.spiking) == (200, 3)
    assert (result.share, result.share_at_low, result.share_at_high) == (0.015, 0.025, 0.005)


def test_the_interval_is_the_exact_one() -> None:
    [none] = false_alarms({"trait": PROMISE}, [response(0.0)] * 200)
    # Without a success in n, the upper end solves (1 - p)^n = 0.025.
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 200)))
    assert none.kept
    [too_few] = false_alarms({"trait": replace(PROMISE, rate=0.02)}, [response(0.0)] * 200)
    assert not too_few.kept
    # Clopper and Pearson's interval of 6 in 200 does not contain 1 %. That of 5 in 200 does.
    [five], [six] = (
        false_alarms({"trait": PROMISE}, [response(0.0)] * (200 - k) + [response(5.0)] * k) for k in (5, 6)
    )
    assert (five.low, five.high) == (pytest.approx(0.00817, abs=2e-5), pytest.approx(0.05739, abs=2e-5))
    assert (six.low, six.high) == (pytest.approx(0.01109, abs=2e-5), pytest.approx(0.06417, abs=2e-5))
    assert (five.kept, six.kept) == (True, False)


def test_responses_with_missing_states_do_not_count() -> None:
    [result] = false_alarms({"trait": PROMISE}, [response(0.0)] * 9 + [response(5.0, complete=False)])
    assert (result.responses, result.spiking) == (9, 0)


def test_a_response_too_short_for_a_spike_counts_without_one() -> None:
    [result] = false_alarms({"trait": PROMISE}, [response(50.0, length=2), response(50.0, length=0)])
    assert (result.responses, result.spiking) == (2, 0)


def test_the_servers_own_count_is_reported_too() -> None:
    [result] = false_alarms({"trait": PROMISE}, [response(0.0, served=3), response(0.0), response(5.0), response(0.0)])
    assert (result.spiking, result.served) == (1, 0.25)


def test_the_spike_level_agrees_with_the_spikes_of_the_server() -> None:
    random = np.random.default_rng(3)
    for _ in range(200):
        z = random.normal(size=30).cumsum() * 0.5
        tokens = [*(PROMISE.mean + PROMISE.std * z).tolist(), None]
        level = spike_level(tokens, PROMISE)
        assert find_spikes(z.tolist(), threshold=level - 1e-9)
        assert not find_spikes(z.tolist(), threshold=level + 1e-9)


def test_promises_are_those_of_the_cards_for_the_rate() -> None:
    threshold = {"rate": 0.01, "z": 3.0, "low": 2.0, "high": 4.0}
    rarer = {"rate": 0.001, "z": 5.0, "low": 4.0, "high": 6.0}
    listed = [
        {"id": "trait", "layer": 20, "calibration": {"mean": 10.0, "std": 2.0, "thresholds": [threshold, rarer]}},
        {"id": "without a threshold", "layer": 20, "calibration": {"mean": 1.0, "std": 2.0, "thresholds": []}},
        {"id": "uncalibrated", "layer": 20, "calibration": None},
    ]
    assert promises(listed, 0.01) == {"trait": PROMISE}
    assert promises(listed, 0.001)["trait"].z == 5.0


def test_a_run_can_be_counted_again(tmp_path: Path) -> None:
    responses = [response(0.0)] * 3 + [response(5.0)]
    run = {"promises": {"trait": asdict(PROMISE)}, "responses": [asdict(r) for r in responses]}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run))
    result = CliRunner().invoke(main, ["--redo", str(path)])
    assert result.exit_code == 0, result.output
    assert "25.0%" in result.output
