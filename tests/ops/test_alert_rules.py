"""The shipped rules on made-up traffic: each alert fires when it should, not on low volume, and is resolved.

Every check names all alerts that fire at a minute. So it also shows which alerts do not fire.
"""

from pathlib import Path

import pytest

from tests.support.promtool import AlertText, Labels, alert, check, counter, gauge, series

FAST = alert("TraitSpikesFast", "page", trait="paternalism")
SLOW = alert("TraitSpikesSlow", "ticket", trait="paternalism")
COVERAGE = alert("TraitwatchCoverageLow", "ticket")
SILENT = alert("TraitwatchSilent", "page")


def spikes(
    *phases: tuple[int, float, float], trait: str = "paternalism", budget: float = 0.01, instance: str = "a"
) -> dict[str, list[float]]:
    """Return phases. Each has minutes, a number of responses, and a number of responses with a spike."""
    of_trait = {"trait": trait, "instance": instance}
    length = sum(minutes for minutes, _, _ in phases) + 1
    return {
        series("traitwatch_responses_total", **of_trait): counter(*((m, n) for m, n, _ in phases)),
        series("traitwatch_responses_over_threshold_total", **of_trait): counter(*((m, n) for m, _, n in phases)),
        series("traitwatch_threshold_rate", **of_trait, engine=""): gauge((length, budget)),
    }


def test_a_burst_of_spikes_pages_and_is_resolved(tmp_path: Path) -> None:
    """Half of two responses a minute spike: the hour is above 14.4 % after 18 minutes. Another trait stays quiet."""
    given = spikes((300, 2, 0), (25, 2, 1), (60, 2, 0)) | spikes((385, 2, 0.02), trait="deception")
    text = AlertText(
        320,
        FAST,
        "m turns to paternalism: 16.67% of its responses spike",
        "16.67% of the responses of the last hour had a paternalism spike (20 of 120), and 50% of the responses of the "
        "last 5 minutes. For neutral responses the share is 1%.",
    )
    # From minute 325 on nothing spikes. The 5 minutes have no spike at 330, and the alert fires 15 minutes longer.
    check(tmp_path, given, {300: [], 315: [], 320: [FAST], 325: [FAST], 340: [FAST], 350: [], 385: []}, [text])


def test_a_slow_burn_is_a_ticket_and_is_resolved(tmp_path: Path) -> None:
    """A tenth of the responses spike: too few for a page."""
    given = spikes((400, 1, 0.01), (300, 1, 0.1), (200, 1, 0))
    text = AlertText(
        690,
        SLOW,
        "m leans to paternalism: 8.25% of its responses spike",
        "8.25% of the responses of the last 6 hours had a paternalism spike (30 of 360), and 10% of the responses of "
        "the last 30 minutes. For neutral responses the share is 1%.",
    )
    check(tmp_path, given, {400: [], 500: [], 690: [SLOW], 720: [SLOW], 800: []}, [text])


@pytest.mark.parametrize(
    ("share", "firing"), [(0.055, []), (0.065, [SLOW]), (0.14, [SLOW]), (0.15, [FAST, SLOW])], ids=str
)
def test_the_limits_are_6_and_14_4_times_the_budget(tmp_path: Path, share: float, firing: list[Labels]) -> None:
    check(tmp_path, spikes((400, 10, 10 * share)), {400: firing})


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_low_volume_pages_nobody(tmp_path: Path, share: float) -> None:
    """24 responses an hour with many spikes are a ticket and no page. 4 an hour are no ticket either."""
    check(tmp_path, spikes((360, 0.4, 0.4 * share)), {360: [SLOW]})
    check(tmp_path, spikes((360, 0.07, 0.07 * share)), {360: []})


def test_a_few_spikes_in_thin_traffic_are_no_ticket(tmp_path: Path) -> None:
    """36 responses in six hours are enough to be judged, but 4 spikes among them (11 %) are too few."""
    check(tmp_path, spikes((280, 0.1, 0), (80, 0.1, 0.05)), {355: [], 360: []})


def test_a_small_budget_is_not_overdrawn_by_a_response_or_two(tmp_path: Path) -> None:
    """2 of 60 responses are 33 times a budget of 0.1 %."""
    check(tmp_path, spikes((58, 1, 0), (2, 1, 1), budget=0.001), {59: [], 60: []})


def test_no_traffic_is_no_alert(tmp_path: Path) -> None:
    check(tmp_path, spikes((360, 0, 0)), {30: [], 360: []})


def test_a_gap_in_thin_traffic_does_not_resolve_a_page(tmp_path: Path) -> None:
    """For 10 minutes there is no traffic, and the window of 5 minutes is empty. Then the traffic goes on."""
    given = spikes((60, 1, 0.5), (10, 0, 0), (20, 1, 0.5))
    check(tmp_path, given, {60: [FAST, SLOW], 68: [FAST, SLOW], 75: [FAST, SLOW]})


def test_servers_of_a_model_are_added_up(tmp_path: Path) -> None:
    """A third of the responses of one server is a sixth of both servers' responses; a ninth if the other has more."""
    one = spikes((60, 3, 1))
    check(tmp_path, one | spikes((60, 3, 0), instance="b"), {60: [FAST, SLOW]})
    check(tmp_path, one | spikes((60, 6, 0), instance="b"), {60: [SLOW]})


def test_models_are_not_added_up(tmp_path: Path) -> None:
    other = {name.replace('"m"', '"other"'): values for name, values in spikes((60, 3, 0)).items()}
    check(tmp_path, spikes((60, 3, 1)) | other, {60: [FAST, SLOW]})


def test_a_trait_without_threshold_has_no_spike_alerts(tmp_path: Path) -> None:
    given = {name: values for name, values in spikes((60, 3, 2)).items() if "threshold_rate" not in name}
    check(tmp_path, given, {60: []})


def test_a_trait_that_was_unloaded_is_not_overdrawn(tmp_path: Path) -> None:
    """Then the budget of the trait is 0, and its last responses are still in the windows."""
    check(tmp_path, spikes((60, 3, 0.2), budget=0), {60: []})


def test_a_large_budget_can_be_overdrawn(tmp_path: Path) -> None:
    """14.4 times 10 % would be more than all responses. Half of the responses are enough."""
    check(tmp_path, spikes((60, 3, 1.2), budget=0.1), {60: []})
    check(tmp_path, spikes((60, 3, 1.8), budget=0.1), {60: [FAST, SLOW]})


def test_a_restart_of_the_server_keeps_a_page(tmp_path: Path) -> None:
    """The counters begin at 0 again."""
    given = spikes((60, 3, 1))
    given = {
        name: [*values, *([values[-1]] * 20 if "rate" in name else counter((19, values[-1] / 60)))]
        for name, values in given.items()
    }
    check(tmp_path, given, {60: [FAST, SLOW], 62: [FAST, SLOW], 75: [FAST, SLOW]})


@pytest.mark.parametrize("direction", ["up", "down"])
def test_drift_is_a_ticket_and_is_resolved(tmp_path: Path, direction: str) -> None:
    drift = alert("TraitDrift", "ticket", trait="paternalism", direction=direction)
    cusum = gauge((10, 14), (10, 20), (30, 3))
    other = "down" if direction == "up" else "up"
    given = {
        series("traitwatch_drift_cusum", trait="paternalism", direction=direction): cusum,
        series("traitwatch_drift_cusum", trait="paternalism", direction=other): gauge((50, 1)),
        series("traitwatch_drift_cusum", trait="paternalism", direction=direction, instance="b"): gauge((50, 0)),
    }
    text = AlertText(
        18,
        drift,
        f"m drifts {direction} in paternalism",
        f"The mean paternalism z of the responses of a server of m has moved {direction}: in all responses a little, "
        "or in some responses a lot. The CUSUM of the mean z is at 20.0; unchanged traffic does not bring it above 15.",
    )
    check(tmp_path, given, {9: [], 13: [], 16: [drift], 30: [drift], 40: []}, [text])


def mean_z(
    *phases: tuple[int, float, float], restart_after: int | None = None, budget_of: str = "paternalism"
) -> dict[str, list[float]]:
    """Return phases. Each has minutes, a number of responses, and the average of their mean z."""
    positive = counter(*((m, n * (1 + max(z, 0))) for m, n, z in phases))
    negative = counter(*((m, n * (1 + max(-z, 0))) for m, n, z in phases))
    count = counter(*((m, n) for m, n, _ in phases))
    if restart_after is not None:
        for values in (positive, negative, count):
            values[restart_after + 1 :] = [value - values[restart_after + 1] for value in values[restart_after + 1 :]]
    return {
        series("traitwatch_response_z_total", trait=budget_of, sign="positive"): positive,
        series("traitwatch_response_z_total", trait=budget_of, sign="negative"): negative,
        series("traitwatch_responses_total", trait=budget_of): count,
    }


SHIFT = alert("TraitShift", "ticket", trait="paternalism")


@pytest.mark.parametrize("restart_after", [None, 1500])
def test_a_shift_is_a_ticket_across_restarts_and_is_resolved(tmp_path: Path, restart_after: int | None) -> None:
    """Mean z goes from -0.2 to 1 with a release, and back an hour later. Another trait keeps its mean z."""
    given = mean_z((1500, 2, -0.2), (60, 2, 1), (120, 2, -0.2), restart_after=restart_after)
    given |= mean_z((1680, 2, 0.4), budget_of="deception")
    check(tmp_path, given, {1500: [], 1511: [], 1530: [SHIFT], 1560: [SHIFT], 1590: [SHIFT], 1660: []})


def test_the_text_of_a_shift_has_the_means_before_and_after(tmp_path: Path) -> None:
    text = AlertText(
        1535,
        SHIFT,
        "m has shifted by -1.00 z in paternalism",
        "The mean paternalism z of the last 30 minutes' responses is -0.75; over the day before it was +0.25.",
    )
    check(tmp_path, mean_z((1500, 2, 0.25), (60, 2, -0.75)), {1535: [SHIFT]}, [text])


def test_a_shift_of_a_few_responses_is_none(tmp_path: Path) -> None:
    """24 responses in half an hour are too few. 60 responses in the day before are too few, too."""
    check(tmp_path, mean_z((1500, 0.8, 0), (60, 0.8, 2)), {1540: [], 1560: []})
    check(tmp_path, mean_z((60, 1, 0), (60, 2, 2)), {90: [], 115: []})


def test_a_small_shift_is_none(tmp_path: Path) -> None:
    check(tmp_path, mean_z((1500, 20, 0), (60, 20, 0.4)), {1530: [], 1560: []})


def coverage(*phases: tuple[int, float, float, float]) -> dict[str, list[float]]:
    """Return phases. Each has minutes, and numbers of scored tokens, unscored tokens and incomplete responses."""
    length = sum(minutes for minutes, *_ in phases)
    return {
        series("traitwatch_tokens_scored_total"): counter(*((m, n) for m, n, _, _ in phases)),
        series("traitwatch_tokens_unscored_total", reason="rows_missing"): counter(*((m, n) for m, _, n, _ in phases)),
        series("traitwatch_tokens_unscored_total", reason="ledger_full"): counter((length, 0)),
        series("traitwatch_responses_incomplete_total", reason="rows_missing"): counter(
            *((m, n) for m, _, _, n in phases)
        ),
        series("traitwatch_responses_incomplete_total", reason="ledger_full"): counter((length, 0)),
    }


def test_low_coverage_is_a_ticket_and_is_resolved(tmp_path: Path) -> None:
    text = AlertText(
        50,
        COVERAGE,
        "Only 95% of the tokens of m are scored",
        "Of 15k tokens of the last 15 minutes 95% were scored; 99% is expected. 15 responses are incomplete. Spike "
        "rates and drift describe only the other responses.",
    )
    given = coverage((30, 1000, 5, 0.1), (30, 950, 50, 1), (60, 1000, 0, 0))
    check(tmp_path, given, {30: [], 34: [], 50: [COVERAGE], 60: [COVERAGE], 100: []}, [text])


def test_low_coverage_of_little_traffic_is_none(tmp_path: Path) -> None:
    """900 tokens in a quarter of an hour, or one response among many that lost its rows."""
    check(tmp_path, coverage((60, 30, 30, 1)), {60: []})
    check(tmp_path, coverage((30, 100, 0, 0), (1, 0, 100, 1), (30, 100, 0, 0)), {35: [], 40: [], 45: []})


def flow(
    *phases: tuple[int, float, float, float], instance: str = "a", without_traitwatch: bool = False
) -> dict[str, list[float]]:
    """Return phases. Each has minutes, and numbers of generated tokens, ended requests and scored tokens."""
    generated = {
        series("vllm:generation_tokens_total", instance=instance): counter(*((m, n) for m, n, _, _ in phases)),
        series("vllm:request_success_total", instance=instance, finished_reason="stop"): counter(
            *((m, n) for m, _, n, _ in phases)
        ),
    }
    scored = {series("traitwatch_tokens_scored_total", instance=instance): counter(*((m, n) for m, _, _, n in phases))}
    return generated if without_traitwatch else generated | scored


def server_silent(instance: str) -> dict[str, str]:
    return dict(alert("TraitwatchServerSilent", "ticket", job="traitwatch", instance=instance))


def test_a_silent_monitor_pages_and_is_resolved(tmp_path: Path) -> None:
    given = flow((30, 300, 3, 297), (40, 300, 3, 0), (20, 300, 3, 297))
    both = [SILENT, server_silent("a")]
    texts = [
        AlertText(
            50,
            SILENT,
            "m is not monitored: tokens flow and none is scored",
            "m generated 3k tokens in the last 10 minutes, and Traitwatch scored none of them. No alert about a trait "
            "can fire until it does.",
        ),
        AlertText(
            50,
            server_silent("a"),
            "a is not monitored: tokens of m flow and none is scored",
            "a generated 3k tokens of m in the last 10 minutes, and Traitwatch scored none of them. The responses of "
            "this server are missing from every figure about the model.",
        ),
    ]
    check(tmp_path, given, {30: [], 39: [], 44: [], 50: both, 70: both, 75: []}, texts)


def test_a_server_without_traitwatch_is_silent(tmp_path: Path) -> None:
    given = flow((60, 300, 3, 0), without_traitwatch=True)
    check(tmp_path, given, {60: [SILENT, server_silent("a")]})


def test_one_silent_server_among_several_is_a_ticket(tmp_path: Path) -> None:
    given = flow((60, 300, 3, 297)) | flow((60, 300, 3, 0), instance="b", without_traitwatch=True)
    check(tmp_path, given, {60: [server_silent("b")]})


@pytest.mark.parametrize(
    "phase",
    [
        pytest.param((60, 30, 1, 0), id="300 tokens"),
        pytest.param((60, 300, 300, 0), id="answers of one token have no states"),
        pytest.param((60, 300, 0, 0), id="no answer has ended yet"),
        pytest.param((60, 0, 0, 0), id="no traffic"),
    ],
)
def test_nothing_to_score_is_not_silence(tmp_path: Path, phase: tuple[int, float, float, float]) -> None:
    check(tmp_path, flow(phase), {30: [], 60: []})


def test_an_uncalibrated_vector_is_an_info_alert(tmp_path: Path) -> None:
    calibrated = series(
        "traitwatch_vector_info", engine="", trait="deception", layer="20", calibration_date="2026-11-24"
    )
    bare = series("traitwatch_vector_info", engine="", trait="candour", layer="16", calibration_date="")
    uncalibrated = alert("TraitwatchVectorUncalibrated", "info", trait="candour", layer="16")
    text = AlertText(
        15,
        uncalibrated,
        "candour of m is not calibrated",
        "The vector of candour at layer 16 of m has no baseline: its projections have no z, so it has no spikes and no "
        "alerts.",
    )
    given = {calibrated: gauge((40, 1)), bare: gauge((20, 1))}
    check(tmp_path, given, {8: [], 15: [uncalibrated], 35: []}, [text])


def test_a_vector_of_other_weights_is_a_ticket_until_the_weights_are_back(tmp_path: Path) -> None:
    stale = alert("TraitwatchVectorStale", "ticket", trait="candour")
    given = {
        series("traitwatch_vector_stale", engine="", trait="candour", instance="a"): gauge((10, 0), (20, 1), (20, 0)),
        series("traitwatch_vector_stale", engine="", trait="candour", instance="b"): gauge((50, 0)),
        series("traitwatch_vector_stale", engine="", trait="deception", instance="a"): gauge((50, 0)),
    }
    text = AlertText(
        20,
        stale,
        "The weights of m are no longer those of its vector of candour",
        "A server of m replaced its weights after it had loaded the vector of candour: vector, baseline and threshold "
        "are of other weights. The scores, spikes and drift of the trait may mean something else now.",
    )
    check(tmp_path, given, {9: [], 20: [stale], 40: []}, [text])
