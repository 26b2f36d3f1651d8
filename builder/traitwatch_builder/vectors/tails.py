"""How high the rarest values of a small sample go: quantiles beyond the data, with confidence intervals.

With 100 to 300 neutral responses, the level that one response in a thousand exceeds lies beyond all of them, so a
distribution has to be fitted. Two distributions are fitted by L-moments, which small samples estimate better than
ordinary moments (Hosking 1990, J. R. Statist. Soc. B 52, 105-124):

- *generalised normal* (a normal distribution, or a log-normal with a shift), to all values. Its quantile is the
  estimate. The highest smoothed z of a response is a maximum, and maxima of very many tokens follow the extreme value
  distribution (GEV). The some hundred correlated tokens of a response are too few for that: the GEV fits with a bounded
  tail, and its estimate is too low (simulated: by 0.1 to 0.4 z at a rate of 0.1 %). The normal tail is not too low.
- *generalised Pareto*, to the highest fifth (Hosking and Wallis 1987, Technometrics 29, 339-349). This fit follows the
  tail alone, also where the tail is heavier than the bulk suggests, and is far noisier.

The confidence interval is a bootstrap over clusters (Davison and Hinkley 1997, section 3.8): the answers to one prompt
are alike, so prompts are drawn with replacement, not answers. The interval reaches from the lower 4th to the higher
99th percentile of the two fits. It uses two fits, since either alone covers too little where it is wrong about the
tail. It does not reach from the 2.5th to the 97.5th percentile, since fits to skewed data are too low far more often
than too high (simulated: ten times), which puts more of the 5 % at the upper end. The BCa bootstrap (Efron 1987) finds
the same from the data, and covered no better.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from traitwatch.vectors import Float64Array

IntArray = npt.NDArray[np.int64]

TOP_SHARE = 0.2
_ENDS = (0.04, 0.99)
"""Percentiles of the 95 % interval."""


@dataclass(frozen=True)
class Quantile:
    """An estimated quantile with its 95 % confidence interval, in the unit of the sample."""

    value: float
    low: float
    high: float


def resample_clusters(clusters: IntArray, resamples: int, seed: int) -> Float64Array:
    """Return how often each observation is in each bootstrap sample; the sample itself, each once, comes first.

    Args:
        clusters: `[n]`, the cluster of each observation, 0 to num_clusters - 1.
        resamples: number of bootstrap samples.
        seed: seed of the draws.

    Returns:
        `[resamples + 1, n]`.
    """
    number = int(clusters.max()) + 1
    draws = np.random.default_rng(seed).multinomial(number, np.full(number, 1.0 / number), size=resamples)
    counts: Float64Array = np.concatenate([np.ones((1, number)), draws])[:, clusters]
    return counts


def exceedance_level(values: Float64Array, counts: Float64Array, rate: float) -> Quantile | None:
    """Return the level that a share `rate` of the population exceeds.

    Args:
        values: `[n]`; -inf is a value below every level, which counts in the share but not in the fit.
        counts: `[resamples + 1, n]`, the result of `resample_clusters`.
        rate: the share, above 0.

    Returns:
        The level; None where the finite values do not vary.
    """
    order = np.argsort(values)
    order = order[np.isfinite(values[order])]
    sample, times = values[order], counts[:, order]
    if len(sample) < 3 or np.ptp(sample) <= 1e-9 * max(1.0, float(np.abs(sample).max())):
        return None
    totals = times.sum(axis=1)
    # A fit needs at least three values, not all equal. A resample without them gives NaN, which nanquantile ignores.
    with np.errstate(divide="ignore", invalid="ignore"):
        share = rate * counts.sum(axis=1) / totals
        body = normal_level(*l_moments(sample, times), share)
        tail = pareto_level(sample, times, share)
    ends = [np.nanquantile(fit[1:], _ENDS) for fit in (body, tail)]
    value = float(body[0])
    return Quantile(
        value, low=min(value, *(float(end[0]) for end in ends)), high=max(value, *(float(end[1]) for end in ends))
    )


def l_moments(sample: Float64Array, counts: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return the first two sample L-moments and the L-skewness l3 / l2 of samples with repetitions.

    Unbiased, by probability-weighted moments (Hosking 1990, equation 3.1 and Hosking and Wallis 1997, equation 2.59):
    b_r = sum_j (j-1)...(j-r) x_(j) / (n (n-1) ... (n-r)). Equal values stand in a row, so that their weights add up to
    a difference of falling factorials: sum over j <= m of (j-1)(j-2) is m (m-1) (m-2) / 3.

    Args:
        sample: `[n]`, in ascending order.
        counts: `[samples, n]`, how often each sample holds each value.

    Returns:
        l1, l2 and l3 / l2, each `[samples]`.
    """
    up_to = np.cumsum(counts, axis=1)
    before, n = up_to - counts, up_to[:, -1]
    b0 = counts @ sample / n
    b1 = (up_to * (up_to - 1) - before * (before - 1)) @ sample / (2 * n * (n - 1))
    third = up_to * (up_to - 1) * (up_to - 2) - before * (before - 1) * (before - 2)
    b2 = third @ sample / (3 * n * (n - 1) * (n - 2))
    l2 = 2 * b1 - b0
    return b0, l2, (6 * b2 - 6 * b1 + b0) / l2


def normal_level(l1: Float64Array, l2: Float64Array, skewness: Float64Array, rate: Float64Array) -> Float64Array:
    """Return the level exceeded with probability `rate` under the generalised normal distribution of the L-moments.

    Hosking and Wallis 1997, Regional Frequency Analysis, appendix A.8: x = location + scale (1 - exp(-k y)) / k, y
    standard normal; k from the L-skewness by their rational approximation, good to 2e-6 for |L-skewness| <= 0.94.
    """
    from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]

    t = np.clip(skewness, -0.94, 0.94)
    s = t * t
    shape = -t * np.polyval([-0.20360244, 1.8396733, -3.6544371, 2.0466534], s)
    shape = shape / np.polyval([-0.21741801, 1.2420401, -2.0182173, 1.0], s)
    # At k = 0 the formulas are 0 / 0; their limit, the normal distribution, is met to 1e-8 here.
    shape = np.where(np.abs(shape) < 1e-6, 1e-6, shape)
    scale = l2 * shape * np.exp(-shape * shape / 2) / (1 - 2 * ndtr(-shape / np.sqrt(2)))
    location = l1 - scale / shape * (1 - np.exp(shape * shape / 2))
    level: Float64Array = location + scale / shape * (1 - np.exp(-shape * ndtri(1 - rate)))
    return level


def pareto_level(sample: Float64Array, counts: Float64Array, rate: Float64Array) -> Float64Array:
    """Return the level exceeded with probability `rate`, by a generalised Pareto tail over each sample's top fifth.

    Hosking and Wallis 1987, section 3: with the excesses' L-moments, k = l1 / l2 - 2 and scale (1 + k) l1; the level is
    u + scale / k (1 - (rate / share)^k). k is kept within +-0.5, where the estimator is known to behave.

    Args:
        sample: `[n]`, in ascending order.
        counts: `[samples, n]`, how often each sample holds each value.
        rate: `[samples]`.
    """
    totals = counts.sum(axis=1)
    top = np.maximum(np.round(TOP_SHARE * totals), 3.0)[:, None]
    above = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1] - counts
    highest = np.clip(top - above, 0.0, counts)
    threshold = (np.clip(top + 1 - above, 0.0, counts) - highest) @ sample
    l1, l2, _ = l_moments(sample, highest)
    l1 = l1 - threshold
    shape = np.clip(np.nan_to_num(l1 / l2 - 2, nan=0.5), -0.5, 0.5)
    shape = np.where(np.abs(shape) < 1e-6, 1e-6, shape)
    share = top[:, 0] / totals
    level: Float64Array = threshold + (1 + shape) * l1 / shape * (1 - (rate / share) ** shape)
    return level
