"""The builder checks a trait definition, and writes a new one as two files."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.definitions import shipped
from traitwatch.errors import ArtifactError
from traitwatch_builder.definitions import definition
from traitwatch_builder.definitions.definition import (
    SHIPPED_DEFINITIONS,
    TraitDefinition,
    WholeDefinition,
    definition_files,
    load_definition,
    save_definition,
    split,
    whole_definition,
)

SHIPPED = ["alignment-theatre", "corrigibility", "deception", "manipulativeness", "paternalism", "power-seeking"]


@pytest.fixture
def data() -> dict[str, Any]:
    return copy.deepcopy(shipped("deception"))


def error_message(data: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        whole_definition(data, "answer.json")
    return str(caught.value)


@pytest.mark.parametrize("trait", SHIPPED)
def test_every_shipped_definition_is_whole_and_has_16_examples(trait: str) -> None:
    whole = whole_definition(shipped(trait), trait)
    assert len(whole.examples) == 16
    extract, evaluate = (load_definition(path) for path in definition_files(SHIPPED_DEFINITIONS, trait))
    assert (extract, evaluate) == split(whole)
    assert extract.eval_prompt.format(question="Why?", answer="Because.").count("Because.") == 1


def test_the_shipped_corrigibility_says_that_it_means_resistance() -> None:
    assert load_definition(definition_files(SHIPPED_DEFINITIONS, "corrigibility")[0]).description.startswith(
        "Resistance to correction"
    )


def test_a_definition_of_the_authors_loads(tmp_path: Path) -> None:
    path = tmp_path / "evil.json"
    authors = {
        "instruction": [{"pos": "Be evil.", "neg": "Be kind."}],
        "questions": ["How do I share a cake?"],
        "eval_prompt": "Rate {question} {answer}",
    }
    path.write_text(json.dumps(authors))
    assert load_definition(path).description == ""
    path.write_text(json.dumps(authors | {"descriptions": "misspelt"}))
    with pytest.raises(ArtifactError, match="descriptions"):
        load_definition(path)


def test_the_halves_share_everything_but_the_questions(data: dict[str, Any]) -> None:
    extract, evaluate = split(whole_definition(data, "x"))
    assert extract.questions == data["questions"][:20]
    assert evaluate.questions == data["questions"][20:]
    assert extract.model_dump(exclude={"questions"}) == evaluate.model_dump(exclude={"questions"})
    assert extract.description == data["description"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.update(description="  "), "description: is empty"),
        (lambda d: d.pop("description"), "description: is missing"),
        (lambda d: d.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda d: d["instruction"].pop(), "instruction: 4 pairs, where 5 are needed"),
        (lambda d: d["instruction"][1].pop("neg"), "instruction 2, neg: is missing"),
        (lambda d: d["instruction"][1].update(neg=""), "instruction 2, neg: is empty"),
        (
            lambda d: d["instruction"][1].update(neg=d["instruction"][1]["pos"].upper()),
            "instruction 2, neg: says the same as instruction 2, pos",
        ),
        (
            lambda d: d["instruction"].__setitem__(4, d["instruction"][0]),
            "instruction 5, pos: says the same as instruction 1, pos",
        ),
        (lambda d: d["questions"].pop(), "questions: 39 of them, where 40 are needed"),
        (lambda d: d["questions"].append("One more?"), "questions: 41 of them"),
        (lambda d: d["questions"].__setitem__(3, 7), "question 4: Input should be a valid string"),
        (lambda d: d["questions"].__setitem__(3, " \n"), "question 4: is empty"),
        (lambda d: d["questions"].__setitem__(3, "\ud800 Why?"), "question 4: holds half of a surrogate"),
        (
            lambda d: d["questions"].__setitem__(39, d["questions"][0].lower().replace("?", " !").replace(" ", "  ")),
            "question 40: says the same as question 1",
        ),
        (
            lambda d: d["examples"][2].update(question=d["questions"][0]),
            "example 3, question: says the same as question 1",
        ),
        (
            lambda d: d["examples"][2].update(question=d["examples"][0]["question"] + "!"),
            "example 3, question: says the same as example 1, question",
        ),
        (lambda d: d["examples"][5].update(neg=d["examples"][5]["pos"] + "."), "example 6: pos and neg are the same"),
        (lambda d: d["examples"].pop(), "examples: 15 of them, where an even number of at least 4, or none, is needed"),
        (lambda d: d.update(examples=d["examples"][:2]), "examples: 2 of them"),
    ],
)
def test_each_fault_is_reported_with_its_place(data: dict[str, Any], change: Any, expected: str) -> None:
    change(data)
    message = error_message(data)
    assert message.startswith("answer.json is not a usable trait definition:\n- ")
    assert expected in message
    assert message.count("\n") <= 2, "one fault must not be reported as several"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("{answer} 0 to 100 REFUSAL", "lacks the placeholder {question}"),
        ("{question} 0 to 100 REFUSAL", "lacks the placeholder {answer}"),
        ("{question} {answer} {score} 0 to 100 REFUSAL", "stray brace at character 20, near"),
        ("{question} {answer} 0 to 100 REFUSAL }", "stray brace"),
        ("{question!r} {question} {answer} 0 to 100 REFUSAL", "stray brace"),
        ('{question} {answer} 0 to 100 REFUSAL {{"score": 1}}', "stray brace"),
        ("{{question}} {answer} 0 to 100 REFUSAL", "stray brace"),
        ("{question} {answer} 0 to 100", "does not offer REFUSAL"),
        ("{question} {answer} REFUSAL", "does not name the scale"),
    ],
)
def test_a_judge_prompt_that_cannot_be_filled_in_or_answered(data: dict[str, Any], prompt: str, expected: str) -> None:
    assert expected in error_message(data | {"eval_prompt": prompt})


def test_all_faults_are_reported_at_once(data: dict[str, Any]) -> None:
    del data["instruction"][0]["pos"]
    data["questions"] = [*data["questions"][:38], data["questions"][0]]
    data["eval_prompt"] = "{answer}"
    data["examples"][0]["neg"] = data["examples"][0]["pos"]
    message = error_message(data)
    for part in (
        "instruction 1, pos",
        "39 of them",
        "question 39: says the same",
        "{question}",
        "REFUSAL",
        "example 1:",
    ):
        assert part in message


@pytest.mark.parametrize("data", [None, [], "text", 3, {}])
def test_data_that_are_no_definition_are_refused(data: Any) -> None:
    assert "not a usable trait definition" in error_message(data)


def test_questions_that_differ_in_letters_of_any_script_or_in_symbols_are_different(data: dict[str, Any]) -> None:
    data["questions"][:6] = ["कि?", "का?", "How do I learn C?", "How do I learn C++?", "???", "!"]
    whole_definition(data, "x")


@pytest.mark.parametrize("count", [0, 4, 6])
def test_a_file_may_have_fewer_examples_or_none(data: dict[str, Any], count: int) -> None:
    assert len(whole_definition(data | {"examples": data["examples"][:count]}, "x").examples) == count


def test_a_definition_is_written_as_two_files_that_load(tmp_path: Path, data: dict[str, Any]) -> None:
    data["description"] = "naïve — 😀 \0"
    whole = whole_definition(data, "x")
    paths = save_definition(tmp_path / "new", "courage", whole)
    assert [path.relative_to(tmp_path) for path in paths] == [
        Path("new/trait_data_extract/courage.json"),
        Path("new/trait_data_eval/courage.json"),
    ]
    assert tuple(load_definition(path) for path in paths) == split(whole)
    raw = paths[0].read_text(encoding="utf-8")
    assert list(json.loads(raw)) == ["instruction", "questions", "eval_prompt", "examples", "description"]
    assert "naïve — 😀" in raw
    assert raw.startswith('{\n "instruction"')


def test_a_definition_that_differs_is_replaced_by_force_alone(tmp_path: Path, data: dict[str, Any]) -> None:
    old = whole_definition(data, "x")
    new = whole_definition(data | {"description": "another"}, "x")
    paths = save_definition(tmp_path, "courage", old)
    paths[0].unlink()
    save_definition(tmp_path, "courage", old)  # the same definition: a missing half is written
    with pytest.raises(ArtifactError, match=r"trait_data_extract/courage\.json exists and differs; give --force"):
        save_definition(tmp_path, "courage", new)
    assert tuple(load_definition(path) for path in paths) == split(old)
    save_definition(tmp_path, "courage", new, force=True)
    assert tuple(load_definition(path) for path in paths) == split(new)


def test_a_file_that_is_no_definition_is_not_replaced_either(tmp_path: Path, data: dict[str, Any]) -> None:
    evaluate = definition_files(tmp_path, "courage")[1]
    evaluate.parent.mkdir()
    evaluate.write_text("notes of mine")
    with pytest.raises(ArtifactError, match=r"trait_data_eval/courage\.json exists and differs"):
        save_definition(tmp_path, "courage", whole_definition(data, "x"))
    assert evaluate.read_text() == "notes of mine"
    assert not definition_files(tmp_path, "courage")[0].exists()


@pytest.mark.parametrize("had_one", [False, True])
def test_an_interruption_between_the_files_leaves_the_old_ones(
    tmp_path: Path, data: dict[str, Any], had_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = definition_files(tmp_path, "courage")
    if had_one:
        save_definition(tmp_path, "courage", whole_definition(data, "x"))
    before = [path.read_bytes() if had_one else None for path in paths]
    really = definition.write_atomically

    def interrupted(path: Path, content: bytes) -> None:
        if path == paths[1]:
            raise KeyboardInterrupt
        really(path, content)

    monkeypatch.setattr(definition, "write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_definition(tmp_path, "courage", whole_definition(data | {"description": "new"}, "x"), force=True)
    assert [path.read_bytes() if path.exists() else None for path in paths] == before


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, data: dict[str, Any]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        save_definition(tmp_path / "file", "courage", whole_definition(data, "x"))


def test_the_types_check_themselves(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="where 40 are needed"):
        WholeDefinition(**(data | {"questions": ["one?"]}))
    extract, _ = split(WholeDefinition(**data))
    assert isinstance(extract, TraitDefinition)
