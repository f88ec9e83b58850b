"""What the pair loss needs from every pixel of the frame, without the frame: sums, and gradients at the logits' size.

Focal and dice loss are functions of sums over pixels, so one pass finds them and their gradients: a pixel's logit is
made from the four around it, its part of the sums and of the gradients is added up, and it is forgotten. One kernel on
a CPU and one on an NVIDIA GPU; other devices do the same with torch's own operations, a few masks at a time.

With p the probability, t the target, e = p - t and c the cross-entropy of a pixel, d c / d logit is e, so the focal
term a e^2 c (a = alpha inside, 1 - alpha outside) has the gradient a e (2 p (1 - p) c + e^2), and the sum of p has
p (1 - p). Next in the tour: `losses/pairs.py`.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from unsam_lightning.batch import BITS, take_masks
from unsam_lightning.errors import first_line
from unsam_lightning.losses.frame_cpu import measure_mask

#: Masks enlarged at a time where there is no kernel; bounds the memory, some 40 S S bytes each.
_MASKS_AT_A_TIME = 8


@torch.library.custom_op("unsam_lightning::measure_in_frame", mutates_args=())
def measure_in_frame(
    logits: Tensor, planes: Tensor, image_index: Tensor, mask_index: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Return sums over the frame's pixels, and their gradients by the logits, of logits enlarged bilinearly to it.

    Args:
        logits: (P, h, w), h = w; half precision is widened first.
        planes: int32 (B, L, S, S), the bit-planes of B images' masks (`View.planes`); S is an even multiple of h.
        image_index: int64 (P,).
        mask_index: int64 (P,), position among the image's masks.
        alpha: Weight of the pixels inside in the focal loss (gamma 2), against 1 - alpha outside.

    Returns:
        Sums, float32 (P, 6): focal loss; |P|, |P T|, |T| with P the probability and T the mask; pixels with a positive
        logit; those of them inside the mask. And the gradients of the first three, float32 (P, 3, h, w).
    """
    return _in_parts(logits, planes, image_index, mask_index, alpha)


def _in_parts(
    logits: Tensor, planes: Tensor, image_index: Tensor, mask_index: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Return what `measure_in_frame` does, with torch's own operations on any device."""
    parts = [
        _measure_plainly(logits[part], take_masks(planes, image_index[part], mask_index[part]).float(), alpha)
        for part in (
            slice(first, first + _MASKS_AT_A_TIME) for first in range(0, max(1, len(logits)), _MASKS_AT_A_TIME)
        )
    ]
    sums, maps = zip(*parts, strict=True)
    return torch.cat(sums), torch.cat(maps)


def _measure_plainly(logits: Tensor, target: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return the sums and gradients for targets (P, S, S) of 0 and 1, with torch's own operations."""
    large = interpolate(logits[:, None].float(), target.shape[-2:], mode="bilinear")[:, 0]
    prob, inside = large.sigmoid(), (large > 0).float()
    slope, error = prob * (1 - prob), prob - target
    squared = error.square()
    entropy = binary_cross_entropy_with_logits(large, target, reduction="none")
    weight = (1 - alpha) - (1 - 2 * alpha) * target
    measured = (weight * squared * entropy, prob, prob * target, target, inside, inside * target)
    by_pixel = torch.stack((weight * error * (2 * slope * entropy + squared), slope, slope * target), 1)
    size = [len(logits), 3, *logits.shape[1:]]
    maps = torch.ops.aten.upsample_bilinear2d_backward(by_pixel, list(target.shape[1:]), size, False, None, None)
    return torch.stack([each.sum((1, 2)) for each in measured], 1), maps


@measure_in_frame.register_kernel("cpu")
def _on_cpu(
    logits: Tensor, planes: Tensor, image_index: Tensor, mask_index: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    count, height, width = logits.shape
    sums, maps = torch.empty(count, 6, dtype=torch.float64), torch.empty(count, 3, height, width)
    low, words = logits.detach().float().contiguous().numpy(), planes.numpy()
    images, numbers = image_index.tolist(), mask_index.tolist()
    sums_of, maps_of = sums.numpy(), maps.numpy()

    def measure(p: int) -> None:
        plane, bit = divmod(numbers[p], BITS)
        measure_mask(low[p], words[images[p], plane], bit, alpha, sums_of[p], maps_of[p])

    threads = min(torch.get_num_threads(), count)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:  # the kernel lets go of the interpreter
            list(pool.map(measure, range(count)))
    else:
        for p in range(count):
            measure(p)
    return sums.float(), maps


@functools.cache
def _triton_can_launch() -> bool:
    """Try what Triton does before its first launch: compile its launcher with the system's C compiler."""
    try:
        importlib.import_module("triton").runtime.driver.active.utils  # noqa: B018 - made when it is first looked at
    except Exception as error:  # whatever the compiler ends with
        reason = first_line(error)
        warnings.warn(f"the pair loss is slow: Triton cannot compile here ({reason}); install gcc and Python's headers")  # noqa: B028
        return False
    return True


if importlib.util.find_spec("triton") is not None:  # torch brings it where it has CUDA; not to macOS or Windows

    @measure_in_frame.register_kernel("cuda")
    def _on_gpu(
        logits: Tensor, planes: Tensor, image_index: Tensor, mask_index: Tensor, alpha: float
    ) -> tuple[Tensor, Tensor]:
        if not _triton_can_launch():
            return _in_parts(logits, planes, image_index, mask_index, alpha)
        from unsam_lightning.losses.frame_gpu import measure_on_gpu

        plane = image_index * planes.shape[1] + mask_index // BITS
        return measure_on_gpu(logits.contiguous(), planes.flatten(0, 1).contiguous(), plane, mask_index % BITS, alpha)


@measure_in_frame.register_fake
def _shapes(
    logits: Tensor, planes: Tensor, image_index: Tensor, mask_index: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    count, height, width = logits.shape
    new = logits.new_empty
    return new((count, 6), dtype=torch.float32), new((count, 3, height, width), dtype=torch.float32)
