"""What Claude is asked for in unit tests, and what the server that `serve` starts is told to reply."""

import copy
import json
from collections.abc import Callable
from typing import Any

from tests.support.wire import anthropic as wire
from tests.support.wire.http import WireServer
from tests.unit.builder.definitions.test_definition import shipped
from traitwatch_builder.clients.usage import Usage

GOOD = shipped("deception")
TEXT = json.dumps(GOOD)
ONE_CALL = Usage(1, wire.INPUT_TOKENS, wire.OUTPUT_TOKENS)
SOON = {"retry_after_ms": "1"}

Serve = Callable[..., WireServer]


def faulty(**changes: Any) -> str:
    """Return a definition that is not as it must be."""
    return json.dumps(copy.deepcopy(GOOD) | changes)
