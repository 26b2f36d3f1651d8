"""Loads and unloads traits while the server serves.

A set of traits is never changed, only replaced: a request keeps the set with which it began. The registry gives a
column of the tap to another trait only when no set with that column is alive. So no response is credited with the
projections of a trait that was loaded later.
"""

import asyncio
import dataclasses
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from vllm.engine.protocol import EngineClient

from traitwatch.errors import ArtifactError
from traitwatch.vectors import RESPONSE_AVG, PersonaVector, check_trait_name, load_vector
from traitwatch_server.errors import AdminError, ConfigError
from traitwatch_server.monitor import Monitor
from traitwatch_server.settings import Layer, Settings
from traitwatch_server.traits import ServedTrait, TraitSet, check_fits, chosen_layer, chosen_threshold, trait_set


class LoadRequest(BaseModel):
    """The body of `POST /v1/traits/{name}`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"path": "new/candour_response_avg_diff.pt", "layer": 16}]}
    )
    path: str | None = Field(
        default=None,
        description="the vector's .pt, below one of the --traits directories; default: NAME_response_avg_diff.pt",
    )
    layer: int | Literal["best"] | None = Field(
        default=None, description="layer index; default: the layer of --traits-layer"
    )


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """The model and the tap that a vector has to fit.

    Attributes:
        name: the name of the model in messages.
        num_layers: decoder layers of the model.
        hidden_size: the width of the residual stream.
        tapped: the tapped layers.
        columns: the columns of each tapped layer.
    """

    name: str
    num_layers: int
    hidden_size: int
    tapped: Sequence[int]
    columns: int


class Registry:
    """Loads and unloads the traits of an API process. The server must have one API process only."""

    def __init__(self, monitor: Monitor, engine: EngineClient, settings: Settings, model: ServedModel):
        self._monitor = monitor
        self._engine = engine
        self._settings = settings
        self._model = model
        self._one_at_a_time = asyncio.Lock()
        # The sets of traits that a request may still hold.
        self._sets: weakref.WeakSet[TraitSet] = weakref.WeakSet([monitor.traits])

    async def load(self, name: str, request: LoadRequest) -> ServedTrait:
        """Load a vector as trait `name`, in place of a loaded trait of that name.

        Raises:
            AdminError: the vector cannot be read, does not fit, or there is no column for it.
        """
        async with self._one_at_a_time:
            try:
                vector = await asyncio.to_thread(self._read, check_trait_name(name), request.path)
                layer = chosen_layer(vector, self._layer(name, request))
                self._check_tapped(layer)
                threshold = chosen_threshold(vector, layer, self._settings)
                trait = ServedTrait(vector, layer, self._free_column(layer), threshold)
                check_fits([trait], self._model.name, self._model.num_layers, self._model.hidden_size)
            except (ArtifactError, ConfigError) as error:
                raise AdminError(400, str(error)) from None
            direction = vector.direction(layer)
            await self._engine.collective_rpc("traitwatch_load", args=(layer, trait.column, direction.tobytes(), 1))
            self._replace({**self._monitor.traits.traits, name: trait})
            return trait

    async def unload(self, name: str) -> None:
        """Unload trait `name`. Running requests that hold the trait finish with it.

        Raises:
            AdminError: there is no such trait.
        """
        async with self._one_at_a_time:
            traits = dict(self._monitor.traits.traits)
            if traits.pop(name, None) is None:
                raise AdminError(404, f"no trait {name!r} is loaded here; loaded are: {', '.join(traits) or 'none'}.")
            self._replace(traits)

    def _replace(self, traits: dict[str, ServedTrait]) -> None:
        loaded = trait_set(traits.values(), self._model.tapped)
        self._sets.add(loaded)
        self._monitor.traits = loaded

    def _layer(self, name: str, request: LoadRequest) -> Layer:
        if request.layer is not None:
            return request.layer
        return self._settings.layer_of.get(name, self._settings.layer)

    def _read(self, name: str, path: str | None) -> PersonaVector:
        file = self._find(path if path is not None else f"{name}_{RESPONSE_AVG}.pt")
        return dataclasses.replace(load_vector(file), trait=name)

    def _find(self, path: str) -> Path:
        """Return the file at `path` below one of the configured directories; links out of them are refused."""
        for directory in self._settings.directories:
            try:
                file = (directory / path).resolve()
                if file.is_relative_to(directory) and file.is_file():
                    return file
            except (OSError, RuntimeError, ValueError):
                # The system does not take this for a path: it is too long, has a null byte, or is a loop of links.
                continue
        raise AdminError(400, f"{path!r} is no file below the directories that the server was started with (--traits).")

    def _check_tapped(self, layer: int) -> None:
        if layer not in self._model.tapped:
            raise AdminError(
                400,
                f"layer {layer} is not tapped; tapped are {', '.join(map(str, self._model.tapped))}. Name one of them "
                'as "layer", or start the server with --traits-tap.',
            )

    def _free_column(self, layer: int) -> int:
        taken = {t.column for loaded in self._sets for t in loaded.traits.values() if t.layer == layer}
        free = next((column for column in range(self._model.columns) if column not in taken), None)
        if free is None:
            raise AdminError(
                409,
                f"all {self._model.columns} columns of layer {layer} are in use; unload a trait, and try again when "
                "the requests that hold it have ended.",
            )
        return free
