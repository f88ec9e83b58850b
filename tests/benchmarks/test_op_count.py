"""Counters against counts by hand."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unsam_lightning.benchmarks.op_count import CastsOfGpu, ForetoldValues, OpCounter, stored_bytes


def test_a_linear_layer_by_hand():
    layer, x = nn.Linear(3, 5), torch.randn(4, 3)
    with OpCounter() as counter:
        y = layer(x).relu()
    # addmm reads 5 + 12 + 15 numbers and writes 20; relu reads and writes 20.
    assert counter.kernels == 2
    assert counter.moved_bytes == 4 * (5 + 12 + 15 + 20 + 20 + 20)
    assert counter.flops == 2 * 4 * 3 * 5
    with OpCounter() as back:
        y.sum().backward()
    # The weight's gradient is (5, 4) @ (4, 3); the input needs none.
    assert back.flops == 2 * 5 * 4 * 3


def test_views_and_reservations_are_free():
    x = torch.randn(4, 6)
    with OpCounter() as counter:
        x.view(6, 4).t()[1:].unsqueeze(0).expand(3, -1, -1).detach()
        torch.empty(1000)
        torch.empty_like(x)
    assert (counter.kernels, counter.moved_bytes) == (0, 0)


def test_in_place_reads_and_writes_and_a_broadcast_input_counts_once():
    x, row = torch.randn(4, 6), torch.randn(6)
    with OpCounter() as counter:
        x.add_(row.expand(4, 6))
    assert (counter.kernels, counter.moved_bytes) == (1, 4 * (24 + 6 + 24))
    assert stored_bytes(torch.zeros(2, 1).expand(2, 7)) == 8
    assert stored_bytes(torch.zeros(0, 5)) == 0


def test_attention_counts_as_two_products():
    q, k = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 5, 8)
    q.requires_grad_()
    with OpCounter() as counter:
        found = nn.functional.scaled_dot_product_attention(q, k, k)
    assert counter.kernels == 1
    assert counter.flops == 2 * (2 * 2 * 3 * 5 * 8)
    with OpCounter() as back:
        found.sum().backward()
    assert back.flops == 5 * (2 * 2 * 3 * 5 * 8)  # the scores again, and two products for each of the two


def test_fake_tensors_count_as_real_ones():
    def step(layer: nn.Module, x: torch.Tensor) -> None:
        layer(x).softmax(-1).sum().backward()

    def layers() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.LayerNorm(4))

    layer, x = layers(), torch.randn(3, 6)
    with OpCounter() as real:
        step(layer, x)
    with FakeTensorMode():
        layer, x = layers(), torch.randn(3, 6)
        with OpCounter() as fake:
            step(layer, x)
    assert real.kernels == fake.kernels > 10
    assert (real.moved_bytes, real.flops) == (fake.moved_bytes, fake.flops)


def test_every_mask_takes_part_where_there_are_no_numbers():
    with FakeTensorMode(), ForetoldValues():
        valid, x = torch.empty(2, 3, dtype=torch.bool), torch.zeros(2, 3, 7)
        assert valid.nonzero().shape == (6, 2)
        assert x[valid].shape == (6, 7)
        x[valid] = torch.ones(6, 7)
        assert bool(valid.any())
        assert 0.1 <= float(x.min()) <= 1.0


def test_a_gpus_exceptions_from_bfloat16():
    x = torch.randn(3, 4)
    layer, norm = nn.Linear(4, 4), nn.LayerNorm(4)
    with torch.autocast("cpu", torch.bfloat16):
        plain = norm(layer(x))
        with CastsOfGpu():
            assert layer(x).dtype == torch.bfloat16
            assert norm(layer(x)).dtype == torch.float32
            assert layer(x).softmax(-1).dtype == torch.float32
    assert plain.dtype == torch.bfloat16  # what makes the exceptions needed
    with CastsOfGpu():
        assert x.bfloat16().softmax(-1).dtype == torch.bfloat16  # no autocast, no cast
