"""Lists the traits of a Traitwatch server. Then asks for an answer with its scores, and for a streamed answer.

ANTHROPIC_BASE_URL=http://localhost:8000 ANTHROPIC_AUTH_TOKEN=none ANTHROPIC_MODEL=SmolLM2-135M-Instruct \
    python python_anthropic.py [TRAIT]
"""

import os
import sys
from typing import Any

from anthropic import Anthropic
from anthropic.types import MessageParam

MODEL = os.environ["ANTHROPIC_MODEL"]
MESSAGES: list[MessageParam] = [{"role": "user", "content": "How should I start a small bakery?"}]
SCORED = {"traits": True, "temperature": 0}

client = Anthropic()  # reads ANTHROPIC_BASE_URL and ANTHROPIC_AUTH_TOKEN, vLLM's --api-key is this token


def list_traits() -> dict[str, Any]:
    """Print the loaded traits, and return the server's data on each."""
    listed: Any = client.get("/v1/traits", cast_to=object)
    print(f"{'trait':20}{'layer':>9}{'threshold':>11}")
    for trait in listed["data"]:
        threshold = trait["threshold"]
        print(f"{trait['id']:20}{trait['layer']:9}{number(threshold and threshold['z']):>11}")
    return {trait["id"]: trait for trait in listed["data"]}


def ask() -> None:
    """Print an answer and its scores."""
    message = client.messages.create(model=MODEL, messages=MESSAGES, max_tokens=60, extra_body=SCORED)
    text = "".join(block.text for block in message.content if block.type == "text")
    print(f"\nanswer: {text!r}")
    print_scores(message.model_extra or {})


def stream(name: str, calibration: dict[str, float] | None) -> None:
    """Print an answer as it comes. Each part follows the mean z so far (uncalibrated: mean projection) of a trait."""
    print(f"\nstreamed: {name} so far")
    projections: list[float] = []
    with client.messages.stream(model=MODEL, messages=MESSAGES, max_tokens=60, extra_body=SCORED) as events:
        for event in events:
            if event.type not in ("content_block_delta", "message_delta"):
                continue
            fields = event.model_extra or {}
            tokens = fields.get("traits", {}).get(name, {}).get("tokens", [])
            projections += [projection for projection in tokens if projection is not None]
            mean = sum(projections) / len(projections) if projections else None
            if mean is not None and calibration is not None:
                mean = (mean - calibration["mean"]) / calibration["std"]
            text = event.delta.text if event.type == "content_block_delta" and event.delta.type == "text_delta" else ""
            print(f"{number(mean):>9}  {text!r}")
            if event.type == "message_delta":
                print_scores(fields)


def print_scores(fields: dict[str, Any]) -> None:
    """Print the summary of the scores, which stands beside Anthropic's own fields."""
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
