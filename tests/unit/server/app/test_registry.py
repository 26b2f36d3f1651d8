"""Traits are loaded and unloaded while requests run, and no column changes under a request."""

import gc
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from tests.support.serving import ADMIN_KEY, OPERATOR
from traitwatch.vectors import save_tensor
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.keys import Keys
from traitwatch_server.app.registry import Registry, ServedModel
from traitwatch_server.app.routes import Serving, add_routes
from traitwatch_server.metrics import Metrics
from traitwatch_server.monitor import Monitor
from traitwatch_server.recording.spike_log import SpikeLog
from traitwatch_server.responses.selection import select
from traitwatch_server.settings import Settings
from traitwatch_server.traits import load_served_traits, trait_set

TAPPED, COLUMNS = [1, 2], 3


class Engine:
    """Records the directions that the workers load."""

    def __init__(self) -> None:
        self.loaded: dict[tuple[int, int], np.ndarray[Any, Any]] = {}

    async def collective_rpc(self, method: str, args: tuple[int, int, bytes, int]) -> None:
        assert method == "traitwatch_load"
        layer, column, directions, _ = args
        self.loaded[layer, column] = np.frombuffer(directions, dtype=np.float32)


def save(directory: Path, name: str, layers: int = 3) -> Path:
    path = directory / f"{name}_response_avg_diff.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    vector = np.random.default_rng(sum(name.encode())).standard_normal((layers + 1, 8)).astype(np.float32)
    save_tensor(vector, path)
    return path


class Server:
    """The routes of a server that started with the trait `first`."""

    def __init__(self, directory: Path, *, admin: bool = True) -> None:
        save(directory, "first")
        settings = Settings((directory.resolve(),), layer=2)
        self.monitor = Monitor(
            trait_set(load_served_traits(settings), TAPPED), "tokens", "api", Metrics(CollectorRegistry())
        )
        self.engine = Engine()
        model = ServedModel("tiny", num_layers=3, hidden_size=8, tapped=TAPPED, columns=COLUMNS)
        registry = Registry(self.monitor, self.engine, settings, model) if admin else None  # type: ignore[arg-type]
        spikes = SpikeLog(None, dropped=lambda count: None)
        app = FastAPI()
        keys = Keys([ADMIN_KEY])
        add_routes(app, lambda: Serving(self.monitor, registry, spikes, Draining(0)), admin=admin, admin_keys=keys)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server", headers=OPERATOR)

    async def load(self, name: str, **body: object) -> httpx.Response:
        return await self._client.post(f"/v1/traits/{name}", json=body)

    async def unload(self, name: str) -> httpx.Response:
        return await self._client.delete(f"/v1/traits/{name}")

    async def names(self) -> list[str]:
        listed = (await self._client.get("/v1/traits")).json()
        return [trait["id"] for trait in listed["data"]]


def message(response: httpx.Response) -> str:
    text: str = response.json()["error"]["message"]
    return text


@pytest.fixture
def server(tmp_path: Path) -> Server:
    server = Server(tmp_path)
    save(tmp_path, "second")
    save(tmp_path, "sub/third")
    return server


async def test_a_trait_is_loaded_and_unloaded(server: Server, tmp_path: Path) -> None:
    response = await server.load("second")
    assert response.status_code == 200
    assert (response.json()["id"], response.json()["layer"]) == ("second", 2)
    assert await server.names() == ["first", "second"]
    assert (await server.unload("first")).json() == {"id": "first", "object": "trait", "deleted": True}
    assert await server.names() == ["second"]
    assert server.engine.loaded[2, 1].shape == (8,)


async def test_a_path_and_a_layer_may_be_named(server: Server) -> None:
    response = await server.load("mine", path="sub/third_response_avg_diff.pt", layer=1)
    assert response.status_code == 200
    assert response.json()["layer"] == 1
    assert (1, 0) in server.engine.loaded


async def test_nothing_outside_the_directories_is_read(server: Server, tmp_path: Path) -> None:
    outside = save(tmp_path.parent / f"{tmp_path.name}-outside", "secret")
    (tmp_path / "link.pt").symlink_to(outside)
    (tmp_path / "linked").symlink_to(outside.parent)
    for path in (
        f"../{outside.parent.name}/{outside.name}",
        str(outside),
        "link.pt",
        f"linked/{outside.name}",
        "sub/../../" + f"{outside.parent.name}/{outside.name}",
        "no-such.pt",
        "",
        ".",
    ):
        response = await server.load("secret", path=path)
        assert response.status_code == 400, path
        assert "is no file below the directories" in message(response)
    assert await server.names() == ["first"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"path": "short_response_avg_diff.pt"}, r"shape \[3, 8\], but tiny needs \[4, 8\]"),
        ({"path": "second_response_avg_diff.pt", "layer": 3}, "layer 3 is not tapped; tapped are 1, 2"),
        ({"path": "second_response_avg_diff.pt", "layer": "best"}, "no card that says which layer is best"),
        ({"path": "text.pt"}, "is not a plain tensor"),
    ],
)
async def test_a_vector_that_does_not_fit_is_a_400(
    server: Server, tmp_path: Path, body: dict[str, object], expected: str
) -> None:
    save(tmp_path, "short", layers=2)
    (tmp_path / "text.pt").write_text("hello")
    response = await server.load("new", **body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == 400
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(message(response))
    assert await server.names() == ["first"]


@pytest.mark.parametrize("name", ["a b", "-x", "x" * 65])
async def test_a_name_that_is_no_trait_name_is_refused(server: Server, name: str) -> None:
    response = await server.load(name, path="second_response_avg_diff.pt")
    assert response.status_code == 400
    assert "is not a trait name" in message(response)


@pytest.mark.parametrize("body", [{"layer": "top"}, {"unknown": 1}, {"path": 3}])
async def test_a_malformed_body_is_refused(server: Server, body: dict[str, object]) -> None:
    assert (await server.load("second", **body)).status_code == 422


async def test_a_trait_that_is_not_loaded_cannot_be_unloaded(server: Server) -> None:
    response = await server.unload("kindness")
    assert response.status_code == 404
    assert "loaded are: first" in message(response)


async def test_without_admin_both_are_refused(tmp_path: Path) -> None:
    server = Server(tmp_path, admin=False)
    for response in (await server.load("first"), await server.unload("first")):
        assert response.status_code == 403
        assert "--traits-admin" in message(response)
    assert await server.names() == ["first"]


async def test_a_request_keeps_the_column_that_it_started_with(server: Server) -> None:
    selection = select(True, server.monitor.traits, "off")
    assert selection is not None
    before = server.engine.loaded.get((2, 0))
    assert (await server.load("first", path="second_response_avg_diff.pt")).status_code == 200
    (old,), (new,) = selection.traits, server.monitor.traits.traits.values()
    assert (old.column, new.column) == (0, 1)
    assert server.engine.loaded.get((2, 0)) is before, "the column of a running request was overwritten"


async def test_a_column_is_free_when_the_last_request_that_holds_it_has_ended(server: Server) -> None:
    selection = select(True, server.monitor.traits, "off")
    assert selection is not None
    for _ in range(2):
        assert (await server.load("first")).status_code == 200
        select(True, server.monitor.traits, "off")
    columns = [trait.column for trait in server.monitor.traits.traits.values()]
    assert columns == [2]
    # A request holds column 0, and column 2 is in use. Only column 1 is free. Then no column is free.
    assert (await server.load("second")).status_code == 200
    response = await server.load("third", path="sub/third_response_avg_diff.pt")
    assert response.status_code == 409
    assert "all 3 columns of layer 2 are in use" in message(response)
    del selection
    gc.collect()
    assert (await server.load("third", path="sub/third_response_avg_diff.pt")).status_code == 200
    assert {t.name: t.column for t in server.monitor.traits.traits.values()} == {"first": 2, "second": 1, "third": 0}
