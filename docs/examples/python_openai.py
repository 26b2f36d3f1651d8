"""Lists the traits of a Traitwatch server. Then asks for an answer with its scores, and for a streamed answer.

OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none OPENAI_MODEL=SmolLM2-135M-Instruct \
    python python_openai.py [TRAIT]
"""

import os
import sys
from typing import Any

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

MODEL = os.environ["OPENAI_MODEL"]
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How should I start a small bakery?"}]
SCORED = {"traits": True}

client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY


def list_traits() -> dict[str, Any]:
    """Print the loaded traits, and return the server's data on each."""
    listed: Any = client.get("/traits", cast_to=object)
    print(f"{'trait':20}{'layer':>9}{'threshold':>11}")
    for trait in listed["data"]:
        threshold = trait["threshold"]
        print(f"{trait['id']:20}{trait['layer']:9}{number(threshold and threshold['z']):>11}")
    return {trait["id"]: trait for trait in listed["data"]}


def ask() -> None:
    """Print an answer and its scores."""
    completion = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, temperature=0, max_tokens=60, extra_body=SCORED
    )
    choice = completion.choices[0]
    print(f"\nanswer: {choice.message.content!r}")
    print_scores(choice.model_extra or {})


def stream(name: str, calibration: dict[str, float] | None) -> None:
    """Print an answer as it comes. Each part follows the mean z so far (uncalibrated: mean projection) of a trait."""
    print(f"\nstreamed: {name} so far")
    projections: list[float] = []
    last: dict[str, Any] = {}
    for chunk in client.chat.completions.create(
        model=MODEL, messages=MESSAGES, temperature=0, max_tokens=60, stream=True, extra_body=SCORED
    ):
        for choice in chunk.choices:
            fields = choice.model_extra or {}
            tokens = fields.get("traits", {}).get(name, {}).get("tokens", [])
            projections += [projection for projection in tokens if projection is not None]
            mean = sum(projections) / len(projections) if projections else None
            if mean is not None and calibration is not None:
                mean = (mean - calibration["mean"]) / calibration["std"]
            print(f"{number(mean):>9}  {choice.delta.content or ''!r}")
            if choice.finish_reason:
                last = fields
    print_scores(last)


def print_scores(fields: dict[str, Any]) -> None:
    """Print the summary of the scores, which stands beside OpenAI's own fields."""
    print(f"{'trait':20}{'mean':>9}{'z':>9}{'max z':>9}{'spikes':>9}")
    for name, scores in fields.get("traits", {}).items():
        mean, z, highest = (number(scores[key]) for key in ("mean", "z", "max_z"))
        print(f"{name:20}{mean:>9}{z:>9}{highest:>9}{len(scores['spikes']):9}")
    if not fields.get("traits_complete"):
        print("Some tokens have no score. The numbers come from the other tokens.")


def number(value: float | None) -> str:
    """Return a number for the table, or a dash for an unknown number."""
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    traits = list_traits()
    ask()
    watched = sys.argv[1] if len(sys.argv) > 1 else next(iter(traits))
    stream(watched, traits[watched]["calibration"])
