"""One pass of the OpenAI judge over questions: `Run` asks in parallel, reads the replies, and gives each score on.

Some replies are no judgement. The server rejects a request, or a reply is neither a score nor a refusal
(`replies.UnreadableReplyError`). Such an answer has no score. `Run` holds these empty scores back until one answer has
been judged. Where the first `_FRUITLESS_IN_A_ROW` requests are all fruitless, or all of a short pass, the fault is in
the judge and not in the answers: the pass fails, and has given no score on.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NoReturn

from traitwatch_builder.clients.chat_completions import REJECTED, in_parallel, server_message
from traitwatch_builder.clients.completion import CONTENT_FILTER
from traitwatch_builder.judging.judge import Score
from traitwatch_builder.judging.methods import INTEGER_ADDITION, Ask, Way
from traitwatch_builder.judging.probe import unreadable
from traitwatch_builder.judging.replies import (
    UnreadableReplyError,
    score_of_integer,
    score_of_logprobs,
    score_of_samples,
)

logger = logging.getLogger(__name__)

_INTEGER_TRIES = 2
_FRUITLESS_IN_A_ROW = 20


async def score_of(ask: Ask, way: Way, prompt: str) -> float | None:
    """Return the score of one answer, 0 to 100; None where the judge refuses.

    Raises:
        UnreadableReplyError: the reply is neither a score nor a refusal.
        openai.OpenAIError: from `ask`.
    """
    if way.method == "logprobs":
        return score_of_logprobs((await ask(way.params, prompt)).choices[0])
    if way.method == "samples":
        return score_of_samples((await ask(way.params, prompt)).choices)
    for tries_left in reversed(range(_INTEGER_TRIES)):
        try:
            return score_of_integer((await ask(way.params, prompt + INTEGER_ADDITION)).choices[0])
        except UnreadableReplyError as error:
            if not tries_left:
                raise
            logger.debug("The judge wrote no judgement: %s", error)
    raise AssertionError("the last try returns or raises")


class Run:
    """One pass over questions."""

    def __init__(self, judge: str, ask: Ask, way: Way, prompts: Sequence[str], give: Callable[[Score], None]):
        """Prepare the pass.

        Args:
            judge: the model, and where it is asked, for an error.
            ask: sends a message to the judge's model.
            way: how the model is asked.
            prompts: the filled-in prompt of each question.
            give: called with each score.
        """
        self._judge = judge
        self._ask = ask
        self._way = way
        self._prompts = prompts
        self._give = give
        self._rejections: list[str] = []
        self._unreadable: list[str] = []
        self._held: list[Score] = []
        self._last: Exception | None = None
        self._any_judged = False

    def problems(self, model: str) -> list[str]:
        """Return a sentence about the rejected requests, and one about the replies that could not be read."""
        found = []
        if self._rejections:
            found.append(
                f"{model} rejected {len(self._rejections)} of {len(self._prompts)} requests; these have no score: "
                f"{self._rejections[0]}"
            )
        if self._unreadable:
            found.append(
                f"{len(self._unreadable)} of {len(self._prompts)} replies of {model} are neither a score nor a "
                f"refusal; these have no score. It wrote, for example, {self._unreadable[0]}."
            )
        return found

    async def score_all(self, at_once: int) -> None:
        """Score all questions, at most `at_once` at a time. The first error of the SDK ends the pass.

        Args:
            at_once: requests that may be open at one time.

        Raises:
            openai.OpenAIError: a request failed for good, or the server rejects all requests.
            PipelineError: no reply can be read.
        """
        await in_parallel(self._score, range(len(self._prompts)), at_once)
        if not self._any_judged:
            self._fail()
        self._give_held()

    async def _score(self, index: int) -> None:
        value = None
        try:
            value = await score_of(self._ask, self._way, self._prompts[index])
            self._any_judged = True
        except REJECTED as error:
            self._rejections.append(server_message(error))
            self._last = error
            # The provider's filter refuses this answer, and not the request as such.
            self._any_judged |= error.code == CONTENT_FILTER
        except UnreadableReplyError as error:
            self._unreadable.append(str(error))
            self._last = error
        self._held.append(Score(index, value))
        if self._any_judged:
            self._give_held()
        elif len(self._held) >= _FRUITLESS_IN_A_ROW:
            self._fail()

    def _fail(self) -> NoReturn:
        """Raise the error of a pass without any judgement."""
        if isinstance(self._last, UnreadableReplyError):
            raise unreadable(self._judge, "scores", str(self._last))
        assert self._last is not None
        raise self._last

    def _give_held(self) -> None:
        held, self._held = self._held, []
        for score in held:
            self._give(score)
