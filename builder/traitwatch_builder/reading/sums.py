"""Sums of the hidden states that a vLLM worker computes; the states themselves are not kept.

During a pass, hooks write the states of every layer into one buffer (`StateSums.write`). After the pass,
`StateSums.collect` adds the rows of the requests that asked to the sums of these requests. The next pass overwrites the
buffer, so memory does not depend on the length or the number of the texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from traitwatch.vllm_private.batch import BatchLayout

CUTS = "traitwatch_cuts"
"""Entry of a request's `extra_args`: the positions from which its states are summed."""

KEY = "traitwatch_key"
"""Entry of a request's `extra_args`: the number by which its sums are fetched."""


@dataclass
class Request:
    """A text whose states are summed, and its sums so far.

    Attributes:
        cuts: positions, ascending, from which states are summed to the text's end; at least one.
        length: tokens of the text. The token that the engine samples after the text is never counted.
        next: the position whose state is due next.
        first: the first position that was computed; the positions before it were in the prefix cache.
        missing: whether a state that was due was not computed.
        sums: `[num_cuts, num_layers, hidden_size]`, float32.
        last: `[num_layers, hidden_size]`, float32, the state at the text's end; None until it is computed.
        projections: `[num_layers, tokens]` each, float32, in the order of positions.
    """

    cuts: Sequence[int]
    length: int
    sums: torch.Tensor
    next: int
    first: int | None = None
    missing: bool = False
    last: torch.Tensor | None = None
    projections: list[torch.Tensor] = field(default_factory=list)


class StateSums:
    """The buffer of a worker, and the sums of its requests.

    Attributes:
        layers: the layer indices that this worker holds, ascending.
    """

    def __init__(self, layers: Sequence[int], hidden_size: int, max_tokens: int, device: torch.device | str):
        """Allocate the buffer: 4 bytes x layers x max_tokens x hidden_size.

        Args:
            layers: layer indices.
            hidden_size: width of the residual stream.
            max_tokens: the most tokens of one forward pass.
            device: where the states are.
        """
        self.layers = list(layers)
        self._places = {layer: place for place, layer in enumerate(self.layers)}
        self._states = torch.zeros(len(self.layers), max_tokens, hidden_size, device=device)
        self._directions: torch.Tensor | None = None
        self._running: dict[str, Request] = {}
        self._by_key: dict[int, Request] = {}

    def write(self, layer: int, hidden: torch.Tensor, residual: torch.Tensor | None) -> None:
        """Keep the states of a layer until the next pass.

        Args:
            layer: the layer index.
            hidden: `[num_tokens, hidden_size]`, model dtype.
            residual: as `hidden`; the state is the sum of both, taken in float32. None where `hidden` is the state.
        """
        rows = self._states[self._places[layer], : hidden.shape[0]]
        rows.copy_(hidden)
        if residual is not None:
            rows.add_(residual)

    def project_on(self, directions: torch.Tensor | None) -> None:
        """Project the states of later requests.

        Args:
            directions: `[num_layers + 1, hidden_size]`, float32; None for no projections.
        """
        self._directions = None if directions is None else directions[self.layers, :, None].to(self._states)

    def ask(self, req_id: str, key: int, cuts: Sequence[int], length: int) -> None:
        """Begin a request; a request that has begun before (it was preempted) goes on where it was.

        Args:
            req_id: vLLM's id of the request.
            key: the number by which `take` finds the request.
            cuts: positions from which its states are summed.
            length: tokens of the text.
        """
        if req_id not in self._running:
            sums = self._states.new_zeros(len(cuts), len(self.layers), self._states.shape[2])
            self._running[req_id] = self._by_key[key] = Request(cuts, length, sums, next=cuts[0])

    def end(self, req_id: str) -> None:
        """Forget vLLM's id of a request; the sums stay until they are taken."""
        self._running.pop(req_id, None)

    def collect(self, layout: BatchLayout) -> None:
        """Add the rows of the pass that has just run."""
        if not self._running:
            return
        starts, computed = layout.starts.tolist(), layout.num_computed.tolist()
        for i, req_id in enumerate(layout.req_ids):
            request = self._running.get(req_id)
            if request is not None:
                self._add(request, computed[i], starts[i], starts[i + 1])

    def _add(self, request: Request, position: int, first_row: int, end_row: int) -> None:
        """Add rows to the sums of a request; the first row is the state at `position`.

        States that were added before are left out.
        """
        request.first = position if request.first is None else min(request.first, position)
        end = min(position + end_row - first_row, request.length)
        if end <= request.next:
            return
        if position > request.next:
            request.missing = True
        begin = max(position, request.next)
        states = self._states[:, first_row + begin - position : first_row + end - position]
        for k, cut in enumerate(request.cuts):
            if cut < end:
                request.sums[k] += states[:, max(cut - begin, 0) :].sum(dim=1)
        if self._directions is not None:
            request.projections.append(torch.bmm(states, self._directions)[:, :, 0])
        if end == request.length:
            request.last = states[:, -1].clone()
        request.next = end

    def take(self, key: int) -> dict[str, Any]:
        """Return the sums of a request, and forget the request.

        Returns:
            `missing`: whether any of its states was not computed; `first`: the first position that was computed. Unless
            a state is missing also, as float32 bytes in C order, `sums` `[num_cuts, num_layers, hidden_size]`, `last`
            `[num_layers, hidden_size]` and, where directions are set, `projections`
            `[num_layers, tokens from the first cut on]`.
        """
        request = self._by_key.pop(key)
        if request.missing or request.last is None:
            return {"missing": True, "first": request.first}
        taken = {"missing": False, "first": request.first, "sums": _bytes(request.sums), "last": _bytes(request.last)}
        if request.projections:
            taken["projections"] = _bytes(torch.cat(request.projections, dim=1))
        return taken


def _bytes(values: torch.Tensor) -> bytes:
    return values.contiguous().cpu().numpy().tobytes()
