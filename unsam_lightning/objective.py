"""The training objective: the views of a batch go through the model and become the losses.

Pure functions: a test, a benchmark and `UnSAMModule.training_step` call the same `training_objective`.
Next in the tour: `metrics/clicker.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from unsam_lightning.asking import Asked, Prompting, ask_by_box, ask_by_click, ask_in_second_view, shared_clicks
from unsam_lightning.decoder import Decoded, Embedding
from unsam_lightning.errors import UserError
from unsam_lightning.losses.consistency import consistency_loss
from unsam_lightning.losses.contrast import Contrast, OtherView, patch_contrast_loss, sibling_zones
from unsam_lightning.losses.order import order_loss
from unsam_lightning.losses.pairs import PairTerms, pair_terms, pair_terms_in_frame
from unsam_lightning.model import UnSAM
from unsam_lightning.views import ViewPair, warp_maps


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of each term. 0 switches a term off and saves its cost, of the three pair terms where all are 0.

    Args:
        focal: Focal loss of the granularity pairs.
        dice: Dice loss of the pairs.
        iou: L1 error of the predicted IoU.
        consistency: Cross-view consistency; 0.5 is usual. Off, as contrast: experiments/README.md says what they gave.
        contrast: Patch contrast; 0.1 is usual.
        order: Finer masks inside coarser ones of the same click; needs `--data.sampling paired`.
    """

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    consistency: float = 0.0
    contrast: float = 0.0
    order: float = 0.0

    def __post_init__(self) -> None:
        negative = [f"{name} {value:g}" for name, value in asdict(self).items() if not value >= 0]
        if negative:
            raise UserError(
                expected="weights of the losses of at least 0",
                found=", ".join(negative),
                remedy="see --model.losses.* in `fit --help`; 0 switches a term off",
            )

    @property
    def has_pairs(self) -> bool:
        """Whether any of the pair terms counts."""
        return self.focal + self.dice + self.iou > 0

    def pairs(self, terms: PairTerms) -> Tensor:
        """Return the weighted sum of the pair terms."""
        return self.focal * terms.focal + self.dice * terms.dice + self.iou * terms.iou


@dataclass(slots=True)
class StepResult:
    """What one step gives.

    Args:
        loss: The weighted sum, with gradients.
        terms: For the log, detached: "loss_pairs", the weighted pair loss of all answers; "loss_focal", "loss_dice" and
            "loss_iou" of the first answers, "loss_consistency", "loss_contrast" and "loss_order": unweighted.
        num_masks: Masks that took part.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    num_masks: int


def training_objective(
    model: UnSAM,
    pair: ViewPair,
    weights: LossWeights,
    prompting: Prompting,
    generator: torch.Generator | None = None,
    teacher: UnSAM | None = None,
    contrast: Contrast = Contrast(),  # noqa: B008 - frozen, and the signature is where defaults live
) -> StepResult:
    """Return the losses on the views of a batch.

    The masks that all its views show take part. In the first view each is asked for by a click (or a box) and its
    granularity, then corrected; the teacher's answer to the same also teaches the second view, and the pixel embeddings
    of the first answer are what patch contrast sharpens.

    Args:
        model: On the views' device.
        pair: The views; the second is needed for the consistency alone.
        weights: Of the terms.
        prompting: How the masks are asked for.
        generator: Source of the clicks; the global one by default.
        teacher: Answers in the first view for the consistency, without gradients; the model itself by default.
        contrast: Where patches are contrasted, and how sharply.
    """
    image_index, mask_index = pair.valid.nonzero().unbind(1)  # (P,) each
    masks = pair.first.masks[image_index, mask_index]  # (P, h, w)
    # A pure function of the batch, drawn on the host: all prompts of a batch have the same number of points.
    by_box = bool(np.random.default_rng(pair.seed).random() < prompting.box_share)
    asked, click_number = _ask(pair, masks, by_box, prompting, generator)
    first, second = _encode(model, pair, both=weights.consistency > 0)
    answer = asked.decode(model, first, prompts_per_pass=prompting.prompts_per_pass, with_pixels=weights.contrast > 0)

    def terms_of(decoded: Decoded) -> PairTerms:
        if pair.first.planes is None:
            return pair_terms(decoded.masks[:, 0], masks, decoded.iou[:, 0])
        return pair_terms_in_frame(decoded.masks[:, 0], pair.first.planes, image_index, mask_index, decoded.iou[:, 0])

    counted = prompting.counted(pair.seed) if weights.has_pairs else []
    corrected = _corrections(model, first, asked, answer, masks, prompting, generator, counted)
    pairs = [terms_of(each) for each in (answer, *corrected)]
    loss = prompting.mean(torch.stack([weights.pairs(each) for each in pairs]))
    terms = {f"loss_{name}": value for name, value in pairs[0]._asdict().items()} | {"loss_pairs": loss}
    other = None
    if second is not None:
        there, keep = ask_in_second_view(pair, asked, mask_index, by_box)
        student = there.decode(model, second, None, prompting.prompts_per_pass, with_pixels=weights.contrast > 0)
        taught = answer.masks if teacher is None else _taught(teacher, first, asked, prompting)
        terms["loss_consistency"] = _consistency(pair, there.image_index, student, taught[keep])
        loss = loss + weights.consistency * terms["loss_consistency"]
        if student.pixels is not None:
            other = OtherView(student.pixels, pair.other.masks[there.image_index, mask_index[keep]], keep)
    if answer.pixels is not None:
        siblings = sibling_zones(pair.first.masks, pair.valid)[image_index, mask_index]
        seen = pair.first.seen[image_index]
        terms["loss_contrast"] = patch_contrast_loss(answer.pixels, masks, seen, generator, contrast, siblings, other)
        loss = loss + weights.contrast * terms["loss_contrast"]
    if weights.order > 0:
        terms["loss_order"] = order_loss(answer.masks[:, 0], asked.granularity, click_number)
        loss = loss + weights.order * terms["loss_order"]
    return StepResult(loss, {name: value.detach() for name, value in terms.items()}, len(masks))


def _ask(
    pair: ViewPair,
    masks: Tensor,
    by_box: bool,
    prompting: Prompting,
    generator: torch.Generator | None,
) -> tuple[Asked, Tensor]:
    """Return the first prompts of the valid masks, and numbers (P,) that those have in common which share a click."""
    valid = pair.valid
    image_index, granularity = valid.nonzero()[:, 0], pair.granularity[valid]
    if by_box:
        return ask_by_box(image_index, masks, granularity), torch.arange(len(masks), device=masks.device)
    clicks, click_number = shared_clicks(pair, valid, prompting.sampler, generator)
    return ask_by_click(image_index, clicks, granularity), click_number


def _corrections(
    model: UnSAM,
    embedding: Embedding,
    asked: Asked,
    answer: Decoded,
    masks: Tensor,
    prompting: Prompting,
    generator: torch.Generator | None,
    counted: list[bool],
) -> list[Decoded]:
    """Return the answers that count after each correction click; the logits before it are the mask prompt."""
    answers = []
    for counts in counted:
        previous = answer.masks.detach()
        asked = asked.corrected(previous, masks, generator, prompting.sampler)
        with torch.set_grad_enabled(counts and torch.is_grad_enabled()):
            answer = asked.decode(model, embedding, previous, prompting.prompts_per_pass)
        if counts:
            answers.append(answer)
    return answers


@torch.no_grad()
def _taught(teacher: UnSAM, embedding: Embedding, asked: Asked, prompting: Prompting) -> Tensor:
    return asked.decode(teacher, embedding, prompts_per_pass=prompting.prompts_per_pass).masks


def _consistency(pair: ViewPair, image_index: Tensor, student: Decoded, teacher: Tensor) -> Tensor:
    """Return the consistency loss of the second view's answers with the first's logits (P, 1, h, w)."""
    # The second channel follows the first view's own pixels: where it is not 1, the first view did not see.
    shown = pair.first.seen[image_index, None].float()
    warped = warp_maps(torch.cat((teacher.detach(), shown), 1), pair.warp()[image_index])
    both_see = (warped[:, 1] > 0.99) & pair.other.seen[image_index]
    return consistency_loss(student.masks[:, 0], warped[:, 0], both_see)


def _encode(model: UnSAM, pair: ViewPair, both: bool) -> tuple[Embedding, Embedding | None]:
    """Return the embeddings of the first view's images and of the second's, in one pass of the frozen encoder."""
    if not both:
        return model.encode(pair.first.images), None
    together = model.encode(torch.cat((pair.first.images, pair.other.images)))
    half = len(pair.first.images)
    first, second = (
        Embedding(together.image[part], (together.high_res[0][part], together.high_res[1][part]))
        for part in (slice(half), slice(half, None))
    )
    return first, second
