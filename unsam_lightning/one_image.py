"""Many prompts on one image, without gradients: the masks of `UnSAM.decode`, to rounding, in less than half the time.

    decode = prompt_decoder(model, model.encode(image))
    masks, iou = decode(clicks, labels, granularity)

Source: the stock two-way transformer and mask decoder of sam2 1.1.0, rearranged. What all prompts share is computed
once for the image. Image tokens stay in rows, so that every projection is one matrix product. In the attention of the
image to the prompts, the projections of the few prompt tokens are multiplied into each other first: the image tokens
are then multiplied with what is as small as the prompts. Next in the tour: `automatic.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from unsam_lightning.decoder import Embedding
from unsam_lightning.model import UnSAM


class Answer(NamedTuple):
    """What P prompts give; M = 1, or 3 for stock SAM-2's multi-mask output.

    Args:
        masks: Logits (P, M, h, w) at stride 4 of the model's frame; positive is inside.
        iou: Predicted IoU of each mask, (P, M).
    """

    masks: Tensor
    iou: Tensor


#: points (P, K, 2), labels (P, K), granularity (P,) or None, mask prompts (P, 1, h, w) or None, multimask.
PromptDecoder: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, bool], Answer]


def prompt_decoder(model: UnSAM, embedding: Embedding) -> PromptDecoder:
    """Return a function that decodes prompts on one image, for inference.

    Args:
        model: In eval mode. On a GPU, under autocast or after `compile`, its own `decode` does the work.
        embedding: Of one image.
    """
    is_plain = (
        isinstance(model, UnSAM)
        and model.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and model.decoder._compiled_call_impl is None
        and not model.decoder.training
        and model.sam.sam_mask_decoder.use_high_res_features
        and not model.sam.sam_mask_decoder.dynamic_multimask_via_stability
    )
    if is_plain:
        return _OneImage(model, embedding)

    def decode(
        points: Tensor, labels: Tensor, granularity: Tensor | None, masks: Tensor | None, multimask: bool
    ) -> Answer:
        decoded = model.decode(embedding, points, labels, granularity, masks=masks, multimask=multimask)
        return Answer(decoded.masks, decoded.iou)

    return decode


class _OneImage:
    """The rearranged decoder; S image tokens of width D, T prompt tokens."""

    @torch.no_grad()
    def __init__(self, model: UnSAM, embedding: Embedding) -> None:
        self.model, self.sam_decoder = model, model.sam.sam_mask_decoder
        self.adapter = copy.deepcopy(model.decoder)
        self.adapter.merge_lora()
        self.side = embedding.image.shape[-1]
        self.image = _rows(embedding.image)[0]  # (S, D)
        self.position = _rows(model.sam.sam_prompt_encoder.get_dense_pe())[0]
        first, self.norm, _, second, _ = self.sam_decoder.output_upscaling
        # A transposed convolution with stride 2 is a product that gives each token its four children, in rows.
        self.up = [conv.weight.permute(0, 2, 3, 1).flatten(1).contiguous() for conv in (first, second)]
        fine, middle = embedding.high_res
        self.middle = _children(middle[0], 1) + first.bias  # (S, 4, D/4)
        self.fine = _children(fine[0], 2) + second.bias  # (S, 16, D/8)

    @torch.no_grad()
    def __call__(
        self, points: Tensor, labels: Tensor, granularity: Tensor | None, masks: Tensor | None, multimask: bool
    ) -> Answer:
        sparse, dense = self.model.sam.sam_prompt_encoder(points=(points, labels), boxes=None, masks=masks)
        shared = self.image + self.model.sam.sam_prompt_encoder.no_mask_embed.weight
        keys = shared if masks is None else self.image + _rows(dense)  # (S, D) or (P, S, D)
        stock: Any = self.sam_decoder
        own = [stock.obj_score_token.weight] if stock.pred_obj_scores else []
        own += [stock.iou_token.weight, stock.mask_tokens.weight]
        place = len(own) - 2  # of the IoU token, after which the mask tokens come
        if granularity is None:
            queries, keys = self._transform(stock.transformer, keys, _tokens(own, sparse))
            wanted = range(1, stock.num_mask_tokens) if multimask else range(1)
            heads = [stock.output_hypernetworks_mlps[m](queries[:, place + 1 + m]) for m in wanted]
            iou = stock.iou_prediction_head(queries[:, place])[:, wanted.start : wanted.stop]
            return Answer(self._masks(keys, torch.stack(heads, 1)), iou)
        prompts = torch.cat((sparse, self.adapter.granularity_encoder(granularity)[:, None]), 1)
        own.append(self.adapter.token)
        last = sum(len(token) for token in own) - 1
        queries, keys = self._transform(self.adapter.transformer, keys, _tokens(own, prompts))
        head = self.adapter.mask_head or stock.output_hypernetworks_mlps[0]
        if self.adapter.iou_head is not None:
            iou = self.adapter.iou_head(queries[:, last]).sigmoid()
        else:
            iou = stock.iou_prediction_head(queries[:, place])[:, :1]
        return Answer(self._masks(keys, head(queries[:, last])[:, None]), iou)

    def _transform(self, transformer: Any, keys: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return prompt tokens (P, T, D) and image tokens (P, S, D) after the transformer."""
        queries = tokens
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                queries = layer.norm1(layer.self_attn(queries, queries, queries))
            else:
                asking = queries + tokens
                queries = layer.norm1(queries + layer.self_attn(asking, asking, queries))
            found = self._look_at_image(layer.cross_attn_token_to_image, queries + tokens, keys)
            queries = layer.norm2(queries + found)
            queries = layer.norm3(queries + _mlp(layer.mlp, queries))
            keys = layer.norm4(self._look_at_prompts(layer.cross_attn_image_to_token, keys, queries + tokens, queries))
        found = self._look_at_image(transformer.final_attn_token_to_image, queries + tokens, keys)
        done: Tensor = transformer.norm_final_attn(queries + found)
        return done, keys

    def _look_at_image(self, attention: Any, asking: Tensor, keys: Tensor) -> Tensor:
        """Return what the prompts find in the image, (P, T, D)."""
        weight = torch.cat((attention.k_proj.weight, attention.v_proj.weight))
        of_position = F.linear(self.position, attention.k_proj.weight, attention.k_proj.bias)
        constant = torch.cat((of_position, attention.v_proj.bias.expand_as(of_position)), 1)
        both = (keys @ weight.T).add_(constant)  # (P, S, 2 d), or (S, 2 d) where all prompts see the same image
        width, count = attention.internal_dim // attention.num_heads, len(asking)
        heads = both.unflatten(-1, (2, attention.num_heads, width)).movedim(-3, 0).transpose(-3, -2)  # (2, P, H, S, w)
        if keys.dim() == 2:
            heads = heads[:, None].expand(-1, count, -1, -1, -1)
        query = attention.q_proj(asking).unflatten(-1, (attention.num_heads, width)).transpose(1, 2)
        found = F.scaled_dot_product_attention(query, heads[0], heads[1])  # (P, H, T, w)
        out: Tensor = attention.out_proj(found.transpose(1, 2).flatten(2))
        return out

    def _look_at_prompts(self, attention: Any, keys: Tensor, offered: Tensor, values: Tensor) -> Tensor:
        """Return the image tokens and what they find in the prompts, added, (P, S, D)."""
        heads, count, num_tokens = attention.num_heads, len(values), values.shape[1]
        width = attention.internal_dim // heads
        key = attention.k_proj(offered).unflatten(-1, (heads, width)).transpose(1, 2) * width**-0.5  # (P, H, T, w)
        value = attention.v_proj(values).unflatten(-1, (heads, width)).transpose(1, 2)
        into = attention.q_proj.weight.unflatten(0, (heads, width))  # (H, w, D)
        out_of = attention.out_proj.weight.T.unflatten(0, (heads, width))  # (H, w, D)
        asked = (key @ into).flatten(1, 2)  # (P, H T, D)
        bias = (key @ attention.q_proj.bias.unflatten(0, (heads, width, 1))).flatten(1, 2)  # (P, H T, 1)
        # The weights of each head add up to 1, so its share of the output's bias may go into what they weigh.
        answers = (value @ out_of + attention.out_proj.bias / heads).flatten(1, 2)  # (P, H T, D)
        here = keys + self.position
        if keys.dim() == 2:
            scores = (asked.flatten(0, 1) @ here.T).unflatten(0, (count, -1)) + bias
            keys = keys.expand(count, -1, -1)
        else:
            scores = torch.baddbmm(bias, asked, here.transpose(1, 2))
        weights = scores.unflatten(1, (heads, num_tokens)).softmax(2).flatten(1, 2)  # (P, H T, S)
        return torch.baddbmm(keys, weights.transpose(1, 2), answers)

    def _masks(self, keys: Tensor, heads: Tensor) -> Tensor:
        """Return the logits (P, M, 4 s, 4 s) of image tokens (P, S, D) and mask embeddings (P, M, D/8)."""
        count, num_masks = heads.shape[:2]
        upscaled = (keys @ self.up[0]).unflatten(-1, self.middle.shape[1:]).add_(self.middle)  # (P, S, 4, D/4)
        upscaled = F.layer_norm(upscaled, upscaled.shape[-1:], self.norm.weight, self.norm.bias, self.norm.eps)
        upscaled = torch.ops.aten.gelu_(upscaled)
        upscaled = (upscaled @ self.up[1]).view(count, *self.fine.shape).add_(self.fine)  # (P, S, 16, D/8)
        upscaled = torch.ops.aten.gelu_(upscaled)
        logits = upscaled.flatten(1, 2) @ heads.transpose(1, 2)  # (P, S 16, M)
        # Rows and columns: token, child, child's child.
        grid = logits.view(count, self.side, self.side, 2, 2, 2, 2, num_masks).permute(0, 7, 1, 3, 5, 2, 4, 6)
        out: Tensor = grid.reshape(count, num_masks, 4 * self.side, 4 * self.side)
        return out


def _rows(image: Tensor) -> Tensor:
    """Return the tokens (B, S, D) of a feature map (B, D, s, s)."""
    return image.flatten(2).transpose(1, 2)


def _mlp(mlp: Any, tokens: Tensor) -> Tensor:
    """Return the stock MLP of two layers, without a second copy of its wide middle."""
    first, second = mlp.layers
    out: Tensor = F.linear(F.linear(tokens, first.weight, first.bias).relu_(), second.weight, second.bias)
    return out


def _tokens(own: list[Tensor], prompts: Tensor) -> Tensor:
    return torch.cat((torch.cat(own)[None].expand(len(prompts), -1, -1), prompts), 1)


def _children(features: Tensor, levels: int) -> Tensor:
    """Return a feature map (C, 2^levels s, 2^levels s) in the order in which tokens are split, (S, 4^levels, C)."""
    channels, side = features.shape[0], features.shape[1] >> levels
    split = features.reshape(channels, side, *[2] * levels, side, *[2] * levels)
    rows, columns = range(2, 2 + levels), range(3 + levels, 3 + 2 * levels)
    pairs = [place for both in zip(rows, columns, strict=True) for place in both]
    return split.permute(1, 2 + levels, *pairs, 0).reshape(side * side, 4**levels, channels)
