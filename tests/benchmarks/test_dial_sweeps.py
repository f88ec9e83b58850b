import numpy as np
import torch

from unsam_lightning.benchmarks.dial_sweeps import DialSweeps, moved_click
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.model import UnSAM


def test_moved_click_by_hand() -> None:
    mask = np.zeros((9, 20), dtype=np.int8)
    mask[2:7, 2:18] = 1  # five rows: depth 3 in the middle row, so depth 2 is deep enough: rows 3 to 5, columns 3 to 16
    assert moved_click(mask, (4, 4)) == (3, 16)  # rows 3 and 5 are equally far: the first
    assert moved_click(mask, (4, 12)) == (3, 3)
    mask[:] = 0
    mask[0, 0] = 1
    assert moved_click(mask, (0, 0)) == (0, 0)  # nowhere else to go
    assert moved_click(np.ones((5, 5), dtype=np.int8), (2, 2)) == (1, 1)  # the frame is a boundary: depths 1, 2 and 3


def test_levels_are_the_masks_at_the_click() -> None:
    model = UnSAM.from_pretrained("nano")
    masks = np.zeros((3, 16, 16), dtype=np.int8)
    masks[0, 2:14, 2:14], masks[1, 4:8, 4:8], masks[2, 10:14, 10:14] = 1, 1, 1
    sample = EvalSample(key="k", image=np.zeros((16, 16, 3), np.uint8), masks=masks, ids=["whole", "part", "other"])
    embedding = model.encode(torch.from_numpy(sample.image).permute(2, 0, 1)[None])
    sweeps = DialSweeps(model, embedding, sample, memory_gb=1.0)
    answers = np.repeat(masks[:1] == 1, 10, axis=0)
    answers[:5] = masks[1] == 1
    sweeps(1, answers, (5, 5, True))
    found = sweeps.dial.compute()
    # Two levels at the click, both met by some g; asked for at their own g, 0.1 and 1, as well.
    assert (found["coverage90"], found["recall90"], found["num_sweeps"]) == (1.0, 1.0, 1.0)
    assert found["coverage90_fine"] == found["coverage90_coarse"] == 1.0
    assert 0 <= found["stability"] <= 1
    # Where only the part is judged, the whole is a level all the same.
    few = EvalSample(key="k", image=sample.image, masks=masks[1:2], ids=["part"], drawn_from=masks)
    sweeps = DialSweeps(model, embedding, few, memory_gb=1.0)
    sweeps(0, answers, (5, 5, True))
    assert sweeps.dial.compute()["coverage90_coarse"] == found["coverage90_coarse"]
    assert sweeps.dial.compute()["object_calibration_floor"] == found["object_calibration_floor"]
