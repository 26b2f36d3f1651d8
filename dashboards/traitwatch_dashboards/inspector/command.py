"""`traitwatch ui`: starts the inspector of one or more Traitwatch servers."""

import logging
import os
from contextlib import suppress

import click

from traitwatch.errors import TraitwatchError
from traitwatch.network import checked_key, checked_url, client_options, http_address, usable_environment
from traitwatch_dashboards.errors import DashboardError


@click.command()
@click.option(
    "--url",
    "urls",
    multiple=True,
    default=("http://127.0.0.1:8000",),
    show_default=True,
    help="Address of a Traitwatch server. Give it again for each further server; the page speaks to no others.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Port to listen on.")
@click.option(
    "--auth", metavar="USER:PASSWORD", envvar="TRAITWATCH_UI_AUTH", show_envvar=True, help="Ask for this login."
)
@click.option(
    "--root-path",
    metavar="PATH",
    help="The path under which a proxy serves the page, such as /inspector. If the proxy changes the header Host, give "
    "the page's whole address.",
)
@click.option(
    "--api-key",
    "keys",
    multiple=True,
    envvar="TRAITWATCH_API_KEY",
    show_envvar=True,
    help="API key of the servers; several keys in the order of --url. The browser does not get them.",
)
@click.option(
    "--admin-key",
    "admin_keys",
    multiple=True,
    envvar="TRAITWATCH_ADMIN_KEY",
    show_envvar=True,
    help="Admin key of the servers, as with --api-key. With it, everybody who reaches the page sees the latest spikes. "
    "Everybody on the machine can see a key on the command line: the environment variable hides it.",
)
def ui(
    *,
    urls: tuple[str, ...],
    host: str,
    port: int,
    auth: str | None,
    root_path: str | None,
    keys: tuple[str, ...],
    admin_keys: tuple[str, ...],
) -> None:
    """Show a server's traits in a browser: chat, compare, inspect, and its traffic.

    The page talks to the server's HTTP API alone, so it can run anywhere that reaches the server.
    """
    try:
        with usable_environment():
            import gradio  # noqa: F401
        import plotly  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise click.ClickException(f"{error.name} is missing; install it with: pip install 'traitwatch[ui]'") from None
    except Exception as error:
        # Gradio reads the environment when it is imported.
        raise click.ClickException(
            f"Gradio, which shows the page, cannot be loaded: {type(error).__name__}: {error}. Look at the environment "
            "variables GRADIO_*, SSL_CERT_FILE and SSL_CERT_DIR."
        ) from error
    import uvicorn

    from traitwatch.processes import check_port
    from traitwatch_dashboards.inspector.api.client import Server
    from traitwatch_dashboards.inspector.app import application

    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        servers = [
            Server(*given)
            for given in zip(checked(urls), keys_of(urls, keys), keys_of(urls, admin_keys, "admin"), strict=True)
        ]
        here = host in ("127.0.0.1", "localhost", "::1")
        if admin_keys and auth is None and not here:
            raise DashboardError(
                f"--host {host} with an admin key and without --auth: everybody who reaches the port would read the "
                "spikes of all clients. Give --auth (TRAITWATCH_UI_AUTH), or no admin key."
            )
        app = application(servers, auth=login(auth), root_path=root_path)
        check_port(host, port)
    except TraitwatchError as error:
        raise click.ClickException(str(error)) from error
    if auth is None and not here:
        click.echo("Anyone who reaches this port can use the server with your key: consider --auth.", err=True)
    click.echo(f"Inspector of {', '.join(server.url for server in servers)}: {http_address(host, port)}")
    # Ctrl-C is the usual end of the page, not a failure.
    with suppress(KeyboardInterrupt):
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)


def checked(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Return the addresses.

    Raises:
        NetworkError: one is not an address, or no request to it can be made with the proxies of the environment.
    """
    for url in urls:
        client_options(checked_url(url, "--url"))
    return tuple(url.strip() for url in urls)


def keys_of(urls: tuple[str, ...], keys: tuple[str, ...], kind: str = "API") -> list[str | None]:
    """Return the key of each address: one key for all, or one key each.

    Args:
        urls: the addresses.
        keys: the keys.
        kind: what the keys are, `API` or `admin`, for the error.

    Raises:
        DashboardError: there are more keys than one, and not one for each address.
        NetworkError: a key has a character that no key has.
    """
    source = f"--{kind.lower()}-key, or TRAITWATCH_{kind.upper()}_KEY,"
    keys = tuple(checked_key(key, source) for key in keys)
    if len(keys) <= 1:
        return [keys[0] if keys else None] * len(urls)
    if len(keys) != len(urls):
        raise DashboardError(f"{len(keys)} {kind} keys for {len(urls)} servers; give one for all, or one each.")
    return list(keys)


def login(auth: str | None) -> tuple[str, str] | None:
    """Return user and password; raise `DashboardError` where `auth` is not USER:PASSWORD."""
    if auth is None:
        return None
    user, colon, password = auth.partition(":")
    if not user or not password or not colon:
        raise DashboardError("--auth must be USER:PASSWORD.")
    return user, password
