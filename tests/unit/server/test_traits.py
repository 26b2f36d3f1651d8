"""Which vectors, layers and model shapes fit together, and which are refused."""

import datetime
import json
from pathlib import Path

import numpy as np
import pytest

from traitwatch.card import SpikeThreshold
from traitwatch.vectors import Calibration, Card, LayerCalibration, save_card, save_tensor, vector_sha256
from traitwatch_server.errors import ConfigError
from traitwatch_server.launch.command import parse_layers, parse_thresholds
from traitwatch_server.settings import Settings
from traitwatch_server.traits import Threshold, check_fits, load_served_traits, tap_config, trait_set


def settings(directory: Path, names: tuple[str, ...] = ("a", "b", "c"), **options: object) -> Settings:
    for name in names:
        save_tensor(np.ones((4, 8), dtype=np.float32), directory / f"{name}.pt")
    return Settings((directory,), **options)  # type: ignore[arg-type]


def test_each_layer_numbers_its_own_columns(tmp_path: Path) -> None:
    traits = load_served_traits(settings(tmp_path, layer=2, layer_of={"b": 1}))
    assert [(t.name, t.layer, t.column) for t in traits] == [("a", 2, 0), ("b", 1, 0), ("c", 2, 1)]
    loaded = trait_set(traits, layers=[1, 2, 3])
    assert list(loaded.traits) == ["a", "b", "c"]
    assert loaded.columns.widths == {1: 1, 2: 2, 3: 0}


def test_the_best_layer_is_that_of_the_card(tmp_path: Path) -> None:
    vector = np.ones((4, 8), dtype=np.float32)
    date = datetime.date(2026, 1, 1)
    save_tensor(vector, tmp_path / "a.pt")
    card = Card(
        trait="a", model="m", hidden_size=8, num_layers=3, sha256=vector_sha256(vector), date=date, best_layer=3
    )
    save_card(card, tmp_path / "a.json")
    (trait,) = load_served_traits(Settings((tmp_path,), layer="best"))
    assert trait.layer == 3
    (trait,) = load_served_traits(Settings((tmp_path,), layer=1, layer_of={"a": "best"}))
    assert trait.layer == 3


def test_the_best_layer_of_a_vector_without_a_card(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no card that says which layer is best"):
        load_served_traits(settings(tmp_path, layer="best"))


@pytest.mark.parametrize(("count", "columns"), [(1, 16), (16, 16), (17, 32), (64, 64)])
def test_columns_come_in_steps(tmp_path: Path, count: int, columns: int) -> None:
    """So the model is not compiled anew for one more trait."""
    options = settings(tmp_path, names=tuple(f"t{i}" for i in range(count)), layer=2)
    assert tap_config(load_served_traits(options), options)["columns"] == columns


def test_a_server_with_admin_has_columns_and_layers_to_spare(tmp_path: Path) -> None:
    options = settings(tmp_path, layer=2, admin=True, spare_layers=(1, 2))
    config = tap_config(load_served_traits(options), options)
    assert (config["columns"], config["layers"]) == (64, [1, 2])


@pytest.mark.parametrize("with_card", [False, True])
@pytest.mark.parametrize("layer", [0, 4, 500])
def test_a_layer_that_the_model_does_not_have_is_refused(tmp_path: Path, layer: int, with_card: bool) -> None:
    """The default layer is 20. A vector of a smaller model often has fewer layers."""
    options = settings(tmp_path, ("a",), layer=layer)
    if with_card:
        calibrated(tmp_path, ONE_IN_100)
    traits = load_served_traits(options)
    with pytest.raises(ConfigError, match=f"layer {layer} is out of range .* layers 1 to 3"):
        check_fits(traits, "tiny", num_layers=3, hidden_size=8)


@pytest.mark.parametrize(("num_layers", "hidden_size"), [(3, 9), (5, 8)])
def test_a_vector_of_another_shape_is_refused(tmp_path: Path, num_layers: int, hidden_size: int) -> None:
    traits = load_served_traits(settings(tmp_path, layer=2))
    with pytest.raises(ConfigError) as error:
        check_fits(traits, "tiny", num_layers, hidden_size)
    assert "[4, 8]" in str(error.value)
    assert str([num_layers + 1, hidden_size]) in str(error.value)


def test_a_missing_row_of_the_embeddings_is_recognised(tmp_path: Path) -> None:
    """Published vectors often have one row a layer. The vector was built on this model all the same."""
    traits = load_served_traits(settings(tmp_path, layer=2))
    with pytest.raises(ConfigError, match=r"lack row 0 .*`traitwatch import \S+\.pt --rows layers") as error:
        check_fits(traits, "tiny", num_layers=4, hidden_size=8)
    assert "build the vector on this model" not in str(error.value)


def test_the_compile_cache_key_depends_on_the_layers_alone(tmp_path: Path) -> None:
    """With a path or an id, every start would compile. Without a layer, a start could load a graph without its tap."""
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    one, same, other = (
        tap_config(load_served_traits(options), options)
        for options in (
            settings(tmp_path / "x", layer=2),
            settings(tmp_path / "y", names=("z",), layer=2),
            settings(tmp_path / "x", layer=3),
        )
    )
    assert json.dumps(one, sort_keys=True) == json.dumps(same, sort_keys=True) != json.dumps(other, sort_keys=True)


def test_layers_on_the_command_line() -> None:
    assert parse_layers(()) == (None, {})
    assert parse_layers(("12", "a=3", "b=best")) == (12, {"a": 3, "b": "best"})
    assert parse_layers(("best",)) == ("best", {})


@pytest.mark.parametrize("value", ["last", "a=", "-1", "1.5", "a=b"])
def test_a_layer_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="give a layer index"):
        parse_layers((value,))


def calibrated(directory: Path, *thresholds: SpikeThreshold, window: int | None = 8) -> Path:
    """Save a vector `a` whose card has some thresholds."""
    vector = np.ones((4, 8), dtype=np.float32)
    date = datetime.date(2026, 1, 1)
    save_tensor(vector, directory / "a.pt")
    calibration = Calibration(
        layers=[LayerCalibration(mean=1, std=2, thresholds=list(thresholds))] * 4,
        num_prompts=1,
        num_tokens=2,
        spike_window=window,
        spike_min_tokens=3,
        engine="test",
        date=date,
    )
    card = Card(
        trait="a",
        model="m",
        hidden_size=8,
        num_layers=3,
        sha256=vector_sha256(vector),
        date=date,
        calibration=calibration,
    )
    save_card(card, directory / "a.json")
    return directory


ONE_IN_100 = SpikeThreshold(rate=0.01, z=3.5, low=3, high=4)
ONE_IN_1000 = SpikeThreshold(rate=0.001, z=5.5, low=4, high=7)


def test_the_threshold_is_the_cards_for_the_wanted_rate(tmp_path: Path) -> None:
    calibrated(tmp_path, ONE_IN_100, ONE_IN_1000)
    (trait,) = load_served_traits(Settings((tmp_path,), layer=2))
    assert trait.threshold == Threshold(3.5, 0.01)
    (trait,) = load_served_traits(Settings((tmp_path,), layer=2, spike_rate=0.001))
    assert trait.threshold == Threshold(5.5, 0.001)
    with pytest.raises(ConfigError, match=r"'a' knows the thresholds for 0.01, 0.001; take one of these"):
        load_served_traits(Settings((tmp_path,), layer=2, spike_rate=0.05))


def test_an_operators_threshold_replaces_the_threshold_of_the_card(tmp_path: Path) -> None:
    calibrated(tmp_path, ONE_IN_100)
    (trait,) = load_served_traits(Settings((tmp_path,), layer=2, spike_rate=0.05, threshold_of={"a": 2.5}))
    assert trait.threshold == Threshold(2.5, 0.05)
    with pytest.raises(ConfigError, match="--traits-threshold names 'b', but the vectors are: a"):
        load_served_traits(Settings((tmp_path,), layer=2, threshold_of={"b": 2.5}))


def test_a_threshold_for_a_vector_without_a_baseline_is_refused(tmp_path: Path) -> None:
    calibrated(tmp_path, ONE_IN_100)
    (tmp_path / "a.json").unlink()
    with pytest.raises(ConfigError, match=r"--traits-threshold a: the vector is not calibrated.*traitwatch calibrate"):
        load_served_traits(Settings((tmp_path,), layer=2, threshold_of={"a": 2.5}))


@pytest.mark.parametrize("how", ["uncalibrated", "too few answers", "another smoothing"])
def test_without_any_threshold_there_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    calibrated(tmp_path, *([] if how == "too few answers" else [ONE_IN_100]), window=4 if "another" in how else 8)
    if how == "uncalibrated":
        (tmp_path / "a.json").unlink()
    (trait,) = load_served_traits(Settings((tmp_path,), layer=2))
    assert trait.threshold is None
    assert "no alert will fire for it" in caplog.text
    assert "traitwatch calibrate" in caplog.text


def test_thresholds_are_read_from_the_command_line() -> None:
    assert parse_thresholds(("a=3.5", "b.c-d=-1")) == {"a": 3.5, "b.c-d": -1.0}
    for bad in ("3.5", "a=", "=3", "a=x", "a=nan", "a=inf"):
        with pytest.raises(ConfigError, match=r"give a trait and a z"):
            parse_thresholds((bad,))
