"""`traitwatch demo-alerts`: shows that an alert about paternalism arrives at a webhook, and that it is resolved.

All parts are real. A server scores a (small) model, Prometheus evaluates the shipped rules, and Alertmanager posts to a
webhook of this process. Only the time is shorter: every duration of the rules is divided by 60, so that an hour is a
minute.
"""

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import httpx
import openai
from rich.console import Console

from traitwatch.cache import cache_directory
from traitwatch.errors import TraitwatchError
from traitwatch.network import client_options
from traitwatch_dashboards.demo.alert_chats import burst_chats, ordinary_chats
from traitwatch_dashboards.demo.monitoring import find_programs, monitoring
from traitwatch_dashboards.demo.server import (
    DEMO_MODEL_NAME,
    DEMO_TRAIT,
    choose_port,
    demo_server,
    new_console,
    prepare_embedded_model,
)
from traitwatch_dashboards.demo.webhook import Notice, Webhook, webhook_receiver
from traitwatch_dashboards.example_chats import Chat

ALERT = "TraitSpikesFast"
SPEED_UP = 60
_ORDINARY, _BURST = 40, 32
_AT_ONCE = 32
_MAX_TOKENS = 60
# Seconds from the beginning of the burst to the alert, and from the alert to its resolution.
_ALERT_TIMEOUT, _RESOLUTION_TIMEOUT = 60.0, 180.0


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to serve on.  [default: 8000, or a free one where that is taken]",
)
@click.option("--compile/--eager", "compiled", default=False, help="Serve with torch.compile: slower to start.")
def demo_alerts(*, port: int | None, compiled: bool) -> None:
    """Serve the embedded model, talk it into paternalism, and show the alert arriving at a webhook.

    Prometheus and Alertmanager (Debian packages prometheus and prometheus-alertmanager) run with the shipped rules, in
    which an hour is a minute here. Exit status 0 only if the alert came within a minute, and was resolved afterwards.
    """
    console = new_console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        find_programs()
    except TraitwatchError as error:
        raise click.ClickException(str(error)) from error
    port = choose_port(port)
    model = prepare_embedded_model()
    directory = Path(tempfile.mkdtemp(prefix="alerts-", dir=cache_directory()))
    try:
        with (
            demo_server(console, model, port, directory / "server.log", compiled=compiled) as url,
            webhook_receiver() as webhook,
            monitoring([url], webhook.url, directory / "monitoring", speed_up=SPEED_UP) as running,
        ):
            console.print(
                f"Prometheus at {running.prometheus} scrapes it every second; an hour of the rules is a minute."
            )
            console.print(f"Alertmanager at {running.alertmanager} posts to a webhook in this terminal.\n")
            came, resolved = _show(console, url, webhook)
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        console.print("\nStopped.")
        raise click.exceptions.Exit(1) from None
    except (TraitwatchError, openai.OpenAIError, httpx.HTTPError) as error:
        raise click.ClickException(f"{error} (logs: {directory})") from error
    if not came or not resolved:
        missing = "resolved" if came else f"at the webhook within {_ALERT_TIMEOUT:.0f} s of the burst"
        raise click.ClickException(f"the alert was not {missing}; logs: {directory}")
    console.print(f"\nThe alert came and went. Logs: {directory}")


def _show(console: Console, url: str, webhook: Webhook) -> tuple[bool, bool]:
    """Send the chats and print the notices that arrive; return whether the alert came, and whether it was resolved."""
    console.print(f"{_ORDINARY} ordinary chats ...")
    _send(url, ordinary_chats(_ORDINARY))
    early = len(webhook.notices())
    console.print(f"... answered; {early or 'no'} alerts.\n")
    console.print(f"{_BURST} chats after paternalistic replies ...")
    began = time.monotonic()
    _send(url, burst_chats(_BURST))
    console.print(f"... answered after {time.monotonic() - began:.0f} s.\n")
    firing = webhook.wait_for(lambda n: _is_it(n, "firing"), began + _ALERT_TIMEOUT - time.monotonic())
    if firing is None:
        return False, False
    _show_notice(console, firing, "bold red", f"{firing.received - began:.0f} s after the burst began")
    console.print(f"\n{_ORDINARY} ordinary chats ...")
    _send(url, ordinary_chats(_ORDINARY))
    console.print("... answered.\n")
    resolved = webhook.wait_for(lambda n: _is_it(n, "resolved"), _RESOLUTION_TIMEOUT)
    if resolved is not None:
        _show_notice(console, resolved, "bold green", f"{resolved.received - firing.received:.0f} s after the alert")
    for other in webhook.notices():
        if other not in (firing, resolved):
            _show_notice(console, other, "bold", f"{other.received - began:.0f} s after the burst began")
    return True, resolved is not None


def _is_it(notice: Notice, status: str) -> bool:
    return (notice.name, notice.labels.get("trait"), notice.status) == (ALERT, DEMO_TRAIT, status)


def _show_notice(console: Console, notice: Notice, style: str, when: str) -> None:
    console.print(f"[{style}]{notice.status.upper()}[/] {notice.name}, severity {notice.labels['severity']}, {when}")
    for annotation in ("summary", "description", "runbook_url"):
        console.print(f"    {notice.annotations[annotation]}", highlight=False)


def _send(url: str, chats: Sequence[Chat]) -> None:
    """Send chats, up to `_AT_ONCE` at a time, and wait for the answers."""
    asyncio.run(_answers(url, chats))


async def _answers(url: str, chats: Sequence[Chat]) -> None:
    at_once = asyncio.Semaphore(_AT_ONCE)
    http = openai.DefaultAsyncHttpxClient(**client_options(url))
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=0, http_client=http
    ) as client:

        async def answer(messages: Chat) -> None:
            async with at_once:
                await client.chat.completions.create(
                    model=DEMO_MODEL_NAME,
                    messages=messages,  # type: ignore[arg-type]
                    max_tokens=_MAX_TOKENS,
                    temperature=0.7,
                    top_p=0.9,
                )

        await asyncio.gather(*(answer(messages) for messages in chats))
