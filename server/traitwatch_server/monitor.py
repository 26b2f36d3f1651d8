"""The state of one API process while it serves: the traits, the open calls, the recorder."""

from collections.abc import Sequence

from traitwatch_server.ledger.ledger import Ledger
from traitwatch_server.metrics import Metrics
from traitwatch_server.recording.recorder import Recorder
from traitwatch_server.recording.sink import Sink
from traitwatch_server.settings import TraitsDefault
from traitwatch_server.traits import TraitSet


class Monitor:
    """The state that middleware, routes and receiver of an API process share.

    Attributes:
        default: the part of the scores in a response whose request has no `traits` field.
        ledger: the open calls.
        recorder: records calls that have ended.
    """

    def __init__(
        self,
        traits: TraitSet,
        default: TraitsDefault,
        api_process: str,
        metrics: Metrics,
        model_name: str = "model",
        sinks: Sequence[Sink] = (),
    ):
        self.default = default
        self.ledger = Ledger(api_process, metrics)
        self.recorder = Recorder(self.ledger, metrics, model_name, sinks)
        self.traits = traits

    @property
    def traits(self) -> TraitSet:
        """The traits that are loaded now."""
        return self._traits

    @traits.setter
    def traits(self, loaded: TraitSet) -> None:
        self._traits = loaded
        self.recorder.tally.show(loaded.all)
