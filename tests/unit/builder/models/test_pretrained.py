"""A model that cannot be used is refused in one sentence, whatever its files hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.pretrained import length_limit, load_tokenizer, model_size

DAMAGED = {
    "nested": '{"a":' * 50_000,
    "other types": '{"model_type": "llama", "num_hidden_layers": "x", "hidden_size": [1]}',
    "a list": "[]",
    "nothing": "",
    "another encoding": "\x00\x01",
}


@pytest.mark.parametrize("read", [load_tokenizer, length_limit, model_size])
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_configuration_is_a_sentence(content: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(PipelineError, match=f"^{tmp_path} cannot be loaded as a model"):
        read(tmp_path)


@pytest.mark.parametrize("layers", [-5, 0])
def test_a_configuration_of_no_layers_is_a_sentence(layers: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "llama", "num_hidden_layers": {layers}, "hidden_size": 8}}')
    with pytest.raises(
        PipelineError,
        match=f"^{tmp_path}(: its config.json gives {layers} layers of width 8| cannot be loaded as a model)",
    ):
        model_size(tmp_path)


def test_a_model_without_a_name_is_a_sentence() -> None:
    with pytest.raises(PipelineError, match=r"^An empty name cannot be loaded as a model \("):
        load_tokenizer("")
