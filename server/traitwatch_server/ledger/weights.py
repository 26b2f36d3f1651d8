"""Notes with which weights the workers compute. A vector and its calibration belong to the weights they were made for.

Every frame brings the fingerprint of its worker's weights. A trait is *stale* when a worker computes with other weights
than at the time when the trait was loaded.
"""

from collections.abc import Callable, Mapping

from traitwatch_server.wire import RowFrame

# A worker that sends: index of its engine, and its tapped layers, which tell its pipeline stage.
WorkerKey = tuple[int, tuple[int, ...]]


class WeightsWatch:
    """The fingerprints of the weights of all workers, as far as they have sent a frame.

    Attributes:
        on_change: called after a worker's weights have changed.
    """

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._first: dict[WorkerKey, int] = {}
        self._now: dict[WorkerKey, int] = {}

    def came(self, frame: RowFrame) -> None:
        """Note the weights of a frame's worker."""
        worker = frame.engine, tuple(frame.layers)
        self._first.setdefault(worker, frame.weights)
        before = self._now.setdefault(worker, frame.weights)
        if before != frame.weights:
            self._now[worker] = frame.weights
            self.on_change()

    def now(self) -> Mapping[WorkerKey, int]:
        """Return the fingerprints of now, by worker."""
        return dict(self._now)

    def differ(self, then: Mapping[WorkerKey, int]) -> bool:
        """Tell whether a worker computes with other weights than at the time of `then`, which `now` has returned.

        A worker that had sent no frame at that time had the weights of its first frame.
        """
        return any(then.get(worker, self._first[worker]) != weights for worker, weights in self._now.items())
