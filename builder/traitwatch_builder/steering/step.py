"""The step of `traitwatch layers`: rank the layers of a vector and write the best one into the vector's card.

The step has two parts. `SteeringRun` measures the effect of steering: it answers the eval questions under every
setting and has the answers judged; `plan` returns what that would take, `measure` does it. `rank_step` then ranks the
layers by the card's verification and by the effects, if they were measured, and writes the card.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from traitwatch.card import Card, LayerChoice, SteeringResult, Verification
from traitwatch.precision import default_precision
from traitwatch.vectors import RESPONSE_AVG, Float32Array, load_vector, save_card
from traitwatch_builder.answering.source import Sampling
from traitwatch_builder.clients.usage import CHARACTERS_PER_TOKEN
from traitwatch_builder.definitions.definition import TraitDefinition
from traitwatch_builder.definitions.elicitation import Elicit, Elicitation
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.judging.judge import Judge, Question
from traitwatch_builder.judging.judging import ASPECTS, JudgeOptions, cost_estimate, make_judge, pending, usage_printed
from traitwatch_builder.models.pretrained import check_length, load_tokenizer
from traitwatch_builder.progress import warn
from traitwatch_builder.steering.answers import SteeredAnswers, judge_steering, settings
from traitwatch_builder.steering.model import SteeredModel, check_layer
from traitwatch_builder.steering.ranking import candidates, choose, reason
from traitwatch_builder.storage.doubts import model_doubt
from traitwatch_builder.storage.worklog import Worklog, model_fingerprint
from traitwatch_builder.storage.workspace import Workspace


@dataclass(frozen=True, eq=False)
class VerifiedVector:
    """A vector whose held-out AUC is known at every layer.

    Attributes:
        card: the vector's card.
        vector: `[num_layers + 1, hidden_size]`, float32.
        verification: the card's verification, which has the AUC.
    """

    card: Card
    vector: Float32Array
    verification: Verification


@dataclass(frozen=True)
class SteeringOptions:
    """What is steered, by how much, and who judges the answers.

    Attributes:
        model: directory or hub name of the model on which the vector was built.
        layers: layer indices to steer; empty for `traitwatch_builder.steering.ranking.candidates`.
        coefficients: multiples of the vector that are added at each of these layers.
        num_questions: how many of the eval questions are answered under each setting.
        sampling: how the answers are drawn.
        judge: who scores the answers.
        elicit: the way of eliciting the trait, whose conditions the likelihood judge compares; None for the card's.
        assistant_name: what a positive system prompt calls the assistant; None for the trait's name.
        device_map: device map of accelerate for the steered model and for the likelihood judge; None for one device.
    """

    model: str
    layers: Sequence[int]
    coefficients: Sequence[float]
    num_questions: int
    sampling: Sampling
    judge: JudgeOptions
    elicit: Elicit | None = None
    assistant_name: str | None = None
    device_map: str | None = None


@dataclass(frozen=True)
class SteeringEffects:
    """What steering did to the answers.

    Attributes:
        results: one result a setting; the unsteered answers are one of them.
        judge: name and model of the judge.
        layers: the layer indices that were asked for; empty where `candidates` were steered.
    """

    results: Sequence[SteeringResult]
    judge: str
    layers: Sequence[int]


@dataclass(frozen=True)
class Ranking:
    """The ranked layers of a vector.

    Attributes:
        choice: the ranking with the measurements behind it.
        best_layer: the layer index of rank 1.
        reason: why that layer is the best.
        left_out: candidates that were not steered although others were; the card has no best layer then.
    """

    choice: LayerChoice
    best_layer: int
    reason: str
    left_out: Sequence[int]


def load_verified(workspace: Workspace, model: str) -> VerifiedVector:
    """Load the vector of a workspace.

    Args:
        workspace: the vector's files.
        model: the model of the vector, for the error message.

    Raises:
        ArtifactError: the vector is missing or unusable.
        PipelineError: the vector has no card, or its card has no verification.
    """
    loaded = load_vector(workspace.vector(RESPONSE_AVG), workspace.trait)
    if loaded.card is None or loaded.card.verification is None:
        raise PipelineError(
            f"{workspace.card} has no verification, so there is no AUC to rank by; run `traitwatch verify "
            f"{workspace.trait} --model {model} --vectors {workspace.directory}` first."
        )
    return VerifiedVector(loaded.card, loaded.vector, loaded.card.verification)


class SteeringRun:
    """The measurement of what steering does to the answers of one model."""

    def __init__(
        self,
        workspace: Workspace,
        verified: VerifiedVector,
        extract: TraitDefinition,
        evaluate: TraitDefinition,
        options: SteeringOptions,
        console: Console,
    ):
        """Prepare the judge and the tokenizer; the model is loaded only when an answer is missing.

        Args:
            workspace: the vector's files; answers and scores are kept in its worklogs as they come.
            verified: the vector.
            extract: the definition whose prompt and instructions the judge uses.
            evaluate: the definition whose questions are answered.
            options: what is steered, and who judges.
            console: where warnings and progress are printed.

        Raises:
            PipelineError: a layer cannot be steered, or the judge cannot be used.
        """
        for layer in options.layers:
            check_layer(layer, verified.card.num_layers)
        warn(console, model_doubt(verified.card, options.model))
        way: Any = options.elicit or verified.card.elicit or "system"
        self._judge = make_judge(
            options.judge,
            extract.eval_prompt,
            Elicitation(extract, way, workspace.trait, options.assistant_name),
            options.model,
            console,
            options.device_map,
        )
        self._tokenizer = load_tokenizer(options.model)
        self._workspace = workspace
        self._verified = verified
        self._questions = evaluate.questions[: options.num_questions]
        self._options = options
        self._console = console
        self._dtype = default_precision()

    def plan(self) -> str:
        """Return what `measure` would generate and spend, in one sentence."""
        with Worklog(self._workspace.log("steered")) as log, Worklog(self._workspace.log("scores")) as scores:
            answers = self._answers(log).saved()
            known = [question for answer in answers if answer for question in answer.questions]
            questions = list(pending(self._judge, known, scores).values())
        missing = answers.count(None)
        # The cost of an answer that is still to come is that of the longest one that can come.
        longest = "x" * (CHARACTERS_PER_TOKEN * self._options.sampling.max_tokens)
        questions += [Question(aspect, "", longest) for _ in range(missing) for aspect in ASPECTS]
        cost = cost_estimate(self._judge, questions) if self._judge.estimate(questions).calls else "nothing to pay"
        return (
            f"{missing} of {len(answers)} answers to make; {len(questions)} scores to give by {self._judge.card.name}; "
            f"{cost}."
        )

    def measure(self) -> SteeringEffects:
        """Generate and judge the answers that the worklogs do not have; return the effects.

        Raises:
            PipelineError: no unsteered answer has a score, or the judge cannot be used.
        """
        options, console, judge = self._options, self._console, self._judge
        with (
            Worklog(self._workspace.log("steered")) as log,
            Worklog(self._workspace.log("scores")) as scores,
        ):
            answers = self._answers(log)
            with usage_printed(judge, console):
                results = judge_steering(judge, answers.make(self._load_model, console), scores, console)
        return SteeringEffects(results, _full_name(judge), options.layers)

    def _answers(self, log: Worklog) -> SteeredAnswers:
        """Return the answers under every setting; raise `PipelineError` where one could be too long for the model."""
        options, verified = self._options, self._verified
        layers = options.layers or candidates(verified.verification, verified.card.num_layers)
        answers = SteeredAnswers(
            self._tokenizer,
            verified.vector,
            {**model_fingerprint(options.model), "dtype": self._dtype},
            options.sampling,
            self._questions,
            settings(layers, options.coefficients),
            log,
        )
        check_length(options.model, answers.longest_prompt, options.sampling.max_tokens)
        return answers

    def _load_model(self) -> SteeredModel:
        options = self._options
        return SteeredModel.load(options.model, self._tokenizer, self._verified.vector, self._dtype, options.device_map)


def rank_step(
    workspace: Workspace,
    verified: VerifiedVector,
    effects: SteeringEffects | None,
    coherence_floor: float,
    *,
    write: bool = True,
) -> Ranking | None:
    """Rank the layers of a vector, and write the ranking and the best layer into its card.

    The card stays as it is where a candidate was left out of the steering: the best layer is chosen among all layers
    of high AUC, or not at all.

    Args:
        workspace: the vector's files.
        verified: the vector.
        effects: what steering did; None ranks by AUC alone.
        coherence_floor: the least mean coherence of answers whose effect counts, 0 to 100.
        write: whether the card may be written.

    Returns:
        The ranking; None where no layer was measured.
    """
    verification, num_layers = verified.verification, verified.card.num_layers
    results = effects.results if effects else []
    choice = choose(verification, results, num_layers, effects.judge if effects else "", coherence_floor)
    if choice is None:
        return None
    left_out: set[int] = set()
    if effects and effects.layers:
        left_out = set(candidates(verification, num_layers)) - set(effects.layers)
    best = choice.ranks[0].layer
    why = reason(choice, better_than_null=verification.better_than_null)
    if write and not left_out:
        chosen = {"layer_choice": choice, "best_layer": best, "best_layer_reason": why}
        save_card(verified.card.model_copy(update=chosen), workspace.card)
    return Ranking(choice, best, why, sorted(left_out))


def _full_name(judge: Judge) -> str:
    return ": ".join(filter(None, (judge.card.name, judge.card.model)))
