"""A training step and a data loader as costly as the official ones, written from their published description.

They are there to be beaten, and share no code with the official repository. The step copies the image's features for
every object, decodes all of SAM-2's masks beside the one asked for, attends by products and a softmax of their own,
runs LoRA beside its layer with dropout, embeds the granularity frequency by frequency, and has clicks and losses at the
image's resolution. Left out, in its favour: the memory encoder, whose result it does not use on images, object
pointers, a gradient through the mask prompt. The loader decodes all masks of an image to draw some and warps these at
full resolution, one by one. Source: UnSAMv2 (arXiv 2511.13714) section 4.1 and its training configuration; SAM-2
(arXiv 2408.00714), appendix on training. Next in the tour: `benchmarks/train_account.py`.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from sam2.modeling.sam.transformer import Attention
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, dropout, interpolate, linear
from torchvision.transforms import ColorJitter, InterpolationMode, RandomGrayscale
from torchvision.transforms import functional as tv

from unsam_lightning.decoder import Decoded, Embedding
from unsam_lightning.lora import LoRALinear
from unsam_lightning.losses.pairs import pair_terms
from unsam_lightning.model import PIXEL_MEAN, PIXEL_STD, UnSAM
from unsam_lightning.objective import LossWeights
from unsam_lightning.pairs import decode_masks


class PlainAttention(nn.Module):
    """A stock attention layer by two products and a softmax, its LoRA updates computed beside its projections."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.projections = nn.ModuleList([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out_proj, self.num_heads = attention.out_proj, attention.num_heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return what queries (P, L, D) find in keys and values (P, M, D)."""
        projected = [_project(layer, x) for layer, x in zip(self.projections, (q, k, v), strict=True)]
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in projected)  # (P, H, L or M, C / H)
        shares = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, dim=-1)
        return _project(self.out_proj, (shares @ v).transpose(1, 2).flatten(2))


def _project(layer: nn.Module, x: Tensor) -> Tensor:
    if not isinstance(layer, LoRALinear):
        result: Tensor = layer(x)
        return result
    update = linear(linear(dropout(x, layer.dropout, layer.training), layer.lora_a), layer.lora_b)
    return linear(x, layer.base.weight, layer.base.bias) + layer.scale * update


class ReferenceModel(nn.Module):
    """The decoder pass of a model with the "official" adapter, as the official code computes it.

    Args:
        model: Its parameters are shared, so that both can be compared.
    """

    def __init__(self, model: UnSAM) -> None:
        super().__init__()
        self.model = model
        transformer = model.decoder.transformer
        self.transformer = copy.deepcopy(transformer, memo={id(each): each for each in transformer.parameters()})
        for name, module in list(self.transformer.named_modules()):
            if isinstance(module, Attention):
                parent, _, child = name.rpartition(".")
                setattr(self.transformer.get_submodule(parent), child, PlainAttention(module))

    def decode(
        self, embedding: Embedding, clicks: Tensor, labels: Tensor, granularity: Tensor, previous: Tensor | None
    ) -> Decoded:
        """Return the masks of P prompts, as `UnSAM.decode` does.

        Args:
            embedding: One for each prompt.
            clicks: (P, K, 2), pixels of the frame.
            labels: (P, K).
            granularity: (P,) in [0.1, 1].
            previous: Logits (P, 1, h, w) as mask prompt.
        """
        sam: Any = self.model.sam
        stock, adapter = sam.sam_mask_decoder, self.model.decoder
        assert adapter.mask_head is not None
        sparse, dense = sam.sam_prompt_encoder(points=(clicks, labels), boxes=None, masks=previous)
        sparse = torch.cat((sparse, self._granularity_token(granularity)[:, None]), 1)
        outputs = [stock.obj_score_token.weight] if stock.pred_obj_scores else []
        outputs += [stock.iou_token.weight, stock.mask_tokens.weight, adapter.token]
        tokens = torch.cat((torch.cat(outputs)[None].expand(len(sparse), -1, -1), sparse), 1)
        image = embedding.image + dense
        image_pe = torch.repeat_interleave(sam.sam_prompt_encoder.get_dense_pe(), len(sparse), dim=0)
        queries, keys = self.transformer(image, image_pe, tokens)
        up1, norm, act1, up2, act2 = stock.output_upscaling
        stride8 = act1(norm(up1(keys.transpose(1, 2).view(image.shape)) + embedding.high_res[1]))
        pixels = act2(up2(stride8) + embedding.high_res[0])  # (P, D / 8, h, w)
        first = len(outputs) - 3  # position of the IoU token
        heads = [*stock.output_hypernetworks_mlps, adapter.mask_head]
        hyper = torch.stack([head(queries[:, first + 1 + n]) for n, head in enumerate(heads)], 1)  # (P, 5, D / 8)
        masks = (hyper @ pixels.flatten(2)).unflatten(2, pixels.shape[2:])
        iou = stock.iou_prediction_head(queries[:, first])[:, :1]
        token = queries[:, first + len(heads)]
        score = stock.pred_obj_score_head(queries[:, 0]) if stock.pred_obj_scores else torch.full_like(iou, 10.0)
        return Decoded(masks[:, -1:], iou, token[:, None], score, pixels)

    def _granularity_token(self, granularity: Tensor) -> Tensor:
        encoder = self.model.decoder.granularity_encoder
        waves = []
        for frequency in encoder.frequencies:
            waves += [torch.sin(frequency * granularity), torch.cos(frequency * granularity)]
        token: Tensor = encoder.mlp(torch.stack(waves, 1)) + encoder.type_embedding
        return token


def copied(embedding: Embedding, index: Tensor) -> Embedding:
    """Return the embedding of images `index` (P,), a copy for each prompt."""
    return Embedding(embedding.image[index], (embedding.high_res[0][index], embedding.high_res[1][index]))


def reference_objective(
    reference: ReferenceModel,
    images: Tensor,
    masks: Tensor,
    image_index: Tensor,
    granularity: Tensor,
    num_corrections: int,
) -> Tensor:
    """Return the pair loss of a step: P masks, each asked for by a click and corrected by more.

    Args:
        reference: In training mode, for dropout.
        images: float (B, 3, S, S) in [0, 1], S the model's frame.
        masks: bool (P, S, S).
        image_index: int64 (P,).
        granularity: (P,) in [0.1, 1].
        num_corrections: Clicks after the first.

    Differs: the losses of the clicks are averaged and not summed, as ours are.
    """
    embedding = copied(reference.model.encode(images), image_index)
    weights, losses = LossWeights(), []
    clicks, labels = noise_clicks(masks, torch.zeros_like(masks))
    previous = None
    for number in range(1 + num_corrections):
        answer = reference.decode(embedding, clicks, labels, granularity, previous)
        logits = interpolate(answer.masks.float(), masks.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        there = binary_cross_entropy_with_logits(answer.object_score.float(), torch.ones_like(answer.object_score))
        losses.append(weights.pairs(pair_terms(logits, masks, answer.iou[:, 0])) + there)
        if number < num_corrections:
            more = noise_clicks(masks, logits.detach() > 0)
            clicks, labels = torch.cat((clicks, more[0]), 1), torch.cat((labels, more[1]), 1)
            previous = answer.masks.detach()
    return torch.stack(losses).mean()


def noise_clicks(masks: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Return a click on a wrong pixel of each prediction: the wrong pixel that noise is highest on.

    Args:
        masks: bool (P, H, W), the truth.
        predicted: bool (P, H, W); with nothing predicted the click lies anywhere in the mask.

    Returns:
        float32 (P, 1, 2), x and y; int64 (P, 1), 1 where the mask was missed. A random pixel outside with label 0
        where nothing is wrong.
    """
    missed, extra = masks & ~predicted, predicted & ~masks
    perfect = (masks == predicted).flatten(1).all(1)[:, None, None]
    noise = torch.rand(*masks.shape, 2, device=masks.device)
    noise[..., 0] *= extra | (perfect & ~masks)
    noise[..., 1] *= missed
    highest = noise.flatten(1).argmax(1)
    pixel, width = highest // 2, masks.shape[2]
    return torch.stack((pixel % width, pixel // width), -1).float()[:, None], (highest % 2)[:, None]


def reference_sample(
    jpeg: bytes, label: Mapping[str, Any], drawn: Sequence[int], side: int, degrees: float, shear: float
) -> tuple[Tensor, Tensor]:
    """Return one augmented training image, float (3, side, side), and its drawn masks, bool (N, side, side).

    Args:
        jpeg: The image file.
        label: What a label shard says about it, see `pairs.py`.
        drawn: Which masks take part.
        side: Of the model's frame.
        degrees: Rotation about the centre.
        shear: Shear angle along x, in degrees.
    """
    height, width = label["height"], label["width"]
    counts = [entry["rle"] for entry in label["masks"]]
    there = []
    for each in counts:  # every mask is decoded to see that it is not empty
        whole = torch.from_numpy(decode_masks([each], height, width)[0]).long()
        there.append(bool(whole.sum() > 0))
    masks = [torch.from_numpy(decode_masks([counts[n]], height, width)).byte() for n in drawn if there[n]]
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image = tv.affine(image, degrees, [0, 0], 1.0, [shear, 0.0], InterpolationMode.BILINEAR)
    masks = [tv.affine(mask, degrees, [0, 0], 1.0, [shear, 0.0]) for mask in masks]  # nearest
    image = tv.resize(image, [side, side])
    masks = [tv.resize(mask[None], [side, side])[0] for mask in masks]
    for change in (ColorJitter(0.1, 0.03, 0.03), RandomGrayscale(0.05), ColorJitter(0.1, 0.05, 0.05)):
        image = change(image)
    pixels: Tensor = tv.normalize(tv.to_tensor(image), list(PIXEL_MEAN), list(PIXEL_STD))
    return pixels, torch.cat(masks).bool()
