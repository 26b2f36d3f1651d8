"""The fingerprint of a model's weights: tells whether a model still computes with the same weights."""

import hashlib

import torch
from torch import nn

_BYTES = 8


def fingerprint(model: nn.Module, replacements: int = 0) -> int:
    """Return a number that is equal for equal weights, and different for different weights but for a rare accident.

    All bytes of all parameters count. They are added up on their device, as integers modulo 2**64, so the order of the
    additions does not matter. A parameter whose bytes cannot be read (a subclass of a tensor without a storage, a
    tensor on the meta device) does not count. Nor do weights that vLLM has packed for a kernel and taken out of the
    module, as on a CPU: `replacements` stands for these.

    Args:
        model: the model of a worker.
        replacements: how often the weights were replaced since they were those of the served model.

    Returns:
        `_BYTES * 8` bits, unsigned.
    """
    digest = hashlib.blake2b(f"{replacements}\n".encode(), digest_size=_BYTES)
    seen: set[int] = set()
    sums: list[tuple[str, torch.Tensor]] = []
    for name, parameter in model.named_parameters():
        try:
            storage = parameter.untyped_storage()
            if parameter.is_meta or storage.data_ptr() in seen or not storage.nbytes():
                continue
        except (RuntimeError, NotImplementedError, ValueError):
            continue
        seen.add(storage.data_ptr())
        flat = torch.empty(0, dtype=torch.uint8, device=parameter.device).set_(storage)
        whole = flat.numel() - flat.numel() % _BYTES
        sums.append((name, flat[:whole].view(torch.int64).sum() + flat[whole:].sum(dtype=torch.int64)))
    for name, total in sums:
        digest.update(f"{name} {int(total)}\n".encode())
    return int.from_bytes(digest.digest())
