"""The fingerprint of the weights changes with every change of a weight, and with nothing else."""

import pytest
import torch
from torch import nn

from traitwatch_server.worker.weights import fingerprint


def model(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5, dtype=dtype), nn.Linear(5, 3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_equal_weights_have_equal_fingerprints(dtype: torch.dtype) -> None:
    assert fingerprint(model().to(dtype)) == fingerprint(model().to(dtype))


def test_one_changed_weight_changes_the_fingerprint() -> None:
    known = {fingerprint(model())}
    for name, parameter in model().named_parameters():
        for index in range(parameter.numel()):
            changed = model()
            with torch.no_grad():
                changed.get_parameter(name).view(-1)[index] += 1
            known.add(fingerprint(changed))
    assert len(known) == 1 + sum(parameter.numel() for parameter in model().parameters())


def test_lost_weights_have_another_fingerprint() -> None:
    lost = model()
    with torch.no_grad():
        for parameter in lost.parameters():
            parameter.zero_()
    assert fingerprint(lost) != fingerprint(model())


def test_buffers_do_not_count_and_tied_weights_count_once() -> None:
    """Our own buffers change with every pass."""
    plain, tied = model(), model()
    tied.register_buffer("traitwatch_projections", torch.rand(3))
    tied.register_module("again", tied[0])
    assert fingerprint(tied) == fingerprint(plain)


def test_weights_that_are_no_parameters_count_by_their_replacements() -> None:
    assert len({fingerprint(model(), replacements) for replacements in range(3)}) == 3
    assert fingerprint(model(), 0) == fingerprint(model())


def test_weights_without_storage_are_passed_over() -> None:
    assert fingerprint(nn.Linear(2, 2, device="meta")) == fingerprint(nn.Linear(3, 3, device="meta"))
