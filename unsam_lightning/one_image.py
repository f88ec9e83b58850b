"""Many prompts on one image, without gradients: the masks of `UnSAM.decode`, to rounding, with LoRA merged only once.

    decode = prompt_decoder(model, model.encode(image))
    masks, iou = decode(clicks, labels, granularity)

Stock SAM-2 is asked by `two_way.py` too, where `UnSAM.decode` takes the stock modules bit for bit. Next in the tour:
`automatic.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from unsam_lightning.decoder import Embedding, stock_answers
from unsam_lightning.model import UnSAM


class Answer(NamedTuple):
    """What P prompts give; M = 1, or 3 for stock SAM-2's multi-mask output.

    Args:
        masks: Logits (P, M, h, w) at stride 4 of the model's frame; positive is inside.
        iou: Predicted IoU of each mask, (P, M).
    """

    masks: Tensor
    iou: Tensor


#: points (P, K, 2), labels (P, K), granularity (P,) or None, mask prompts (P, 1, h, w) or None, multimask.
PromptDecoder: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, bool], Answer]


def prompt_decoder(model: UnSAM, embedding: Embedding) -> PromptDecoder:
    """Return a function that decodes prompts on one image, for inference.

    Args:
        model: In eval mode. On a GPU, under autocast or after `compile`, its own `decode` does the work.
        embedding: Of one image.
    """
    is_plain = (
        isinstance(model, UnSAM)
        and model.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and model.decoder._compiled_call_impl is None
        and not model.decoder.training
        and model.sam.sam_mask_decoder.use_high_res_features
        and not model.sam.sam_mask_decoder.dynamic_multimask_via_stability
    )
    if is_plain:
        return _OneImage(model, embedding)

    def decode(
        points: Tensor, labels: Tensor, granularity: Tensor | None, masks: Tensor | None, multimask: bool
    ) -> Answer:
        decoded = model.decode(embedding, points, labels, granularity, masks=masks, multimask=multimask)
        return Answer(decoded.masks, decoded.iou)

    return decode


class _OneImage:
    """The decoders with LoRA merged once, called without gradients."""

    def __init__(self, model: UnSAM, embedding: Embedding) -> None:
        self.model, self.embedding = model, embedding
        self.adapter = copy.deepcopy(model.decoder)
        self.adapter.merge_lora()

    @torch.no_grad()
    def __call__(
        self, points: Tensor, labels: Tensor, granularity: Tensor | None, masks: Tensor | None, multimask: bool
    ) -> Answer:
        encoder, stock = self.model.sam.sam_prompt_encoder, self.model.sam.sam_mask_decoder
        sparse, dense = encoder(points=(points, labels), boxes=None, masks=masks)
        index = torch.zeros(len(sparse), dtype=torch.long, device=sparse.device)
        given = (stock, self.embedding, index, encoder.get_dense_pe(), sparse, dense)
        if granularity is None:
            logits, iou, _ = stock_answers(*given)
            wanted = slice(1, None) if multimask else slice(1)
            return Answer(logits[:, wanted], iou[:, wanted])
        logits, iou, *_ = self.adapter(*given, self.model.calibrated(granularity))
        return Answer(logits, iou)
