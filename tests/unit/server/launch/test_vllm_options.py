"""vLLM options that would lose scores are refused before anything starts."""

from pathlib import Path

import pytest

from traitwatch_server.errors import ConfigError
from traitwatch_server.launch.vllm_serve import parse_vllm_arguments, run
from traitwatch_server.settings import Settings


@pytest.mark.parametrize(
    "options",
    [
        ["--worker-cls", "some.Worker"],
        ["--headless"],
        ["--enable-dbo"],
        ["--ubatch-size", "2"],
        ["--prefill-context-parallel-size", "2"],
        ["--kv-sharing-fast-prefill"],
        ["--shutdown-timeout", "30"],
        ["--speculative-config", '{"method": "dspark", "model": "m", "enable_adaptive_verification": true}'],
    ],
    ids=lambda options: options[0],
)
def test_an_option_that_loses_scores_is_refused_by_name(options: list[str]) -> None:
    args = parse_vllm_arguments(["some/model", *options])
    with pytest.raises(ConfigError, match=options[0]):
        run(args, Settings((Path("vectors"),)), [])
