"""Gets the demo's two answers from the demo's own server, with the projection of every token."""

import tempfile
from pathlib import Path

from rich.console import Console

from traitwatch.processes import free_port
from traitwatch_dashboards.demo.server import demo_server, scored_choice
from traitwatch_dashboards.example_chats import CHATS

from .data import SHOWN_TRAIT, ServedAnswer


def served_answers(console: Console, model: Path, seed: int) -> dict[str, ServedAnswer]:
    """Serve a model with its shipped vectors and ask the demo's questions.

    Args:
        console: shows the progress.
        model: the directory of the model.
        seed: the seed of the sampling. The other sampling parameters are the demo's.

    Raises:
        RuntimeError: some tokens of an answer have no score.
    """
    answers = {}
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "server.log"
        with demo_server(console, model, free_port(), log, compiled=False) as url:
            for title, messages in CHATS.items():
                choice = scored_choice(url, messages, SHOWN_TRAIT, seed=seed)
                if not choice.traits_complete:
                    raise RuntimeError(f"the answer {title} came back without all of its scores")
                scores = choice.traits[SHOWN_TRAIT]
                answers[title] = ServedAnswer(
                    tokens=[part.token for part in choice.logprobs.content],
                    projections=scores["tokens"],
                    **{field: scores[field] for field in ("mean", "z", "max_z", "spikes")},
                )
    return answers
