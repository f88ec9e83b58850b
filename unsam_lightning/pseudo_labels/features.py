"""Stage 1, features: an image becomes frozen patch features, of the SAM-2 encoder or of a timm vision transformer.

Next in the tour: `pseudo_labels/divide.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import resize

from unsam_lightning.errors import UserError, first_line
from unsam_lightning.model import UnSAM
from unsam_lightning.one_image import image_tensor

#: A map of the encoder: the trunk's own stages or the neck's outputs, with their stride in pixels of the frame.
Level = Literal["trunk4", "trunk8", "trunk16", "trunk32", "neck4", "neck8", "neck16"]
Images = Sequence[npt.NDArray[np.uint8]]


class FrozenMaps(Protocol):
    """What gives the feature maps of images."""

    def describe(self) -> dict[str, Any]:
        """Return plain values that name it and its weights."""

    def __call__(self, images: Images) -> list[Tensor]:
        """Return maps of images uint8 RGB (H, W, 3) of any sizes: each float32 (B, h, w, D), covering the images."""


@torch.no_grad()
def encoder_features(model: UnSAM, frames: Tensor, levels: tuple[Level, ...]) -> dict[Level, Tensor]:
    """Return feature maps of images, one pass of the encoder for all levels; bfloat16 inside on a GPU.

    Args:
        model: Its frozen SAM-2 encoder is used.
        frames: Images in model space, (B, 3, S, S), as `UnSAM.normalize` gives them.
        levels: Which maps.

    Returns:
        For each level float32 (B, h, w, D), h = w = frame / stride, on the model's device.
    """
    encoder = model.sam.image_encoder
    with torch.autocast(frames.device.type, torch.bfloat16, enabled=frames.is_cuda):
        trunk = encoder.trunk(frames)  # strides 4, 8, 16, 32
        maps: dict[str, Tensor] = {f"trunk{4 << k}": stage for k, stage in enumerate(trunk)}
        if any(level.startswith("neck") for level in levels):
            maps |= {f"neck{4 << k}": level for k, level in enumerate(encoder.neck(trunk)[0][:3])}
    return {level: maps[level].permute(0, 2, 3, 1).float() for level in levels}


class EncoderMaps(nn.Module):
    """Maps of a model's frozen SAM-2 encoder.

    Args:
        model: Whose encoder.
        levels: Which of its maps, in this order.
    """

    def __init__(self, model: UnSAM, levels: tuple[Level, ...]) -> None:
        super().__init__()
        self.model, self.levels = model, levels

    def describe(self) -> dict[str, Any]:
        """Return the name and the checksum of the model's base."""
        return {"name": self.model.base_name, "sha256": self.model.base_sha256}

    def forward(self, images: Images) -> list[Tensor]:
        """See `FrozenMaps`."""
        frames = torch.cat([self.model.normalize(image_tensor(image, self.model.device)) for image in images])
        return list(encoder_features(self.model, frames, self.levels).values())


class TimmMaps(nn.Module):
    """The patch features of a vision transformer of timm, such as DINOv2 or DINOv3: one map.

    Args:
        name: timm's name of the model, "vit_base_patch16_dinov3" for example.
        weights: A local file of its weights, in timm's or the authors' layout; None: timm downloads them. "random":
            none, for tests.
        side: Images are resized to about so many pixels square, a whole number of patches.

    Raises:
        UserError: timm is not installed, or it has no such model, or the weights do not fit or cannot be had.
    """

    def __init__(self, name: str, weights: str | None = None, side: int = 768) -> None:
        super().__init__()
        try:
            import timm
        except ImportError:
            raise UserError(
                expected=f"timm, which has {name}",
                found="it is not installed",
                remedy="pip install '.[timm]' in the project's folder",
            ) from None
        source = {"pretrained_cfg_overlay": {"file": weights}} if weights not in (None, "random") else {}
        try:
            self.vit = timm.create_model(
                name, pretrained=weights != "random", num_classes=0, dynamic_img_size=True, **source
            )
            patch = int(self.vit.patch_embed.patch_size[0])
        except (RuntimeError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                expected=f"a vision transformer of timm called {name}, with weights from {weights or 'its hub'}",
                found=first_line(error),
                remedy="see timm.list_models('*dino*'); --data.recipe.features_weights takes a local file",
            ) from None
        self.vit.eval().requires_grad_(False)
        self.name, self.side = name, max(1, round(side / patch)) * patch
        self.grid = self.side // patch
        about = timm.data.resolve_model_data_config(self.vit)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(about["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(about["std"]).view(3, 1, 1))

    def describe(self) -> dict[str, Any]:
        """Return name, side and a checksum of the weights."""
        digest = hashlib.sha256()
        for key, value in sorted(self.vit.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return {"name": f"timm:{self.name}", "side": self.side, "sha256": digest.hexdigest()}

    @torch.no_grad()
    def forward(self, images: Images) -> list[Tensor]:
        """See `FrozenMaps`; bfloat16 inside on a GPU."""
        frames = [
            resize(image_tensor(image, self.mean.device).float() / 255, [self.side, self.side], antialias=True)
            for image in images
        ]
        batch = (torch.cat(frames) - self.mean) / self.std
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=batch.is_cuda):
            tokens = self.vit.forward_features(batch)  # (B, prefix + N, D)
        patches = tokens[:, self.vit.num_prefix_tokens :].float()
        return [patches.unflatten(1, (self.grid, self.grid))]
