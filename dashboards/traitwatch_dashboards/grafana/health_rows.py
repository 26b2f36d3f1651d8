"""The other rows of the Grafana dashboard: whether the scores are reliable, and the load and latency of vLLM."""

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
        "The highest share, over all traits, of responses with a spike in the time range, as a multiple of the share "
        "that the card promises for neutral traffic. Neutral traffic is about 1. The alerts fire at 6 (ticket) and "
        "14.4 (page), over their own windows.",
        width=4,
        height=4,
        runbook=("TraitSpikesFast", "TraitSpikesSlow"),
    )
    coverage_row = PanelFrame(
        "Coverage",
        "Share of the generated token states that were scored in the time range. Below 99 % the other panels show only "
        "a part of the traffic.",
        width=4,
        height=4,
        runbook=_COVERAGE_ALERT,
    )
    last = PanelFrame(
        "Last score",
        "Time since the last scored response, on any engine. It grows without traffic too: compare it with the tokens "
        "that vLLM generates, further down.",
        width=4,
        height=4,
        runbook=("TraitwatchSilent", "TraitwatchServerSilent"),
    )
    cusum = PanelFrame(
        "Highest CUSUM",
        "The highest drift sum of any trait now, up or down. Above 15, the mean z of the traffic has moved.",
        width=4,
        height=4,
        runbook=("TraitDrift",),
    )
    loaded = PanelFrame("Traits loaded", "Traits with a loaded vector, on any instance.", width=4, height=4)
    uncalibrated = PanelFrame(
        "Uncalibrated vectors",
        "Traits whose vector has no calibration. They have projections, but no z, no spikes and no drift.",
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
    """Return the panels about scored and unscored tokens."""
    share = PanelFrame(
        "Tokens scored",
        "Share of the generated token states that were scored. An alert fires below the dashed line at 99 %.",
        runbook=_COVERAGE_ALERT,
    )
    unscored = PanelFrame(
        "Tokens not scored, by reason",
        "`rows_missing`: rows were lost or late. `ledger_full`: too many rows were waiting in the API process. "
        "`no_traits`: no trait was loaded. `not_scorable`: beam search. `internal_error`: a fault of Traitwatch; see "
        "the server's log.",
        runbook=_COVERAGE_ALERT,
    )
    incomplete = PanelFrame(
        "Responses not fully scored, by reason",
        "Choices per minute that the server sent with `traits_complete: false`. The reasons are those of the tokens.",
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
    """Return the panels about the transport from the workers to the API process."""
    lag = PanelFrame(
        "Transport lag",
        "Time from a pass's rows in the worker's host memory to their arrival in the API process. Milliseconds are "
        "normal. An answer waits for its last rows for one second at most; then the server sends it incomplete.",
        runbook=_COVERAGE_ALERT,
    )
    ledger = PanelFrame(
        "Ledger",
        "Requests whose projections wait for their response (left axis), and their memory (right axis). Both follow "
        "the running requests; a line that only grows is a leak. The ledger is full at 16,384 requests or 1 GiB.",
        runbook=_COVERAGE_ALERT,
    )
    lost = PanelFrame(
        "Rows and events lost",
        "`reader_behind`: the API process was too busy to read the rows. `worker_failed`: a worker could not send "
        "them. *Failed passes*: a worker could not read or send the rows of a pass. `ledger_full`: there was no room. "
        "`misplaced`: the rows cannot belong to their request. *Unclaimed*: the rows came after the end of their "
        "response, for example because a client left. *Unreadable*: messages that Traitwatch did not send. *Events*: "
        "spikes for the log, or scores for OpenTelemetry, that could not be written or sent. A few unclaimed rows are "
        "normal; all other losses mean a fault.",
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
            Query(promql.rate("traitwatch_passes_failed_total"), "failed passes"),
            Query(promql.rate("traitwatch_rows_unclaimed_total"), "unclaimed"),
            Query(promql.rate("traitwatch_frames_unreadable_total"), "unreadable"),
            Query(promql.rate("traitwatch_events_dropped_total", "sink"), "events: {{sink}}"),
            unit="suffix:/s",
            minimum=0,
        ),
    ]


def vllm_row(make: Panels) -> list[Builder[Panel]]:
    """Return the panels of vLLM's own latency and load. An overhead of scoring would show in them."""
    first = PanelFrame(
        "Time to first token",
        "vLLM's own time from the arrival of a request to its first token. Scoring adds almost nothing. If this time "
        "climbs together with the transport lag, the API process is busy.",
        width=6,
    )
    between = PanelFrame(
        "Time between tokens",
        "vLLM's own time between two tokens of one response. Compare it with and without scores in the responses "
        "(--traits-default), at the same number of running requests.",
        width=6,
    )
    load = PanelFrame(
        "Requests running and waiting",
        "Requests in the engine's batch, and requests that wait for a place in it. Compare latencies only at equal "
        "load.",
        width=6,
    )
    tokens = PanelFrame(
        "Tokens per second",
        "Tokens that vLLM generated, and tokens that were scored. They differ by the last token of each response: it "
        "has no state. If tokens are generated and the scored line is at 0, the monitor is silent.",
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
