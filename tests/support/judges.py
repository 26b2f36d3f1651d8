"""The OpenAI judge for unit tests, and replies of a server with the wire format."""

from collections.abc import Callable
from typing import Any

from tests.support.trait import nothing
from tests.support.wire.http import Reply, Request, WireServer, wire_server
from tests.support.wire.openai import is_check, is_probe, sane, spelled
from traitwatch_builder.judging.judge import Question
from traitwatch_builder.judging.openai_judge import OpenAIJudge

PROMPT = "Rate {{0-100}}.\nQ: {question}\nA: {answer}"
Respond = Callable[[Request], Reply]


def good(respond: Respond) -> Respond:
    """Answer the checks of a judge (`judging.probe`) as a good judge does, and other requests with `respond`."""
    return lambda request: sane(request) if is_check(request) else respond(request)


def with_log_probabilities(respond: Respond, probe: Reply | None = None) -> Respond:
    """Reply like a good judge that returns log-probabilities and writes 85 as one token."""
    return good(lambda request: (probe or spelled("85")) if is_probe(request) else respond(request))


def judge_at(server: WireServer, **options: Any) -> OpenAIJudge:
    return OpenAIJudge(PROMPT, model="m", base_url=server.url, **{"retries": 1, **options})


def questions(count: int) -> list[Question]:
    return [Question("trait", f"question {i}", f"answer {i}") for i in range(count)]


def scores(judge: OpenAIJudge, asked: list[Question]) -> list[float | None]:
    """Score all questions; return the scores in their order."""
    found = {score.index: score.value for score in judge.score(asked, nothing)}
    assert sorted(found) == list(range(len(asked)))
    return [found[index] for index in range(len(asked))]


def score_for(respond: Respond, probe: Reply | None = None) -> float | None:
    with wire_server(with_log_probabilities(respond, probe)) as server:
        return scores(judge_at(server), questions(1))[0]
