"""From a checkpoint of `pretrain` to weights as the package has them: float16 safetensors, and the head of their card.

python -m unsam_lightning pretrain export runs/pretrain_nano/checkpoints/last.ckpt --hardware "one CPU core"

Next in the tour: `pretrain.py`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unsam_lightning.aside import write_text_aside
from unsam_lightning.backbone import Base, base_from_state
from unsam_lightning.commands import CommandParser
from unsam_lightning.errors import UserError
from unsam_lightning.manifest import sha256_file
from unsam_lightning.model import UnSAM
from unsam_lightning.state_dicts import load_safely, write_safetensors

#: Prefix of the running average in a checkpoint of `pretrain`.
_AVERAGE = "average.module."


def read_pretraining(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the running average of the weights in a checkpoint of `pretrain`, and what the run is.

    The latter has `NanoPretraining.origin`, `architecture`, the settings that a card names, and `steps`: those of this
    run.

    Raises:
        UserError: Not such a checkpoint, or a broken one.
    """
    content = load_safely(checkpoint)
    about = content.get("pretraining") if isinstance(content, dict) else None
    state = content.get("state_dict", {}) if isinstance(content, dict) else {}
    average = {key.removeprefix(_AVERAGE): value for key, value in state.items() if key.startswith(_AVERAGE)}
    if not about or not average:
        raise UserError(
            expected=f"a checkpoint of `pretrain` at {checkpoint}",
            found="none of its running average",
            remedy="pass <run folder>/checkpoints/last.ckpt",
        )
    return average, about | {"steps": int(content["global_step"])}


def export_weights(average: dict[str, Tensor], about: dict[str, Any], out: Path) -> Base:
    """Write what `read_pretraining` returned as float16 safetensors, with all steps that are in it; return the model.

    Raises:
        UserError: The weights are not finite in float16 or of another architecture; the name is no .safetensors.
    """
    if out.suffix != ".safetensors":
        raise UserError(expected="a name that ends in .safetensors", found=str(out), remedy="give another --out")
    half = {name: value.half() for name, value in average.items()}
    if broken := [name for name, value in half.items() if not value.isfinite().all()]:
        raise UserError(
            expected="finite weights", found=f"others in {', '.join(broken[:3])}", remedy="take an earlier checkpoint"
        )
    state = {name: value.float() for name, value in half.items()}
    base = base_from_state(state, name=out.stem, sha256="", config=about["architecture"])  # before anything is written
    steps = about["start"]["steps"] + about["steps"]
    write_safetensors(half, out, {"architecture": str(about["architecture"]), "steps": str(steps)})
    return base


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
    """Export a checkpoint, and write what it is into a card beside it."""
    parser = CommandParser("python -m unsam_lightning pretrain export", main.__doc__)
    parser.add_argument("checkpoint", type=Path, help="<run folder>/checkpoints/last.ckpt")
    parser.add_argument("--out", type=Path, help="<run folder>/<architecture>.safetensors unless told")
    parser.add_argument("--hardware", default="hardware that was not stated", help="for the card")
    options = parser.parse_args(args)
    average, about = read_pretraining(options.checkpoint)
    out = options.out or options.checkpoint.parent.parent / f"{Path(about['architecture']).stem}.safetensors"
    model = UnSAM(export_weights(average, about, out)).eval()
    start = about["start"]
    origin = start["weights"] + (f" (sha256 `{start['sha256']}`, {start['steps']:,} steps)" if start["sha256"] else "")
    text = _CARD.format(
        name=out.stem,
        architecture=about["architecture"],
        parameters=sum(p.numel() for p in model.sam.parameters()),
        image_size=model.image_size,
        size=out.stat().st_size / 1e6,
        sha256=sha256_file(out),
        steps=start["steps"] + about["steps"],
        phases=", ".join(f"{phase['steps']:,} at {phase['frame']} px" for phase in about["phases"]),
        origin=origin,
        hardware=options.hardware,
        checkpoint=options.checkpoint,
        out=out,
        seconds=seconds_for_64_prompts(model),
        threads=torch.get_num_threads(),
        **{name: about[name] for name in ("first_image", "seed", "batch_size", "num_prompts", "lr", "decay_share")},
    )
    write_text_aside(out.with_suffix(".md"), text)
    print(text)


_CARD = """# {name}: a pre-trained SAM-2

- Architecture: {architecture}, stock classes of the sam2 package, {parameters:,} parameters, {image_size} px.
- File: `{name}.safetensors`, float16, {size:.1f} MB, sha256 `{sha256}`.
- Data: scenes drawn by `unsam_lightning/scenes` (seeds below 1,000,000) and nothing else; Apache-2.0 like the package.
- Training: `python -m unsam_lightning pretrain`, {steps:,} steps, on {hardware}; the running average of the weights
  is what is here. The last run: {phases}, {batch_size} images x {num_prompts} prompts each, from scene {first_image:,}
  on, seed {seed}, learning rate {lr:g}, falling to 0 over the last {decay_share:.0%}. It started from {origin}.
- Export: `python -m unsam_lightning pretrain export {checkpoint}`.
- Speed: 64 clicks on one image, the encoder included: {seconds:.2f} s with {threads} thread(s).

Its masks are measured by `python -m unsam_lightning test --config experiments/nano_card.yaml --model.backbone {out}
--model.backbone_config {architecture}`.
"""
