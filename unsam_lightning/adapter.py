"""The shape of the adapter, everything that trains: its sizes, its parts, and three named presets.

Next in the tour: `lora.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from unsam_lightning.errors import UserError

LoraTarget = Literal["q_proj", "k_proj", "v_proj", "out_proj"]
#: No layer is wider and no MLP deeper. Within these bounds, `checkpoint.py` compares the shape that a file asks for
#: with what the file holds before it takes memory for it.
_WIDEST, _DEEPEST = 65_536, 16


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The shape of everything that trains.

    Args:
        fourier_dim: Number of Fourier features of a granularity, even.
        fourier_temperature: Highest angular frequency of these features.
        hidden_dims: Widths of the hidden layers between the Fourier features and the token.
        dropout: Dropout in that MLP.
        own_mask_head: True: a mask head of the granularity token's own; False: SAM's single-mask head, frozen.
        own_iou_head: An IoU head for exactly this mask. The official model has none and reports SAM's score.
        lora_rank: Rank r of the update of each attention projection; 0 for none.
        lora_alpha: The update is scaled by alpha / r.
        lora_dropout: Dropout before the update's first factor, in training.
        lora_targets: Which projections of the decoder's seven attentions carry LoRA.
        lora_blocks: Only attentions whose name contains this carry LoRA; "" for all seven.
        warm_start: Start token and head as copies of SAM's single-mask token and head, and the granularity token as
            SAM's padding token, so that training starts at SAM's own mask. The official model starts from noise.
    """

    fourier_dim: int = 128
    fourier_temperature: float = 100.0
    hidden_dims: tuple[int, ...] = (192, 192)
    dropout: float = 0.1
    own_mask_head: bool = True
    own_iou_head: bool = True
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_targets: tuple[LoraTarget, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")
    lora_blocks: str = ""
    warm_start: bool = True

    def __post_init__(self) -> None:
        sizes = (self.fourier_dim, *self.hidden_dims)
        dropouts = (self.dropout, self.lora_dropout)
        good = min(sizes) >= 1 and max(sizes) <= _WIDEST and self.fourier_dim % 2 == 0
        good = good and self.fourier_temperature > 0 and 0 <= self.lora_rank <= _WIDEST
        good = good and len(self.hidden_dims) <= _DEEPEST
        good = good and all(0 <= p < 1 for p in dropouts) and set(self.lora_targets) <= set(get_args(LoraTarget))
        if not good:
            raise UserError(
                expected="an even fourier_dim and up to 16 hidden_dims from 1 to 65536, a fourier_temperature above 0, "
                f"a lora_rank from 0 to 65536, dropouts in [0, 1), lora_targets of {', '.join(get_args(LoraTarget))}",
                found=f"fourier_dim {self.fourier_dim}, hidden_dims {self.hidden_dims}, fourier_temperature "
                f"{self.fourier_temperature:g}, lora_rank {self.lora_rank}, dropouts {dropouts}, "
                f"lora_targets {self.lora_targets}",
                remedy="correct the adapter's shape",
            )

    @staticmethod
    def preset(name: str) -> AdapterConfig:
        """Return a named shape: "default" (ours), "official" (the official graph), "compact" (<= 9,212 numbers)."""
        if name not in _PRESETS:
            raise UserError(expected=f"an adapter preset ({', '.join(_PRESETS)})", found=repr(name), remedy="pick one")
        return _PRESETS[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for checkpoints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> AdapterConfig:
        """Return the config that `to_dict` described.

        Raises:
            UserError: Names that this version does not know, as a later one may have written; values of another type.
        """
        unknown = sorted(values.keys() - {each.name for each in fields(AdapterConfig)})
        if unknown:
            raise UserError(
                expected="an adapter whose settings this version of unsam_lightning knows",
                found=f"settings {', '.join(unknown)}",
                remedy="use the version that wrote the checkpoint, or a later one",
            )
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        default = AdapterConfig()
        odd = [f"{key} {value!r}" for key, value in plain.items() if not _is_alike(value, getattr(default, key))]
        if odd:
            raise UserError(
                expected="the shape of an adapter", found=", ".join(odd), remedy="pass a checkpoint as `fit` wrote it"
            )
        return AdapterConfig(**plain)

    def differences(self, other: AdapterConfig) -> list[str]:
        """Return the settings that change what the same numbers mean, and how both have them."""
        training_alone = {"dropout", "lora_dropout", "warm_start"}
        names = [each.name for each in fields(self) if each.name not in training_alone]
        if self.lora_rank == other.lora_rank == 0:
            names = [name for name in names if not name.startswith("lora_")]
        return [
            f"{name} {getattr(self, name)} and {getattr(other, name)}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]


def _is_alike(value: Any, default: Any) -> bool:
    """Tell whether a value has the type of a default; a whole number will do for a float."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_is_alike(each, default[0]) for each in value)
    wanted = (int, float) if isinstance(default, float) else type(default)
    return isinstance(value, wanted) and isinstance(value, bool) == isinstance(default, bool)


_PRESETS = {
    "default": AdapterConfig(),
    "official": AdapterConfig(own_iou_head=False, lora_dropout=0.1, warm_start=False),
    "compact": AdapterConfig(
        fourier_dim=32,
        hidden_dims=(12,),
        dropout=0.0,
        own_mask_head=False,
        own_iou_head=True,
        lora_rank=1,
        lora_alpha=2.0,
        lora_targets=("q_proj", "v_proj"),
        lora_blocks="token_to_image",
    ),
}
