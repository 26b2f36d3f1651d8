"""The tables that commands print at their end, made from a card."""

from pathlib import Path

from rich.table import Table

from traitwatch.card import Card, LayerChoice, LayerVerification
from traitwatch.vectors import DEFAULT_LAYER
from traitwatch_builder.vectors.verdict import served_layer

_TABLE_LAYERS = 12


def build_table(card: Card, directory: Path) -> Table:
    """Return the results of a build: its files, its main numbers and the verdict."""
    table = Table(title=f"{card.trait} for {card.model}", show_header=False)
    table.add_row("vector", str(directory / f"{card.trait}_response_avg_diff.pt"))
    table.add_row("report", str(directory / f"{card.trait}.html"))
    table.add_row("effective pairs", f"{card.counts['effective_pairs']} of {card.counts['pairs']}")
    if card.judge is not None:
        table.add_row("judge", ": ".join(filter(None, (card.judge.name, card.judge.model, card.judge.note))))
    if card.verification is not None:
        served = card.verification.layers[served_layer(card.num_layers)]
        table.add_row(f"held-out AUC, layer {served.layer}", _number(served.auc))
        table.add_row("best layer", f"{card.best_layer}: {card.best_layer_reason}")
        table.add_row("verdict", card.verification.verdict)
    if card.calibration is not None:
        calibration = card.calibration
        table.add_row("calibrated on", f"{calibration.num_tokens} tokens of {calibration.num_responses} answers")
    return table


def verification_table(card: Card) -> Table:
    """Return the verification layer by layer; of a deep model, only some layers."""
    layers = card.verification.layers if card.verification else []
    table = Table(title=f"{card.trait}, held-out answers", caption="null: 95th percentile of shuffled labels")
    columns = ("layer", "AUC", "null AUC", "prompt-last AUC", "norm", "null norm", "halves", "r", "r pos", "r neg")
    for column in columns:
        table.add_column(column, justify="right")
    wanted = {0, len(layers) - 1, card.best_layer, served_layer(card.num_layers)}
    step = max(1, len(layers) // _TABLE_LAYERS)
    for row in layers:
        if row.layer in wanted or row.layer % step == 0:
            table.add_row(str(row.layer), *_cells(row), style="bold" if row.layer == card.best_layer else None)
    return table


def _cells(row: LayerVerification) -> list[str]:
    values = (row.auc, row.null_auc, row.auc_prompt_last, row.norm, row.null_norm, row.split_half_cosine)
    return [*map(_number, values), *map(_number, (row.correlation, row.correlation_pos, row.correlation_neg))]


def calibration_table(card: Card) -> Table:
    """Return the baseline and the thresholds at the best layer and at the served layer."""
    table = Table(title=f"{card.trait}, neutral answers")
    for column in ("layer", "mean", "std", "1 % of answers spike above z", "0.1 %"):
        table.add_column(column, justify="right")
    calibration = card.calibration
    if calibration is None:
        return table
    for layer in sorted({card.best_layer or 0, served_layer(card.num_layers)} - {0}):
        baseline = calibration.layers[layer]
        thresholds = [f"{t.z:.2f} ({t.low:.2f} to {t.high:.2f})" for t in baseline.thresholds] or ["-", "-"]
        table.add_row(str(layer), f"{baseline.mean:.2f}", f"{baseline.std:.2f}", *thresholds)
    table.caption = calibration.method
    return table


def ranking_table(trait: str, choice: LayerChoice) -> Table:
    """Return the best layers, the layers that were steered, and the layer that servers read by default."""
    table = Table(title=f"{trait}, layers")
    for column in ("rank", "layer", "AUC", "steering effect", "at coefficient"):
        table.add_column(column, justify="right")
    steered = {result.layer for result in choice.steering}
    for row in choice.ranks:
        if row.rank > _TABLE_LAYERS and row.layer not in steered and row.layer != DEFAULT_LAYER:
            continue
        cells = (_number(row.auc), _number(row.steering_effect, "+.1f"), _number(row.coefficient, "g"))
        table.add_row(str(row.rank), str(row.layer), *cells, style="bold" if row.rank == 1 else None)
    return table


def steering_table(choice: LayerChoice) -> Table:
    """Return what every coefficient does at every layer; a setting below the coherence floor is dimmed."""
    floor = choice.coherence_floor or 0.0
    table = Table(
        title=f"steered answers, judge: {choice.judge}",
        caption=f"dimmed: mean coherence below the floor of {floor:.1f}",
    )
    for column in ("layer", "coefficient", "trait score", "coherence", "answers"):
        table.add_column(column, justify="right")
    for result in choice.steering:
        unsteered = result.coefficient == 0
        table.add_row(
            "-" if unsteered else str(result.layer),
            f"{result.coefficient:g}",
            f"{result.trait_score:.1f}",
            f"{result.coherence:.1f}",
            str(result.num_answers),
            style="dim" if result.coherence < floor and not unsteered else None,
        )
    return table


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)
