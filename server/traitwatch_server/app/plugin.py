"""Our endpoint plugin for vLLM: installs the middleware and the routes, connects the workers, runs the canary.

vLLM attaches plugins before its own middleware. So our routes and middleware stand behind vLLM's authentication, and
behind our own guard, which holds under every root path: nobody learns the name of a trait without the API key.
"""

import asyncio
import logging
from argparse import Namespace
from collections import defaultdict
from typing import Any

import numpy as np
from fastapi import FastAPI
from starlette.datastructures import State
from vllm.engine.protocol import EngineClient

from traitwatch.vllm_private.api_process import api_keys, engine_indexes, tokenizer_of
from traitwatch_server.app.canary import run_canary
from traitwatch_server.app.draining import Draining, DrainingMiddleware
from traitwatch_server.app.engine import watch, watch_end
from traitwatch_server.app.exposition import MetricsMiddleware
from traitwatch_server.app.guard import GuardMiddleware
from traitwatch_server.app.handover import launch_of
from traitwatch_server.app.keys import Keys
from traitwatch_server.app.openapi import describe_scores
from traitwatch_server.app.registry import Registry, ServedModel
from traitwatch_server.app.routes import Serving, add_routes
from traitwatch_server.ledger.receiver import Receiver
from traitwatch_server.metrics import Metrics
from traitwatch_server.monitor import Monitor
from traitwatch_server.process import end_with, log_with_vllm
from traitwatch_server.recording.sink import Sink
from traitwatch_server.recording.spike_log import SpikeLog
from traitwatch_server.recording.telemetry import telemetry_from_environment
from traitwatch_server.responses.middleware import TraitsMiddleware
from traitwatch_server.settings import Settings
from traitwatch_server.traits import ServedTrait, TraitSet, load_served_traits, trait_set
from traitwatch_server.wire import CONFIG_KEY

logger = logging.getLogger(__name__)


class TraitwatchPlugin:
    """See `vllm.plugins.endpoint_plugins.interface.EndpointPlugin`."""

    name = "traitwatch"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._up: Serving | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def attach_router(self, app: FastAPI) -> None:
        """Add the middleware and our routes, and describe both in the schema. The last middleware is the outermost."""
        settings = launch_of(app.state.args).settings
        app.add_middleware(TraitsMiddleware, monitor=lambda: self._serving().monitor)
        app.add_middleware(MetricsMiddleware, flush=lambda: self._serving().monitor.recorder.tally.flush())
        app.add_middleware(DrainingMiddleware, draining=lambda: self._up.draining if self._up else None)
        app.add_middleware(GuardMiddleware, keys=Keys(api_keys(app.state.args)))
        add_routes(app, self._serving, admin=settings.admin, admin_keys=Keys(filter(None, [settings.admin_key])))
        describe_scores(app)

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Bring up all that scores in this API process. The order matters:

        1. Wrap the end of the server, so that it ends in order also where a later step fails. Have this process and
           the workers end with the launcher.
        2. Load the vectors; `build_monitor`.
        3. Receive rows: whatever a worker sends from now on has a reader.
        4. `connect_workers`: the workers send rows to the receiver, and their taps have the vectors.
        5. Run the canary, the first request. It opens its own calls and is nobody's traffic, so it runs before step 6.
        6. Wrap the engine's `generate`, which scores and records every request from now on.
        7. Set `self._up`. Until then `DrainingMiddleware` answers 503 to every request.

        Raises:
            CanaryError: scores do not come as they should.
        """
        assert engine_client is not None, "the task 'generate' has an engine"
        log_with_vllm()
        launch = launch_of(args)
        settings = launch.settings
        draining = Draining(settings.drain_seconds)

        async def drain() -> None:
            if self._up is not None:
                await draining.drain(engine_client.abort)

        watch_end(engine_client, launch, drain, self._end)
        end_with(launch.launcher)
        await engine_client.collective_rpc("traitwatch_end_with", args=(launch.launcher.pid, launch.launcher.system))

        model = _served_model(engine_client)
        traits = load_served_traits(settings)
        metrics = _metrics(engine_client)
        spikes = _spike_log(settings, engine_client, metrics)
        receiver = Receiver(metrics, launch.sockets)
        monitor = build_monitor(settings, trait_set(traits, model.tapped), receiver.api_process, metrics, spikes)

        self._tasks = [
            asyncio.create_task(receiver.run(monitor.ledger.deliver)),
            asyncio.create_task(monitor.recorder.flush_at_intervals()),
        ]
        for task in self._tasks:
            task.add_done_callback(_log_end)

        await connect_workers(engine_client, receiver, traits)
        await run_canary(engine_client, monitor)
        watch(engine_client, monitor, draining)
        registry = Registry(monitor, engine_client, settings, model) if settings.admin else None
        self._up = Serving(monitor, registry, spikes, draining)
        logger.info("Scoring %s.", ", ".join(f"{t.name} at layer {t.layer}" for t in traits))

    def _end(self) -> None:
        if self._up is not None:
            self._up.monitor.recorder.close()

    def _serving(self) -> Serving:
        assert self._up is not None, "DrainingMiddleware refuses requests before"
        return self._up


def _served_model(engine: EngineClient) -> ServedModel:
    config = engine.vllm_config
    tap: dict[str, Any] = config.additional_config[CONFIG_KEY]
    return ServedModel(
        name=config.model_config.model,
        num_layers=config.model_config.get_total_num_hidden_layers(),
        hidden_size=config.model_config.get_hidden_size(),
        tapped=tap["layers"],
        columns=tap["columns"],
    )


def build_monitor(
    settings: Settings, traits: TraitSet, api_process: str, metrics: Metrics, spikes: SpikeLog
) -> Monitor:
    """Build what the middleware, the routes and the receiver share.

    Args:
        settings: our options.
        traits: the traits to score.
        api_process: the name of this API process in the keys of its requests.
        metrics: the counters of this API process.
        spikes: the first sink of the recorder. Telemetry is the second, where the environment asks for it.
    """
    telemetry = telemetry_from_environment(metrics.events_dropped["otlp"].inc)
    sinks: list[Sink] = [spikes] if telemetry is None else [spikes, telemetry]
    return Monitor(
        traits,
        settings.default,
        api_process,
        metrics,
        metrics.model_name,
        sinks,
        allow=settings.allow,
        max_prompt=settings.max_prompt,
    )


async def connect_workers(engine: EngineClient, receiver: Receiver, traits: list[ServedTrait]) -> None:
    """Have the workers send rows to this API process, and write the directions of each tapped layer into them."""
    await engine.collective_rpc("traitwatch_connect", args=(receiver.api_process, receiver.endpoint))
    by_layer: dict[int, list[ServedTrait]] = defaultdict(list)
    for trait in sorted(traits, key=lambda trait: trait.column):
        by_layer[trait.layer].append(trait)
    for layer, members in by_layer.items():
        directions = np.stack([trait.vector.direction(layer) for trait in members])
        await engine.collective_rpc("traitwatch_load", args=(layer, 0, directions.tobytes(), len(members)))


def _metrics(engine: EngineClient) -> Metrics:
    """Return the counters of this API process, with the labels of vLLM's own."""
    config = engine.vllm_config
    engines = engine_indexes(config.parallel_config)
    return Metrics(model_name=str(config.model_config.served_model_name), engines=engines)


def _spike_log(settings: Settings, engine: EngineClient, metrics: Metrics) -> SpikeLog:
    """Return the log that keeps the latest spikes; it also writes a file where the settings name one."""
    log = settings.spike_log
    dropped = metrics.events_dropped["log"].inc
    if log is None:
        return SpikeLog(None, dropped=dropped)
    # The thread of the log decodes, so it gets a tokenizer of its own.
    decode = tokenizer_of(engine).decode if log.text else None
    return SpikeLog(log.file, max_bytes=log.max_bytes, keep=log.keep, dropped=dropped, decode=decode)


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("Receiving or recording projections ended.", exc_info=task.exception())
