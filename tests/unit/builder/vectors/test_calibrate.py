"""The baseline of a vector, and the thresholds that a given share of neutral responses exceeds."""

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from traitwatch.card import Calibration
from traitwatch.spikes import MIN_TOKENS, WINDOW, find_spikes, peak_level
from traitwatch.vectors import Float32Array
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.vectors.calibrate import RATES, calibrate, scored_tokens
from traitwatch_builder.vectors.tails import exceedance_level, l_moments, normal_level, pareto_level, resample_clusters


def series(
    seed: int, responses: int, layers: int = 1, length: int = 100, correlation: float = 0.5
) -> list[Float32Array]:
    """Return projections of responses: per layer an autoregression of mean 3 and standard deviation 2."""
    noise = np.random.default_rng(seed).standard_normal((responses, layers, length))
    noise[..., 1:] *= np.sqrt(1 - correlation**2)
    z = lfilter([1.0], [1.0, -correlation], noise, axis=-1)
    return list((3 + 2 * z).astype(np.float32))


def thresholds(calibration: Calibration, layer: int = 0) -> list[tuple[float, float, float]]:
    return [(t.low, t.z, t.high) for t in calibration.layers[layer].thresholds]


# --- mean and standard deviation


def test_the_baseline_is_mean_and_standard_deviation_over_tokens() -> None:
    first, second = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[6.0], [3.0]])
    calibration = calibrate([first.astype(np.float32), second.astype(np.float32)], [0, 1], "by hand")
    assert calibration.num_tokens == 3
    assert (calibration.num_prompts, calibration.num_responses) == (2, 2)
    assert calibration.layers[0].mean == pytest.approx(3.0)
    assert calibration.layers[0].std == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert calibration.layers[1].mean == pytest.approx(1.0)
    assert calibration.engine == "by hand"
    assert (calibration.spike_window, calibration.spike_min_tokens) == (WINDOW, MIN_TOKENS)


@pytest.mark.parametrize("lengths", [[], [1], [0, 1, 0]])
def test_no_answers_give_no_baseline(lengths: list[int]) -> None:
    with pytest.raises(PipelineError, match="no answers"):
        calibrate([np.ones((2, n), dtype=np.float32) for n in lengths], list(range(len(lengths))), "x")


def test_values_that_are_not_finite_name_their_layers() -> None:
    answers = series(0, 2, layers=3)
    answers[1][2, 5] = np.nan
    with pytest.raises(PipelineError, match=r"at layers \[2\]"):
        calibrate(answers, [0, 1], "x")


def test_each_answer_has_a_prompt() -> None:
    with pytest.raises(PipelineError, match="3 neutral answers"):
        calibrate(series(0, 3), [0, 1], "x")


def test_the_last_token_of_a_cut_answer_has_no_state() -> None:
    assert scored_tokens([1, 2, 3], finished=True) == [1, 2, 3]
    assert scored_tokens([1, 2, 3], finished=False) == [1, 2]


# --- thresholds


def test_one_neutral_response_in_a_hundred_has_a_spike_above_the_threshold_for_it() -> None:
    calibration = calibrate(series(1, 300), list(range(300)), "x", resamples=50)
    baseline = calibration.layers[0]
    threshold = baseline.thresholds[0]
    assert threshold.rate == 0.01
    fresh = [((part[0] - baseline.mean) / baseline.std).tolist() for part in series(2, 4000)]
    share = sum(bool(find_spikes(z, threshold.z)) for z in fresh) / len(fresh)
    assert 0.005 < share < 0.02


def test_intervals_hold_the_true_threshold_and_are_no_wider_than_they_must() -> None:
    """Sixty calibrations at once, one a layer.

    The docstring of `traitwatch_builder.vectors.calibrate` has the whole measurement.
    """
    runs, prompts = 60, 120
    calibration = calibrate(series(3, prompts, layers=runs), list(range(prompts)), "x", resamples=300)
    population = np.concatenate([peak_level((part[:, :] - 3) / 2) for part in series(4, 20_000, layers=5)])
    covered: dict[float, list[bool]] = {rate: [] for rate in RATES}
    widths: dict[float, list[float]] = {rate: [] for rate in RATES}
    for layer in calibration.layers:
        for threshold in layer.thresholds:
            # In units of the card: the same level, by the card's own mean and standard deviation.
            true = (3 + 2 * np.quantile(population, 1 - threshold.rate) - layer.mean) / layer.std
            covered[threshold.rate].append(threshold.low <= true <= threshold.high)
            widths[threshold.rate].append(threshold.high - threshold.low)
    for rate, widest in ((0.01, 0.5), (0.001, 1.5)):
        assert len(covered[rate]) == runs
        assert np.mean(covered[rate]) >= 0.88
        assert np.mean(widths[rate]) < widest


def test_rarer_spikes_have_higher_and_less_certain_thresholds() -> None:
    (low, z, high), (rare_low, rare_z, rare_high) = thresholds(calibrate(series(5, 150), list(range(150)), "x"))
    assert low < z < high
    assert rare_low < rare_z < rare_high
    assert rare_z > z
    assert rare_high - rare_low > high - low


def test_answers_to_one_prompt_are_not_taken_for_independent() -> None:
    prompts = series(6, 100)
    answers = [part for part in prompts for _ in range(4)]
    as_they_are = thresholds(calibrate(answers, [i // 4 for i in range(400)], "x"))
    as_if_independent = thresholds(calibrate(answers, list(range(400)), "x"))
    for (low, z, high), (naive_low, naive_z, naive_high) in zip(as_they_are, as_if_independent, strict=True):
        assert z == naive_z
        # The four answers to a prompt are one answer, so the interval could double. The bounds on the Pareto shape
        # keep it narrower.
        assert high - low > 1.3 * (naive_high - naive_low)


def test_thresholds_are_reproducible_and_have_no_unit() -> None:
    answers, prompts = series(7, 100, layers=2), list(range(100))
    first = calibrate(answers, prompts, "x")
    assert calibrate(answers, prompts, "x") == first
    scaled = calibrate([np.float32(50) * part - np.float32(9) for part in answers], prompts, "x")
    for layer in range(2):
        for one, other in zip(thresholds(first, layer), thresholds(scaled, layer), strict=True):
            assert one == pytest.approx(other, abs=1e-4)
    assert thresholds(calibrate(answers, prompts, "x", seed=1)) != thresholds(first)


def test_responses_too_short_for_a_spike_count_as_having_none() -> None:
    """Where half of the responses are too short, 1 % of all is 2 % of the others."""
    peaks = np.random.default_rng(8).normal(size=100)
    half_short = np.concatenate([peaks, np.full(100, -np.inf)])
    of_all = exceedance_level(half_short, np.ones((2, 200)), 0.01)
    of_long = exceedance_level(peaks, np.ones((2, 100)), 0.02)
    assert of_all is not None
    assert of_long is not None
    assert of_all.value == pytest.approx(of_long.value)
    mixed = calibrate(series(8, 100) + series(9, 100, length=2), list(range(200)), "x", resamples=50)
    assert len(mixed.layers[0].thresholds) == 2


@pytest.mark.parametrize(
    ("answers", "prompts"),
    [
        (series(0, 29), list(range(29))),
        (series(0, 60), [i % 9 for i in range(60)]),
        (series(0, 60, length=2), range(60)),
    ],
)
def test_too_few_answers_give_no_thresholds_but_a_reason(answers: list[Float32Array], prompts: list[int]) -> None:
    calibration = calibrate(answers, prompts, "x")
    assert calibration.layers[0].thresholds == []
    assert calibration.method.startswith("no thresholds: ")
    assert "at least 30 responses to 10 prompts" in calibration.method


def test_a_layer_that_does_not_vary_has_no_thresholds_and_the_others_have() -> None:
    answers = series(0, 40, layers=2)
    for part in answers:
        part[0] = 0.0
    calibration = calibrate(answers, list(range(40)), "x", resamples=50)
    assert calibration.layers[0].thresholds == []
    assert len(calibration.layers[1].thresholds) == 2
    assert "generalised normal" in calibration.method


def test_peaks_that_are_mostly_alike_still_give_finite_numbers() -> None:
    """A model repeats answers word by word: there are few distinct values, and perhaps one in a resample."""
    answers = [part for part in series(11, 3) for _ in range(20)]
    for low, z, high in thresholds(calibrate(answers, [i % 12 for i in range(60)], "x", resamples=200)):
        assert np.isfinite([low, z, high]).all()


# --- the fits, against scipy and against distributions that are known


def test_l_moments_of_resamples_are_those_of_the_resamples_written_out() -> None:
    sample = np.sort(np.random.default_rng(0).gumbel(size=30))
    counts = resample_clusters(np.repeat(np.arange(10), 3), resamples=5, seed=0)
    assert counts[0].tolist() == [1.0] * 30
    assert (counts.sum(axis=1) == 30).all()
    assert (counts.reshape(6, 10, 3) == counts.reshape(6, 10, 3)[:, :, :1]).all(), "a prompt comes with all its answers"
    l1, l2, skewness = l_moments(sample, counts)
    for i, times in enumerate(counts):
        written_out = np.repeat(sample, times.astype(int))
        assert [l1[i], l2[i], skewness[i]] == pytest.approx(stats.lmoment(written_out, order=[1, 2, 3]))


@pytest.mark.parametrize("shape", [0.0, 0.15, 0.5])
def test_the_generalised_normal_fit_is_exact_for_its_own_distributions(shape: float) -> None:
    distribution = stats.lognorm(shape, loc=-2, scale=3) if shape else stats.norm(1, 2)
    sample = distribution.ppf((np.arange(20_000) + 0.5) / 20_000)
    moments = l_moments(sample, np.ones((1, len(sample))))
    for rate in (0.01, 0.001):
        assert normal_level(*moments, np.array([rate]))[0] == pytest.approx(distribution.isf(rate), rel=5e-3)


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.2])
def test_the_pareto_fit_is_exact_for_its_own_distributions(shape: float) -> None:
    distribution = stats.genpareto(shape)
    sample = distribution.ppf((np.arange(20_000) + 0.5) / 20_000)
    for rate in (0.01, 0.001):
        level = pareto_level(sample, np.ones((1, len(sample))), np.array([rate]))[0]
        assert level == pytest.approx(distribution.isf(rate), rel=2e-2)
