"""Readers of the builder's files, and of what a visitor pastes into the inspector."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from tests.support.fuzzing import Reader
from traitwatch.errors import ArtifactError
from traitwatch.vectors import SHIPPED
from traitwatch_builder.answering.source import Answer
from traitwatch_builder.commands.define import define_command
from traitwatch_builder.definitions.definition import SHIPPED_DEFINITIONS, load_definition
from traitwatch_builder.definitions.elicitation import Elicitation
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.storage.answers import load_neutral_prompts, read_answers, read_neutral, write_scores
from traitwatch_builder.storage.doubts import scale_doubt
from traitwatch_builder.storage.tables import read_table
from traitwatch_builder.storage.worklog import Worklog, fingerprint
from traitwatch_builder.storage.workspace import Manifest
from traitwatch_builder.vectors.evidence import Evidence
from traitwatch_builder.vectors.report_evidence import Histogram, ReportEvidence, load_evidence
from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.inspector.api.problems import message_of
from traitwatch_dashboards.inspector.scored.scoring import Pasted
from traitwatch_dashboards.inspector.scored.spike_events import choices_of, pasted_event, spikes_table
from traitwatch_dashboards.inspector.scored.transcript import parse_examples

TRAIT = "paternalism"
_ROWS = 3


def _rows(name: str) -> bytes:
    """Return the first rows of a shipped file of answers."""
    (file,) = SHIPPED.glob(f"*/{name}")
    table = read_table(file, ()).head(_ROWS)
    return table.to_csv(index=False).encode()


def _answers() -> list[bytes]:
    return [_rows(f"{TRAIT}_eval_pos.csv.gz"), _rows("deception_neg.csv.gz").replace(b"deception", b"paternalism", 1)]


def _definitions() -> list[bytes]:
    """Return a shipped definition as it is, as the authors have it, and as an assistant writes it."""
    halves = [json.loads((SHIPPED_DEFINITIONS / kind / f"{TRAIT}.json").read_text()) for kind in _KINDS]
    whole = {**halves[0], "questions": halves[0]["questions"] + halves[1]["questions"]}
    authors = {key: whole[key] for key in ("instruction", "questions", "eval_prompt")}
    pasted = f"Here is the definition:\n\n```json\n{json.dumps({TRAIT: whole}, indent=1, ensure_ascii=False)}\n```\n"
    return [json.dumps(whole).encode(), json.dumps(authors).encode(), pasted.encode()]


_KINDS = ("trait_data_extract", "trait_data_eval")


def _define(data: bytes, folder: Path) -> None:
    """Have `traitwatch define` check a file, as it is and with the options that help."""
    (folder / "answer.txt").write_bytes(data)
    for options in ((), ("--split", "--description", "deciding for others")):
        arguments = ["evil", "--from", str(folder / "answer.txt"), "--definitions", str(folder), *options]
        result = CliRunner().invoke(define_command, arguments)
        refusal = None if isinstance(result.exception, SystemExit) else result.exception
    if refusal is not None:
        raise refusal


def _definition(data: bytes, folder: Path) -> None:
    (folder / "evil.json").write_bytes(data)
    definition = load_definition(folder / "evil.json")
    Elicitation(definition, "system", "evil")


def _judged(data: bytes, folder: Path) -> None:
    (folder / "a.csv").write_bytes(data)
    rows = read_answers(folder / "a.csv", TRAIT)
    scale_doubt(rows)
    write_scores(folder / "a.csv", TRAIT, rows)
    assert read_answers(folder / "a.csv", TRAIT) == rows


def _compressed(data: bytes, folder: Path) -> None:
    (folder / "a.csv.gz").write_bytes(data)
    read_answers(folder / "a.csv", TRAIT)


def _file(read: Callable[[Path], object]) -> Callable[[bytes, Path], None]:
    """Return the reader of a file's content for a function that reads a path."""

    def reader(data: bytes, folder: Path) -> None:
        (folder / "file").write_bytes(data)
        read(folder / "file")

    return reader


def _worklog(data: bytes, folder: Path) -> None:
    (folder / "log.jsonl").write_bytes(data)
    with Worklog(folder / "log.jsonl") as log:
        log.get("a", Answer)
        log.put("b", {"text": "so", "finished": True})
    with Worklog(folder / "log.jsonl") as log:
        assert log.get("b", Answer) == Answer("so", finished=True)


def _worklogs() -> list[bytes]:
    entries = [{"key": key, "value": {"text": f"an answer {key}", "finished": True}} for key in "abc"]
    return ["".join(f"{json.dumps(entry)}\n" for entry in entries).encode()]


def _manifest(data: bytes, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(data)
    manifest = Manifest(folder / "manifest.json", folder)
    manifest.done("extract", {})
    manifest.record("verify", {}, [])
    assert manifest.done("verify", {})


def _manifests() -> list[bytes]:
    step = {"inputs": fingerprint({}), "outputs": {"evil.json": "0" * 64}}
    return [json.dumps({"extract": step, "calibrate": step}, indent=1).encode()]


def _evidence() -> list[bytes]:
    buffer = io.BytesIO()
    np.savez(buffer, null=np.zeros((2, 3, 4)), halves=np.zeros((2, 3, 4)), questions=np.array(["why?"]))
    return [buffer.getvalue()]


def _report_evidence() -> list[bytes]:
    found = ReportEvidence(sha256="0" * 64, layer=2, neutral_z_histogram=Histogram.of([0.5, 1.0, -2.0]))
    return [found.model_dump_json().encode()]


def _prompts() -> list[bytes]:
    prompts = json.loads((SHIPPED_DEFINITIONS / "neutral_prompts.json").read_text())["prompts"]
    return [json.dumps({"prompts": prompts[:10]}, indent=1).encode()]


def _pasted(data: bytes, folder: Path) -> None:
    text = data.decode(errors="replace")
    event = pasted_event(Pasted(text, "", raw=False))
    assert isinstance(event.text, str)
    assert isinstance(event.prompt, str)
    parse_examples(text)


def _pastes() -> list[bytes]:
    event = {
        "event": "spike",
        "trait": "evil",
        "peak_z": 4.2,
        "prompt": "<|user|>why?",
        "text": "so",
        "spike_text": "so",
    }
    return [json.dumps(event).encode(), b"User: why?\n\nAssistant: so\nit is\n\nUser: when?"]


def _spikes(data: bytes, folder: Path) -> None:
    """Show what a server answers for its latest spikes, or for an error."""
    message_of(data.decode(errors="replace"))
    try:
        events = json.loads(data)
    except (ValueError, RecursionError):
        return
    events = [event for event in events if isinstance(event, dict)] if isinstance(events, list) else []
    choices_of(events)
    spikes_table(events)


READERS = (
    Reader("answers csv", _answers, _judged, (ArtifactError,)),
    Reader("answers csv.gz", lambda: [gzip.compress(data) for data in _answers()], _compressed, (ArtifactError,)),
    Reader("neutral csv", lambda: [_rows("neutral.csv.gz")], _file(read_neutral), (ArtifactError,)),
    Reader("neutral prompts", _prompts, _file(load_neutral_prompts), (ArtifactError,)),
    Reader("define --from", lambda: _definitions()[:1] + _definitions()[2:], _define, (ArtifactError,), share=0.4),
    Reader("definition", lambda: _definitions()[:2], _definition, (ArtifactError, PipelineError)),
    Reader("worklog", _worklogs, _worklog, ()),
    Reader("manifest", _manifests, _manifest, ()),
    Reader("evidence", _evidence, _file(Evidence.load), (ArtifactError,)),
    Reader("report evidence", _report_evidence, _file(load_evidence), (ArtifactError,)),
    Reader("pasted into the inspector", _pastes, _pasted, (DashboardError,)),
    Reader("spikes of a server", lambda: [b"[" + _pastes()[0] + b"]"], _spikes, ()),
)
