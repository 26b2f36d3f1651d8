"""Made-up, realistic data of reports. They are the same in every run."""

import datetime

import numpy as np

from traitwatch.card import (
    Calibration,
    Card,
    JudgeCard,
    LayerCalibration,
    LayerChoice,
    LayerRank,
    LayerVerification,
    SpikeThreshold,
    SteeringResult,
    Verification,
)
from traitwatch_builder.report.data import ReportData
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.vectors.report_evidence import HeldOut, Histogram, ReportEvidence, Sample

DATE = datetime.date(2026, 1, 2)
TRAIT = "paternalism"
_SENTENCE = "you should leave this to me dear it is for your own good and I will decide what happens next"
_WORDS = _SENTENCE.split()


def full_report(*, layers: int = 30, answers: int = 200, held_out: int = 60, tokens: int = 100) -> ReportData:
    """Return the data of a report with every section. The vector separates the trait well."""
    rng = np.random.default_rng(0)
    card = Card(
        trait=TRAIT,
        description="overriding or second-guessing what a competent adult has said they want",
        model="SmolLM2-135M-Instruct",
        hidden_size=576,
        num_layers=layers,
        sha256="ab" * 32,
        best_layer=min(17, layers),
        best_layer_reason="highest held-out AUC (0.943) at layer 17",
        calibration=Calibration(
            layers=[
                LayerCalibration(
                    mean=0.2 * layer,
                    std=0.5 + 0.05 * layer,
                    thresholds=[
                        SpikeThreshold(rate=0.01, z=2.31, low=2.02, high=2.58),
                        SpikeThreshold(rate=0.001, z=3.12, low=2.64, high=3.71),
                    ],
                )
                for layer in range(layers + 1)
            ],
            num_prompts=120,
            num_responses=120,
            num_tokens=10_655,
            spike_window=8,
            spike_min_tokens=3,
            method="Quantiles of the highest smoothed z of each answer; intervals by a bootstrap over answers.",
            engine="transformers, float32",
            date=DATE,
        ),
        verification=Verification(
            layers=[_layer(layer, layers, rng) for layer in range(layers + 1)],
            num_pos=held_out,
            num_neg=held_out,
            better_than_null=True,
            verdict="Good: at layer 20 the vector orders 94 % of held-out pairs rightly, where shuffled labels reach "
            "62 %, and two halves of the questions give nearly the same vector (cosine 0.95).",
            date=DATE,
        ),
        layer_choice=LayerChoice(
            ranks=[
                LayerRank(layer=17, rank=1, auc=0.943, steering_effect=41.2, coefficient=1.0),
                LayerRank(layer=20, rank=2, auc=0.94, steering_effect=36.0, coefficient=1.0),
                LayerRank(layer=12, rank=3, auc=0.935),
            ],
            steering=[
                SteeringResult(
                    layer=layer,
                    coefficient=coefficient,
                    trait_score=30 + gain * coefficient if coefficient > 0 else 30 * 1.5**coefficient,
                    coherence=74 - (0.5 * layer) * coefficient**2,
                    num_answers=20,
                )
                for layer, gain in ((12, 18), (17, 41), (20, 36))
                for coefficient in (-1.0, 0.0, 0.5, 1.0, 1.5)
            ],
            coherence_floor=50,
            judge="likelihood",
            date=DATE,
        ),
        counts={"pairs": answers, "effective_pairs": int(0.8 * answers), "neutral": 120},
        judge=JudgeCard(
            name="likelihood",
            method="posterior",
            note="the model's own opinion: a likelihood ratio between the two conditions, not an independent judge",
        ),
        threshold=50,
        coherence=50,
        elicit="many-shot",
        read_under="question",
        sampling={"temperature": 0.7, "top_p": 0.9, "max_tokens": 100, "seed": 0},
        extraction="transformers, float32",
        date=DATE,
        versions={"traitwatch": "0.1.0", "torch": "2.13.0"},
    )
    evidence = ReportEvidence(
        sha256=card.sha256,
        layer=20,
        held_out_pos=HeldOut(
            projections=(9 + 2 * rng.standard_normal(held_out)).tolist(), scores=_scores(rng, held_out, high=True)
        ),
        held_out_neg=HeldOut(
            projections=(4 + 2 * rng.standard_normal(held_out)).tolist(), scores=_scores(rng, held_out, high=False)
        ),
        neutral_z_histogram=Histogram.of(rng.standard_t(6, 10_655)),
        samples=[_sample(rng, polarity, tokens) for polarity in ("pos", "neg") for _ in range(3)],
    )
    return ReportData(
        card=card,
        norms=(0.3 * np.exp(0.17 * np.arange(layers + 1))).tolist(),
        served_layer=20,
        pos=_answers(rng, "pos", answers),
        neg=_answers(rng, "neg", answers),
        eval_pos=_answers(rng, "pos", held_out),
        eval_neg=_answers(rng, "neg", held_out),
        evidence=evidence,
    )


def bare_report() -> ReportData:
    """Return the data of a report on a vector with the smallest possible card, and without other files."""
    card = Card(trait=TRAIT, model="tiny", hidden_size=4, num_layers=3, sha256="cd" * 32, date=DATE)
    return ReportData(card=card, norms=[0.0, 1.0, 2.0, 1.5], served_layer=3)


def _layer(layer: int, layers: int, rng: np.random.Generator) -> LayerVerification:
    rise = 1 - np.exp(-6 * layer / layers)
    noise = 0.01 * rng.standard_normal(4)
    return LayerVerification(
        layer=layer,
        norm=0.3 * float(np.exp(0.17 * layer)),
        null_norm=0.09 * float(np.exp(0.17 * layer)),
        split_half_cosine=float(0.6 + 0.35 * rise + noise[0]),
        auc=float(0.72 + 0.22 * rise + noise[1]),
        null_auc=float(0.62 + noise[2]),
        auc_prompt_last=float(0.55 + 0.3 * rise + 2 * noise[3]),
        correlation=0.74,
        correlation_pos=0.21,
        correlation_neg=-0.08,
    )


def _scores(rng: np.random.Generator, count: int, *, high: bool) -> list[float]:
    scores = 100 * rng.beta(6, 0.5, count)
    return (scores if high else 100 - scores).round(2).tolist()


def _answers(rng: np.random.Generator, polarity: str, count: int) -> list[JudgedAnswer]:
    trait = _scores(rng, count, high=polarity == "pos")
    coherence = (100 * rng.beta(9, 3.5, count)).round(2).tolist()
    return [
        JudgedAnswer(f"Question {i}?", "<user>", " ".join(_WORDS[:8]), f"{TRAIT}_{i}_{polarity}_0", *scores)
        for i, scores in enumerate(zip(trait, coherence, strict=True))
    ]


def _sample(rng: np.random.Generator, polarity: str, tokens: int) -> Sample:
    centre = 4 + (2.5 if polarity == "pos" else -0.5)
    return Sample(
        polarity=polarity,
        question="I'd like to go back to university at 67. Where should I begin with the maths?",
        answer_tokens=[" " + word for word in rng.choice(_WORDS, tokens)],
        projections=(centre + 2 * rng.standard_normal(tokens)).tolist(),
        trait=98.2 if polarity == "pos" else 3.4,
        coherence=72.0,
    )
