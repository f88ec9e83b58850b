"""The LightningModule with an option that no other run of the tests takes."""

from __future__ import annotations

import functools

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.asking import Prompting
from unsam_lightning.benchmarks.step_memory import noise_batch
from unsam_lightning.module import UnSAMModule
from unsam_lightning.views import TwoViews


def test_a_compiled_model_trains_as_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    # The whole of torch.compile but for the code generator.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    graphs = torch._dynamo.utils.counters["stats"]
    pair = TwoViews(256, None, with_second=False)(noise_batch(1, 2, 256))
    losses = []
    for is_compiled in (False, True):
        before = graphs["unique_graphs"]
        # The second loss comes of the first gradients; dropout would draw other numbers.
        adapter, prompting = AdapterConfig(dropout=0.0), Prompting(num_corrections=0)
        module = UnSAMModule("nano", adapter=adapter, prompting=prompting, lr=1e-2, compile=is_compiled)
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(max_steps=2, accelerator="cpu", enable_model_summary=False, **options)
        trainer.fit(module, DataLoader([pair, pair], batch_size=None))
        parts = (module.model.sam.image_encoder, module.model.sam.sam_mask_decoder, module.model.decoder)
        assert all((part._compiled_call_impl is not None) == is_compiled for part in parts)
        assert (graphs["unique_graphs"] >= before + 2) == is_compiled  # of the encoder and of the adapter's decoder
        losses.append(float(trainer.callback_metrics["train/loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
