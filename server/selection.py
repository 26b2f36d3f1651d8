"""The `traits` field of a request: what its client wants scored."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, StrictBool, StrictStr, ValidationError

from server.config import ServedTrait, TraitsDefault
from server.errors import RequestError


class TraitsField(BaseModel):
    """The long form of `traits` in a request body."""

    model_config = ConfigDict(extra="forbid")
    include: list[StrictStr] | None = None
    tokens: StrictBool = True
    prompt: StrictBool = False


@dataclass(frozen=True)
class Selection:
    """What one response is to carry.

    Attributes:
        traits: the traits, in the order in which the response names them.
        tokens: whether it carries the projection of every token beside the summary.
    """

    traits: tuple[ServedTrait, ...]
    tokens: bool


def select(value: object, loaded: Mapping[str, ServedTrait], default: TraitsDefault) -> Selection | None:
    """Decide what a response carries.

    Args:
        value: the request's `traits`, or None where it says nothing.
        loaded: the server's traits by name.
        default: the server's `--traits-default`.

    Returns:
        The selection; None when the response is not to be scored.

    Raises:
        RequestError: the field is malformed, or names a trait that is not loaded.
    """
    everything = tuple(loaded.values())
    if value is None:
        return None if default == "off" else Selection(everything, tokens=default == "tokens")
    if isinstance(value, bool):
        return Selection(everything, tokens=True) if value else None
    if not isinstance(value, dict):
        raise RequestError(
            'traits must be true, false or an object such as {"include": ["'
            + next(iter(loaded))
            + '"], "tokens": true}.'
        )
    try:
        wanted = TraitsField.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RequestError(f"traits.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if wanted.prompt:
        raise RequestError("traits.prompt: scores of the prompt's tokens are not served yet; send false.")
    for name in wanted.include or ():
        if name not in loaded:
            raise RequestError(f"traits.include: no trait {name!r} is loaded here; loaded are: {', '.join(loaded)}.")
    chosen = everything if wanted.include is None else tuple(loaded[name] for name in dict.fromkeys(wanted.include))
    return Selection(chosen, tokens=wanted.tokens)
