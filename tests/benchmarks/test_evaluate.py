import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from unsam_lightning.benchmarks.evaluate import EvaluationConfig, evaluate_sample
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.tables import tabulate
from unsam_lightning.errors import UserError
from unsam_lightning.model import UnSAM

CONFIG = EvaluationConfig(fixed=(0.5,), max_clicks=2, points_per_side=2, prompts_per_pass=16)


@pytest.fixture(scope="module")
def model() -> UnSAM:
    return UnSAM.from_pretrained("nano")


@pytest.fixture
def sample() -> EvalSample:
    masks = np.zeros((2, 40, 50), dtype=np.int8)
    masks[0, 5:30, 5:30], masks[1, 20:35, 30:45] = 1, 1
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return EvalSample(key="key", image=image, masks=masks, ids=["a", "b"])


def test_image_is_encoded_once_and_everything_is_measured(
    model: UnSAM, sample: EvalSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    forward = model.sam.forward_image
    monkeypatch.setattr(model.sam, "forward_image", lambda images: encoded.append(len(images)) or forward(images))
    result = evaluate_sample(model, sample, CONFIG, dataset="set", index=4)
    assert encoded == [1]
    assert (result.dataset, result.index, result.key, result.num_masks) == ("set", 4, "key", 2)
    assert len(result.sessions) == 2 * 12
    assert set(result.recall) == {"base", "tuned", "tuned g = 0.5"}
    assert all(0 <= recall["AR@1000"] <= 1 for recall in result.recall.values())
    rows = tabulate([result], fixed=CONFIG.fixed, max_clicks=CONFIG.max_clicks, target=CONFIG.target)
    assert all(row.num_masks == 2 for row in rows)
    # Plain values: it travels between ranks.
    assert all(type(value) in (int, float) for one in result.sessions for value in one.ious)


def test_untrained_warm_adapter_and_its_base_are_judged_alike(model: UnSAM, sample: EvalSample) -> None:
    """The same image gives the same result twice, and the result follows the model."""
    first, again = (evaluate_sample(model, sample, CONFIG) for _ in range(2))
    assert first == again
    other = UnSAM.from_pretrained("nano", seed=1)
    with torch.no_grad():
        other.decoder.token.add_(3.0)
    changed = evaluate_sample(other, sample, CONFIG)

    def sessions(result: Any, method: str) -> list[list[float]]:
        return [s.ious for s in result.sessions if s.method == method]

    assert sessions(changed, "base_single") == sessions(first, "base_single")
    assert changed.recall["base"] == first.recall["base"]
    assert sessions(changed, "tuned") != sessions(first, "tuned")


def test_parts_are_left_out_on_demand(model: UnSAM, sample: EvalSample) -> None:
    assert evaluate_sample(model, sample, dataclasses.replace(CONFIG, points_per_side=0)).recall == {}
    empty = EvalSample(key="e", image=sample.image, masks=sample.masks[:0], ids=[])
    result = evaluate_sample(model, empty, CONFIG)
    assert (result.num_masks, result.sessions, result.recall) == (0, [], {})


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"fixed": (0.5, 0.25)}, "fixed granularity 0.25"),
        ({"target": 0.85}, "target 0.85, below 0.9"),
        ({"max_clicks": 0}, "max_clicks 0"),
        ({"prompts_per_pass": 0, "points_per_side": -1}, "prompts_per_pass 0; points_per_side -1"),
    ],
)
def test_config_that_no_table_could_be_made_of_is_refused(options: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError, match=found):
        EvaluationConfig(**options)
