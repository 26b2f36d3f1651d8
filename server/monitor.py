"""What one API process knows while it serves: the traits, the open calls, the counters."""

from server.config import TraitsDefault, TraitSet
from server.ledger import Ledger
from server.metrics import Metrics


class Monitor:
    """The state that the middleware, the routes and the receiver of an API process share.

    Attributes:
        traits: the traits that it has now.
        default: what a response carries when its request says nothing.
        ledger: the open calls.
        metrics: the counters.
    """

    def __init__(self, traits: TraitSet, default: TraitsDefault, api_process: str, metrics: Metrics):
        self.traits = traits
        self.default = default
        self.metrics = metrics
        self.ledger = Ledger(api_process, metrics)
