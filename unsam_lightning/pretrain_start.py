"""How a pre-training starts: from weights, or so that the decoder knows where a click is before it sees an image.

From plain random weights a SAM-2 spends its first hundreds of steps on a plateau, because position reaches the masks
only through attention that does not yet attend by position. Two cheap steps and a head that is
thrown away spare that. Next in the tour: `pretrain_optimizer.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from unsam_lightning.backbone import NANO_WEIGHTS
from unsam_lightning.decoder import Embedding
from unsam_lightning.losses.multimask import best_of_masks, pairwise_costs
from unsam_lightning.pretrain_passes import decode_all
from unsam_lightning.views import STRIDE

#: Attention logit of a pixel at the click itself, against about 0 far away, in the starting weights.
_PEAK = 12.0
#: Scale of embeddings and norms that would drown the positions at the start.
_QUIET = 0.3
#: Radii of the discs around a click, as shares of the frame: of the single mask, then of the three.
_RADII = (0.15, 0.08, 0.2, 0.4)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run of `pretrain` starts from.

    Args:
        weights: "random weights", or the name of a base.
        sha256: Of the weights' file; empty for random weights.
        steps: Optimizer steps of `pretrain` that are in the weights.
    """

    weights: str
    sha256: str
    steps: int


def steps_of(weights: str) -> int:
    """Return the steps of `pretrain` in "nano" or a file that it exported; 0 for other weights, which do not say."""
    path = NANO_WEIGHTS if weights == "nano" else Path(weights)
    if path.suffix != ".safetensors":
        return 0
    with safe_open(path, "pt") as file:
        return int((file.metadata() or {}).get("steps", 0))


@torch.no_grad()
def start_local(sam: SAM2Base) -> None:
    """Change random weights in place so that the decoder's cross-attention attends by position.

    Query and key of every head pick the same few of the lowest frequencies of the position encoding, so that their
    product is a sum of cosines of the distance: the largest where token and pixel coincide.

    Args:
        sam: With random weights.
    """
    frequencies = sam.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix  # (2, D / 2)
    order = frequencies.norm(dim=0).argsort()
    transformer = sam.sam_mask_decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
        layer.norm1.weight.mul_(_QUIET)
        layer.norm3.weight.mul_(_QUIET)
        layer.cross_attn_image_to_token.v_proj.weight.mul_(2 / _QUIET)
        layer.cross_attn_image_to_token.out_proj.weight.mul_(2)
        layer.cross_attn_token_to_image.out_proj.weight.mul_(2)
    for attention in attentions:
        selection = _selection(order, attention.num_heads, attention.internal_dim)
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(_QUIET).add_(selection)
    encoder, decoder = sam.sam_prompt_encoder, sam.sam_mask_decoder
    for embedding in (*encoder.point_embeddings, encoder.no_mask_embed, encoder.not_a_point_embed):
        embedding.weight.mul_(_QUIET)
    for embedding in (decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens):
        embedding.weight.mul_(_QUIET)


def _selection(order: Tensor, num_heads: int, width: int) -> Tensor:
    """Return the projection (width, D) that picks sines and cosines of the frequencies `order` (D / 2,)."""
    per_head = width // num_heads
    rows = torch.zeros(width, 2 * len(order), device=order.device)
    for head in range(num_heads):
        for k in range(per_head // 2):
            frequency = order[(k * num_heads + head) % len(order)]
            rows[head * per_head + 2 * k, frequency] = 1
            rows[head * per_head + 2 * k + 1, len(order) + frequency] = 1
    # Attention divides by the square root of a head's width; its cosines sum to per_head / 2 at distance 0.
    gain = math.sqrt(_PEAK * math.sqrt(per_head) / (per_head // 2))
    return rows * gain


def learn_discs(sam: SAM2Base, *, steps: int = 200, num_prompts: int = 64, lr: float = 1e-3) -> float:
    """Train prompt encoder and decoder to answer a click on an empty picture with discs around it; return the mean IoU.

    Args:
        sam: Changed in place; the trunk is not touched.
        steps: AdamW steps; takes about 0.15 s each on one core.
        num_prompts: Clicks in a step.
        lr: Learning rate after a warm-up of 50 steps.
    """
    encoder, decoder, device = sam.sam_prompt_encoder, sam.sam_mask_decoder, sam.no_mem_embed.device
    frame, size = encoder.input_image_size[0], encoder.image_embedding_size[0]
    trained = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))
    width, radii = decoder.transformer_dim, torch.tensor(_RADII, device=device) * frame
    centres = torch.arange(frame // STRIDE, device=device) * STRIDE + (STRIDE - 1) / 2
    empty = torch.zeros(1, width, size, size, device=device)
    high_res = (empty.new_zeros(1, width // 8, 4 * size, 4 * size), empty.new_zeros(1, width // 4, 2 * size, 2 * size))
    picture = Embedding(empty + sam.no_mem_embed.detach().view(1, -1, 1, 1), high_res)
    index, iou = torch.zeros(num_prompts, dtype=torch.long, device=device), empty.new_zeros(())
    for _ in range(steps):
        clicks = torch.rand(num_prompts, 1, 2, device=device) * frame
        logits, *_ = decode_all(sam, picture, index, clicks, torch.ones_like(clicks[..., 0]))
        x, y = clicks[:, 0, 0, None, None], clicks[:, 0, 1, None, None]
        distance = torch.hypot(centres[None, None] - x, centres[None, :, None] - y)  # (P, h, w)
        costs, ious = pairwise_costs(logits, (distance[:, None] < radii[:, None, None]).float())
        loss, iou = costs.diagonal(dim1=1, dim2=2).mean(), ious.diagonal(dim1=1, dim2=2).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    return float(iou)


class RegionHead(nn.Module):
    """Teaches the encoder regions without the decoder: a pixel belongs to a click as far as their features agree.

    The decoder learns slowly to hand gradients down to the encoder; this head hands them down from the first step. It
    is thrown away afterwards.

    Args:
        width: Of the decoder, D.
        num_maps: Independent features, so that each can learn one level of detail.
        channels: Of each of them.
    """

    def __init__(self, width: int, num_maps: int = 3, channels: int = 16) -> None:
        super().__init__()
        self.num_maps = num_maps
        self.coarse = nn.Conv2d(width, num_maps * channels, 1)
        self.middle = nn.Conv2d(width // 4, num_maps * channels, 1)
        self.fine = nn.Conv2d(width // 8, num_maps * channels, 1)
        self.scale = nn.Parameter(torch.full((num_maps,), 10.0))
        self.shift = nn.Parameter(torch.full((num_maps,), -5.0))

    def forward(
        self, embedding: Embedding, clicks_xy: Tensor, targets: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the mean IoU of the best map with the wanted mask.

        Args:
            embedding: Of B images.
            clicks_xy: (B, P, 2) pixels of the frame.
            targets: (B P, G, h, w) in [0, 1].
            weights: (B P, G), see `multimask_terms`.
        """
        fine, middle = embedding.high_res
        size = fine.shape[-2:]
        sum_of_levels = self.fine(fine)
        for projected in (self.middle(middle), self.coarse(embedding.image)):
            sum_of_levels = sum_of_levels + nn.functional.interpolate(projected, size, mode="bilinear")
        features = nn.functional.normalize(sum_of_levels.unflatten(1, (self.num_maps, -1)).flatten(3), dim=2)
        column, row = (clicks_xy / STRIDE).long().clamp(0, size[0] - 1).unbind(-1)  # (B, P)
        pixel = (row * size[1] + column)[:, None, None].expand(-1, *features.shape[1:3], -1)  # (B, M, C, P)
        similarity = features.gather(3, pixel).transpose(2, 3) @ features  # (B, M, P, h w)
        logits = self.scale[:, None, None] * similarity + self.shift[:, None, None]
        logits = logits.transpose(1, 2).flatten(0, 1).reshape(-1, self.num_maps, *size)  # (B P, M, h, w)
        cost, iou = pairwise_costs(logits, targets)
        return best_of_masks(cost, weights), iou[:, :, 0].amax(1).mean()
