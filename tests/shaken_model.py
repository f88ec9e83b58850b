"""A nano model of which every number of the adapter matters, for tests."""

import torch

from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.backbone import load_base
from unsam_lightning.decoder import Embedding
from unsam_lightning.model import UnSAM


def shaken(adapter: str) -> tuple[UnSAM, Embedding]:
    """Return the model with an adapter of that preset, and the embedding of a random image."""
    model = UnSAM(load_base("nano"), AdapterConfig.preset(adapter)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    image = torch.randint(0, 256, (1, 3, 256, 256), generator=generator, dtype=torch.uint8)
    return model, model.encode(image)
