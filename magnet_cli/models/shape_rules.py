"""Shape rules find the shapes of a network's tensors without data and without PyTorch's compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch._ops import OpOverload

aten = torch.ops.aten


class ShapeRules(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch declares no types
    """Gives the commonest operations on tensors without data (device `meta`) empty results of the right shape.

    PyTorch finds these shapes by Python code of its compiler, whose import takes a second at the start of a run. An
    operation that has no rule here gets its shape from PyTorch, which imports the compiler then.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch declares no types

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch imports its compiler at the first operation inside a mode, unless the mode declines this.
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        tensors = [each for each in args if isinstance(each, Tensor)]
        rule = _pointwise if tensors and torch.Tag.pointwise in func.tags else RULES.get(func)
        # Arguments by name are rare enough that PyTorch may decide what they mean.
        if rule is None or kwargs:
            return func(*args, **(kwargs or {}))
        if func._schema.is_mutable:  # noqa: SLF001  # PyTorch has no public way to ask this
            return args[0]
        shape = rule(*args)
        return func(*args) if shape is None else torch.empty(shape, dtype=_first(args).dtype, device="meta")


def _first(args: Sequence[Any]) -> Tensor:
    """Return the first tensor of an operation's arguments, one of which may be a list of tensors."""
    flat = (each for arg in args for each in (arg if isinstance(arg, (list, tuple)) else [arg]))
    return next(each for each in flat if isinstance(each, Tensor))


def _pointwise(*args: Any) -> Sequence[int]:
    # The function of PyTorch with this name imports the compiler as well.
    return np.broadcast_shapes(*(each.shape for each in args if isinstance(each, Tensor)))


def _unchanged(x: Tensor, *rest: Any) -> Sequence[int]:
    del rest
    return x.shape


def _cat(tensors: Sequence[Tensor], axis: int = 0) -> Sequence[int]:
    shape = list(tensors[0].shape)
    shape[axis] = sum(each.shape[axis] for each in tensors)
    return shape


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *numbers: Any) -> Sequence[int]:
    del bias
    # PyTorch leaves out the last arguments where they have their usual values.
    usual: list[Any] = [(1,), (0,), (1,), 1]
    stride, padding, dilation, _ = [*numbers, *usual[len(numbers) :]]
    return (x.shape[0], weight.shape[0], *_slid(x, weight.shape[2:], stride, padding, dilation))


def _max_pool2d(x: Tensor, kernel: Sequence[int], *numbers: Any) -> Sequence[int] | None:
    usual: list[Any] = [kernel, (0,), (1,), False]
    stride, padding, dilation, rounds_up = [*numbers, *usual[len(numbers) :]]
    # PyTorch gives an empty stride where only a later argument is given.
    stride = stride or kernel
    return None if rounds_up else (*x.shape[:2], *_slid(x, kernel, stride, padding, dilation))


def _slid(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Sequence[int]:
    """Return the numbers of rows and columns of positions at which a kernel fits."""
    numbers = zip(x.shape[2:], *map(_pair, (kernel, stride, padding, dilation)), strict=True)
    return [(side + 2 * pad - dilated * (width - 1) - 1) // step + 1 for side, width, step, pad, dilated in numbers]


def _pair(values: Sequence[int]) -> Sequence[int]:
    """Return one value for each of two axes; PyTorch takes a single one for both."""
    return tuple(values) * 2 if len(values) == 1 else values


def _enlarged(x: Tensor, size: Sequence[int] | None, *rest: Any) -> Sequence[int] | None:
    del rest
    return None if size is None else (*x.shape[:2], *size)


RULES: dict[OpOverload, Callable[..., Sequence[int] | None]] = {
    aten.batch_norm.default: _unchanged,
    aten.cat.default: _cat,
    aten.conv2d.default: _conv2d,
    aten.max_pool2d.default: _max_pool2d,
    aten.upsample_bilinear2d.vec: _enlarged,
    aten.upsample_nearest2d.vec: _enlarged,
}
"""Each function returns the shape of an operation's result from its arguments; None where PyTorch has to find it."""
