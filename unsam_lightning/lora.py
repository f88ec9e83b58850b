"""LoRA: a trained update of low rank on frozen linear layers, here the attention projections of SAM-2's mask decoder.

Source: Hu et al. (arXiv 2106.09685); which layers carry it: UnSAMv2 (arXiv 2511.13714) section 3.4.
Next in the tour: `cross_attention.py`.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.errors import UserError


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trained update of low rank: W x + (alpha / r) B A x.

    Args:
        base: The layer that is adapted; its parameters are shared, not copied.
        rank: r.
        alpha: The update is scaled by alpha / r.
        dropout: Before A, in training.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) * 0.01)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank
        self.dropout = dropout

    @property
    def drops(self) -> bool:
        """Whether dropout acts now, so that no weight matrix stands for the layer."""
        return self.training and self.dropout > 0

    @property
    def weight(self) -> Tensor:
        """The adapted weight matrix, W + (alpha / r) B A."""
        return self.base.weight + self.scale * (self.lora_b @ self.lora_a)

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.base.out_features

    @property
    def bias(self) -> Tensor:
        """The frozen layer's bias."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply the adapted layer to (..., in) and return (..., out)."""
        if self.drops:
            update = nn.functional.dropout(x, self.dropout) @ self.lora_a.T @ self.lora_b.T
            return nn.functional.linear(x, self.base.weight, self.base.bias) + self.scale * update
        # Folding the update into the weight costs one small product instead of two passes over the image tokens.
        return nn.functional.linear(x, self.weight, self.base.bias)

    def merged(self) -> nn.Linear:
        """Return a plain layer with the update folded in, for inference."""
        layer = nn.Linear(self.base.in_features, self.base.out_features).to(self.base.weight)
        layer.weight = nn.Parameter(self.weight.detach(), requires_grad=False)
        layer.bias = nn.Parameter(self.base.bias.detach().clone(), requires_grad=False)
        return layer


def share_with_lora(transformer: nn.Module, config: AdapterConfig) -> nn.Module:
    """Return a transformer that shares every parameter with the given one and has LoRA on its attentions.

    Raises:
        UserError: No layer has one of the names that shall carry LoRA.
    """
    shared = copy.deepcopy(transformer, memo={id(parameter): parameter for parameter in transformer.parameters()})
    if config.lora_rank == 0:
        return shared
    for name, module in list(shared.named_modules()):
        parent, _, child = name.rpartition(".")
        if child in config.lora_targets and config.lora_blocks in parent and isinstance(module, nn.Linear):
            adapted = LoRALinear(module, config.lora_rank, config.lora_alpha, config.lora_dropout)
            setattr(shared.get_submodule(parent), child, adapted)
    if not any(isinstance(module, LoRALinear) for module in shared.modules()):
        raise UserError(
            expected="lora_targets and lora_blocks that name attentions of the decoder, as token_to_image does",
            found=f"no layer of {config.lora_targets} below a name with {config.lora_blocks!r}",
            remedy="correct them, or set lora_rank to 0",
        )
    return shared


def merge_lora(transformer: nn.Module) -> None:
    """Fold every update into its layer, in place: no cost at run time, no training any more."""
    for name, module in list(transformer.named_modules()):
        if isinstance(module, LoRALinear):
            parent, _, child = name.rpartition(".")
            setattr(transformer.get_submodule(parent), child, module.merged())
