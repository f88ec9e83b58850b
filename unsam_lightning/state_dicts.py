"""Checkpoints and state dicts on disk: written aside, read without pickles, loaded strictly.

Next in the tour: `backbone.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch

from unsam_lightning.aside import written_aside
from unsam_lightning.errors import UserError, first_line

#: Official names of what trains -> ours, after the LoRA suffixes have been dealt with.
_OFFICIAL_PREFIXES = {
    "sam_prompt_encoder.fourier_embedder.mlp.mlp.": "decoder.granularity_encoder.mlp.",
    "sam_prompt_encoder.granularity_embedding.weight": "decoder.granularity_encoder.type_embedding",
    "sam_mask_decoder.gra_token.weight": "decoder.token",
    "sam_mask_decoder.gra_output_token_mlp.": "decoder.mask_head.",
}
#: The official LoRA layer multiplies its update by this, whatever the rank.
OFFICIAL_LORA_SCALE = 2.0
_OFFICIAL_LORA = re.compile(r"sam_mask_decoder\.transformer\.(.+)\.lora_([AB])$")
_OUR_LORA = re.compile(r"decoder\.transformer\.(.+)\.lora_([ab])$")
#: What torch says of the first thing in a file that it does not build without pickles.
_OTHER_OBJECT = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")


def write_checkpoint(content: Any, path: Path) -> None:
    """Write what `torch.save` writes; the file is whole under its name, or as it was before.

    Raises:
        UserError: The file cannot be written.
    """
    with written_aside(path) as aside, aside.open("wb") as file:  # torch tells of a full disk only through a file
        torch.save(content, file)


def write_safetensors(state: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a state dict as safetensors, as `write_checkpoint` does."""
    from safetensors.torch import save

    content = save({name: value.contiguous() for name, value in state.items()}, {"format": "pt"} | metadata)
    with written_aside(path) as aside:
        aside.write_bytes(content)


def load_safely(path: Path) -> Any:
    """Return what a checkpoint or a safetensors file holds, loaded without pickles.

    Raises:
        UserError: There is no such file; it is broken, or holds other objects than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            expected=f"a checkpoint at {path}", found="no such file", remedy="check the spelling or the path"
        ) from None
    except Exception as error:  # torch and safetensors raise many types for a broken file
        if other := _OTHER_OBJECT.search(str(error)):
            raise UserError(
                expected=f"a checkpoint of tensors and plain values alone at {path}",
                found=f"other Python objects in it, first {other[1]}",
                remedy="if you trust it, load it in Python and save its weights alone, as {'model': state_dict}",
            ) from None
        raise UserError(
            expected=f"a readable checkpoint at {path}",
            found=first_line(error),
            remedy="download or copy the file again; it may be cut short",
        ) from None


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of a checkpoint in SAM-2's layout or of a safetensors file, loaded without pickles."""
    content = load_safely(path)
    if path.suffix == ".safetensors":
        return dict(content)
    state = content.get("model") if isinstance(content, dict) else None
    if not is_state_dict(state):
        found = f"keys {sorted(content)[:5]}" if isinstance(content, dict) else type(content).__name__
        raise UserError(
            expected=f"a checkpoint with the layout {{'model': state dict}} at {path}",
            found=found,
            remedy="pass a SAM-2 release, an official UnSAMv2 checkpoint or one of our adapters (.ckpt)",
        )
    return state


def is_state_dict(value: Any) -> TypeGuard[dict[str, torch.Tensor]]:
    """Tell whether this is a dict of tensors by name."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )


def split_official(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the stock SAM-2 in an official UnSAMv2 state dict, and what was trained on it by our names.

    Every key goes to one of the two; a state dict without a granularity token is all stock.

    Raises:
        UserError: A layer is there twice, as itself and inside the layer that adapts it.
    """
    if not any("gra_token" in key for key in state):
        return state, {}
    stock: dict[str, torch.Tensor] = {}
    trained: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        lora = _OFFICIAL_LORA.match(key)
        prefix = next((prefix for prefix in _OFFICIAL_PREFIXES if key.startswith(prefix)), None)
        if lora:
            trained[f"decoder.transformer.{lora[1]}.lora_{lora[2].lower()}"] = value
        elif prefix is not None:
            trained[_OFFICIAL_PREFIXES[prefix] + key.removeprefix(prefix)] = value
        else:
            name = key.replace(".original_layer.", ".")
            if name in stock:
                raise UserError(
                    expected="each tensor of an official UnSAMv2 checkpoint once",
                    found=f"{name} with and without .original_layer",
                    remedy="pass a released checkpoint",
                )
            stock[name] = value
    return stock, trained


def join_official(stock: Mapping[str, torch.Tensor], trained: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the official UnSAMv2 state dict of a stock SAM-2 and what was trained on it: undoes `split_official`."""
    ours_to_official = {ours: official for official, ours in _OFFICIAL_PREFIXES.items()}
    state = dict(stock)
    for name, value in trained.items():
        lora = _OUR_LORA.match(name)
        if lora:
            layer = f"sam_mask_decoder.transformer.{lora[1]}"
            state[f"{layer}.lora_{lora[2].upper()}"] = value
            for kind in ("weight", "bias"):  # an adapted layer keeps the one that it adapts inside
                if f"{layer}.{kind}" in state:
                    state[f"{layer}.original_layer.{kind}"] = state.pop(f"{layer}.{kind}")
        else:
            prefix = next(prefix for prefix in ours_to_official if name.startswith(prefix))
            state[ours_to_official[prefix] + name.removeprefix(prefix)] = value
    return state


def load_strictly(module: torch.nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    """Load a state dict; a missing or unexpected key or a wrong shape is one `UserError` that names it."""
    own = module.state_dict()
    refuse_misfits(
        own,
        state,
        expected=f"the {len(own)} tensors of {type(module).__name__} in {name}",
        remedy="check that the checkpoint and the architecture belong together",
    )
    module.load_state_dict(state)


def refuse_misfits(
    own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], *, expected: str, remedy: str
) -> None:
    """Raise one `UserError` that names tensors of `state` that are missing, unexpected, misshapen or incomplete."""
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in own]
    problems += [
        f"{key} has shape {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    problems += [f"{key} has fewer numbers than its shape" for key in own if key in state and not _is_whole(state[key])]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(expected=expected, found="; ".join(problems[:3]) + more, remedy=remedy)


def _is_whole(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor has all numbers of its shape: in a file, one number can stand for any shape, or none."""
    is_dense = tensor.layout == torch.strided and not tensor.is_meta
    return is_dense and tensor.untyped_storage().nbytes() >= tensor.nbytes
