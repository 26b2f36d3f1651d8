"""Two questions to a judge whose right scores are known, asked before the judge's first score.

`check_judge` asks how coherent a plain reply is, and how coherent a reply of jumbled words is. The right scores are
near 100 and near 0. So two calls find a judge whose replies cannot be read, a judge with another scale than 0 to 100,
and a judge that always says the same.
"""

from collections.abc import Awaitable, Callable

from traitwatch_builder.errors import PipelineError
from traitwatch_builder.judging.judge import Question
from traitwatch_builder.judging.replies import UnreadableReplyError
from traitwatch_builder.storage.scales import scale_of

CLEAR = Question("coherence", "What is the capital of France?", "The capital of France is Paris.")
JUMBLED = Question(
    "coherence", "What is the capital of France?", "seven of the because lamp lamp, under was Tuesday blue it if the of"
)
_SAME = 0.5
_LEAST_GAP = 20.0


def unreadable(judge: str, asked: str, said: str) -> PipelineError:
    """Return the error about a judge whose reply cannot be read.

    Args:
        judge: the model, and where it was asked.
        asked: what the judge was asked for.
        said: what it said, quoted.
    """
    advice = "take another --judge-model, or see docs/how-to/self-hosted-judge.md"
    if "only thinking" in said:
        advice = (
            "turn the model's thinking off, or serve the model so that the answer comes after the thinking (with the "
            "right --reasoning-parser, or with none), or take another --judge-model"
        )
    return PipelineError(f"{judge} was asked for {asked}, and wrote {said}. Nothing can be judged by it: {advice}.")


async def check_judge(value: Callable[[Question], Awaitable[float | None]], judge: str) -> str:
    """Ask the two questions.

    Args:
        value: asks the judge, and reads its reply.
        judge: the model, and where it is asked, for messages.

    Returns:
        A warning about a judge that is hardly of use; empty for a good judge.

    Raises:
        PipelineError: the judge is of no use.
    """
    asked = "the coherence of a plain sentence, from 0 to 100"
    try:
        clear, jumbled = await value(CLEAR), await value(JUMBLED)
    except UnreadableReplyError as error:
        raise unreadable(judge, asked, str(error)) from None
    if clear is None or jumbled is None:
        raise unreadable(judge, asked, "a refusal")
    scores = f"a plain sentence a coherence of {clear:.4g}, and jumbled words {jumbled:.4g}"
    scale = scale_of([clear, jumbled], least=2)
    if scale is not None and clear > jumbled:
        raise PipelineError(
            f"{judge} gave {scores}: it seems to judge from 0 to {scale:g} instead of from 0 to 100. Take another "
            "--judge-model."
        )
    if abs(clear - jumbled) <= _SAME:
        raise PipelineError(f"{judge} gave {scores}: it says the same to everything. Take another --judge-model.")
    if clear - jumbled < _LEAST_GAP:
        return f"{judge} gave {scores}. Such scores are hardly of use: consider another --judge-model."
    return ""
