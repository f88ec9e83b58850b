"""Adapter checkpoints (ours), official UnSAMv2 checkpoints in, and the choice of the right loader for a file.

An adapter checkpoint is a Lightning checkpoint whose state dict holds only what trained; the key "unsam" says what
it belongs to. Everything is loaded with `weights_only=True`. Next in the tour: `pseudo_labels/half_edges.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unsam_lightning import __version__
from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.backbone import NAMES, Base, base_from_state, load_base, official_temperature
from unsam_lightning.calibration import Calibration
from unsam_lightning.errors import UserError, is_file
from unsam_lightning.manifest import sha256_file
from unsam_lightning.model import UnSAM
from unsam_lightning.state_dicts import (
    OFFICIAL_LORA_SCALE,
    is_state_dict,
    load_safely,
    read_state,
    refuse_misfits,
    split_official,
)

ADAPTER_FORMAT = "unsam_lightning/adapter/1"


def from_pretrained(
    name_or_path: str,
    config: str | Path | None = None,
    *,
    adapter: AdapterConfig | None = None,
    seed: int = 0,
    base: str | None = None,
) -> UnSAM:
    """Return a model from a name, a hub id or any checkpoint; see `UnSAM.from_pretrained`."""
    path = Path(name_or_path)
    if base is not None and path.suffix != ".ckpt":
        raise UserError(
            expected="a base for one of our adapter checkpoints (.ckpt), which do not hold theirs",
            found=f"a base for {name_or_path}",
            remedy="leave it out, or pass its path in the place of this name",
        )
    if not is_file(path):
        return UnSAM(load_base(name_or_path, config), adapter, seed)
    if path.suffix == ".ckpt":
        content = read_adapter(path)
        stock = load_base(base or _recorded_base(content, path), config)
        shape = AdapterConfig.from_dict(content["unsam"]["adapter"])
        load_adapter(_without_memory(stock, shape), content, path.name)
        model = UnSAM(stock, shape, seed)
        load_adapter(model, content, path.name)
        return model
    state = read_state(path)
    stock = base_from_state(state, name=path.name, sha256=sha256_file(path), config=config)
    _, trained = split_official(state)
    if not trained:
        return UnSAM(stock, adapter, seed)
    shape = _official_shape(trained, path.name, official_temperature(config))
    load_trained(_without_memory(stock, shape), trained, path.name)
    model = UnSAM(stock, shape)
    load_trained(model, trained, path.name)
    return model


def _without_memory(base: Base, shape: AdapterConfig) -> UnSAM:
    """Return a model whose adapter has no numbers, to refuse a file that asks for more of them than it holds."""
    with torch.device("meta"):
        return UnSAM(base, replace(shape, warm_start=False))  # there is nothing to start from


def describe_adapter(model: UnSAM) -> dict[str, Any]:
    """Return what a checkpoint says about its model, in plain values: format, version, base, shape, config."""
    return {
        "format": ADAPTER_FORMAT,
        "version": __version__,
        "base": {"name": model.base_name, "sha256": model.base_sha256},
        "adapter": model.decoder.config.to_dict(),
        "calibration": None if model.calibration is None else model.calibration.to_dict(),
        "config": model.training_config,
    }


def adapter_state(model: UnSAM) -> dict[str, Any]:
    """Return what an adapter checkpoint must hold: the trained parameters, and what they belong to.

    Raises:
        UserError: LoRA is merged: its numbers are gone.
    """
    refuse_merged(model)
    trained = {f"model.{name}": model.get_parameter(name).detach().clone() for name in model.trained_names()}
    return {"unsam": describe_adapter(model), "state_dict": trained}


def refuse_merged(model: UnSAM) -> None:
    """Raise `UserError` for a model whose LoRA is merged: what was trained cannot be taken out again."""
    if model.decoder.is_merged:
        raise UserError(
            expected="a model to save or export whose LoRA is its own",
            found="one after merge_lora()",
            remedy="load the checkpoint again, export, and merge afterwards",
        )


def read_adapter(path: Path) -> dict[str, Any]:
    """Return the content of one of our checkpoints; `UserError` for any other file."""
    content = load_safely(path)
    about = content.get("unsam") if isinstance(content, dict) else None
    if not isinstance(about, dict) or about.get("format") != ADAPTER_FORMAT:
        raise UserError(
            expected=f"one of our adapter checkpoints ({ADAPTER_FORMAT}) at {path}",
            found="no key 'unsam' of that format",
            remedy="pass a checkpoint that `fit` wrote",
        )
    base = about.get("base")
    names_base = isinstance(base, dict) and all(isinstance(base.get(key), str) for key in ("name", "sha256"))
    missing = [] if names_base else ["base with its name and sha256"]
    missing += [] if isinstance(about.get("adapter"), dict) else ["adapter"]
    missing += [] if is_state_dict(content.get("state_dict")) else ["state_dict"]
    missing += [] if isinstance(content.get("global_step", 0), int) else ["whole number as global_step"]
    if missing:
        raise UserError(
            expected=f"a complete adapter checkpoint at {path}",
            found=f"no {', no '.join(missing)}",
            remedy="pass a checkpoint as `fit` wrote it",
        )
    return dict(content)


def check_for_trainer(content: dict[str, Any], path: Path, *, goes_on: bool) -> None:
    """Raise `UserError` unless Lightning's Trainer can take what `read_adapter` returned.

    Args:
        content: Of the file.
        path: Of the file, for the error.
        goes_on: Whether training is to go on where it stopped, for which the optimizer's state is needed.
    """
    if absent := [key for key in ("pytorch-lightning_version", "global_step") if key not in content]:
        raise UserError(
            expected=f"a checkpoint that a trainer can load at {path}",
            found=f"no {', no '.join(absent)}",
            remedy=f"write it anew: export {path} --layout adapter --out FILE.ckpt",
        )
    if goes_on and "optimizer_states" not in content:
        raise UserError(
            expected=f"a checkpoint of `fit`, with the state of its optimizer, at {path}",
            found="an adapter alone, as `export` writes it",
            remedy=f"start a new run from it: --model.backbone {path} instead of --ckpt_path",
        )


def _recorded_base(content: dict[str, Any], path: Path) -> str:
    """Return the name of an adapter's base; a base that was a file is known by its name alone, not by its place."""
    name = str(content["unsam"]["base"]["name"])
    if name == "nano" or name in NAMES or name.startswith("facebook/") or is_file(Path(name)):
        return name
    raise UserError(
        expected=f"the base model of {path.name}, the file {name}",
        found="no such file here",
        remedy="say where it is: --model.backbone_base PATH, --base PATH of `segment` and `export`, "
        "UnSAM.from_pretrained(..., base=PATH)",
    )


def load_adapter(model: UnSAM, content: dict[str, Any], where: str) -> None:
    """Load an adapter checkpoint's weights into a model of the same base and shape.

    Raises:
        UserError: The checkpoint belongs to another base model or to another adapter.
    """
    check_base(model, content["unsam"], where)
    # Some settings, such as lora_alpha, change no parameter's shape and every mask.
    recorded = AdapterConfig.from_dict(content["unsam"]["adapter"])
    if differences := recorded.differences(model.decoder.config):
        raise UserError(
            expected=f"the adapter that {where} was trained with",
            found=f"{'; '.join(differences)} (in the checkpoint, in this model)",
            remedy="set --model.adapter as the config.yaml of its run does",
        )
    prefix = "model."
    state = {key.removeprefix(prefix): value for key, value in content["state_dict"].items() if key.startswith(prefix)}
    load_trained(model, state, where)
    calibration = content["unsam"].get("calibration")
    model.calibration = None if calibration is None else Calibration.from_dict(calibration)
    model.training_config = content["unsam"].get("config")
    model.trained_steps = content.get("global_step", 0)


def check_base(model: UnSAM, about: dict[str, Any], where: str) -> None:
    """Raise `UserError` unless a checkpoint's base is this model's, by its checksum."""
    base = about["base"]
    if base["sha256"] != model.base_sha256:
        remedy = f"run with --model.backbone {base['name']} and the same weights"
        if base["name"] == model.base_name:
            version = about.get("version")
            remedy = f"other weights had that name then: use version {version} of this package, or train anew"
        raise UserError(
            expected=f"the base model that {where} was trained on: {base['name']} (sha256 {base['sha256'][:12]})",
            found=f"{model.base_name} (sha256 {model.base_sha256[:12]})",
            remedy=remedy,
        )


def load_trained(model: UnSAM, state: dict[str, Tensor], where: str) -> None:
    """Load exactly the parameters that train; a missing, unexpected or misshapen one is an error that names it."""
    own = dict(model.named_parameters())
    wanted = {name: own[name] for name in model.trained_names()}
    refuse_misfits(
        wanted,
        state,
        expected=f"the {len(wanted)} trained tensors of this adapter in {where}",
        remedy="build the model with the adapter shape that the checkpoint records",
    )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(state[name])
    model.is_tuned = True


def _official_shape(trained: dict[str, Tensor], name: str, temperature: float) -> AdapterConfig:
    matrices = {key: value for key, value in trained.items() if value.ndim == 2}  # the others tell no shape
    first = matrices.get("decoder.granularity_encoder.mlp.0.weight")
    second = matrices.get("decoder.granularity_encoder.mlp.3.weight")
    ranks = {len(value) for key, value in matrices.items() if key.endswith("lora_a")}
    if first is None or second is None or len(ranks) > 1:
        raise UserError(
            expected=f"an official UnSAMv2 checkpoint in {name}",
            found=f"LoRA ranks {sorted(ranks)} and {len(trained)} granularity tensors",
            remedy="pass a released checkpoint",
        )
    rank = ranks.pop() if ranks else 0
    return AdapterConfig(
        fourier_dim=first.shape[1],
        fourier_temperature=temperature,
        hidden_dims=(first.shape[0], second.shape[0]),
        own_iou_head=False,
        lora_rank=rank,
        lora_alpha=OFFICIAL_LORA_SCALE * rank,
        lora_dropout=0.1,
        warm_start=False,
    )
