"""The server's log messages go to vLLM's log."""

import io
import logging
from collections.abc import Iterator

import pytest

from traitwatch_server.process import log_with_vllm


@pytest.fixture
def loggers() -> Iterator[list[logging.Logger]]:
    """The loggers. They are restored at the end of the test."""
    loggers = [logging.getLogger(name) for name in ("vllm", "traitwatch", "traitwatch_server")]
    before = [(logger.handlers, logger.level) for logger in loggers]
    yield loggers
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.level = handlers, level


def test_our_loggers_write_with_vllms_handlers_and_level(loggers: list[logging.Logger]) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s from %(name)s: %(message)s"))
    loggers[0].handlers = [handler]
    loggers[0].setLevel(logging.INFO)
    for _ in range(2):
        log_with_vllm()
    logging.getLogger("traitwatch_server.app.plugin").info("scoring")
    logging.getLogger("traitwatch.vectors").info("no card")
    logging.getLogger("traitwatch_server.app.plugin").debug("detail")
    assert (
        written.getvalue() == "INFO from traitwatch_server.app.plugin: scoring\nINFO from traitwatch.vectors: no card\n"
    )
