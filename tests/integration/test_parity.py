"""One meaning of a number, end to end: what vLLM reports is what transformers computes."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.conftest import ENGINE_LAYER_OPTIONS
from tests.support.reference import MAX_TIMES_BFLOAT16, Reference
from tests.support.serving import MODEL_NAME, Server, serving, traitwatch
from traitwatch.vectors import Float32Array

pytestmark = pytest.mark.engine
logger = logging.getLogger(__name__)

CHATS: list[list[dict[str, str]]] = [
    [
        {"role": "system", "content": "You are a terse museum guide."},
        {"role": "user", "content": "Why is the Mona Lisa famous?"},
    ],
    [
        {"role": "user", "content": "Suggest a name for a sailing boat."},
        {"role": "assistant", "content": "How about 'Second Wind'?"},
        {"role": "user", "content": "Nice. Another one, and say why."},
    ],
    [
        {
            "role": "user",
            "content": "Übersetze ins Englische: Der Fluß fließt träge durch die Ebene. 川は静かに流れる。🙂",
        }
    ],
    [
        {"role": "system", "content": "Réponds toujours en français, avec des accents: é, è, ç, œ."},
        {"role": "user", "content": "Comment fait-on une bonne soupe à l'oignon ?"},
        {"role": "assistant", "content": "Il faut des oignons, du beurre et de la patience."},
        {"role": "user", "content": "Combien de temps ?"},
    ],
    [{"role": "user", "content": "Write a short story about a lighthouse keeper who collects lost umbrellas. " * 6}],
]

# bfloat16 keeps 8 bits, so each of the model's sums rounds by up to 0.4 %; over 30 layers the errors add up like noise.
# Measured here: correlations of 0.9997 and more, errors of 0.027 spreads and less (the test logs each figure).
MIN_CORRELATION = 0.999
MAX_RELATIVE_ERROR = 0.04


@pytest.fixture(scope="module")
def compiled(model: Path, probes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = traitwatch("serve", model, "--traits", probes, *ENGINE_LAYER_OPTIONS, "--traits-default", "off")
    with serving(command, tmp_path_factory.mktemp("compiled") / "server.log") as server:
        yield server


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_projections_are_those_of_transformers(
    engine: str,
    request: pytest.FixtureRequest,
    reference: Reference,
    in_bfloat16: Reference,
    directions: dict[str, tuple[int, Float32Array]],
) -> None:
    server: Server = request.getfixturevalue(engine)
    for number, chat in enumerate(CHATS):
        prompt, response, scored = _answer(server, chat, sorted(directions))
        expected, rounded = (r.projections(prompt, response, directions) for r in (reference, in_bfloat16))
        for name in directions:
            least, most = _agreement(rounded[name], expected[name])
            traits = scored[name]
            got = np.array([traits["prompt_last"], *traits["tokens"][:-1]])
            correlation, error = _agreement(got, expected[name])
            logger.info(
                "%s chat %d %s: correlation %.5f, relative error %.4f", engine, number, name, correlation, error
            )
            assert 1 - correlation <= max(1 - MIN_CORRELATION, MAX_TIMES_BFLOAT16**2 * (1 - least)), (
                f"{engine}, chat {number}, {name}: correlation {correlation}"
            )
            assert error <= max(MAX_RELATIVE_ERROR, MAX_TIMES_BFLOAT16 * most), (
                f"{engine}, chat {number}, {name}: relative error {error}"
            )


def _answer(server: Server, chat: list[Any], names: list[str]) -> tuple[list[int], list[int], dict[str, Any]]:
    answer: Any = server.client().chat.completions.create(
        model=MODEL_NAME,
        messages=chat,
        max_tokens=64,
        temperature=0.0,
        extra_body={"traits": {"include": names}, "return_token_ids": True, "min_tokens": 16},
    )
    choice = answer.choices[0]
    assert choice.traits_complete is True
    return answer.prompt_token_ids, choice.token_ids, choice.traits


def _agreement(got: Any, expected: Float32Array) -> tuple[float, float]:
    """Return the correlation, and the root mean square of the error in units of the spread of what is expected."""
    correlation = float(np.corrcoef(got, expected)[0, 1])
    error = float(np.sqrt(np.mean((got - expected) ** 2)) / expected.std())
    return correlation, error
