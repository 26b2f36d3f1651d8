"""The state of one API process while it serves: the traits, the open calls, the recorder."""

import logging
from collections.abc import Mapping, Sequence

from traitwatch_server.ledger.ledger import Ledger
from traitwatch_server.ledger.weights import WorkerKey
from traitwatch_server.metrics import Metrics
from traitwatch_server.pacing import Pacer
from traitwatch_server.recording.recorder import Recorder
from traitwatch_server.recording.sink import Sink
from traitwatch_server.settings import TraitsAllow, TraitsDefault
from traitwatch_server.traits import ServedTrait, TraitSet

logger = logging.getLogger(__name__)


class Monitor:
    """The state that middleware, routes and receiver of an API process share.

    Attributes:
        default: the part of the scores in a response whose request has no `traits` field.
        allow: the most that a request may ask for.
        max_prompt: tokens of the longest prompt whose projections a request may ask for; None for no limit.
        ledger: the open calls.
        pacer: shares the event loop among all work on long answers.
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
        *,
        allow: TraitsAllow = "prompt",
        max_prompt: int | None = None,
    ):
        self.default = default
        self.allow = allow
        self.max_prompt = max_prompt
        self.ledger = Ledger(api_process, metrics)
        self.pacer = Pacer()
        self.recorder = Recorder(self.ledger, metrics, self.pacer, model_name, sinks)
        self._metrics = metrics
        # Each loaded trait, with the weights of the time when it was loaded.
        self._loaded_with: dict[str, tuple[ServedTrait, Mapping[WorkerKey, int]]] = {}
        self._stale: frozenset[str] = frozenset()
        self.ledger.weights.on_change = self._show_stale
        self.traits = traits

    @property
    def traits(self) -> TraitSet:
        """The traits that are loaded now."""
        return self._traits

    @traits.setter
    def traits(self, loaded: TraitSet) -> None:
        self._traits = loaded
        known, now = self._loaded_with, self.ledger.weights.now()
        self._loaded_with = {
            trait.name: known[trait.name] if trait.name in known and known[trait.name][0] is trait else (trait, now)
            for trait in loaded.all
        }
        self.recorder.tally.show(loaded.all)
        self._show_stale()

    @property
    def stale(self) -> frozenset[str]:
        """The names of the loaded traits whose vector and calibration are of other weights than the model's.

        The weights were replaced after the trait was loaded. A trait that is loaded later counts as made for the new
        weights.
        """
        return self._stale

    def _show_stale(self) -> None:
        before = self._stale
        self._stale = frozenset(
            name for name, (_, then) in self._loaded_with.items() if self.ledger.weights.differ(then)
        )
        self._metrics.show_stale({name: name in self._stale for name in self._loaded_with})
        if self._stale - before:
            logger.warning(
                "The model's weights were replaced, so the vectors and the calibration of %s are of other weights: "
                "their scores may mean something else now. Build the vectors for the new weights and load them again, "
                "or load the old weights.",
                ", ".join(sorted(self._stale)),
            )
        elif before and not self._stale:
            logger.info("All loaded vectors are of the model's weights again.")
