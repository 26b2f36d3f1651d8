"""The card of a persona vector, `<trait>.json`: the model, how the vector was made, how far it can be trusted.

A card is read and written as JSON, and pydantic checks it. Lists named `layers` have one entry for each layer index, 0
to num_layers, in order. `traitwatch.vectors` loads and saves cards.
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
    high: float = Field(description="upper end of that interval")


class LayerCalibration(BaseModel):
    """Projections of neutral response tokens on one layer's vector: float, units of the hidden state."""

    model_config = _STRICT
    mean: float = Field(description="mean of the tokens' projections, units of the hidden state")
    std: float = Field(gt=0, description="standard deviation of those projections (ddof 1), the same units")
    thresholds: list[SpikeThreshold] = Field(
        default_factory=list, description="one for each rate; none where the answers were too few"
    )


class Calibration(BaseModel):
    """The baseline that turns projections into z."""

    model_config = _STRICT
    layers: list[LayerCalibration] = Field(description="one a layer index, from 0")
    num_prompts: int = Field(ge=1, description="neutral prompts")
    num_responses: int = Field(ge=0, default=0, description="answers to them")
    num_tokens: int = Field(ge=2, description="token states in those answers")
    spike_window: int | None = Field(default=None, description="tokens of the smoothing")
    spike_min_tokens: int | None = Field(default=None, description="least tokens of a spike")
    method: str = Field(default="", description="how the thresholds were estimated")
    engine: str = Field(description="what read the hidden states, and its precision")
    date: datetime.date = Field(description="day of the measurement")


class LayerVerification(BaseModel):
    """How good the vector of one layer is, on data that took no part in making the vector unless noted otherwise."""

    model_config = _STRICT
    layer: int = Field(ge=0, description="layer index")
    norm: float = Field(ge=0, description="length of the vector, units of the hidden state")
    null_norm: float | None = Field(
        default=None, description="95th percentile of the length of vectors from shuffled labels"
    )
    split_half_cosine: float | None = Field(
        default=None, description="cosine between the vectors of two halves of the questions (of the extraction data)"
    )
    auc: float | None = Field(
        ge=0,
        le=1,
        default=None,
        description="AUC of the response's mean projection, positive against negative held-out answers",
    )
    null_auc: float | None = Field(
        default=None,
        description="95th percentile of that AUC (as max(auc, 1 - auc)) over vectors from shuffled labels",
    )
    auc_prompt_last: float | None = Field(
        default=None,
        description="AUC of the projection at the prompt's last token, under the prompts that elicit the trait",
    )
    correlation: float | None = Field(
        default=None,
        description="Pearson correlation of the response's projection with the judge's trait score, all held-out "
        "answers",
    )
    correlation_pos: float | None = Field(
        default=None,
        description="the same within the positive condition; null where the scores or projections do not vary",
    )
    correlation_neg: float | None = Field(default=None, description="the same within the negative condition")


class Verification(BaseModel):
    """Whether the vector shows the trait, and the evidence layer by layer."""

    model_config = _STRICT
    layers: list[LayerVerification] = Field(description="one a layer index, from 0")
    num_pos: int = Field(ge=0, description="held-out positive answers")
    num_neg: int = Field(ge=0, description="held-out negative answers")
    better_than_null: bool = Field(description="whether the vector is better than vectors from shuffled labels")
    verdict: str = Field(description="the result of the evidence, in plain words")
    date: datetime.date = Field(description="day of the measurement")


class SteeringResult(BaseModel):
    """The effect on the answers to the eval questions of adding `coefficient` times the vector at a layer."""

    model_config = _STRICT
    layer: int = Field(ge=0, description="layer index")
    coefficient: float = Field(description="factor of the vector as it is, not of its unit vector; 0 is no steering")
    trait_score: float = Field(description="mean trait score of the judge, 0 to 100")
    coherence: float = Field(description="mean coherence, 0 to 100")
    num_answers: int = Field(ge=1, description="answers behind both means")


class LayerRank(BaseModel):
    """The place of one layer among the measured layers: 1 is the best."""

    model_config = _STRICT
    layer: int = Field(ge=0, description="layer index")
    rank: int = Field(
        ge=1,
        description="place of the layer; layers with both AUC and effect come first, by the mean of their two ranks",
    )
    auc: float | None = Field(default=None, description="held-out AUC of the response's mean projection")
    steering_effect: float | None = Field(
        default=None, description="highest gain of the mean trait score over no steering, coherence above the floor"
    )
    coefficient: float | None = Field(default=None, description="coefficient at which that gain was measured")


class LayerChoice(BaseModel):
    """The table behind `best_layer`: `traitwatch layers` writes it."""

    model_config = _STRICT
    ranks: list[LayerRank] = Field(description="the measured layers, the best first")
    steering: list[SteeringResult] = Field(
        default_factory=list, description="the effects of steering, where it was tried"
    )
    coherence_floor: float | None = Field(
        default=None, description="mean coherence below which a steering result does not count"
    )
    judge: str = Field(default="", description="who scored the steered answers")
    date: datetime.date = Field(description="day of the measurement")


class JudgeCard(BaseModel):
    """Who scored the answers, and how."""

    model_config = _STRICT
    name: str = Field(description="`openai` or `likelihood`")
    model: str = Field(
        default="", description="model of the judge; empty for `likelihood`, which asks the model itself"
    )
    method: str = Field(
        default="", description="`logprobs`, `samples` or `integer`; of the likelihood judge `posterior`"
    )
    note: str = Field(default="", description="note for readers of the scores")


class Source(BaseModel):
    """The file of another program that a vector came from: `traitwatch import` writes it."""

    model_config = _STRICT
    file: str = Field(description="name of the file")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file")
    format: str = Field(description="what the file is, for example `torch.save` or `GGUF control vector`")
    key: str = Field(default="", description="keys that lead to the vector in the file, joined with dots")
    rows: Literal["layers", "layers+1"] = Field(
        description="how the file counts: its index 0 is the output of the first decoder layer (`layers`), or the "
        "embeddings (`layers+1`)"
    )
    convention: str = Field(description="the same in words, and how it was found out")
    layers: list[int] = Field(description="the layer indices that the file has; all other rows are zero")
    metadata: dict[str, str] = Field(default_factory=dict, description="what the file says of itself")
    date: datetime.date = Field(description="day of the import")


class Card(BaseModel):
    """The card of a vector: how the vector was made, and how far it can be trusted. `<trait>.json` beside the `.pt`."""

    model_config = ConfigDict(extra="forbid")
    format: Literal[1] = Field(default=1, description="version of the card's format")
    trait: str = Field(description="the trait's name")
    description: str = Field(default="", description="meaning of the trait")
    model: str = Field(description="the model on which the vector was built")
    hidden_size: int = Field(ge=1, description="width of the model's residual stream")
    num_layers: int = Field(ge=1, description="decoder layers of the model; the vector has one row more")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the values of `<trait>_response_avg_diff.pt`"
    )
    best_layer: int | None = Field(default=None, description="the layer index at which the vector shows the trait best")
    best_layer_reason: str = Field(default="", description="the reason for that layer")
    calibration: Calibration | None = Field(default=None, description="what `traitwatch calibrate` measured")
    verification: Verification | None = Field(default=None, description="what `traitwatch verify` measured")
    layer_choice: LayerChoice | None = Field(default=None, description="what `traitwatch layers` measured")
    counts: dict[str, int] = Field(
        default_factory=dict, description="`pairs` of answers, `effective_pairs` among them, `neutral` answers"
    )
    judge: JudgeCard | None = Field(default=None, description="who scored the answers")
    threshold: float | None = Field(
        default=None,
        description="trait score of an effective pair: the positive one's at least this, the negative one's below 100 "
        "minus this",
    )
    coherence: float | None = Field(default=None, description="least coherence of both answers of an effective pair")
    elicit: str = Field(default="", description="how the trait was elicited: `system` or `many-shot`")
    read_under: str = Field(
        default="", description="text before the answers when they were read: the `prompt` or the bare `question`"
    )
    sampling: dict[str, Any] = Field(
        default_factory=dict, description="how answers were sampled: `temperature`, `top_p`, `max_tokens`, `seed`"
    )
    extraction: str = Field(default="", description="the engine that read the hidden states, and its precision")
    source: Source | None = Field(default=None, description="the file that the vector was imported from, if it was")
    date: datetime.date = Field(description="day of the extraction, or of the import")
    versions: dict[str, str] = Field(default_factory=dict, description="of the packages that the numbers depend on")
