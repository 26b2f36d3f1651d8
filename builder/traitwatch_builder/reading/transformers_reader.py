"""Reads a model with transformers: hidden states at every layer, and log-likelihoods of answers.

This reader is the reference for every number that the server and the other engine report. Layer indices are those of
`output_hidden_states` (0 is the embedding output, the last index the state after the final norm); states are float32
unless another dtype is asked for. Texts of like length are read in one batch, padded on the right, where no counted
token can see the padding. A beginning that several texts share is read once and stays in a key/value cache; the plan is
that of `traitwatch_builder.reading.prefixes`.
"""

import copy
import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from traitwatch.vectors import Float32Array
from traitwatch_builder.errors import PipelineError
from traitwatch_builder.models.chat import token_ids
from traitwatch_builder.models.pretrained import load_tokenizer
from traitwatch_builder.reading.prefixes import MIN_SAVED, Collector, Node, Part, plan
from traitwatch_builder.reading.states import Advance, Reading, Span

Text = tuple[list[int], list[int]]
"""The token ids of a prompt and of the answer after it."""

# Tokens of a batch, padding included. On a CPU larger batches are no faster, and the states of a batch take
# [num_layers + 1, tokens, hidden].
_BATCH_TOKENS = {"cpu": 2048}
_BATCH_TOKENS_ACCELERATOR = 8192
# Positions of a batch, with the cached tokens before the rows, which are repeated for every row.
_BATCH_POSITIONS = 16 * 2048
# Words in the errors of PyTorch's CPU allocator.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Shared:
    """The keys and values of a beginning that several texts share; one row."""

    cache: DynamicCache | None
    length: int = 0


class Reader:
    """A model and its tokenizer: the `StateReader` that needs no engine.

    Attributes:
        tokenizer: the tokenizer, with the model's chat template.
        num_layers: decoder layers.
        hidden_size: width of the residual stream.
        description: the engine and its precision.
        batch_tokens: the most tokens in a batch, padding included; halved whenever memory does not suffice.
    """

    def __init__(self, model: Any, tokenizer: Any):
        """Take a loaded model; `load` loads one.

        Args:
            model: a causal language model of transformers.
            tokenizer: the model's tokenizer.
        """
        self.tokenizer = tokenizer
        self._model = model.eval()
        self._base = model.base_model
        text = model.config.get_text_config()
        self.num_layers = int(text.num_hidden_layers)
        self.hidden_size = int(text.hidden_size)
        self._device = model.device
        self.description = f"transformers, {str(model.dtype).removeprefix('torch.')}"
        self.batch_tokens = _BATCH_TOKENS.get(self._device.type, _BATCH_TOKENS_ACCELERATOR)
        self._warned = False
        # Models without attention (Mamba) have no key/value cache: their texts are read whole.
        self._skips = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._caches = "past_key_values" in inspect.signature(self._base.forward).parameters

    @classmethod
    def load(
        cls, path: Path | str, dtype: torch.dtype = torch.float32, device_map: str | dict[str, Any] | None = None
    ) -> "Reader":
        """Load a model.

        Args:
            path: the model's directory or hub name.
            dtype: dtype of weights and states; sums are float32 with every dtype.
            device_map: device map of accelerate (`auto`, `cuda:1`, ...); None for the GPU where there is one, else the
                CPU.

        Raises:
            PipelineError: there is no such model, or it does not load with this dtype and device map.
        """
        tokenizer = load_tokenizer(path)
        options = {} if device_map is None else {"device_map": device_map}
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options)
            if device_map is None and torch.cuda.is_available():
                model = model.to("cuda")
        except (OSError, ValueError, RuntimeError) as error:
            raise PipelineError(
                f"{path} cannot be loaded with dtype {dtype} and device map {device_map}: {error} "
                "Choose another --dtype or --device-map (`auto` spreads a model over all GPUs)."
            ) from error
        return cls(model, tokenizer)

    def read(
        self, spans: Sequence[Span], advance: Advance, directions: Float32Array | None = None
    ) -> Iterator[tuple[int, Reading]]:
        """Read spans; see `traitwatch_builder.reading.states.StateReader.read`.

        Raises:
            PipelineError: memory does not suffice for one text alone.
        """
        nodes = plan(spans, min_saved=MIN_SAVED) if self._caches else plan(spans, min_saved=1 << 62)
        collector = Collector(spans, nodes)
        units = None if directions is None else torch.from_numpy(directions)
        for number, part in self._walk(
            nodes, [i for i, n in enumerate(nodes) if n.parent is None], _Shared(None), units
        ):
            readings = collector.add(number, part)
            if readings:
                advance(len(readings))
            yield from readings

    def _walk(
        self, nodes: Sequence[Node], numbers: Sequence[int], shared: _Shared, directions: torch.Tensor | None
    ) -> Iterator[tuple[int, Part | None]]:
        """Read the nodes `numbers`, which follow `shared`, and all their descendants."""
        leaves = [number for number in numbers if not nodes[number].children]
        # The longest text first: where memory does not suffice, the first batch fails.
        leaves.sort(key=lambda number: len(nodes[number].ids), reverse=True)
        while leaves:
            width = len(nodes[leaves[0]].ids) - shared.length
            rows = max(1, min(self.batch_tokens // width, _BATCH_POSITIONS // (shared.length + width)))
            batch = leaves[:rows]
            parts = self._try([nodes[number] for number in batch], _repeated(shared, len(batch)), directions)
            if parts is not None:
                yield from zip(batch, parts, strict=True)
                del leaves[:rows]
        for number in numbers:
            if nodes[number].children:
                longer = _repeated(shared, 1) or DynamicCache(config=self._model.config)
                parts = self._try([nodes[number]], longer, directions)
                assert parts is not None
                yield number, parts[0]
                yield from self._walk(
                    nodes, nodes[number].children, _Shared(longer, len(nodes[number].ids)), directions
                )

    def _try(
        self, batch: Sequence[Node], cache: DynamicCache | None, directions: torch.Tensor | None
    ) -> Sequence[Part | None] | None:
        """Read a batch; where memory does not suffice, return None and halve the size of later batches."""
        try:
            return self._parts(batch, cache, directions)
        except RuntimeError as error:
            # torch.OutOfMemoryError is a RuntimeError; the error of the CPU's allocator has no type of its own.
            if not any(words in str(error) for words in _OUT_OF_MEMORY):
                raise
            reason = str(error).splitlines()[0]
        # After the `except` block the traceback, which holds the batch's tensors, is gone.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        width = max(len(node.ids) - node.begin for node in batch)
        if len(batch) == 1:
            raise PipelineError(
                f"memory does not suffice to read a text of {len(batch[0].ids)} tokens, even alone ({reason}). Try "
                "--dtype bfloat16, --device-map auto to spread the model over all GPUs, --engine vllm with several of "
                "them, or a shorter elicitation."
            )
        self.batch_tokens = len(batch) // 2 * width
        log = logger.debug if self._warned else logger.warning
        log("Memory does not suffice for %d texts at once; going on with %d.", len(batch), len(batch) // 2)
        self._warned = True
        return None

    @torch.inference_mode()
    def _parts(
        self, batch: Sequence[Node], cache: DynamicCache | None, directions: torch.Tensor | None
    ) -> Sequence[Part | None]:
        """Read the own tokens of nodes in one pass, after the tokens in `cache`; the pass adds theirs to the cache."""
        rows = [node.ids[node.begin :] for node in batch]
        counted = any(node.cuts for node in batch)
        output = self._base(**self._inputs(rows, cache), output_hidden_states=counted)
        if not counted:
            return [None] * len(batch)
        width = max(map(len, rows))
        # Weight 1 from a cut to the row's end: the product of weights and states is the sum of these states.
        weights = torch.zeros(len(batch), max(len(node.cuts) for node in batch), width)
        for i, node in enumerate(batch):
            for k, cut in enumerate(node.cuts):
                weights[i, k, cut - node.begin : len(rows[i])] = 1
        ends = torch.tensor([len(row) - 1 for row in rows])
        sums, last, projections = [], [], []
        for layer, hidden in enumerate(output.hidden_states):
            states = hidden.float()
            sums.append((weights.to(states.device) @ states).to(self._device))
            last.append(states[torch.arange(len(rows)), ends].to(self._device))
            if directions is not None:
                projections.append((states @ directions[layer].to(states.device)).to(self._device))
        # [batch, cuts, layers, hidden], [batch, layers, hidden], [batch, layers, width]
        sums_all = torch.stack(sums, dim=2).cpu().numpy()
        last_all = torch.stack(last, dim=1).cpu().numpy()
        projected = torch.stack(projections, dim=1).cpu().numpy() if projections else None
        return [
            Part(
                sums=sums_all[i, : len(node.cuts)].copy(),
                last=last_all[i].copy(),
                projections=None if projected is None else projected[i, :, node.cuts[0] - node.begin : len(row)].copy(),
            )
            if node.cuts
            else None
            for i, (node, row) in enumerate(zip(batch, rows, strict=True))
        ]

    @torch.inference_mode()
    def log_likelihoods(
        self, opening: list[int], texts: Sequence[Text], advance: Advance, batch_size: int = 16
    ) -> Iterator[Float32Array]:
        """Yield the log-probability of every token of each answer: `[answer length]`, float32, natural logarithm.

        Args:
            opening: token ids with which all prompts begin; their keys and values are computed once.
            texts: prompts (which begin with `opening`) and answers (not empty).
            advance: called with the number of texts that have just been read.
            batch_size: texts read at once.
        """
        shared = _Shared(None)
        if opening and self._caches:
            shared = _Shared(DynamicCache(config=self._model.config), len(opening))
            self._base(**self._inputs([opening], shared.cache))
        for first in range(0, len(texts), batch_size):
            batch = texts[first : first + batch_size]
            rows = [[*prompt[shared.length :], *answer] for prompt, answer in batch]
            starts = [len(prompt) - shared.length - 1 for prompt, _ in batch]
            # Logits before the first answer are not needed, and they would take most of the memory.
            skipped = min(starts) if self._skips else 0
            keep = {"logits_to_keep": max(map(len, rows)) - skipped} if skipped else {}
            logits = self._model(**self._inputs(rows, _repeated(shared, len(rows))), **keep).logits
            for i, (start, (_, answer)) in enumerate(zip(starts, batch, strict=True)):
                scores = logits[i, start - skipped : start - skipped + len(answer)].float().log_softmax(dim=-1)
                chosen = scores.gather(1, torch.tensor(answer, device=scores.device)[:, None])[:, 0]
                yield chosen.cpu().numpy()
            advance(len(batch))

    def token_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the tokens of a conversation up to where the assistant's answer begins."""
        return token_ids(self.tokenizer, messages)

    def _inputs(self, rows: Sequence[list[int]], cache: DynamicCache | None) -> dict[str, Any]:
        """Return the model's arguments for reading rows after the tokens in `cache`, padded on the right."""
        width = max(map(len, rows))
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        # No mask: attention is causal, so only padding sees the padding after a text's end.
        inputs: dict[str, Any] = {"input_ids": tokens.to(self._device)}
        if self._caches:
            inputs |= {"past_key_values": cache, "use_cache": cache is not None}
        return inputs


def _repeated(shared: _Shared, count: int) -> DynamicCache | None:
    """Return a copy of the shared cache for a batch of `count` rows."""
    if shared.cache is None:
        return None
    repeated = copy.deepcopy(shared.cache)
    repeated.batch_repeat_interleave(count)
    return repeated


def shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the tokens with which all prompts begin; each prompt has at least one token after them."""
    shortest = min(map(len, prompts)) - 1
    first = prompts[0]
    length = 0
    while length < shortest and all(prompt[length] == first[length] for prompt in prompts):
        length += 1
    return first[:length]
