"""SAM-2's encoder and decoder with gradients, at any size of the images. Next in the tour: `pretrain_start.py`."""

from __future__ import annotations

from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from unsam_lightning.decoder import Embedding
from unsam_lightning.model import PIXEL_MEAN, PIXEL_STD
from unsam_lightning.two_way import in_pixel_order, two_way, upscaled

#: A trunk's window that spans the whole map at this size spans it at every size; see `set_frame`.
_NATIVE_FRAME = 256


def set_frame(sam: SAM2Base, frame: int) -> None:
    """Make a SAM-2 work on images of another size; no weight depends on it.

    Windows of the trunk that span the whole map at the native frame are kept spanning it.

    Args:
        sam: Built for `_NATIVE_FRAME` pixels; changed in place.
        frame: Side of the images in pixels, a multiple of 32.
    """
    encoder = sam.sam_prompt_encoder
    sam.image_size = frame
    encoder.input_image_size = (frame, frame)
    encoder.image_embedding_size = (frame // 16, frame // 16)
    trunk = sam.image_encoder.trunk
    for number, block in enumerate(trunk.blocks):
        # A block that pools sees the map of the stage before it.
        stage = sum(end < (number - 1 if block.q_stride else number) for end in trunk.stage_ends)
        if trunk.window_spec[stage] * 4 * 2**stage == _NATIVE_FRAME:
            block.window_size = frame // (4 * 2**stage)


def encode_with_gradient(sam: SAM2Base, images: Tensor) -> Embedding:
    """Return the embedding of uint8 images (B, 3, S, S) of the model's frame, with gradients."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    features = sam.forward_image((images.float() / 255 - mean) / std)["backbone_fpn"]
    return Embedding(features[2] + sam.no_mem_embed.view(1, -1, 1, 1), (features[0], features[1]))


def decode_all(
    sam: SAM2Base, embedding: Embedding, index: Tensor, points: Tensor, labels: Tensor, masks: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (P, 4, h, w), predicted IoUs (P, 4) and object scores (P, 1) of the single and the three masks.

    Args:
        sam: The model.
        embedding: Of B images.
        index: int64 (P,): which image.
        points: (P, K, 2) pixels of the frame.
        labels: (P, K): 1 inside, 0 outside, 2 and 3 corners of a box.
        masks: Logits (P, 1, h, w) as mask prompts.
    """
    sparse, dense = sam.sam_prompt_encoder(points=(points, labels), boxes=None, masks=masks)
    decoder: Any = sam.sam_mask_decoder
    outputs = torch.cat((decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight))
    tokens = torch.cat((outputs[None].expand(len(sparse), -1, -1), sparse), 1)
    image_pe = sam.sam_prompt_encoder.get_dense_pe()
    queries, keys = two_way(decoder.transformer, embedding.image, index, dense, image_pe, tokens)
    cells = upscaled(decoder, keys, embedding.high_res, index)  # (P, N, 16, D/8)
    heads = decoder.output_hypernetworks_mlps
    rows = torch.stack([head(queries[:, 2 + number]) for number, head in enumerate(heads)], -1)  # (P, D/8, 4)
    logits = in_pixel_order((cells.flatten(1, 2) @ rows).view(*cells.shape[:3], -1))
    return logits, decoder.iou_prediction_head(queries[:, 1]), decoder.pred_obj_score_head(queries[:, 0])
