"""One HTTP request that is scored, and the calls of the engine that it makes.

The middleware puts the request into the context variable `SCORED_REQUEST`, where the engine's `generate`
(`traitwatch_server.app.engine`) finds it. So the calls of the request are known in their order, with every token that
they generate, whatever an endpoint of vLLM does between the two.
"""

from contextvars import ContextVar
from enum import Enum
from typing import NamedTuple

from traitwatch_server.ledger.call import Call
from traitwatch_server.ledger.choice_rows import ChoiceRows
from traitwatch_server.ledger.ledger import Ledger
from traitwatch_server.responses.selection import Selection


class Turn(NamedTuple):
    """A choice of a call of the engine: an answer, or one of the turns that an answer is made of.

    Attributes:
        call: the call.
        choice: the number of the choice among those of the call.
    """

    call: Call
    choice: int

    @property
    def rows(self) -> ChoiceRows:
        """The rows of the choice."""
        return self.call.choice(self.choice)


class ScoredRequest:
    """The calls of one request so far.

    Attributes:
        selection: what its response carries.
    """

    def __init__(self, selection: Selection, ledger: Ledger):
        """Start without calls.

        Args:
            selection: what the response carries.
            ledger: opens and closes the calls.
        """
        self.selection = selection
        self._ledger = ledger
        self._calls: list[Call] = []
        self._closed = False

    def open_call(self, request_id: str, num_choices: int) -> Call | None:
        """Open a call of the engine, which the response and the recorder hold; None once the response is over."""
        if self._closed:
            return None
        call = self._ledger.open(
            self.selection.loaded,
            num_choices,
            request_id=request_id,
            with_prompt=self.selection.prompt,
            holders=2,
        )
        self._calls.append(call)
        return call

    def close(self) -> None:
        """Let go of the calls and their rows."""
        self._closed = True
        for call in self._calls:
            if call.started:
                self._ledger.release(call)
            else:
                # The engine was never asked for an output, so the recorder will not let go of the call.
                self._ledger.close(call)

    def choice(self, number: int) -> list[Turn]:
        """Return the one turn of choice `number` of the response: the calls bring their choices in their order.

        Raises:
            LookupError: the calls have fewer choices.
        """
        rest = number
        for call in self._calls:
            if rest < call.num_choices:
                return [Turn(call, rest)]
            rest -= call.num_choices
        raise LookupError(f"the response has choice {number}, but its calls have only {number - rest} choices")

    def all_turns(self) -> list[Turn]:
        """Return the turns of a response that is one answer: the only choice of every call."""
        return [Turn(call, 0) for call in self._calls]


class Unscorable(Enum):
    """Stands in the place of a scored request whose calls of the engine are no runs of tokens."""

    UNSCORABLE = "unscorable"


# The request whose handler is running; the calls of the engine that it makes are its own. None: the response carries no
# scores, or no request is handled.
SCORED_REQUEST: ContextVar[ScoredRequest | Unscorable | None] = ContextVar("traitwatch_scored_request", default=None)
