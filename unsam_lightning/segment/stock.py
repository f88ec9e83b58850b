"""SAM-2's own predictors at a granularity: image, automatic masks, video.

    predictor = image_predictor(model, granularity=0.3)        # a SAM2ImagePredictor
    predictor.set_image(image)
    masks, scores, logits = predictor.predict(point_coords=[[120, 80]], point_labels=[1])

The granularity belongs to the predictor, not to the model: several predictors of one model, at different
granularities and in different threads, share its weights and do not disturb each other.
Next in the tour: `benchmarks/speed.py`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor, nn

from unsam_lightning.decoder import Embedding, GranularityDecoder
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import check_granularity
from unsam_lightning.model import UnSAM


class _DecoderAt(nn.Module):
    """Stands in for SAM-2's mask decoder and gives the granularity mask; called as SAM-2 calls its own."""

    def __init__(self, stock: Any, adapter: GranularityDecoder, granularity: float) -> None:
        super().__init__()
        self.stock, self.adapter, self.granularity = stock, adapter, granularity
        self.conv_s0, self.conv_s1 = stock.conv_s0, stock.conv_s1  # the encoder's last step uses them

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        repeat_image: bool,
        high_res_features: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return masks (P, 1, h, w), IoUs (P, 1), mask tokens (P, 1, D), object scores (P, 1); never three masks."""
        count = len(sparse_prompt_embeddings)
        fine, middle = high_res_features
        index = torch.arange(count, device=image_embeddings.device)
        masks, iou, token, score, _ = self.adapter(
            self.stock,
            Embedding(image_embeddings, (fine, middle)),
            index,
            image_pe,
            sparse_prompt_embeddings,
            dense_prompt_embeddings,
            torch.full((count,), self.granularity, device=index.device),
        )
        return masks, iou, token[:, None], score


def sam_at(model: UnSAM, granularity: float | None) -> SAM2Base:
    """Return a stock SAM-2 that answers at one granularity; it shares the model's weights.

    Args:
        model: The tuned model, in eval mode.
        granularity: In [0.1, 1]; None for the untouched base.

    Raises:
        UserError: A granularity out of range.
    """
    sam: SAM2Base = copy.copy(model.sam)
    if granularity is None:
        return sam
    check_granularity(granularity)
    given = float(model.calibrated(torch.tensor(granularity)))
    # A copy of its own: the shallow copy above still shares the table of submodules with the model.
    sam._modules = dict(model.sam._modules)
    sam._modules["sam_mask_decoder"] = _DecoderAt(model.sam.sam_mask_decoder, model.decoder, given)
    return sam


def image_predictor(model: UnSAM, granularity: float | None, **options: Any) -> SAM2ImagePredictor:
    """Return SAM-2's image predictor at a granularity, for frames of any size.

    Args:
        model: See `sam_at`.
        granularity: See `sam_at`.
        options: Of `SAM2ImagePredictor`.
    """
    predictor = SAM2ImagePredictor(sam_at(model, granularity), **options)
    _fit_frame(predictor, model.image_size)
    return predictor


def mask_generator(model: UnSAM, granularity: float | None, **options: Any) -> SAM2AutomaticMaskGenerator:
    """Return SAM-2's automatic mask generator at a granularity.

    Args:
        model: See `sam_at`.
        granularity: See `sam_at`.
        options: Of `SAM2AutomaticMaskGenerator`.
    """
    generator = SAM2AutomaticMaskGenerator(sam_at(model, granularity), **options)
    _fit_frame(generator.predictor, model.image_size)
    return generator


def video_predictor(model: UnSAM, granularity: float | None, **options: Any) -> SAM2VideoPredictor:
    """Return SAM-2's video predictor at a granularity, the same for all objects.

    Args:
        model: See `sam_at`; its base must have memory modules.
        granularity: See `sam_at`.
        options: `fill_hole_area`, `non_overlap_masks`, `clear_non_cond_mem_around_input`,
            `add_all_frames_to_correct_as_cond` of `SAM2VideoPredictor`; `binarize_mask_from_pts_for_mem_enc` of
            `SAM2Base`, which remembers a clicked frame's mask as it is shown and not its logits.

    Raises:
        UserError: The base has no memory modules, or an option of another name.

    Differs: all are off unless given. The sam2 package's `build_sam2_video_predictor` by default sets
        `binarize_mask_from_pts_for_mem_enc=True` and `fill_hole_area=8`, which fills holes only where that package was
        built with its CUDA extension, and warns elsewhere; and another mask in place of an unstable one, of which there
        is none at a granularity.
    """
    if model.sam.memory_attention is None:
        raise UserError(
            expected="a base model with memory modules",
            found=f"{model.base_name}, which segments images only",
            remedy="use tiny, small, base_plus or large for video",
        )
    predictor: Any = sam_at(model, granularity)
    predictor.__class__ = SAM2VideoPredictor
    settings = {
        "fill_hole_area": 0,
        "non_overlap_masks": False,
        "clear_non_cond_mem_around_input": False,
        "add_all_frames_to_correct_as_cond": False,
        "binarize_mask_from_pts_for_mem_enc": model.sam.binarize_mask_from_pts_for_mem_enc,
    }
    unknown = sorted(set(options) - set(settings))
    if unknown:
        raise UserError(
            expected=f"options of SAM2VideoPredictor ({', '.join(settings)})",
            found=", ".join(unknown),
            remedy="correct the name",
        )
    for name, value in {**settings, **options}.items():
        setattr(predictor, name, value)
    return predictor


def _fit_frame(predictor: SAM2ImagePredictor, frame: int) -> None:
    # sam2 1.1.0 writes the feature sizes of a 1024 px frame into its predictor, whatever the model's frame is.
    predictor._bb_feat_sizes = [(frame // stride, frame // stride) for stride in (4, 8, 16)]
