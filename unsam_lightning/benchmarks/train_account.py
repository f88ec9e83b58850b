"""What a training step and a decoder pass ask of a device, ours and the reference's, counted on fake tensors.

The mixed precision is that of a GPU: autocast to bfloat16, with a GPU's exceptions. Attention by PyTorch's own function
counts as one kernel. The optimizer, the teacher's average and the making of the views are left out. Next in the tour:
`benchmarks/step_speed.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.asking import Prompting
from unsam_lightning.backbone import Base, build_sam
from unsam_lightning.batch import BITS
from unsam_lightning.benchmarks.op_count import CastsOfGpu, ForetoldValues, OpCounter
from unsam_lightning.benchmarks.step_memory import ALL_TERMS
from unsam_lightning.benchmarks.train_references import ReferenceModel, copied, reference_objective
from unsam_lightning.model import UnSAM
from unsam_lightning.objective import LossWeights, training_objective
from unsam_lightning.teacher import Teacher, Teaching
from unsam_lightning.views import STRIDE, View, ViewPair

#: The official objective: granularity pairs alone.
PAIRS_ALONE = LossWeights()


class OurStep(NamedTuple):
    """What a step of ours computes.

    Args:
        title: For the reader.
        weights: Of the terms; those of weight 0 are not computed.
        in_frame: The pair loss is measured at every pixel of the frame, or at stride 4.
    """

    title: str
    weights: LossWeights
    in_frame: bool


OUR_STEPS = (
    OurStep("the reference's objective", PAIRS_ALONE, True),
    OurStep("with its loss at stride 4", PAIRS_ALONE, False),
    OurStep("all three losses", ALL_TERMS, True),
)


def random_model(name: str, adapter: str) -> UnSAM:
    """Return a model of a named size with random weights and a preset adapter."""
    return UnSAM(Base(sam=build_sam(name), name=name, sha256=""), AdapterConfig.preset(adapter))


def count_our_step(name: str, num_images: int, num_masks: int, step: OurStep, prompting: Prompting) -> OpCounter:
    """Return the counts of `training_objective` and its backward pass, default adapter.

    Args:
        name: Of the model's size.
        num_images: B.
        num_masks: Of each image.
        step: What is computed.
        prompting: How masks are asked for.
    """
    model = random_model(name, "default").train()
    teacher, counter = teacher_of(model, step.weights), OpCounter()
    with _without_numbers(nn.ModuleList([model] if teacher is None else [model, teacher])), counter:
        pair = _empty_pair(num_images, num_masks, model.image_size, step.in_frame)
        with torch.autocast("cpu", torch.bfloat16):
            loss = training_objective(model, pair, step.weights, prompting, teacher=teacher).loss
        loss.backward()
    return counter


def teacher_of(model: UnSAM, weights: LossWeights) -> UnSAM | None:
    """Return the teacher that `fit` has by default, where the consistency is trained at all."""
    return Teacher(model, Teaching().decay).model if weights.consistency > 0 else None


def count_reference_step(name: str, num_images: int, num_masks: int, num_corrections: int) -> OpCounter:
    """Return the counts of `reference_objective` and its backward pass; arguments as above."""
    reference = ReferenceModel(random_model(name, "official")).train()
    side, count = reference.model.image_size, num_images * num_masks
    counter = OpCounter()
    with _without_numbers(reference), counter:
        images, masks = torch.empty(num_images, 3, side, side), torch.empty(count, side, side, dtype=torch.bool)
        index, granularity = torch.empty(count, dtype=torch.long), torch.empty(count)
        with torch.autocast("cpu", torch.bfloat16):
            loss = reference_objective(reference, images, masks, index, granularity, num_corrections)
        loss.backward()
    return counter


@torch.no_grad()
def count_decode(name: str, num_points: int) -> tuple[OpCounter, OpCounter]:
    """Return the counts, ours and the reference's, of so many clicks on one image: a decoder pass in float32."""
    reference = ReferenceModel(random_model(name, "official")).eval()
    model, side = reference.model, reference.model.image_size
    with _without_numbers(reference):
        embedding = model.encode(torch.empty(1, 3, side, side))
        clicks, labels = torch.empty(num_points, 1, 2), torch.empty(num_points, 1, dtype=torch.long)
        granularity, index = torch.empty(num_points), torch.empty(num_points, dtype=torch.long)
        with OpCounter() as ours:
            model.decode(embedding, clicks, labels, granularity, image_index=index)
        with OpCounter() as theirs:
            reference.decode(copied(embedding, index), clicks, labels, granularity, None)
    return ours, theirs


@contextlib.contextmanager
def _without_numbers(model: nn.Module) -> Iterator[None]:
    """Take the numbers from a model's parameters and buffers, for good, and let all tensors made inside have none."""
    # What modules hold beside these, such as cached positions, is made fake where it is used.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes: dict[int, nn.Parameter] = {}  # parameters that modules share stay shared
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = nn.Parameter(mode.from_tensor(parameter.detach()), requires_grad=parameter.requires_grad)
            module._parameters[name] = fakes.setdefault(id(parameter), fake)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = mode.from_tensor(buffer)
    with mode, ForetoldValues(), CastsOfGpu():
        yield


def _empty_pair(num_images: int, num_masks: int, side: int, with_planes: bool) -> ViewPair:
    """Return two views as fake tensors."""
    size = side // STRIDE

    def flags(*shape: int) -> Tensor:
        return torch.empty(num_images, *shape, dtype=torch.bool)

    def view() -> View:
        return View(
            images=torch.empty(num_images, 3, side, side),
            masks=flags(num_masks, size, size),
            valid=flags(num_masks),
            seen=flags(size, size),
            matrix=torch.empty(num_images, 3, 3),
        )

    first = view()
    if with_planes:
        first.planes = torch.empty(num_images, -(-num_masks // BITS), side, side, dtype=torch.int32)
    return ViewPair(
        first=first,
        second=view(),
        granularity=torch.empty(num_images, num_masks),
        click_from=torch.empty(num_images, num_masks, dtype=torch.long),
        keys=[str(number) for number in range(num_images)],
        seed=0,
    )
