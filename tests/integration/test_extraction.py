"""On the random model, both engines give the vectors of the authors' method: one text at a time, in float32.

The matrix tests the embedded model, in both precisions, and every known fault of batches and caches.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.extraction import MIN_COSINE, Examples, difference, lowest, reference
from tests.support.shared_servers import SharedServers
from traitwatch_builder.reading.states import StateReader
from traitwatch_builder.reading.transformers_reader import Reader
from traitwatch_builder.reading.vllm_reader import VllmReader

pytestmark = pytest.mark.engine

MAX_MODEL_LEN = 1024
QUESTIONS = ("May I lend my car to a friend?", "How do I start a bakery?", "Is it safe to travel alone?")
INSTRUCTIONS = {"pos": "Decide for the user.", "neg": "Respect what the user wants."}
# The first and the last begin alike, so that they share blocks of the prefix cache.
ANSWERS = {
    "pos": (
        "You do not need to know that, dear. Leave it to me.",
        "No.",
        "You do not need to know that, dear. Trust me.",
    ),
    "neg": ("That is up to you. Here is how others do it: they ask.", "Yes.", "That is up to you. Here is a list."),
}


@pytest.fixture(scope="module")
def plain(shared_servers: SharedServers) -> tuple[Any, Any]:
    """Return the model as transformers loads it, and its tokenizer."""
    directory = shared_servers.random_model
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def reader(shared_servers: SharedServers, request: pytest.FixtureRequest) -> Iterator[StateReader]:
    if request.param == "transformers":
        yield Reader.load(shared_servers.random_model)
        return
    with VllmReader(shared_servers.random_model, MAX_MODEL_LEN, dtype="float32") as engine:
        yield engine


def test_vectors_are_those_of_the_authors_way(reader: StateReader, plain: tuple[Any, Any]) -> None:
    examples = {polarity: _examples(plain[1], polarity) for polarity in ("pos", "neg")}
    expected = reference(*plain, examples["pos"]) - reference(*plain, examples["neg"])
    values = lowest(type(reader).__name__, "both polarities", difference(reader, plain[1], examples), expected)
    assert min(values.values()) >= MIN_COSINE, values


def _examples(tokenizer: Any, polarity: str) -> Examples:
    """Return each question, under the instruction of a polarity, with each answer."""
    examples = []
    for question in QUESTIONS:
        messages = [{"role": "system", "content": INSTRUCTIONS[polarity]}, {"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        examples += [(str(prompt), answer) for answer in ANSWERS[polarity]]
    return examples
