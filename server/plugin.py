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
from server.config import ServedTrait, Settings, load_served_traits
from server.errors import ConfigError
from server.metrics import Metrics
from server.middleware import TraitsMiddleware
from server.monitor import Monitor
from server.scores import describe
from server.transport import Receiver

logger = logging.getLogger(__name__)

# Where the launcher leaves our settings in vLLM's parsed arguments.
SETTINGS_ATTRIBUTE = "traitwatch_settings"


class TraitwatchPlugin:
    """See `vllm.plugins.endpoint_plugins.interface.EndpointPlugin`."""

    name = "traitwatch"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._loaded: Monitor | None = None
        self._receiving: asyncio.Task[None] | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Add the middleware and `GET /v1/traits`."""
        app.add_middleware(TraitsMiddleware, monitor=self._monitor)

        @app.get("/v1/traits")
        async def list_traits() -> dict[str, Any]:
            """List the loaded traits, their layers and their calibration."""
            return {"object": "list", "data": describe(list(self._monitor().traits.values()))}

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Load the vectors into the workers, start receiving rows, and run the canary.

        Raises:
            CanaryError: scores do not come as they should.
        """
        assert engine_client is not None, "the task 'generate' has an engine"
        settings: Settings = getattr(args, SETTINGS_ATTRIBUTE)
        traits = load_served_traits(settings)
        metrics = Metrics()
        receiver = Receiver(metrics)
        monitor = Monitor(traits, settings.default, receiver.api_process, metrics)
        self._receiving = asyncio.create_task(receiver.run(monitor.ledger.deliver))
        self._receiving.add_done_callback(_log_end)
        await engine_client.collective_rpc("traitwatch_connect", args=(receiver.api_process, receiver.endpoint))
        await _load(engine_client, traits)
        await run_canary(engine_client, monitor)
        self._loaded = monitor
        logger.info("Scoring %s.", ", ".join(f"{t.name} at layer {t.layer}" for t in traits))

    def _monitor(self) -> Monitor:
        if self._loaded is None:
            raise ConfigError("the server takes no requests before its engine is up.")
        return self._loaded


async def _load(engine: EngineClient, traits: list[ServedTrait]) -> None:
    """Write each tapped layer's directions into the workers."""
    by_layer: dict[int, list[ServedTrait]] = defaultdict(list)
    for trait in traits:
        by_layer[trait.layer].append(trait)
    for layer, members in by_layer.items():
        directions = np.stack([trait.vector.direction(layer) for trait in members])
        await engine.collective_rpc("traitwatch_load", args=(layer, directions.tobytes(), len(members)))


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("Receiving projections ended; responses will be incomplete.", exc_info=task.exception())
