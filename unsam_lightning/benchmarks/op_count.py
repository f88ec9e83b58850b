"""Counts what a computation asks of a device, operation by operation, without the device: kernels, bytes, FLOPs.

Works on real and on fake tensors, which have shapes and no numbers: a step at 1024 px is counted in a minute on a
laptop. Bytes are those of every kernel's inputs and outputs, read and written once: what eager execution moves through
the memory where caches hold nothing. Next in the tour: `benchmarks/comparison.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_ATEN = torch.ops.aten
#: They reserve memory and do not touch it.
_EMPTY = {_ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.new_empty_strided}
#: What autocast computes in float32 on a GPU, of what this project calls; on a CPU it leaves these in bfloat16.
_FLOAT32_ON_GPU = {
    *(torch.softmax, torch.log_softmax, torch.sum, torch.cumsum, torch.pow, torch.rsqrt, torch.exp, torch.log),
    *(torch.nn.functional.layer_norm, torch.nn.functional.softmax, torch.nn.functional.log_softmax),
    torch.nn.functional.binary_cross_entropy_with_logits,
    *(Tensor.softmax, Tensor.log_softmax, Tensor.sum, Tensor.cumsum, Tensor.pow, Tensor.__pow__, Tensor.rsqrt),
    *(Tensor.exp, Tensor.log, Tensor.norm),
}


class OpCounter(TorchDispatchMode):
    """Counts while it is active; enter it inside a fake tensor mode, not around it.

    Attributes:
        kernels: Operations that compute or copy; views and reservations of memory are none.
        moved_bytes: Their inputs and outputs; a broadcast input counts as stored, an operation in place twice.
        flops: Of products, convolutions and attention, a multiplication and an addition as two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.moved_bytes = self.flops = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if self._is_kernel(function, read, made):
            self.kernels += 1
            self.moved_bytes += sum(map(stored_bytes, read + made))
            self.flops += _flops(function, args, kwargs, result)
        return result

    @staticmethod
    def _is_kernel(function: Any, read: list[Tensor], made: list[Tensor]) -> bool:
        if not made or function.overloadpacket in _EMPTY:
            return False
        if function._schema.is_mutable:
            return True
        # By storage and not by the schema, which does not know the views that autograd calls unsafe.
        there = {tensor.untyped_storage()._cdata for tensor in read}
        return any(tensor.untyped_storage()._cdata not in there for tensor in made)


def stored_bytes(tensor: Tensor) -> int:
    """Return the bytes that a tensor's numbers occupy; along dimensions it is expanded over, they are there once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0 or size == 0]
    return math.prod(sizes) * tensor.element_size()


def _flops(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    packet = function.overloadpacket
    # The registry leaves out the attention kernels of the CPU, on which fake tensors run.
    if packet is _ATEN._scaled_dot_product_flash_attention_for_cpu:
        return int(sdpa_flop_count(*(each.shape for each in args[:3])))
    if packet is _ATEN._scaled_dot_product_flash_attention_for_cpu_backward:
        return int(sdpa_backward_flop_count(*(each.shape for each in args[:4])))
    return int(flop_registry[packet](*args, **kwargs, out_val=result)) if packet in flop_registry else 0


class ForetoldValues(TorchDispatchMode):
    """Answers for fake tensors what only numbers could tell: every condition holds, every mask takes part.

    Enter it inside a fake tensor mode and outside an `OpCounter`, which then counts the kernels of the answer.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, or foretell its result."""
        if function is _ATEN._local_scalar_dense.default:
            # A half, in the ranges of images and of granularities, and the first image: the model looks at these.
            return {torch.bool: True, torch.float32: 0.5, torch.int64: 0}[args[0].dtype]
        if function is _ATEN.nonzero.default:
            return _places(args[0])
        if function in (_ATEN.index.Tensor, _ATEN.index_put_.default):
            return function(args[0], _without_masks(args[1]), *args[2:], **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _without_masks(index: list[Tensor | None]) -> list[Tensor | None]:
    """Return an index by numbers for one by bool masks all of whose elements are set."""
    numbers: list[Tensor | None] = []
    for each in index:
        if each is not None and each.dtype == torch.bool:
            numbers += _places(each).unbind(1)
        else:
            numbers.append(each)
    return numbers


def _places(condition: Tensor) -> Tensor:
    """Return what `nonzero` would where all elements are set."""
    return torch.empty(condition.numel(), condition.dim(), dtype=torch.long, device=condition.device)


class CastsOfGpu(TorchFunctionMode):
    """Under autocast on a CPU, casts to float32 what autocast on a GPU does (softmax, norms, sums, powers, losses)."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, if need be in float32."""
        kwargs = kwargs or {}
        if function in _FLOAT32_ON_GPU and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map_only(Tensor, _widened, (args, kwargs))
        return function(*args, **kwargs)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
