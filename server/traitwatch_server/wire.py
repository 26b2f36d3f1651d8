"""What launcher, worker and API process share: keys, the frame of rows, and versions. This module imports no torch.

A frame names the rows of the requests that asked to be scored and carries their projections as raw float32. A request
is named by a key that its API process made up (`<api process>:<random>`). So a frame finds its response even when two
clients send the same request id, and it goes only to the API process that waits for it. Every row brings its own
position and the id of the token that was its input, as the device knew them: a response is credited only with rows
whose tokens are its own.
"""

import uuid

import msgspec

# The name of our entry in vLLM's additional_config.
CONFIG_KEY = "traitwatch"
# Part of vLLM's compile cache key, through additional_config. Raise this number whenever the traced code or the frame
# changes: a worker refuses the configuration of another version.
TAP_VERSION = 3
# Name of a request's key in sampling_params.extra_args, which reach the worker.
REQUEST_KEY = "traitwatch"
# Name beside it: true where the rows of the prompt are wanted too.
PROMPT_KEY = "traitwatch_prompt"
# Values before the projections in a row: its position and its token id, which are exact in float32 up to 2**24.
ROW_HEAD = 2
# The token id of a prompt's row where the prompt has no token ids, but embeddings.
UNKNOWN_TOKEN = -2
# Frames that may wait on each side of a socket: the frames of some ten seconds.
HIGH_WATER_MARK = 1_000


class RowRun(msgspec.Struct, array_like=True, frozen=True):
    """A run of rows of one request.

    Attributes:
        key: the key that the API process gave the request.
        req_id: vLLM's id of the request; tells which of the response's choices it is.
        prompt_len: tokens of its prompt.
        count: number of rows.
    """

    key: str
    req_id: str
    prompt_len: int
    count: int


class RowFrame(msgspec.Struct, array_like=True, frozen=True):
    """The rows of one forward pass. A frame without rows is a notice: it brings the numbers of losses, and the weights.

    Attributes:
        layers: the tapped layers of the worker that sends, ascending.
        widths: columns of each of them.
        runs: what the rows are, in their order.
        dropped: rows for this API process that were lost since the last frame, because it reads too slowly.
        engine: index of the engine, as vLLM's metrics have it.
        time: when the rows were in the worker's host memory, seconds since 1970.
        data: float32 `[sum of counts, ROW_HEAD + sum of widths]`, C order: position, token id, and then projections in
            units of the hidden state. In a prompt of embeddings the token id is `UNKNOWN_TOKEN`.
        failed_rows: rows for this API process that were lost since the last frame, because sending them failed.
        failed_passes: passes since the last frame whose rows could not be read or sent. Each pass is reported to one
            API process.
        weights: fingerprint of the weights with which the worker computes. It changes when they are replaced.
    """

    layers: list[int]
    widths: list[int]
    runs: list[RowRun]
    dropped: int
    engine: int
    time: float
    data: bytes
    failed_rows: int = 0
    failed_passes: int = 0
    weights: int = 0


def new_key(api_process: str) -> str:
    """Return an unguessable key for a request of this API process."""
    return f"{api_process}:{uuid.uuid4().hex}"


def api_process_of(key: str) -> str:
    """Return the API process that a key belongs to."""
    return key.partition(":")[0]
