"""Our endpoint plugin for vLLM: installs the middleware and the routes, connects the workers, runs the canary.

vLLM attaches plugins before its own middleware, so ours stands behind vLLM's authentication: nobody learns a trait's
name without the key.
"""

import asyncio
import copy
import logging
from argparse import Namespace
from collections import defaultdict
from typing import Any

import numpy as np
from fastapi import FastAPI
from starlette.datastructures import State
from vllm.engine.protocol import EngineClient

from traitwatch_server.app.canary import run_canary
from traitwatch_server.app.draining import DrainingMiddleware
from traitwatch_server.app.engine import engine_indexes, model_name, watch, watch_end
from traitwatch_server.app.exposition import MetricsMiddleware
from traitwatch_server.app.handover import launch_of
from traitwatch_server.app.openapi import describe_scores
from traitwatch_server.app.registry import Registry, ServedModel
from traitwatch_server.app.routes import Serving, add_routes
from traitwatch_server.errors import ConfigError
from traitwatch_server.ledger.receiver import Receiver
from traitwatch_server.metrics import Metrics
from traitwatch_server.monitor import Monitor
from traitwatch_server.process import end_with, log_with_vllm
from traitwatch_server.recording.sink import Sink
from traitwatch_server.recording.spike_log import SpikeLog
from traitwatch_server.recording.telemetry import telemetry_from_environment
from traitwatch_server.responses.middleware import TraitsMiddleware
from traitwatch_server.settings import Settings
from traitwatch_server.traits import ServedTrait, load_served_traits, trait_set
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
        """Add the middleware, our routes, and what the schema says of both."""
        app.add_middleware(TraitsMiddleware, monitor=lambda: self._serving().monitor)
        app.add_middleware(MetricsMiddleware, flush=lambda: self._serving().monitor.recorder.tally.flush())
        app.add_middleware(DrainingMiddleware, draining=lambda: self._serving().monitor.draining)
        add_routes(app, self._serving, admin=launch_of(app.state.args).settings.admin)
        describe_scores(app)

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Load the vectors into the workers, start receiving rows, and run the canary.

        Raises:
            CanaryError: scores do not come as they should.
        """
        assert engine_client is not None, "the task 'generate' has an engine"
        log_with_vllm()
        launch = launch_of(args)
        settings = launch.settings

        async def drain() -> None:
            if self._up is not None:
                await self._up.monitor.draining.drain(engine_client.abort)

        watch_end(engine_client, launch, drain, self._end)
        end_with(launch.pid)
        await engine_client.collective_rpc("traitwatch_end_with", args=(launch.pid,))
        model = _served_model(engine_client)
        traits = load_served_traits(settings)
        config = engine_client.vllm_config
        name = model_name(config)
        metrics = Metrics(model_name=name, engines=engine_indexes(config.parallel_config))
        receiver = Receiver(metrics, launch.sockets)
        loaded = trait_set(traits, model.tapped)
        spikes = _spike_log(settings, engine_client, metrics)
        telemetry = telemetry_from_environment(metrics.events_dropped["otlp"].inc)
        sinks: list[Sink] = [spikes] if telemetry is None else [spikes, telemetry]
        monitor = Monitor(loaded, settings.default, receiver.api_process, metrics, name, sinks, settings.drain_seconds)
        self._tasks = [
            asyncio.create_task(receiver.run(monitor.ledger.deliver)),
            asyncio.create_task(monitor.recorder.flush_at_intervals()),
        ]
        for task in self._tasks:
            task.add_done_callback(_log_end)
        await engine_client.collective_rpc("traitwatch_connect", args=(receiver.api_process, receiver.endpoint))
        await _load(engine_client, traits)
        await run_canary(engine_client, monitor)
        watch(engine_client, monitor)
        registry = Registry(monitor, engine_client, settings, model) if settings.admin else None
        self._up = Serving(monitor, registry, spikes)
        logger.info("Scoring %s.", ", ".join(f"{t.name} at layer {t.layer}" for t in traits))

    def _end(self) -> None:
        if self._up is not None:
            self._up.monitor.recorder.close()

    def _serving(self) -> Serving:
        if self._up is None:
            raise ConfigError("the server takes no requests before its engine is up.")
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


async def _load(engine: EngineClient, traits: list[ServedTrait]) -> None:
    """Write each tapped layer's directions into the workers."""
    by_layer: dict[int, list[ServedTrait]] = defaultdict(list)
    for trait in sorted(traits, key=lambda trait: trait.column):
        by_layer[trait.layer].append(trait)
    for layer, members in by_layer.items():
        directions = np.stack([trait.vector.direction(layer) for trait in members])
        await engine.collective_rpc("traitwatch_load", args=(layer, 0, directions.tobytes(), len(members)))


def _spike_log(settings: Settings, engine: EngineClient, metrics: Metrics) -> SpikeLog:
    """Return what keeps the latest spikes, and writes them where the settings say so."""
    log = settings.spike_log
    dropped = metrics.events_dropped["log"].inc
    if log is None:
        return SpikeLog(None, dropped=dropped)
    # The log's thread decodes, and a tokenizer is not made for two threads.
    decode = copy.deepcopy(engine.get_tokenizer()).decode if log.text else None
    return SpikeLog(log.file, max_bytes=log.max_bytes, keep=log.keep, dropped=dropped, decode=decode)


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("Receiving or recording projections ended.", exc_info=task.exception())
