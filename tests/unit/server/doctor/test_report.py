"""The doctor's report names the environment, and nothing private."""

import socket

import pytest

from traitwatch_server.doctor.environment import attention_backend, shown_options
from traitwatch_server.doctor.report import Check, Report, Table, Verdict, without_private

PASSED = Check("parity", Verdict.PASS, "All is well.", Table(["layer", "a|b"], [["1", "0.5"]]))


def test_a_report_is_markdown_with_every_check() -> None:
    report = Report("org/model", [("vLLM", "1.2")], [PASSED, Check("overhead", Verdict.NOT_RUN, "No time.")], ["GPUs"])
    text = report.markdown()
    assert text.startswith("## Traitwatch doctor: org/model\n")
    for line in ("| vLLM | 1.2 |", "| parity | **pass** |", "| overhead | **not run** |", "### overhead: not run"):
        assert line in text.splitlines()
    assert "| layer | a\\|b |\n| --- | --- |\n| 1 | 0.5 |" in text
    assert "This report says nothing about: GPUs." in text


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.NOT_RUN])
def test_a_report_passes_only_when_every_check_passed(verdict: Verdict) -> None:
    assert Report("m", [], [PASSED, PASSED], []).passed
    assert not Report("m", [], [PASSED, Check("isolation", verdict, "")], []).passed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OSError: /home/jane/models/secret-8b/config.json is bad", "OSError: …/config.json is bad"),
        ("--chat-template ~/work/chat.jinja --dtype float32", "--chat-template …/chat.jinja --dtype float32"),
        ("--download-dir=/data/jane", "--download-dir=…/jane"),
        ("tcp://10.2.3.4:5555 refused", "tcp://[address]:5555 refused"),
        ("meta-llama/Llama-3.1-8B-Instruct, 12.5 tokens/s, 0.32.0",) * 2,
    ],
)  # fmt: skip
def test_a_report_has_neither_directories_nor_addresses(text: str, expected: str) -> None:
    assert without_private(text) == expected


def test_a_report_does_not_have_the_name_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "janes-laptop")
    assert "janes-laptop" not in Report("m", [], [Check("servers", Verdict.FAIL, "janes-laptop: down")], []).markdown()


def test_options_are_reported_without_secrets() -> None:
    options = ["--dtype", "float32", "--hf-token", "hf_abc", "--hf-token=hf_abc", "--enforce-eager"]
    assert shown_options(options) == [
        "--dtype", "float32", "--hf-token", "[hidden]", "--hf-token=[hidden]", "--enforce-eager",
    ]  # fmt: skip


def test_the_log_names_the_attention_backend() -> None:
    assert (
        attention_backend("INFO Using FLASH_ATTN attention backend out of potential backends: [...]\n") == "FLASH_ATTN"
    )
