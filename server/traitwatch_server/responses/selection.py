"""The `traits` field of a request, and the selection that follows from it: what the response carries."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from traitwatch.vectors import Float32Array
from traitwatch_server.errors import RequestError
from traitwatch_server.responses.schema import TraitsField
from traitwatch_server.settings import TraitsAllow, TraitsDefault
from traitwatch_server.traits import ServedTrait, TraitSet


@dataclass(frozen=True)
class Selection:
    """What one response carries.

    Attributes:
        traits: the traits, in the order in which the response names them.
        loaded: the traits that the server had when the request came; the request keeps them until it ends.
        tokens: whether the response carries the projection of every token beside the summary.
        prompt: whether it carries the projections of the prompt's tokens too.
        echo_only: whether the answer is the prompt alone, and vLLM drops what it generates.
    """

    traits: tuple[ServedTrait, ...]
    loaded: TraitSet
    tokens: bool = True
    prompt: bool = False
    echo_only: bool = False

    def projections(self, states: Float32Array) -> Float32Array:
        """Return the selected traits' columns: `[num_rows, columns]` becomes `[num_traits, num_rows]`, float32."""
        chosen: Float32Array = states[:, self.places].T
        return chosen

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The traits' names."""
        return tuple(trait.name for trait in self.traits)

    @cached_property
    def places(self) -> npt.NDArray[np.intp]:
        """The index in a row of each trait's column: `[num_traits]`."""
        return self.loaded.places[self._among_loaded]

    @cached_property
    def _among_loaded(self) -> list[int]:
        """The index of each trait among all loaded traits."""
        order = {name: i for i, name in enumerate(self.loaded.traits)}
        return [order[name] for name in self.names]


def select(value: object, loaded: TraitSet, default: TraitsDefault, allow: TraitsAllow = "prompt") -> Selection | None:
    """Decide what a response carries.

    Args:
        value: the `traits` field of the request, or None where there is none.
        loaded: the traits that the server has now.
        default: the server's `--traits-default`.
        allow: the server's `--traits-allow`.

    Returns:
        The selection; None where the response carries no scores.

    Raises:
        RequestError: the field is malformed, asks for more than `allow`, or names a trait that is not loaded.
    """
    everything = tuple(loaded.traits.values())
    if value is None:
        return None if default == "off" else Selection(everything, loaded, tokens=default == "tokens")
    if value is False:
        return None
    if value is True:
        value = {}
    if not isinstance(value, dict):
        raise RequestError('traits must be true, false or an object such as {"include": ["NAME"], "tokens": true}.')
    try:
        wanted = TraitsField.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RequestError(f"traits.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if wanted.include == []:
        raise RequestError(
            'traits.include names no trait; leave it out for all traits, or send "traits": false for no scores.'
        )
    _check_allowed(wanted, allow)
    for name in wanted.include or ():
        if name not in loaded.traits:
            raise RequestError(
                f"traits.include: no trait {name!r} is loaded here; loaded are: {', '.join(loaded.traits) or 'none'}."
            )
    names = loaded.traits if wanted.include is None else dict.fromkeys(wanted.include)
    chosen = tuple(loaded.traits[name] for name in names)
    return Selection(chosen, loaded, tokens=wanted.tokens, prompt=wanted.prompt)


def _check_allowed(wanted: TraitsField, allow: TraitsAllow) -> None:
    """Refuse a request that asks for more than the server's `--traits-allow`."""
    if wanted.tokens and allow == "summary":
        raise RequestError(
            "traits: this server gives no projections of tokens (--traits-allow summary); send "
            '{"tokens": false} for the summary.'
        )
    if wanted.prompt and allow != "prompt":
        raise RequestError(
            f"traits.prompt: this server gives no projections of the prompt's tokens (--traits-allow {allow}); leave "
            "prompt out."
        )
