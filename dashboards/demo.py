"""`traitwatch demo`: serves the embedded model and shows two real chats, token by token.

It starts the server as a user would, with our own command, and then speaks HTTP to it like any client.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import openai
import platformdirs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dashboards.demo_chats import CHATS
from dashboards.errors import DashboardError

TRAIT = "paternalism"
SERVED_NAME = "SmolLM2-135M-Instruct"
_START_TIMEOUT = 900.0
_STOP_TIMEOUT = 30.0
# z at which the colour is full. Blue is below the neutral baseline, red above it.
_FULL_COLOUR_Z = 3.0
_LOW, _NEUTRAL, _HIGH = (33, 102, 172), (60, 60, 60), (178, 24, 43)


@click.command()
@click.option("--once", is_flag=True, help="End after the table; exit status 0 only if both answers were fully scored.")
@click.option("--port", type=int, help="Port to serve on.  [default: 8000, or a free one where that is taken]")
@click.option("--compile/--eager", "compiled", default=False, help="Serve with torch.compile: slower to start.")
def demo(*, once: bool, port: int | None, compiled: bool) -> None:
    """Serve the embedded model with the shipped paternalism vector and show two chats.

    Both chats end in the same question; in one the replies so far were paternalistic, in the other respectful. Each
    token of the answers is coloured by its z: how many standard deviations its projection lies above (red) or below
    (blue) that of neutral chats. The server goes on until Ctrl-C.
    """
    console = Console(width=None if sys.stdout.isatty() else 110)
    model = _embedded_model()
    port = port or _port()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log = Path(platformdirs.user_cache_dir("traitwatch")) / f"demo-server-{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _server(console, model, port, log, compiled=compiled) as url:
            scored = _show_chats(console, url)
            _show_addresses(console, url, log)
            if not once:
                console.print("Serving until Ctrl-C.")
                signal.pause()
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return
    except (DashboardError, openai.OpenAIError, httpx.HTTPError) as error:
        raise click.ClickException(f"{error} (the server's log: {log})") from error
    if not scored:
        raise click.ClickException(f"an answer came back without all of its scores; the server's log: {log}")


def _embedded_model() -> Path:
    """Return the path of the embedded model, which is prepared where this is its first use."""
    made = subprocess.run([*_traitwatch(), "model"], stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode != 0:
        raise click.ClickException("the embedded model could not be prepared (see above).")
    return Path(made.stdout.strip())


def _traitwatch() -> list[str]:
    return [sys.executable, "-m", "traitwatch"]


@contextmanager
def _server(console: Console, model: Path, port: int, log: Path, *, compiled: bool) -> Iterator[str]:
    """Run a server; yield its address when it answers; end it by its own pid."""
    url = f"http://127.0.0.1:{port}"
    vectors = Path(__file__).parents[1] / "builder" / "data" / model.name
    command = [*_traitwatch(), "serve", str(model), "--traits", str(vectors), "--served-model-name", SERVED_NAME]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048"]
    if not compiled:
        command.append("--enforce-eager")
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches us alone, and we end the server in order.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=_environment(), start_new_session=True
        )
    try:
        with console.status("") as status:
            started = time.monotonic()
            while not _answers(url):
                seconds = time.monotonic() - started
                if process.poll() is not None or seconds > _START_TIMEOUT:
                    raise DashboardError(f"the server did not start:\n{_tail(log)}")
                status.update(f"Starting vLLM on {model.name} ({seconds:.0f} s; some 40 s on two CPU cores)")
                time.sleep(0.5)
        console.print(f"Serving {model.name} with the vector of {TRAIT} after {time.monotonic() - started:.0f} s.")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    """Return the environment of the server: offline, and a KV cache that fits a laptop, unless told otherwise."""
    return {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ}


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _show_chats(console: Console, url: str) -> bool:
    """Send both chats, print the answers and the table; tell whether all of it was scored."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300)
    listed = {trait["id"]: trait for trait in httpx.get(f"{url}/v1/traits", timeout=30).json()["data"]}
    baseline = listed[TRAIT]["calibration"]
    table = Table(title=f"{TRAIT}, layer {listed[TRAIT]['layer']}")
    for column in ("chat", "tokens", "mean", "z", "max z", "spikes"):
        table.add_column(column, justify="left" if column == "chat" else "right")
    complete = True
    console.print(_legend())
    for title, messages in CHATS.items():
        answer: Any = client.chat.completions.create(
            model=SERVED_NAME,
            messages=messages,  # type: ignore[arg-type]
            max_tokens=120,
            temperature=0.7,
            top_p=0.9,
            logprobs=True,
            extra_body={"traits": {"include": [TRAIT]}},
        )
        choice = answer.choices[0]
        complete &= choice.traits_complete
        scores = choice.traits[TRAIT]
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
    share = min(1.0, abs(z) / _FULL_COLOUR_Z)
    towards = _HIGH if z > 0 else _LOW
    red, green, blue = (round(n + share * (t - n)) for n, t in zip(_NEUTRAL, towards, strict=True))
    return f"white on rgb({red},{green},{blue})"


def _legend() -> Text:
    text = Text("z: ")
    for z in (-3, -2, -1, 0, 1, 2, 3):
        text.append(f" {z:+d} ", style=_style(z))
    return text


def _show_addresses(console: Console, url: str, log: Path) -> None:
    console.print(f"\nOpenAI API   {url}/v1   (model {SERVED_NAME!r}; any key)")
    console.print(f"Traits       {url}/v1/traits")
    console.print(f"Metrics      {url}/metrics")
    console.print(f"Server log   {log}")


def _port() -> int:
    """Return 8000, or a free port where that is taken."""
    for port in (8000, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise DashboardError("no free port on 127.0.0.1.")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
