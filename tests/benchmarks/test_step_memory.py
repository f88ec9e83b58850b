"""The counted memory of a step: by hand for plain operations, in order for a real one."""

from __future__ import annotations

import pytest
import torch

from unsam_lightning.asking import Prompting
from unsam_lightning.benchmarks.step_memory import ALL_TERMS, StorageCounter, main, noise_batch, peak_of_step
from unsam_lightning.model import UnSAM


def test_storages_count_once_from_birth_to_end():
    there = torch.zeros(10)  # 40 bytes
    with StorageCounter([there]) as counter:
        made = there + 1
        view = made[2:]
        assert (counter.held, counter.peak) == (80, 80)
        twice = view * 2  # 8 numbers
        assert (counter.held, counter.peak) == (112, 112)
        del made
        assert counter.held == 112  # the view still needs it
        del view, twice
        assert (counter.held, counter.peak) == (40, 112)


def test_what_backward_needs_is_held():
    x = torch.ones(100, requires_grad=True)
    with StorageCounter([x]) as counter:
        y = x.exp().exp()  # both results are kept for the backward pass
        assert counter.held == 1200
        del y
        assert counter.held == 400


def test_passes_bound_the_memory_of_a_step(capsys: pytest.CaptureFixture[str]):
    model = UnSAM.from_pretrained("nano").train()
    batch = noise_batch(1, 12, model.image_size)
    peaks = [
        peak_of_step(model, batch, ALL_TERMS, Prompting(num_corrections=1, prompts_per_pass=number))
        for number in (None, 2)
    ]
    assert peaks[1] < 0.6 * peaks[0]
    main(["--model", "nano", "--images", "1", "--masks", "2", "--corrections", "0", "--prompts_per_pass", "0"])
    assert "prompts_per_pass all: 0." in capsys.readouterr().out
