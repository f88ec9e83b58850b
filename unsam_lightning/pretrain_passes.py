"""SAM-2's encoder and decoder with gradients, at any size of the images. Next in the tour: `pretrain_start.py`."""

from __future__ import annotations

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from unsam_lightning.decoder import Embedding, stock_answers
from unsam_lightning.model import PIXEL_MEAN, PIXEL_STD

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
    image_pe = sam.sam_prompt_encoder.get_dense_pe()
    return stock_answers(sam.sam_mask_decoder, embedding, index, image_pe, sparse, dense)
