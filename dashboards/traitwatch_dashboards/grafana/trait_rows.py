"""The rows of the Grafana dashboard about traits: spikes, mean z, token z, drift, and loaded vectors."""

from typing import Any

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from traitwatch_dashboards.grafana import queries as promql
from traitwatch_dashboards.grafana.panels import (
    GREEN,
    GREY,
    ORANGE,
    RED,
    ColourStep,
    PanelFrame,
    Panels,
    Query,
    colours,
    dashed,
    differing,
)

CUSUM_LINE = ColourStep(15, RED)
BURN_LINES = (ColourStep(6, ORANGE), ColourStep(14.4, RED))
"""Multiples of the budget at which the alerts fire, slow and fast."""

PER_MINUTE = "suffix:/min"
_DEVIATIONS = "suffix:SD"
_TIMES = "suffix:x"
_SPIKE_ALERTS = ("TraitSpikesFast", "TraitSpikesSlow")
_DRIFT_ALERTS = ("TraitDrift", "TraitShift")
_SHARE = {"unit": "percentunit", "decimals": 2}
# Prometheus treats an empty label as a missing label, so the cell is null.
_NO_DATE = {"match": "null", "result": {"text": "not calibrated", "color": ORANGE}}


def spikes_row(make: Panels) -> list[Builder[Panel]]:
    """Return the panels of spikes and their budget."""
    share = PanelFrame(
        "Responses with a spike",
        "Share of the scored responses with at least one spike: a run of tokens whose smoothed z stays above the "
        "trait's threshold. Dashed: the budget, the share of neutral responses with a spike that the card promises. "
        "With few responses per minute the lines jump; the alerts use longer windows.",
        width=12,
        height=9,
        runbook=_SPIKE_ALERTS,
    )
    burn = PanelFrame(
        "Burn of the budget",
        "The share of responses with a spike as a multiple of the budget. Neutral traffic is around 1. Dashed: 6 (the "
        "windows of the alert are 6 h and 30 min: ticket) and 14.4 (1 h and 5 min: page). The windows of this panel "
        "are shorter, so its lines jump higher than the values of the alerts.",
        width=12,
        height=9,
        runbook=_SPIKE_ALERTS,
    )
    top = PanelFrame(
        "Top traits",
        "The ten traits with the fastest burn in the time range of the dashboard, as multiples of the budget. A trait "
        "without a threshold has no burn.",
        runbook=_SPIKE_ALERTS,
    )
    count = PanelFrame(
        "Spikes per minute",
        "Spikes in all responses; one response can have several. The number grows with the traffic. The burn shows "
        "how unusual the number is.",
    )
    volume = PanelFrame(
        "Responses scored per minute",
        "Responses with a mean z: the denominator of the shares. The spike alerts need at least 30 such responses in "
        "their long window.",
    )
    budget = Query(promql.budget(), "budget of {{trait}}")
    shares = make.timeseries(share, Query(promql.spike_share()), budget, unit="percentunit", minimum=0)
    burned = f"sort_desc(topk(10, {promql.burn(promql.RANGE_WINDOW)}))"
    spike_rate = promql.rate("traitwatch_spikes_total", "trait", promql.TRAIT_SELECTOR)
    return [
        differing(shares, {"/^budget of /": dashed(GREY)}),
        make.timeseries(burn, Query(promql.burn()), unit=_TIMES, lines=BURN_LINES, minimum=0, soft_maximum=15),
        make.bars(top, Query(burned), unit=_TIMES, levels=BURN_LINES, maximum=20, decimals=1),
        make.timeseries(count, Query(f"60 * {spike_rate}"), unit=PER_MINUTE, minimum=0),
        make.timeseries(volume, Query(f"60 * {promql.responses()}"), unit=PER_MINUTE, minimum=0),
    ]


def scores_row(make: Panels) -> list[Builder[Panel]]:
    """Return the panels of the mean z of responses."""
    mean = PanelFrame(
        "Mean",
        "Mean over responses of their mean z, in standard deviations of neutral tokens. Neutral traffic is at 0. A "
        "lasting step means that the traffic or the model has changed.",
        runbook=("TraitShift",),
    )
    median = PanelFrame(
        "Median",
        "Half of the responses have a mean z below the median. If the median and the mean move together, the whole "
        "traffic has moved. If only the mean moves, a few responses have moved. Interpolated within buckets; the outer "
        "bounds are -3 and 4.",
    )
    high = PanelFrame(
        "95th percentile",
        "One response in twenty has a mean z above this line. The points are exemplars: single responses with their "
        "call_id, which the spike log has too (Prometheus stores exemplars with --enable-feature=exemplar-storage). "
        "Interpolated within buckets; the outer bounds are -3 and 4.",
    )
    table = PanelFrame(
        "Traits in the time range",
        "One line for each trait, over the time range of the dashboard. *Share*: share of the responses with a spike. "
        "*Budget*: the share that the card promises for neutral traffic. *Burn*: share divided by budget. *Mean z*: "
        "mean over the responses.",
        width=24,
        height=8,
        runbook=_SPIKE_ALERTS,
    )
    p50, p95 = (promql.quantile(q, "traitwatch_response_mean_z", "trait", promql.TRAIT_SELECTOR) for q in (0.5, 0.95))
    window = promql.RANGE_WINDOW
    columns = {
        "Responses": Query(promql.responses(window)),
        "With a spike": Query(promql.spiking(window)),
        "Share": Query(promql.spike_share(window)),
        "Budget": Query(promql.budget()),
        "Burn": Query(promql.burn(window)),
        "Mean z": Query(promql.mean_z(window)),
    }
    burn = {"custom.cellOptions": {"type": "color-text"}, "thresholds": colours(GREEN, BURN_LINES)}
    options: dict[str, dict[str, Any]] = {
        "Responses": {"decimals": 0},
        "With a spike": {"decimals": 0},
        "Share": _SHARE,
        "Budget": _SHARE,
        "Burn": {"unit": _TIMES, "decimals": 1, **burn},
        "Mean z": {"unit": _DEVIATIONS, "decimals": 2},
    }
    return [
        make.timeseries(mean, Query(promql.mean_z()), unit=_DEVIATIONS),
        make.timeseries(median, Query(p50), unit=_DEVIATIONS),
        make.timeseries(high, Query(p95, exemplars=True), unit=_DEVIATIONS),
        make.table(table, {"trait": "Trait"}, columns, options),
    ]


def token_z_row(make: Panels) -> list[Builder[Panel]]:
    """Return the heat map of token z; Grafana repeats it for each trait."""
    frame = PanelFrame(
        "Token z: $trait",
        "Tokens per second by their z. The label of a cell is the upper end of its z. Neutral traffic is a band around "
        "0. A second band above it means that a part of the traffic shows the trait. A band that moves is drift. The "
        "colour follows the square root of the rate, so that a few high tokens are visible.",
        width=24,
        runbook=("TraitShift",),
    )
    buckets = promql.rate("traitwatch_token_z_bucket", "le", promql.TRAIT_SELECTOR)
    return [make.heatmap(frame, buckets, cells="suffix:tokens/s", repeat="trait")]


def drift_row(make: Panels) -> list[Builder[Panel]]:
    """Return the panels of the drift detectors."""
    ewma = PanelFrame(
        "Recent mean z (EWMA)",
        "Exponentially weighted mean of the responses' mean z, from the server; the mean of all engines. The "
        "weight of a response decays with its age, within some five minutes. Without traffic, the value does not "
        "change.",
        runbook=_DRIFT_ALERTS,
    )
    difference = PanelFrame(
        "Recent against long-run mean z",
        "The fast mean minus the slow mean, in standard errors of their difference. A value between -3 and 3 may be "
        "chance. The value is 0 until the server has seen enough responses after its start. With several engines, the "
        "panel shows the engine with the largest drift.",
        runbook=_DRIFT_ALERTS,
    )
    cusum = PanelFrame(
        "CUSUM",
        "Sum of the standardised mean z beyond an allowance of 0.5, never below 0. It climbs while the traffic is "
        "above (up) or below (down) its former level. Above the dashed line at 15 this is not chance (one false alarm "
        "in some 20 million responses). It is capped at 50. With several engines, the panel shows the highest sum.",
        runbook=_DRIFT_ALERTS,
    )
    sums = promql.largest("traitwatch_drift_cusum", "trait, direction", promql.TRAIT_SELECTOR)
    recent = f'avg by (trait) (traitwatch_z_ewma{{{promql.TRAIT_SELECTOR},engine!="unknown"}})'
    return [
        make.timeseries(ewma, Query(recent), unit=_DEVIATIONS),
        make.timeseries(difference, Query(promql.farthest_drift()), unit="none"),
        make.timeseries(
            cusum,
            Query(sums, "{{trait}} {{direction}}"),
            unit="none",
            lines=[CUSUM_LINE],
            minimum=0,
            soft_maximum=CUSUM_LINE.value + 1,
        ),
    ]


def vectors_row(make: Panels) -> list[Builder[Panel]]:
    """Return the table of the loaded vectors."""
    frame = PanelFrame(
        "Vectors",
        "One line for each vector. Two lines of one trait mean that instances have loaded different vectors. "
        "*Threshold*: the smoothed z above which a run of tokens is a spike. *Budget*: the share of neutral responses "
        "with a spike that the card promises. Both are empty for a trait without a threshold.",
        width=24,
        height=9,
        runbook=("TraitwatchVectorUncalibrated", "TraitwatchVectorStale"),
    )
    labels = {"trait": "Trait", "layer": "Layer", "calibration_date": "Calibrated", "sha256": "SHA-256 of the vector"}
    by = ", ".join(labels)
    columns = {
        "Threshold": Query(promql.of_vectors("traitwatch_threshold_z", by)),
        "Budget": Query(promql.of_vectors("traitwatch_threshold_rate", by)),
        "Loaded": Query(promql.vectors(by)),
    }
    options: dict[str, dict[str, Any]] = {
        "Threshold": {"unit": _DEVIATIONS, "decimals": 2},
        "Budget": _SHARE,
        "Loaded": {"custom.hidden": True},
        "Calibrated": {
            "mappings": [{"type": "special", "options": _NO_DATE}],
            "custom.cellOptions": {"type": "color-text"},
        },
        "SHA-256 of the vector": {"custom.width": 540},
    }
    return [make.table(frame, labels, columns, options)]
