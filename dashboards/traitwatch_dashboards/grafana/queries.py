"""The PromQL of the Grafana dashboard, over the raw metrics of the server and of vLLM.

Every query sums over the engines and instances of the chosen model. A denominator of zero is filtered out, so that a
panel without traffic is empty instead of NaN.
"""

MODEL_SELECTOR = 'model_name="$model_name"'
TRAIT_SELECTOR = f'{MODEL_SELECTOR}, trait=~"$trait"'
RATE_WINDOW = "$__rate_interval"
RANGE_WINDOW = "$__range"


def rate(metric: str, by: str = "", selector: str = MODEL_SELECTOR, window: str = RATE_WINDOW) -> str:
    """Return the growth of a counter: per second, or in total where `window` is the time range of the dashboard.

    Args:
        metric: scraped name of the counter.
        by: labels to keep, separated by commas.
        selector: label matchers.
        window: window of the growth.
    """
    function = "increase" if window == RANGE_WINDOW else "rate"
    return f"{_over('sum', by)}({function}({metric}{{{selector}}}[{window}]))"


def largest(metric: str, by: str = "", selector: str = MODEL_SELECTOR) -> str:
    """Return the largest value of a gauge."""
    return f"{_over('max', by)}({metric}{{{selector}}})"


def quantile(share: float, histogram: str, by: str = "", selector: str = MODEL_SELECTOR) -> str:
    """Return a quantile of a histogram, interpolated within buckets; no series without traffic (instead of NaN)."""
    buckets = rate(f"{histogram}_bucket", f"{by}, le" if by else "le", selector)
    return f"histogram_quantile({share:g}, {buckets}) > -Inf"


def responses(window: str = RATE_WINDOW) -> str:
    """Return the scored responses, per trait."""
    return rate("traitwatch_responses_total", "trait", TRAIT_SELECTOR, window)


def spiking(window: str = RATE_WINDOW) -> str:
    """Return the responses with at least one spike, per trait."""
    return rate("traitwatch_responses_over_threshold_total", "trait", TRAIT_SELECTOR, window)


def spike_share(window: str = RATE_WINDOW) -> str:
    """Return the share of scored responses with a spike, per trait."""
    return f"{spiking(window)} / ({responses(window)} > 0)"


def budget() -> str:
    """Return the share of neutral responses with a spike that the card promises, per trait."""
    return f"({largest('traitwatch_threshold_rate', 'trait', TRAIT_SELECTOR)} > 0)"


def burn(window: str = RATE_WINDOW) -> str:
    """Return the spike share as a multiple of its budget, per trait."""
    return f"{spike_share(window)} / on (trait) {budget()}"


def mean_z(window: str = RATE_WINDOW) -> str:
    """Return the mean of the responses' mean z, per trait. A histogram of signed values has no usable sum."""
    positive, negative = (
        rate("traitwatch_response_z_total", "trait", f'{TRAIT_SELECTOR}, sign="{sign}"', window)
        for sign in ("positive", "negative")
    )
    return f"({positive} - {negative}) / ({responses(window)} > 0)"


def farthest_drift() -> str:
    """Return, per trait, the signed drift of the engine with the largest drift."""
    highest = largest("traitwatch_drift", "trait", TRAIT_SELECTOR)
    lowest = f"min by (trait) (traitwatch_drift{{{TRAIT_SELECTOR}}})"
    return f"({highest} >= -{lowest}) or {lowest}"


def coverage(window: str = RATE_WINDOW) -> str:
    """Return the scored share of the generated token states."""
    scored = rate("traitwatch_tokens_scored_total", window=window)
    unscored = rate("traitwatch_tokens_unscored_total", window=window)
    return f"{scored} / (({scored} + {unscored}) > 0)"


def vectors(labels: str) -> str:
    """Return 1 for each loaded vector. With several API processes, an unloaded vector stays as a series of 0."""
    return f"({largest('traitwatch_vector_info', labels, TRAIT_SELECTOR)} == 1)"


def of_vectors(metric: str, labels: str) -> str:
    """Return a gauge of each trait with the labels of the trait's vector."""
    return f"{vectors(labels)} * on (trait) group_left () {largest(metric, 'trait', TRAIT_SELECTOR)}"


def _over(aggregation: str, by: str) -> str:
    return f"{aggregation} by ({by}) " if by else aggregation
