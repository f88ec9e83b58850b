"""The dial's map by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unsam_lightning.calibration import Calibration, fit_calibration
from unsam_lightning.checkpoint import adapter_state
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP
from unsam_lightning.model import UnSAM
from unsam_lightning.segment.stock import sam_at

STEPS = np.linspace(0.1, 1.0, 19)


def test_map_undoes_a_bent_dial() -> None:
    def bent(g: np.ndarray) -> np.ndarray:
        return 0.1 + 0.9 * ((g - 0.1) / 0.9) ** 0.7  # rises too fast

    calibration = fit_calibration(STEPS.tolist(), np.stack([bent(STEPS), bent(STEPS)]))
    assert calibration is not None
    assert calibration.num_clicks == 2
    given = calibration.apply(torch.tensor(SWEEP)).numpy()
    assert bent(given) == pytest.approx(SWEEP, abs=0.03)
    assert (given[0], given[-1]) == pytest.approx((0.1, 1.0))


def test_noise_is_made_to_rise_first() -> None:
    curve = 0.1 + 0.9 * (STEPS - 0.1) / 0.9
    curve[5:8] = curve[5:8][::-1]  # falls for a stretch
    calibration = fit_calibration(STEPS.tolist(), curve[None])
    assert calibration is not None
    assert (np.diff(calibration.given) >= 0).all()
    assert np.abs(np.asarray(calibration.given) - SWEEP).max() < 0.11


def test_between_and_beyond_the_knots() -> None:
    calibration = Calibration(asked=(0.1, 0.5, 1.0), given=(0.1, 0.3, 1.0), num_clicks=1)
    asked = torch.tensor([[0.0, 0.1, 0.3], [0.5, 0.75, 1.0], [1.2, 0.2, 0.4]])
    expected = torch.tensor([[0.1, 0.1, 0.2], [0.3, 0.65, 1.0], [1.0, 0.15, 0.25]])
    torch.testing.assert_close(calibration.apply(asked), expected)


def test_its_text_is_one_short_line() -> None:
    given = (0.1, 0.1, 0.1, 0.1, 0.162807, 0.183297, 0.399031, 0.997665, 1.0, 1.0)
    text = str(Calibration(asked=SWEEP, given=given, num_clicks=8))
    assert text == "calibrated on 8 clicks: 0.1>0.1 0.3>0.1 0.5>0.16 0.7>0.4 0.9>1"


@pytest.mark.parametrize("given", [[0.1, float("nan")], [0.1, 1.5], [0.1], "ab"])
def test_what_is_no_map_is_refused(given: object) -> None:
    with pytest.raises(UserError, match="the calibration of a dial"):
        Calibration.from_dict({"asked": [0.1, 1.0], "given": given, "num_clicks": 3})


def test_nothing_to_invert() -> None:
    assert fit_calibration(STEPS.tolist(), np.zeros((0, 19))) is None
    assert fit_calibration(STEPS.tolist(), np.full((3, 19), np.nan)) is None
    assert fit_calibration(STEPS.tolist(), np.ones((3, 19))) is None  # the dial stands still


@torch.no_grad()
def test_model_applies_it_and_keeps_it_in_its_checkpoint(tmp_path: object) -> None:
    model = UnSAM.from_pretrained("nano", seed=3)
    model.decoder.granularity_encoder.mlp[-1].weight.mul_(30)
    embedding = model.encode(torch.randint(0, 256, (1, 3, 256, 256), generator=torch.Generator().manual_seed(0)).byte())
    click, label = torch.tensor([[[90.0, 120.0]]]), torch.ones(1, 1)

    def masks(granularity: float) -> torch.Tensor:
        return model.decode(embedding, click, label, granularity).masks

    plain = masks(0.3)
    model.calibration = Calibration(asked=(0.1, 0.5, 1.0), given=(0.1, 0.3, 1.0), num_clicks=4)
    assert torch.equal(masks(0.5), plain)
    assert not torch.equal(masks(0.3), plain)
    assert sam_at(model, 0.5).sam_mask_decoder.granularity == pytest.approx(0.3)
    path = f"{tmp_path}/a.ckpt"
    torch.save(adapter_state(model), path)
    loaded = UnSAM.from_pretrained(path)
    assert loaded.calibration == model.calibration
    loaded.calibration = None
    assert torch.equal(loaded.decode(embedding, click, label, 0.3).masks, plain)
