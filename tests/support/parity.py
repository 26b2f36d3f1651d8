"""Compares the projections of a server of the embedded model with those of transformers, by chat and by layer."""

import logging
from typing import Any

import numpy as np

from tests.support.reference import MAX_RELATIVE_ERROR, MAX_TIMES_ROUNDING, MIN_CORRELATION, Reference
from tests.support.serving import MODEL_NAME, Server
from traitwatch.vectors import Float32Array

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


def check_parity(
    server: Server,
    reference: Reference,
    in_served_precision: Reference,
    directions: dict[str, tuple[int, Float32Array]],
) -> None:
    """Assert that a server reports the projections of transformers, for each chat, each direction and each token.

    Args:
        server: a server of the embedded model, with the vectors of `directions`.
        reference: the model in float32.
        in_served_precision: the model in the precision of the server.
        directions: the layer and the unit direction of each vector.
    """
    for number, chat in enumerate(CHATS):
        prompt, response, scored = _answer(server, chat, sorted(directions))
        expected = reference.projections(prompt, response, directions)
        rounded = None
        for name in directions:
            traits = scored[name]
            got = np.array([traits["prompt_last"], *traits["tokens"][:-1]])
            correlation, error = _agreement(got, expected[name])
            logger.info("chat %d %s: correlation %.5f, relative error %.4f", number, name, correlation, error)
            if correlation >= MIN_CORRELATION and error <= MAX_RELATIVE_ERROR:
                continue
            # transformers takes longest in that precision. So it computes only the texts with a large error.
            rounded = rounded or in_served_precision.projections(prompt, response, directions)
            least, most = _agreement(rounded[name], expected[name])
            assert 1 - correlation <= max(1 - MIN_CORRELATION, MAX_TIMES_ROUNDING**2 * (1 - least)), (
                f"chat {number}, {name}: correlation {correlation}"
            )
            assert error <= max(MAX_RELATIVE_ERROR, MAX_TIMES_ROUNDING * most), (
                f"chat {number}, {name}: relative error {error}"
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
    """Return the correlation, and the root mean square of the error divided by the spread of the expected values."""
    correlation = float(np.corrcoef(got, expected)[0, 1])
    error = float(np.sqrt(np.mean((got - expected) ** 2)) / expected.std())
    return correlation, error
