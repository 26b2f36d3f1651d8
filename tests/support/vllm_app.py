"""vLLM's real application with our plugin, built as `serve` builds it, but without an engine."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from vllm.entrypoints.launchers.app import build_app

from traitwatch_server.app.handover import Launch
from traitwatch_server.launch.vllm_serve import parse_vllm_arguments
from traitwatch_server.settings import Settings


def vllm_app(plugins: str = "traitwatch", arguments: Sequence[str] = (), **settings: Any) -> FastAPI:
    """Return the application for a model that generates.

    Args:
        plugins: the plugins of vLLM; empty for none.
        arguments: options of `vllm serve`.
        settings: fields of our `Settings`.
    """
    args = parse_vllm_arguments(["model", *arguments])
    Launch(Settings(directories=(), **settings), Path()).leave_in(args)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("VLLM_PLUGINS", plugins)
        level = logging.root.level
        app = build_app(args, ("generate",))
        # Building the app raises the level of the root logger. This would hide warnings that other tests look for.
        logging.root.setLevel(level)
        return app
