"""Makes the doctor's report from its measurements.

transformers reads the parity texts here, not while measuring: the servers have ended, so the device is free.
"""

import torch
from rich.console import Console

from traitwatch.vectors import load_vectors
from traitwatch_server.doctor.checks import Reference, References, isolation, overhead, parity
from traitwatch_server.doctor.environment import dtype_name, environment, not_covered
from traitwatch_server.doctor.measure import Measurements, Plan, log_of
from traitwatch_server.doctor.reference import reference_projections
from traitwatch_server.doctor.report import Check, Report, Verdict
from traitwatch_server.errors import NoReferenceError

_MISSING = "The servers did not come that far."


def assess(plan: Plan, measured: Measurements, console: Console) -> Report:
    """Return the report: every check with its verdict, also the checks that could not be run."""
    starts = f"Starts of each server, one at a time: {plan.rounds}. All came up and answered everything."
    checks = [
        Check("servers", Verdict.FAIL if measured.failure else Verdict.PASS, measured.failure or starts),
        _parity(plan, measured, console),
        _isolation(measured),
        _overhead(plan, measured),
    ]
    log = log_of(plan, scored=True, number=0)
    log_text = log.read_text("utf-8", errors="replace") if log.exists() else ""
    facts = environment(plan.name, plan.config, plan.options, log_text)
    return Report(plan.name, facts, checks, not_covered(plan.config, log_text))


def _parity(plan: Plan, measured: Measurements, console: Console) -> Check:
    if not measured.chats:
        return Check("parity", Verdict.NOT_RUN, _MISSING)
    served_name = dtype_name(plan.config)
    missing: list[str] = []

    def read(dtype: torch.dtype) -> Reference | None:
        console.print(f"Reading the chats with transformers in {dtype} ...")
        vectors = {vector.trait: vector for vector in load_vectors([plan.vectors])}
        directions = {layer: vectors[name].direction(layer) for layer, name in plan.probes.items()}
        try:
            return reference_projections(
                plan.config.model,
                dtype,
                measured.chats,
                directions,
                revision=plan.config.revision,
                trust_remote_code=plan.config.trust_remote_code,
            )
        except NoReferenceError as error:
            missing.append(str(error))
            return None

    exact = read(torch.float32)
    served = None if plan.config.dtype is torch.float32 else read(plan.config.dtype)
    return parity(list(plan.probes), measured.chats, References(exact, served, served_name, " ".join(missing)))


def _isolation(measured: Measurements) -> Check:
    if not measured.crowd:
        return Check("isolation", Verdict.NOT_RUN, _MISSING)
    return isolation(measured.crowd, measured.alone, measured.left_open)


def _overhead(plan: Plan, measured: Measurements) -> Check:
    pairs = min(len(measured.scored), len(measured.plain))
    if not pairs:
        return Check("overhead", Verdict.NOT_RUN, _MISSING)
    return overhead(measured.scored[:pairs], measured.plain[:pairs], plan.load_tokens)
