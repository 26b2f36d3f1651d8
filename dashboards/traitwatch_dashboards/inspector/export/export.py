"""The files of a view: JSON with all data, CSV with a row for each token, and an HTML page to share."""

import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from traitwatch_dashboards.inspector.export.shared_page import shared_page
from traitwatch_dashboards.inspector.scored.inspected_text import InspectedText
from traitwatch_dashboards.inspector.scored.tables import comparison_html
from traitwatch_dashboards.inspector.scored.transcript import Transcript

SAVE_BUTTONS = {"json": "Save JSON", "csv": "Save CSV", "html": "Save page"}
"""Kinds of file, and the labels of their buttons."""

_TYPES = {"json": "application/json", "csv": "text/csv;charset=utf-8", "html": "text/html;charset=utf-8"}


def exported(kind: str, panes: Sequence[Transcript]) -> str:
    """Return a file as JSON for the page's script, with `name`, `type` and `text`."""
    text = {"json": as_json, "csv": as_csv, "html": as_page}[kind](panes)
    return json.dumps({"name": f"traitwatch.{kind}", "type": _TYPES[kind], "text": text})


def as_json(panes: Sequence[Transcript]) -> str:
    """Return all messages, tokens and scores of the panes as JSON."""
    content = {
        "made_by": "traitwatch ui",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "panes": [
            {
                "title": pane.title,
                "model": pane.model,
                "messages": [
                    {"role": message.role, "content": message.content}
                    | ({} if message.scored is None else {"scored": _scored(message.scored)})
                    for message in pane.messages
                ],
            }
            for pane in panes
        ],
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def as_csv(panes: Sequence[Transcript]) -> str:
    """Return CSV with a row for each token of every scored text, with its projection and z for each trait."""
    table = pd.DataFrame(list(_rows(panes)))
    text = io.StringIO()
    table.to_csv(text, index=False)
    return text.getvalue()


def as_page(panes: Sequence[Transcript]) -> str:
    """Return one HTML page that loads nothing and runs no script."""
    compared = [(pane.title or "answer", pane.answers[-1]) for pane in panes if pane.answers]
    return shared_page(panes, comparison_html(compared) if compared else "")


def _rows(panes: Sequence[Transcript]) -> Iterator[dict[str, Any]]:
    for pane in panes:
        for number, message in enumerate(pane.messages):
            if message.scored is None:
                continue
            scored = message.scored
            for i, text in enumerate(scored.texts):
                row: dict[str, Any] = {"pane": pane.title, "message": number, "token": i, "text": text}
                for trait in scored.traits:
                    projections = scored.projections.get(trait.name, [])
                    projection = projections[i] if i < len(projections) else None
                    row |= {f"{trait.name}_projection": projection, f"{trait.name}_z": trait.z(projection)}
                yield row


def _scored(answer: InspectedText) -> dict[str, Any]:
    traits = {}
    for trait in answer.traits:
        summary = answer.summary(trait)
        projections = answer.projections.get(trait.name, [])
        traits[trait.name] = {
            "layer": trait.layer,
            "calibration": {"mean": trait.mean, "std": trait.std} if trait.calibrated else None,
            "threshold": trait.threshold,
            "mean": summary.mean,
            "z": summary.z,
            "max_z": summary.max_z,
            "spikes": [{"start": s.start, "end": s.end, "peak_z": s.peak_z} for s in summary.spikes],
            "projections": projections,
            "token_z": [trait.z(projection) for projection in projections],
        }
    return {
        "model": answer.model,
        "tokens": answer.texts,
        "traits": traits,
        "finish": answer.finish,
        "complete": answer.complete,
        "note": answer.note,
    }
