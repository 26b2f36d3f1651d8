"""The doctor's verdicts, made from what was measured: parity, isolation, overhead.

Errors are in *spreads*. A spread is the standard deviation of the right values over all states, so a projection of
another token or another request has an error of about 1, whatever the model. Each check shows the error of such a wrong
value beside the measured error, which must be far smaller.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from traitwatch.vectors import Float32Array
from traitwatch_server.doctor.chats import CHATS_AT_ONCE, ScoredText
from traitwatch_server.doctor.report import Check, Table, Verdict

# Root mean square, in spreads. bfloat16 alone makes 0.02 to 0.06 on the embedded model.
MAX_ERROR = 0.1
# Where transformers in the served precision errs more than that against float32, this many times its error.
MAX_TIMES_OWN_ERROR = 1.5
# The error of a single state, over all probes: rounding makes less, a row of another request makes more.
MAX_STATE_ERROR = 0.5
# Share of the error that the best wrong explanation has: a neighbouring layer or token.
MAX_SHARE_OF_NEIGHBOUR = 0.5
# The check fails where scoring certainly costs a larger share of the throughput.
MAX_COST = 0.03
_CONFIDENCE = 0.95

Reference = Mapping[int, Mapping[int, Float32Array]]


@dataclass(frozen=True)
class References:
    """The projections of the same states by transformers (`traitwatch_server.doctor.reference`).

    Attributes:
        exact: in float32; None where transformers could not be run in float32.
        served: in the served precision; None where it could not be run, or where the served precision is float32.
        served_name: the served precision.
        missing: why one of them could not be run.
    """

    exact: Reference | None
    served: Reference | None
    served_name: str
    missing: str = ""


def rms(values: Float32Array) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def parity(layers: Sequence[int], texts: Sequence[ScoredText], references: References) -> Check:
    """Compare the server's projections with those of transformers.

    Args:
        layers: the layer of each probe, ascending.
        texts: the chats that the server scored.
        references: the projections by transformers.
    """
    best = references.exact if references.exact is not None else references.served
    if best is None:
        return Check("parity", Verdict.NOT_RUN, references.missing)
    got = dict(zip(layers, np.concatenate([text.projections for text in texts], axis=1), strict=True))
    all_scored = all(text.complete for text in texts) and not any(np.isnan(values).any() for values in got.values())
    rows, passed = [], all_scored
    for layer in layers:
        expected = best[layer][layer]
        spread = float(expected.std())
        error = rms(got[layer] - expected) / spread
        own = None
        if references.exact is not None and references.served is not None:
            own = rms(references.served[layer][layer] - expected) / spread
        layer_off = min(rms(got[layer] - other) / spread for near, other in best[layer].items() if near != layer)
        token_off = rms(got[layer][:-1] - expected[1:]) / spread
        allowed = min(
            max(MAX_ERROR, MAX_TIMES_OWN_ERROR * (own or 0.0)), MAX_SHARE_OF_NEIGHBOUR * min(layer_off, token_off)
        )
        passed &= bool(error <= allowed)
        correlation = float(np.corrcoef(got[layer], expected)[0, 1])
        figures = [f"{correlation:.5f}", _e(error), "-" if own is None else _e(own), _e(layer_off), _e(token_off)]
        rows.append([str(layer), *figures, _e(allowed)])
    against = "float32" if references.exact is not None else references.served_name
    states = next(iter(got.values())).size
    why = f"{states} states of {len(texts)} chats against transformers in {against}; errors are RMS, in spreads."
    if not all_scored:
        why += " Projections are missing."
    if references.missing:
        why += f" {references.missing}"
    header = ["layer", "correlation", "error", f"transformers in {references.served_name}"]
    header += ["next layer instead", "next token instead", "allowed"]
    return Check("parity", _verdict(passed), why, Table(header, rows))


def isolation(crowd: Sequence[ScoredText], alone: Sequence[Float32Array], left_open: float) -> Check:
    """Compare each of many simultaneous chats with its own text scored alone.

    Args:
        crowd: the chats.
        alone: for each chat, the projections of its text when the server scored it alone.
        left_open: calls whose rows the server still held after all chats had ended.
    """
    spread = np.concatenate(alone, axis=1).std(axis=1, keepdims=True)
    missing = sum(not text.complete or bool(np.isnan(text.projections).any()) for text in crowd)
    errors = [(text.projections - solo) / spread for text, solo in zip(crowd, alone, strict=True)]
    per_state = [np.sqrt(np.mean(error.astype(np.float64) ** 2, axis=0)) for error in errors]
    worst = max(float(np.nanmax(states, initial=0.0)) for states in per_state)
    overall = math.sqrt(float(np.nanmean(np.concatenate(per_state) ** 2)))
    others = zip(crowd, [*alone[1:], alone[0]], strict=True)
    stray = [
        np.sqrt(np.mean(((text.projections[:, :n] - other[:, :n]) / spread) ** 2, axis=0))
        for text, other in others
        if (n := min(text.projections.shape[1], other.shape[1]))
    ]
    wrong = sum(bool(np.nanmax(states, initial=0.0) > MAX_STATE_ERROR) for states in per_state)
    passed = missing == 0 and wrong == 0 and overall <= MAX_ERROR and left_open == 0
    rows = [
        ["chats at once (others hung up between them)", str(len(crowd))],
        ["chats with a projection missing", str(missing)],
        [f"chats with a state off by more than {MAX_STATE_ERROR} spreads", str(wrong)],
        ["error of all states, RMS", _e(overall)],
        ["error of the worst state", _e(worst)],
        ["a state of another chat instead, median", _e(float(np.nanmedian(np.concatenate(stray))))],
        ["calls left open on the server", f"{left_open:.0f}"],
    ]
    why = "Each chat's projections against those of its own tokens sent again, alone, as a prompt; in spreads."
    return Check("isolation", _verdict(passed), why, Table(["", "value"], rows))


def overhead(scored: Sequence[float], plain: Sequence[float], tokens: int) -> Check:
    """Compare the throughput of a scoring server with that of plain vLLM.

    Args:
        scored: output tokens per second of each load on the scoring server, in the order in which they ran.
        plain: the same on plain vLLM; as many.
        tokens: of each stream of a load.
    """
    logs = np.log(np.array(scored) / np.array(plain))
    ratio = math.exp(float(logs.mean()))
    pairs = enumerate(zip(scored, plain, strict=True), start=1)
    rows = [[str(number), f"{s:.0f}", f"{p:.0f}", f"{s / p:.3f}"] for number, (s, p) in pairs]
    table = Table(["pair", "scored, tokens/s", "plain vLLM, tokens/s", "ratio"], rows)
    done = f"{CHATS_AT_ONCE} streams of {tokens} tokens at once, {len(logs)} pairs of loads: ratio {ratio:.3f}"
    if len(logs) < 2:
        return Check("overhead", Verdict.NOT_RUN, f"{done}. One pair does not show the noise; measure more.", table)
    margin = stats.t.ppf((1 + _CONFIDENCE) / 2, len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    low, high = ratio * math.exp(-margin), ratio * math.exp(margin)
    why = f"{done} (95 % interval {low:.3f} to {high:.3f}, as far as the loads are independent). "
    limit = 1 - MAX_COST
    if high < limit:
        why += f"Scoring costs more than {MAX_COST:.0%} of the throughput here."
    elif low < limit:
        why += f"No cost above {MAX_COST:.0%} is shown, but up to {1 - low:.0%} cannot be told from noise here."
    else:
        why += f"A cost above {MAX_COST:.0%} is ruled out."
    return Check("overhead", _verdict(high >= limit), why, table)


def _verdict(passed: bool) -> Verdict:
    return Verdict.PASS if passed else Verdict.FAIL


def _e(error: float) -> str:
    """Format an error, which may be of any size."""
    return f"{error:.3f}" if error >= 0.001 or error == 0 else f"{error:.1e}"
