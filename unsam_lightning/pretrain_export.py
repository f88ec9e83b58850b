"""From a checkpoint of `pretrain` to the weights in the package: float16 safetensors, measured, with a card.

python -m unsam_lightning pretrain export runs/pretrain_nano/checkpoints/last.ckpt --hardware "one CPU core"

Next in the tour: `pretrain.py`.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unsam_lightning.aside import write_text_aside
from unsam_lightning.backbone import Base, build_sam
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.commands import CommandParser
from unsam_lightning.errors import UserError
from unsam_lightning.model import UnSAM
from unsam_lightning.one_image import image_tensor
from unsam_lightning.pretrain_passes import decode_all
from unsam_lightning.prompts import deepest_pixel
from unsam_lightning.sources import eval_dataset
from unsam_lightning.state_dicts import load_safely, load_strictly, read_state, write_safetensors

#: Prefix of the running average in a checkpoint of `pretrain`.
_AVERAGE = "average.module."


@dataclass(frozen=True, kw_only=True)
class OneClick:
    """Mean IoUs after one click at the deepest point of each mask.

    Args:
        num_masks: Masks that were asked for.
        best_of_three: The best of the three masks by true IoU.
        single: The single mask.
        own_choice: The one of the three with the highest predicted IoU.
    """

    num_masks: int
    best_of_three: float
    single: float
    own_choice: float


@torch.no_grad()
def one_click_iou(
    model: UnSAM, samples: Iterable[EvalSample], *, min_area_px: int = 0, prompts_per_pass: int = 32
) -> OneClick:
    """Return how well stock SAM-2 answers one click; masks are judged at the image's size, positive logits are inside.

    Args:
        model: In eval mode; its adapter is not used.
        samples: Images with their ground truth.
        min_area_px: Smaller masks are left out.
        prompts_per_pass: Clicks decoded at a time; bounds the memory.

    Raises:
        UserError: There is no mask to measure.
    """
    rows = []
    for sample in samples:
        masks = sample.masks[(sample.masks == 1).sum((1, 2)) >= max(1, min_area_px)]
        embedding = model.encode(image_tensor(sample.image, model.device))
        for first in range(0, len(masks), prompts_per_pass):
            truth = masks[first : first + prompts_per_pass]
            height, width = truth.shape[1:]
            scale = model.image_size / torch.tensor([width, height])
            clicks = (torch.tensor([deepest_pixel(mask == 1) for mask in truth]) + 0.5) * scale - 0.5
            index = torch.zeros(len(truth), dtype=torch.long, device=model.device)
            points = clicks[:, None].to(model.device)
            logits, iou, _ = decode_all(model.sam, embedding, index, points, torch.ones_like(points[..., 0]))
            true_iou = _ious(logits, torch.from_numpy(truth).to(model.device))  # (P, 4)
            own = true_iou[:, 1:].gather(1, iou[:, 1:].argmax(1, keepdim=True))[:, 0]
            rows.append(torch.stack((true_iou[:, 1:].amax(1), true_iou[:, 0], own)).cpu())
    if not rows:
        raise UserError(
            expected=f"masks of at least {max(1, min_area_px)} px", found="none", remedy="check the data set"
        )
    means = torch.cat(rows, 1).double().mean(1).tolist()
    count = sum(row.shape[1] for row in rows)
    return OneClick(num_masks=count, best_of_three=means[0], single=means[1], own_choice=means[2])


def _ious(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU (P, M) of logits (P, M, h, w), enlarged, with masks int8 (P, H, W), -1 ignored."""
    large = torch.nn.functional.interpolate(logits.float(), truth.shape[1:], mode="bilinear")
    inside = (large > 0) & (truth >= 0)[:, None]
    wanted = (truth == 1)[:, None]
    return (inside & wanted).sum((2, 3)) / (inside | wanted).sum((2, 3)).clamp(min=1)


def export_weights(checkpoint: Path, out: Path, architecture: str = "nano") -> tuple[str, int, str]:
    """Write the running average of a `pretrain` checkpoint as float16 safetensors; return its sha256, step and start.

    Raises:
        UserError: Not such a checkpoint, or of another architecture.
    """
    content = load_safely(checkpoint)
    numbers = content.get("state_dict", {}) if isinstance(content, dict) else {}
    state = {key.removeprefix(_AVERAGE): value for key, value in numbers.items() if key.startswith(_AVERAGE)}
    if not state or "global_step" not in content:
        raise UserError(
            expected=f"a checkpoint of `pretrain` at {checkpoint}",
            found="none of its running average",
            remedy="pass <run folder>/checkpoints/last.ckpt",
        )
    step = int(content["global_step"])
    load_strictly(build_sam(architecture), state, str(checkpoint))
    half = {name: value.half() for name, value in state.items()}
    write_safetensors(half, out, {"architecture": architecture, "steps": str(step)})
    return hashlib.sha256(out.read_bytes()).hexdigest(), step, str(content.get("start", "random weights"))


def load_exported(path: Path, architecture: str = "nano") -> UnSAM:
    """Return a model with exported weights, in eval mode."""
    sam, state = build_sam(architecture), read_state(path)
    load_strictly(sam, {name: value.float() for name, value in state.items()}, path.name)
    return UnSAM(Base(sam=sam.eval(), name=path.stem, sha256="")).eval()


@torch.no_grad()
def seconds_for_64_prompts(model: UnSAM, repeats: int = 5) -> float:
    """Return the shortest time to encode one image and decode 64 clicks on it."""
    image = torch.randint(0, 256, (1, 3, model.image_size, model.image_size), dtype=torch.uint8)
    points, best = torch.rand(64, 1, 2) * model.image_size, float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        model.decode(model.encode(image), points, torch.ones(64, 1), multimask=True)
        best = min(best, time.perf_counter() - start)
    return best


def main(args: list[str]) -> None:
    """Export a checkpoint, measure what was exported, write the card beside it."""
    parser = CommandParser("python -m unsam_lightning pretrain export", main.__doc__)
    parser.add_argument("checkpoint", type=Path, help="<run folder>/checkpoints/last.ckpt")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights" / "nano.safetensors")
    parser.add_argument("--sources", nargs="*", default=["data_manifests/scenes_test.yaml"], help="what to measure on")
    parser.add_argument("--max_images", type=int, help="of each source")
    parser.add_argument("--hardware", default="not stated", help="what it was trained on, for the card")
    options = parser.parse_args(args)
    digest, step, start = export_weights(options.checkpoint, options.out)
    model = load_exported(options.out)
    lines = [
        f"| {name} | {m.num_masks:,} | {m.best_of_three:.3f} | {m.single:.3f} | {m.own_choice:.3f} |"
        for name, m in measure(model, options.sources, options.max_images)
    ]
    text = _CARD.format(
        name=options.out.stem,
        size=options.out.stat().st_size / 1e6,
        numbers=sum(p.numel() for p in model.sam.parameters()),
        sha256=digest,
        step=step,
        start=start,
        command=shlex.join([str(options.checkpoint), "--sources", *options.sources]),
        hardware=options.hardware,
        seconds=seconds_for_64_prompts(model),
        threads=torch.get_num_threads(),
        rows="\n".join(lines),
    )
    write_text_aside(options.out.with_suffix(".md"), text)
    print(text)


def measure(model: UnSAM, sources: Iterable[str], max_images: int | None) -> Iterable[tuple[str, OneClick]]:
    """Yield the name and the result of each source file, for its masks of at least 100 px."""
    for source in sources:
        dataset = eval_dataset(source)
        count = min(len(dataset), max_images or len(dataset))
        yield (
            f"{dataset.name}, {count} images",
            one_click_iou(model, (dataset[i] for i in range(count)), min_area_px=100),
        )


_CARD = """# {name}: a small SAM-2 for laptops, tests and the quickstart

- Architecture: `unsam_lightning/architectures/nano.yaml`, stock classes of the sam2
  package, {numbers:,} parameters, 256 px.
- File: `{name}.safetensors`, float16, {size:.1f} MB, sha256 `{sha256}`.
- Data: scenes drawn by `unsam_lightning/scenes` (seeds below 1,000,000) and nothing else; Apache-2.0 like the package.
- Training: `python -m unsam_lightning pretrain --config experiments/pretrain_nano.yaml`, {step:,} steps
  from {start} on {hardware}; the running average of the weights is what is here.
- Export and numbers: `python -m unsam_lightning pretrain export {command}`.
- Speed: 64 clicks on one image, the encoder included: {seconds:.2f} s with {threads} thread(s).

One click at the deepest point of every ground-truth mask of at least 100 px, mean IoU over the masks:

| data | masks | best of three | single mask | own choice of three |
| --- | --- | --- | --- | --- |
{rows}

The aim is 0.70 (best of three) and 0.55 (single mask) on scenes, 0.48 (best of three) and 0.38 (own choice) on BSDS500
val.
"""
