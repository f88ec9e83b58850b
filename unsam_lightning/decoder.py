"""The granularity-aware decoder: a granularity token in, a granularity mask out, LoRA between; around stock SAM-2.

The stock mask decoder is used, not forked: its transformer is shared number by number with a copy whose attention
projections carry LoRA, so the stock path stays untouched (bit for bit) and both can run at once from several threads.

Source: UnSAMv2 (arXiv 2511.13714) section 3.4; HQ-SAM's extra output token. Next in the tour: `calibration.py`.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from sam2.modeling.sam2_utils import MLP
from torch import Tensor, nn

from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.errors import UserError
from unsam_lightning.lora import merge_lora, share_with_lora
from unsam_lightning.two_way import PLAIN, Arithmetic, in_pixel_order, logits_of, upscaled


class Embedding(NamedTuple):
    """What the encoder gives for B images, D = width of the decoder, s = image size / 16.

    Args:
        image: (B, D, s, s).
        high_res: (B, D/8, 4s, 4s) and (B, D/4, 2s, 2s), already projected for the decoder.
    """

    image: Tensor
    high_res: tuple[Tensor, Tensor]

    def select(self, index: Tensor) -> Embedding:
        """Return the embedding of images `index` (P,), one for each prompt; a single image is not copied."""
        if len(self.image) == 1:
            count = len(index)
            return Embedding(
                self.image.expand(count, -1, -1, -1),
                (self.high_res[0].expand(count, -1, -1, -1), self.high_res[1].expand(count, -1, -1, -1)),
            )
        return Embedding(self.image[index], (self.high_res[0][index], self.high_res[1][index]))


class Decoded(NamedTuple):
    """What the decoder gives for P prompts; M = 1, or 3 for stock SAM-2's multi-mask output.

    Args:
        masks: Logits (P, M, h, w) at stride 4 of the model's frame; positive is inside.
        iou: Predicted IoU of each mask, (P, M).
        tokens: Mask tokens after the transformer, (P, 1 or 3, D).
        object_score: Logits (P, 1): is there an object at all.
        pixels: Embeddings of the pixels, (P, D/8, h, w); None where not asked for, and from stock SAM-2.
    """

    masks: Tensor
    iou: Tensor
    tokens: Tensor
    object_score: Tensor
    pixels: Tensor | None


class GranularityEncoder(nn.Module):
    """Turns a granularity into a prompt token: Fourier features, an MLP, a type embedding.

    Source: UnSAMv2 section 3.4: features sin(f_k g), cos(f_k g) interleaved, f_k = T^(k / (d / 2)), without 2 pi.
    """

    frequencies: Tensor

    def __init__(self, config: AdapterConfig, token_dim: int) -> None:
        super().__init__()
        count = config.fourier_dim // 2
        exponents = torch.arange(count, dtype=torch.float32) / count
        self.register_buffer("frequencies", config.fourier_temperature**exponents, persistent=False)
        widths = (config.fourier_dim, *config.hidden_dims)
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(config.dropout)]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], token_dim))
        self.type_embedding = nn.Parameter(torch.randn(1, token_dim))

    def forward(self, granularity: Tensor) -> Tensor:
        """Return the prompt tokens (P, D) of granularities (P,)."""
        angles = granularity.float()[:, None] * self.frequencies  # (P, d/2)
        features = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)  # (P, d), interleaved
        token: Tensor = self.mlp(features.to(self.type_embedding.dtype)) + self.type_embedding
        return token


class GranularityDecoder(nn.Module):
    """Everything that trains, and the decoder pass that uses it.

    Args:
        config: Its shape.
        sam_decoder: The stock mask decoder whose transformer is shared. It is not registered here: `forward` gets it.
        pad_token: SAM's embedding of "no point", (1, D); where a warm start begins.

    Raises:
        UserError: A decoder without the encoder's finer features, or no layer with a name that shall carry LoRA.
    """

    def __init__(self, config: AdapterConfig, sam_decoder: Any, pad_token: Tensor) -> None:
        super().__init__()
        if not sam_decoder.use_high_res_features:
            raise UserError(
                expected="a SAM-2 whose decoder sees the encoder's features at strides 4 and 8",
                found="use_high_res_features_in_sam: false in its architecture",
                remedy="set it to true, as all released SAM-2 have it",
            )
        self.config, self.is_merged = config, False
        dim = sam_decoder.transformer_dim
        self.granularity_encoder = GranularityEncoder(config, dim)
        self.token = nn.Parameter(torch.randn(1, dim))
        self.mask_head = MLP(dim, dim, dim // 8, 3) if config.own_mask_head else None
        self.iou_head = MLP(dim, dim, 1, 2) if config.own_iou_head and config.own_mask_head else None
        if config.own_iou_head and not config.own_mask_head:
            self.iou_head = nn.Linear(dim, 1)
        self.transformer = share_with_lora(sam_decoder.transformer, config)
        if config.warm_start:
            self._start_as_sam(sam_decoder, pad_token)

    @torch.no_grad()
    def _start_as_sam(self, sam_decoder: Any, pad_token: Tensor) -> None:
        self.token.copy_(sam_decoder.mask_tokens.weight[:1])
        if self.mask_head is not None:
            self.mask_head.load_state_dict(sam_decoder.output_hypernetworks_mlps[0].state_dict())
        self.granularity_encoder.type_embedding.copy_(pad_token)
        last = self.granularity_encoder.mlp[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(0.1)
        last.bias.zero_()

    def forward(
        self,
        sam_decoder: Any,
        embedding: Embedding,
        index: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        granularity: Tensor,
        with_pixels: bool = False,
        with_score: bool = True,
        arithmetic: Arithmetic = PLAIN,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return the granularity mask of every prompt.

        Args:
            sam_decoder: The stock mask decoder: its tokens, upscaling and heads, all frozen.
            embedding: Of B images.
            index: int64 (P,), which image each prompt belongs to.
            image_pe: Positions of the image's tokens, (1, D, s, s).
            sparse: Prompt tokens, (P, K, D).
            dense: Mask prompts, (P, D, s, s).
            granularity: (P,) in [0.1, 1].
            with_pixels: Give the pixel embeddings too.
            with_score: Give the object score too.
            arithmetic: How the heavy steps are computed; with pixel embeddings only the first of them.

        Returns:
            mask logits (P, 1, 4s, 4s); predicted IoU (P, 1); the mask token after the transformer (P, D); object
            score logits (P, 1) or None; pixel embeddings (P, D/8, 4s, 4s) or None, whose product with the mask head's
            output is the mask.
        """
        prompts = torch.cat((sparse, self.granularity_encoder(granularity)[:, None].to(sparse.dtype)), dim=1)
        own = [sam_decoder.iou_token.weight, sam_decoder.mask_tokens.weight, self.token]
        if sam_decoder.pred_obj_scores:
            own.insert(0, sam_decoder.obj_score_token.weight)
        outputs = torch.cat(own)[None].expand(len(prompts), -1, -1)  # (P, T, D): the official order, ours last
        last = outputs.shape[1] - 1
        tokens = torch.cat((outputs, prompts), dim=1)
        # Of the tokens that are read: our own, the object score's, and SAM's IoU token where we have no such head.
        first, step = 0 if with_score or self.iou_head is None else last, 1 if self.iou_head is None else last
        given = (embedding.image, index, dense, image_pe, tokens, slice(first, last + 1, step))
        queries, keys = arithmetic.two_way(self.transformer, *given)
        token_out = queries[:, -1]  # (P, D)
        head = self.mask_head if self.mask_head is not None else sam_decoder.output_hypernetworks_mlps[0]
        row = head(token_out)[:, None]  # (P, 1, D/8)
        pixels = None
        if with_pixels:
            embeddings = upscaled(sam_decoder, keys, embedding.high_res, index)  # (P, N, 16, D/8)
            masks, pixels = logits_of(embeddings, row), in_pixel_order(embeddings)
        else:
            masks = arithmetic.mask_logits(sam_decoder, keys, embedding.high_res, index, row)
        if self.iou_head is not None:
            iou = self.iou_head(token_out).sigmoid()
        else:
            iou_token = 1 if sam_decoder.pred_obj_scores else 0
            iou = sam_decoder.iou_prediction_head(queries[:, iou_token])[:, :1]
        return masks, iou, token_out, _object_score(sam_decoder, queries) if with_score else None, pixels

    def merge_lora(self) -> None:
        """Fold every LoRA update into its layer, for inference: no cost at run time, no training or export any more."""
        merge_lora(self.transformer)
        self.is_merged = True


def stock_answers(
    sam_decoder: Any,
    embedding: Embedding,
    index: Tensor,
    image_pe: Tensor,
    sparse: Tensor,
    dense: Tensor,
    arithmetic: Arithmetic = PLAIN,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return stock SAM-2's single mask and its three, to rounding: the arguments are those of `GranularityDecoder`.

    Returns:
        mask logits (P, 4, 4s, 4s), predicted IoUs (P, 4), object score logits (P, 1).
    """
    outputs = [sam_decoder.iou_token.weight, sam_decoder.mask_tokens.weight]
    if sam_decoder.pred_obj_scores:
        outputs.insert(0, sam_decoder.obj_score_token.weight)
    place = len(outputs) - 2  # of the IoU token, after which the mask tokens come
    tokens = torch.cat((torch.cat(outputs)[None].expand(len(sparse), -1, -1), sparse), dim=1)
    given = (embedding.image, index, dense, image_pe, tokens, slice(tokens.shape[1] - sparse.shape[1]))
    queries, keys = arithmetic.two_way(sam_decoder.transformer, *given)
    heads = sam_decoder.output_hypernetworks_mlps
    rows = torch.stack([head(queries[:, place + 1 + m]) for m, head in enumerate(heads)], dim=1)  # (P, 4, D/8)
    masks = arithmetic.mask_logits(sam_decoder, keys, embedding.high_res, index, rows)
    iou: Tensor = sam_decoder.iou_prediction_head(queries[:, place])
    return masks, iou, _object_score(sam_decoder, queries)


def _object_score(sam_decoder: Any, queries: Tensor) -> Tensor:
    """Return the logits (P, 1) of prompt tokens after the transformer; SAM-2 says 10 where it has no such head."""
    if not sam_decoder.pred_obj_scores:
        return torch.full_like(queries[:, 0, :1], 10.0)
    score: Tensor = sam_decoder.pred_obj_score_head(queries[:, 0])
    return score
