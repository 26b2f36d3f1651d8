"""What one API process knows while it serves: the traits, the open requests, the counters."""

from collections import Counter
from collections.abc import Mapping, Sequence

from server.config import ServedTrait, TraitsDefault
from server.ledger import Ledger
from server.metrics import Metrics


class Monitor:
    """The state that the middleware, the routes and the receiver of an API process share.

    Attributes:
        traits: the served traits by name, in the order in which responses name them.
        default: what a response carries when its request says nothing.
        api_process: the prefix of this process's keys.
        ledger: the open requests.
        metrics: the counters.
    """

    def __init__(self, traits: Sequence[ServedTrait], default: TraitsDefault, api_process: str, metrics: Metrics):
        self.traits: Mapping[str, ServedTrait] = {t.name: t for t in sorted(traits, key=lambda t: t.name)}
        self.default = default
        self.api_process = api_process
        self.metrics = metrics
        self.ledger = Ledger(Counter(trait.layer for trait in traits), metrics)
