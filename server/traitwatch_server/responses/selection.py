"""The `traits` field of a request, and the selection that follows from it: what the response carries."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from traitwatch.vectors import Float32Array
from traitwatch_server.errors import RequestError
from traitwatch_server.responses.schema import TraitsField
from traitwatch_server.settings import TraitsDefault
from traitwatch_server.traits import ServedTrait, TraitSet


@dataclass(frozen=True)
class Selection:
    """What one response carries.

    Attributes:
        traits: the traits, in the order in which the response names them.
        loaded: the traits that the server had when the request came; the request keeps them until it ends.
        tokens: whether the response carries the projection of every token beside the summary.
        prompt: whether it carries the projections of the prompt's tokens too.
    """

    traits: tuple[ServedTrait, ...]
    loaded: TraitSet
    tokens: bool = True
    prompt: bool = False

    def projections(self, states: Float32Array) -> Float32Array:
        """Return the selected traits' columns: `[num_rows, columns]` becomes `[num_traits, num_rows]`, float32."""
        chosen: Float32Array = states[:, self._places].T
        return chosen

    def chosen(self, values: Float32Array) -> Float32Array:
        """Return the rows of the selected traits: `[num_loaded, ...]` becomes `[num_traits, ...]`."""
        return values[self._among_loaded]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The traits' names."""
        return tuple(trait.name for trait in self.traits)

    @cached_property
    def _places(self) -> npt.NDArray[np.intp]:
        """The index in a row of each trait's column: `[num_traits]`."""
        return self.loaded.places[self._among_loaded]

    @cached_property
    def _among_loaded(self) -> list[int]:
        """The index of each trait among all loaded traits."""
        order = {name: i for i, name in enumerate(self.loaded.traits)}
        return [order[name] for name in self.names]


def select(value: object, loaded: TraitSet, default: TraitsDefault) -> Selection | None:
    """Decide what a response carries.

    Args:
        value: the `traits` field of the request, or None where there is none.
        loaded: the traits that the server has now.
        default: the server's `--traits-default`.

    Returns:
        The selection; None where the response carries no scores.

    Raises:
        RequestError: the field is malformed, or names a trait that is not loaded.
    """
    everything = tuple(loaded.traits.values())
    if value is None:
        return None if default == "off" else Selection(everything, loaded, tokens=default == "tokens")
    if isinstance(value, bool):
        return Selection(everything, loaded) if value else None
    if not isinstance(value, dict):
        raise RequestError('traits must be true, false or an object such as {"include": ["NAME"], "tokens": true}.')
    try:
        wanted = TraitsField.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RequestError(f"traits.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for name in wanted.include or ():
        if name not in loaded.traits:
            raise RequestError(
                f"traits.include: no trait {name!r} is loaded here; loaded are: {', '.join(loaded.traits) or 'none'}."
            )
    names = loaded.traits if wanted.include is None else dict.fromkeys(wanted.include)
    chosen = tuple(loaded.traits[name] for name in names)
    return Selection(chosen, loaded, tokens=wanted.tokens, prompt=wanted.prompt)
