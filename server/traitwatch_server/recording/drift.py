"""Drift of the whole traffic: whether the responses of the last minutes differ from those of the last hours.

Every scored response has x, its mean z, for each trait. Two exponentially weighted means follow x: a slow baseline and
a fast window. Their weights decay with time, not with responses, so a busy server does not forget its baseline within a
minute. The weight w of a response is 1 when it ends and exp(-age / tau) later. A mean is sum(w x) / sum(w). The
variance of the mean is that of x times sum(w^2) / sum(w)^2.

- `drift` is the fast minus the slow mean, in standard errors of this difference. The two are taken to be independent,
  which is nearly true where their tau differ much.
- `cusum` is Page's one-sided cumulative sum (Page, 1954, Biometrika 41) of r = (x - slow mean) / slow standard
  deviation: S = max(0, S + r - 0.5) for rises, and with -r for falls. For independent normal x the mean number of
  responses until S passes h by chance is about (exp(b) - b - 1) / 0.5 with b = h + 1.166 (Siegmund, 1985): 20 million
  at h = 15; after a rise by one standard deviation, S passes it within some 32 responses. Real traffic comes in topics
  and is not independent, so an alert waits until S has stayed above h for a while. r is cut at 4, so that one response
  is no drift. S is cut at 50, so that an alert ends soon after the drift.

Before `WARM_UP` responses the baseline is not known, and both are 0.
"""

import numpy as np
import numpy.typing as npt

from traitwatch.vectors import Float64Array

FAST_SECONDS = 300.0
SLOW_SECONDS = 6 * 3600.0
WARM_UP = 200
ALLOWANCE = 0.5
CUSUM_CAP = 50.0
_LARGEST_RESIDUAL = 4.0
_LEAST_STD = 1e-6


class _Mean:
    """Exponentially weighted mean and variance of several series, the weights decaying with time."""

    def __init__(self, size: int, seconds: float):
        self._seconds = seconds
        self._last = np.zeros(size)
        self._weight = np.zeros(size)
        self._weight_squared = np.zeros(size)
        self.mean = np.zeros(size)
        self.variance = np.zeros(size)

    def update(self, places: npt.NDArray[np.intp], x: Float64Array, now: float) -> None:
        """Add a value to each of some series, at time `now` in seconds."""
        decay = np.exp((self._last[places] - now) / self._seconds)
        self._last[places] = now
        weight = self._weight[places] * decay + 1.0
        self._weight[places] = weight
        self._weight_squared[places] = self._weight_squared[places] * decay**2 + 1.0
        step = 1.0 / weight
        difference = x - self.mean[places]
        self.mean[places] += step * difference
        self.variance[places] = (1.0 - step) * (self.variance[places] + step * difference**2)

    def squared_error(self) -> Float64Array:
        """Return the variance of the mean, in units of the variance of one value: `[size]`; 0 without values."""
        weight = np.maximum(self._weight, 1.0)
        error: Float64Array = self._weight_squared / weight**2
        return error

    def forget(self, places: npt.NDArray[np.intp]) -> None:
        """Begin some series anew."""
        for values in (self._last, self._weight, self._weight_squared, self.mean, self.variance):
            values[places] = 0.0

    def grow(self, size: int) -> None:
        """Make room for more series."""
        _grow(self, ("_last", "_weight", "_weight_squared", "mean", "variance"), size)


class Drift:
    """The drift of several traits.

    Attributes:
        cusum_up: the sum S of each trait for rises: `[size]`, float64, standard deviations.
        cusum_down: the same for falls.
    """

    def __init__(self, size: int, fast_seconds: float = FAST_SECONDS, slow_seconds: float = SLOW_SECONDS):
        self.cusum_up = np.zeros(size)
        self.cusum_down = np.zeros(size)
        self._count = np.zeros(size, dtype=np.int64)
        self._fast = _Mean(size, fast_seconds)
        self._slow = _Mean(size, slow_seconds)

    def update(self, places: npt.NDArray[np.intp], x: Float64Array, now: float) -> None:
        """Add a response.

        Args:
            places: `[num_traits]`, the indexes of its traits; each at most once.
            x: `[num_traits]`, its mean z for each of them, finite.
            now: when it ended, seconds of a clock that does not go back.
        """
        known = self._count[places] >= WARM_UP
        std = np.sqrt(np.maximum(self._slow.variance[places], _LEAST_STD**2))
        residual = np.clip((x - self._slow.mean[places]) / std, -_LARGEST_RESIDUAL, _LARGEST_RESIDUAL)
        for cusum, r in ((self.cusum_up, residual), (self.cusum_down, -residual)):
            cusum[places] = np.where(known, np.clip(cusum[places] + r - ALLOWANCE, 0.0, CUSUM_CAP), 0.0)
        self._count[places] += 1
        self._fast.update(places, x, now)
        self._slow.update(places, x, now)

    @property
    def ewma(self) -> Float64Array:
        """The fast mean of x: `[size]`, float64."""
        return self._fast.mean

    def drift(self) -> Float64Array:
        """Return fast minus slow mean in standard errors: `[size]`, float64; 0 before `WARM_UP` responses."""
        known = np.flatnonzero(self._count >= WARM_UP)
        error = np.sqrt(self._slow.variance * (self._fast.squared_error() + self._slow.squared_error()))[known]
        drift = np.zeros(self._count.shape)
        difference = (self._fast.mean - self._slow.mean)[known]
        drift[known] = np.divide(difference, error, out=np.zeros_like(difference), where=error > 0)
        return drift

    def forget(self, places: npt.NDArray[np.intp]) -> None:
        """Begin some traits anew."""
        self._fast.forget(places)
        self._slow.forget(places)
        for values in (self.cusum_up, self.cusum_down, self._count):
            values[places] = 0

    def grow(self, size: int) -> None:
        """Make room for more traits."""
        self._fast.grow(size)
        self._slow.grow(size)
        _grow(self, ("cusum_up", "cusum_down", "_count"), size)


def _grow(owner: object, names: tuple[str, ...], size: int) -> None:
    """Append zeros to arrays of an object until they have `size` elements."""
    for name in names:
        old = getattr(owner, name)
        setattr(owner, name, np.concatenate([old, np.zeros(size - old.shape[0], dtype=old.dtype)]))
