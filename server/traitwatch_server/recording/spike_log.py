"""The spike event log: a line of JSON for each spike, in a file or on stdout.

A thread writes the log (`traitwatch_server.recording.background`). A file is rotated by size. Several API processes may
write to the same file: `concurrent-log-handler` writes each line, and does each rotation, under a lock on a file beside
it. A process whose file was renamed by another process opens the new one. Only its owner can read the file, since it
may hold texts.
"""

import contextlib
import logging
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

import msgspec
from concurrent_log_handler import ConcurrentRotatingFileHandler
from msgspec import Meta

from traitwatch_server.errors import ConfigError
from traitwatch_server.recording.background import Background, Seldom
from traitwatch_server.recording.sink import Recorded

logger = logging.getLogger(__name__)

STDOUT = "-"
# Events that `recent` can return.
RECENT = 200
# Responses with a spike whose events may wait for the disk. With texts fewer may wait: until a text is written, it is
# held as one integer for each token, the prompt included.
_WAITING = 1024
_WAITING_WITH_TEXT = 128
# Events that are made and written together. With texts each is written alone: one may be as long as a prompt.
_AT_ONCE = 256
_PRIVATE = 0o600
_DECIMALS = 4


class SpikeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One spike in the log. The fields are those of the line, in their order."""

    time: Annotated[str, Meta(description="when the response ended; RFC 3339, UTC, milliseconds")]
    event: Annotated[Literal["spike"], Meta(description="the kind of line")] = "spike"
    request_id: Annotated[
        str,
        Meta(description="the engine's request id; begins with the response's own id, which a client may have chosen"),
    ]
    call_id: Annotated[str, Meta(description="the random id of the call of the engine, which exemplars carry")]
    choice: Annotated[int, Meta(description="number of the choice")]
    model: Annotated[str, Meta(description="the served model's name")]
    engine: Annotated[str, Meta(description="engine index, as vLLM's metrics have it")]
    trait: Annotated[str, Meta(description="the trait's name")]
    layer: Annotated[int, Meta(description="the layer index at which it is read")]
    start: Annotated[int, Meta(description="index of the spike's first token in the response")]
    end: Annotated[int, Meta(description="index after its last token")]
    peak_z: Annotated[float | None, Meta(description="the highest z of a token in it")]
    mean_z: Annotated[float | None, Meta(description="mean z of the response; null where it has none")]
    threshold: Annotated[
        float | None,
        Meta(description="the smoothed z above which a run of tokens is a spike; null for a trait without a threshold"),
    ]
    tokens: Annotated[int, Meta(description="number of tokens of the response")]
    prompt: Annotated[
        str | msgspec.UnsetType,
        Meta(description="the prompt, special tokens included; this and the next two only where texts are logged"),
    ] = msgspec.UNSET
    text: Annotated[str | msgspec.UnsetType, Meta(description="the response")] = msgspec.UNSET
    spike_text: Annotated[str | msgspec.UnsetType, Meta(description="the tokens of the spike")] = msgspec.UNSET


@dataclass
class _Job:
    """A response with spikes.

    Attributes:
        ended: when it ended, UTC.
        response: the response; without its tokens where the log has no texts.
        tokens: number of its tokens.
        events: spikes that are not written yet.
    """

    ended: datetime
    response: Recorded
    tokens: int
    events: int


class SpikeLog:
    """Writes the spikes of scored responses; a `traitwatch_server.recording.sink.Sink`."""

    def __init__(
        self,
        target: str | None,
        *,
        max_bytes: int = 0,
        keep: int = 0,
        dropped: Callable[[int], object],
        decode: Callable[[Sequence[int]], str] | None = None,
    ):
        """Open the log.

        Args:
            target: path of the file, or `-` for stdout, which is not rotated; None where only `recent` is wanted.
            max_bytes: size at which the file is rotated (a line may go beyond it); 0 for never.
            keep: number of rotated files: FILE.1, the latest, to FILE.<keep>. With 0 the file is emptied instead.
            dropped: called with a number of events that were not written, from any thread.
            decode: turns token ids into text; with it the log has texts. It is called in the log's own thread, so it
                needs a tokenizer that no other thread uses.

        Raises:
            ConfigError: the file cannot be written.
        """
        self._dropped = dropped
        self._decode = decode
        self._undecoded = Seldom()
        self._recent: deque[SpikeEvent] = deque(maxlen=RECENT)
        self._recent_lock = Lock()
        self._stdout = target == STDOUT
        self._file = None if target is None or self._stdout else _open(target, max_bytes, keep)
        self._background = Background[_Job](
            "spike event log",
            take=self._take,
            end=self._end,
            lost=lambda job: self._dropped(job.events),
            waiting=_WAITING if decode is None else _WAITING_WITH_TEXT,
        )

    def record(self, response: Recorded) -> None:
        """Log the spikes of a response, if it has any."""
        count = sum(map(len, response.spikes))
        if not count:
            return
        tokens = len(response.token_ids)
        if self._decode is None:
            response = replace(response, prompt_token_ids=(), token_ids=())
        self._background.put(_Job(datetime.now(UTC), response, tokens, count))

    def recent(self, count: int = RECENT) -> list[dict[str, Any]]:
        """Return the latest events of this API process, the newest first, with the fields of their lines."""
        with self._recent_lock:
            events = list(self._recent)
        return [msgspec.to_builtins(event) for event in events[::-1][:count]]

    def close(self) -> None:
        """Write the events that still wait and close the file, within a few seconds."""
        self._background.close()

    def _take(self, job: _Job) -> None:
        events = spike_events(job.response, job.ended, job.tokens)
        texts = None if self._decode is None else self._texts(job.response, self._decode)
        while part := list(islice(events, _AT_ONCE if texts is None else 1)):
            self._write(part if texts is None else [texts(event) for event in part])
            job.events -= len(part)

    def _write(self, events: list[SpikeEvent]) -> None:
        with self._recent_lock:
            self._recent.extend(events)
        # One write for all of them: they are written together or, with a full disk, lost together.
        lines = b"\n".join([msgspec.json.encode(event) for event in events])
        if self._stdout:
            sys.stdout.buffer.write(lines + b"\n")
            sys.stdout.buffer.flush()
        elif self._file is not None:
            self._file.emit(logging.makeLogRecord({"msg": lines.decode()}))

    def _texts(
        self, response: Recorded, decode: Callable[[Sequence[int]], str]
    ) -> Callable[[SpikeEvent], SpikeEvent] | None:
        """Return what adds the texts to an event of a response; None where they cannot be decoded."""
        ids = list(response.token_ids)
        try:
            prompt, text = decode(list(response.prompt_token_ids)), decode(ids)
        except Exception:
            # A line without the text is better than no line.
            if self._undecoded.due():
                logger.exception("The text of a spike could not be decoded; its event has none.")
            return None

        def with_texts(event: SpikeEvent) -> SpikeEvent:
            spike = decode(ids[event.start : event.end])
            return msgspec.structs.replace(event, prompt=prompt, text=text, spike_text=spike)

        return with_texts

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()


def spike_events(response: Recorded, time: datetime, tokens: int) -> Iterator[SpikeEvent]:
    """Yield the events of a response's spikes, without texts, trait by trait.

    Args:
        response: the response.
        time: when it ended, UTC.
        tokens: number of its tokens.
    """
    written = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for trait, mean_z, spikes in zip(response.traits, response.mean_z.tolist(), response.spikes, strict=True):
        for spike in spikes:
            yield SpikeEvent(
                time=written,
                request_id=response.request_id,
                call_id=response.call_id,
                choice=response.index,
                model=response.model,
                engine=response.engine,
                trait=trait.name,
                layer=trait.layer,
                start=spike.start,
                end=spike.end,
                peak_z=_number(spike.peak_z),
                mean_z=_number(mean_z),
                threshold=None if trait.threshold is None else _number(trait.threshold.z),
                tokens=tokens,
            )


class _EventFile(ConcurrentRotatingFileHandler):
    """The rotated file. It raises errors, where the handler would print each of them."""

    def do_write(self, msg: str) -> None:
        """Write lines, or leave the file unchanged: half a line would spoil the next one. The caller holds the lock."""
        path = Path(self.baseFilename)
        size = path.stat().st_size if path.exists() else 0
        try:
            super().do_write(msg)
        except OSError:
            # The buffer of the stream still holds the lines that it could not write.
            stream, self.stream = self.stream, None
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise the error that is being handled."""
        raise


def checked_file(target: str) -> Path:
    """Return the file of a log, which exists then and is private; the launcher calls this before it starts an engine.

    Args:
        target: path of the file, not `-`.

    Raises:
        ConfigError: it cannot be written.
    """
    # The file that is rotated is the real one, not a link to it.
    path = Path(os.path.realpath(target))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(
            f"--traits-events {target}: {path.parent} must be a directory in which this user may make files; the log "
            "is rotated there."
        )
    if path.exists() and not path.is_file():
        raise ConfigError(
            f"--traits-events {target} is not a regular file, and cannot be rotated; give a file, or - for stdout."
        )
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _PRIVATE))
        path.chmod(_PRIVATE)
    except OSError as error:
        raise ConfigError(
            f"--traits-events {target} cannot be written ({error.strerror}); give a file that this user may write, or "
            "- for stdout."
        ) from error
    return path


def _open(target: str, max_bytes: int, keep: int) -> _EventFile:
    path = str(checked_file(target))
    return _EventFile(path, maxBytes=max_bytes, backupCount=keep, encoding="utf-8", chmod=_PRIVATE)


def _number(value: float) -> float | None:
    """Round a number for the log; None for NaN."""
    return None if math.isnan(value) else round(value, _DECIMALS)
