"""The doctor's verdicts, on good and on bad data; its report; the servers it runs; what it refuses."""

import socket
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from tests.support.wire.http import Reply, Request, wire_server
from traitwatch import cli
from traitwatch.vectors import Float32Array
from traitwatch_server.doctor.chats import ScoredText, solo_chats, tokens_per_second
from traitwatch_server.doctor.checks import References, isolation, overhead, parity
from traitwatch_server.doctor.environment import attention_backend, model_runner, shown_options
from traitwatch_server.doctor.measure import last_errors
from traitwatch_server.doctor.reference import reference_projections
from traitwatch_server.doctor.report import Check, Report, Table, Verdict, without_private
from traitwatch_server.errors import AnswerError, NoReferenceError

LAYERS = [1, 20]
STATES = 60


def right_values(noise: float = 0.0) -> dict[int, dict[int, Float32Array]]:
    """Return references: of each layer and its neighbours, which are alike but not the same."""
    random = np.random.default_rng(3)
    values = {}
    for layer in LAYERS:
        own = random.normal(5, 10, STATES)
        near = {n: own + random.normal(0, 4, STATES) for n in (layer - 1, layer + 1)}
        rounding = np.random.default_rng(layer).normal(0, noise * 10, STATES)
        values[layer] = {n: v.astype(np.float32) for n, v in {**near, layer: own + rounding}.items()}
    return values


def chats(values: dict[int, Float32Array]) -> list[ScoredText]:
    """Return two chats with these projections of their states."""
    both = np.stack([values[layer] for layer in LAYERS])
    return [
        ScoredText([1, 2], [3] * 20, both[:, :20], complete=True),
        ScoredText([1, 2], [3] * (STATES - 20), both[:, 20:], complete=True),
    ]


def own_layer(values: dict[int, dict[int, Float32Array]]) -> dict[int, Float32Array]:
    return {layer: near[layer] for layer, near in values.items()}


EXACT = right_values()
FLOAT32 = References(EXACT, None, "float32")


def test_parity_passes_what_differs_by_rounding_alone() -> None:
    check = parity(LAYERS, chats(own_layer(right_values(noise=0.02))), FLOAT32)
    assert check.verdict is Verdict.PASS
    assert "60 states of 2 chats" in check.why
    assert check.table is not None
    assert [row[0] for row in check.table.rows] == ["1", "20"]
    assert float(check.table.rows[0][2]) == pytest.approx(0.02, rel=0.3)


def test_parity_fails_the_neighbouring_layer() -> None:
    wrong = {**own_layer(EXACT), 20: EXACT[20][19]}
    assert parity(LAYERS, chats(wrong), FLOAT32).verdict is Verdict.FAIL


def test_parity_fails_a_neighbouring_layer_that_is_hardly_another() -> None:
    """In the middle of a deep model one layer changes little; then the error must be smaller still."""
    near = {n: EXACT[20][20] + 0.06 * (EXACT[20][n] - EXACT[20][20]) for n in (19, 21)}
    references = References({**EXACT, 20: {**EXACT[20], **near}}, None, "float32")
    rounding = np.random.default_rng(5).normal(0, 0.05, STATES).astype(np.float32)
    wrong = {**own_layer(EXACT), 20: near[19] + rounding}
    assert parity(LAYERS, chats(wrong), references).verdict is Verdict.FAIL
    assert parity(LAYERS, chats(own_layer(EXACT)), references).verdict is Verdict.PASS


def test_parity_fails_the_neighbouring_token() -> None:
    wrong = {layer: np.roll(values, -1) for layer, values in own_layer(EXACT).items()}
    assert parity(LAYERS, chats(wrong), FLOAT32).verdict is Verdict.FAIL


@pytest.mark.parametrize("broken", ["missing", "incomplete"])
def test_parity_fails_what_is_missing(broken: str) -> None:
    first, second = chats(own_layer(EXACT))
    if broken == "missing":
        second.projections[0, 3] = np.nan
    else:
        second = replace(second, complete=False)
    check = parity(LAYERS, [first, second], FLOAT32)
    assert check.verdict is Verdict.FAIL
    assert "missing" in check.why


def test_parity_allows_what_the_served_precision_costs_transformers_too() -> None:
    chatted = chats(own_layer(right_values(noise=0.14)))
    assert parity(LAYERS, chatted, FLOAT32).verdict is Verdict.FAIL
    references = References(EXACT, right_values(noise=0.12), "bfloat16")
    assert parity(LAYERS, chatted, references).verdict is Verdict.PASS


def test_parity_without_a_reference_is_not_run_and_says_why() -> None:
    check = parity(LAYERS, chats(own_layer(EXACT)), References(None, None, "bfloat16", "no memory for it."))
    assert (check.verdict, check.why) == (Verdict.NOT_RUN, "no memory for it.")


def crowd() -> tuple[list[ScoredText], list[Float32Array]]:
    random = np.random.default_rng(4)
    alone = [random.normal(0, 10, (3, 8 + i)).astype(np.float32) for i in range(32)]
    noisy = [(values + random.normal(0, 0.3, values.shape)).astype(np.float32) for values in alone]
    return [ScoredText([1], [2] * v.shape[1], v, complete=True) for v in noisy], alone


def test_isolation_passes_chats_that_score_as_alone() -> None:
    check = isolation(*crowd(), left_open=0)
    assert check.verdict is Verdict.PASS
    assert check.table is not None
    assert float(dict(check.table.rows)["a state of another chat instead, median"]) > 1


def test_isolation_fails_one_state_of_another_chat() -> None:
    texts, alone = crowd()
    texts[5].projections[:, 4] = texts[9].projections[:, 4]
    check = isolation(texts, alone, left_open=0)
    assert check.verdict is Verdict.FAIL
    assert check.table is not None
    assert dict(check.table.rows)["chats with a state off by more than 0.5 spreads"] == "1"


def test_isolation_fails_a_missing_state() -> None:
    texts, alone = crowd()
    texts[5].projections[:, 4] = np.nan
    assert isolation(texts, alone, left_open=0).verdict is Verdict.FAIL


def test_isolation_fails_an_answer_that_says_it_is_incomplete() -> None:
    texts, alone = crowd()
    texts[5] = replace(texts[5], complete=False)
    assert isolation(texts, alone, left_open=0).verdict is Verdict.FAIL


def test_isolation_fails_what_stays_open() -> None:
    assert isolation(*crowd(), left_open=1).verdict is Verdict.FAIL


def test_overhead_that_is_certain_fails() -> None:
    plain = [100.0, 101.0, 99.0, 100.0]
    check = overhead([0.9 * speed for speed in plain], plain, 96)
    assert check.verdict is Verdict.FAIL
    assert "costs more than 3%" in check.why


def test_no_overhead_passes() -> None:
    check = overhead([100.0, 100.5, 99.5, 100.0], [100.0, 101.0, 99.0, 100.0], 96)
    assert check.verdict is Verdict.PASS
    assert "A cost above 3% is ruled out" in check.why


def test_overhead_in_noise_says_what_cannot_be_told() -> None:
    check = overhead([80.0, 120.0, 90.0], [100.0, 100.0, 95.0], 96)
    assert check.verdict is Verdict.PASS
    assert "cannot be told from noise" in check.why


def test_one_pair_of_loads_is_no_measurement() -> None:
    assert overhead([100.0], [100.0], 96).verdict is Verdict.NOT_RUN


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
    ("text", "shown"),
    [
        ("OSError: /home/jane/models/secret-8b/config.json is bad", "OSError: …/config.json is bad"),
        ("--chat-template ~/work/chat.jinja --dtype float32", "--chat-template …/chat.jinja --dtype float32"),
        ("--download-dir=/data/jane", "--download-dir=…/jane"),
        ("tcp://10.2.3.4:5555 refused", "tcp://[address]:5555 refused"),
        ("meta-llama/Llama-3.1-8B-Instruct, 12.5 tokens/s, 0.32.0",) * 2,
    ],
)  # fmt: skip
def test_a_report_tells_neither_directories_nor_addresses(text: str, shown: str) -> None:
    assert without_private(text) == shown


def test_a_report_does_not_tell_the_name_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "janes-laptop")
    assert "janes-laptop" not in Report("m", [], [Check("servers", Verdict.FAIL, "janes-laptop: down")], []).markdown()


def test_options_are_shown_without_secrets() -> None:
    options = ["--dtype", "float32", "--hf-token", "hf_abc", "--hf-token=hf_abc", "--enforce-eager"]
    assert shown_options(options) == [
        "--dtype", "float32", "--hf-token", "[hidden]", "--hf-token=[hidden]", "--enforce-eager",
    ]  # fmt: skip


def test_the_log_names_runner_and_attention_backend() -> None:
    log = "INFO Using V2 Model Runner\nINFO Using FLASH_ATTN attention backend out of potential backends: [...]\n"
    assert (model_runner(log), attention_backend(log)) == ("V2", "FLASH_ATTN")
    assert model_runner("INFO nothing") == "V1"


def test_the_last_errors_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text('INFO fine\n  File "x.py", raise Error\nLayoutError: unknown runner\nLayoutError: unknown runner\n')
    assert last_errors(log) == "LayoutError: unknown runner"
    log.write_text("INFO fine\n")
    assert last_errors(log) == "none"


def test_the_reference_is_the_state_after_the_layer(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    ids = [5, 9, 11, 7, 3]
    with torch.inference_mode():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    last, width = len(states) - 1, states[0].shape[-1]
    direction = np.eye(width, dtype=np.float32)[2]
    text = ScoredText(ids[:2], ids[2:], np.empty((1, 3), dtype=np.float32), complete=True)
    got = reference_projections(str(tiny_model), torch.float32, [text, text], {1: direction, last: direction})
    assert sorted(got[1]) == [0, 1, 2]
    assert sorted(got[last]) == [last - 1, last]
    for layer, near in got.items():
        for other, values in near.items():
            expected = states[other][0, 1:4, 2].numpy()
            np.testing.assert_allclose(values, [*expected, *expected], rtol=1e-5, err_msg=f"{layer} {other}")


def test_a_model_that_transformers_cannot_load_is_no_reference(tmp_path: Path) -> None:
    text = ScoredText([1], [2], np.empty((1, 1), dtype=np.float32), complete=True)
    with pytest.raises(NoReferenceError, match="cannot run the model"):
        reference_projections(str(tmp_path), torch.float32, [text], {})


USAGE = b'data: {"choices":[],"usage":{"completion_tokens":96}}\n\ndata: [DONE]\n\n'


async def test_a_load_is_timed_only_where_every_stream_was_whole() -> None:
    all_of_them = threading.Barrier(32, timeout=60)

    def respond(request: Request) -> Reply:
        all_of_them.wait()
        return Reply(USAGE, delay=0.5)

    with wire_server(respond) as server:
        assert 0 < await tokens_per_second(server.url, 96) < 32 * 96 / 0.5
        assert server.most_at_once == 32
    broken = b'data: {"error":{"message":"EngineDeadError"}}\n\ndata: [DONE]\n\n'
    with (
        wire_server(lambda request: Reply(broken if request.number == 20 else USAGE)) as server,
        pytest.raises(AnswerError, match=r"without its 96 tokens.*EngineDeadError"),
    ):
        await tokens_per_second(server.url, 96)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply({"error": "no room"}, status=400), "status 400.*no room"),
        (Reply({"choices": [{"token_ids": [1]}], "prompt_token_ids": [1]}), "lacks one of traits"),
        (Reply({"choices": [{"token_ids": [1], "traits": {"probe1": None}}]}), "lacks one of traits"),
    ],
)
async def test_an_answer_that_is_none_is_told(reply: Reply, told: str) -> None:
    with wire_server(lambda request: reply) as server, pytest.raises(AnswerError, match=told):
        await solo_chats(server.url, ["probe1"], 1, 8)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give the MODEL first"),
        (["--enforce-eager", "some/model"], "give the MODEL first"),
        (["some/model", "--port", "8000"], "--port: the doctor sets that itself"),
        (["some/model", "--traits-layer=3"], "--traits-layer: the doctor sets that itself"),
        (["--gpu", "some/model"], "the vLLM that is installed is the CPU build"),
    ],
)
def test_a_command_line_that_cannot_be_run_is_refused(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(cli.main, ["doctor", *arguments])
    assert result.exit_code == 1
    assert told in result.output


def test_a_model_too_short_for_the_checks_is_refused(tiny_model: Path) -> None:
    result = CliRunner().invoke(cli.main, ["doctor", str(tiny_model), "--max-model-len", "512"])
    assert result.exit_code == 1
    assert "--max-model-len 512: the checks need 600." in result.output
