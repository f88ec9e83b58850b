"""What `UnSAM` takes for images and prompts: one error for anything else, before torch has words of its own for it.

Shapes and types are always looked at, numbers on the CPU only: a look at GPU memory would stall it.
Next in the tour: `model.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unsam_lightning.errors import UserError

#: Cubic filters overshoot [0, 1] a little; images in 0..255, and normalized ones, go far beyond this.
_LOWEST, _HIGHEST = -0.5, 1.5

#: What the convolutions of a mask prompt take, alone or under autocast.
_LOGITS = (torch.float32, torch.float16, torch.bfloat16)


def check_images(images: Tensor) -> None:
    """Raise `UserError` unless images are uint8, or float in [0, 1], (B, 3, H, W)."""
    is_float = images.is_floating_point()
    is_rgb = images.ndim == 4 and images.shape[1] == 3 and 0 not in images.shape[2:]
    if not is_rgb or not (is_float or images.dtype == torch.uint8):
        raise UserError(
            expected="images (B, 3, H, W) of uint8, or of float in [0, 1]",
            found=_described(images),
            remedy="convert them; `one_image.image_tensor` makes such a batch of an RGB array (H, W, 3)",
        )
    if is_float and images.device.type == "cpu" and len(images):
        low, high = (float(bound) for bound in images.detach().aminmax())
        if not (low >= _LOWEST and high <= _HIGHEST):
            raise UserError(
                expected="float images in [0, 1]",
                found=f"values from {low:g} to {high:g}",
                remedy="give 0..255 as uint8 or divided by 255; normalized images belong to encode(normalized=True)",
            )


def check_normalized(images: Tensor, side: int) -> None:
    """Raise `UserError` unless images are float (B, 3, side, side)."""
    if not images.is_floating_point() or images.shape[1:] != (3, side, side):
        raise UserError(
            expected=f"normalized images of float, (B, 3, {side}, {side})",
            found=_described(images),
            remedy="leave normalized=True away: then images of any size are resized and normalized",
        )


def num_prompts(
    points_xy: Tensor | None, labels: Tensor | None, boxes: Tensor | None, masks: Tensor | None, mask_size: int
) -> int:
    """Return P, the number of prompts, which may be 0; for the arguments see `UnSAM.decode`.

    Raises:
        UserError: Neither points, boxes nor masks; points without labels or the reverse; another shape than those that
            are named there; not as many of one kind as of another; masks that are no logits.
    """
    if (points_xy is None) != (labels is None):
        raise UserError(
            expected="points with a label each, or neither",
            found="points without labels" if labels is None else "labels without points",
            remedy="give labels of 1 (inside) or 0 (outside), (P, K) for points (P, K, 2)",
        )
    named = {"points": points_xy, "labels": labels, "boxes": boxes, "masks": masks}
    given = {name: each for name, each in named.items() if each is not None}
    fits = [
        points_xy is None or (points_xy.ndim == 3 and points_xy.shape[2] == 2),
        points_xy is None or labels is None or labels.shape == points_xy.shape[:2],
        boxes is None or (boxes.ndim == 2 and boxes.shape[1] == 4),
        masks is None or (masks.shape[1:] == (1, mask_size, mask_size) and masks.dtype in _LOGITS),
    ]
    counts = {each.shape[:1] for each in given.values()}
    if not all(fits) or len(counts) != 1:
        raise UserError(
            expected="points (P, K, 2) with labels (P, K), boxes (P, 4) or masks of logits "
            f"(P, 1, {mask_size}, {mask_size}), or several of these for the same P prompts",
            found=", ".join(f"{name} {_described(each)}" for name, each in given.items()) or "none of them",
            remedy="a single box is boxes[None], a mask prompt the `masks` of an answer before",
        )
    return int(counts.pop()[0])


def image_of_each(image_index: Tensor | None, num_images: int, count: int, device: torch.device) -> Tensor:
    """Return which image each prompt belongs to, int64 (P,): unless told, the only one, or image i for prompt i.

    Args:
        image_index: What was asked for, or None.
        num_images: B.
        count: P.
        device: Of the default.

    Raises:
        UserError: No index where B is neither 1 nor P; one of another shape or type; an image that is not there.
    """
    if image_index is None:
        if num_images not in (1, count):
            raise UserError(
                expected=f"one prompt for each of {num_images} images",
                found=f"{count} prompts",
                remedy="say by image_index which image each prompt belongs to",
            )
        if num_images == 1:
            return torch.zeros(count, dtype=torch.long, device=device)
        return torch.arange(count, device=device)
    if image_index.shape != (count,) or image_index.dtype not in (torch.int64, torch.int32):
        raise UserError(
            expected=f"image_index int64 ({count},), one for each prompt",
            found=_described(image_index),
            remedy="say which image each prompt belongs to, or nothing where there is one",
        )
    if image_index.device.type == "cpu" and count:
        low, high = (int(bound) for bound in image_index.aminmax())
        if low < 0 or high >= num_images:
            raise UserError(
                expected=f"image_index of at least 0 and below {num_images}, the number of images",
                found=str(low if low < 0 else high),
                remedy="count from 0",
            )
    return image_index


def _described(tensor: Tensor) -> str:
    """Return the type and the shape of a tensor as a reader would write them."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
