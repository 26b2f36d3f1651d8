"""Vectors, layers and a model's shape: what goes together, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from builder.artifacts import save_tensor
from server.config import Settings, check_fits, load_served_traits, tap_config
from server.errors import ConfigError
from server.launcher import parse_layers
from server.tap import MAX_TRAITS


def settings(directory: Path, names: tuple[str, ...] = ("a", "b", "c"), **options: object) -> Settings:
    for name in names:
        save_tensor(np.ones((4, 8), dtype=np.float32), directory / f"{name}.pt")
    return Settings((directory,), **options)  # type: ignore[arg-type]


def test_columns_are_in_ascending_order_of_layer(tmp_path: Path) -> None:
    traits = load_served_traits(settings(tmp_path, layer=2, layer_of={"b": 1}))
    assert [(t.name, t.layer, t.column) for t in traits] == [("b", 1, 0), ("a", 2, 1), ("c", 2, 2)]


def test_a_layer_takes_so_many_vectors_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"a layer takes {MAX_TRAITS}"):
        load_served_traits(settings(tmp_path, names=tuple(f"t{i}" for i in range(MAX_TRAITS + 1))))


@pytest.mark.parametrize("layer", [0, 4, 500])
def test_a_layer_that_the_model_does_not_have(tmp_path: Path, layer: int) -> None:
    traits = load_served_traits(settings(tmp_path, layer=layer))
    with pytest.raises(ConfigError, match=f"layer {layer} is out of range .* layers 1 to 3"):
        check_fits(traits, "tiny", num_layers=3, hidden_size=8)


@pytest.mark.parametrize(("num_layers", "hidden_size"), [(3, 9), (5, 8)])
def test_a_vector_of_another_shape(tmp_path: Path, num_layers: int, hidden_size: int) -> None:
    traits = load_served_traits(settings(tmp_path, layer=2))
    with pytest.raises(ConfigError) as error:
        check_fits(traits, "tiny", num_layers, hidden_size)
    assert "[4, 8]" in str(error.value)
    assert str([num_layers + 1, hidden_size]) in str(error.value)


def test_the_compile_cache_key_depends_on_the_layers_alone(tmp_path: Path) -> None:
    """A path or an id in it would compile anew at every start; a missing layer would serve a graph without its tap."""
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    one = tap_config(load_served_traits(settings(tmp_path / "x", layer=2)))
    same = tap_config(load_served_traits(settings(tmp_path / "y", names=("z",), layer=2)))
    other = tap_config(load_served_traits(settings(tmp_path / "x", layer=3)))
    assert json.dumps(one, sort_keys=True) == json.dumps(same, sort_keys=True) != json.dumps(other, sort_keys=True)


def test_layers_on_the_command_line() -> None:
    assert parse_layers(()) == (None, {})
    assert parse_layers(("12", "a=3", "b=4")) == (12, {"a": 3, "b": 4})


@pytest.mark.parametrize("value", ["last", "a=", "-1", "1.5", "a=b"])
def test_a_layer_that_is_no_number(value: str) -> None:
    with pytest.raises(ConfigError, match="give a layer index"):
        parse_layers((value,))
