import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unsam_lightning.batch import BITS, pack_masks
from unsam_lightning.losses import frame
from unsam_lightning.losses.frame import _measure_plainly, measure_in_frame

#: Logits of so many rows, pixels to each, masks an image.
SIZES = [(8, 4, 40), (6, 2, 3), (70, 4, 2), (1, 4, 2)]
#: Few enough for Triton's interpreter.
SMALL_SIZES = [(3, 4, 40), (5, 2, 3), (1, 4, 2)]


def case(side: int, ratio: int, num_masks: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return logits of five masks, planes, their images and places, and the masks float (5, S, S)."""
    generator = torch.Generator().manual_seed(side)
    full = torch.rand(2, num_masks, side * ratio, side * ratio, generator=generator) < 0.4
    planes = torch.stack([torch.from_numpy(pack_masks(each.numpy())) for each in full])
    image = torch.tensor([1, 0, 1, 0, 1])
    mask = torch.tensor([0, 31, 32, 39, 7]) % num_masks
    logits = torch.randn(5, side, side, generator=generator) * 6
    logits[0, 0, 0] = 200.0  # far beyond where exp overflows
    logits[1] = 0.0
    return logits, planes, image, mask, full[image, mask].float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_kernel_of_the_cpu_gives_what_torch_does(size: tuple[int, int, int], num_threads: int) -> None:
    logits, planes, image, mask, target = case(*size)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        sums, maps = measure_in_frame(logits, planes, image, mask, 0.3)
    finally:
        torch.set_num_threads(before)
    expected_sums, expected_maps = _measure_plainly(logits, target, 0.3)
    torch.testing.assert_close(sums, expected_sums, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(maps, expected_maps, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton on this system")
def test_without_a_compiler_a_gpu_does_it_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC")

    monkeypatch.setattr(frame.importlib, "import_module", refuse)
    frame._triton_can_launch.cache_clear()
    logits, planes, image, mask, target = case(*SIZES[0])
    try:
        with pytest.warns(UserWarning, match="Failed to find C compiler.*; install gcc and Python's headers"):
            found = frame._on_gpu(logits, planes, image, mask, 0.3)
    finally:
        frame._triton_can_launch.cache_clear()
    for value, expected in zip(found, _measure_plainly(logits, target, 0.3), strict=True):
        torch.testing.assert_close(value, expected)


def test_gradients_are_those_of_the_sums() -> None:
    logits, planes, image, mask, target = case(*SIZES[0])
    _, maps = measure_in_frame(logits, planes, image, mask, 0.3)
    wanted = logits.double().requires_grad_()
    large = torch.nn.functional.interpolate(wanted[:, None], target.shape[1:], mode="bilinear")[:, 0]
    prob, target = large.sigmoid(), target.double()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(large, target, reduction="none")
    focal = (0.7 - 0.4 * target) * (prob - target) ** 2 * entropy
    for number, total in enumerate((focal, prob, prob * target)):
        (gradient,) = torch.autograd.grad(total.sum(), wanted, retain_graph=True)
        torch.testing.assert_close(maps[:, number], gradient.float(), rtol=1e-4, atol=1e-5)


def test_is_an_operation_that_torch_can_trace_and_count() -> None:
    logits, planes, image, mask, _ = case(*SIZES[1])
    torch.library.opcheck(measure_in_frame, (logits, planes, image, mask, 0.25))
    torch.library.opcheck(measure_in_frame, (logits[:0], planes, image[:0], mask[:0], 0.25))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernel_of_the_gpu_gives_what_torch_does_on_a_gpu(dtype: torch.dtype) -> None:
    for size in SIZES:
        *given, target = (each.cuda() for each in case(*size))
        logits, planes, image, mask = given
        logits = logits.to(dtype).mT.contiguous().mT  # the same numbers, not contiguous
        sums, maps = measure_in_frame(logits, planes, image, mask, 0.3)
        expected_sums, expected_maps = _measure_plainly(logits, target, 0.3)
        torch.testing.assert_close(sums, expected_sums, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(maps, expected_maps, rtol=1e-4, atol=1e-4)
    torch.library.opcheck(measure_in_frame, (logits, planes, image, mask, 0.3))
    torch.library.opcheck(measure_in_frame, (logits[:0], planes, image[:0], mask[:0], 0.3))


def test_kernel_of_the_gpu_gives_what_torch_does_in_tritons_interpreter() -> None:
    pytest.importorskip("triton", reason="torch brings Triton on Linux alone")
    # Triton decides when a kernel is defined whether to interpret it, hence another process.
    run = subprocess.run(
        [sys.executable, __file__], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("equal") == len(SMALL_SIZES)


@pytest.mark.parametrize("capability", [75, 80, 90])
def test_kernel_of_the_gpu_compiles_to_machine_code(
    capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    triton = pytest.importorskip("triton", reason="torch brings Triton on Linux alone")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from unsam_lightning.losses.frame_gpu import _measure

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    signature = dict.fromkeys(_measure.arg_names, "*fp32") | {"logits": "*bf16", "planes": "*i32"}
    signature |= {"plane": "*i64", "bit": "*i64", "h": "i32", "w": "i32"}
    constants = {"alpha": 0.25, "ratio": 4, "block": 128}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=_measure, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


def _compare_in_interpreter() -> None:
    from unsam_lightning.losses.frame_gpu import measure_on_gpu

    for size in SMALL_SIZES:
        logits, planes, image, mask, target = case(*size)
        plane = image * planes.shape[1] + mask // BITS
        sums, maps = measure_on_gpu(logits, planes.flatten(0, 1).contiguous(), plane, mask % BITS, 0.3, block=4)
        expected_sums, expected_maps = _measure_plainly(logits, target, 0.3)
        torch.testing.assert_close(sums, expected_sums, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(maps, expected_maps, rtol=1e-5, atol=1e-5)
        print("equal")


if __name__ == "__main__":
    _compare_in_interpreter()
