"""The doctor's measurements: the reference, the timed load, and the command lines that it refuses."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from tests.support.wire.http import Reply, Request, wire_server
from traitwatch import cli
from traitwatch_server.doctor.chats import ScoredText, solo_chats, tokens_per_second
from traitwatch_server.doctor.measure import last_errors
from traitwatch_server.doctor.reference import reference_projections
from traitwatch_server.errors import AnswerError, NoReferenceError


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
    ("reply", "message"),
    [
        (Reply({"error": "no room"}, status=400), "status 400.*no room"),
        (Reply({"choices": [{"token_ids": [1]}], "prompt_token_ids": [1]}), "lacks one of traits"),
        (Reply({"choices": [{"token_ids": [1], "traits": {"probe1": None}}]}), "lacks one of traits"),
    ],
)
async def test_an_answer_without_the_fields_is_an_error(reply: Reply, message: str) -> None:
    with wire_server(lambda request: reply) as server, pytest.raises(AnswerError, match=message):
        await solo_chats(server.url, ["probe1"], 1, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the MODEL first"),
        (["--enforce-eager", "some/model"], "give the MODEL first"),
        (["some/model", "--port", "8000"], "--port: the doctor sets that itself"),
        (["some/model", "--traits-layer=3"], "--traits-layer: the doctor sets that itself"),
        (["--out", "/no/such/folder/report.md", "some/model"], "--out /no/such/folder/report.md: there is no folder"),
        (["--gpu", "some/model"], "the vLLM that is installed is the CPU build"),
    ],
)
def test_a_command_line_that_cannot_be_run_is_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.main, ["doctor", *arguments])
    assert result.exit_code == 1
    assert message in result.output


def test_a_model_too_short_for_the_checks_is_refused(tiny_model: Path) -> None:
    result = CliRunner().invoke(cli.main, ["doctor", str(tiny_model), "--max-model-len", "512"])
    assert result.exit_code == 1
    assert "--max-model-len 512: the checks need 600." in result.output
