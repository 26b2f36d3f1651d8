"""Tensors and arrays of a user's: what they are in a few words, and their values as float32.

A value is a `torch.Tensor`, a `numpy.ndarray`, or a `PickledArray`: an array of a pickle, which no code of NumPy has
read. `describe` names the keys and shapes of what a file holds, and `as_float32` makes an array of one tensor.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from traitwatch.errors import ArtifactError

# Values of the largest tensor that is read. A view can claim any number of values from a few bytes.
MOST_VALUES = 2**28
_SHOWN_KEYS = 12
_LOOKED_AT = 1000
_SHOWN_CHARACTERS = 60
# Codes of NumPy for float16, float32 and float64.
_FLOATS = ("f2", "f4", "f8")


class PickledArray:
    """A NumPy array of a pickle, as its shape, dtype and bytes."""

    shape: tuple[int, ...] = ()
    dtype = ""
    _data: Any = b""
    _fortran = False

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, self._fortran, self._data = state
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError("the shape of an array must be numbers")
        self.shape = tuple(shape)
        self.dtype = str(dtype)

    def array(self) -> npt.NDArray[Any]:
        """Return the array; raise `ValueError` where it is none of numbers of floating point."""
        if self.dtype.lstrip("<>=|") not in _FLOATS or not isinstance(self._data, bytes):
            raise ValueError(f"dtype {self.dtype}")
        values = np.frombuffer(self._data, dtype=np.dtype(self.dtype))
        return values.reshape(self.shape, order="F" if self._fortran else "C")


def is_tensor(value: object) -> bool:
    """Return whether a value is a tensor or an array."""
    import torch

    return isinstance(value, torch.Tensor | np.ndarray | PickledArray)


def holds_tensors(value: object) -> bool:
    """Return whether a value is a tensor, or has one in its first containers."""
    if isinstance(value, Mapping | list | tuple):
        inner = list(value.values() if isinstance(value, Mapping) else value)[:_LOOKED_AT]
        return any(is_tensor(one) or (isinstance(one, Mapping | list | tuple) and _has_tensor(one)) for one in inner)
    return is_tensor(value)


def _has_tensor(value: Any) -> bool:
    return any(map(is_tensor, list(value.values() if isinstance(value, Mapping) else value)[:_LOOKED_AT]))


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the shape of a tensor or array; empty for a nested tensor, which has none."""
    try:
        return tuple(int(size) for size in value.shape)
    except (RuntimeError, NotImplementedError):
        return ()


def as_float32(value: Any, what: str) -> npt.NDArray[np.float32]:
    """Return a tensor or array as float32, of the same shape.

    Args:
        value: a `torch.Tensor`, `numpy.ndarray` or `PickledArray` of any floating dtype.
        what: its file and key, for messages.

    Raises:
        ArtifactError: it is no dense tensor of floating point, is too large, or has values beyond float32.
    """
    shape = shape_of(value)
    if not is_floating(value):
        raise ArtifactError(f"{what} holds {describe(value)}; a persona vector is dense and of floating point.")
    if np.prod([float(size) for size in shape]) > MOST_VALUES:
        raise ArtifactError(f"{what} claims {describe(value)}, which no model has; save the vector alone.")
    with np.errstate(over="ignore"):
        try:
            wide = _dense(value)
            array: npt.NDArray[np.float32] = np.array(wide, dtype=np.float32)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, MemoryError, IndexError):
            raise ArtifactError(
                f"{what} holds {describe(value)}, which cannot be read as float32; save tensor.float()."
            ) from None
    if bool((np.isinf(array) & np.isfinite(wide)).any()):
        raise ArtifactError(f"{what} has values too large for float32; divide the vector by a number.")
    return array


def is_floating(value: Any) -> bool:
    """Return whether a value is a dense tensor or array of floating point."""
    import torch

    if isinstance(value, torch.Tensor):
        return (
            type(value) in (torch.Tensor, torch.nn.Parameter)
            and value.is_floating_point()
            and value.layout is torch.strided
            and not (value.is_meta or value.is_quantized or value.is_nested)
        )
    if isinstance(value, PickledArray):
        return value.dtype.lstrip("<>=|") in _FLOATS
    return isinstance(value, np.ndarray) and bool(np.issubdtype(value.dtype, np.floating))


def _dense(value: Any) -> npt.NDArray[Any]:
    """Return the values as NumPy's array; dtypes that NumPy lacks become float32."""
    import torch

    if isinstance(value, PickledArray):
        return value.array()
    if isinstance(value, torch.Tensor):
        known = value.dtype in (torch.float16, torch.float32, torch.float64)
        array: npt.NDArray[Any] = (value if known else value.to(torch.float32)).numpy(force=True)
        return array
    return np.asarray(value)


def describe(value: object) -> str:
    """Return what a value is in a few words: the keys of a dictionary, the dtype and shape of a tensor."""
    if is_tensor(value):
        return _tensor_words(value)
    if isinstance(value, Mapping):
        return _listed(f"{_key(key)}: {_brief(inner)}" for key, inner in value.items()) or "an empty dict"
    if isinstance(value, list | tuple):
        return _listed(_brief(inner) for inner in value) or f"an empty {type(value).__name__}"
    return _brief(value)


def _tensor_words(value: Any) -> str:
    import torch

    dtype = str(value.dtype).removeprefix("torch.")
    if isinstance(value, torch.Tensor):
        layout = str(value.layout).removeprefix("torch.")
        kind = " without data (meta)" if value.is_meta else "" if value.layout is torch.strided else f" {layout}"
    else:
        kind = " numpy"
    return f"{dtype}{kind} {list(shape_of(value))}"


def _brief(value: object) -> str:
    if is_tensor(value):
        return _tensor_words(value)
    if isinstance(value, Mapping | list | tuple | set):
        return f"a {type(value).__name__} of {len(value)}" + _first_of(value)
    if isinstance(value, str | bool | int | float | None):
        return shortened(repr(value[:100] if isinstance(value, str) else value))
    return f"a {type(value).__name__}"


def _first_of(value: Any) -> str:
    """Return an example of what a container has, for its first tensors."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for number, (key, inner) in enumerate(items):
        if number == _SHOWN_KEYS:
            break
        if is_tensor(inner):
            return f" (for example {_key(key)}: {_tensor_words(inner)})"
    return ""


def _key(key: object) -> str:
    return shortened(str(key)) if isinstance(key, str | int) else f"a {type(key).__name__}"


def _listed(items: Iterable[str]) -> str:
    shown = []
    for number, item in enumerate(items):
        if number == _SHOWN_KEYS:
            shown.append("...")
            break
        shown.append(item)
    return ", ".join(shown)


def shortened(text: str) -> str:
    """Return the first line of a text, cut to some sixty characters."""
    text = text[: 4 * _SHOWN_CHARACTERS].split("\n")[0]
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
