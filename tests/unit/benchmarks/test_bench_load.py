"""`vllm bench serve` accepts our arguments, and we read its result file correctly."""

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.serving.load import Load, LoadError, arguments, figures

LOAD = Load(concurrency=2, prompts=2, prompt_tokens=32, tokens=4)


def result(**changed: Any) -> dict[str, Any]:
    """Return those fields of a result file of `vllm bench serve --save-result --save-detailed` that we read."""
    times = {f"p{p}_{time}_ms": float(p) for p in (50, 99) for time in ("ttft", "tpot", "itl", "e2el")}
    return {
        "completed": 2,
        "duration": 1.5,
        "total_output_tokens": 8,
        "output_throughput": 5.3,
        "itls": [[0.1] * 4, [0.1] * 4],
        "errors": ["", ""],
        **times,
        **changed,
    }


def test_vllm_takes_the_arguments(tmp_path: Path) -> None:
    from vllm.entrypoints.cli.benchmark.serve import BenchmarkServingSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    BenchmarkServingSubcommand.add_cli_args(parser)
    parsed = parser.parse_args(arguments("http://127.0.0.1:1", tmp_path, LOAD, 7, tmp_path / "result.json"))
    assert (parsed.backend, parsed.dataset_name, parsed.num_prompts, parsed.max_concurrency) == (
        "openai-chat",
        "random",
        2,
        2,
    )
    assert (parsed.random_input_len, parsed.random_output_len, parsed.seed) == (32, 4, 7)
    assert parsed.ignore_eos
    assert parsed.save_result
    assert parsed.save_detailed


def test_a_seed_makes_the_same_requests_for_every_server() -> None:
    def of(url: str, seed: int) -> set[str]:
        return set(arguments(url, Path("/m"), LOAD, seed, Path("/r/result.json"))) - {url}

    assert of("http://a", 1) == of("http://b", 1)
    assert of("http://a", 1) != of("http://a", 2)


def test_figures_are_those_of_the_file() -> None:
    read = figures(result(), LOAD)
    assert read["output_tokens_per_s"] == 5.3
    assert read["itl_ms"] == {"p50": 50.0, "p99": 99.0}
    # Each stream has one event more than gaps.
    assert read["events_per_token"] == 10 / 8


def test_a_failed_request_is_no_measurement() -> None:
    with pytest.raises(LoadError, match=r"1 of 2 requests failed.*gone"):
        figures(result(completed=1, errors=["", "gone"]), LOAD)
