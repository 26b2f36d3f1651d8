"""The types of our fields in requests and answers. mypy checks the code against them, and `/openapi.json` shows them.

They are types of plain dictionaries, not models: a stream has such fields in each event, and a model would cost time in
each.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, with_config
from pydantic.config import JsonDict
from typing_extensions import TypedDict  # pydantic takes typing's own only from Python 3.12 on

from traitwatch.card import LayerCalibration

_CLOSED = ConfigDict(extra="forbid")
_EXAMPLE: JsonDict = {
    "layer": 20,
    "mean": -11.3149,
    "z": 0.5265,
    "max_z": 0.8953,
    "prompt_last": 4.176,
    "spikes": [],
    "tokens": [-9.5324, -9.7857, -11.622, -18.7468, -14.8253, -6.0785, -8.6135, None],
}

Json = dict[str, Any]
"""A JSON object."""

Projections = list[float | None]
"""Projections in units of the hidden state; null where a token has no state, as the last one of an answer."""


class TraitsField(BaseModel):
    """The long form of `traits` in a request body."""

    model_config = ConfigDict(extra="forbid")
    include: list[StrictStr] | None = Field(
        default=None,
        description="names of loaded traits, in the order in which the response is to have them; null for all. A name "
        "that is not loaded is a 400, and so is an empty list",
    )
    tokens: StrictBool = Field(default=True, description="whether the projection of every token comes too")
    prompt: StrictBool = Field(
        default=False,
        description="whether the projections of the prompt's tokens come too; the model then computes the prompt anew",
    )


class TraitsRequest(TypedDict):
    """Our field in a request, beside the endpoint's own fields."""

    traits: NotRequired[
        Annotated[
            bool | TraitsField | None,
            Field(
                description="What the response is to carry: true for every loaded trait with the projection of every "
                "token, false for no scores. Left out or null: the scores that `--traits-default` names.",
                examples=[True, {"include": ["paternalism"], "tokens": True, "prompt": False}],
            ),
        ]
    ]


@with_config(_CLOSED)
class TraitSpike(TypedDict):
    """A run of tokens whose smoothed z stays above the trait's threshold."""

    start: Annotated[int, Field(description="number of its first token in the answer, from 0", ge=0)]
    end: Annotated[int, Field(description="number after that of its last token")]
    peak_z: Annotated[float, Field(description="highest z of a token in it, standard deviations of the baseline")]


@with_config(ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]}))
class TraitScores(TypedDict):
    """The scores of one answer for one trait."""

    layer: Annotated[int, Field(description="layer index at which the trait is read, as of `output_hidden_states`")]
    mean: Annotated[
        float | None,
        Field(description="mean projection over the token states, units of the hidden state; null without a state"),
    ]
    z: Annotated[
        float | None,
        Field(description="`mean` in standard deviations of the baseline; null without calibration or state"),
    ]
    max_z: Annotated[
        float | None,
        Field(description="z of the highest token, standard deviations of the baseline; null where `z` is null"),
    ]
    prompt_last: Annotated[
        float | None,
        Field(description="projection at the prompt's last token, units of the hidden state; null where it is missing"),
    ]
    spikes: Annotated[list[TraitSpike], Field(description="empty for a trait without threshold")]
    prompt_tokens: NotRequired[
        Annotated[Projections, Field(description="projection of each token of the prompt; with `prompt: true` alone")]
    ]
    tokens: NotRequired[
        Annotated[
            Projections,
            Field(
                description="projection of each generated token, units of the hidden state; null where there is no "
                "state. In a stream those that no earlier event carried; left out with `tokens: false`"
            ),
        ]
    ]
    start: NotRequired[
        Annotated[int, Field(description="number of the first of `tokens` in the answer; in a stream alone", ge=0)]
    ]


@with_config(_CLOSED)
class TraitPart(TypedDict):
    """The scores of one trait in an event in mid-stream: the projections that came since the event before."""

    start: Annotated[int, Field(description="number of the first of `tokens` in the answer, from 0", ge=0)]
    tokens: Annotated[Projections, Field(description="projections, units of the hidden state")]


_COMPLETE = "whether every state of the answer was scored; if not, null stands for each missing projection"


@with_config(ConfigDict(json_schema_extra={"dependentRequired": {"traits": ["traits_complete"]}}))
class ScoredAnswer(TypedDict):
    """Our fields in an answer or a choice, beside vLLM's own. Both are absent where the request wants no scores."""

    traits: NotRequired[Annotated[dict[str, TraitScores], Field(description="scores by the name of the trait")]]
    traits_complete: NotRequired[Annotated[bool, Field(description=_COMPLETE)]]


class ScoredChoices(TypedDict):
    """An answer with choices: vLLM's own, and in each of its choices the scores."""

    choices: list[ScoredAnswer] | None


@with_config(ConfigDict(json_schema_extra={"not": {"required": ["traits_complete"]}}))
class StreamedPart(TypedDict):
    """Our field in an event in mid-stream, or in its choice. It is absent where no projection came."""

    traits: NotRequired[Annotated[dict[str, TraitPart], Field(description="parts by the name of the trait")]]


class StreamedEnd(TypedDict):
    """Our fields in the event that ends an answer, or in its choice: the summary, and the rest of the projections."""

    traits: Annotated[dict[str, TraitScores], Field(description="scores by the name of the trait")]
    traits_complete: Annotated[bool, Field(description=_COMPLETE)]


class ScoredChoicesEvent(TypedDict):
    """The data of one event of a stream of choices. The choice with a `finish_reason` has the summary."""

    choices: NotRequired[list[StreamedEnd | StreamedPart]]


class ScoredResponsesEvent(StreamedPart):
    """The data of one event of a stream of `/v1/responses`: parts in each `*.delta`, all at the end in `response`."""

    response: NotRequired[ScoredAnswer]


ScoredMessagesEvent = Annotated[
    StreamedEnd | StreamedPart,
    Field(
        title="ScoredMessagesEvent",
        description="The data of one event of a stream of `/v1/messages`: parts in each `content_block_delta`, the "
        "summary and the rest in `message_delta`.",
    ),
]


class TraitThreshold(TypedDict):
    """The threshold above which a run of tokens is a spike."""

    z: Annotated[float, Field(description="the smoothed z must be above it, standard deviations of the baseline")]
    rate: Annotated[float, Field(description="share of neutral responses that may have a spike")]


class TraitVerification(TypedDict):
    """How good the vector is on held-out answers."""

    auc: Annotated[
        float | None,
        Field(
            description="AUC at the layer: how often the mean projection puts a positive answer above a negative one, "
            "0 to 1"
        ),
    ]
    best_layer: Annotated[int | None, Field(description="the layer that the card names as the best")]
    better_than_null: Annotated[
        bool, Field(description="whether the vector is better than vectors from shuffled labels")
    ]
    verdict: Annotated[str, Field(description="the result of the evidence, in plain words")]


class TraitInfo(TypedDict):
    """A loaded trait."""

    id: Annotated[str, Field(description="its name")]
    object: Literal["trait"]
    layer: Annotated[int, Field(description="layer index at which it is read, as of `output_hidden_states`")]
    description: str
    sha256: Annotated[str, Field(description="SHA-256 of the vector's values")]
    threshold: Annotated[
        TraitThreshold | None, Field(description="null where the trait has none; the trait then has no spikes")
    ]
    calibration: Annotated[LayerCalibration | None, Field(description="the baseline of z; null without one")]
    calibration_date: Annotated[str | None, Field(description="the day on which it was measured, ISO 8601")]
    stale: Annotated[
        bool,
        Field(
            description="whether the model's weights were replaced since the trait was loaded: vector and calibration "
            "are of other weights then"
        ),
    ]
    verification: TraitVerification | None
    cosines: Annotated[
        dict[str, float], Field(description="cosines with the other traits that are read at the same layer")
    ]
    report: Annotated[str | None, Field(description="path of its report on this server; null where it has none")]


class TraitList(TypedDict):
    """The loaded traits, in the order in which answers name them."""

    object: Literal["list"]
    data: list[TraitInfo]


class TraitDeleted(TypedDict):
    """A trait that is no longer loaded."""

    id: Annotated[str, Field(description="its name")]
    object: Literal["trait"]
    deleted: Literal[True]


class Unauthorized(TypedDict):
    """vLLM's answer where the server has an API key and the request has not."""

    error: Literal["Unauthorized"]
