"""Environments of unit tests. Those that use the real SDKs have local servers and no credentials of the user."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.claude import Serve
from tests.support.wire import anthropic as wire
from tests.support.wire.http import Reply, WireServer, wire_server
from traitwatch_builder.clients import claude
from traitwatch_server.recording import background


@pytest.fixture(autouse=True)
def patient_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a write at the end take the time that it needs, since this machine may stand still for seconds."""
    monkeypatch.setattr(background, "_CLOSE_TIMEOUT", 60.0)


@pytest.fixture(autouse=True)
def own_loggers() -> Iterator[None]:
    """Take back what a test did to our loggers: `log_with_vllm` gives them the handlers that vLLM's logger has then.

    pytest's own handler is among those, and every later record would be captured twice.
    """
    loggers = [logging.getLogger(name) for name in ("traitwatch", "traitwatch_server")]
    before = [(list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.level = handlers, level


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set only the test's credentials, no wait between tries, and a cache of the test."""
    for name in ("ANTHROPIC_AUTH_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAITWATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(claude, "_STREAM_WAIT", 0.0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def serve(apart: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a stand-in for Claude's server that sends these replies in turn, and point the SDK at it."""
    with ExitStack() as stack:

        def start(*replies: Reply) -> WireServer:
            server = stack.enter_context(wire_server(wire.scripted(*replies)))
            monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
            return server

        yield start


@pytest.fixture
def without_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
