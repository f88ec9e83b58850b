"""How long a training step, its loss and its clicks take on the CPU in float32, beside the reference's.

Next in the tour: `benchmarks/loader_speed.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from unsam_lightning.asking import Prompting
from unsam_lightning.batch import unpack_masks
from unsam_lightning.benchmarks.comparison import compare, report, verdict
from unsam_lightning.benchmarks.step_memory import StorageCounter, noise_batch
from unsam_lightning.benchmarks.train_account import OUR_STEPS, PAIRS_ALONE, OurStep, random_model, teacher_of
from unsam_lightning.benchmarks.train_references import ReferenceModel, copied, noise_clicks, reference_objective
from unsam_lightning.losses.pairs import PairTerms, pair_terms, pair_terms_in_frame
from unsam_lightning.model import UnSAM
from unsam_lightning.objective import training_objective
from unsam_lightning.prompts import correction_clicks
from unsam_lightning.views import STRIDE, TwoViews


def compare_steps(name: str, num_masks: int, prompting: Prompting, rounds: int) -> bool:
    """Time whole steps on one image and print; return whether both give the same loss and gradients.

    Args:
        name: Of the model's size; the weights are random.
        num_masks: Of the image.
        prompting: How ours are asked for; the reference takes the number of clicks from it.
        rounds: Turns of both.
    """
    reference, model = ReferenceModel(random_model(name, "official")), random_model(name, "default").train()
    batch = noise_batch(1, num_masks, model.image_size)
    masks = unpack_masks(batch.planes, num_masks)[0]
    fine, coarse = (TwoViews(model.image_size, None, with_planes)(batch) for with_planes in (True, False))
    index, granularity = torch.zeros(num_masks, dtype=torch.long), batch.granularity[0]
    loss, gradient = differences(reference, fine.first.images, masks, granularity)
    reference.train()

    def ours(step: OurStep, teacher: UnSAM | None) -> None:
        pair = fine if step.in_frame else coarse
        training_objective(model, pair, step.weights, prompting, teacher=teacher).loss.backward()

    def theirs() -> None:
        images, corrections = fine.first.images, prompting.num_corrections
        reference_objective(reference, images, masks, index, granularity, corrections).backward()

    clicks = f"(1 + {prompting.num_corrections}) clicks"
    print(f"T0, a step on the CPU, float32: {name} at {model.image_size} px, 1 image x {num_masks} masks x {clicks}")
    for step in OUR_STEPS:
        report(step.title, compare(partial(ours, step, teacher_of(model, step.weights)), theirs, rounds), 1.5)
    same_loss = verdict("loss at the same clicks and weights, relative", loss, 1e-5)
    return verdict("its gradient, relative", gradient, 1e-4) and same_loss


def differences(reference: ReferenceModel, images: Tensor, masks: Tensor, granularity: Tensor) -> tuple[float, float]:
    """Return the relative differences of loss and gradient at stride 4, ours to the reference's, without dropout.

    Args:
        reference: Put into eval mode; its LoRA is moved away from its start, where half of it has no gradient.
        images: float (1, 3, S, S) in [0, 1].
        masks: bool (P, S, S).
        granularity: (P,) in [0.1, 1].
    """
    model = reference.eval().model
    trained = [each for each in model.parameters() if each.requires_grad]
    for name, parameter in model.decoder.named_parameters():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(0))
    index = torch.zeros(len(masks), dtype=torch.long)
    embedding, small = model.encode(images), at_stride(masks)
    clicks, labels = noise_clicks(masks, torch.zeros_like(masks))
    previous, apart = None, []
    for _ in range(2):  # by a click alone, then with a mask prompt too
        answers = (
            model.decode(embedding, clicks, labels, granularity, masks=previous, image_index=index),
            reference.decode(copied(embedding, index), clicks, labels, granularity, previous),
        )
        losses = [PAIRS_ALONE.pairs(pair_terms(each.masks[:, 0], small, each.iou[:, 0])) for each in answers]
        gradients = []
        for each in losses:
            parts = torch.autograd.grad(each, trained, allow_unused=True, materialize_grads=True)
            gradients.append(torch.cat([part.flatten() for part in parts]))
        apart.append(torch.stack((_relative(*losses), _relative(*gradients))))
        previous = answers[1].masks.detach()
    loss, gradient = torch.stack(apart).amax(0).tolist()
    return loss, gradient


def _relative(ours: Tensor, reference: Tensor) -> Tensor:
    apart: Tensor = (ours - reference).detach().norm() / reference.detach().norm()
    return apart


def at_stride(masks: Tensor) -> Tensor:
    """Return masks (P, S / 4, S / 4) of masks (P, S, S), the pixels that plain views take."""
    small: Tensor = masks[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    return small


def compare_losses(num_masks: int, side: int, rounds: int) -> bool:
    """Time and print the pair loss and its gradient; return whether ours in the frame is the reference's."""
    batch = noise_batch(1, num_masks, side)
    masks = unpack_masks(batch.planes, num_masks)[0]
    small, image_index = at_stride(masks), torch.zeros(num_masks, dtype=torch.long)
    # A prediction of about the mask: blurred, and uncertain in blobs.
    blobs = torch.randn(1, num_masks, 16, 16, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(small.float(), 9, stride=1, padding=4)
    guess = 8 * blurred - 4 + 2 * interpolate(blobs, small.shape[1:], mode="bilinear", align_corners=False)[0]
    iou = torch.full((num_masks,), 0.5)

    def whole(logits: Tensor) -> PairTerms:
        large = interpolate(logits[None], masks.shape[1:], mode="bilinear", align_corners=False)[0]
        return pair_terms(large, masks, iou)

    def in_frame(logits: Tensor) -> PairTerms:
        return pair_terms_in_frame(logits, batch.planes, image_index, torch.arange(num_masks), iou)

    def coarse(logits: Tensor) -> PairTerms:
        return pair_terms(logits, small, iou)

    def measure(terms: Callable[[Tensor], PairTerms]) -> tuple[Tensor, Tensor]:
        logits = guess.clone().requires_grad_()
        loss = PAIRS_ALONE.pairs(terms(logits))
        return loss.detach(), torch.autograd.grad(loss, logits)[0]

    print(f"L1, the pair loss of {num_masks} masks and its gradient, {side} px, float32, eager")
    expected, apart, peaks = measure(whole), [], []
    for title, terms in ((f"ours, at {side} px", in_frame), (f"ours, at stride {STRIDE}", coarse)):
        report(title, compare(partial(measure, terms), partial(measure, whole), rounds), 2.5)
        apart.append([float(_relative(*values)) for values in zip(measure(terms), expected, strict=True)])
    for terms in (in_frame, coarse, whole):
        with StorageCounter() as counter:
            measure(terms)
        peaks.append(f"{counter.peak / 2**20:.0f} MiB")
    print(f"  memory at the peak: {peaks[0]} at {side} px, {peaks[1]} at stride {STRIDE}; reference {peaks[2]}")
    print(f"  at stride {STRIDE} loss and gradient are {100 * apart[1][0]:.2g} % and {100 * apart[1][1]:.2g} % off")
    return verdict(f"loss and gradient at {side} px, relative", max(apart[0]), 1e-5)


def compare_clicks(num_masks: int, side: int, rounds: int) -> bool:
    """Time correction clicks and print; return whether both draw from the same distribution."""
    masks = unpack_masks(noise_batch(1, num_masks, side).planes, num_masks)[0]
    small = at_stride(masks)
    logits = torch.randn(small.shape, generator=torch.Generator().manual_seed(0))
    large = interpolate(logits[None], masks.shape[1:], mode="bilinear", align_corners=False)[0] > 0
    ours = partial(correction_clicks, logits, small, None)
    print(f"clicks, one on an error of each of {num_masks} predictions")
    report(
        f"ours at stride {STRIDE}, the reference at {side} px",
        compare(ours, partial(noise_clicks, masks, large), rounds),
        12.0,
    )
    report(f"both at stride {STRIDE}", compare(ours, partial(noise_clicks, small, logits > 0), rounds), None)
    return verdict("where clicks fall, total variation", click_variation(), 0.05)


def click_variation(draws: int = 20_000) -> float:
    """Return half the sum over an 8 x 8 map of how far the shares of clicks are apart, ours and the reference's.

    Labels count as places; the same distribution gives about 0.02 for 20,000 draws on 20 wrong pixels.
    """
    mask, predicted = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[1:6, 1:5], predicted[2:7, 2:7] = True, True
    truth, guess = mask.expand(draws, -1, -1), predicted.expand(draws, -1, -1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (ours, our_labels), (theirs, their_labels) = (
            correction_clicks(guess.float() - 0.5, truth, None),
            noise_clicks(truth, guess),
        )
    ours = (ours - (STRIDE - 1) / 2) / STRIDE  # from the frame's pixels to the map's
    shares = []
    for clicks, labels in ((ours, our_labels), (theirs, their_labels)):
        place = (clicks[:, 0] @ torch.tensor([1.0, 8.0])).long() + 64 * labels[:, 0]
        shares.append(torch.bincount(place, minlength=128) / draws)
    return float((shares[0] - shares[1]).abs().sum() / 2)
