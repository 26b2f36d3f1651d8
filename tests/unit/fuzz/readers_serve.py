"""Readers of the files that `traitwatch serve` takes: the file of `--config` and the file of the admin key."""

from pathlib import Path

import click

from tests.support.fuzzing import Reader
from traitwatch_server.errors import ConfigError
from traitwatch_server.launch.admin_key import read_admin_key
from traitwatch_server.launch.command import serve
from traitwatch_server.launch.config_file import read_config_file

_CONFIG = b"""# Options of vLLM and of Traitwatch.
model: some/model
traits: [vectors, more/vectors]
traits_layer: [16, deception=best]
traits-spike-rate: 0.001
traits-events-text: true
max-model-len: 2048
speculative-config: {method: ngram, num_speculative_tokens: 3}
"""


def _config(data: bytes, folder: Path) -> None:
    file = folder / "vllm.yaml"
    file.write_bytes(data)
    read_config_file(click.Context(serve), serve.params[0], (file,))


def _admin_key(data: bytes, folder: Path) -> None:
    file = folder / "key"
    file.write_bytes(data)
    read_admin_key(None, file)


READERS = (
    Reader("config file", lambda: [_CONFIG], _config, (ConfigError,)),
    Reader("admin key", lambda: [b"0123456789abcdef0123456789abcdef\n"], _admin_key, (ConfigError,)),
)
