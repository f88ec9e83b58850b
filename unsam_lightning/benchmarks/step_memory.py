"""How much memory a training step holds at its peak, counted tensor by tensor, without a GPU and without weights.

    python -m unsam_lightning.benchmarks.step_memory --model small --images 2 --masks 30 --corrections 3

The very step of `fit` runs on the CPU in float32, on noise and random weights, and every storage that an operation
makes is counted from its birth to its end. A GPU adds its context, scratch of its kernels and the slack of its
allocator; mixed precision takes less. Next in the tour: `benchmarks/op_count.py`.
"""

from __future__ import annotations

import argparse
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.asking import Prompting
from unsam_lightning.backbone import Base, build_sam
from unsam_lightning.batch import Batch, pack_masks
from unsam_lightning.errors import exit_with_one_line
from unsam_lightning.model import UnSAM
from unsam_lightning.objective import LossWeights, training_objective
from unsam_lightning.views import TwoViews

#: The three losses.
ALL_TERMS = LossWeights(consistency=0.5, contrast=0.1)


class StorageCounter(TorchDispatchMode):
    """Counts the bytes of all storages that operations make while it is active.

    Args:
        already: Tensors that are there from the start.

    Attributes:
        held: Bytes alive now.
        peak: The most that were alive at once.
    """

    def __init__(self, already: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.held = 0
        self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        for tensor in already:
            self._count(tensor)

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known[storage] = None
        size = int(storage.nbytes())
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.held -= size


def noise_batch(num_images: int, num_masks: int, side: int, seed: int = 0) -> Batch:
    """Return images of noise with rectangles as masks, as `collate` would."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num_images, num_masks, 2, generator=generator) * 0.5
    size = 0.1 + 0.4 * torch.rand(num_images, num_masks, 2, generator=generator)
    place = (torch.arange(side) + 0.5) / side
    inside = (place > corner[..., None]) & (place < (corner + size)[..., None])  # (B, N, 2, side)
    masks = inside[..., 1, :, None] & inside[..., 0, None, :]
    return Batch(
        images=torch.randint(0, 256, (num_images, 3, side, side), generator=generator).byte(),
        planes=torch.stack([torch.from_numpy(pack_masks(image.numpy())) for image in masks]),
        granularity=0.1 + 0.9 * torch.rand(num_images, num_masks, generator=generator),
        valid=torch.ones(num_images, num_masks, dtype=torch.bool),
        click_from=torch.arange(num_masks).expand(num_images, -1),
        keys=[str(number) for number in range(num_images)],
        seed=seed,
    )


def peak_of_step(model: UnSAM, batch: Batch, weights: LossWeights, prompting: Prompting) -> int:
    """Return the bytes that one training step holds at its peak, model, views and optimizer included."""
    pair = TwoViews(model.image_size, None, with_planes=True)(batch)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    views = [each for view in (pair.first, pair.other) for each in (view.images, view.masks, view.planes)]
    there = [each for each in views if each is not None]
    with StorageCounter((*model.parameters(), *model.buffers(), *there)) as counter:
        result = training_objective(model, pair, weights, prompting, torch.Generator().manual_seed(0))
        result.loss.backward()
        optimizer.step()
    return int(counter.peak)


def main(args: list[str] | None = None) -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(prog="python -m unsam_lightning.benchmarks.step_memory", description=__doc__)
    parser.add_argument("--model", default="small", help="nano, tiny, small, base_plus, large; with random weights")
    parser.add_argument("--adapter", default="default", help="default, official or compact")
    parser.add_argument("--images", type=int, default=2, help="on one device")
    parser.add_argument("--masks", type=int, default=30, help="of each image")
    parser.add_argument("--corrections", type=int, default=3)
    parser.add_argument("--prompts_per_pass", type=int, nargs="+", default=[8], help="0: all at once")
    options = parser.parse_args(args)
    with exit_with_one_line():
        base = Base(sam=build_sam(options.model), name=options.model, sha256="")
        model = UnSAM(base, AdapterConfig.preset(options.adapter)).train()
    batch = noise_batch(options.images, options.masks, model.image_size)
    print(f"{model.size_report()}; {options.images} images x {options.masks} masks, 1 + {options.corrections} clicks")
    for number in options.prompts_per_pass:
        prompting = Prompting(num_corrections=options.corrections, prompts_per_pass=number or None)
        start = time.perf_counter()
        peak = peak_of_step(model, batch, ALL_TERMS, prompting)
        seconds = time.perf_counter() - start
        print(
            f"prompts_per_pass {number or 'all'}: {peak / 2**30:.2f} GiB at the peak; {seconds:.0f} s here", flush=True
        )


if __name__ == "__main__":
    main()
