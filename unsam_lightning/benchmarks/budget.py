"""How many prompts a number of gigabytes allows in one pass of the decoder.

Next in the tour: `benchmarks/full_size.py`.
"""

from __future__ import annotations

from unsam_lightning.errors import UserError
from unsam_lightning.model import UnSAM

#: More prompts in a pass gain nothing: 64 fill a large GPU, and a CPU's caches hold fewer (with nano, 32 took 1.3 ms a
#: prompt and 64 took 1.5).
_MAX_PROMPTS = {"cuda": 64, "cpu": 32}


def prompt_bytes(model: UnSAM, height: int, width: int) -> int:
    """Return the bytes that one prompt needs in a pass of the decoder without gradients, an estimate from above.

    Counted, in float32: the image tokens at stride 16, D wide, of which the transformer holds eight copies at a time;
    the upscaled features at stride 4, D / 8 wide, four copies; three masks in the image's own size, as float and bool.
    Masks are enlarged one by one, so that the last is far above what is held.

    Args:
        model: Whose decoder.
        height: Of the image, in pixels.
        width: Likewise.
    """
    dim = int(model.sam.sam_mask_decoder.transformer_dim)
    tokens = 8 * (model.image_size // 16) ** 2 * dim
    upscaled = 4 * model.mask_size**2 * dim // 8
    return 4 * (tokens + upscaled) + 5 * 3 * height * width


def prompts_within(memory_gb: float, model: UnSAM, height: int, width: int, most: int | None = None) -> int:
    """Return how many prompts to decode at a time, at least 1, so that a pass stays within `memory_gb`.

    At most `most`, by default 64 on a GPU and 32 on a CPU.

    Raises:
        UserError: Not even one prompt does.
    """
    needed = prompt_bytes(model, height, width)
    count = int(memory_gb * 1e9 / needed)
    if count < 1:
        raise UserError(
            expected=f"at least {needed / 1e9:.2g} GB for one prompt on an image of {width} x {height} pixels",
            found=f"{memory_gb:.2g} GB",
            remedy="raise --model.evaluation.memory_gb",
        )
    return min(count, most or _MAX_PROMPTS.get(model.device.type, 64))
