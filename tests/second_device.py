"""A second device for a machine that has none: values that lie on the CPU under another device's name.

What a GPU refuses is refused here: an operation with a tensor of each device, a generator of the CPU for a draw on the
device, and NumPy on its tensors. Numbers are those of the CPU, so that they can be compared to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

#: PyTorch has no kernel for it here, so that what is not caught below ends in an error.
SECOND = torch.device("lazy")
#: May have a tensor of each device: these bring values over.
TRANSFERS = {"aten::_to_copy", "aten::copy_"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}


class Elsewhere(Tensor):
    """A tensor of the second device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=SECOND, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, arguments: Sequence[Any] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        return _computed(operation, arguments, named or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *arguments: Any, **named: Any) -> NoReturn:
        raise TypeError("can't convert a tensor of the second device to numpy; use Tensor.cpu() first")

    __array__ = numpy


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


def _computed(operation: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """Compute on the CPU; results lie where a GPU would leave them."""
    name = operation.overloadpacket._qualified_op_name
    tensors = [leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    # Any device takes a number of the CPU, and an index of it.
    free = {id(index) for index in tree_leaves(arguments[1])} if name in INDEXING else set[int]()
    strangers = [t for t in tensors if t.dim() > 0 and not isinstance(t, Elsewhere) and id(t) not in free]
    if there and strangers and name not in TRANSFERS:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    if named.get("device") is not None:
        there = torch.device(named["device"]) == SECOND
        named = {**named, "device": torch.device("cpu")}
    elif name == "aten::copy_":
        there = isinstance(arguments[0], Elsewhere)
    if there and named.get("generator") is not None:
        raise RuntimeError(f"{name}: expected a generator of the second device")
    changed = {id(_held(tensor)): tensor for tensor in tensors}
    result = operation(*tree_map(_held, arguments), **tree_map(_held, named))

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return changed.get(id(value)) if id(value) in changed else Elsewhere(value) if there else value

    return tree_map(placed, result)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(
        self,
        operation: Any,
        types: Any,
        arguments: Sequence[Any] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        return _computed(operation, arguments, named or {})


class _Constructors(TorchFunctionMode):
    """Tensors made of Python's numbers on the second device."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(named or {})
        if function in (torch.tensor, torch.as_tensor) and named.get("device") is not None:
            device = named.pop("device")
            return function(*arguments, **named).to(device)
        return function(*arguments, **named)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Inside, the second device is there; modules and tensors go to it by ``to``."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Operations(), _Constructors():
            yield SECOND
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
