"""Many prompts and many granularities on one embedding, in memory bounded by the number decoded at a time.

    decoded = decode_sweep(model, model.encode(image), clicks, labels, [0.1, 0.3, 0.6, 1.0])
    decoded.masks                                                        # (P, 4, h, w)

Next in the tour: `one_image.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unsam_lightning.decoder import Decoded, Embedding
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import one_for_each
from unsam_lightning.input_checks import image_of_each, num_prompts
from unsam_lightning.model import UnSAM


def decode_in_passes(
    model: UnSAM,
    embedding: Embedding,
    points_xy: Tensor | None,
    labels: Tensor | None,
    granularity: float | Tensor | None = None,
    *,
    boxes: Tensor | None = None,
    masks: Tensor | None = None,
    image_index: Tensor | None = None,
    multimask: bool = False,
    prompts_per_pass: int = 64,
) -> Decoded:
    """Return what `UnSAM.decode` returns, but no `pixels`: the embeddings of all pixels for all prompts are the memory.

    Args:
        model: The model; everything else but the last is as in `UnSAM.decode`, P >= 1 prompts in all.
        embedding: See there.
        points_xy: See there.
        labels: See there.
        granularity: See there.
        boxes: See there.
        masks: See there.
        image_index: See there.
        multimask: See there.
        prompts_per_pass: Prompts decoded at a time, at least 1.

    Raises:
        UserError: As `UnSAM.decode`; no prompt; `prompts_per_pass` below 1.
    """
    count, index = _places(model, embedding, points_xy, labels, boxes, masks, image_index)
    if prompts_per_pass < 1:
        raise UserError(expected="prompts_per_pass >= 1", found=str(prompts_per_pass), remedy="64 is usual")
    each = None if granularity is None else one_for_each(granularity, count, model.device)
    passes = []
    for first in range(0, count, prompts_per_pass):
        part = slice(first, first + prompts_per_pass)
        points, signs, wanted, box, prompt_mask = (
            None if given is None else given[part] for given in (points_xy, labels, each, boxes, masks)
        )
        decoded = model.decode(embedding, points, signs, wanted, box, prompt_mask, index[part], multimask)
        passes.append(decoded[:4])
    everything, iou, tokens, score = (torch.cat(values) for values in zip(*passes, strict=True))
    return Decoded(everything, iou, tokens, score, None)


def decode_sweep(
    model: UnSAM,
    embedding: Embedding,
    points_xy: Tensor | None,
    labels: Tensor | None,
    granularities: Sequence[float] | Tensor,
    *,
    boxes: Tensor | None = None,
    masks: Tensor | None = None,
    image_index: Tensor | None = None,
    prompts_per_pass: int = 64,
) -> Decoded:
    """Return a mask for each of P prompts at each of G granularities.

    Args:
        model: See `decode_in_passes`.
        embedding: See there.
        points_xy: See there.
        labels: See there.
        granularities: (G,) in [0.1, 1].
        boxes: See there.
        masks: See there.
        image_index: See there.
        prompts_per_pass: Pairs of a prompt and a granularity decoded at a time.

    Returns:
        masks (P, G, h, w), iou (P, G), tokens (P, G, D), object_score (P, G); no pixels.

    Raises:
        UserError: As `decode_in_passes`; no granularity.
    """
    asked = torch.as_tensor(granularities, dtype=torch.float32)
    if not asked.numel():
        raise UserError(expected="at least one granularity", found="none", remedy="give e.g. [0.1, 0.5, 1.0]")
    count, own_image = _places(model, embedding, points_xy, labels, boxes, masks, image_index)
    points, signs, box, prompt_mask, index = (
        None if given is None else given.repeat_interleave(len(asked), 0)
        for given in (points_xy, labels, boxes, masks, own_image)
    )
    decoded = decode_in_passes(
        model,
        embedding,
        points,
        signs,
        asked.repeat(count),
        boxes=box,
        masks=prompt_mask,
        image_index=index,
        prompts_per_pass=prompts_per_pass,
    )
    everything, iou, tokens, score = (value[:, 0].unflatten(0, (count, len(asked))) for value in decoded[:4])
    return Decoded(everything, iou, tokens, score, None)


def _places(
    model: UnSAM,
    embedding: Embedding,
    points_xy: Tensor | None,
    labels: Tensor | None,
    boxes: Tensor | None,
    masks: Tensor | None,
    image_index: Tensor | None,
) -> tuple[int, Tensor]:
    """Return the number of prompts, at least 1, and which image each belongs to."""
    count = num_prompts(points_xy, labels, boxes, masks, model.mask_size)
    if not count:
        raise UserError(expected="at least one prompt", found="none", remedy="leave an image without prompts out")
    return count, image_of_each(image_index, len(embedding.image), count, model.device)
