"""Options and models with which vLLM could not serve, or would lose scores, are refused before anything starts."""

import socket
from pathlib import Path

import pytest

from tests.support.random_llama import save_model
from traitwatch.errors import ProcessError
from traitwatch_server.errors import ConfigError
from traitwatch_server.launch.vllm_serve import model_config, parse_vllm_arguments, run
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
        ["--enable-elastic-ep"],
        ["--data-parallel-multi-port-external-lb", "--data-parallel-size", "2", "--data-parallel-size-local", "2"],
        ["--speculative-config", '{"method": "dspark", "model": "m", "enable_adaptive_verification": true}'],
    ],
    ids=lambda options: options[0],
)
def test_an_option_that_loses_scores_is_refused_by_name(options: list[str]) -> None:
    args = parse_vllm_arguments(["some/model", *options])
    with pytest.raises(ConfigError, match=options[0]):
        run(args, Settings((Path("vectors"),)), [])


def test_a_port_that_another_program_has_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        args = parse_vllm_arguments(["some/model", "--host", "127.0.0.1", "--port", str(port)])
        with pytest.raises(ProcessError, match=f"port {port} of 127.0.0.1 is taken by another program"):
            run(args, Settings((Path("vectors"),)), [])


@pytest.mark.parametrize("config", [b"[]", b"{", b"null", b'{"model_type": 3}', b'{"architectures": 3}', b"\xff\x00"])
def test_a_model_whose_configuration_is_none_is_a_sentence(tmp_path: Path, config: bytes) -> None:
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(ConfigError, match=f"^vLLM cannot use the model '{tmp_path}': "):
        model_config(parse_vllm_arguments([str(tmp_path)]))


def test_a_model_that_generates_no_tokens_is_refused(tmp_path: Path) -> None:
    """vLLM would leave our plugin out, and serve without a score."""
    model = save_model(tmp_path / "model")
    args = parse_vllm_arguments([str(model), "--runner", "pooling", "--dtype", "float32"])
    with pytest.raises(ConfigError, match="pooling"):
        run(args, Settings((Path("vectors"),)), [])
