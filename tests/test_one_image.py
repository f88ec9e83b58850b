"""The rearranged decoder against the plain one."""

import pytest
import torch
from shaken_model import shaken

from unsam_lightning.calibration import Calibration
from unsam_lightning.one_image import prompt_decoder


@pytest.mark.parametrize("adapter", ["default", "official", "compact"])
@pytest.mark.parametrize("num_clicks", [1, 4])
def test_answers_are_those_of_decode(adapter: str, num_clicks: int) -> None:
    model, embedding = shaken(adapter)
    decode = prompt_decoder(model, embedding)
    generator = torch.Generator().manual_seed(2)
    points = 256 * torch.rand(5, num_clicks, 2, generator=generator)
    labels = (torch.rand(5, num_clicks, generator=generator) < 0.7).float()
    granularity = torch.linspace(0.1, 1.0, 5)
    previous = 5 * torch.randn(5, 1, 64, 64, generator=generator)
    with torch.no_grad():
        for wanted, multimask in ((granularity, False), (None, False), (None, True)):
            for masks in (None, previous):
                expected = model.decode(embedding, points, labels, wanted, masks=masks, multimask=multimask)
                found = decode(points, labels, wanted, masks, multimask)
                scale = float(expected.masks.abs().max())
                torch.testing.assert_close(found.masks, expected.masks, atol=2e-5 * scale, rtol=0)
                torch.testing.assert_close(found.iou, expected.iou, atol=1e-5, rtol=0)


def test_a_calibrated_dial_is_asked_as_decode_asks_it() -> None:
    model, embedding = shaken("default")
    points, labels, granularity = torch.full((1, 1, 2), 100.0), torch.ones(1, 1), torch.tensor([0.4])
    plain = prompt_decoder(model, embedding)(points, labels, granularity, None, False).masks
    model.calibration = Calibration(asked=(0.1, 0.4, 1.0), given=(0.1, 0.8, 1.0), num_clicks=1)
    with torch.no_grad():
        expected = model.decode(embedding, points, labels, granularity).masks
    found = prompt_decoder(model, embedding)(points, labels, granularity, None, False).masks
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - plain).abs().max() > 0.1


def test_weights_of_now_are_used() -> None:
    model, embedding = shaken("default")
    points, labels, granularity = torch.full((1, 1, 2), 100.0), torch.ones(1, 1), torch.tensor([0.4])
    before = prompt_decoder(model, embedding)(points, labels, granularity, None, False).masks
    with torch.no_grad():
        model.decoder.token.add_(1.0)
    after = prompt_decoder(model, embedding)(points, labels, granularity, None, False).masks
    assert (before - after).abs().max() > 0.1


def test_autocast_takes_the_plain_way() -> None:
    model, embedding = shaken("default")
    points, labels, granularity = torch.full((1, 1, 2), 100.0), torch.ones(1, 1), torch.tensor([0.4])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = prompt_decoder(model, embedding)(points, labels, granularity, None, False).masks
        assert torch.equal(found, model.decode(embedding, points, labels, granularity).masks)
