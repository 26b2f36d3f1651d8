"""Makes the doctor's report out of its evidence; transformers reads the parity texts here, the device being free."""

import torch
from rich.console import Console

from traitwatch.vectors import load_vectors
from traitwatch_server.doctor.checks import Reference, References, isolation, overhead, parity
from traitwatch_server.doctor.environment import dtype_name, environment, not_covered
from traitwatch_server.doctor.measure import Evidence, Plan, log_of
from traitwatch_server.doctor.reference import reference_projections
from traitwatch_server.doctor.report import Check, Report, Verdict
from traitwatch_server.errors import NoReferenceError

_MISSING = "The servers did not come that far."


def judge(plan: Plan, evidence: Evidence, console: Console) -> Report:
    """Return the report: every check with its verdict, those that could not be run among them."""
    starts = f"Starts of each server, one at a time: {plan.rounds}. All came up and answered everything."
    checks = [
        Check("servers", Verdict.FAIL if evidence.failure else Verdict.PASS, evidence.failure or starts),
        _parity(plan, evidence, console),
        _isolation(evidence),
        _overhead(plan, evidence),
    ]
    log = log_of(plan, scored=True, number=0)
    told = log.read_text(errors="replace") if log.exists() else ""
    facts = environment(plan.name, plan.config, plan.options, told)
    return Report(plan.name, facts, checks, not_covered(plan.config, told))


def _parity(plan: Plan, evidence: Evidence, console: Console) -> Check:
    if not evidence.chats:
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
                evidence.chats,
                directions,
                revision=plan.config.revision,
                trust_remote_code=plan.config.trust_remote_code,
            )
        except NoReferenceError as error:
            missing.append(str(error))
            return None

    exact = read(torch.float32)
    served = None if plan.config.dtype is torch.float32 else read(plan.config.dtype)
    return parity(list(plan.probes), evidence.chats, References(exact, served, served_name, " ".join(missing)))


def _isolation(evidence: Evidence) -> Check:
    if not evidence.crowd:
        return Check("isolation", Verdict.NOT_RUN, _MISSING)
    return isolation(evidence.crowd, evidence.alone, evidence.left_open)


def _overhead(plan: Plan, evidence: Evidence) -> Check:
    pairs = min(len(evidence.scored), len(evidence.plain))
    if not pairs:
        return Check("overhead", Verdict.NOT_RUN, _MISSING)
    return overhead(evidence.scored[:pairs], evidence.plain[:pairs], plan.load_tokens)
