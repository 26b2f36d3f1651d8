"""`--config FILE` has vLLM's options and ours. The command line wins over the file."""

from pathlib import Path
from typing import Any

import click
import pytest

from traitwatch_server.errors import ConfigError
from traitwatch_server.launch.command import serve
from traitwatch_server.launch.vllm_serve import parse_vllm_arguments


def given(tmp_path: Path, text: str | bytes, *arguments: str) -> dict[str, Any]:
    """Return what the command gets from a file and a command line."""
    file = tmp_path / "vllm.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return serve.make_context("serve", ["--config", str(file), *arguments]).params


OURS = """
traits: [one, two]
traits_layer: [16, deception=best]
traits-tap: 4
traits-spike-rate: 0.001
traits-events-text: true
ui: false
max-model-len: 2048
model: some/model
"""


def test_our_options_are_taken_from_the_file(tmp_path: Path) -> None:
    params = given(tmp_path, OURS)
    assert params["directories"] == (Path("one"), Path("two"))
    assert params["layers"] == ("16", "deception=best")
    assert params["spare_layers"] == (4,)
    assert params["spike_rate"] == 0.001
    assert (params["events_text"], params["with_ui"], params["admin"]) == (True, False, False)
    assert params["vllm_config"] == {"max-model-len": 2048, "model": "some/model"}


def test_the_command_line_wins(tmp_path: Path) -> None:
    params = given(tmp_path, OURS, "--traits", "three", "--traits-layer=7", "--ui")
    assert (params["directories"], params["layers"], params["with_ui"]) == ((Path("three"),), ("7",), True)


def test_vllm_gets_its_own_options(tmp_path: Path) -> None:
    params = given(
        tmp_path,
        "traits: one\nmax_model_len: 2048\nport: 1\napi-key: [a, b]\nenforce-eager: true\n"
        "speculative-config: {method: ngram}",
        *("some/model", "--port", "2"),
    )
    args = parse_vllm_arguments(list(params["vllm_arguments"]), params["vllm_config"])
    assert (args.model, args.max_model_len, args.port, args.api_key) == ("some/model", 2048, 2, ["a", "b"])
    assert args.enforce_eager
    assert args.speculative_config == {"method": "ngram"}


def test_the_model_may_be_in_the_file(tmp_path: Path) -> None:
    params = given(tmp_path, "traits: one\nmodel: some/model", "--port", "2")
    args = parse_vllm_arguments(list(params["vllm_arguments"]), params["vllm_config"])
    assert (args.model, args.port) == ("some/model", 2)


def test_a_file_of_our_options_alone_is_enough(tmp_path: Path) -> None:
    params = given(tmp_path, "traits: one", "some/model")
    args = parse_vllm_arguments(list(params["vllm_arguments"]), params["vllm_config"])
    assert args.model == "some/model"


def test_without_a_model_the_error_says_so(tmp_path: Path) -> None:
    params = given(tmp_path, "traits: one")
    with pytest.raises(ConfigError, match="No model specified"):
        parse_vllm_arguments(list(params["vllm_arguments"]), params["vllm_config"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no options"),
        ("- traits", "has no options"),
        ("7: x", "has no options"),
        ("traits: [a", "is not YAML"),
        ("\ttraits: a", "is not YAML"),
        (b"traits: \xff", "is not YAML"),
        ("traits: !!python/object:os.system [ls]", "is not YAML"),
        ("traits:", "`traits` is None; give a value, or a list of values"),
        ("traits: {a: b}", "give a value"),
        ("traits: [[a]]", "give a value"),
        ("traits: one\ntraits-admin: 'yes'", "`traits-admin` is 'yes'; give true or false"),
        ("traits: one\ntraits_spike_rate: [1, 2]", "`traits_spike_rate` is .*; give one value"),
        ("traits: true", "give a value"),
        ("traits: one\nconfig: other.yaml", "names another file of options"),
        ("traits: one\ntraits-admin-key: 1234_5678_9012_3456", "YAML reads `traits-admin-key` as a number"),
        ("traits: one\ntraits-admin-key: [secret]", "`traits-admin-key` is a list; give one value"),
    ],
    ids=repr,
)
def test_an_unusable_file_is_refused_with_its_reason(text: str | bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        given(tmp_path, text)


def test_a_missing_file_and_two_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        serve.make_context("serve", ["--config", str(tmp_path / "none.yaml")])
    with pytest.raises(ConfigError, match="is given 2 times"):
        serve.make_context("serve", ["--config=a.yaml", "--config", "b.yaml"])


def test_a_value_that_the_option_does_not_take_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter) as error:
        given(tmp_path, "traits: one\ntraits-tap: first")
    assert "--traits-tap" in error.value.format_message()


def test_our_options_may_have_underscores_as_vllms_may() -> None:
    arguments = ["--traits", "one", "--traits_layer", "16", "some_model", "--max_model_len=7", "--traits_admin"]
    params = serve.make_context("serve", arguments).params
    assert (params["layers"], params["admin"]) == (("16",), True)
    assert params["vllm_arguments"] == ("some_model", "--max_model_len=7")
