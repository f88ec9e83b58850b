"""`UnSAM`: a frozen SAM-2 and its granularity adapter; the same two calls in training, benchmarks and inference.

    embedding = model.encode(images)                       # once per image
    masks, iou, *_ = model.decode(embedding, clicks, labels, granularity=0.3)

Without a granularity `decode` is stock SAM-2. Next in the tour: `sweep.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import resize

from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.backbone import Base
from unsam_lightning.calibration import Calibration
from unsam_lightning.decoder import Decoded, Embedding, GranularityDecoder
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import one_for_each
from unsam_lightning.input_checks import check_images, check_normalized, image_of_each, num_prompts

#: ImageNet statistics, as in SAM2Transforms.
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class UnSAM(nn.Module):
    """SAM-2 with a granularity dial.

    Args:
        base: The stock SAM-2; it is frozen here.
        adapter: Shape of what trains.
        seed: Of the adapter's random start.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, base: Base, adapter: AdapterConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.sam: Any = base.sam.requires_grad_(False)
        self.base_name, self.base_sha256 = base.name, base.sha256
        self.calibration: Calibration | None = None
        self.training_config: str | None = None  # YAML of the run that trained the adapter, for its checkpoints
        self.is_tuned = False  # whether the adapter was trained or loaded; a new one answers about as SAM does
        self.trained_steps = 0  # optimizer steps behind the weights that were loaded, where their checkpoint says it
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.decoder = GranularityDecoder(
                adapter or AdapterConfig(),
                self.sam.sam_mask_decoder,
                self.sam.sam_prompt_encoder.not_a_point_embed.weight,
            )
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)

    @classmethod
    def from_pretrained(cls, name_or_path: str, config: str | Path | None = None, **options: Any) -> UnSAM:
        """Return a model in eval mode.

        Args:
            name_or_path: nano, tiny, small, base_plus, large; a hub id; a SAM-2 `.pt` file; one of our adapter
                checkpoints (`.ckpt`); an official UnSAMv2 checkpoint.
            config: YAML of the base architecture, for sizes that have no name.
            options: `adapter` (an `AdapterConfig`) and `seed` for a new adapter; `base` (name or path) to say where an
                adapter checkpoint finds its base when its recorded name does not.

        Raises:
            UserError: See `backbone.load_base` and `checkpoint.load_adapter`; a `base` for anything else.
        """
        # Imported here: checkpoint.py stands on this file.
        from unsam_lightning.checkpoint import from_pretrained

        return from_pretrained(name_or_path, config, **options).eval()

    @property
    def image_size(self) -> int:
        """Side of the square frame in pixels."""
        return int(self.sam.image_size)

    @property
    def mask_size(self) -> int:
        """Side of the mask logits in pixels: a quarter of the frame."""
        return self.image_size // 4

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> UnSAM:
        """Switch the adapter's mode; the frozen SAM-2 stays in eval mode."""
        super().train(mode)
        self.sam.eval()
        return self

    def normalize(self, images: Tensor) -> Tensor:
        """Return images in model space: float, square of `image_size`, ImageNet statistics.

        Args:
            images: uint8, or float in [0, 1], (B, 3, H, W).

        Raises:
            UserError: Other images; the range is looked at on the CPU only.
        """
        check_images(images)
        if images.dtype == torch.uint8:
            images = images.float() / 255
        if images.shape[-2:] != (self.image_size, self.image_size):
            # The aspect ratio is not kept: that is how SAM-2 was trained (SAM2Transforms).
            images = resize(images, [self.image_size, self.image_size], antialias=True)
        normalized: Tensor = (images - self.pixel_mean) / self.pixel_std
        return normalized.to(self.pixel_mean.dtype)  # float64, which numpy makes, is not for the encoder

    @torch.no_grad()
    def encode(self, images: Tensor, normalized: bool = False) -> Embedding:
        """Return the frozen encoder's embedding of images; no gradients.

        Args:
            images: uint8, or float in [0, 1], (B, 3, H, W), RGB, any size.
            normalized: True: already in model space, (B, 3, image_size, image_size).

        Raises:
            UserError: Other images, see `normalize`.
        """
        if normalized:
            check_normalized(images, self.image_size)
        features = self.sam.forward_image(images if normalized else self.normalize(images))["backbone_fpn"]
        image = features[2]
        if self.sam.directly_add_no_mem_embed:
            image = image + self.sam.no_mem_embed.view(1, -1, 1, 1)
        # One memory layout for every backbone, that of stock SAM-2's repeated image: its last bits depend on it.
        return Embedding(image.contiguous(), (features[0].contiguous(), features[1].contiguous()))

    def decode(
        self,
        embedding: Embedding,
        points_xy: Tensor | None,
        labels: Tensor | None,
        granularity: float | Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        image_index: Tensor | None = None,
        multimask: bool = False,
        with_pixels: bool = False,
    ) -> Decoded:
        """Return a mask for every prompt; with a granularity the adapter's, without one stock SAM-2's.

        Args:
            embedding: Of B images, from `encode`.
            points_xy: (P, K, 2) pixels of the model's frame, x before y; None with boxes or masks alone. P may be 0.
            labels: (P, K) of any dtype: 1 inside, 0 outside, -1 padding.
            granularity: One number or P of them in [0.1, 1], see `one_for_each`; None for stock SAM-2.
            boxes: (P, 4), x0 y0 x1 y1 in the same pixels.
            masks: Mask prompts as logits, (P, 1, h, w) at stride 4, h = w = `mask_size`.
            image_index: int64 (P,) in [0, B), which image each prompt belongs to. Default: all on the only image, or
                prompt i on image i.
            multimask: Three masks instead of one; only for stock SAM-2.
            with_pixels: Give the pixel embeddings too; only with a granularity.

        Raises:
            UserError: Prompts that `input_checks.num_prompts` refuses, granularities that `one_for_each` does, an
                `image_index` (on the CPU) that `input_checks.image_of_each` does; a granularity with `multimask`.
        """
        if granularity is not None and multimask:
            raise UserError(
                expected="either a granularity or multimask output",
                found=f"granularity {granularity} with multimask=True",
                remedy="ask for several granularities instead of several masks",
            )
        count = num_prompts(points_xy, labels, boxes, masks, self.mask_size)
        index = image_of_each(image_index, len(embedding.image), count, self.device)
        if granularity is None and not count:
            return self._stock_for_no_prompt(embedding, multimask)
        points = _points(points_xy, labels, boxes)
        sparse, dense = self.sam.sam_prompt_encoder(points=points, boxes=None, masks=masks)
        if granularity is None:
            return self._decode_stock(embedding.select(index), sparse, dense, multimask)
        wanted = self.calibrated(one_for_each(granularity, count, self.device))
        image_pe = self.sam.sam_prompt_encoder.get_dense_pe()
        stock = self.sam.sam_mask_decoder
        out = self.decoder(stock, embedding, index, image_pe, sparse, dense, wanted, with_pixels)
        return Decoded(out[0], out[1], out[2][:, None], out[3], out[4])

    def calibrated(self, granularity: Tensor) -> Tensor:
        """Return what the decoder gets for granularities (...); set `calibration` to None to switch the map off."""
        return granularity if self.calibration is None else self.calibration.apply(granularity)

    def _decode_stock(self, here: Embedding, sparse: Tensor, dense: Tensor, multimask: bool) -> Decoded:
        out = self.sam.sam_mask_decoder(
            image_embeddings=here.image,
            image_pe=self.sam.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=False,
            high_res_features=list(here.high_res),
        )
        return Decoded(out[0], out[1], out[2], out[3], None)

    def _stock_for_no_prompt(self, embedding: Embedding, multimask: bool) -> Decoded:
        """Return no answers, in the shapes and types of some: stock SAM-2 itself cannot reshape nothing."""
        corner = torch.zeros(1, 1, 2, device=self.device)
        index = torch.zeros(1, dtype=torch.long, device=self.device)
        one = self.decode(embedding, corner, corner[..., 0], image_index=index, multimask=multimask)
        return Decoded(one.masks[:0], one.iou[:0], one.tokens[:0], one.object_score[:0], None)

    def compile(self, **options: Any) -> None:
        """Compile the encoder and both decoders by `torch.compile`; the first call with each shape takes minutes.

        Args:
            options: Of `torch.compile`, such as `mode`.
        """
        for part in (self.sam.image_encoder, self.sam.sam_mask_decoder, self.decoder):
            part.compile(**options)

    def merge_lora(self) -> UnSAM:
        """Fold LoRA into the weights, for inference; the masks stay the same to rounding, training and export end."""
        self.decoder.merge_lora()
        return self

    def trained_names(self) -> list[str]:
        """Return the names of the parameters that train, as in `state_dict`, sorted."""
        return sorted(name for name, parameter in self.named_parameters() if parameter.requires_grad)

    def size_report(self) -> str:
        """Return one line: trainable, total and frozen parameters, and the trainable ones in per cent of the frozen."""
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.parameters())
        share = 100 * trainable / (total - trainable)
        frozen = f"{total - trainable:,} of {self.base_name} are frozen"
        return f"{trainable:,} of {total:,} parameters train, {frozen} ({share:.3f} %)"


def _points(points_xy: Tensor | None, labels: Tensor | None, boxes: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Return points and labels with boxes as two more points (labels 2 and 3), as SAM2ImagePredictor does."""
    if boxes is None:
        return None if points_xy is None or labels is None else (points_xy, labels)
    corners = boxes.reshape(-1, 2, 2).float()
    corner_labels = torch.tensor([[2, 3]], device=boxes.device).expand(len(boxes), -1)
    if points_xy is None or labels is None:
        return corners, corner_labels
    return torch.cat((corners, points_xy), dim=1), torch.cat((corner_labels, labels.to(corner_labels)), dim=1)
