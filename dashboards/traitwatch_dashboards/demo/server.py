"""The server of the demonstrations: the embedded model with the shipped vectors, started with `traitwatch serve`."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import openai
from rich.console import Console

from traitwatch.cpu_engine import ONE_PROCESS
from traitwatch.network import client_options
from traitwatch.precision import default_vllm_dtype
from traitwatch.processes import check_port, free_port, running, traitwatch_command
from traitwatch.vectors import SHIPPED
from traitwatch_dashboards.example_chats import Chat

DEMO_MODEL_NAME = "SmolLM2-135M-Instruct"
DEMO_TRAIT = "paternalism"
_START_TIMEOUT = 900.0


def prepare_embedded_model() -> Path:
    """Return the path of the embedded model; the first call prepares the model."""
    prepared = subprocess.run(traitwatch_command("model"), stdout=subprocess.PIPE, check=False)
    if prepared.returncode != 0:
        raise click.ClickException("the embedded model could not be prepared (see above).")
    return Path(os.fsdecode(prepared.stdout.strip()))


def choose_port(port: int | None) -> int:
    """Return the given port; without one, 8000, or a free port where 8000 is taken.

    Raises:
        ProcessError: the given port is taken.
    """
    if port is None:
        return free_port(8000)
    check_port("127.0.0.1", port)
    return port


def new_console() -> Console:
    """Return a console on the standard output. An output that is no terminal, or that is closed, has 110 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


@contextmanager
def demo_server(
    console: Console, model: Path, port: int, log: Path, *, compiled: bool, admin_key: str | None = None
) -> Iterator[str]:
    """Serve a model with its shipped vectors, and yield the address when the server answers. Then end the server.

    Args:
        console: shows the progress.
        model: the model.
        port: the port of 127.0.0.1 to serve on.
        log: the file that takes the server's output.
        compiled: whether to serve with torch.compile.
        admin_key: the admin key of the server; None for that of the environment, if there is one.

    Raises:
        ProcessError: it did not start.
    """
    url = f"http://127.0.0.1:{port}"
    vectors = SHIPPED / model.name
    command = traitwatch_command("serve", str(model), "--traits", str(vectors), "--served-model-name", DEMO_MODEL_NAME)
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048", "--dtype", default_vllm_dtype()]
    if not compiled:
        command.append("--enforce-eager")
    started = time.monotonic()
    with ExitStack() as stack:
        with console.status("") as status:

            def waiting(seconds: float) -> None:
                status.update(f"Starting vLLM on {model.name} ({seconds:.0f} s; some 30 s on two CPU cores)")

            server = running(
                "the server",
                command,
                log,
                ready=f"{url}/health",
                timeout=_START_TIMEOUT,
                environment=_environment() | ({} if admin_key is None else {"TRAITWATCH_ADMIN_KEY": admin_key}),
                waiting=waiting,
            )
            stack.enter_context(server)
        console.print(f"Serving {model.name} with its shipped vectors after {time.monotonic() - started:.0f} s.")
        yield url


def scored_choice(url: str, messages: Chat, trait: str, *, seed: int | None = None) -> Any:
    """Continue a chat on the server of a demonstration.

    Args:
        url: address of the server.
        messages: the chat so far.
        trait: the trait whose scores the answer gets.
        seed: seed of the sampling; None for a random one.

    Returns:
        The choice, in the type of the `openai` package, with the text of each token and with `traits`.
    """
    http = openai.DefaultHttpxClient(**client_options(url))
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, http_client=http)
    answer = client.chat.completions.create(
        model=DEMO_MODEL_NAME,
        messages=messages,  # type: ignore[arg-type]
        max_tokens=120,
        temperature=0.7,
        top_p=0.9,
        seed=seed,
        logprobs=True,
        extra_body={"traits": {"include": [trait]}},
    )
    return answer.choices[0]


def _environment() -> dict[str, str]:
    """Return the environment of the server: offline, and small enough for a laptop. The user's environment wins.

    Only an API key of the environment is left out: the server is on 127.0.0.1, and nobody here has that key.
    """
    user = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return {**offline, "VLLM_CPU_KVCACHE_SPACE": "1", **ONE_PROCESS, **user}
