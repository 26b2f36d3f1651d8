"""Our endpoint plugin for vLLM: installs the middleware and the routes, connects the workers, runs the canary.

vLLM attaches plugins before its own middleware, so ours stands behind vLLM's authentication: nobody learns a trait's
name without the key.
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

from server.canary import run_canary
from server.config import CONFIG_KEY, ServedTrait, load_served_traits, trait_set
from server.engine import watch, watch_end
from server.errors import ConfigError
from server.guard import end_with
from server.launch import launch_of
from server.metrics import Metrics
from server.middleware import TraitsMiddleware
from server.monitor import Monitor
from server.registry import Registry, ServedModel
from server.routes import Serving, add_routes
from server.transport import Receiver

logger = logging.getLogger(__name__)


class TraitwatchPlugin:
    """See `vllm.plugins.endpoint_plugins.interface.EndpointPlugin`."""

    name = "traitwatch"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._up: Serving | None = None
        self._receiving: asyncio.Task[None] | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Add the middleware and the routes of `/v1/traits`."""
        app.add_middleware(TraitsMiddleware, monitor=lambda: self._serving().monitor)
        add_routes(app, self._serving)

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Load the vectors into the workers, start receiving rows, and run the canary.

        Raises:
            CanaryError: scores do not come as they should.
        """
        assert engine_client is not None, "the task 'generate' has an engine"
        launch = launch_of(args)
        settings = launch.settings
        watch_end(engine_client, launch)
        end_with(launch.pid)
        await engine_client.collective_rpc("traitwatch_end_with", args=(launch.pid,))
        model = _served_model(engine_client)
        traits = load_served_traits(settings)
        metrics = Metrics()
        receiver = Receiver(metrics, launch.sockets)
        monitor = Monitor(trait_set(traits, model.tapped), settings.default, receiver.api_process, metrics)
        self._receiving = asyncio.create_task(receiver.run(monitor.ledger.deliver))
        self._receiving.add_done_callback(_log_end)
        await engine_client.collective_rpc("traitwatch_connect", args=(receiver.api_process, receiver.endpoint))
        await _load(engine_client, traits)
        await run_canary(engine_client, monitor)
        watch(engine_client)
        registry = Registry(monitor, engine_client, settings, model) if settings.admin else None
        self._up = Serving(monitor, registry)
        logger.info("Scoring %s.", ", ".join(f"{t.name} at layer {t.layer}" for t in traits))

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


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("Receiving projections ended; responses will be incomplete.", exc_info=task.exception())
