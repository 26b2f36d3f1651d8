"""The server's latest spikes, and the texts of spikes that can be scored again."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.api.problems import TROUBLE
from traitwatch_dashboards.inspector.scored.scoring import Pasted
from traitwatch_dashboards.inspector.scored.tables import number

Event = Mapping[str, Any]

# Longest text of a spike in the table, characters.
_LONGEST = 120


async def latest_spikes(server: Server, limit: int = 50) -> list[Event]:
    """Return the latest spikes, newest first; an empty list where the server sends none or fails."""
    try:
        return await read_spikes(server, limit)
    except TROUBLE:
        return []


async def read_spikes(server: Server, limit: int = 50) -> list[Event]:
    """Return the latest spikes, newest first; raise the same errors as `Server.spikes`."""
    answer = await server.spikes(limit)
    events = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(events, list):
        raise DashboardError("The server's response has no list of spikes.")
    return [event for event in events if isinstance(event, dict)]


def choices_of(events: Sequence[Event]) -> list[tuple[str, str]]:
    """Return the choices among the events with texts: a label, and the event as JSON."""
    return [
        (
            f"{str(event.get('time', ''))[11:19]}  {event.get('trait')}, peak z {_number(event, 'peak_z')}",
            json.dumps({"prompt": event.get("prompt", ""), "text": event["text"]}),
        )
        for event in events
        if isinstance(event.get("text"), str)
    ]


def pasted_event(pasted: Pasted) -> Pasted:
    """Return the texts of the event where a line of the event log was pasted; otherwise the pasted text.

    Raises:
        DashboardError: the event has no texts.
    """
    text = pasted.text.strip()
    if not text.startswith("{"):
        return dataclasses.replace(pasted, text=pasted.text or "", prompt=pasted.prompt or "")
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        return pasted
    if not isinstance(event, dict) or event.get("event") != "spike":
        return pasted
    if not isinstance(event.get("text"), str):
        raise DashboardError(
            "This event has no text: the server logs texts only if it is started with --traits-events-text."
        )
    prompt = event.get("prompt")
    return Pasted(event["text"], prompt if isinstance(prompt, str) else "", raw=True)


def spikes_table(events: Sequence[Event]) -> pd.DataFrame:
    """Return the events as a table, a row for each spike."""
    return pd.DataFrame(
        [
            {
                "time (UTC)": str(event.get("time", ""))[:19].replace("T", " "),
                "trait": event.get("trait"),
                "peak z": _number(event, "peak_z"),
                "mean z": _number(event, "mean_z"),
                "tokens": f"{event.get('start')} to {event.get('end')} of {event.get('tokens')}",
                "request": event.get("request_id"),
                **({"text": _short(str(event["spike_text"]))} if "spike_text" in event else {}),
            }
            for event in events
        ]
    )


def _number(event: Event, key: str) -> str:
    """Return a number of an event as text; the text for no number where another program sent another value."""
    try:
        return number(float(event.get(key)))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return number(None)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
