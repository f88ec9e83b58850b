"""The training objective: two views of a batch go through the model and become the three losses.

Pure functions: a test, a benchmark and `UnSAMModule.training_step` call the same `training_objective`.
Next in the tour: `metrics/clicker.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unsam_lightning.decoder import Decoded, Embedding
from unsam_lightning.losses.consistency import consistency_loss
from unsam_lightning.losses.contrast import patch_contrast_loss
from unsam_lightning.losses.pairs import PairTerms, pair_terms
from unsam_lightning.model import UnSAM
from unsam_lightning.prompts import correction_clicks, first_clicks, propagate_clicks
from unsam_lightning.views import ViewPair, warp_maps


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of each term; 0 switches a term off and costs nothing.

    Args:
        focal: Focal loss of the granularity pairs.
        dice: Dice loss of the pairs.
        iou: L1 error of the predicted IoU.
        consistency: Cross-view consistency.
        contrast: Patch contrast.
    """

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    consistency: float = 0.5
    contrast: float = 0.1

    def pairs(self, terms: PairTerms) -> Tensor:
        """Return the weighted sum of the pair terms."""
        return self.focal * terms.focal + self.dice * terms.dice + self.iou * terms.iou


@dataclass(slots=True)
class StepResult:
    """What one step gives.

    Args:
        loss: The weighted sum, with gradients.
        terms: "loss_pairs", "loss_consistency", ...: unweighted values for the log, detached.
        num_masks: Masks that took part.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    num_masks: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """P prompts on the images of a batch.

    Args:
        image_index: int64 (P,).
        clicks: float32 (P, K, 2), pixels of the view.
        labels: int64 (P, K).
        granularity: float32 (P,).
    """

    image_index: Tensor
    clicks: Tensor
    labels: Tensor
    granularity: Tensor

    def decode(
        self, model: UnSAM, embedding: Embedding, previous: Tensor | None = None, prompts_per_pass: int | None = None
    ) -> Decoded:
        """Return the model's answer; `previous` logits are the mask prompt.

        With `prompts_per_pass`, only the answers are kept for the backward pass, which computes everything else again
        for so many prompts at a time.
        """

        def decode(part: slice) -> Decoded:
            return model.decode(
                embedding,
                self.clicks[part],
                self.labels[part],
                self.granularity[part],
                masks=None if previous is None else previous[part],
                image_index=self.image_index[part],
            )

        count = len(self.image_index)
        if prompts_per_pass is None or prompts_per_pass >= count:
            return decode(slice(None))
        parts = [slice(first, first + prompts_per_pass) for first in range(0, count, prompts_per_pass)]
        answers = [checkpoint(decode, part, use_reentrant=False) for part in parts]
        return Decoded(*(torch.cat(values) for values in zip(*answers, strict=True)))

    def corrected(self, previous: Tensor, masks: Tensor, generator: torch.Generator | None) -> _Asked:
        """Return these prompts with one more click each, where the previous logits (P, 1, h, w) are wrong."""
        clicks, labels = correction_clicks(previous[:, 0], masks, generator)
        clicks, labels = torch.cat((self.clicks, clicks), 1), torch.cat((self.labels, labels), 1)
        return _Asked(self.image_index, clicks, labels, self.granularity)


def training_objective(
    model: UnSAM,
    pair: ViewPair,
    weights: LossWeights,
    num_corrections: int,
    generator: torch.Generator | None = None,
    prompts_per_pass: int | None = None,
) -> StepResult:
    """Return the three losses on two views of a batch.

    The masks that both views show take part. In the first view each is asked for by a click and its granularity, then
    corrected; the first answer also teaches the second view and gives the embeddings of the patch contrast.

    Args:
        model: On the views' device.
        pair: The views.
        weights: Of the terms.
        num_corrections: Correction clicks after the first, each a decoder pass with the previous mask.
        generator: Source of the clicks; the global one by default.
        prompts_per_pass: Bounds the memory of the backward pass, see `_Asked.decode`; None keeps everything.
    """
    image_index, mask_index = (pair.first.valid & pair.second.valid).nonzero().unbind(1)  # (P,) each
    masks = pair.first.masks[image_index, mask_index]  # (P, h, w)
    clicks = first_clicks(masks, generator)  # (P, 1, 2)
    labels = torch.ones(clicks.shape[:2], dtype=torch.long, device=clicks.device)
    asked = _Asked(image_index, clicks, labels, pair.granularity[image_index, mask_index])
    # One pass of the frozen encoder for both views.
    first, second = _halves(model.encode(torch.cat((pair.first.images, pair.second.images))))
    answer = asked.decode(model, first, prompts_per_pass=prompts_per_pass)
    pairs = [_terms(answer, masks)]
    again, previous = asked, answer.masks.detach()
    for _ in range(num_corrections):
        again = again.corrected(previous, masks, generator)
        corrected = again.decode(model, first, previous, prompts_per_pass)
        pairs.append(_terms(corrected, masks))
        previous = corrected.masks.detach()
    loss = torch.stack([weights.pairs(each) for each in pairs]).mean()
    terms = {f"loss_{name}": value for name, value in pairs[0]._asdict().items()} | {"loss_pairs": loss}
    if weights.consistency > 0:
        terms["loss_consistency"] = _consistency(model, second, pair, asked, answer, prompts_per_pass)
        loss = loss + weights.consistency * terms["loss_consistency"]
    if weights.contrast > 0:
        assert answer.pixels is not None
        terms["loss_contrast"] = patch_contrast_loss(answer.pixels, masks, pair.first.seen[image_index], generator)
        loss = loss + weights.contrast * terms["loss_contrast"]
    return StepResult(loss, {name: value.detach() for name, value in terms.items()}, len(masks))


def _terms(answer: Decoded, masks: Tensor) -> PairTerms:
    return pair_terms(answer.masks[:, 0], masks, answer.iou[:, 0])


def _consistency(
    model: UnSAM,
    second: Embedding,
    pair: ViewPair,
    asked: _Asked,
    teacher: Decoded,
    prompts_per_pass: int | None,
) -> Tensor:
    """Return the consistency loss: prompts go through the warp to the second view, and so does the teacher's mask."""
    matrix = pair.warp()[asked.image_index]
    moved, is_visible = propagate_clicks(asked.clicks, matrix, pair.second.seen[asked.image_index])
    keep = is_visible.nonzero()[:, 0]
    index = asked.image_index[keep]
    there = _Asked(index, moved[keep], asked.labels[keep], asked.granularity[keep])
    student = there.decode(model, second, prompts_per_pass=prompts_per_pass)
    # The second channel follows the first view's own pixels: where it is not 1, the first view did not see.
    shown = pair.first.seen[index, None].float()
    warped = warp_maps(torch.cat((teacher.masks.detach()[keep], shown), 1), matrix[keep])
    both_see = (warped[:, 1] > 0.99) & pair.second.seen[index]
    return consistency_loss(student.masks[:, 0], warped[:, 0], both_see)


def _halves(both: Embedding) -> tuple[Embedding, Embedding]:
    """Return the embeddings of the first and of the second half of the images."""
    half = len(both.image) // 2
    first, second = (
        Embedding(both.image[part], (both.high_res[0][part], both.high_res[1][part]))
        for part in (slice(half), slice(half, None))
    )
    return first, second
