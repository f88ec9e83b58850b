"""`export`: a tuned model in the layout that another program reads.

    python -m unsam_lightning export CKPT --layout adapter --out mine.ckpt              # ours, to pass on
    python -m unsam_lightning export CKPT --layout unsamv2 --out mine.pt                # for the official UnSAMv2 code
    python -m unsam_lightning export CKPT --layout sam2 --granularity 0.3 --out mine.pt # for whatever runs SAM-2; 1.0

Next in the tour: `__main__.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unsam_lightning.backbone import Base
from unsam_lightning.checkpoint import adapter_state, refuse_merged
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import MAX_GRANULARITY, SWEEP, check_granularity
from unsam_lightning.lora import LoRALinear
from unsam_lightning.model import UnSAM
from unsam_lightning.one_image import image_tensor
from unsam_lightning.scenes import FIRST_TEST_SEED, make_scene
from unsam_lightning.state_dicts import OFFICIAL_LORA_SCALE, join_official, write_checkpoint, write_safetensors

#: Layout -> suffixes of the file that holds it.
LAYOUTS = {"adapter": (".ckpt",), "unsamv2": (".pt", ".safetensors"), "sam2": (".pt", ".safetensors")}
#: Clicks on each side of the grid on which `agreement` compares.
_GRID = 4


def export(model: UnSAM, layout: str, out: Path, granularity: float | None = None) -> list[str]:
    """Write a tuned model in a layout; return notes, one line each, on what it cannot hold.

    Args:
        model: Tuned, in eval mode, LoRA not merged.
        layout: A key of `LAYOUTS`. "adapter": our checkpoint, without optimizer and loop: what `test`, `validate` and
            `--model.backbone` take, and training cannot go on from. "unsamv2": the official layout, {"model": state
            dict}; exact masks, under a dial without our calibration, whose map is among the notes. "sam2": stock SAM-2
            at one granularity, see `sam2_state`.
        out: File to write, with one of the layout's suffixes; whole under its name or not there.
        granularity: In [0.1, 1], for "sam2" and only there; 1.0, the whole object, by default.

    Raises:
        UserError: Unknown layout, wrong suffix, a granularity out of range or without a meaning, an adapter that is
            new, that the layout cannot hold or whose LoRA is merged, a file that cannot be written.
    """
    if layout not in LAYOUTS or out.suffix not in LAYOUTS[layout]:
        raise UserError(
            expected="; ".join(f"--layout {name} with --out *{' or *'.join(ends)}" for name, ends in LAYOUTS.items()),
            found=f"--layout {layout} with --out {out.name}",
            remedy="change one of the two",
        )
    if granularity is not None and layout != "sam2":
        raise UserError(
            expected="a granularity with --layout sam2, where it is fixed, and only there",
            found=f"{granularity:g} with --layout {layout}",
            remedy="remove --granularity",
        )
    refuse_merged(model)
    if not model.is_tuned:
        raise UserError(
            expected="a tuned model to export",
            found=f"a new adapter on {model.base_name}, which gives about SAM's own masks at any granularity",
            remedy="pass a checkpoint of `fit`; a model that your own code has trained: set model.is_tuned",
        )
    if layout == "adapter":
        # Lightning loads no checkpoint without its own version, and the tables name the step.
        known = {"global_step": model.trained_steps, "pytorch-lightning_version": version("lightning")}
        write_checkpoint(adapter_state(model) | known, out)
        return []
    if layout == "unsamv2":
        state, notes = unsamv2_state(model)
    else:
        granularity = MAX_GRANULARITY if granularity is None else granularity
        state = sam2_state(model, granularity)
        same = agreement(model, state, granularity)
        notes = [
            f"stock SAM-2's single mask is now the mask at g = {granularity:g}; on {4 * _GRID**2} clicks on "
            f"drawn scenes it agrees with the adapter's to a mean IoU of {same.mean:.3f} (lowest {same.lowest:.2f})",
            "build it with apply_postprocessing=False: by default the sam2 package answers with another mask where the "
            f"single one seems unstable, and the mean IoU is {same.mean_postprocessed:.3f}",
            "its predicted IoU is still SAM-2's own guess",
        ]
    if out.suffix == ".safetensors":
        write_safetensors(state, out, {})
    else:
        write_checkpoint({"model": state}, out)
    return notes


def unsamv2_state(model: UnSAM) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict of the official UnSAMv2 model with the same masks, and notes.

    The same at the granularity that our decoder gets: a calibration has no place there, and the notes say what to ask
    for instead. The official graph is wider than some of ours; what it has and ours has not is filled so that nothing
    changes: zeros for LoRA, an identity for a second hidden layer, SAM's single-mask head for a mask head.

    Raises:
        UserError: The adapter has more than two hidden layers, which the official graph cannot hold.
    """
    config = model.decoder.config
    if not 1 <= len(config.hidden_dims) <= 2:
        raise UserError(
            expected="an adapter with one or two hidden layers for the official layout",
            found=f"hidden_dims {config.hidden_dims}",
            remedy="train with the preset official, default or compact",
        )
    trained = {name: model.get_parameter(name).detach().clone() for name in model.trained_names()}
    dropped = [name for name in trained if name.startswith("decoder.iou_head.")]
    for name in dropped:
        del trained[name]
    official_width = (config.fourier_dim + model.decoder.token.shape[1]) // 2
    _widen_mlp(trained, official_width)
    if model.decoder.mask_head is None:
        head = model.sam.sam_mask_decoder.output_hypernetworks_mlps[0].state_dict()
        trained |= {f"decoder.mask_head.{name}": value.clone() for name, value in head.items()}
    rank = max(config.lora_rank, 1)
    for name, layer in _attention_projections(model.sam.sam_mask_decoder.transformer):
        key = f"decoder.transformer.{name}"
        if f"{key}.lora_a" in trained:
            trained[f"{key}.lora_b"] *= config.lora_alpha / config.lora_rank / OFFICIAL_LORA_SCALE
        else:
            trained[f"{key}.lora_a"] = layer.weight.new_zeros(rank, layer.in_features)
            trained[f"{key}.lora_b"] = layer.weight.new_zeros(layer.out_features, rank)
    notes = [f"in the official yaml: lora_rank {rank}, fourier_dim {config.fourier_dim}"]
    notes[0] += f", temperature {config.fourier_temperature:g}"
    if max(config.hidden_dims) > official_width:
        notes.append(
            "only this package loads it: the official code fixes the granularity's MLP at a width of "
            f"{official_width}, this one has {max(config.hidden_dims)}"
        )
    if model.calibration is not None:
        given = model.calibrated(torch.tensor(SWEEP, device=model.device)).tolist()
        pairs = ", ".join(f"{ours:g} -> {theirs:.3g}" for ours, theirs in zip(SWEEP, given, strict=True))
        notes.append(f"left out: the calibration of the dial; for our granularity ask the official model: {pairs}")
    if dropped:
        notes.append("left out: our IoU head; the official model reports SAM-2's score instead")
    return join_official(model.sam.state_dict(), trained), notes


@torch.no_grad()
def sam2_state(model: UnSAM, granularity: float) -> dict[str, Tensor]:
    """Return a stock SAM-2 whose single mask is the mask at one granularity, approximately.

    LoRA is merged; our mask token and head take the place of the single mask's, and the granularity token that of the
    padding point, which stock SAM-2 adds to every click or box. Not the same as the adapter, which has both tokens of
    each pair; `agreement` measures the difference. SAM-2's three masks change with LoRA.

    Args:
        model: In eval mode.
        granularity: In [0.1, 1].

    Raises:
        UserError: A granularity out of range.
    """
    check_granularity(granularity)
    state = {name: value.clone() for name, value in model.sam.state_dict().items()}
    for name, module in model.decoder.transformer.named_modules():
        if isinstance(module, LoRALinear):
            state[f"sam_mask_decoder.transformer.{name}.weight"] = module.weight
    state["sam_mask_decoder.mask_tokens.weight"][:1] = model.decoder.token
    if model.decoder.mask_head is not None:
        prefix = "sam_mask_decoder.output_hypernetworks_mlps.0."
        state |= {prefix + name: value.clone() for name, value in model.decoder.mask_head.state_dict().items()}
    token = model.decoder.granularity_encoder(model.calibrated(torch.tensor([granularity], device=model.device)))
    state["sam_prompt_encoder.not_a_point_embed.weight"] = token
    return state


class Agreement(NamedTuple):
    """IoUs of a `sam2_state`'s single masks with the adapter's.

    Args:
        mean: Over the clicks.
        lowest: Of a click.
        mean_postprocessed: Over the clicks, as the sam2 package builds a model by default: one of the three masks takes
            the place of a single one that seems unstable.
    """

    mean: float
    lowest: float
    mean_postprocessed: float


@torch.no_grad()
def agreement(model: UnSAM, state: dict[str, Tensor], granularity: float, num_scenes: int = 4) -> Agreement:
    """Return how well a `sam2_state`'s single masks agree with the adapter's, on a grid of clicks on scenes.

    Args:
        model: In eval mode.
        state: Of `sam2_state` at this granularity.
        granularity: In [0.1, 1].
        num_scenes: Drawn scenes.
    """
    sam = copy.deepcopy(model.sam)
    sam.load_state_dict(state)
    # As sam2/build_sam.py sets them.
    sam.sam_mask_decoder.dynamic_multimask_stability_delta = 0.05
    sam.sam_mask_decoder.dynamic_multimask_stability_thresh = 0.98
    stock = UnSAM(Base(sam=sam, name=model.base_name, sha256="")).to(model.device).eval()
    places = (torch.arange(_GRID, device=model.device) + 0.5) * (model.image_size / _GRID)
    clicks = torch.cartesian_prod(places, places)[:, None]  # (P, 1, 2)
    labels = torch.ones_like(clicks[..., 0])
    ious: dict[bool, list[Tensor]] = {False: [], True: []}  # by whether unstable masks are replaced
    for seed in range(FIRST_TEST_SEED, FIRST_TEST_SEED + num_scenes):
        image = image_tensor(make_scene(seed, 256).image, model.device)
        embedding = model.encode(image)
        ours = model.decode(embedding, clicks, labels, granularity).masks > 0
        for replaced, rows in ious.items():
            sam.sam_mask_decoder.dynamic_multimask_via_stability = replaced
            theirs = stock.decode(embedding, clicks, labels).masks > 0
            shared, either = (theirs & ours).sum((1, 2, 3)), (theirs | ours).sum((1, 2, 3))
            rows.append(torch.where(either > 0, shared / either.clamp(min=1), 1.0))  # both empty: they agree
    plain, postprocessed = torch.cat(ious[False]), torch.cat(ious[True])
    return Agreement(float(plain.mean()), float(plain.min()), float(postprocessed.mean()))


def _widen_mlp(trained: dict[str, Tensor], width: int) -> None:
    """Bring the granularity MLP to two hidden layers of at least `width` units, in place, the same function."""
    prefix = "decoder.granularity_encoder.mlp."
    if f"{prefix}6.weight" not in trained:  # one hidden layer: its output is >= 0, so ReLU of an identity keeps it
        hidden = trained[f"{prefix}0.weight"].shape[0]
        trained[f"{prefix}6.weight"], trained[f"{prefix}6.bias"] = (
            trained.pop(f"{prefix}3.{kind}") for kind in ("weight", "bias")
        )
        trained[f"{prefix}3.weight"], trained[f"{prefix}3.bias"] = torch.eye(hidden), torch.zeros(hidden)
    for first, second in (("0", "3"), ("3", "6")):
        missing = max(0, width - trained[f"{prefix}{first}.weight"].shape[0])
        pad: Callable[..., Tensor] = nn.functional.pad
        trained[f"{prefix}{first}.weight"] = pad(trained[f"{prefix}{first}.weight"], (0, 0, 0, missing))
        trained[f"{prefix}{first}.bias"] = pad(trained[f"{prefix}{first}.bias"], (0, missing))
        trained[f"{prefix}{second}.weight"] = pad(trained[f"{prefix}{second}.weight"], (0, missing))


def _attention_projections(transformer: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Return the linears that the official code gives LoRA: all four projections of all attentions."""
    ends = ("q_proj", "k_proj", "v_proj", "out_proj")
    return [
        (name, module)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(ends)
    ]
