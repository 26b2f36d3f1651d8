"""Has our loggers write where vLLM's do."""

import logging

_OURS = ("traitwatch", "traitwatch_server")


def log_with_vllm() -> None:
    """Give our loggers the handlers and the level of vLLM's, in this process.

    By themselves they would say nothing below a warning, and no time.
    """
    theirs = logging.getLogger("vllm")
    for name in _OURS:
        ours = logging.getLogger(name)
        ours.setLevel(theirs.level)
        ours.handlers = list(theirs.handlers)
