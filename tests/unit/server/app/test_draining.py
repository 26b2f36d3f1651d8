"""A server that is ending waits for its running requests, and refuses new requests."""

import asyncio
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from traitwatch_server.app.draining import Draining, DrainingMiddleware
from traitwatch_server.app.handover import Launch
from traitwatch_server.app.plugin import TraitwatchPlugin
from traitwatch_server.launch.vllm_serve import parse_vllm_arguments
from traitwatch_server.settings import Settings


class Engine:
    """Aborts generations. An aborted generator ends."""

    def __init__(self) -> None:
        self.aborted: list[str] = []
        self.running = ExitStack()

    async def abort(self, ids: list[str]) -> None:
        self.aborted += ids
        self.running.close()


async def test_an_idle_server_ends_at_once_and_takes_nothing_more() -> None:
    draining, engine = Draining(600), Engine()
    await asyncio.wait_for(draining.drain(engine.abort), 30)
    assert draining.begun
    assert engine.aborted == []


async def test_the_end_waits_for_requests_and_for_generations_without_one() -> None:
    draining, engine = Draining(600), Engine()
    with draining.generation("background"):
        with draining.request(), draining.generation("a"):
            ending = asyncio.create_task(draining.drain(engine.abort))
            await asyncio.sleep(0.01)
            assert draining.begun
            assert not ending.done()
        await asyncio.sleep(0.01)
        assert not ending.done()
    await asyncio.wait_for(ending, 30)
    assert engine.aborted == []


async def test_two_generations_of_one_id_are_two() -> None:
    draining, engine = Draining(600), Engine()
    with draining.generation("a"):
        with draining.generation("a"):
            pass
        ending = asyncio.create_task(draining.drain(engine.abort))
        await asyncio.sleep(0.01)
        assert not ending.done()
    await asyncio.wait_for(ending, 30)


async def test_a_generation_that_takes_too_long_is_aborted() -> None:
    draining, engine = Draining(0.05), Engine()
    engine.running.enter_context(draining.request())
    engine.running.enter_context(draining.generation("slow"))
    began = time.monotonic()
    await asyncio.wait_for(draining.drain(engine.abort), 30)
    assert time.monotonic() - began >= 0.05
    assert engine.aborted == ["slow"]


async def test_an_interrupt_aborts_at_once() -> None:
    draining, engine = Draining(600), Engine()
    engine.running.enter_context(draining.generation("slow"))
    ending = asyncio.create_task(draining.drain(engine.abort))
    await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(ending, 30)
    assert engine.aborted == ["slow"]


async def test_a_server_that_is_ending_refuses_work_and_health_and_still_serves_its_metrics() -> None:
    draining = Draining(600)

    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("fine")

    paths = ["/health", "/metrics", "/v1/completions", "/v1/messages"]
    app = Starlette(routes=[Route(path, answer, methods=["GET", "POST"]) for path in paths])
    transport = httpx.ASGITransport(DrainingMiddleware(app, lambda: draining))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        assert (await client.post("/v1/completions")).text == "fine"
        assert (await client.get("/health")).text == "fine"
        await draining.drain(Engine().abort)
        refused = await client.post("/v1/completions")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == 503
        assert refused.headers["connection"] == "close"
        error = (await client.post("/v1/messages")).json()
        assert (error["type"], error["error"]["type"]) == ("error", "overloaded_error")
        assert (await client.get("/health")).status_code == 503
        assert (await client.get("/metrics")).text == "fine"


@pytest.mark.parametrize("path", ["/v1/traits", "/v1/spikes", "/metrics", "/health", "/v1/chat/completions"])
async def test_a_request_before_the_server_is_up_is_told_to_come_back(path: str) -> None:
    args = parse_vllm_arguments(["model"])
    Launch(Settings(directories=()), Path()).leave_in(args)
    app = FastAPI()
    app.state.args = args
    TraitwatchPlugin().attach_router(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        for method in ("GET", "POST"):
            early = await client.request(method, path)
            assert early.status_code == 503
            assert early.json()["error"]["message"] == "The server is starting; ask again later."
            assert early.headers["retry-after"] == "5"
