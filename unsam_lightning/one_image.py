"""Many prompts on one image, without gradients: the masks of `UnSAM.decode`, to rounding, with LoRA merged only once.

    decode = prompt_decoder(model, model.encode(image_tensor(image, model.device)))
    masks, iou = decode(clicks, labels, granularity)

Stock SAM-2 too runs by `two_way.py` here, equal to rounding; `UnSAM.decode` runs the stock modules, equal bit for bit.
Next in the tour: `automatic.py`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unsam_lightning.bfloat16_pass import BFLOAT16
from unsam_lightning.decoder import Embedding, stock_answers
from unsam_lightning.model import UnSAM
from unsam_lightning.two_way import PLAIN


class Answer(NamedTuple):
    """What P prompts give; M = 1, or 3 for stock SAM-2's multi-mask output.

    Args:
        masks: Logits (P, M, h, w) at stride 4 of the model's frame; positive is inside.
        iou: Predicted IoU of each mask, (P, M).
    """

    masks: Tensor
    iou: Tensor


Precision: TypeAlias = Literal["float32", "bfloat16"]

#: points (P, K, 2), labels (P, K), granularity (P,) or None, mask prompts (P, 1, h, w) or None, multimask.
PromptDecoder: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, bool], Answer]


def image_tensor(image: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return an RGB image, uint8 (H, W, 3), as the batch of one, uint8 (1, 3, H, W), that `UnSAM.encode` takes."""
    # PIL's arrays cannot be written to, and torch warns of those: they are copied.
    return torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)[None].to(device)


def prompt_decoder(model: UnSAM, embedding: Embedding, precision: Precision = "float32") -> PromptDecoder:
    """Return a function that decodes prompts on one image, for inference.

    Args:
        model: In eval mode. On a GPU, under autocast or after `compile`, its own `decode` does the work.
        embedding: Of one image.
        precision: "bfloat16" is `bfloat16_pass.py`, on a CPU only: half the time where the processor has instructions
            for it; masks then agree with those of float32 to an IoU of about 0.98 (nano). Elsewhere autocast decides.
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
        return _OneImage(model, embedding, precision)
    if precision != "float32":
        warnings.warn(f"precision {precision} is for a CPU without autocast or compilation; not used", stacklevel=2)

    def decode(
        points: Tensor, labels: Tensor, granularity: Tensor | None, masks: Tensor | None, multimask: bool
    ) -> Answer:
        decoded = model.decode(embedding, points, labels, granularity, masks=masks, multimask=multimask)
        return Answer(decoded.masks, decoded.iou)

    return decode


def passes_at_once(decode: PromptDecoder) -> int:
    """Return how many calls of `decode` run at a time in `several_at_once`: in bfloat16 one for each thread of torch.

    In float32 each call has all threads, which is faster there.
    """
    return torch.get_num_threads() if isinstance(decode, _OneImage) and decode.dtype == torch.bfloat16 else 1


@contextmanager
def in_threads() -> Iterator[Callable[..., Any]]:
    """Yield a `map` by as many threads as torch has, for work on the CPU that lets go of the interpreter."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool.map


@contextmanager
def several_at_once(decode: PromptDecoder) -> Iterator[Callable[..., Any]]:
    """Yield a `map` that calls functions in parallel threads where `decode` is faster so; see `passes_at_once`."""
    threads = passes_at_once(decode)
    if threads == 1:
        yield map
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)


class _OneImage:
    """The decoders with LoRA merged once, called without gradients."""

    def __init__(self, model: UnSAM, embedding: Embedding, precision: Precision) -> None:
        self.model, self.embedding = model, embedding
        self.stock, self.adapter = model.sam.sam_mask_decoder, copy.deepcopy(model.decoder)
        self.adapter.merge_lora()
        self.dtype, self.arithmetic = torch.float32, PLAIN
        if precision == "bfloat16":
            self.dtype, self.arithmetic = torch.bfloat16, BFLOAT16
            self.stock = copy.deepcopy(self.stock).to(self.dtype)
            self.adapter.to(self.dtype)
            # The sine of a high frequency needs more than eight bits of the angle.
            self.adapter.granularity_encoder = copy.deepcopy(model.decoder.granularity_encoder)
            fine, middle = (features.to(self.dtype) for features in embedding.high_res)
            self.embedding = Embedding(embedding.image.to(self.dtype), (fine, middle))

    @torch.no_grad()
    def __call__(
        self, points: Tensor, labels: Tensor, granularity: Tensor | None, masks: Tensor | None, multimask: bool
    ) -> Answer:
        encoder = self.model.sam.sam_prompt_encoder
        sparse, dense = encoder(points=(points, labels), boxes=None, masks=masks)
        dense = dense if masks is not None else dense[:1]  # without mask prompts it is one, expanded
        sparse, dense, positions = (x.to(self.dtype) for x in (sparse, dense, encoder.get_dense_pe()))
        index = torch.zeros(len(sparse), dtype=torch.long, device=sparse.device)
        given = (self.stock, self.embedding, index, positions, sparse, dense)
        if granularity is None:
            logits, iou, _ = stock_answers(*given, arithmetic=self.arithmetic)
            wanted = slice(1, None) if multimask else slice(1)
            logits, iou = logits[:, wanted], iou[:, wanted]
        else:
            asked = self.model.calibrated(granularity)
            logits, iou, *_ = self.adapter(*given, asked, with_score=False, arithmetic=self.arithmetic)
        return Answer(logits.float(), iou.float())
