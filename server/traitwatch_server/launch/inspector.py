"""Runs the inspector beside the server (`serve --ui`), where the inspector can reach the server."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

import click
from starlette.types import Scope

from traitwatch.cache import cache_directory
from traitwatch.network import http_address
from traitwatch.processes import inspector
from traitwatch.vllm_private.api_process import api_keys
from traitwatch_server.errors import ConfigError
from traitwatch_server.responses.paths import route_path

_START_IT = "Leave out --ui, and start the inspector by itself:"


@contextmanager
def inspector_beside(args: Namespace, port: int, admin_key: str | None) -> Iterator[None]:
    """Run the inspector of the server that `args` will start, while the context lasts.

    Args:
        args: the parsed arguments of `serve`.
        port: the port of the inspector.
        admin_key: the admin key of the server.

    Raises:
        ConfigError: the inspector could not reach the server.
    """
    address = server_address(args)
    if port == args.port:
        raise ConfigError(f"--ui-port {port} is the port of the server too; give the inspector another one.")
    api_key = next(iter(api_keys(args)), None)
    log = cache_directory() / f"inspector-{port}.log"
    with inspector([address], port, log, api_key=api_key, admin_key=admin_key) as page:
        click.echo(f"Inspector: {page} (log: {log})")
        yield


def server_address(args: Namespace) -> str:
    """Return the address at which this machine reaches the server that `args` will start.

    Raises:
        ConfigError: the inspector cannot reach it.
    """
    if args.uds:
        raise ConfigError(
            f"--ui with --uds {args.uds}: the inspector reaches servers over TCP alone; leave out --ui or --uds."
        )
    if args.ssl_certfile or args.ssl_keyfile:
        raise ConfigError(
            "--ui with --ssl-certfile: the certificate is for a name that --ui does not know. "
            f"{_START_IT} SSL_CERT_FILE=CA.pem traitwatch ui --url https://NAME:{args.port}"
        )
    scope: Scope = {"path": "/v1/traits", "root_path": args.root_path or ""}
    if route_path(scope) != scope["path"]:
        raise ConfigError(
            f"--ui with --root-path {args.root_path}: the server takes /v1 for the root path, so that /v1/traits is "
            "not found; give a root path that /v1/traits does not begin with, or leave out --ui."
        )
    # A server that listens on all addresses of a kind listens on the loopback address of that kind too.
    host = {None: "127.0.0.1", "": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(args.host, args.host)
    return http_address(host, args.port)
