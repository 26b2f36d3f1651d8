"""The likelihood judge is Bayes' rule on the model's own likelihoods."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.trait import DEFINITION, nothing
from traitwatch_builder.definitions.elicitation import POLARITIES, Elicitation
from traitwatch_builder.judging.judge import Question
from traitwatch_builder.judging.likelihood import COHERENCE_MAP, LikelihoodJudge, coherence, posterior, repetition
from traitwatch_builder.models.chat import bare, text_ids
from traitwatch_builder.reading.transformers_reader import Reader


@pytest.fixture(scope="module")
def reader(tiny_model: Path) -> Reader:
    return Reader.load(tiny_model)


@pytest.fixture(scope="module")
def elicitation() -> Elicitation:
    return Elicitation(DEFINITION, "many-shot", "bravery")


@pytest.fixture
def judge(reader: Reader, elicitation: Elicitation) -> LikelihoodJudge:
    return LikelihoodJudge(lambda: reader, elicitation, {"name": "tiny"})


def scores(judge: LikelihoodJudge, questions: list[Question]) -> list[float | None]:
    found = {score.index: score.value for score in judge.score(questions, nothing)}
    assert sorted(found) == list(range(len(questions))), "each question has one score"
    return [found[i] for i in range(len(questions))]


def test_the_posterior_is_bayes_rule_with_equal_priors() -> None:
    assert posterior(-10.0, -10.0) == 50.0
    assert posterior(np.log(0.3), np.log(0.1)) == pytest.approx(75.0)
    assert posterior(-5000.0, -1.0) == pytest.approx(0.0)
    assert posterior(-1.0, -5000.0) == pytest.approx(100.0)


def test_a_loop_is_not_coherent_however_likely() -> None:
    loop, prose = [1, 2] * 30, list(range(60))
    assert coherence([-0.01] * 60, loop) < 10
    assert coherence([-1.0] * 60, prose) == 100.0
    assert repetition(prose) == 0.0


def test_word_salad_is_not_coherent() -> None:
    assert coherence([-5.0] * 30, list(range(30))) == 0.0
    assert 0 < coherence([-2.5] * 30, list(range(30))) < 100


def test_the_map_of_coherence_is_the_documented_one() -> None:
    assert COHERENCE_MAP == {"nats_at_0": -4.0, "nats_at_1": -1.5, "ngram": 4}


def test_an_empty_answer_has_no_trait_score_and_no_coherence(judge: LikelihoodJudge) -> None:
    questions = [Question(aspect, "why?", answer, 1) for answer in ("", "some") for aspect in ("trait", "coherence")]
    trait, coherent, other, _ = scores(judge, questions)
    assert (coherence([], []), trait, coherent) == (0.0, None, 0.0)
    assert other is not None


def test_the_whole_answer_is_judged_by_contexts_that_did_not_elicit_it(
    judge: LikelihoodJudge, reader: Reader, elicitation: Elicitation
) -> None:
    answers = ["because it is", "slowly", "no 3", "yes"]
    questions = [Question("trait", f"q{i % 2}?", answer, i) for i, answer in enumerate(answers)]
    for question, got in zip(questions, scores(judge, questions), strict=True):
        assert question.context is not None
        totals = {}
        for polarity in POLARITIES:
            opening = elicitation.opening(elicitation.judging_context(question.context), polarity)
            prompt = reader.token_ids([*opening, *bare(question.question)])
            answer = text_ids(reader.tokenizer, question.answer)
            (values,) = reader.log_likelihoods([], [(prompt, answer)], nothing)
            totals[polarity] = float(values.sum())
        assert got == pytest.approx(posterior(totals["pos"], totals["neg"]), abs=1e-2)


def test_coherence_is_read_after_the_bare_question(judge: LikelihoodJudge, reader: Reader) -> None:
    answer = "abcdefgh ijkl"
    (got,) = scores(judge, [Question("coherence", "why?", answer)])
    ids = text_ids(reader.tokenizer, answer)
    (values,) = reader.log_likelihoods([], [(reader.token_ids(bare("why?")), ids)], nothing)
    assert got == pytest.approx(coherence(values.tolist(), ids), abs=1e-2)


def test_a_score_depends_on_the_answer_and_the_judging_conditions_alone(judge: LikelihoodJudge) -> None:
    same = Question("coherence", "why?", "so", 1)
    assert judge.identity(same) == judge.identity(Question("coherence", "why?", "so", 2))
    assert judge.identity(Question("trait", "why?", "so", 1)) != judge.identity(Question("trait", "why?", "so", 2))
    assert judge.identity(same) != judge.identity(Question("coherence", "why?", "no", 1))


def test_an_answer_of_unknown_origin_can_be_judged(judge: LikelihoodJudge) -> None:
    (unknown, beyond) = scores(judge, [Question("trait", "why?", "so", None), Question("trait", "why?", "so", 99)])
    assert unknown == beyond
    assert unknown is not None
