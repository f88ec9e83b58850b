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
from unsam_lightning.model import UnSAM


def decode_in_passes(
    model: UnSAM,
    embedding: Embedding,
    points_xy: Tensor | None,
    labels: Tensor | None,
    granularity: Tensor | None = None,
    *,
    boxes: Tensor | None = None,
    masks: Tensor | None = None,
    image_index: Tensor | None = None,
    multimask: bool = False,
    prompts_per_pass: int = 64,
) -> Decoded:
    """Return what `UnSAM.decode` returns, but no `pixels`: the embeddings of all pixels for all prompts are the memory.

    Args:
        model: The model; everything else but the last is as in `UnSAM.decode`, P prompts in all.
        embedding: See there.
        points_xy: See there.
        labels: See there.
        granularity: (P,), or None for stock SAM-2.
        boxes: See there.
        masks: See there.
        image_index: See there; needed with several images.
        multimask: See there.
        prompts_per_pass: Prompts decoded at a time, at least 1.

    Raises:
        UserError: As `UnSAM.decode`; no prompt; `prompts_per_pass` below 1.
    """
    count = _count(points_xy, boxes, masks)
    if prompts_per_pass < 1:
        raise UserError(expected="prompts_per_pass >= 1", found=str(prompts_per_pass), remedy="64 is usual")
    if image_index is None:
        image_index = torch.zeros(count, dtype=torch.long, device=model.device)
        if len(embedding.image) > 1:
            raise UserError(
                expected="image_index with several images",
                found=f"none for {len(embedding.image)} images",
                remedy="say which image each prompt belongs to",
            )
    passes = []
    for first in range(0, count, prompts_per_pass):
        part = slice(first, first + prompts_per_pass)
        points, signs, wanted, box, prompt_mask = (
            None if given is None else given[part] for given in (points_xy, labels, granularity, boxes, masks)
        )
        decoded = model.decode(embedding, points, signs, wanted, box, prompt_mask, image_index[part], multimask)
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
    count = _count(points_xy, boxes, masks)
    points, signs, box, prompt_mask, index = (
        None if given is None else given.repeat_interleave(len(asked), 0)
        for given in (points_xy, labels, boxes, masks, image_index)
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


def _count(*prompts: Tensor | None) -> int:
    counts = {len(given) for given in prompts if given is not None}
    if len(counts) != 1 or 0 in counts:
        raise UserError(
            expected="at least one prompt, and as many points as boxes and masks where several are given",
            found=f"numbers {sorted(counts)}",
            remedy="give points, boxes or mask prompts with the same first dimension",
        )
    return counts.pop()
