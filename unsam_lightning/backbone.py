"""Stock SAM-2 from the `sam2` package's own classes: by name, hub id or local checkpoint, and the bundled nano.

Nothing of SAM-2 is copied here; the architectures are the yaml files of the installed `sam2` package (and our own
`architectures/nano.yaml`). Next in the tour: `adapter.py`.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from sam2.modeling.sam2_base import SAM2Base

from unsam_lightning.errors import UserError, first_line, is_file
from unsam_lightning.manifest import sha256_file
from unsam_lightning.state_dicts import load_strictly, read_state, split_official

#: Short names and the hub ids that hold their weights: SAM-2.1 by its size alone, SAM-2 with the version in front.
NAMES: dict[str, str] = {
    f"{prefix}{size}": f"facebook/{version}-hiera-{size.replace('_', '-')}"
    for prefix, version in (("", "sam2.1"), ("sam2_", "sam2"))
    for size in ("tiny", "small", "base_plus", "large")
}

#: (width of the first stage, number of blocks) of a Hiera trunk -> suffix of sam2's config files.
_SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}

#: Tensors that tell SAM-2.1 from SAM-2; any will do, so that a missing one is named as missing.
_ONLY_IN_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")

#: `fourier_temperature` of the official UnSAMv2 models.
OFFICIAL_TEMPERATURE = 100.0

_NANO_YAML = Path(__file__).parent / "architectures" / "nano.yaml"
NANO_WEIGHTS = Path(__file__).parent / "weights" / "nano.safetensors"


@dataclass(frozen=True, kw_only=True)
class Base:
    """A stock SAM-2 and where it came from.

    Args:
        sam: The model, in eval mode, on the CPU.
        name: The name it was asked for by: "nano", "small", a hub id, or a file name without its folder.
        sha256: Of the checkpoint file.
    """

    sam: SAM2Base
    name: str
    sha256: str


def load_base(name_or_path: str, config: str | Path | None = None) -> Base:
    """Return a stock SAM-2 in eval mode on the CPU.

    Args:
        name_or_path: "nano"; "tiny", "small", "base_plus", "large" for SAM-2.1, "sam2_tiny" and so on for SAM-2; a hub
            id of the sam2 package such as "facebook/sam2.1-hiera-small"; or a local file in the layout of SAM-2's
            releases, {"model": state dict}.
        config: YAML of the architecture, for a local file whose size has no name; guessed from the file otherwise.

    Raises:
        UserError: Unknown name; no network for a hub id; a file that is no checkpoint, is cut short, or does not fit
            its architecture key by key.
    """
    if name_or_path == "nano":
        state, sha256 = read_state(NANO_WEIGHTS), sha256_file(NANO_WEIGHTS)
        return base_from_state(state, name="nano", sha256=sha256, config=config if config is not None else "nano")
    path = Path(name_or_path)
    if is_file(path):
        state = read_state(path)
        return base_from_state(state, name=path.name, sha256=sha256_file(path), config=config)
    if name_or_path in NAMES or name_or_path.startswith("facebook/"):
        from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

        hub_id = NAMES.get(name_or_path, name_or_path)
        path = _download(hub_id)
        known = config if config is not None else str(HF_MODEL_ID_TO_FILENAMES[hub_id][0])
        return base_from_state(read_state(path), name=name_or_path, sha256=sha256_file(path), config=known)
    raise UserError(
        expected=f"a model name (nano, {', '.join(NAMES)}), a hub id or a checkpoint file",
        found=repr(name_or_path),
        remedy="check the spelling or the path",
    )


def base_from_state(state: dict[str, torch.Tensor], *, name: str, sha256: str, config: str | Path | None) -> Base:
    """Return the SAM-2 whose state dict this is, or the one inside an official UnSAMv2; every key of it must fit."""
    stock, _ = split_official(state)
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten: do not spend the caller's numbers on it
        sam = build_sam(config if config is not None else architecture_of(stock, name))
    load_strictly(sam, stock, name)
    return Base(sam=sam.eval(), name=name, sha256=sha256)


def build_sam(architecture: str | Path) -> SAM2Base:
    """Build a SAM-2 with random weights from a yaml file or from one of the sam2 package's configs.

    Args:
        architecture: A path to a yaml file, or a name such as "nano", "small", "configs/sam2/sam2_hiera_s.yaml".

    Raises:
        UserError: No such file, not a yaml of a SAM-2, or one that names anything but SAM-2's own classes.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    path, model = _read_architecture(architecture)
    # A yaml may come from a stranger, and instantiate calls whatever it names.
    _refuse_foreign_targets(model, path)
    options = {key: value for key, value in model.items() if key not in ("temperature", "fourier_dim", "lora_rank")}
    try:
        # sam2 fills its caches on the first GPU where there is one, whatever device the model is for.
        with mock.patch.object(torch.cuda, "is_available", return_value=False):
            sam = instantiate(options)
    except InstantiationException as error:
        raise UserError(
            expected=f"arguments that SAM-2's classes take in {path}",
            found=" ".join(str(error).split())[:300],
            remedy="compare it with the yaml files of the sam2 package",
        ) from error
    assert isinstance(sam, SAM2Base)
    # The stock builders pick the most stable of the masks in eval mode; here the caller chooses, so it stays off.
    return sam.eval()


def official_temperature(config: str | Path | None) -> float:
    """Return the highest frequency of an official UnSAMv2 model, which its yaml may say and its checkpoint does not.

    Raises:
        UserError: As `build_sam`; or no number above 0.
    """
    if config is None:
        return OFFICIAL_TEMPERATURE
    path, model = _read_architecture(config)
    value = model.get("temperature", OFFICIAL_TEMPERATURE)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(
            expected="a temperature above 0", found=f"{value!r} in {path}", remedy="correct the architecture's yaml"
        )
    return float(value)


def _read_architecture(architecture: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return the path of a yaml and the SAM-2 image model that it describes."""
    path = _architecture_path(str(architecture))
    try:
        tree: Any = OmegaConf.load(path)
        tree = OmegaConf.to_container(tree, resolve=True)
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(
            expected=f"an architecture yaml at {path}", found=first_line(error), remedy="check the path and the file"
        ) from None
    model = tree.get("model", tree) if isinstance(tree, dict) else {}
    target = model.get("_target_") if isinstance(model, dict) else None
    if target != "sam2.modeling.sam2_base.SAM2Base":
        raise UserError(
            expected="an architecture whose _target_ is sam2.modeling.sam2_base.SAM2Base",
            found=f"{target!r} in {path}",
            remedy="pass a SAM-2 image model's yaml",
        )
    return path, model


def architecture_of(state: dict[str, torch.Tensor], name: str) -> str:
    """Return the sam2 config that a state dict belongs to, from its trunk's width and depth and its 2.1 extras."""
    stem = "image_encoder.trunk.patch_embed.proj.weight"
    if stem in state and state[stem].ndim:
        width = state[stem].shape[0]
        blocks = len({key.split(".")[3] for key in state if key.startswith("image_encoder.trunk.blocks.")})
        if (width, blocks) in _SIZES:
            version = "2.1" if any(key in state for key in _ONLY_IN_2_1) else "2"
            return f"configs/sam{version}/sam{version}_hiera_{_SIZES[width, blocks]}.yaml"
        found = f"a trunk of width {width} with {blocks} blocks"
    else:
        found = f"no key {stem}"
    raise UserError(
        expected=f"the weights of a SAM-2 of a known size in {name}",
        found=found,
        remedy="pass the architecture's yaml as config",
    )


def _architecture_path(architecture: str) -> Path:
    import sam2

    package = Path(sam2.__path__[0])
    if architecture == "nano":
        return _NANO_YAML
    if architecture in NAMES:
        from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

        return package / str(HF_MODEL_ID_TO_FILENAMES[NAMES[architecture]][0])
    return package / architecture if architecture.startswith("configs/") else Path(architecture)


def _refuse_foreign_targets(node: Any, path: Path) -> None:
    """Raise unless every `_target_` in the tree, lists included, is a class of sam2's modelling code."""
    if isinstance(node, list):
        for value in node:
            _refuse_foreign_targets(value, path)
    elif isinstance(node, dict):
        if "_target_" in node and not _is_sam_class(str(node["_target_"])):
            raise UserError(
                expected="only classes of sam2.modeling in an architecture",
                found=f"{node['_target_']!r} in {path}",
                remedy="remove it; an architecture file must not run other code",
            )
        for value in node.values():
            _refuse_foreign_targets(value, path)


def _is_sam_class(target: str) -> bool:
    """Tell whether a name is that of a class in the module that defines it, below sam2.modeling.

    A prefix is not enough: `sam2.modeling.sam2_base.torch.hub.load` would pass.
    """
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None) if module.startswith("sam2.modeling.") else None
    except ImportError:
        return False
    return inspect.isclass(found) and found.__module__ == module


def _download(hub_id: str) -> Path:
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES, _hf_download

    if hub_id not in HF_MODEL_ID_TO_FILENAMES:
        raise UserError(
            expected=f"one of the sam2 package's hub ids ({', '.join(HF_MODEL_ID_TO_FILENAMES)})",
            found=hub_id,
            remedy="check the spelling",
        )
    try:
        return Path(_hf_download(hub_id)[1])
    except Exception as error:  # huggingface_hub raises many types; offline is by far the usual one
        raise UserError(
            expected=f"the weights of {hub_id} from the model hub or its local cache",
            found=first_line(error),
            remedy="download the .pt file elsewhere and pass its path (an adapter's: --base, --model.backbone_base)",
        ) from None
