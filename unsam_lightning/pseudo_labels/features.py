"""Stage 1, features: an image becomes frozen patch features of the SAM-2 encoder.

Next in the tour: `pseudo_labels/divide.py`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from unsam_lightning.model import UnSAM

#: A map of the encoder: the trunk's own stages or the neck's outputs, with their stride in pixels of the frame.
Level = Literal["trunk4", "trunk8", "trunk16", "trunk32", "neck4", "neck8", "neck16"]


@torch.no_grad()
def encoder_features(model: UnSAM, frames: Tensor, levels: tuple[Level, ...]) -> dict[Level, Tensor]:
    """Return feature maps of images, one pass of the encoder for all levels.

    Args:
        model: Its frozen SAM-2 encoder is used.
        frames: Images in model space, (B, 3, S, S), as `UnSAM.normalize` gives them.
        levels: Which maps.

    Returns:
        For each level float32 (B, h, w, D), h = w = frame / stride, on the model's device.
    """
    encoder = model.sam.image_encoder
    trunk = encoder.trunk(frames)  # strides 4, 8, 16, 32
    maps: dict[str, Tensor] = {f"trunk{4 << k}": stage for k, stage in enumerate(trunk)}
    if any(level.startswith("neck") for level in levels):
        maps |= {f"neck{4 << k}": level for k, level in enumerate(encoder.neck(trunk)[0][:3])}
    return {level: maps[level].permute(0, 2, 3, 1).float() for level in levels}
