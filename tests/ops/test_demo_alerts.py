"""The parts of `traitwatch demo-alerts` that need no model. `tests/e2e` runs the whole command."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS, load_definition
from traitwatch_dashboards.demo.alert_chats import burst_chats, ordinary_chats
from traitwatch_dashboards.demo.alerts import demo_alerts


def test_without_prometheus_the_error_names_the_packages_and_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(demo_alerts, [])
    assert result.exit_code == 1
    assert result.output == (
        "Error: prometheus is not installed: on Debian and Ubuntu, apt-get install prometheus prometheus-alertmanager\n"
    )


def test_no_chat_took_part_in_building_or_calibrating_a_vector() -> None:
    known: set[str] = set()
    for path in SHIPPED_DEFINITIONS.glob("trait_data_*/*.json"):
        definition = load_definition(path)
        known |= {*definition.questions, *(e.question for e in definition.examples)}
        known |= {text for e in definition.examples for text in (e.pos, e.neg)}
    prompts = json.loads((SHIPPED_DEFINITIONS / "neutral_prompts.json").read_text())["prompts"]
    assert prompts
    known |= set(prompts)
    texts = {message["content"] for chat in [*ordinary_chats(50), *burst_chats(50)] for message in chat}
    assert not texts & known


def test_the_burst_ends_in_questions_and_shows_replies_before_them() -> None:
    chats = burst_chats(50)
    assert len(chats) == 50
    for chat in chats:
        assert [message["role"] for message in chat] == ["user", "assistant"] * (len(chat) // 2) + ["user"]
