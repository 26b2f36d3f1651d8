"""A worker in a process of its own: it sends synthetic rows through the real `Sender`, as fast as they are read.

A process of its own, so that its work does not stop the event loop that is measured.
"""

import multiprocessing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

import numpy as np

from traitwatch_server.wire import ROW_HEAD

LAYER = 2
# Token ids of a prompt and of an answer: those of a large vocabulary, which Python does not keep as constants.
_FIRST_ID, _IDS = 1_000, 120_000


@dataclass(frozen=True)
class Work:
    """The rows of one choice.

    Attributes:
        key: the key of the call.
        req_id: vLLM's id of the request.
        prompt_len: tokens of the prompt.
        with_prompt: whether the rows of the prompt are sent too.
        tokens: tokens of the answer.
        spiky: whether the projections go up and down, so that there are as many spikes as there can be.
    """

    key: str
    req_id: str
    prompt_len: int
    with_prompt: bool
    tokens: int
    spiky: bool = False


def token_ids(count: int) -> list[int]:
    """Return the ids of a text of `count` tokens."""
    ids: list[int] = (_FIRST_ID + (np.arange(count) * 7919) % _IDS).tolist()
    return ids


def values(first: int, count: int, width: int, *, spiky: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the rows of positions `first` on: position, token id, and `width` projections with six digits and more."""
    positions = np.arange(first, first + count)
    rows = np.empty((count, ROW_HEAD + width), dtype=np.float32)
    rows[:, 0] = positions
    rows[:, 1] = _FIRST_ID + (positions * 7919) % _IDS
    waves = np.where(positions % 40 < 20, 9.0, -9.0) if spiky else np.sin(positions * 0.37) * 3.0
    rows[:, ROW_HEAD:] = waves[:, None] + np.random.default_rng(first).standard_normal((count, width)) / 7.0
    return rows


class Worker:
    """Starts and ends the process, and gives it work."""

    def __init__(self, api_process: str, endpoint: str, width: int, engine: int = 0):
        """Start the process and connect it.

        Args:
            api_process: the name of the API process in the keys.
            endpoint: the address of its receiver.
            width: columns of the tapped layer.
            engine: index of the engine.
        """
        self._one_at_a_time = Lock()
        context = multiprocessing.get_context("spawn")
        self._commands, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, api_process, endpoint, width, engine), daemon=True)
        self._process.start()
        # Where the process does not start, `recv` raises then.
        theirs.close()
        self._commands.recv()

    def send(self, work: Work) -> None:
        """Have the rows sent; return once they are queued."""
        with self._one_at_a_time:
            self._commands.send(work)
            self._commands.recv()

    def close(self) -> None:
        """End the process."""
        self._commands.send(None)
        self._process.join(30)


def _run(commands: Connection, api_process: str, endpoint: str, width: int, engine: int) -> None:
    import torch

    from traitwatch_server.wire import RowRun
    from traitwatch_server.worker.sender import Rows, Sender

    sender = Sender([LAYER], engine)
    sender.connect(api_process, endpoint)
    commands.send("ready")
    while (work := commands.recv()) is not None:
        first = 0 if work.with_prompt else work.prompt_len - 1
        count = work.prompt_len + work.tokens - 1 - first
        rows = torch.from_numpy(values(first, count, width, spiky=work.spiky))
        run = RowRun(work.key, work.req_id, work.prompt_len, count)
        sender.send(Rows([run], [width], rows, None))
        commands.send("queued")
    sender.close()
