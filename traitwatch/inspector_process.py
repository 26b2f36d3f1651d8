"""Runs the inspector in a process of its own, for commands that serve and show at once."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from traitwatch.dashboard_processes import running

_START_TIMEOUT = 120.0


@contextmanager
def inspector(
    urls: list[str],
    port: int,
    log: Path,
    *,
    host: str = "127.0.0.1",
    api_key: str | None = None,
    auth: str | None = None,
    root_path: str | None = None,
    waiting: Callable[[float], None] = lambda seconds: None,
) -> Iterator[str]:
    """Run the inspector while the context lasts; yield its address when it answers.

    Args:
        urls: addresses of the servers that it shows; they need not answer yet.
        port: where it listens.
        log: where its output goes.
        host: where it listens.
        api_key: of the servers. It goes through the environment, where other users of the machine do not see it.
        auth: `user:password` that it asks for.
        root_path: the path under which a proxy serves it.
        waiting: is told from time to time for how many seconds it has been waited.

    Raises:
        DashboardError: it did not start.
    """
    command = [sys.executable, "-m", "traitwatch_dashboards.inspector", "--host", host, "--port", str(port)]
    for url in urls:
        command += ["--url", url]
    if root_path is not None:
        command += ["--root-path", root_path]
    environment = dict(os.environ)
    environment.pop("TRAITWATCH_API_KEY", None)
    environment.pop("TRAITWATCH_UI_AUTH", None)
    if api_key is not None:
        environment["TRAITWATCH_API_KEY"] = api_key
    if auth is not None:
        environment["TRAITWATCH_UI_AUTH"] = auth
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    with running(
        "the inspector",
        command,
        log,
        ready=f"{address}/traitwatch/health",
        timeout=_START_TIMEOUT,
        environment=environment,
        waiting=waiting,
    ):
        yield address
