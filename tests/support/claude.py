"""Definitions and replies for the unit tests of Claude. The fixture `serve` starts a server that sends the replies."""

import copy
import json
from collections.abc import Callable
from typing import Any

from tests.support.definitions import shipped
from tests.support.wire import anthropic as wire
from tests.support.wire.http import WireServer
from traitwatch_builder.clients.usage import Usage

GOOD = shipped("deception")
TEXT = json.dumps(GOOD)
ONE_CALL = Usage(1, wire.INPUT_TOKENS, wire.OUTPUT_TOKENS)
SOON = {"retry_after_ms": "1"}
NO_ADAPTIVE = wire.error(400, "invalid_request_error", "adaptive thinking is not supported on this model")

Serve = Callable[..., WireServer]


def faulty(**changes: Any) -> str:
    """Return a definition with some fields replaced, as JSON."""
    return json.dumps(copy.deepcopy(GOOD) | changes)
