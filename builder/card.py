"""The card of a persona vector, `<trait>.json`: what it is, how it was made, how far it can be trusted.

All of it is read and written as JSON and checked by pydantic. Lists named `layers` have one entry a layer index, 0 to
num_layers, in order. Servers and people read cards through `builder.artifacts`, which exports these types.
"""

import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class SpikeThreshold(BaseModel):
    """The smoothed z above which a given share of neutral responses has a spike, with its confidence interval."""

    model_config = _STRICT
    rate: float = Field(gt=0, lt=1, description="share of neutral responses with a spike")
    z: float = Field(description="standard deviations of the baseline")
    low: float = Field(description="lower end of the 95 % confidence interval of z")
    high: float = Field(description="upper end of it")


class LayerCalibration(BaseModel):
    """Projections of neutral response tokens on one layer's vector: float, units of the hidden state."""

    model_config = _STRICT
    mean: float
    std: float = Field(gt=0)
    thresholds: list[SpikeThreshold] = Field(default_factory=list)


class Calibration(BaseModel):
    """The baseline that turns projections into z."""

    model_config = _STRICT
    layers: list[LayerCalibration]
    num_prompts: int = Field(ge=1)
    num_responses: int = Field(ge=0, default=0)
    num_tokens: int = Field(ge=2)
    spike_window: int | None = Field(default=None, description="tokens of the smoothing")
    spike_min_tokens: int | None = Field(default=None, description="least tokens of a spike")
    method: str = Field(default="", description="how the thresholds were estimated")
    engine: str
    date: datetime.date


class LayerVerification(BaseModel):
    """What one layer's vector is worth, on data that took no part in making it unless said otherwise.

    Attributes:
        layer: layer index.
        norm: length of the vector, units of the hidden state.
        null_norm: 95th percentile of the length of vectors from shuffled labels.
        split_half_cosine: cosine between the vectors of two halves of the questions (of the extraction data).
        auc: of the response's mean projection, positive against negative held-out answers.
        null_auc: 95th percentile of that AUC (as max(auc, 1 - auc)) over vectors from shuffled labels.
        auc_prompt_last: of the projection at the prompt's last token, under the prompts that elicit.
        correlation: Pearson's, of the response's projection with the judge's trait score, all held-out answers.
        correlation_pos: the same within the positive condition; None where the scores or projections do not vary.
        correlation_neg: the same within the negative condition.
    """

    model_config = _STRICT
    layer: int = Field(ge=0)
    norm: float = Field(ge=0)
    null_norm: float | None = None
    split_half_cosine: float | None = None
    auc: float | None = Field(ge=0, le=1, default=None)
    null_auc: float | None = None
    auc_prompt_last: float | None = None
    correlation: float | None = None
    correlation_pos: float | None = None
    correlation_neg: float | None = None


class Verification(BaseModel):
    """Whether the vector tells the trait, and the evidence layer by layer."""

    model_config = _STRICT
    layers: list[LayerVerification]
    num_pos: int = Field(ge=0, description="held-out positive answers")
    num_neg: int = Field(ge=0, description="held-out negative answers")
    better_than_null: bool
    verdict: str = Field(description="what the evidence says, in plain words")
    date: datetime.date


class SteeringResult(BaseModel):
    """What adding `coefficient` times the vector at a layer does to the answers to the eval questions."""

    model_config = _STRICT
    layer: int = Field(ge=0)
    coefficient: float = Field(description="of the vector as it is, not of its unit vector; 0 is no steering")
    trait_score: float = Field(description="mean of the judge, 0 to 100")
    coherence: float = Field(description="mean of the judge, 0 to 100")
    num_answers: int = Field(ge=1)


class LayerRank(BaseModel):
    """One layer's place among those that were measured: 1 is the best."""

    model_config = _STRICT
    layer: int = Field(ge=0)
    rank: int = Field(ge=1)
    auc: float | None = None
    steering_effect: float | None = Field(
        default=None, description="highest gain of the mean trait score over no steering, coherence above the floor"
    )
    coefficient: float | None = Field(default=None, description="where that gain was measured")


class LayerChoice(BaseModel):
    """The table behind `best_layer`: `traitwatch layers` writes it."""

    model_config = _STRICT
    ranks: list[LayerRank]
    steering: list[SteeringResult] = Field(default_factory=list)
    coherence_floor: float | None = None
    judge: str = ""
    date: datetime.date


class JudgeCard(BaseModel):
    """Who scored the answers, and how."""

    model_config = _STRICT
    name: str = Field(description="`openai` or `likelihood`")
    model: str = ""
    method: str = Field(
        default="", description="`logprobs`, `samples` or `integer`; of the likelihood judge `posterior`"
    )
    note: str = Field(default="", description="what a reader of its scores should know")


class Card(BaseModel):
    """What a vector is, how it was made, and how far it can be trusted: `<trait>.json` beside the `.pt`."""

    model_config = ConfigDict(extra="forbid")
    format: Literal[1] = 1
    trait: str
    description: str = ""
    model: str
    hidden_size: int = Field(ge=1)
    num_layers: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    best_layer: int | None = None
    best_layer_reason: str = ""
    calibration: Calibration | None = None
    verification: Verification | None = None
    layer_choice: LayerChoice | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    judge: JudgeCard | None = None
    threshold: float | None = None
    coherence: float | None = None
    elicit: str = ""
    read_under: str = ""
    sampling: dict[str, Any] = Field(default_factory=dict)
    extraction: str = Field(default="", description="the engine that read the hidden states, and its precision")
    date: datetime.date
    versions: dict[str, str] = Field(default_factory=dict)
