"""`traitwatch demo`: serves the embedded model and shows two real chats, token by token.

The command starts the server with `traitwatch serve`, as a user does, and talks to it over HTTP like any client.
"""

import os
import secrets
import signal
from pathlib import Path

import click
import httpx
import openai
from rich.console import Console
from rich.table import Table
from rich.text import Text

from traitwatch.cache import cache_directory
from traitwatch.errors import TraitwatchError
from traitwatch.network import client_options
from traitwatch.processes import free_port, inspector
from traitwatch.spikes import FULL_COLOUR_Z
from traitwatch_dashboards.demo.server import (
    DEMO_MODEL_NAME,
    DEMO_TRAIT,
    choose_port,
    demo_server,
    new_console,
    prepare_embedded_model,
    scored_choice,
)
from traitwatch_dashboards.example_chats import CHATS

# Blue is below the neutral baseline, red is above it.
_LOW, _NEUTRAL, _HIGH = (33, 102, 172), (60, 60, 60), (178, 24, 43)


@click.command()
@click.option("--once", is_flag=True, help="End after the table; exit status 0 only if both answers were fully scored.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to serve on.  [default: 8000, or a free one where that is taken]",
)
@click.option("--compile/--eager", "compiled", default=False, help="Serve with torch.compile: slower to start.")
def demo(*, once: bool, port: int | None, compiled: bool) -> None:
    """Serve the embedded model with the shipped paternalism vector and show two chats.

    Both chats end in the same question. The replies before it are paternalistic in one chat and respectful in the
    other. Each token of an answer has the colour of its z: how many standard deviations its projection lies above (red)
    or below (blue) the mean of neutral chats. The server goes on until Ctrl-C.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = new_console()
    port = choose_port(port)
    model = prepare_embedded_model()
    log = cache_directory() / f"demo-server-{port}.log"
    admin_key = os.environ.get("TRAITWATCH_ADMIN_KEY") or secrets.token_hex(32)
    shown = False
    try:
        with demo_server(console, model, port, log, compiled=compiled, admin_key=admin_key) as url:
            scored = _show_chats(console, url)
            _show_addresses(console, url, log)
            if not once:
                inspector_log = log.with_name(f"demo-inspector-{port}.log")
                with inspector([url], free_port(7860), inspector_log, admin_key=admin_key) as page:
                    console.print(f"Inspector    {page}   (open it in a browser)")
                    console.print("Serving until Ctrl-C.")
                    shown = True
                    signal.pause()
    except KeyboardInterrupt:
        console.print("\nStopped.")
        raise click.exceptions.Exit(0 if shown else 1) from None
    except (TraitwatchError, openai.OpenAIError, httpx.HTTPError) as error:
        raise click.ClickException(f"{error} (the server's log: {log})") from error
    if not scored:
        raise click.ClickException(f"an answer came back without all of its scores; the server's log: {log}")


def _show_chats(console: Console, url: str) -> bool:
    """Send both chats, print the answers and the table; return whether both answers were fully scored."""
    listing = httpx.get(f"{url}/v1/traits", timeout=30, **client_options(url))
    listed = {trait["id"]: trait for trait in listing.json()["data"]}
    baseline = listed[DEMO_TRAIT]["calibration"]
    table = Table(title=f"{DEMO_TRAIT}, layer {listed[DEMO_TRAIT]['layer']}")
    for column in ("chat", "tokens", "mean", "z", "max z", "spikes"):
        table.add_column(column, justify="left" if column == "chat" else "right")
    complete = True
    console.print(_legend())
    for title, messages in CHATS.items():
        choice = scored_choice(url, messages, DEMO_TRAIT)
        complete &= choice.traits_complete
        scores = choice.traits[DEMO_TRAIT]
        console.print(f"\n[bold]{title}[/bold]: {messages[-1]['content']}")
        console.print(_coloured([t.token for t in choice.logprobs.content], scores["tokens"], baseline))
        numbers = [f"{scores[field]:.2f}" if scores[field] is not None else "-" for field in ("mean", "z", "max_z")]
        table.add_row(title, str(len(scores["tokens"])), *numbers, str(len(scores["spikes"])))
    console.print()
    console.print(table)
    return complete


def _coloured(tokens: list[str], projections: list[float | None], baseline: dict[str, float]) -> Text:
    """Return the text of the tokens, each on the colour of its z; a token without a state has none."""
    text = Text()
    for token, projection in zip(tokens, projections, strict=True):
        if projection is None:
            text.append("" if token.startswith("<|") else token)
        else:
            text.append(token, style=_style((projection - baseline["mean"]) / baseline["std"]))
    return text


def _style(z: float) -> str:
    share = min(1.0, abs(z) / FULL_COLOUR_Z)
    towards = _HIGH if z > 0 else _LOW
    red, green, blue = (round(n + share * (t - n)) for n, t in zip(_NEUTRAL, towards, strict=True))
    return f"white on rgb({red},{green},{blue})"


def _legend() -> Text:
    text = Text("z: ")
    for z in (-4, -3, -2, -1, 0, 1, 2, 3, 4):
        text.append(f" {z:+d} ", style=_style(z))
    return text


def _show_addresses(console: Console, url: str, log: Path) -> None:
    console.print(f"\nOpenAI API   {url}/v1   (model {DEMO_MODEL_NAME!r}; any key)")
    console.print(f"Traits       {url}/v1/traits")
    console.print(f"Metrics      {url}/metrics")
    console.print(f"Server log   {log}")
