"""Measures how often the confidence intervals of spike thresholds hold the true threshold: some minutes.

Each setting simulates z of the tokens of neutral responses. It calibrates many times on some hundred responses, and
compares with the threshold of 400 000 responses. The units of a threshold are the mean and the standard deviation of
its own calibration, as in a server.
"""

from dataclasses import dataclass

import click
import numpy as np
from scipy.signal import lfilter

from traitwatch.spikes import peak_level
from traitwatch.vectors import Float64Array
from traitwatch_builder.vectors.calibrate import RATES, calibrate

_POPULATION = 400_000
_DESIGNS = ((100, 1), (100, 3), (250, 1))
"""Prompts, and answers to each."""


@dataclass(frozen=True)
class Setting:
    """The simulation of tokens.

    Attributes:
        correlation: the correlation of a token with the token before.
        between_prompts: the standard deviation of the prompts' means. Tokens have 1.
        between_answers: the standard deviation of the means of the answers to one prompt.
        length: the tokens of an answer, or the mean of a geometric distribution, cut at 128.
        varies: whether `length` is the mean.
        heavy: whether tokens are Student's t with 5 degrees of freedom.
        skewed: whether the prompts' means are exponential.
    """

    correlation: float
    between_prompts: float = 0.0
    between_answers: float = 0.0
    length: int = 100
    varies: bool = False
    heavy: bool = False
    skewed: bool = False

    def draw(self, random: np.random.Generator, prompts: int, answers: int) -> list[Float64Array]:
        """Return z per response, `[num_tokens]`."""
        count = prompts * answers
        lengths = np.full(count, self.length)
        if self.varies:
            lengths = np.minimum(random.geometric(1 / self.length, count), 128)
        shape = (count, int(lengths.max()))
        noise = random.standard_t(5, shape) / np.sqrt(5 / 3) if self.heavy else random.standard_normal(shape)
        noise[:, 1:] *= np.sqrt(1 - self.correlation**2)
        z = lfilter([1.0], [1.0, -self.correlation], noise, axis=-1)
        means = random.exponential(size=prompts) - 1 if self.skewed else random.standard_normal(prompts)
        z += self.between_prompts * np.repeat(means, answers)[:, None]
        z += self.between_answers * random.standard_normal((count, 1))
        return [row[:length] for row, length in zip(z, lengths, strict=True)]


SETTINGS = {
    "independent answers": Setting(0.5),
    "slow tokens": Setting(0.8),
    "answers that differ": Setting(0.4, 0.4, 0.2, 90, varies=True),
    "heavy-tailed tokens": Setting(0.3, 0.3, 0.2, 90, varies=True, heavy=True),
    "short answers": Setting(0.5, 0.3, 0.2, 30, varies=True),
    "long answers": Setting(0.3, 0.3, 0.3, 200),
    "skewed prompts": Setting(0.3, 0.4, 0.2, 90, varies=True, skewed=True),
}


def true_levels(setting: Setting) -> Float64Array:
    """Return the peak levels that a share `RATES` of the population exceeds, before standardisation."""
    random = np.random.default_rng(99)
    peaks = []
    for _ in range(_POPULATION // 10_000):
        peaks += [float(peak_level(z)) for z in setting.draw(random, 10_000, 1)]
    levels: Float64Array = np.quantile(peaks, [1 - rate for rate in RATES])
    return levels


@click.command()
@click.option("--runs", default=250, show_default=True, help="Calibrations of each setting.")
@click.option("--seed", default=21, show_default=True)
def main(runs: int, seed: int) -> None:
    """Print the coverage of the intervals for each setting."""
    for name, setting in SETTINGS.items():
        levels = true_levels(setting)
        for prompts, answers in _DESIGNS:
            random = np.random.default_rng(seed)
            errors: list[list[tuple[float, bool, float]]] = [[] for _ in RATES]
            for run in range(runs):
                drawn = [z[None].astype(np.float32) for z in setting.draw(random, prompts, answers)]
                prompt_of = np.repeat(np.arange(prompts), answers).tolist()
                layer = calibrate(drawn, prompt_of, "simulated", seed=run, resamples=500).layers[0]
                for found, level, errors_of_rate in zip(layer.thresholds, levels, errors, strict=True):
                    true = (level - layer.mean) / layer.std
                    errors_of_rate.append((found.z - true, found.low <= true <= found.high, found.high - found.low))
            for rate, errors_of_rate in zip(RATES, errors, strict=True):
                bias, coverage, width = np.mean(errors_of_rate, axis=0)
                click.echo(
                    f"{name}, {prompts} prompts x {answers}, rate {rate:g}: coverage {100 * coverage:.1f} %, "
                    f"bias {bias:+.3f} z, width {width:.2f} z"
                )


if __name__ == "__main__":
    main()
