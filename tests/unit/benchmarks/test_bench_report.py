"""The tables report the record, in words that the numbers justify."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.benchmarks.serving.plan import HIDDEN_STATES, PLAIN
from tests.benchmarks.serving.record import Record
from tests.benchmarks.serving.report import ITL_P50, THROUGHPUT, notes, ratios, report

SIX = "6 traits"


def measured(speed: float, itl: float = 50.0, **changed: Any) -> dict[str, Any]:
    times = {f"{time}_ms": {"p50": itl, "p99": 2 * itl} for time in ("ttft", "tpot", "itl", "e2el")}
    rest = {"cpu_api_s": 1.0, "cpu_engine_s": 20.0, "peak_rss_api_mib": 700.0, "peak_rss_mib": 3000.0}
    quiet = {"other_server_cpu_s": 0.1, "duration_s": 10.0, "events_per_token": 1.02, "scored": 64.0}
    return {"output_tokens_per_s": speed, **times, **rest, **quiet, **changed}


def run(side: str, base: dict[str, Any], own: dict[str, Any], concurrency: int = 32) -> dict[str, Any]:
    both = {"mode": "eager", "base": PLAIN, "side": side, "concurrency": concurrency, "prompts": 64}
    return {**both, "pair": 0, "first": PLAIN, "measured": {PLAIN: base, side: own}}


def record(*runs: dict[str, Any]) -> dict[str, Any]:
    return {"runs": list(runs), "failures": []}


def text(data: dict[str, Any]) -> str:
    output = io.StringIO()
    report(data, Console(file=output, width=200))
    return output.getvalue()


def goal_lines(data: dict[str, Any]) -> list[str]:
    return [line for line in text(data).splitlines() if "6 traits / plain vLLM" in line]


def test_a_ratio_is_of_the_side_over_its_base_pair_by_pair() -> None:
    runs = [run(SIX, measured(200.0), measured(190.0)), run(SIX, measured(100.0, 40.0), measured(101.0, 44.0))]
    assert ratios(runs, THROUGHPUT) == pytest.approx([0.95, 1.01])
    assert ratios(runs, ITL_P50) == pytest.approx([1.0, 1.1])


@pytest.mark.parametrize(
    ("speeds", "verdict"),
    [
        ([200, 201, 202, 199, 203, 200], "met"),
        ([190, 191, 192, 189, 193, 190], "not met"),
        ([190, 210, 200, 199, 203, 200], "cannot be told from noise here"),
        ([200, 201, 202], "too few pairs to say"),
    ],
)
def test_the_verdict_on_a_goal_follows_from_its_interval(speeds: list[float], verdict: str) -> None:
    throughput = goal_lines(record(*(run(SIX, measured(200.0), measured(speed)) for speed in speeds)))[0]
    assert throughput.split("│")[-2].strip() == verdict


def test_a_goal_at_another_concurrency_is_not_measured() -> None:
    lines = goal_lines(record(*(run(SIX, measured(200.0), measured(200.0), concurrency=8) for _ in range(6))))
    assert len(lines) == 3
    assert all("not measured" in line for line in lines)


def test_answers_that_were_not_scored_are_reported() -> None:
    whole = record(run(SIX, measured(200.0, scored=0.0), measured(200.0)))
    assert not [line for line in notes(whole) if "not scored in full" in line]
    lost = record(run(SIX, measured(200.0, scored=0.0), measured(200.0, scored=60.0)))
    assert [line for line in notes(lost) if line.startswith("4 answers were not scored in full")]
    hidden = record(run(HIDDEN_STATES, measured(200.0, scored=0.0), measured(200.0, scored=0.0)))
    assert not [line for line in notes(hidden) if "not scored in full" in line]


def test_a_failure_is_reported_even_without_a_measurement() -> None:
    data = {"runs": [], "failures": [{"what": "eager: 64 traits / plain vLLM", "why": "the server did not come up"}]}
    assert "NOT MEASURED: eager: 64 traits / plain vLLM: the server did not come up" in text(data)


def test_the_file_is_whole_after_every_entry(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    written = Record(path, {"pairs": 6})
    for number in range(1, 3):
        written.add("runs", run(SIX, measured(200.0), measured(200.0)))
        read = json.loads(path.read_text())
        assert len(read["runs"]) == number
    assert read["options"] == {"pairs": 6}
    assert len(read["git"]["commit"]) == 40
    assert read["machine"]["cores"] >= 1
    assert {"python", "torch"} <= set(read["versions"])
    assert text(read) == text(written.data)
