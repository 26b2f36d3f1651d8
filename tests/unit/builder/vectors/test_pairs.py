"""Effective pairs are chosen by the scores, and the advice where there are few follows the counts."""

import pytest

from traitwatch_builder.errors import PipelineError
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.vectors.pairs import effective_pairs, few_pairs_warning


def scored(*scores: tuple[float | None, float | None], answer: str = "x") -> list[JudgedAnswer]:
    return [JudgedAnswer("q?", "p", answer, "t_0_pos_0", trait, coherence) for trait, coherence in scores]


def test_a_pair_is_effective_when_both_answers_meet_the_thresholds() -> None:
    pos = scored((90, 80), (49, 80), (90, 80), (90, 49), (90, 80), (50, 50))
    neg = scored((10, 80), (10, 80), (50, 80), (10, 80), (10, 49), (49, 50))
    assert effective_pairs(pos, neg) == [0, 5]
    assert effective_pairs(pos, neg, threshold=40) == [0, 1, 2, 5]
    assert effective_pairs(pos, neg, coherence=40) == [0, 3, 4, 5]


@pytest.mark.parametrize("scores", [(None, 80), (90, None), (None, None)])
def test_a_score_that_the_judge_refused_drops_the_pair(scores: tuple[float | None, float | None]) -> None:
    pos = [*scored((90, 80)), *scored(scores)]
    neg = [*scored((10, 80)), *scored((10, 80))]
    assert effective_pairs(pos, neg) == [0]
    neg_refused = [*scored((10, 80)), *scored((None if scores[0] is None else 10, scores[1]))]
    assert effective_pairs(scored((90, 80), (90, 80)), neg_refused) == [0]


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_answer_makes_no_pair_whatever_coherence_is_asked_for(empty: str) -> None:
    pos = [*scored((90, 80)), *scored((90, 0), answer=empty)]
    assert effective_pairs(pos, scored((10, 80), (10, 80)), coherence=0) == [0]


def test_no_effective_pair_is_an_error_that_names_the_counts_and_the_remedy() -> None:
    with pytest.raises(PipelineError) as caught:
        effective_pairs(scored((10, 80), (90, 80)), scored((10, 80), (90, 80)))
    for part in ("no effective pair among 2", "1 positive answers score 50 or more", "1 negative ones score below 50"):
        assert part in str(caught.value)
    with pytest.raises(PipelineError, match=r"do not show the trait: use --elicit many-shot.*answers files stay"):
        effective_pairs(scored((10, 80)), scored((10, 80)))
    with pytest.raises(PipelineError, match=r"lost to coherence: lower --temperature"):
        effective_pairs(scored((90, 10)), scored((10, 80)))
    with pytest.raises(PipelineError, match=r"negative answers show the trait too"):
        effective_pairs(scored((90, 80)), scored((90, 80)))


def test_the_warning_of_few_pairs_names_the_counts_and_the_remedy() -> None:
    pos, neg = scored(*[(90, 80)] * 49, *[(10, 80)] * 30), scored(*[(10, 80)] * 79)
    warning = few_pairs_warning(pos, neg, 49, 50, 50)
    assert warning is not None
    assert "only 49 of 79 pairs" in warning
    assert "49 positive answers score 50 or more" in warning
    assert "--n-per-question" in warning
    assert few_pairs_warning(pos, neg, 50, 50, 50) is None


def test_files_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(PipelineError, match="2 positive answers and 1 negative ones"):
        effective_pairs(scored((90, 80), (90, 80)), scored((10, 80)))


def test_the_advice_is_more_answers_where_no_pair_is_lost() -> None:
    warning = few_pairs_warning(scored(*[(90, 80)] * 5), scored(*[(10, 80)] * 5), 5, 50, 50)
    assert warning is not None
    assert "only 5 of 5 pairs are effective" in warning
    assert warning.endswith("There are only 5 pairs in all: make more answers (--n-per-question, or more questions).")
    assert "lost" not in warning


def test_the_advice_names_a_loss_with_its_number_and_no_other() -> None:
    pos, neg = scored(*[(90, 80)] * 45, *[(90, 20)] * 14, (20, 80)), scored(*[(10, 80)] * 60)
    warning = few_pairs_warning(pos, neg, 45, 50, 50)
    assert warning is not None
    assert "14 are lost to coherence: lower --temperature" in warning
    assert "do not show the trait" not in warning
    assert "pairs in all" not in warning, "there were enough pairs"


@pytest.mark.parametrize(
    ("pos", "neg", "advice"),
    [
        (scored((None, 80), (None, 80)), scored((10, 80), (10, 80)), "2 are lost because an answer has no score"),
        (scored((90, None)), scored((10, 80)), "1 are lost because an answer has no score"),
        (scored((90, 80), answer=" "), scored((10, 80)), "1 are lost because an answer is empty: allow more"),
    ],
)
def test_a_missing_score_and_an_empty_answer_are_no_want_of_coherence_or_trait(
    pos: list[JudgedAnswer], neg: list[JudgedAnswer], advice: str
) -> None:
    with pytest.raises(PipelineError) as caught:
        effective_pairs(pos, neg)
    assert advice in str(caught.value)
    assert "lost to coherence" not in str(caught.value)
    assert "do not show the trait" not in str(caught.value)


def test_scores_from_0_to_1_are_the_reason_and_not_coherence() -> None:
    with pytest.raises(PipelineError, match=r"All 4 trait scores lie between 0 and 1.*multiply the scores by 100"):
        effective_pairs(scored((0.9, 0.8), (0.8, 0.9)), scored((0.1, 0.9), (0.0, 1.0)))
