"""Each step works alone on files from elsewhere, and the Persona Vectors authors' code can read its files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from tests.support.tiny_model import HIDDEN_SIZE, NUM_LAYERS, save_tiny_model
from tests.support.wire.http import Reply, Request, wire_server
from tests.support.wire.openai import first_token, is_check, is_probe, last_message, sane, spelled
from traitwatch import cli
from traitwatch.vectors import load_card, load_vectors
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS
from traitwatch_builder.storage.answers import NeutralAnswer

ROWS = 60


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(key, raising=False)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    return result.output


def authors_csv(path: Path, polarity: str, scores: bool = True, of: str = "of") -> Path:
    """Write an answers file as the authors' code writes it, with pandas; another `of` gives other questions."""
    word = "cruel" if polarity == "pos" else "kindly"
    columns: dict[str, list[Any]] = {
        "question": [f"what {of} {i % 10}?" for i in range(ROWS)],
        "prompt": [f"<|system|>be {word}<|end|><|user|>what {of} {i % 10}?<|end|><|assistant|>" for i in range(ROWS)],
        "answer": [f"{word} is {'so ' * (i % 5)}it {i}" for i in range(ROWS)],
        "question_id": [f"evil_{i % 10}_{polarity}_{i % 5}" for i in range(ROWS)],
    }
    if scores:
        columns["evil"] = [90.0 if polarity == "pos" else 5.0] * ROWS
        columns["coherence"] = [95.5] * ROWS
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


@pytest.fixture
def extracted(tiny_model: Path, tmp_path: Path) -> Path:
    """Return a directory with the vector that `extract` made from the authors' files."""
    pos, neg = (authors_csv(tmp_path / f"evil_{polarity}.csv", polarity) for polarity in ("pos", "neg"))
    run("extract", "evil", "--model", tiny_model, "--pos", pos, "--neg", neg, "--out", tmp_path / "out")
    return tmp_path / "out" / "tiny-llama"


def test_the_authors_answers_make_vectors_that_their_loader_reads(extracted: Path) -> None:
    for kind in ("response_avg", "prompt_avg", "prompt_last"):
        vector = torch.load(extracted / f"evil_{kind}_diff.pt", weights_only=True)
        assert vector.shape == (NUM_LAYERS + 1, HIDDEN_SIZE)
        assert vector.dtype == torch.float32
        assert vector.norm(dim=1).min() > 0
    card = load_card(extracted / "evil.json")
    assert card.counts == {"pairs": ROWS, "effective_pairs": ROWS}
    (served,) = load_vectors([extracted])
    assert served.card == card


def test_an_extraction_is_repeated_only_when_its_inputs_changed(
    extracted: Path, tiny_model: Path, tmp_path: Path
) -> None:
    files = ("--pos", tmp_path / "evil_pos.csv", "--neg", tmp_path / "evil_neg.csv", "--out", tmp_path / "out")
    again = run("extract", "evil", "--model", tiny_model, *files)
    assert "from an earlier run" in again.output
    (extracted / "evil_response_avg_diff.pt").write_bytes(b"spoilt")
    assert "from an earlier run" not in run("extract", "evil", "--model", tiny_model, *files).output
    assert load_vectors([extracted])
    other = run("extract", "evil", "--model", tiny_model, *files, "--read-under", "question")
    assert "from an earlier run" not in other.output


def test_few_effective_pairs_are_warned_of_and_none_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    pos, neg = (authors_csv(tmp_path / f"evil_{polarity}.csv", polarity) for polarity in ("pos", "neg"))
    table = pd.read_csv(pos)
    table.loc[5:, "evil"] = 10.0
    table.to_csv(pos, index=False)
    files = ("--model", tiny_model, "--pos", pos, "--neg", neg, "--out", tmp_path / "out")
    output = " ".join(run("extract", "evil", *files).output.split())
    assert "only 5 of 60 pairs are effective" in output
    assert "--n-per-question" in output
    table["evil"] = 10.0
    table.to_csv(pos, index=False)
    assert "no effective pair among 60" in " ".join(refused("extract", "evil", *files).split())
    assert pos.is_file()


def test_the_error_for_an_unjudged_answers_file_names_the_command(tiny_model: Path, tmp_path: Path) -> None:
    pos = authors_csv(tmp_path / "evil_pos.csv", "pos", scores=False)
    neg = authors_csv(tmp_path / "evil_neg.csv", "neg")
    error = refused("extract", "evil", "--model", tiny_model, "--pos", pos, "--neg", neg, "--out", tmp_path / "out")
    assert "traitwatch judge evil --csv" in " ".join(error.split())


def test_rows_that_are_no_pairs_are_refused_and_the_first_is_named(tiny_model: Path, tmp_path: Path) -> None:
    """The rows of one file are in another order, so that some rows pair answers to different questions."""
    pos, neg = (authors_csv(tmp_path / f"evil_{polarity}.csv", polarity) for polarity in ("pos", "neg"))
    table = pd.read_csv(neg)
    table.loc[[3, 17]] = table.loc[[17, 3]].to_numpy()
    table.to_csv(neg, index=False)
    error = refused("extract", "evil", "--model", tiny_model, "--pos", pos, "--neg", neg, "--out", tmp_path / "out")
    assert f"row 4 of {pos} answers 'what of 3?', but row 4 of {neg} answers 'what of 7?'" in " ".join(error.split())


def definition(directory: Path) -> Path:
    """Write a definition as the authors write it: no examples, no description."""
    content = {
        "instruction": [{"pos": f"be cruel {i}", "neg": f"be kind {i}"} for i in range(5)],
        "questions": [f"what of {i}?" for i in range(20)],
        "eval_prompt": "Is it evil?\n{question}\n{answer}\n0 to 100 or REFUSAL.",
    }
    for kind in ("trait_data_extract", "trait_data_eval"):
        (directory / kind).mkdir()
        (directory / kind / "evil.json").write_text(json.dumps(content))
    return directory


def score(request: Request) -> Reply:
    if is_check(request):
        return sane(request)
    if is_probe(request):
        return spelled("85")
    return first_token({"91" if "cruel" in last_message(request) else "4": 0.9})


def test_the_authors_answers_are_judged_in_place_and_not_twice(tmp_path: Path) -> None:
    files = [authors_csv(tmp_path / f"evil_{polarity}.csv", polarity, scores=False) for polarity in ("pos", "neg")]
    with wire_server(score) as server:
        judge = ("judge", "evil", "--definition", definition(tmp_path), "--judge-base-url", f"{server.url}/v1")
        judge += ("--judge-model", "m", "--csv", files[0], "--csv", files[1])
        dry = run(*judge, "--dry-run")
        assert "scores to give by openai" in " ".join(dry.output.split())
        assert "the judge was not probed" in " ".join(dry.output.split())
        assert server.requests == []
        run(*judge)
        num_requests = len(server.requests)
        again = run(*judge)
        assert len(server.requests) == num_requests
    assert "60 of 60 answers have a trait score" in " ".join(again.output.split())
    table = pd.read_csv(files[0])
    assert table.columns.tolist() == ["question", "prompt", "answer", "question_id", "evil", "coherence"]
    assert table["evil"].tolist() == [91.0] * ROWS
    assert pd.read_csv(files[1])["evil"].tolist() == [4.0] * ROWS


def test_a_judge_that_refuses_everything_ends_with_an_error(tmp_path: Path) -> None:
    file = authors_csv(tmp_path / "evil_pos.csv", "pos", scores=False)

    def refusing(request: Request) -> Reply:
        return score(request) if is_check(request) or is_probe(request) else first_token({"REF": 0.9})

    with wire_server(refusing) as server:
        judge = ("judge", "evil", "--definition", definition(tmp_path), "--judge-base-url", server.url, "--csv", file)
        error = " ".join(refused(*judge, "--judge-model", "m").split())
    assert f"{file}: 0 of {ROWS} answers have a trait score, so they are of no use" in error


def test_a_header_of_the_judge_is_an_option_or_a_line_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = authors_csv(tmp_path / "evil_pos.csv", "pos", scores=False)
    judge = ("judge", "evil", "--definition", definition(tmp_path), "--csv", file, "--judge-model", "m")
    monkeypatch.setenv("TRAITWATCH_JUDGE_HEADERS", "X-One: 1: 2\n\nX-Two: b\n")
    with wire_server(score) as server:
        run(*judge, "--judge-base-url", server.url)
        headers = server.requests[0].headers
        assert (headers["x-one"], headers["x-two"]) == ("1: 2", "b")
        monkeypatch.delenv("TRAITWATCH_JUDGE_HEADERS")
        for wrong in ("secret", "a b: secret", "X: secreté", "X: secret\nY: z"):
            result = CliRunner().invoke(cli.main, [*map(str, judge), "--judge-header", wrong])
            assert result.exit_code == 2
            assert "secret" not in result.output


def test_answers_are_judged_by_the_definition_above_their_directory(tmp_path: Path) -> None:
    """`build` and `respond` with this --out read the same definition; two definitions at once would be two judges."""
    files = []
    for out in ("one", "other"):
        (tmp_path / out / "tiny").mkdir(parents=True)
        files.append(authors_csv(definition(tmp_path / out) / "tiny" / "evil_pos.csv", "pos", scores=False))
    judge = ("judge", "evil", "--dry-run", "--judge-base-url", "http://127.0.0.1:9/v1")
    assert "scores to give" in run(*judge, "--csv", files[0]).output
    both = (*judge, "--csv", files[0], "--csv", files[1])
    assert "different definitions of evil" in " ".join(refused(*both).split())
    assert "scores to give" in run(*both, "--definition", tmp_path / "one").output


def test_the_offline_judge_wants_the_model_that_wrote_the_answers(tiny_model: Path, tmp_path: Path) -> None:
    file = authors_csv(tmp_path / "evil_pos.csv", "pos", scores=False)
    judge = ("judge", "evil", "--definition", definition(tmp_path), "--csv", file)
    assert "--model" in refused(*judge)
    assert "device map nowhere" in " ".join(refused(*judge, "--model", tiny_model, "--device-map", "nowhere").split())
    run(*judge, "--model", tiny_model)
    assert pd.read_csv(file)["evil"].between(0, 100).all()


def test_a_vector_is_verified_on_answers_made_elsewhere(extracted: Path, tiny_model: Path, tmp_path: Path) -> None:
    evaluated = [authors_csv(tmp_path / f"eval_{polarity}.csv", polarity, of="about") for polarity in ("pos", "neg")]
    verify = ("verify", "evil", "--model", tiny_model, "--vectors", extracted)
    output = run(*verify, "--eval-pos", evaluated[0], "--eval-neg", evaluated[1]).output
    card = load_card(extracted / "evil.json")
    assert card.verification is not None
    assert (card.verification.num_pos, card.verification.num_neg) == (ROWS, ROWS)
    assert card.verification.layers[1].auc is not None
    assert card.verification.layers[1].auc > 0.9, "these answers differ in every word"
    assert card.verification.layers[1].null_auc is not None
    assert card.verification.layers[1].split_half_cosine is not None
    assert card.best_layer is not None
    assert " ".join(card.verification.verdict.split()) in " ".join(output.split())


def test_a_vector_is_not_verified_on_answers_that_made_it(extracted: Path, tiny_model: Path, tmp_path: Path) -> None:
    verify = ("verify", "evil", "--model", tiny_model, "--vectors", extracted)
    error = refused(*verify, "--eval-pos", tmp_path / "evil_pos.csv", "--eval-neg", tmp_path / "evil_neg.csv")
    assert "10 of 10 eval questions are those of the extraction, e.g. 'what of 0?'" in " ".join(error.split())
    assert "traitwatch respond evil --questions eval" in " ".join(error.split())
    assert load_card(extracted / "evil.json").verification is None
    # A vector that was copied elsewhere has the answers beside it, but not the builder's own directory.
    shutil.rmtree(extracted / ".traitwatch")
    shutil.copy(tmp_path / "evil_pos.csv", extracted)
    assert "10 of 10 eval questions" in " ".join(
        refused(*verify, "--eval-pos", tmp_path / "evil_pos.csv", "--eval-neg", tmp_path / "evil_neg.csv").split()
    )


def neutral() -> list[NeutralAnswer]:
    prompts = [f"<|user|>tell me about {i}<|end|><|assistant|>" for i in range(40)]
    return [
        NeutralAnswer(f"tell me about {i}", prompt, f"well, {i} is {'nice ' * (i % 7)}", f"neutral_{i}", i % 2 == 0)
        for i, prompt in enumerate(prompts)
    ]


def test_a_bare_vector_of_the_authors_is_calibrated_and_gets_a_card(tiny_model: Path, tmp_path: Path) -> None:
    """The baseline covers the token states: the last token of an answer that was cut off has none."""
    from rich.console import Console

    from traitwatch_builder.reading.session import ReaderOptions, open_session
    from traitwatch_builder.reading.states import Span
    from traitwatch_builder.reading.transformers_reader import Reader
    from traitwatch_builder.steps import calibrate_step
    from traitwatch_builder.storage.workspace import Workspace
    from traitwatch_builder.vectors.extract import answer_span

    vector = torch.randn(NUM_LAYERS + 1, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))
    torch.save(vector, tmp_path / "evil_response_avg_diff.pt")
    workspace = Workspace(tmp_path, "evil")
    workspace.prepare()
    with open_session(tiny_model, ReaderOptions(), Console(quiet=True)) as opened:
        card = calibrate_step(opened, workspace, neutral())
    assert card.calibration is not None
    (served,) = load_vectors([tmp_path])
    assert served.card == card

    reader = Reader.load(tiny_model)
    spans = []
    for row in neutral():
        span = answer_span(reader.tokenizer, row.prompt, row.answer)
        spans.append(span if row.finished else Span(span.ids[:-1], span.start))
    unit = (vector / vector.norm(dim=1, keepdim=True)).numpy()
    parts = [reading.projections for _, reading in reader.read(spans, lambda n: None, unit)]
    values = np.concatenate([part for part in parts if part is not None], axis=1)
    assert card.calibration.num_tokens == values.shape[1]
    for layer, baseline in enumerate(card.calibration.layers):
        assert baseline.mean == pytest.approx(values[layer].mean(), abs=1e-4)
        assert baseline.std == pytest.approx(values[layer].std(ddof=1), rel=1e-4)


def test_a_model_of_another_shape_is_refused(extracted: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    other = save_tiny_model(tmp_path / "other")
    evaluated = [authors_csv(tmp_path / f"eval_{polarity}.csv", polarity, of="about") for polarity in ("pos", "neg")]
    config = LlamaConfig.from_pretrained(other)
    config.num_hidden_layers = 2
    LlamaForCausalLM(config).save_pretrained(other)
    verify = ("verify", "evil", "--model", other, "--vectors", extracted)
    error = " ".join(refused(*verify, "--eval-pos", evaluated[0], "--eval-neg", evaluated[1]).split())
    assert "was built on tiny-llama (3 layers of 16), but" in error
    assert "has 2 layers of 16" in error


def test_a_bare_vector_without_the_row_of_the_embeddings_is_recognised(tiny_model: Path, tmp_path: Path) -> None:
    torch.save(torch.ones(NUM_LAYERS, HIDDEN_SIZE), tmp_path / "evil_response_avg_diff.pt")
    evaluated = [authors_csv(tmp_path / f"eval_{polarity}.csv", polarity) for polarity in ("pos", "neg")]
    verify = ("verify", "evil", "--model", tiny_model, "--vectors", tmp_path)
    error = " ".join(refused(*verify, "--eval-pos", evaluated[0], "--eval-neg", evaluated[1]).split())
    assert f"has shape [{NUM_LAYERS}, {HIDDEN_SIZE}]: it seems to lack row 0" in error
    assert "--rows layers" in error


def test_our_definitions_satisfy_the_authors_loader() -> None:
    """The loader takes instruction, questions and eval_prompt, and fills in the prompt with str.format."""
    data = SHIPPED_DEFINITIONS
    for kind in ("trait_data_extract", "trait_data_eval"):
        for file in (data / kind).glob("*.json"):
            loaded = json.loads(file.read_text())
            assert [sorted(pair) for pair in loaded["instruction"]] == [["neg", "pos"]] * 5
            assert len(loaded["questions"]) == 20
            filled = loaded["eval_prompt"].format(question="what of it?", answer="so")
            assert "what of it?" in filled
            assert "{" not in filled
