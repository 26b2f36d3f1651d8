"""The baseline of a vector: projections of the tokens of neutral answers, and how high spikes go by chance.

The baseline is measured on what a server scores: answers to bare prompts, token by token. The state of a token is the
state of the pass in which the token was the input. So the last token of an answer that was cut off has no state.

A threshold for a rate is the smoothed z above which that share of neutral responses has a spike. Each response has a
peak level (`traitwatch.spikes.peak_level`): any lower threshold would find a spike in the response. The threshold is
the level that the wanted share of peak levels exceeds (`traitwatch_builder.vectors.tails`). Its z is computed with the
card's own mean and standard deviation, as every server computes z. Both are part of the meaning of z, so they are not
resampled.

A simulation measured how far the 95 % intervals can be trusted (`tests/benchmarks/spike_thresholds.py`, 250 runs of
each of 21 settings): tokens with autocorrelation 0.3 to 0.8, responses of 1 to 200 tokens that differ in their mean or
not, 100 or 250 prompts with 1 or 3 answers. The intervals held the true threshold in 93 to 98 % of runs at a rate of 1
% and in 94 to 100 % at 0.1 %, heavy-tailed tokens (Student's t, 5 degrees of freedom) included; where prompts differ
with an exponential tail, in 87 to 96 % and 92 to 96 %. At 100 prompts the intervals are some 0.5 z wide at 1 %, and 1
to 3 z wide at 0.1 %, which lies beyond the data: an estimate of 0.1 % is a direction, not a measurement. The estimate
is about 0.2 z too low for heavy-tailed tokens, and 0.3 z too low for such prompts.
"""

import datetime
from collections.abc import Iterable, Sequence

import numpy as np

from traitwatch.card import SpikeThreshold
from traitwatch.spikes import MIN_TOKENS, WINDOW, peak_level
from traitwatch.vectors import Calibration, Float32Array, Float64Array, LayerCalibration, bad_layers
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.vectors.tails import exceedance_level, resample_clusters

RATES = (0.01, 0.001)
"""Shares of neutral responses that are to have a spike."""

MIN_RESPONSES = 30
MIN_PROMPTS = 10
_RESAMPLES = 1000
_LEAST_STD = 1e-12

_METHOD = (
    "generalised normal distribution fitted by L-moments to the highest spike level of each response; 95 % interval: "
    "{resamples} bootstrap samples of prompts, over that fit and a generalised Pareto fit to the highest fifth"
)
_TOO_FEW = (
    "no thresholds: {} responses long enough for a spike, to {} prompts, are too few to estimate rare "
    f"spikes (at least {MIN_RESPONSES} responses to {MIN_PROMPTS} prompts)"
)


def calibrate(
    projections: Iterable[Float32Array],
    prompt_of: Sequence[int],
    engine: str,
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> Calibration:
    """Return the calibration of a vector.

    All projections are held at once, 4 bytes a layer and token: 300 answers of 200 tokens at 33 layers are 8 MB.

    Args:
        projections: per neutral answer, `[num_layers + 1, num_token_states]`, float32, units of the hidden state.
        prompt_of: the prompt of each answer, any numbers; answers to one prompt are not independent.
        engine: the engine that read the states, for the card.
        seed: seed of the bootstrap.
        resamples: bootstrap samples of prompts.

    Returns:
        Mean and standard deviation (ddof 1) over all token states per layer, and the thresholds for `RATES`; none with
        too few responses, and none at a layer where the projections do not vary. `method` names the reason.

    Raises:
        PipelineError: fewer than two token states in all, NaN or infinity, or answers and prompts that do not match.
    """
    answers = [np.asarray(part) for part in projections]
    if len(answers) != len(prompt_of):
        raise PipelineError(f"{len(answers)} neutral answers have projections, but {len(prompt_of)} have a prompt.")
    tokens = sum(part.shape[1] for part in answers)
    if tokens < 2:
        raise PipelineError("the neutral prompts gave no answers to calibrate on; check the model.")
    values = np.concatenate(answers, axis=1).astype(np.float64)
    if bad := bad_layers(values):
        raise PipelineError(
            f"the projections of neutral answers are NaN or infinite at layers {bad}; check the vector, and read the "
            "states in float32 or bfloat16."
        )
    mean, std = values.mean(axis=1), np.maximum(values.std(axis=1, ddof=1), _LEAST_STD)
    prompts, clusters = np.unique(np.asarray(prompt_of), return_inverse=True)
    long_enough = sum(part.shape[1] >= MIN_TOKENS for part in answers)
    enough = long_enough >= MIN_RESPONSES and len(prompts) >= MIN_PROMPTS
    thresholds: list[list[SpikeThreshold]] = [[] for _ in mean]
    if enough:
        peaks = np.stack([peak_level((part - mean[:, None]) / std[:, None]) for part in answers], axis=1)
        thresholds = _thresholds(peaks, resample_clusters(clusters, resamples, seed))
    method = _METHOD.format(resamples=resamples) if enough else _TOO_FEW.format(long_enough, len(prompts))
    return Calibration(
        layers=[
            LayerCalibration(mean=float(m), std=float(s), thresholds=t)
            for m, s, t in zip(mean, std, thresholds, strict=True)
        ],
        num_prompts=len(prompts),
        num_responses=len(answers),
        num_tokens=tokens,
        spike_window=WINDOW,
        spike_min_tokens=MIN_TOKENS,
        method=method,
        engine=engine,
        date=datetime.datetime.now(tz=datetime.UTC).date(),
    )


def _thresholds(peaks: Float64Array, counts: Float64Array) -> list[list[SpikeThreshold]]:
    """Return the thresholds of every layer; all layers share the resamples, since they share the answers.

    Args:
        peaks: `[num_layers + 1, num_responses]`, z; -inf where a response is too short for a spike.
        counts: `[resamples + 1, num_responses]`.
    """
    found = []
    for row in peaks:
        levels = {rate: exceedance_level(row, counts, rate) for rate in RATES}
        found.append(
            [
                SpikeThreshold(rate=rate, z=level.value, low=level.low, high=level.high)
                for rate, level in levels.items()
                if level is not None
            ]
        )
    return found


def scored_tokens(tokens: Sequence[int], *, finished: bool) -> list[int]:
    """Return the tokens of an answer that have a state in serving: all, or all but the last where it was cut off."""
    return list(tokens) if finished else list(tokens[:-1])
