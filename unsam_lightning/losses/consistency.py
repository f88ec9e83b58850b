"""Cross-view consistency: the same click and granularity in another view of the image give the same mask.

The prediction in one view, carried through the known warp and without gradients, teaches the prediction in the other,
where both views see the image and the teacher is sure:

    loss = mean over prompts of  BCE(student, teacher > 0) + dice(student, teacher > 0),  over the pixels that take part

Source: ours. Hard decisions of an averaged teacher, kept where it is confident, as in FixMatch (arXiv 2001.07685) and
Mean Teacher (arXiv 1703.01780). Next in the tour: `losses/contrast.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unsam_lightning.losses.pairs import dice_loss


def consistency_loss(
    student_logits: Tensor, teacher_logits: Tensor, both_see: Tensor, confidence: float = 0.7
) -> Tensor:
    """Return the disagreement of two views, a number.

    Args:
        student_logits: (P, h, w), in the student's view, with gradients.
        teacher_logits: (P, h, w), already warped into the student's view; gradients are cut here.
        both_see: bool (P, h, w): both views show the image at this pixel.
        confidence: Pixels take part where the teacher's probability of its own decision is at least this; not tuned.

    Returns:
        Binary cross-entropy with the teacher's decision plus dice, over the pixels that take part, averaged over the
        prompts whose teacher sees an object and something around it: a teacher that says "nothing" or "object"
        everywhere teaches nothing, so a constant answer does not lower the loss. A zero that carries a gradient where
        no prompt takes part.
    """
    student, teacher = student_logits.flatten(1).float(), teacher_logits.detach().flatten(1).float()
    decision = (teacher > 0).float()
    sure = torch.maximum(teacher.sigmoid(), 1 - teacher.sigmoid()) >= confidence
    weight = (sure & both_see.flatten(1)).float()  # (P, h w)
    inside, total = (weight * decision).sum(1), weight.sum(1)
    taught = (inside > 0) & (inside < total)
    if not bool(taught.any()):
        return student.sum() * 0.0
    student, decision, weight = student[taught], decision[taught], weight[taught]
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(student, decision, reduction="none")
    pixelwise = (cross_entropy * weight).sum(1) / weight.sum(1)
    # Pixels that do not take part count as "outside" on both sides, which adds nothing to the dice.
    hidden = torch.finfo(student.dtype).min
    overlap = dice_loss(student.masked_fill(weight == 0, hidden), decision * weight)
    return (pixelwise + overlap).mean()
