"""The rows of the Grafana dashboard that tell whether the scores can be relied on, and what vLLM does meanwhile."""

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from traitwatch_dashboards.grafana import queries as promql
from traitwatch_dashboards.grafana.panels import GREEN, ORANGE, RED, ColourStep, PanelFrame, Panels, Query, differing
from traitwatch_dashboards.grafana.trait_rows import BURN_LINES, CUSUM_LINE, PER_MINUTE

_COVERAGE_LINE = 0.99
_COVERAGE_ALERT = ("TraitwatchCoverageLow",)
_QUANTILES = {"p50": 0.5, "p95": 0.95}


def glance_row(make: Panels) -> list[Builder[Panel]]:
    """Return the numbers at the top."""
    burn = PanelFrame(
        "Fastest burn of a budget",
        "Of all traits, the highest share of responses with a spike in the time range, as a multiple of the share that "
        "the card promises for neutral traffic. About 1 is neutral traffic; the alerts fire at 6 (ticket) and 14.4 "
        "(page), over windows of their own.",
        width=4,
        height=4,
        runbook=("TraitSpikesFast", "TraitSpikesSlow"),
    )
    coverage_row = PanelFrame(
        "Coverage",
        "Share of the generated token states that were scored in the time range. Below 99 % the other panels speak of "
        "a part of the traffic only.",
        width=4,
        height=4,
        runbook=_COVERAGE_ALERT,
    )
    last = PanelFrame(
        "Last score",
        "How long ago a response was scored, on any engine. It grows without traffic, too: compare with the tokens "
        "that vLLM generates, further down.",
        width=4,
        height=4,
        runbook=("TraitwatchSilent", "TraitwatchServerSilent"),
    )
    cusum = PanelFrame(
        "Highest CUSUM",
        "The highest drift sum of any trait now, up or down. Above 15 the mean z of the traffic has moved.",
        width=4,
        height=4,
        runbook=("TraitDrift",),
    )
    loaded = PanelFrame("Traits loaded", "Traits of which a vector is loaded, on any instance.", width=4, height=4)
    uncalibrated = PanelFrame(
        "Uncalibrated vectors",
        "Traits whose vector has no calibration: they have projections, but no z, no spikes and no drift.",
        width=4,
        height=4,
        runbook=("TraitwatchVectorUncalibrated",),
    )
    highest_burn = f"max({promql.burn(promql.RANGE_WINDOW)})"
    # The timestamp is 0 until the first score.
    since = f"time() - ({promql.largest('traitwatch_last_score_timestamp_seconds')} > 0)"
    highest_cusum = promql.largest("traitwatch_drift_cusum", selector=promql.TRAIT_SELECTOR)
    without = f'max by (trait) (traitwatch_vector_info{{{promql.TRAIT_SELECTOR}, calibration_date=""}}) == 1'
    return [
        make.stat(burn, Query(highest_burn), unit="suffix:x", levels=BURN_LINES, decimals=1),
        make.stat(
            coverage_row,
            Query(promql.coverage(promql.RANGE_WINDOW)),
            unit="percentunit",
            levels=[ColourStep(_COVERAGE_LINE, GREEN)],
            base=RED,
            decimals=2,
        ),
        make.stat(last, Query(since), unit="s", levels=[ColourStep(300, ORANGE)], empty="never"),
        make.stat(cusum, Query(highest_cusum), unit="none", levels=[CUSUM_LINE], decimals=1),
        make.stat(loaded, Query(f"count({promql.vectors('trait')})"), unit="none", empty="none"),
        make.stat(uncalibrated, Query(f"count({without}) or vector(0)"), unit="none", levels=[ColourStep(1, ORANGE)]),
    ]


def coverage_row(make: Panels) -> list[Builder[Panel]]:
    """Return the panels of what was scored, and what was not."""
    share = PanelFrame(
        "Tokens scored",
        "Share of the generated token states that were scored. An alert fires below the dashed line at 99 %.",
        runbook=_COVERAGE_ALERT,
    )
    unscored = PanelFrame(
        "Tokens not scored, by reason",
        "`rows_missing`: rows were lost or late. `ledger_full`: too much was waiting in the API process. "
        "`no_traits`: none was loaded. `not_scorable`: beam search. `internal_error`: a fault of Traitwatch, of which "
        "the log tells.",
        runbook=_COVERAGE_ALERT,
    )
    incomplete = PanelFrame(
        "Responses not fully scored, by reason",
        "Choices a minute that went out with `traits_complete: false`. The reasons are those of the tokens.",
        runbook=_COVERAGE_ALERT,
    )
    line = [ColourStep(_COVERAGE_LINE, RED)]
    scored = make.timeseries(share, Query(promql.coverage(), "scored"), unit="percentunit", lines=line)
    unscored_rate = promql.rate("traitwatch_tokens_unscored_total", "reason")
    incomplete_rate = promql.rate("traitwatch_responses_incomplete_total", "reason")
    return [
        scored.max(1).axis_soft_min(0.98),
        make.timeseries(unscored, Query(unscored_rate, "{{reason}}"), unit="suffix:tokens/s", minimum=0),
        make.timeseries(incomplete, Query(f"60 * {incomplete_rate}", "{{reason}}"), unit=PER_MINUTE, minimum=0),
    ]


def transport_row(make: Panels) -> list[Builder[Panel]]:
    """Return the panels of the way from the workers to the API process."""
    lag = PanelFrame(
        "Transport lag",
        "Time from a worker's forward pass to the arrival of its rows in the API process. Milliseconds are normal; an "
        "answer waits for its last rows a second at most, then it goes out incomplete.",
        runbook=_COVERAGE_ALERT,
    )
    ledger = PanelFrame(
        "Ledger",
        "Requests whose projections wait for their response (left axis), and the memory they take (right axis). Both "
        "follow the running requests; what only grows is a leak. Full at 16,384 requests or 1 GiB.",
        runbook=_COVERAGE_ALERT,
    )
    lost = PanelFrame(
        "Rows and events lost",
        "`reader_behind`: the API process was too busy to read them. `ledger_full`: there was no room. `misplaced`: "
        "they cannot be their request's. *Unclaimed*: they came after their response was over, as when a client "
        "leaves. *Unreadable*: messages that were none of ours. *Events*: spikes for the log, or scores for "
        "OpenTelemetry, that could not be written or sent. All but a few unclaimed rows mean that something is wrong.",
        runbook=_COVERAGE_ALERT,
    )
    quantiles = [
        Query(promql.quantile(q, "traitwatch_transport_lag_seconds"), name)
        for name, q in {**_QUANTILES, "p99": 0.99}.items()
    ]
    requests, size = (f"sum(traitwatch_ledger_{what}{{{promql.MODEL_SELECTOR}}})" for what in ("requests", "bytes"))
    held = make.timeseries(ledger, Query(requests, "requests"), Query(size, "memory"), unit="none", minimum=0)
    return [
        make.timeseries(lag, *quantiles, unit="s", minimum=0),
        differing(held, {"memory": {"unit": "bytes", "custom.axisPlacement": "right"}}),
        make.timeseries(
            lost,
            Query(promql.rate("traitwatch_rows_dropped_total", "reason"), "{{reason}}"),
            Query(promql.rate("traitwatch_rows_unclaimed_total"), "unclaimed"),
            Query(promql.rate("traitwatch_frames_unreadable_total"), "unreadable"),
            Query(promql.rate("traitwatch_events_dropped_total", "sink"), "events: {{sink}}"),
            unit="suffix:/s",
            minimum=0,
        ),
    ]


def vllm_row(make: Panels) -> list[Builder[Panel]]:
    """Return vLLM's own latency and load, in which the overhead of scoring would show."""
    first = PanelFrame(
        "Time to first token",
        "vLLM's own, from the arrival of a request to its first token. Scoring adds next to nothing to it: where it "
        "climbs together with the transport lag, the API process is busy.",
        width=6,
    )
    between = PanelFrame(
        "Time between tokens",
        "vLLM's own, between two tokens of one response. Compare before and after switching the scores on "
        "(--traits-default), at the same number of running requests.",
        width=6,
    )
    load = PanelFrame(
        "Requests running and waiting",
        "Requests in the engine's batch, and those that wait for a place in it. Latencies can be compared at equal "
        "load only.",
        width=6,
    )
    tokens = PanelFrame(
        "Tokens per second",
        "What vLLM generated, and what was scored. They differ by the last token of each response, which has no state; "
        "a scored line at 0 beside a generated one above it means that the monitor is silent.",
        width=6,
        runbook=("TraitwatchSilent", "TraitwatchServerSilent"),
    )

    def latency(frame: PanelFrame, histogram: str) -> Builder[Panel]:
        quantiles = [Query(promql.quantile(q, histogram), name) for name, q in _QUANTILES.items()]
        return make.timeseries(frame, *quantiles, unit="s", minimum=0)

    running, waiting = (f"sum(vllm:num_requests_{what}{{{promql.MODEL_SELECTOR}}})" for what in ("running", "waiting"))
    return [
        latency(first, "vllm:time_to_first_token_seconds"),
        latency(between, "vllm:inter_token_latency_seconds"),
        make.timeseries(load, Query(running, "running"), Query(waiting, "waiting"), unit="none", minimum=0),
        make.timeseries(
            tokens,
            Query(promql.rate("vllm:generation_tokens_total"), "generated"),
            Query(promql.rate("traitwatch_tokens_scored_total"), "scored"),
            unit="suffix:tokens/s",
            minimum=0,
        ),
    ]
