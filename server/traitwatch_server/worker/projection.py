"""The operation that scores tokens: `out[:n] = (hidden + residual) @ vectors`, inside the forward pass.

It is an opaque operator with a mutated argument: without one, torch.compile would find that nobody uses the sum at
a layer's end and drop it. It writes to a fixed address and never waits for the device, so CUDA graphs can hold it.
Registered as vLLM registers its own operators (a bare `Library`), which skips the dispatch cost of `custom_op`.
"""

import torch

_LIBRARY = torch.library.Library("traitwatch", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("project(Tensor hidden, Tensor? residual, Tensor vectors, Tensor(a!) out) -> ()")  # type: ignore[no-untyped-call]


def project(hidden: torch.Tensor, residual: torch.Tensor | None, vectors: torch.Tensor, out: torch.Tensor) -> None:
    """Write the projections of every token of the batch into `out`.

    The sum is taken in float32: vLLM keeps the residual stream as two tensors, and adding them in bfloat16 would
    round once more than transformers does in float32.

    Args:
        hidden: `[num_tokens, hidden_size]`, model dtype.
        residual: as `hidden`, or None where the layer returns the residual stream as one tensor.
        vectors: `[hidden_size, num_columns]`, float32, unit columns (a free column is zero).
        out: `[max_num_tokens, num_columns]`, float32; rows up to num_tokens are written, in the units of `hidden`.
    """
    if hidden.shape[0] > out.shape[0]:
        raise RuntimeError(f"a pass of {hidden.shape[0]} rows, but the tap was made for {out.shape[0]}")
    stream = hidden.float()
    if residual is not None:
        stream = stream + residual.float()
    torch.mm(stream, vectors, out=out[: stream.shape[0]])


def _project_fake(
    hidden: torch.Tensor, residual: torch.Tensor | None, vectors: torch.Tensor, out: torch.Tensor
) -> None:
    return None


_LIBRARY.impl("project", project, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("traitwatch::project", _project_fake, lib=_LIBRARY)
